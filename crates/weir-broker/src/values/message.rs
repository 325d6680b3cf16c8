//! An application message in storage: one allocation, shared by all queues and windows that hold it.

use std::sync::Arc;

use crate::ids::{Millis, RecordId};
use crate::values::publisher::PublisherIdentity;
use weir_mqtt::{Publish, QoS};

/// A stored message. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    /// Topic, then the forwardable properties, then the payload.
    bytes: Arc<[u8]>,
    topic_len: u16,
    properties_len: u32,
    /// As published; a delivery takes the lesser of this and what was granted.
    pub(crate) qos: QoS,
    /// The publisher's RETAIN flag.
    pub(crate) retain: bool,
    /// When it expires; `Millis::MAX`: never.
    pub(crate) expires_at: Millis,
    /// The publisher of a message that is retained; `None`: the broker itself.
    pub(crate) publisher: Option<Arc<PublisherIdentity>>,
    /// Its record id, if it has a record of its own that durable deliveries refer to.
    pub(crate) record: RecordId,
}

impl Message {
    /// Copies what `publish` borrows. `topic` is the name with its alias resolved.
    pub(crate) fn new(topic: &str, publish: &Publish<'_>, expires_at: Millis) -> Self {
        let properties_len: usize = publish.properties.forwardable().map(<[u8]>::len).sum();
        let mut bytes = Vec::with_capacity(topic.len() + properties_len + publish.payload.len());
        bytes.extend_from_slice(topic.as_bytes());
        publish.properties.forwardable().for_each(|piece| bytes.extend_from_slice(piece));
        bytes.extend_from_slice(publish.payload);
        Self {
            bytes: bytes.into(),
            topic_len: topic.len() as u16,
            properties_len: properties_len as u32,
            qos: publish.qos,
            retain: publish.retain,
            expires_at,
            publisher: None,
            record: RecordId::NONE,
        }
    }

    /// The same, by a publisher that is to be remembered.
    pub(crate) fn published_by(self, publisher: Option<Arc<PublisherIdentity>>) -> Self {
        Self { publisher, ..self }
    }

    /// The same without its record.
    pub(crate) fn unrecorded(self) -> Self {
        Self { record: RecordId::NONE, ..self }
    }

    /// From its parts, as [`Message::topic`] and the others answer them.
    pub(crate) fn from_parts(topic: &str, properties: &[u8], payload: &[u8], qos: QoS, retain: bool) -> Self {
        Self {
            bytes: [topic.as_bytes(), properties, payload].concat().into(),
            topic_len: topic.len() as u16,
            properties_len: properties.len() as u32,
            qos,
            retain,
            expires_at: Millis::MAX,
            publisher: None,
            record: RecordId::NONE,
        }
    }

    pub(crate) fn topic(&self) -> &str {
        // The bytes were a `str` when they came in; a second check costs nanoseconds on a path that queues.
        std::str::from_utf8(&self.bytes[..usize::from(self.topic_len)]).unwrap_or_default()
    }

    pub(crate) fn topic_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.topic_len)]
    }

    pub(crate) fn properties(&self) -> &[u8] {
        let start = usize::from(self.topic_len);
        &self.bytes[start..start + self.properties_len as usize]
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.topic_len) + self.properties_len as usize..]
    }

    /// Bytes it holds.
    pub(crate) fn size(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_expired(&self, now: Millis) -> bool {
        self.expires_at <= now
    }

    /// The message as a PUBLISH to be encoded.
    pub(crate) fn as_publish(&self) -> weir_mqtt::Publish<'_> {
        weir_mqtt::Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic(),
            packet_id: None,
            properties: weir_mqtt::PublishProperties { raw: self.properties(), ..Default::default() },
            payload: self.payload(),
        }
    }
}

/// When a message that may live `expiry_s` from `now` ends, under an endpoint's ceiling.
pub(crate) fn expires_at(expiry_s: Option<u32>, ceiling_s: Option<u32>, now: Millis) -> Millis {
    let seconds = match (expiry_s, ceiling_s) {
        (None, None) => return Millis::MAX,
        (Some(s), None) | (None, Some(s)) => s,
        (Some(s), Some(ceiling)) => s.min(ceiling),
    };
    now.saturating_add(u64::from(seconds) * 1000)
}

/// The expiry to send with a message that ends at `expires_at`: what is left, in seconds, rounded up so that a message
/// still alive never claims 0 [MQTT-3.3.2-6].
pub(crate) fn remaining_s(expires_at: Millis, now: Millis) -> Option<u32> {
    (expires_at != Millis::MAX)
        .then(|| u32::try_from(expires_at.saturating_sub(now).div_ceil(1000)).unwrap_or(u32::MAX))
}
