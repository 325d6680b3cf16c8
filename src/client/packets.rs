//! Packets of a client: what it sends of its options, and what it needs of the broker's.

use std::num::NonZeroU16;

use weir_mqtt::{Connect, ConnectProperties, Packet, PacketId, ProtocolVersion, PublishProperties, QoS};

use super::error::{ClientError, connect_reason, reason};
use super::properties::{MessageProperties, PublishExtras};

/// Messages of QoS 1 and 2 without an acknowledgement, at most.
pub(super) const WINDOW: usize = 1000;

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub(crate) struct ConnectOptions {
    pub(crate) version: ProtocolVersion,
    pub(crate) client_id: String,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Vec<u8>>,
    pub(crate) keep_alive_s: u16,
    pub(crate) clean_start: bool,
    pub(crate) session_expiry_s: Option<u32>,
    pub(crate) receive_maximum: Option<NonZeroU16>,
    pub(crate) will: Option<Will>,
}

/// The message that the broker publishes when the client is lost.
#[derive(Debug, Clone)]
pub(crate) struct Will {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) delay_s: u32,
}

/// A message that came in.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) dup: bool,
    pub(crate) packet_id: Option<PacketId>,
    pub(crate) properties: Option<Box<MessageProperties>>,
}

/// A message that goes out.
pub(crate) struct Outgoing<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) extras: &'a PublishExtras,
}

/// What the broker accepts, as its CONNACK says.
#[derive(Debug, Clone, Copy)]
pub(super) struct BrokerLimits {
    pub(super) receive_maximum: usize,
    pub(super) maximum_qos: QoS,
    pub(super) retain: bool,
    pub(super) maximum_packet_size: Option<u32>,
    pub(super) topic_alias_maximum: u16,
}

/// A packet of the broker, as far as a client needs it.
pub(super) enum Received {
    ConnAck(Result<(BrokerLimits, Option<u16>, bool), String>),
    Message(Message),
    PubAck(PacketId, Result<(), String>),
    PubRec(PacketId, Result<(), String>),
    PubRel(PacketId),
    PubComp(PacketId),
    SubAck(PacketId, Vec<Result<QoS, String>>),
    UnsubAck(PacketId),
    Nothing,
}

/// Appends a topic filter with its length.
pub(super) fn push_filter(raw: &mut Vec<u8>, filter: &str) -> Result<(), ClientError> {
    let length = u16::try_from(filter.len())
        .map_err(|_| ClientError::Unsupported("a topic filter is longer than 65,535 bytes".to_owned()))?;
    raw.extend_from_slice(&length.to_be_bytes());
    raw.extend_from_slice(filter.as_bytes());
    Ok(())
}

pub(super) fn connect_packet(options: &ConnectOptions) -> Packet<'_> {
    let will = options.will.as_ref().map(|will| weir_mqtt::Will {
        qos: will.qos,
        retain: will.retain,
        topic: &will.topic,
        payload: will.payload.as_bytes(),
        delay_s: will.delay_s,
        properties: PublishProperties::default(),
    });
    Packet::Connect(Box::new(Connect {
        version: options.version,
        bridge: false,
        clean_start: options.clean_start,
        keep_alive_s: options.keep_alive_s,
        client_id: &options.client_id,
        username: options.username.as_deref(),
        password: options.password.as_deref(),
        will,
        properties: ConnectProperties {
            session_expiry_s: options.session_expiry_s,
            receive_maximum: options.receive_maximum,
            ..ConnectProperties::default()
        },
    }))
}

/// Copies what a client needs of a packet; a DISCONNECT is an error.
pub(super) fn received(packet: &Packet<'_>, version: ProtocolVersion) -> Result<Received, ClientError> {
    let outcome = |code: u8, text: Option<&str>| if code < 0x80 { Ok(()) } else { Err(reason(code, text)) };
    Ok(match packet {
        Packet::Publish(publish) => Received::Message(Message {
            topic: publish.topic.to_owned(),
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            retain: publish.retain,
            dup: publish.dup,
            packet_id: publish.packet_id,
            properties: MessageProperties::of(publish),
        }),
        Packet::ConnAck(ack) if ack.code == 0 => {
            let properties = &ack.properties;
            let limits = BrokerLimits {
                receive_maximum: properties.receive_maximum.map_or(WINDOW, |maximum| maximum.get().into()),
                maximum_qos: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
                retain: properties.retain_available.unwrap_or(true),
                maximum_packet_size: properties.maximum_packet_size,
                topic_alias_maximum: properties.topic_alias_maximum.unwrap_or(0),
            };
            Received::ConnAck(Ok((limits, properties.server_keep_alive_s, ack.session_present)))
        }
        Packet::ConnAck(ack) => Received::ConnAck(Err(connect_reason(version, ack.code, ack.properties.reason_string))),
        Packet::PubAck(ack) => Received::PubAck(ack.packet_id, outcome(ack.code, ack.reason_string)),
        Packet::PubRec(ack) => Received::PubRec(ack.packet_id, outcome(ack.code, ack.reason_string)),
        Packet::PubRel(ack) => Received::PubRel(ack.packet_id),
        Packet::PubComp(ack) => Received::PubComp(ack.packet_id),
        Packet::SubAck(ack) => {
            let granted = |&code: &u8| QoS::from_bits(code).ok_or_else(|| reason(code, ack.reason_string));
            Received::SubAck(ack.packet_id, ack.codes.iter().map(granted).collect())
        }
        Packet::UnsubAck(ack) => Received::UnsubAck(ack.packet_id),
        Packet::Disconnect(packet) => {
            return Err(ClientError::Disconnected(reason(packet.code, packet.reason_string)));
        }
        Packet::Auth(_) => {
            return Err(ClientError::Unsupported("the broker asks for an authentication method".to_owned()));
        }
        _ => Received::Nothing,
    })
}
