//! What is wrong with bytes that are no MQTT, and what cannot be written as MQTT.

use super::{ProtocolVersion, ReasonCode};

/// Why bytes were refused. The connection they came from is to be closed [MQTT-4.13.1-1]; first, 5.0 is told `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DecodeError {
    /// What is wrong.
    pub kind: DecodeErrorKind,
    /// What a 5.0 peer is told, in DISCONNECT (or in CONNACK: see `refusal`).
    pub reason: ReasonCode,
    /// The statement that was broken, such as `MQTT-1.5.4-2`, or a section's number where the rule has no identifier.
    /// Of the 3.1.1 specification where the connection speaks 3.x, else of 5.0.
    pub clause: &'static str,
    /// What is wrong, in words.
    pub what: &'static str,
    /// For a CONNECT: the CONNACK that is to be sent before the close. `None`: close without a word.
    pub refusal: Option<ConnAckRefusal>,
}

/// A CONNACK that refuses a CONNECT which could not be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAckRefusal {
    /// In whose form the CONNACK is to be written.
    pub version: ProtocolVersion,
    /// The return code (3.x) or the reason code (5.0).
    pub code: u8,
}

/// The classes of decode errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DecodeErrorKind {
    /// Cannot be parsed.
    Malformed,
    /// Can be parsed, and holds what the protocol does not allow.
    Protocol,
    /// The packet is longer than the receiver's maximum.
    PacketTooLarge,
    /// The topic alias is zero.
    TopicAlias,
    /// CONNECT's protocol name and level are none of ours.
    UnsupportedVersion,
    /// CONNECT's client identifier is not allowed.
    ClientIdentifier,
}

impl DecodeErrorKind {
    /// The 5.0 reason code of the class.
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::Malformed => ReasonCode::MalformedPacket,
            Self::Protocol => ReasonCode::ProtocolError,
            Self::PacketTooLarge => ReasonCode::PacketTooLarge,
            Self::TopicAlias => ReasonCode::TopicAliasInvalid,
            Self::UnsupportedVersion => ReasonCode::UnsupportedProtocolVersion,
            Self::ClientIdentifier => ReasonCode::ClientIdentifierNotValid,
        }
    }
}

impl std::error::Error for DecodeError {}

impl std::fmt::Display for DecodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {} [{}]", self.reason.name(), self.what, self.clause)
    }
}

/// Why a packet cannot be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncodeError {
    /// A text or binary field has so many bytes, more than 65,535.
    FieldTooLong(usize),
    /// The packet has so many bytes, more than the protocol allows.
    PacketTooLong(usize),
    /// A subscription identifier is 0 or above 268,435,455.
    SubscriptionIdentifier(u32),
    /// The packet or field does not exist in this version of MQTT.
    NotInThisVersion(&'static str),
}

impl std::error::Error for EncodeError {}

impl std::fmt::Display for EncodeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::FieldTooLong(value) => write!(f, "a string or binary field of {value} bytes is longer than 65,535"),
            Self::PacketTooLong(value) => {
                write!(f, "a packet of {value} bytes is longer than MQTT's 268,435,455 bytes after the fixed header")
            }
            Self::SubscriptionIdentifier(value) => {
                write!(f, "a subscription identifier of {value} is not in 1 to 268,435,455")
            }
            Self::NotInThisVersion(value) => write!(f, "{value} is no packet of MQTT 3.x"),
        }
    }
}
