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
    /// CONNECT.
    Connect(Box<Connect<'a>>),
    /// CONNACK.
    ConnAck(Box<ConnAck<'a>>),
    /// PUBLISH.
    Publish(Publish<'a>),
    /// PUBACK.
    PubAck(Ack<'a>),
    /// PUBREC.
    PubRec(Ack<'a>),
    /// PUBREL.
    PubRel(Ack<'a>),
    /// PUBCOMP.
    PubComp(Ack<'a>),
    /// SUBSCRIBE.
    Subscribe(Subscribe<'a>),
    /// SUBACK.
    SubAck(SubAck<'a>),
    /// UNSUBSCRIBE.
    Unsubscribe(Unsubscribe<'a>),
    /// UNSUBACK.
    UnsubAck(SubAck<'a>),
    /// PINGREQ.
    PingReq,
    /// PINGRESP.
    PingResp,
    /// DISCONNECT.
    Disconnect(Disconnect<'a>),
    /// AUTH, of MQTT 5.0.
    Auth(Auth<'a>),
}

/// CONNECT, validated clause by clause.
#[derive(Debug, Clone, PartialEq)]
pub struct Connect<'a> {
    /// The version of MQTT.
    pub version: ProtocolVersion,
    /// Bit 7 of the protocol level: a bridge of mosquitto's kind (`0x83`, `0x84`).
    pub bridge: bool,
    /// Discard an earlier session (before MQTT 5.0: clean session).
    pub clean_start: bool,
    /// The keep alive, seconds; 0: none.
    pub keep_alive_s: u16,
    /// Empty where the server is asked to assign one.
    pub client_id: &'a str,
    /// The user name.
    pub username: Option<&'a str>,
    /// The password.
    pub password: Option<&'a [u8]>,
    /// The will.
    pub will: Option<Will<'a>>,
    /// The properties of MQTT 5.0.
    pub properties: ConnectProperties<'a>,
}

/// CONNECT's properties; the absent ones as the specification's defaults say.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnectProperties<'a> {
    /// Seconds; absent is 0. `u32::MAX`: never.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 messages may be unacknowledged.
    pub receive_maximum: Option<NonZeroU16>,
    /// The longest packet that the client accepts, bytes.
    pub maximum_packet_size: Option<u32>,
    /// How many topic aliases the client accepts.
    pub topic_alias_maximum: Option<u16>,
    /// Whether CONNACK may have response information.
    pub request_response_information: Option<bool>,
    /// Whether packets other than PUBLISH, CONNACK and DISCONNECT may have a reason string and user properties.
    pub request_problem_information: Option<bool>,
    /// The method of an enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// The data of an enhanced authentication.
    pub authentication_data: Option<&'a [u8]>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// The will as CONNECT carries it.
#[derive(Debug, Clone, PartialEq)]
pub struct Will<'a> {
    /// The will's QoS.
    pub qos: QoS,
    /// Whether the will is retained.
    pub retain: bool,
    /// The will's topic.
    pub topic: &'a str,
    /// The will's payload.
    pub payload: &'a [u8],
    /// How long after the connection's end it is published, seconds.
    pub delay_s: u32,
    /// The properties that go out with the will's PUBLISH; never an alias or a subscription identifier.
    pub properties: PublishProperties<'a>,
}

/// CONNACK.
#[derive(Debug, Clone, PartialEq)]
pub struct ConnAck<'a> {
    /// Whether the server has a session of the client.
    pub session_present: bool,
    /// For 3.x the return code (0 to 5), for 5.0 the reason code.
    pub code: u8,
    /// The properties of MQTT 5.0.
    pub properties: ConnAckProperties<'a>,
}

/// CONNACK's properties, 5.0 only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ConnAckProperties<'a> {
    /// The session expiry interval in use, seconds.
    pub session_expiry_s: Option<u32>,
    /// How many QoS 1 and 2 messages may be unacknowledged.
    pub receive_maximum: Option<NonZeroU16>,
    /// The highest QoS that the server accepts.
    pub maximum_qos: Option<QoS>,
    /// Whether the server accepts retained messages.
    pub retain_available: Option<bool>,
    /// The longest packet that the server accepts, bytes.
    pub maximum_packet_size: Option<u32>,
    /// The client id that the server assigned.
    pub assigned_client_id: Option<&'a str>,
    /// How many topic aliases the server accepts.
    pub topic_alias_maximum: Option<u16>,
    /// A text for people.
    pub reason_string: Option<&'a str>,
    /// Whether the server accepts wildcards in filters.
    pub wildcard_subscription_available: Option<bool>,
    /// Whether the server accepts subscription identifiers.
    pub subscription_identifiers_available: Option<bool>,
    /// Whether the server accepts shared subscriptions.
    pub shared_subscription_available: Option<bool>,
    /// The keep alive that the client has to use, seconds.
    pub server_keep_alive_s: Option<u16>,
    /// A basis for response topics.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// The method of an enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// The data of an enhanced authentication.
    pub authentication_data: Option<&'a [u8]>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// PUBLISH.
#[derive(Debug, Clone, PartialEq)]
pub struct Publish<'a> {
    /// Whether it may have been sent before.
    pub dup: bool,
    /// The QoS.
    pub qos: QoS,
    /// Whether it is, or becomes, the topic's retained message.
    pub retain: bool,
    /// Empty only with a topic alias (5.0).
    pub topic: &'a str,
    /// Present exactly where `qos` is above 0.
    pub packet_id: Option<PacketId>,
    /// The properties of MQTT 5.0.
    pub properties: PublishProperties<'a>,
    /// The payload.
    pub payload: &'a [u8],
}

/// PUBLISH's properties (also a will's).
///
/// `raw` is the validated property block without its length, exactly as received; the other fields are read out of it.
/// A forwarder copies `raw` whole where no alias, expiry or subscription identifier stands in it, else walks it
/// with [`PublishProperties::forwardable`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct PublishProperties<'a> {
    /// The encoded properties.
    pub raw: &'a [u8],
    /// 1: the payload claims to be UTF-8.
    pub payload_format_indicator: Option<u8>,
    /// How long the message is of use, seconds.
    pub message_expiry_s: Option<u32>,
    /// The topic alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Where an answer is wanted.
    pub response_topic: Option<&'a str>,
    /// Identifies the request that an answer is for.
    pub correlation_data: Option<&'a [u8]>,
    /// The type of the payload.
    pub content_type: Option<&'a str>,
    /// The first subscription identifier; there may be several, only from a server.
    pub subscription_identifier: Option<u32>,
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Debug, Clone, PartialEq)]
pub struct Ack<'a> {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// 0 where the packet carries none.
    pub code: u8,
    /// A text for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// SUBSCRIBE. The filters are validated by the decoder and read by [`Subscribe::filters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Subscribe<'a> {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// The identifier that messages of these subscriptions get.
    pub subscription_identifier: Option<u32>,
    /// User properties.
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
    /// The options of the subscription.
    pub options: SubscriptionOptions,
}

/// Subscription options; for 3.x only `qos` can be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Hash)]
pub struct SubscriptionOptions {
    /// The highest QoS of its messages.
    pub qos: QoS,
    /// Leave out messages that the client itself publishes.
    pub no_local: bool,
    /// Keep the RETAIN flag of forwarded messages.
    pub retain_as_published: bool,
    /// Which retained messages are sent.
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
    /// The packet identifier.
    pub packet_id: PacketId,
    /// A text for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// A code for each filter.
    pub codes: &'a [u8],
}

/// UNSUBSCRIBE. The filters are read by [`Unsubscribe::filters`].
#[derive(Debug, Clone, PartialEq)]
pub struct Unsubscribe<'a> {
    /// The packet identifier.
    pub packet_id: PacketId,
    /// User properties.
    pub user_properties: UserProperties<'a>,
    /// The encoded filters.
    pub raw_filters: &'a [u8],
    /// The number of filters.
    pub count: usize,
}

/// DISCONNECT.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Disconnect<'a> {
    /// 0 where the packet carries none.
    pub code: u8,
    /// A new session expiry interval, seconds.
    pub session_expiry_s: Option<u32>,
    /// A text for people.
    pub reason_string: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// AUTH, 5.0 only.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Auth<'a> {
    /// The reason code.
    pub code: u8,
    /// The method of the enhanced authentication.
    pub authentication_method: Option<&'a str>,
    /// The data of the enhanced authentication.
    pub authentication_data: Option<&'a [u8]>,
    /// A text for people.
    pub reason_string: Option<&'a str>,
    /// User properties.
    pub user_properties: UserProperties<'a>,
}

/// User properties, in order, repeats kept [MQTT-3.3.2-18]: a validated property block that is walked on demand.
/// The block may hold other properties too; [`UserProperties::iter`] passes over them.
#[derive(Debug, Clone, Copy, Default)]
pub struct UserProperties<'a> {
    /// The encoded properties.
    pub raw: &'a [u8],
}
