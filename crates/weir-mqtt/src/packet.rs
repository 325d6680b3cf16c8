//! The packets, as the specification names them. Every `&'a` borrows from the bytes that were decoded.

use std::num::NonZeroU16;

/// A packet identifier: never zero [MQTT-2.2.1-3].
pub type PacketId = NonZeroU16;

/// The protocol versions this codec speaks. The numbers are those of CONNECT's protocol level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// `MQIsdp`, level 3.
    V3_1 = 3,
    /// `MQTT`, level 4.
    V3_1_1 = 4,
    /// `MQTT`, level 5.
    V5 = 5,
}

/// Quality of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS that `bits` name: 0, 1 or 2.
    #[inline]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// Any control packet, in either direction.
#[derive(Debug, Clone, PartialEq)]
pub enum Packet<'a> {
    Connect(Box<Connect<'a>>),
    ConnAck(Box<ConnAck<'a>>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(SubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// CONNECT, validated clause by clause.
#[derive(Debug, Clone, PartialEq)]
pub struct Connect<'a> {
    pub version: ProtocolVersion,
    /// Bit 7 of the protocol level: a bridge of mosquitto's kind (`0x83`, `0x84`).
    pub bridge: bool,
    pub clean_start: bool,
    pub keep_alive_s: u16,
    /// Empty where the server is asked to assign one.
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    pub will: Option<Will<'a>>,
    pub properties: ConnectProperties<'a>,
}

/// CONNECT's properties; the absent ones as the specification's defaults say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnectProperties<'a> {
    /// Seconds; absent is 0. `u32::MAX`: never.
    pub session_expiry_s: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_packet_size: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub request_response_information: Option<bool>,
    pub request_problem_information: Option<bool>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub user_properties: UserProperties<'a>,
}

/// The will as CONNECT carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Will<'a> {
    pub qos: QoS,
    pub retain: bool,
    pub topic: &'a str,
    pub payload: &'a [u8],
    pub delay_s: u32,
    /// The properties that go out with the will's PUBLISH; never an alias or a subscription identifier.
    pub properties: PublishProperties<'a>,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnAck<'a> {
    pub session_present: bool,
    /// For 3.x the return code (0 to 5), for 5.0 the reason code.
    pub code: u8,
    pub properties: ConnAckProperties<'a>,
}

/// CONNACK's properties, 5.0 only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnAckProperties<'a> {
    pub session_expiry_s: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_qos: Option<QoS>,
    pub retain_available: Option<bool>,
    pub maximum_packet_size: Option<u32>,
    pub assigned_client_id: Option<&'a str>,
    pub topic_alias_maximum: Option<u16>,
    pub reason_string: Option<&'a str>,
    pub wildcard_subscription_available: Option<bool>,
    pub subscription_identifiers_available: Option<bool>,
    pub shared_subscription_available: Option<bool>,
    pub server_keep_alive_s: Option<u16>,
    pub response_information: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub user_properties: UserProperties<'a>,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish<'a> {
    pub dup: bool,
    pub qos: QoS,
    pub retain: bool,
    /// Empty only with a topic alias (5.0).
    pub topic: &'a str,
    /// Present exactly where `qos` is above 0.
    pub packet_id: Option<PacketId>,
    pub properties: PublishProperties<'a>,
    pub payload: &'a [u8],
}

/// PUBLISH's properties (also a will's).
///
/// `raw` is the validated property block without its length, exactly as received; the other fields are read out of it.
/// A forwarder copies `raw` whole where no alias, expiry or subscription identifier stands in it, else walks it
/// with [`PublishProperties::forwardable`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PublishProperties<'a> {
    pub raw: &'a [u8],
    /// 1: the payload claims to be UTF-8.
    pub payload_format_indicator: Option<u8>,
    pub message_expiry_s: Option<u32>,
    pub topic_alias: Option<NonZeroU16>,
    pub response_topic: Option<&'a str>,
    pub correlation_data: Option<&'a [u8]>,
    pub content_type: Option<&'a str>,
    /// The first subscription identifier; there may be several, only from a server.
    pub subscription_identifier: Option<u32>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack<'a> {
    pub packet_id: PacketId,
    /// 0 where the packet carries none.
    pub code: u8,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
}

/// SUBSCRIBE. The filters are validated by the decoder and read by [`Subscribe::filters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe<'a> {
    pub packet_id: PacketId,
    pub subscription_identifier: Option<u32>,
    pub user_properties: UserProperties<'a>,
    /// The payload: pairs of filter and options, checked.
    pub raw_filters: &'a [u8],
    /// How many filters; at least one [MQTT-3.8.3-3].
    pub count: usize,
}

/// One filter of a SUBSCRIBE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    /// As sent, `$share/` and all; well-formed UTF-8 and of legal length, but not yet judged as a topic filter:
    /// [`super::SharedFilter::parse`] does that, filter by filter, so that each can have its own code in SUBACK.
    pub filter: &'a str,
    pub options: SubscriptionOptions,
}

/// Subscription options; for 3.x only `qos` can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SubscriptionOptions {
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// When a SUBSCRIBE is answered with retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
#[repr(u8)]
pub enum RetainHandling {
    /// 0: at every subscribe.
    #[default]
    Always = 0,
    /// 1: only where the subscription did not exist.
    IfNew = 1,
    /// 2: never.
    Never = 2,
}

/// SUBACK and UNSUBACK: a code for each filter (UNSUBACK of 3.x has none).
#[derive(Debug, Clone, PartialEq)]
pub struct SubAck<'a> {
    pub packet_id: PacketId,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
    pub codes: &'a [u8],
}

/// UNSUBSCRIBE. The filters are read by [`Unsubscribe::filters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe<'a> {
    pub packet_id: PacketId,
    pub user_properties: UserProperties<'a>,
    pub raw_filters: &'a [u8],
    pub count: usize,
}

/// DISCONNECT.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Disconnect<'a> {
    /// 0 where the packet carries none.
    pub code: u8,
    pub session_expiry_s: Option<u32>,
    pub reason_string: Option<&'a str>,
    pub server_reference: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
}

/// AUTH, 5.0 only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Auth<'a> {
    pub code: u8,
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    pub reason_string: Option<&'a str>,
    pub user_properties: UserProperties<'a>,
}

/// User properties, in order, repeats kept [MQTT-3.3.2-18]: a validated property block that is walked on demand.
/// The block may hold other properties too; [`UserProperties::iter`] passes over them.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserProperties<'a> {
    pub raw: &'a [u8],
}
