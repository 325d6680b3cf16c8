//! A message that is being delivered, and its encodings: each is made once and used for all receivers that get the same bytes.

use std::sync::Arc;

use crate::delivery::out_buffer::OutBuf;
use crate::delivery::outgoing_aliases::OutgoingAliases;
use crate::ids::{DedupKey, Millis, Origin};
use crate::limits::SHARED_PAYLOAD_MIN_BYTES;
use crate::values::delivery::Delivery;
use crate::values::message::{Message, remaining_s};
use crate::values::publisher::PublisherIdentity;
use weir_mqtt::{
    EncodeError, PacketId, ProtocolVersion, Publish, PublishPropsOut, QoS, encode_publish_parts, publish_len,
};

/// Pieces of a property block that are forwarded: what is left between alias, expiry and identifier.
const PIECES_MAX: usize = 4;

/// The properties that the encoding of a message for one connection depends on, and its destination.
pub(crate) struct Receiver<'a> {
    pub(crate) version: ProtocolVersion,
    /// Bytes of the largest packet it takes.
    pub(crate) maximum_packet_size: usize,
    pub(crate) aliases: Option<&'a mut OutgoingAliases>,
    pub(crate) out: &'a mut OutBuf,
}

/// A message while it is being routed. Borrows from the packet it came in, or from a [`Message`].
pub(crate) struct PublishContext<'a> {
    pub(crate) topic: &'a str,
    pub(crate) publish: &'a Publish<'a>,
    pub(crate) version: ProtocolVersion,
    /// The packet as received, where it may go out as it is.
    raw: Option<&'a [u8]>,
    pub(crate) expires_at: Millis,
    pub(crate) origin: Origin,
    /// Of a message that is retained.
    pub(crate) publisher: Option<Arc<PublisherIdentity>>,
    /// If it is retained, then on disk.
    pub(crate) durable: bool,
    /// Deduplication key: of a QoS 2 publish of a durable session, or of an outbox message.
    pub(crate) dedup_key: Option<DedupKey>,
    /// This shard's outbox keeps it until the member of a group has it that it goes to.
    pub(crate) in_outbox: bool,
    /// It came from another node: shared groups get nothing, since that node chooses their members.
    pub(crate) is_of_peer: bool,
    /// The node was out: the gateway gives it to shared groups when the node is in again, and knows all of them.
    pub(crate) groups_wait: bool,
    /// It came from the gateway, which has sent the other nodes their copies.
    pub(crate) is_of_gateway: bool,
    stored: Option<Message>,
    /// It was made of a stored message.
    of_message: bool,
    /// How many receivers the message has here: what is encoded for several is kept.
    receivers: usize,
    /// How many sessions share its bytes, where those are stored and others have them still.
    sharers: usize,
    encoded: Option<Box<[Option<Encoded>; 4]>>,
}

#[derive(Debug)]
struct Encoded {
    bytes: Arc<[u8]>,
    packet_id_at: usize,
    payload_at: usize,
}

impl<'a> PublishContext<'a> {
    /// `raw` is the whole packet, or empty where there is none.
    pub(crate) fn new(
        topic: &'a str,
        publish: &'a Publish<'a>,
        version: ProtocolVersion,
        raw: &'a [u8],
        expires_at: Millis,
        origin: Origin,
    ) -> Self {
        let as_it_is = !raw.is_empty()
            && !publish.topic.is_empty()
            && expires_at == Millis::MAX
            && !publish.properties.has_unforwardable();
        Self {
            topic,
            publish,
            version,
            raw: as_it_is.then_some(raw),
            expires_at,
            origin,
            publisher: None,
            durable: false,
            dedup_key: None,
            in_outbox: false,
            is_of_peer: false,
            groups_wait: false,
            is_of_gateway: false,
            stored: None,
            of_message: false,
            receivers: 1,
            sharers: 1,
            encoded: None,
        }
    }

    /// A stored message.
    pub(crate) fn of_message(message: &'a Message, publish: &'a Publish<'a>, origin: Origin) -> Self {
        let mut context = Self::new(publish.topic, publish, ProtocolVersion::V5, &[], message.expires_at, origin);
        context.publisher.clone_from(&message.publisher);
        context.stored = Some(message.clone());
        context.of_message = true;
        context
    }

    pub(crate) fn set_receivers(&mut self, receivers: usize) {
        self.receivers = receivers;
    }

    pub(crate) fn receivers(&self) -> usize {
        self.receivers
    }

    pub(crate) fn set_sharers(&mut self, sharers: usize) {
        self.sharers = sharers;
    }

    /// Estimated number of sessions that share its bytes.
    pub(crate) fn sharers(&self) -> usize {
        self.receivers.max(self.sharers)
    }

    /// Whether its properties are bytes that were not decoded: it was stored.
    pub(crate) fn has_raw_properties(&self) -> bool {
        self.of_message && !self.publish.properties.raw.is_empty()
    }

    /// Whether it may have more than one receiver here.
    pub(crate) fn has_several_receivers(&self) -> bool {
        self.receivers > 1
    }

    /// Sets the result of [`PublishContext::store`].
    pub(crate) fn set_stored(&mut self, message: &Message) {
        self.stored = Some(message.clone());
    }

    /// The message in a form that can be kept; made once.
    pub(crate) fn store(&mut self) -> Message {
        let (topic, publish, expires_at, publisher) = (self.topic, self.publish, self.expires_at, &self.publisher);
        let store = || Message::new(topic, publish, expires_at).published_by(publisher.clone());
        self.stored.get_or_insert_with(store).clone()
    }

    /// Appends the PUBLISH for one receiver to its out buffer. Returns its length, or `None` where it is larger
    /// than the receiver takes [MQTT-3.1.2-24].
    pub(crate) fn append(
        &mut self,
        receiver: Receiver<'_>,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now: Millis,
    ) -> Option<usize> {
        let plain = delivery.identifiers.is_none() && receiver.aliases.is_none();
        if !plain {
            return self.encode(receiver, delivery, packet_id, dup, now);
        }
        let first = 0x30 | u8::from(dup) << 3 | (delivery.qos as u8) << 1 | u8::from(delivery.retain);
        let same_form = (receiver.version == ProtocolVersion::V5) == (self.version == ProtocolVersion::V5);
        let share = self.receivers > 1 && self.publish.payload.len() >= SHARED_PAYLOAD_MIN_BYTES;
        if let Some(raw) = self.raw
            && same_form
            && !share
            && (packet_id.is_some() == self.publish.packet_id.is_some())
        {
            if raw.len() > receiver.maximum_packet_size {
                return None;
            }
            let buffer = receiver.out.buffer();
            let start = buffer.len();
            buffer.extend_from_slice(raw);
            buffer[start] = first;
            if let Some(id) = packet_id {
                let at = start + packet_id_at(raw.len(), self.topic.len());
                buffer[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
            }
            return Some(raw.len());
        }
        if self.receivers < 3 && !share {
            return self.encode(receiver, delivery, packet_id, dup, now);
        }
        self.append_encoded(receiver, first, packet_id, now)
    }

    fn append_encoded(
        &mut self,
        receiver: Receiver<'_>,
        first: u8,
        packet_id: Option<PacketId>,
        now: Millis,
    ) -> Option<usize> {
        let form = usize::from(receiver.version == ProtocolVersion::V5) * 2 + usize::from(packet_id.is_some());
        if self.encoded.as_ref().is_none_or(|forms| forms[form].is_none()) {
            let encoded = self.encode_once(receiver.version, packet_id.is_some(), now);
            self.encoded.get_or_insert_default()[form] = encoded;
        }
        let encoded = self.encoded.as_ref()?[form].as_ref()?;
        let length = encoded.bytes.len();
        if length > receiver.maximum_packet_size {
            return None;
        }
        let shared = length - encoded.payload_at >= SHARED_PAYLOAD_MIN_BYTES;
        let copied = if shared { encoded.payload_at } else { length };
        let buffer = receiver.out.buffer();
        let start = buffer.len();
        buffer.extend_from_slice(&encoded.bytes[..copied]);
        buffer[start] = first;
        if let Some(id) = packet_id {
            let at = start + encoded.packet_id_at;
            buffer[at..at + 2].copy_from_slice(&id.get().to_be_bytes());
        }
        if shared {
            receiver.out.push_shared(Arc::clone(&encoded.bytes), copied..length, self.sharers());
        }
        Some(length)
    }

    fn encode_once(&self, version: ProtocolVersion, has_packet_id: bool, now: Millis) -> Option<Encoded> {
        let mut bytes = Vec::new();
        let (qos, packet_id) =
            if has_packet_id { (QoS::AtLeastOnce, Some(PacketId::MIN)) } else { (QoS::AtMostOnce, None) };
        let mut pieces = [&[][..]; PIECES_MAX];
        let properties = PublishPropsOut {
            pieces: self.pieces(&mut pieces),
            message_expiry_s: remaining_s(self.expires_at, now),
            topic_alias: None,
            subscription_identifiers: &[],
        };
        let payload = self.publish.payload;
        encode_publish_parts(&mut bytes, version, false, qos, false, self.topic, packet_id, &properties, payload)
            .ok()?;
        Some(Encoded {
            packet_id_at: packet_id_at(bytes.len(), self.topic.len()),
            payload_at: bytes.len() - payload.len(),
            bytes: bytes.into(),
        })
    }

    fn pieces<'b>(&self, into: &'b mut [&'a [u8]; PIECES_MAX]) -> &'b [&'a [u8]] {
        let mut count = 0;
        for (slot, piece) in into.iter_mut().zip(self.publish.properties.forwardable()) {
            *slot = piece;
            count += 1;
        }
        &into[..count]
    }

    /// The general way: aliases, identifiers and all.
    fn encode(
        &mut self,
        receiver: Receiver<'_>,
        delivery: &Delivery,
        packet_id: Option<PacketId>,
        dup: bool,
        now: Millis,
    ) -> Option<usize> {
        let mut pieces = [&[][..]; PIECES_MAX];
        let mut properties = PublishPropsOut {
            pieces: self.pieces(&mut pieces),
            message_expiry_s: remaining_s(self.expires_at, now),
            topic_alias: None,
            subscription_identifiers: delivery.identifiers.as_deref().unwrap_or(&[]),
        };
        let payload = self.publish.payload;
        let version = receiver.version;
        let mut topic = self.topic;
        // Without an alias the packet is at its largest but for 3 bytes: an alias is used only where that fits too.
        let length = publish_len(version, delivery.qos, topic.len(), &properties, payload.len());
        if length > receiver.maximum_packet_size {
            return None;
        }
        if length + 4 <= receiver.maximum_packet_size
            && let Some(aliases) = receiver.aliases
            && let Some((alias, known)) = aliases.get(topic)
        {
            properties.topic_alias = Some(alias);
            if known {
                topic = "";
            }
        }
        let buffer = receiver.out.buffer();
        let start = buffer.len();
        let (qos, retain) = (delivery.qos, delivery.retain);
        if encode_publish_parts(buffer, version, dup, qos, retain, topic, packet_id, &properties, payload).is_err() {
            buffer.truncate(start);
            return None;
        }
        Some(buffer.len() - start)
    }

    /// The packet for another shard: parsed again over there, by the same code, in the version that is answered.
    pub(crate) fn encode_for_link(&self, into: &mut Vec<u8>) -> Result<ProtocolVersion, EncodeError> {
        if let Some(raw) = self.raw {
            into.extend_from_slice(raw);
            return Ok(self.version);
        }
        let mut pieces = [&[][..]; PIECES_MAX];
        let properties = PublishPropsOut {
            pieces: self.pieces(&mut pieces),
            message_expiry_s: None,
            topic_alias: None,
            subscription_identifiers: &[],
        };
        let publish = self.publish;
        let packet_id = (publish.qos != QoS::AtMostOnce).then_some(PacketId::MIN);
        let (version, qos, retain) = (ProtocolVersion::V5, publish.qos, publish.retain);
        let payload = publish.payload;
        encode_publish_parts(into, version, false, qos, retain, self.topic, packet_id, &properties, payload)?;
        Ok(version)
    }
}

/// Offset of the packet identifier in a PUBLISH of `length` bytes.
fn packet_id_at(length: usize, topic_len: usize) -> usize {
    // The remaining length takes one byte up to 127, and so on; the whole packet is that and its header.
    let header = match length {
        0..=129 => 2,
        130..=16_386 => 3,
        16_387..=2_097_155 => 4,
        _ => 5,
    };
    header + 2 + topic_len
}
