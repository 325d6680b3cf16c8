//! The MQTT 5 properties: table 2-4 of the specification as data.

use super::packet_type::*;

/// How a property's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PropertyKind {
    Byte,
    TwoByte,
    FourByte,
    Variable,
    String,
    Binary,
    StringPair,
}

/// A property's value.
#[derive(Debug, Clone, PartialEq)]
pub enum PropertyValue {
    /// Byte, TwoByte, FourByte or Variable, as the property's kind says.
    Number(u32),
    String(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

/// Properties in the order in which they stand: identifier and value.
pub type Properties = Vec<(u8, PropertyValue)>;

/// A row of table 2-4.
pub struct PropertyRow {
    pub id: u8,
    pub name: &'static str,
    pub kind: PropertyKind,
    /// The packet types a server may send it in. CONNECT (wills) and other client packets are not judged here.
    pub from_server: &'static [u8],
    /// Largest and smallest legal number, for the numeric kinds.
    pub range: (u32, u32),
    /// Whether it may stand more than once in a packet from a server.
    pub repeats: bool,
}

const ANY: (u32, u32) = (0, u32::MAX);
const ACKS: &[u8] = &[CONNACK, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH];
const WITH_USER_PROPERTIES: &[u8] =
    &[CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK, DISCONNECT, AUTH];

const fn row(
    id: u8,
    name: &'static str,
    kind: PropertyKind,
    from_server: &'static [u8],
    range: (u32, u32),
) -> PropertyRow {
    PropertyRow { id, name, kind, from_server, range, repeats: id == 0x26 || id == 0x0B }
}

/// Table 2-4.
pub const PROPERTIES: &[PropertyRow] = &[
    row(0x01, "payload_format_indicator", PropertyKind::Byte, &[PUBLISH], (0, 1)),
    row(0x02, "message_expiry_interval", PropertyKind::FourByte, &[PUBLISH], ANY),
    row(0x03, "content_type", PropertyKind::String, &[PUBLISH], ANY),
    row(0x08, "response_topic", PropertyKind::String, &[PUBLISH], ANY),
    row(0x09, "correlation_data", PropertyKind::Binary, &[PUBLISH], ANY),
    row(0x0B, "subscription_identifier", PropertyKind::Variable, &[PUBLISH], (1, 268_435_455)),
    row(0x11, "session_expiry_interval", PropertyKind::FourByte, &[CONNACK], ANY),
    row(0x12, "assigned_client_identifier", PropertyKind::String, &[CONNACK], ANY),
    row(0x13, "server_keep_alive", PropertyKind::TwoByte, &[CONNACK], ANY),
    row(0x15, "authentication_method", PropertyKind::String, &[CONNACK, AUTH], ANY),
    row(0x16, "authentication_data", PropertyKind::Binary, &[CONNACK, AUTH], ANY),
    row(0x17, "request_problem_information", PropertyKind::Byte, &[], (0, 1)),
    row(0x18, "will_delay_interval", PropertyKind::FourByte, &[], ANY),
    row(0x19, "request_response_information", PropertyKind::Byte, &[], (0, 1)),
    row(0x1A, "response_information", PropertyKind::String, &[CONNACK], ANY),
    row(0x1C, "server_reference", PropertyKind::String, &[CONNACK, DISCONNECT], ANY),
    row(0x1F, "reason_string", PropertyKind::String, ACKS, ANY),
    row(0x21, "receive_maximum", PropertyKind::TwoByte, &[CONNACK], (1, 65_535)),
    row(0x22, "topic_alias_maximum", PropertyKind::TwoByte, &[CONNACK], ANY),
    row(0x23, "topic_alias", PropertyKind::TwoByte, &[PUBLISH], (1, 65_535)),
    row(0x24, "maximum_qos", PropertyKind::Byte, &[CONNACK], (0, 1)),
    row(0x25, "retain_available", PropertyKind::Byte, &[CONNACK], (0, 1)),
    row(0x26, "user_property", PropertyKind::StringPair, WITH_USER_PROPERTIES, ANY),
    row(0x27, "maximum_packet_size", PropertyKind::FourByte, &[CONNACK], (1, u32::MAX)),
    row(0x28, "wildcard_subscription_available", PropertyKind::Byte, &[CONNACK], (0, 1)),
    row(0x29, "subscription_identifier_available", PropertyKind::Byte, &[CONNACK], (0, 1)),
    row(0x2A, "shared_subscription_available", PropertyKind::Byte, &[CONNACK], (0, 1)),
];

impl PropertyRow {
    /// The row of an identifier.
    pub fn by_id(id: u8) -> Option<&'static PropertyRow> {
        PROPERTIES.iter().find(|row| row.id == id)
    }

    /// The row of a name as scripts write it.
    pub fn by_name(name: &str) -> Option<&'static PropertyRow> {
        PROPERTIES.iter().find(|row| row.name == name)
    }
}

/// The first number that `properties` hold under `name`.
pub fn number(properties: &Properties, name: &str) -> Option<u32> {
    let id = PropertyRow::by_name(name)?.id;
    properties.iter().find_map(|(found, value)| match value {
        PropertyValue::Number(number) if *found == id => Some(*number),
        _ => None,
    })
}
