//! CONNECT and CONNACK. Chapters 3.1 and 3.2.

use super::properties;
use super::reader::Reader;
use crate::rule::{self, Broken, Rule};
use crate::{
    ConnAck, ConnAckProperties, Connect, ConnectProperties, DecodeError, ProtocolVersion, PublishProperties, QoS, Will,
    reason,
};

const RESERVED: u8 = 1 << 0;
const CLEAN_START: u8 = 1 << 1;
const WILL: u8 = 1 << 2;
const WILL_RETAIN: u8 = 1 << 5;
const PASSWORD: u8 = 1 << 6;
const USER_NAME: u8 = 1 << 7;

/// The protocol name of MQTT 3.1, as a string of the wire.
const NAME_V3_1: &[u8] = b"\x00\x06MQIsdp";

/// Bit 7 of the protocol level: mosquitto's bridges.
const BRIDGE: u8 = 0x80;

/// Decodes a CONNECT's body, in the version it names itself.
pub(super) fn connect(body: &[u8]) -> Result<Connect<'_>, DecodeError> {
    let mut reader = Reader::new(body);
    let (version, bridge) = protocol(&mut reader)?;
    after_protocol(reader, version, bridge).map_err(|broken| broken.connect_error(version))
}

/// The error of a CONNECT whose fixed header is wrong. Where the bytes already tell the version, it is refused in the
/// version's words.
pub(super) fn refuse(broken: Broken, bytes: &[u8]) -> DecodeError {
    match protocol(&mut Reader::new(body(bytes))) {
        Ok((version, _)) => broken.connect_error(version),
        Err(_) => broken.error(ProtocolVersion::V5),
    }
}

/// Whether the bytes that have been read of a CONNECT allow that it is one of MQTT 3.1: of its protocol name and level, the
/// bytes that are there are right.
#[cold]
pub(super) fn may_be_v3_1(bytes: &[u8]) -> bool {
    let read = body(bytes);
    let name_len = read.len().min(NAME_V3_1.len());
    read[..name_len] == NAME_V3_1[..name_len] && read.get(NAME_V3_1.len()).is_none_or(|level| level & !BRIDGE == 3)
}

/// The bytes after the fixed header, as far as they have been read.
fn body(bytes: &[u8]) -> &[u8] {
    let remaining_length = bytes.iter().skip(1).take(4).take_while(|&&byte| byte & 0x80 != 0).count() + 1;
    bytes.get(1 + remaining_length..).unwrap_or_default()
}

/// The protocol name and level.
fn protocol(reader: &mut Reader<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
    // A client of an unknown version is answered in 3.1.1's form: 3.1.1 demands the CONNACK
    // [MQTT-3.1.2-2], 5.0 leaves it open.
    let unknown = |rule: &Rule| rule.connect_error(ProtocolVersion::V3_1_1);
    let malformed = |broken: Broken| broken.error(ProtocolVersion::V5);
    let name = reader.string().map_err(malformed)?;
    if !matches!(name, "MQTT" | "MQIsdp") {
        return Err(unknown(&rule::PROTOCOL_NAME));
    }
    let level = reader.u8().map_err(malformed)?;
    match (name, level & !BRIDGE) {
        ("MQIsdp", 3) => Ok((ProtocolVersion::V3_1, level & BRIDGE != 0)),
        ("MQTT", 4) => Ok((ProtocolVersion::V3_1_1, level & BRIDGE != 0)),
        ("MQTT", 5) if level & BRIDGE == 0 => Ok((ProtocolVersion::V5, false)),
        _ => Err(unknown(&rule::PROTOCOL_LEVEL)),
    }
}

fn after_protocol(mut reader: Reader<'_>, version: ProtocolVersion, bridge: bool) -> Result<Connect<'_>, Broken> {
    let flags = reader.u8()?;
    check_flags(flags, version)?;
    let keep_alive_s = reader.u16()?;
    let properties = match version {
        ProtocolVersion::V5 => properties::connect(&mut reader)?,
        _ => ConnectProperties::default(),
    };
    let client_id = reader.string()?;
    let clean_start = flags & CLEAN_START != 0;
    let assignable = version == ProtocolVersion::V5 || version == ProtocolVersion::V3_1_1 && clean_start;
    if client_id.is_empty() && !assignable {
        return Err(&rule::CLIENT_ID_EMPTY);
    }
    let will = if flags & WILL == 0 { None } else { Some(will(&mut reader, flags, version)?) };
    // MQTT 3.1: "the Remaining Length field takes precedence over the User Name flag", and over the Password flag
    let follows = |reader: &Reader<'_>| version != ProtocolVersion::V3_1 || !reader.is_empty();
    let username = if flags & USER_NAME != 0 && follows(&reader) { Some(reader.string()?) } else { None };
    let password = if flags & PASSWORD != 0 && follows(&reader) { Some(reader.binary()?) } else { None };
    reader.end()?;
    Ok(Connect { version, bridge, clean_start, keep_alive_s, client_id, username, password, will, properties })
}

fn will_qos(flags: u8) -> u8 {
    flags >> 3 & 0b11
}

fn check_flags(flags: u8, version: ProtocolVersion) -> Result<(), Broken> {
    // MQTT 3.1 does not use the reserved bit
    if flags & RESERVED != 0 && version != ProtocolVersion::V3_1 {
        return Err(&rule::CONNECT_RESERVED_FLAG);
    }
    // MQTT 3.1 disregards the will's flags without a will
    if flags & WILL == 0 && version != ProtocolVersion::V3_1 {
        if will_qos(flags) != 0 {
            return Err(&rule::WILL_QOS_WITHOUT_WILL);
        }
        if flags & WILL_RETAIN != 0 {
            return Err(&rule::WILL_RETAIN_WITHOUT_WILL);
        }
    }
    if flags & PASSWORD != 0 && flags & USER_NAME == 0 && version != ProtocolVersion::V5 {
        return Err(&rule::PASSWORD_WITHOUT_USER_NAME);
    }
    Ok(())
}

fn will<'a>(reader: &mut Reader<'a>, flags: u8, version: ProtocolVersion) -> Result<Will<'a>, Broken> {
    let qos = QoS::from_bits(will_qos(flags)).ok_or(&rule::WILL_QOS_3)?;
    let (properties, delay_s) = match version {
        ProtocolVersion::V5 => properties::will(reader)?,
        _ => (PublishProperties::default(), 0),
    };
    let topic = reader.topic_name(&rule::WILL_TOPIC_WILDCARD)?;
    if topic.is_empty() {
        return Err(&rule::WILL_TOPIC_EMPTY);
    }
    let payload = reader.binary()?;
    Ok(Will { qos, retain: flags & WILL_RETAIN != 0, topic, payload, delay_s, properties })
}

pub(super) fn connack(mut reader: Reader<'_>, version: ProtocolVersion) -> Result<ConnAck<'_>, Broken> {
    let flags = reader.u8()?;
    // MQTT 3.1 does not use this byte
    let session_present = match version {
        ProtocolVersion::V3_1 => false,
        _ if flags & !1 != 0 => return Err(&rule::CONNACK_FLAGS),
        _ => flags == 1,
    };
    let code = reader.u8()?;
    if !reason::legal_in_connack(version, code) {
        return Err(&rule::CONNACK_CODE);
    }
    if session_present && code != 0 {
        return Err(&rule::CONNACK_SESSION_PRESENT);
    }
    let properties = match version {
        ProtocolVersion::V5 => properties::connack(&mut reader)?,
        _ => ConnAckProperties::default(),
    };
    reader.end()?;
    Ok(ConnAck { session_present, code, properties })
}
