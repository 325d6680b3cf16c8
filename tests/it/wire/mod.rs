//! A second, independent MQTT codec for the tests: it writes what a client sends, right or wrong, and reads what a server
//! sends, strictly. It shares no code with the broker's, so that the errors of one do not cancel those of the other.

mod decode;
mod encode;
mod observer;
mod property;

pub use decode::decode_server_packet;
pub use encode::{put_binary, put_variable_byte_integer};
pub use observer::Observer;
pub use property::{Properties, PropertyKind, PropertyRow, PropertyValue, number};

/// The versions a script can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V3_1,
    V3_1_1,
    V5,
}

impl Version {
    /// The protocol level byte of CONNECT.
    pub fn level(self) -> u8 {
        match self {
            Version::V3_1 => 3,
            Version::V3_1_1 => 4,
            Version::V5 => 5,
        }
    }

    /// The protocol name of CONNECT.
    pub fn protocol_name(self) -> &'static str {
        if self == Version::V3_1 { "MQIsdp" } else { "MQTT" }
    }

    /// As scripts and file names write it.
    pub fn name(self) -> &'static str {
        match self {
            Version::V3_1 => "3.1",
            Version::V3_1_1 => "3.1.1",
            Version::V5 => "5",
        }
    }

    /// The inverse of [`Version::name`].
    pub fn from_name(name: &str) -> Option<Version> {
        [Version::V3_1, Version::V3_1_1, Version::V5].into_iter().find(|version| version.name() == name)
    }

    /// Whether packets carry properties and reason codes.
    pub fn is_v5(self) -> bool {
        self == Version::V5
    }
}

/// The number in the upper half of a packet's first byte.
pub mod packet_type {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}

/// A control packet. Only what each side sends can be encoded (client) or decoded (server).
#[derive(Debug, Clone, PartialEq)]
pub enum Packet {
    Connect(Connect),
    ConnAck { session_present: bool, code: u8, properties: Properties },
    Publish(Publish),
    Ack(Ack),
    Subscribe { id: u16, properties: Properties, filters: Vec<(String, u8)> },
    SubAck { id: u16, properties: Properties, codes: Vec<u8> },
    Unsubscribe { id: u16, properties: Properties, filters: Vec<String> },
    UnsubAck { id: u16, properties: Properties, codes: Vec<u8> },
    PingReq,
    PingResp,
    Disconnect { code: u8, properties: Properties },
    Auth { code: u8, properties: Properties },
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq)]
pub struct Connect {
    pub version: Version,
    pub clean: bool,
    pub keep_alive_s: u16,
    pub client_id: String,
    pub username: Option<String>,
    pub password: Option<Vec<u8>>,
    pub will: Option<Will>,
    pub properties: Properties,
}

/// The will of a CONNECT.
#[derive(Debug, Clone, PartialEq)]
pub struct Will {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub properties: Properties,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish {
    pub dup: bool,
    pub qos: u8,
    pub retain: bool,
    pub topic: String,
    /// Present above QoS 0.
    pub id: Option<u16>,
    pub properties: Properties,
    pub payload: Vec<u8>,
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP, by its packet type.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack {
    pub packet_type: u8,
    pub id: u16,
    pub code: u8,
    pub properties: Properties,
}
