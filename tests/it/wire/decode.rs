//! What a server sends, read strictly: anything the specification does not allow is an error.

use super::property::{PropertyKind, PropertyRow};
use super::{Ack, Packet, Properties, PropertyValue, Publish, Version, packet_type as t};

/// What a server's packet broke.
pub type DecodeError = String;

/// Takes one whole packet from the front of `bytes`; `None` where it is not yet complete.
pub fn decode_server_packet(version: Version, bytes: &[u8]) -> Result<Option<(Packet, usize)>, DecodeError> {
    let Some(&first_byte) = bytes.first() else { return Ok(None) };
    let mut length = 0usize;
    let mut header = 1;
    loop {
        let Some(&byte) = bytes.get(header) else { return Ok(None) };
        length |= usize::from(byte & 0x7F) << (7 * (header - 1));
        header += 1;
        if byte & 0x80 == 0 {
            if byte == 0 && header > 2 {
                return Err(format!("remaining length not minimal [MQTT-1.5.5-1]: {:02x?}", &bytes[..header]));
            }
            break;
        }
        if header > 4 {
            return Err(format!("remaining length of more than four bytes: {:02x?}", &bytes[..header]));
        }
    }
    let Some(body) = bytes.get(header..header + length) else { return Ok(None) };
    let packet = decode_body(version, first_byte, body)
        .map_err(|error| format!("{error}; in {:02x?}", &bytes[..(header + length).min(200)]))?;
    Ok(Some((packet, header + length)))
}

fn decode_body(version: Version, first_byte: u8, body: &[u8]) -> Result<Packet, DecodeError> {
    let packet_type = first_byte >> 4;
    let flags = first_byte & 0x0F;
    let expected_flags = match packet_type {
        t::PUBLISH => flags,
        t::PUBREL => 2,
        _ => 0,
    };
    if flags != expected_flags {
        return Err(format!("fixed header flags {flags:#06b} [MQTT-2.1.3-1]"));
    }
    let mut reader = Reader { version, packet_type, rest: body };
    let packet = match packet_type {
        t::CONNACK => decode_connack(&mut reader)?,
        t::PUBLISH => decode_publish(&mut reader, flags)?,
        t::PUBACK | t::PUBREC | t::PUBREL | t::PUBCOMP => decode_ack(&mut reader)?,
        t::SUBACK | t::UNSUBACK => decode_suback(&mut reader)?,
        t::PINGRESP => Packet::PingResp,
        t::DISCONNECT if version.is_v5() => {
            let (code, properties) = reader.code_and_properties(DISCONNECT_CODES)?;
            Packet::Disconnect { code, properties }
        }
        t::AUTH if version.is_v5() => {
            let (code, properties) = reader.code_and_properties(&[0x00, 0x18])?;
            Packet::Auth { code, properties }
        }
        other => return Err(format!("a server does not send packet type {other} in {}", version.name())),
    };
    match reader.rest {
        [] => Ok(packet),
        left => Err(format!("{} bytes too many", left.len())),
    }
}

const CONNACK_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97, 0x99, 0x9A, 0x9B,
    0x9C, 0x9D, 0x9F,
];
const PUBACK_CODES: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL_CODES: &[u8] = &[0x00, 0x92];
const SUBACK_CODES: &[u8] = &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const UNSUBACK_CODES: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
/// Those a server may send: 0x04 (disconnect with will) is a client's.
const DISCONNECT_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98,
    0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

fn decode_connack(reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    let flags = reader.u8()?;
    if flags > 1 {
        return Err(format!("reserved connect acknowledge flags {flags:#010b} [MQTT-3.2.2-1]"));
    }
    let code = reader.u8()?;
    let legal = if reader.version.is_v5() { CONNACK_CODES } else { &[0, 1, 2, 3, 4, 5] };
    if !legal.contains(&code) {
        return Err(format!("CONNACK code {code:#04x} [MQTT-3.2.2-8]"));
    }
    if flags == 1 && code != 0 {
        return Err("session present in a refusal [MQTT-3.2.2-6]".to_owned());
    }
    Ok(Packet::ConnAck { session_present: flags == 1, code, properties: reader.properties()? })
}

fn decode_publish(reader: &mut Reader<'_>, flags: u8) -> Result<Packet, DecodeError> {
    let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
    if qos == 3 {
        return Err("QoS 3 [MQTT-3.3.1-4]".to_owned());
    }
    if dup && qos == 0 {
        return Err("DUP with QoS 0 [MQTT-3.3.1-2]".to_owned());
    }
    let topic = reader.string()?;
    if topic.contains(['+', '#']) {
        return Err(format!("wildcard in the topic name {topic:?} [MQTT-3.3.2-2]"));
    }
    let id = if qos > 0 { Some(reader.packet_id()?) } else { None };
    let properties = reader.properties()?;
    let has_alias = properties.iter().any(|(id, _)| *id == 0x23);
    if topic.is_empty() && !has_alias {
        return Err("empty topic name without an alias [MQTT-4.7.3-1]".to_owned());
    }
    let payload = std::mem::take(&mut reader.rest).to_vec();
    Ok(Packet::Publish(Publish { dup, qos, retain, topic, id, properties, payload }))
}

fn decode_ack(reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    let packet_type = reader.packet_type;
    let id = reader.packet_id()?;
    let legal = if matches!(packet_type, t::PUBACK | t::PUBREC) { PUBACK_CODES } else { PUBREL_CODES };
    let (code, properties) =
        if reader.version.is_v5() { reader.code_and_properties(legal)? } else { (0, Properties::new()) };
    Ok(Packet::Ack(Ack { packet_type, id, code, properties }))
}

fn decode_suback(reader: &mut Reader<'_>) -> Result<Packet, DecodeError> {
    let is_suback = reader.packet_type == t::SUBACK;
    let id = reader.packet_id()?;
    let properties = reader.properties()?;
    let codes =
        if is_suback || reader.version.is_v5() { std::mem::take(&mut reader.rest).to_vec() } else { Vec::new() };
    let legal = match (is_suback, reader.version.is_v5()) {
        (true, true) => SUBACK_CODES,
        (true, false) => &[0, 1, 2, 0x80],
        (false, true) => UNSUBACK_CODES,
        (false, false) => &[],
    };
    if let Some(code) = codes.iter().find(|code| !legal.contains(code)) {
        return Err(format!("code {code:#04x} [MQTT-3.9.3-2, 3.11.3-2]"));
    }
    Ok(if is_suback { Packet::SubAck { id, properties, codes } } else { Packet::UnsubAck { id, properties, codes } })
}

struct Reader<'a> {
    version: Version,
    packet_type: u8,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], DecodeError> {
        if self.rest.len() < count {
            return Err(format!("{count} bytes wanted, {} left", self.rest.len()));
        }
        let (taken, rest) = self.rest.split_at(count);
        self.rest = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.take(1)?[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        let bytes = self.take(4)?;
        Ok(u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn packet_id(&mut self) -> Result<u16, DecodeError> {
        match self.u16()? {
            0 => Err("packet id 0 [MQTT-2.2.1-4]".to_owned()),
            id => Ok(id),
        }
    }

    fn variable(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for index in 0..4 {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << (7 * index);
            if byte & 0x80 == 0 {
                return if byte == 0 && index > 0 {
                    Err("variable byte integer not minimal [MQTT-1.5.5-1]".to_owned())
                } else {
                    Ok(value)
                };
            }
        }
        Err("variable byte integer of more than four bytes".to_owned())
    }

    fn binary(&mut self) -> Result<Vec<u8>, DecodeError> {
        let length = self.u16()?;
        Ok(self.take(usize::from(length))?.to_vec())
    }

    fn string(&mut self) -> Result<String, DecodeError> {
        let text = String::from_utf8(self.binary()?).map_err(|error| format!("{error} [MQTT-1.5.4-1]"))?;
        if text.contains('\0') {
            return Err(format!("U+0000 in {text:?} [MQTT-1.5.4-2]"));
        }
        Ok(text)
    }

    /// A code and properties that may both be left out, or the properties alone.
    fn code_and_properties(&mut self, legal: &[u8]) -> Result<(u8, Properties), DecodeError> {
        if self.rest.is_empty() {
            return Ok((0, Properties::new()));
        }
        let code = self.u8()?;
        if !legal.contains(&code) {
            return Err(format!("code {code:#04x} in packet type {}", self.packet_type));
        }
        let properties = if self.rest.is_empty() { Properties::new() } else { self.properties()? };
        Ok((code, properties))
    }

    fn properties(&mut self) -> Result<Properties, DecodeError> {
        if !self.version.is_v5() {
            return Ok(Properties::new());
        }
        let length = self.variable()? as usize;
        let block = self.take(length)?;
        let mut inner = Reader { version: self.version, packet_type: self.packet_type, rest: block };
        let mut properties = Properties::new();
        while !inner.rest.is_empty() {
            let id = inner.u8()?;
            let row = PropertyRow::by_id(id).ok_or_else(|| format!("unknown property {id:#04x}"))?;
            if !row.from_server.contains(&self.packet_type) {
                return Err(format!("property {} in packet type {}", row.name, self.packet_type));
            }
            if !row.repeats && properties.iter().any(|(other, _)| *other == id) {
                return Err(format!("property {} twice", row.name));
            }
            let value = inner.property_value(row)?;
            properties.push((id, value));
        }
        Ok(properties)
    }

    fn property_value(&mut self, row: &PropertyRow) -> Result<PropertyValue, DecodeError> {
        let number = match row.kind {
            PropertyKind::Byte => u32::from(self.u8()?),
            PropertyKind::TwoByte => u32::from(self.u16()?),
            PropertyKind::FourByte => self.u32()?,
            PropertyKind::Variable => self.variable()?,
            PropertyKind::String => return Ok(PropertyValue::String(self.string()?)),
            PropertyKind::Binary => return Ok(PropertyValue::Binary(self.binary()?)),
            PropertyKind::StringPair => return Ok(PropertyValue::Pair(self.string()?, self.string()?)),
        };
        if !(row.range.0..=row.range.1).contains(&number) {
            return Err(format!("property {} is {number}", row.name));
        }
        Ok(PropertyValue::Number(number))
    }
}
