//! What a client sends, as bytes.

use super::property::{PropertyKind, PropertyRow};
use super::{Ack, Connect, Packet, Properties, PropertyValue, Publish, Version, packet_type as t};

/// Appends `value` in as few bytes as it needs.
pub fn put_variable_byte_integer(into: &mut Vec<u8>, mut value: u32) {
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        into.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

/// Appends two bytes of length, then the bytes. Longer than 65,535 is the test's own mistake.
pub fn put_binary(into: &mut Vec<u8>, bytes: &[u8]) {
    let length = u16::try_from(bytes.len()).expect("a length of two bytes");
    into.extend_from_slice(&length.to_be_bytes());
    into.extend_from_slice(bytes);
}

/// Appends a string with its length.
pub fn put_string(into: &mut Vec<u8>, text: &str) {
    put_binary(into, text.as_bytes());
}

fn put_properties(into: &mut Vec<u8>, version: Version, properties: &Properties) {
    if !version.is_v5() {
        assert!(properties.is_empty(), "{} has no properties: {properties:?}", version.name());
        return;
    }
    let mut block = Vec::new();
    for (id, value) in properties {
        block.push(*id);
        let kind = PropertyRow::by_id(*id).expect("a property of the table").kind;
        match (kind, value) {
            (PropertyKind::Byte, PropertyValue::Number(number)) => block.push(*number as u8),
            (PropertyKind::TwoByte, PropertyValue::Number(number)) => {
                block.extend_from_slice(&(*number as u16).to_be_bytes());
            }
            (PropertyKind::FourByte, PropertyValue::Number(number)) => block.extend_from_slice(&number.to_be_bytes()),
            (PropertyKind::Variable, PropertyValue::Number(number)) => put_variable_byte_integer(&mut block, *number),
            (PropertyKind::String, PropertyValue::String(text)) => put_string(&mut block, text),
            (PropertyKind::Binary, PropertyValue::Binary(bytes)) => put_binary(&mut block, bytes),
            (PropertyKind::StringPair, PropertyValue::Pair(name, value)) => {
                put_string(&mut block, name);
                put_string(&mut block, value);
            }
            (kind, value) => panic!("property {id:#04x} is a {kind:?}, not {value:?}"),
        }
    }
    put_variable_byte_integer(into, block.len() as u32);
    into.extend_from_slice(&block);
}

impl Packet {
    /// The packet's bytes. Panics for the packets only a server sends.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        let first_byte = match self {
            Packet::Connect(connect) => {
                put_connect(&mut body, connect);
                t::CONNECT << 4
            }
            Packet::Publish(publish) => put_publish(&mut body, version, publish),
            Packet::Ack(ack) => put_ack(&mut body, version, ack),
            Packet::Subscribe { id, properties, filters } => {
                body.extend_from_slice(&id.to_be_bytes());
                put_properties(&mut body, version, properties);
                for (filter, options) in filters {
                    put_string(&mut body, filter);
                    body.push(*options);
                }
                t::SUBSCRIBE << 4 | 2
            }
            Packet::Unsubscribe { id, properties, filters } => {
                body.extend_from_slice(&id.to_be_bytes());
                put_properties(&mut body, version, properties);
                for filter in filters {
                    put_string(&mut body, filter);
                }
                t::UNSUBSCRIBE << 4 | 2
            }
            Packet::PingReq => t::PINGREQ << 4,
            Packet::Disconnect { code, properties } => {
                put_code_and_properties(&mut body, version, *code, properties);
                t::DISCONNECT << 4
            }
            Packet::Auth { code, properties } => {
                put_code_and_properties(&mut body, version, *code, properties);
                t::AUTH << 4
            }
            other => panic!("a client does not send {other:?}"),
        };
        let mut bytes = vec![first_byte];
        put_variable_byte_integer(&mut bytes, body.len() as u32);
        bytes.extend_from_slice(&body);
        bytes
    }
}

/// Code and properties may be left out where the code is 0 and there are no properties.
fn put_code_and_properties(body: &mut Vec<u8>, version: Version, code: u8, properties: &Properties) {
    if version.is_v5() && (code != 0 || !properties.is_empty()) {
        body.push(code);
        if !properties.is_empty() {
            put_properties(body, version, properties);
        }
    }
}

fn put_ack(body: &mut Vec<u8>, version: Version, ack: &Ack) -> u8 {
    body.extend_from_slice(&ack.id.to_be_bytes());
    put_code_and_properties(body, version, ack.code, &ack.properties);
    ack.packet_type << 4 | if ack.packet_type == t::PUBREL { 2 } else { 0 }
}

fn put_publish(body: &mut Vec<u8>, version: Version, publish: &Publish) -> u8 {
    put_string(body, &publish.topic);
    if let Some(id) = publish.id {
        body.extend_from_slice(&id.to_be_bytes());
    }
    put_properties(body, version, &publish.properties);
    body.extend_from_slice(&publish.payload);
    t::PUBLISH << 4 | u8::from(publish.dup) << 3 | publish.qos << 1 | u8::from(publish.retain)
}

fn put_connect(body: &mut Vec<u8>, connect: &Connect) {
    put_string(body, connect.version.protocol_name());
    body.push(connect.version.level());
    let mut flags = u8::from(connect.clean) << 1;
    if let Some(will) = &connect.will {
        flags |= 1 << 2 | will.qos << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(connect.password.is_some()) << 6 | u8::from(connect.username.is_some()) << 7;
    body.push(flags);
    body.extend_from_slice(&connect.keep_alive_s.to_be_bytes());
    put_properties(body, connect.version, &connect.properties);
    put_string(body, &connect.client_id);
    if let Some(will) = &connect.will {
        put_properties(body, connect.version, &will.properties);
        put_string(body, &will.topic);
        put_binary(body, &will.payload);
    }
    if let Some(username) = &connect.username {
        put_string(body, username);
    }
    if let Some(password) = &connect.password {
        put_binary(body, password);
    }
}
