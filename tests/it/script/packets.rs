//! Packets as scripts write them: to send, and to compare with what came.

use serde_json::Value;

use super::bytes;
use super::fields::Fields;
use super::transport::Names;
use crate::wire::*;

/// Payloads and binary values: text, `{bytes: notation}`, or `{text: x, times: N}`.
pub fn binary(value: &Value, version: Version, names: &Names) -> Result<Vec<u8>, String> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::String(text) => Ok(text.as_bytes().to_vec()),
        Value::Number(number) => Ok(number.to_string().into_bytes()),
        other => {
            let mut fields = Fields::new("binary value", other.clone())?;
            let bytes = match fields.optional::<String>("bytes")? {
                Some(notation) => bytes::evaluate(&notation, version, names)?,
                None => fields.required::<String>("text")?.repeat(fields.required("times")?).into_bytes(),
            };
            fields.finish()?;
            Ok(bytes)
        }
    }
}

/// The properties of a map of names, in its order. Lists repeat a property; `user_property` is a list of pairs.
pub fn properties(value: Option<Value>, version: Version, names: &Names) -> Result<Properties, String> {
    let Some(value) = value else { return Ok(Properties::new()) };
    let map = value.as_object().ok_or_else(|| format!("properties: a map is wanted, not {value}"))?;
    let mut properties = Properties::new();
    for (name, value) in map {
        let row = PropertyRow::by_name(name).ok_or_else(|| format!("no property is called {name:?}"))?;
        let values = match value {
            Value::Array(values) => values.clone(),
            one => vec![one.clone()],
        };
        for value in values {
            let value = property_value(row, &value, version, names).map_err(|error| format!("{name}: {error}"))?;
            properties.push((row.id, value));
        }
    }
    Ok(properties)
}

fn property_value(row: &PropertyRow, value: &Value, version: Version, names: &Names) -> Result<PropertyValue, String> {
    match row.kind {
        PropertyKind::String => Ok(PropertyValue::String(text(value, version, names)?)),
        PropertyKind::Binary => Ok(PropertyValue::Binary(binary(value, version, names)?)),
        PropertyKind::StringPair => {
            let pair = value.as_object().and_then(|map| map.iter().next()).ok_or("a pair is written {name: value}")?;
            Ok(PropertyValue::Pair(pair.0.clone(), text(pair.1, version, names)?))
        }
        _ => {
            let number = value.as_u64().ok_or_else(|| format!("{value} is no number"))?;
            u32::try_from(number).map(PropertyValue::Number).map_err(|error| error.to_string())
        }
    }
}

/// Text, or one of the notations of [`binary`].
pub fn text(value: &Value, version: Version, names: &Names) -> Result<String, String> {
    String::from_utf8(binary(value, version, names)?).map_err(|error| error.to_string())
}

/// Builds a packet to send.
pub fn to_send(kind: &str, value: Value, version: Version, names: &Names) -> Result<Packet, String> {
    let value = if value.is_null() { Value::Object(serde_json::Map::new()) } else { value };
    let mut fields = Fields::new(kind, value)?;
    let properties = properties(fields.optional("properties")?, version, names)?;
    let packet = match kind {
        "publish" => return publish(fields, properties, version, names).map(Packet::Publish),
        "puback" | "pubrec" | "pubrel" | "pubcomp" => Packet::Ack(Ack {
            packet_type: ack_type(kind),
            id: fields.required("id")?,
            code: fields.optional("code")?.unwrap_or(0),
            properties,
        }),
        "subscribe" => {
            Packet::Subscribe { id: fields.required("id")?, properties, filters: filters(&mut fields, names)? }
        }
        "unsubscribe" => {
            let filters: Vec<String> = fields.required("filters")?;
            let filters = filters.iter().map(|filter| names.filter(filter)).collect();
            Packet::Unsubscribe { id: fields.required("id")?, properties, filters }
        }
        "pingreq" => Packet::PingReq,
        "disconnect" => Packet::Disconnect { code: fields.optional("code")?.unwrap_or(0), properties },
        "auth" => Packet::Auth { code: fields.optional("code")?.unwrap_or(0), properties },
        other => return Err(format!("{other:?} is no packet that a client sends")),
    };
    fields.finish()?;
    Ok(packet)
}

fn ack_type(kind: &str) -> u8 {
    match kind {
        "puback" => packet_type::PUBACK,
        "pubrec" => packet_type::PUBREC,
        "pubrel" => packet_type::PUBREL,
        _ => packet_type::PUBCOMP,
    }
}

fn publish(mut fields: Fields, properties: Properties, version: Version, names: &Names) -> Result<Publish, String> {
    let qos = fields.optional("qos")?.unwrap_or(0);
    let topic: String = fields.optional("topic")?.unwrap_or_default();
    let publish = Publish {
        dup: fields.optional("dup")?.unwrap_or(false),
        qos,
        retain: fields.optional("retain")?.unwrap_or(false),
        topic: if topic.is_empty() { topic } else { names.topic(&topic) },
        id: fields.optional("id")?,
        properties,
        payload: binary(&fields.optional("payload")?.unwrap_or(Value::Null), version, names)?,
    };
    fields.finish()?;
    Ok(publish)
}

/// `filters: [{filter: a/b, qos: 1, no_local: true, …}]`; a plain string is a filter at QoS 0.
pub fn filters(fields: &mut Fields, names: &Names) -> Result<Vec<(String, u8)>, String> {
    let values: Vec<Value> = fields.required("filters")?;
    values.into_iter().map(|value| filter(value, names)).collect()
}

fn filter(value: Value, names: &Names) -> Result<(String, u8), String> {
    if let Value::String(filter) = &value {
        return Ok((names.filter(filter), 0));
    }
    let mut fields = Fields::new("filter", value)?;
    let filter: String = fields.required("filter")?;
    let flag = |set: Option<bool>, bit: u8| if set.unwrap_or(false) { 1 << bit } else { 0 };
    let options = fields.optional::<u8>("qos")?.unwrap_or(0)
        | flag(fields.optional("no_local")?, 2)
        | flag(fields.optional("retain_as_published")?, 3)
        | fields.optional::<u8>("retain_handling")?.unwrap_or(0) << 4;
    fields.finish()?;
    Ok((names.filter(&filter), options))
}

/// The will and the rest of a CONNECT; its client id is as the script writes it.
pub fn connect(fields: &mut Fields, client: &str, version: Version, names: &Names) -> Result<Connect, String> {
    let will = match fields.optional::<Value>("will")? {
        None => None,
        Some(value) => {
            let mut will = Fields::new("will", value)?;
            let topic: String = will.required("topic")?;
            let parsed = Will {
                topic: names.topic(&topic),
                payload: binary(&will.optional("payload")?.unwrap_or(Value::Null), version, names)?,
                qos: will.optional("qos")?.unwrap_or(0),
                retain: will.optional("retain")?.unwrap_or(false),
                properties: properties(will.optional("properties")?, version, names)?,
            };
            will.finish()?;
            Some(parsed)
        }
    };
    Ok(Connect {
        version,
        clean: fields.optional("clean")?.unwrap_or(true),
        keep_alive_s: fields.optional("keep_alive")?.unwrap_or(0),
        client_id: fields.optional("id")?.unwrap_or_else(|| client.to_owned()),
        username: fields.optional("username")?,
        password: fields.optional::<String>("password")?.map(String::into_bytes),
        will,
        properties: properties(fields.optional("properties")?, version, names)?,
    })
}

/// The packet type a script means by a name, for what a server sends.
pub fn server_packet_type(kind: &str) -> Result<u8, String> {
    Ok(match kind {
        "connack" => packet_type::CONNACK,
        "publish" => packet_type::PUBLISH,
        "puback" | "pubrec" | "pubrel" | "pubcomp" => ack_type(kind),
        "suback" => packet_type::SUBACK,
        "unsuback" => packet_type::UNSUBACK,
        "pingresp" => packet_type::PINGRESP,
        "disconnect" => packet_type::DISCONNECT,
        "auth" => packet_type::AUTH,
        other => return Err(format!("{other:?} is no packet that a server sends")),
    })
}

/// The packet type of a packet.
pub fn type_of(packet: &Packet) -> u8 {
    match packet {
        Packet::Connect(_) => packet_type::CONNECT,
        Packet::ConnAck { .. } => packet_type::CONNACK,
        Packet::Publish(_) => packet_type::PUBLISH,
        Packet::Ack(ack) => ack.packet_type,
        Packet::Subscribe { .. } => packet_type::SUBSCRIBE,
        Packet::SubAck { .. } => packet_type::SUBACK,
        Packet::Unsubscribe { .. } => packet_type::UNSUBSCRIBE,
        Packet::UnsubAck { .. } => packet_type::UNSUBACK,
        Packet::PingReq => packet_type::PINGREQ,
        Packet::PingResp => packet_type::PINGRESP,
        Packet::Disconnect { .. } => packet_type::DISCONNECT,
        Packet::Auth { .. } => packet_type::AUTH,
    }
}
