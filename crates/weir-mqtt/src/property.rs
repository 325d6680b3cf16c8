//! Which properties MQTT 5.0 has, and which packet may carry which: the specification's table 2-4.

/// Property identifiers. All are below 64, so that a set of them is a `u64`.
pub(super) mod id {
    pub(in super::super) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(in super::super) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(in super::super) const CONTENT_TYPE: u8 = 0x03;
    pub(in super::super) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in super::super) const CORRELATION_DATA: u8 = 0x09;
    pub(in super::super) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub(in super::super) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(in super::super) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(in super::super) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in super::super) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(in super::super) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(in super::super) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(in super::super) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(in super::super) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(in super::super) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(in super::super) const SERVER_REFERENCE: u8 = 0x1C;
    pub(in super::super) const REASON_STRING: u8 = 0x1F;
    pub(in super::super) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in super::super) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in super::super) const TOPIC_ALIAS: u8 = 0x23;
    pub(in super::super) const MAXIMUM_QOS: u8 = 0x24;
    pub(in super::super) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in super::super) const USER_PROPERTY: u8 = 0x26;
    pub(in super::super) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(in super::super) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(in super::super) const SUBSCRIPTION_IDENTIFIER_AVAILABLE: u8 = 0x29;
    pub(in super::super) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// How a property's value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Byte,
    TwoByteInteger,
    FourByteInteger,
    VariableByteInteger,
    /// A UTF-8 Encoded String or Binary Data.
    Prefixed,
    /// A UTF-8 String Pair.
    Pair,
}

/// The form of a property's value; `None` for an identifier that is none.
#[inline]
pub(super) fn form(id: u8) -> Option<Form> {
    Some(match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2A => Form::Byte,
        0x13 | 0x21 | 0x22 | 0x23 => Form::TwoByteInteger,
        0x02 | 0x11 | 0x18 | 0x27 => Form::FourByteInteger,
        0x0B => Form::VariableByteInteger,
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1A | 0x1C | 0x1F => Form::Prefixed,
        0x26 => Form::Pair,
        _ => return None,
    })
}

const fn set(ids: &[u8]) -> u64 {
    let mut set = 0;
    let mut at = 0;
    while at < ids.len() {
        set |= 1 << ids[at];
        at += 1;
    }
    set
}

/// Those that may stand more than once. Subscription Identifier only in a server's PUBLISH: the decoder sees to it.
pub(super) const REPEATABLE: u64 = set(&[id::USER_PROPERTY, id::SUBSCRIPTION_IDENTIFIER]);

pub(super) const IN_CONNECT: u64 = set(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
    id::REQUEST_PROBLEM_INFORMATION,
    id::REQUEST_RESPONSE_INFORMATION,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::USER_PROPERTY,
    id::MAXIMUM_PACKET_SIZE,
]);

pub(super) const IN_WILL: u64 = set(&[
    id::PAYLOAD_FORMAT_INDICATOR,
    id::MESSAGE_EXPIRY_INTERVAL,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::WILL_DELAY_INTERVAL,
    id::USER_PROPERTY,
]);

pub(super) const IN_CONNACK: u64 = set(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::ASSIGNED_CLIENT_IDENTIFIER,
    id::SERVER_KEEP_ALIVE,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
    id::RESPONSE_INFORMATION,
    id::SERVER_REFERENCE,
    id::REASON_STRING,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::MAXIMUM_QOS,
    id::RETAIN_AVAILABLE,
    id::USER_PROPERTY,
    id::MAXIMUM_PACKET_SIZE,
    id::WILDCARD_SUBSCRIPTION_AVAILABLE,
    id::SUBSCRIPTION_IDENTIFIER_AVAILABLE,
    id::SHARED_SUBSCRIPTION_AVAILABLE,
]);

pub(super) const IN_PUBLISH: u64 = set(&[
    id::PAYLOAD_FORMAT_INDICATOR,
    id::MESSAGE_EXPIRY_INTERVAL,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::SUBSCRIPTION_IDENTIFIER,
    id::TOPIC_ALIAS,
    id::USER_PROPERTY,
]);

/// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK, UNSUBACK.
pub(super) const IN_ACK: u64 = set(&[id::REASON_STRING, id::USER_PROPERTY]);

pub(super) const IN_SUBSCRIBE: u64 = set(&[id::SUBSCRIPTION_IDENTIFIER, id::USER_PROPERTY]);

pub(super) const IN_UNSUBSCRIBE: u64 = set(&[id::USER_PROPERTY]);

pub(super) const IN_DISCONNECT: u64 =
    set(&[id::SESSION_EXPIRY_INTERVAL, id::SERVER_REFERENCE, id::REASON_STRING, id::USER_PROPERTY]);

pub(super) const IN_AUTH: u64 =
    set(&[id::AUTHENTICATION_METHOD, id::AUTHENTICATION_DATA, id::REASON_STRING, id::USER_PROPERTY]);

/// Those that a forwarded PUBLISH does not take over as they came: the alias is a connection's own [MQTT-3.3.2-7], the
/// expiry counts down [MQTT-3.3.2-6], the subscription identifier is the receiver's [MQTT-3.3.4-3], and the delay is
/// the will's.
const UNFORWARDABLE: u64 =
    set(&[id::MESSAGE_EXPIRY_INTERVAL, id::SUBSCRIPTION_IDENTIFIER, id::TOPIC_ALIAS, id::WILL_DELAY_INTERVAL]);

/// Whether a forwarded PUBLISH leaves this property out.
#[inline]
pub(super) fn is_unforwardable(id: u8) -> bool {
    id < 64 && UNFORWARDABLE & 1 << id != 0
}

/// Walks a validated block property by property, without looking into the values.
///
/// A block that breaks off or has an unknown identifier ends the walk there: only the decoder makes blocks, and it
/// makes no such ones.
#[derive(Debug, Clone)]
pub(super) struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    #[inline]
    pub(super) fn new(block: &'a [u8]) -> Self {
        Self { rest: block }
    }
}

impl<'a> Iterator for Walk<'a> {
    /// The identifier; the value as written.
    type Item = (u8, &'a [u8]);

    #[inline]
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&id, value) = self.rest.split_first()?;
        let len = match form(id)? {
            Form::Byte => 1,
            Form::TwoByteInteger => 2,
            Form::FourByteInteger => 4,
            Form::VariableByteInteger => 1 + value.iter().take_while(|&&byte| byte & 0x80 != 0).count(),
            Form::Prefixed => prefixed_len(value)?,
            Form::Pair => {
                let name = prefixed_len(value)?;
                name + prefixed_len(value.get(name..)?)?
            }
        };
        let (value, rest) = value.split_at_checked(len)?;
        self.rest = rest;
        Some((id, value))
    }
}

/// The whole length of a field that starts with its own.
#[inline]
fn prefixed_len(bytes: &[u8]) -> Option<usize> {
    bytes.first_chunk().map(|&len| 2 + usize::from(u16::from_be_bytes(len)))
}
