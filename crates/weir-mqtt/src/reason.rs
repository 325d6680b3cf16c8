//! The reason codes of MQTT 5.0, and which packet may carry which.

use super::{ProtocolVersion, Side};

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal, $text:literal;)*) => {
        /// A reason code of MQTT 5.0. Where the specification gives one number two names, the other name is a constant.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum ReasonCode { $(#[doc = $text] #[doc = ""] $(#[$doc])* $name = $value,)* }

        impl ReasonCode {
            /// Every code, in ascending order.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The specification's name of the code, in lower case.
            pub fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }

        impl TryFrom<u8> for ReasonCode {
            type Error = UnknownReasonCode;

            fn try_from(value: u8) -> Result<Self, UnknownReasonCode> {
                match value { $($value => Ok(Self::$name),)* other => Err(UnknownReasonCode(other)) }
            }
        }
    };
}

reason_codes! {
    /// Also: normal disconnection, granted QoS 0.
    Success = 0x00, "success";
    GrantedQoS1 = 0x01, "granted QoS 1";
    GrantedQoS2 = 0x02, "granted QoS 2";
    DisconnectWithWillMessage = 0x04, "disconnect with will message";
    NoMatchingSubscribers = 0x10, "no matching subscribers";
    NoSubscriptionExisted = 0x11, "no subscription existed";
    ContinueAuthentication = 0x18, "continue authentication";
    ReAuthenticate = 0x19, "re-authenticate";
    UnspecifiedError = 0x80, "unspecified error";
    MalformedPacket = 0x81, "malformed packet";
    ProtocolError = 0x82, "protocol error";
    ImplementationSpecificError = 0x83, "implementation specific error";
    UnsupportedProtocolVersion = 0x84, "unsupported protocol version";
    ClientIdentifierNotValid = 0x85, "client identifier not valid";
    BadUserNameOrPassword = 0x86, "bad user name or password";
    NotAuthorized = 0x87, "not authorized";
    ServerUnavailable = 0x88, "server unavailable";
    ServerBusy = 0x89, "server busy";
    Banned = 0x8A, "banned";
    ServerShuttingDown = 0x8B, "server shutting down";
    BadAuthenticationMethod = 0x8C, "bad authentication method";
    KeepAliveTimeout = 0x8D, "keep alive timeout";
    SessionTakenOver = 0x8E, "session taken over";
    TopicFilterInvalid = 0x8F, "topic filter invalid";
    TopicNameInvalid = 0x90, "topic name invalid";
    PacketIdentifierInUse = 0x91, "packet identifier in use";
    PacketIdentifierNotFound = 0x92, "packet identifier not found";
    ReceiveMaximumExceeded = 0x93, "receive maximum exceeded";
    TopicAliasInvalid = 0x94, "topic alias invalid";
    PacketTooLarge = 0x95, "packet too large";
    MessageRateTooHigh = 0x96, "message rate too high";
    QuotaExceeded = 0x97, "quota exceeded";
    AdministrativeAction = 0x98, "administrative action";
    PayloadFormatInvalid = 0x99, "payload format invalid";
    RetainNotSupported = 0x9A, "retain not supported";
    QoSNotSupported = 0x9B, "QoS not supported";
    UseAnotherServer = 0x9C, "use another server";
    ServerMoved = 0x9D, "server moved";
    SharedSubscriptionsNotSupported = 0x9E, "shared subscriptions not supported";
    ConnectionRateExceeded = 0x9F, "connection rate exceeded";
    MaximumConnectTime = 0xA0, "maximum connect time";
    SubscriptionIdentifiersNotSupported = 0xA1, "subscription identifiers not supported";
    WildcardSubscriptionsNotSupported = 0xA2, "wildcard subscriptions not supported";
}

/// A number that names no reason code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnknownReasonCode(pub u8);

impl std::error::Error for UnknownReasonCode {}

impl std::fmt::Display for UnknownReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "0x{:02X} is not a reason code of MQTT 5.0", self.0)
    }
}

impl ReasonCode {
    /// The byte on the wire.
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether the code tells of a failure: 0x80 and above.
    pub const fn is_error(self) -> bool {
        self as u8 >= 0x80
    }
}

impl From<ReasonCode> for u8 {
    fn from(code: ReasonCode) -> u8 {
        code as u8
    }
}

impl std::fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.as_u8())
    }
}

/// The return codes of a 3.x CONNACK.
pub mod return_code {
    /// Connection accepted.
    pub const ACCEPTED: u8 = 0x00;
    /// Refused: unacceptable protocol version.
    pub const UNACCEPTABLE_PROTOCOL_VERSION: u8 = 0x01;
    /// Refused: identifier rejected.
    pub const IDENTIFIER_REJECTED: u8 = 0x02;
    /// Refused: server unavailable.
    pub const SERVER_UNAVAILABLE: u8 = 0x03;
    /// Refused: bad user name or password.
    pub const BAD_USER_NAME_OR_PASSWORD: u8 = 0x04;
    /// Refused: not authorized.
    pub const NOT_AUTHORIZED: u8 = 0x05;
}

/// 5.0: CONNACK [MQTT-3.2.2-8]. 3.x: the return codes 0 to 5.
pub(super) fn legal_in_connack(version: ProtocolVersion, code: u8) -> bool {
    if version == ProtocolVersion::V5 {
        matches!(code, 0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F)
    } else {
        code <= return_code::NOT_AUTHORIZED
    }
}

/// PUBACK and PUBREC [MQTT-3.4.2-1] [MQTT-3.5.2-1].
pub(super) fn legal_in_puback(code: u8) -> bool {
    matches!(code, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
}

/// PUBREL and PUBCOMP [MQTT-3.6.2-1] [MQTT-3.7.2-1].
pub(super) fn legal_in_pubrel(code: u8) -> bool {
    matches!(code, 0x00 | 0x92)
}

/// SUBACK [MQTT-3.9.3-2]; 3.1.1 has 0, 1, 2 and 0x80 [MQTT-3.9.3-2], 3.1 no failure code.
pub(super) fn legal_in_suback(version: ProtocolVersion, code: u8) -> bool {
    match version {
        ProtocolVersion::V3_1 => code <= 0x02,
        ProtocolVersion::V3_1_1 => matches!(code, 0x00..=0x02 | 0x80),
        ProtocolVersion::V5 => {
            matches!(code, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
        }
    }
}

/// UNSUBACK, 5.0 only [MQTT-3.11.3-2].
pub(super) fn legal_in_unsuback(code: u8) -> bool {
    matches!(code, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
}

/// DISCONNECT [MQTT-3.14.2-1], by the column "Sent by" of the specification's table.
pub(super) fn legal_in_disconnect(from: Side, code: u8) -> bool {
    let either = matches!(code, 0x00 | 0x80..=0x83 | 0x90 | 0x93..=0x99);
    match from {
        Side::Client => either || code == 0x04,
        Side::Server => either || matches!(code, 0x87 | 0x89 | 0x8B | 0x8D..=0x8F | 0x9A..=0xA2),
    }
}

/// AUTH [MQTT-3.15.2-1], by the column "Sent by" of the specification's table.
pub(super) fn legal_in_auth(from: Side, code: u8) -> bool {
    match from {
        Side::Client => matches!(code, 0x18 | 0x19),
        Side::Server => matches!(code, 0x00 | 0x18),
    }
}
