//! Every rule the decoder holds bytes to: its class, its clause in either specification, and what to say.
//!
//! The decoder passes rules about by reference, which keeps its results small.

use super::DecodeErrorKind::{self, ClientIdentifier, PacketTooLarge, TopicAlias, UnsupportedVersion};
use super::return_code::{IDENTIFIER_REJECTED, UNACCEPTABLE_PROTOCOL_VERSION};
use super::{ConnAckRefusal, DecodeError, ProtocolVersion};

/// A rule that bytes can break.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) kind: DecodeErrorKind,
    /// Clause of 5.0.
    pub(super) v5: &'static str,
    /// Clause of 3.1.1.
    pub(super) v3: &'static str,
    pub(super) what: &'static str,
    /// The 3.x return code, where the specification names one.
    pub(super) return_code: Option<u8>,
}

pub(super) type Broken = &'static Rule;

impl Rule {
    const fn new(kind: DecodeErrorKind, v5: &'static str, v3: &'static str, what: &'static str) -> Self {
        Self { kind, v5, v3, what, return_code: None }
    }

    const fn malformed(v5: &'static str, v3: &'static str, what: &'static str) -> Self {
        Self::new(DecodeErrorKind::Malformed, v5, v3, what)
    }

    const fn protocol(v5: &'static str, v3: &'static str, what: &'static str) -> Self {
        Self::new(DecodeErrorKind::Protocol, v5, v3, what)
    }

    /// A rule about what only 5.0 has.
    const fn malformed5(clause: &'static str, what: &'static str) -> Self {
        Self::malformed(clause, clause, what)
    }

    /// A rule about what only 5.0 has.
    const fn protocol5(clause: &'static str, what: &'static str) -> Self {
        Self::protocol(clause, clause, what)
    }

    const fn returns(mut self, return_code: u8) -> Self {
        self.return_code = Some(return_code);
        self
    }

    /// The error of a connection that speaks `version`.
    #[cold]
    pub(super) fn error(&self, version: ProtocolVersion) -> DecodeError {
        let clause = if version == ProtocolVersion::V5 { self.v5 } else { self.v3 };
        DecodeError { kind: self.kind, reason: self.kind.reason(), clause, what: self.what, refusal: None }
    }

    /// The error of a CONNECT of `version`, with the CONNACK that the version has for it.
    #[cold]
    pub(super) fn connect_error(&self, version: ProtocolVersion) -> DecodeError {
        let error = self.error(version);
        let code = match version {
            ProtocolVersion::V5 => Some(error.reason.as_u8()),
            _ => self.return_code,
        };
        DecodeError { refusal: code.map(|code| ConnAckRefusal { version, code }), ..error }
    }
}

macro_rules! rules {
    ($($name:ident = $rule:expr;)*) => {
        $(pub(super) static $name: Rule = $rule;)*
        /// All of them: the tests see to it that each has a case.
        #[cfg(test)]
        pub(super) static ALL: &[(&str, Broken)] = &[$((stringify!($name), &$name)),*];
    };
}

rules! {
    // the fixed header
    PACKET_TYPE_ZERO = Rule::malformed("2.1.2", "2.2.1", "packet type 0 is reserved");
    PACKET_TYPE_AUTH = Rule::malformed("2.1.2", "2.2.1", "packet type 15 is reserved before MQTT 5.0");
    FLAGS = Rule::malformed("MQTT-2.1.3-1", "MQTT-2.2.2-2", "the fixed header's flags are not 0000");
    FLAGS_PUBREL = Rule::malformed("MQTT-3.6.1-1", "MQTT-3.6.1-1", "PUBREL's flags are not 0010");
    FLAGS_SUBSCRIBE = Rule::malformed("MQTT-3.8.1-1", "MQTT-3.8.1-1", "SUBSCRIBE's flags are not 0010");
    FLAGS_UNSUBSCRIBE = Rule::malformed("MQTT-3.10.1-1", "MQTT-3.10.1-1", "UNSUBSCRIBE's flags are not 0010");
    FLAGS_DISCONNECT = Rule::malformed("MQTT-3.14.1-1", "MQTT-3.14.1-1", "DISCONNECT's flags are not 0000");
    FLAGS_AUTH = Rule::malformed5("MQTT-3.15.1-1", "AUTH's flags are not 0000");
    QOS_3 = Rule::malformed("MQTT-3.3.1-4", "MQTT-3.3.1-4", "QoS 3");
    DUP_AT_QOS_0 = Rule::malformed("MQTT-3.3.1-2", "MQTT-3.3.1-2", "DUP at QoS 0");
    NOT_FROM_CLIENT = Rule::protocol("2.1.2", "2.2.1", "a client does not send this packet");
    NOT_FROM_SERVER = Rule::protocol("2.1.2", "2.2.1", "a server does not send this packet");
    FIRST_NOT_CONNECT = Rule::protocol("MQTT-3.1.0-1", "MQTT-3.1.0-1", "the first packet is not CONNECT");
    TOO_LARGE = Rule::new(PacketTooLarge, "MQTT-3.2.2-15", "2.2.3", "the packet is longer than the receiver allows");
    // fields
    VARINT_TOO_LONG = Rule::malformed("1.5.5", "2.2.3", "a variable byte integer of more than four bytes");
    VARINT_NOT_MINIMAL = Rule::malformed("MQTT-1.5.5-1", "2.2.3", "a variable byte integer longer than it needs to be");
    ENDS_EARLY = Rule::malformed("MQTT-4.13.1-1", "MQTT-4.8.0-1", "the packet ends inside a field");
    TRAILING_BYTES = Rule::malformed("MQTT-4.13.1-1", "MQTT-4.8.0-1", "bytes follow the packet's last field");
    UTF8 = Rule::malformed("MQTT-1.5.4-1", "MQTT-1.5.3-1", "a string is ill-formed UTF-8");
    NULL_CHARACTER = Rule::malformed("MQTT-1.5.4-2", "MQTT-1.5.3-2", "U+0000 in a string");
    PACKET_ID_ZERO = Rule::protocol("MQTT-2.2.1-3", "MQTT-2.3.1-1", "packet identifier 0");
    // properties
    PROPERTY_UNKNOWN = Rule::malformed5("2.2.2.2", "a property that MQTT 5.0 does not define");
    PROPERTY_MISPLACED = Rule::malformed5("2.2.2.2", "a property that this packet may not carry");
    PROPERTY_REPEATED = Rule::protocol5("2.2.2.2", "a property that may stand only once stands twice");
    PROPERTY_LENGTH = Rule::malformed5("2.2.2.1", "the property length runs past the packet's end");
    PROPERTY_ENDS_EARLY = Rule::malformed5("2.2.2.1", "a property runs past the property length");
    PROPERTY_NOT_BOOLEAN = Rule::protocol5("2.2.2.2", "a property that is 0 or 1 has another value");
    RECEIVE_MAXIMUM_ZERO = Rule::protocol5("3.1.2.11.3", "a Receive Maximum of 0");
    MAXIMUM_PACKET_SIZE_ZERO = Rule::protocol5("3.1.2.11.4", "a Maximum Packet Size of 0");
    SUBSCRIPTION_IDENTIFIER_ZERO = Rule::protocol5("3.8.2.1.2", "a Subscription Identifier of 0");
    // CONNECT
    PROTOCOL_NAME =
        Rule::new(UnsupportedVersion, "MQTT-3.1.2-1", "MQTT-3.1.2-1", "the protocol name is neither MQTT nor MQIsdp");
    PROTOCOL_LEVEL =
        Rule::new(UnsupportedVersion, "MQTT-3.1.2-2", "MQTT-3.1.2-2", "neither MQIsdp at level 3 nor MQTT at 4 or 5")
            .returns(UNACCEPTABLE_PROTOCOL_VERSION);
    CONNECT_RESERVED_FLAG = Rule::malformed("MQTT-3.1.2-3", "MQTT-3.1.2-3", "CONNECT's reserved flag is set");
    WILL_QOS_WITHOUT_WILL = Rule::malformed("MQTT-3.1.2-11", "MQTT-3.1.2-13", "a will QoS without a will");
    WILL_QOS_3 = Rule::malformed("MQTT-3.1.2-12", "MQTT-3.1.2-14", "will QoS 3");
    WILL_RETAIN_WITHOUT_WILL = Rule::malformed("MQTT-3.1.2-13", "MQTT-3.1.2-15", "a will retain flag without a will");
    PASSWORD_WITHOUT_USER_NAME = Rule::malformed("3.1.2.9", "MQTT-3.1.2-22", "a password without a user name");
    CLIENT_ID_EMPTY =
        Rule::new(ClientIdentifier, "MQTT-3.1.3-8", "MQTT-3.1.3-8", "an empty client identifier for a session to keep")
            .returns(IDENTIFIER_REJECTED);
    WILL_TOPIC_EMPTY = Rule::malformed("MQTT-4.7.3-1", "MQTT-4.7.3-1", "an empty will topic");
    WILL_TOPIC_WILDCARD = Rule::malformed("MQTT-4.7.0-1", "MQTT-4.7.1-1", "a wildcard in the will topic");
    AUTH_DATA_WITHOUT_METHOD = Rule::protocol5("3.1.2.11.10", "authentication data without an authentication method");
    // CONNACK
    CONNACK_FLAGS = Rule::malformed("MQTT-3.2.2-1", "3.2.2.1", "CONNACK's reserved flags are set");
    CONNACK_SESSION_PRESENT =
        Rule::protocol("MQTT-3.2.2-6", "MQTT-3.2.2-4", "session present in a CONNACK that refuses");
    CONNACK_CODE = Rule::protocol("MQTT-3.2.2-8", "3.2.2.3", "a code that is none of CONNACK's");
    // PUBLISH
    TOPIC_EMPTY = Rule::protocol("3.3.2.1", "MQTT-4.7.3-1", "an empty topic name without a topic alias");
    TOPIC_WILDCARD = Rule::malformed("MQTT-3.3.2-2", "MQTT-3.3.2-2", "a wildcard in the topic name");
    TOPIC_ALIAS_ZERO = Rule::new(TopicAlias, "MQTT-3.3.2-8", "MQTT-3.3.2-8", "a topic alias of 0");
    RESPONSE_TOPIC = Rule::protocol5("MQTT-3.3.2-14", "the response topic is empty or has a wildcard");
    SUBSCRIPTION_IDENTIFIER_FROM_CLIENT =
        Rule::protocol5("MQTT-3.3.4-6", "a Subscription Identifier in a client's PUBLISH");
    // the acknowledgements
    PUBACK_CODE = Rule::protocol5("MQTT-3.4.2-1", "a code that is none of PUBACK's");
    PUBREC_CODE = Rule::protocol5("MQTT-3.5.2-1", "a code that is none of PUBREC's");
    PUBREL_CODE = Rule::protocol5("MQTT-3.6.2-1", "a code that is none of PUBREL's");
    PUBCOMP_CODE = Rule::protocol5("MQTT-3.7.2-1", "a code that is none of PUBCOMP's");
    SUBACK_CODE = Rule::protocol("MQTT-3.9.3-2", "MQTT-3.9.3-2", "a code that is none of SUBACK's");
    SUBACK_EMPTY = Rule::protocol("MQTT-3.8.4-6", "MQTT-3.8.4-5", "a SUBACK without a code");
    UNSUBACK_CODE = Rule::protocol5("MQTT-3.11.3-2", "a code that is none of UNSUBACK's");
    UNSUBACK_EMPTY = Rule::protocol5("MQTT-3.11.3-2", "an UNSUBACK without a code");
    // SUBSCRIBE and UNSUBSCRIBE
    SUBSCRIBE_EMPTY = Rule::protocol("MQTT-3.8.3-2", "MQTT-3.8.3-3", "a SUBSCRIBE without a topic filter");
    UNSUBSCRIBE_EMPTY = Rule::protocol("MQTT-3.10.3-2", "MQTT-3.10.3-2", "an UNSUBSCRIBE without a topic filter");
    FILTER_EMPTY = Rule::malformed("MQTT-4.7.3-1", "MQTT-4.7.3-1", "an empty topic filter");
    SUBSCRIPTION_QOS_3 = Rule::protocol("3.8.3.1", "MQTT-3-8.3-4", "a subscription with QoS 3");
    SUBSCRIPTION_RESERVED_BITS =
        Rule::malformed("MQTT-3.8.3-5", "MQTT-3-8.3-4", "reserved bits of the subscription options are set");
    RETAIN_HANDLING_3 = Rule::protocol5("3.8.3.1", "Retain Handling 3");
    NO_LOCAL_SHARED = Rule::protocol5("MQTT-3.8.3-4", "No Local on a shared subscription");
    // DISCONNECT and AUTH
    DISCONNECT_CODE = Rule::protocol5("MQTT-3.14.2-1", "a code that is none of this side's DISCONNECT codes");
    DISCONNECT_EXPIRY_FROM_SERVER = Rule::protocol5("MQTT-3.14.2-2", "a session expiry in a server's DISCONNECT");
    AUTH_CODE = Rule::protocol5("MQTT-3.15.2-1", "a code that is none of this side's AUTH codes");
    AUTH_METHOD_MISSING = Rule::protocol5("3.15.2.2.2", "an AUTH without an authentication method");
}
