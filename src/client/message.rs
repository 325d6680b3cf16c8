//! Messages as a program sends and gets them.

use std::sync::Arc;

use bytes::Bytes;
use weir_mqtt::{PacketId, QoS};

use super::driver::Driven;
use super::packets;
use super::properties::{MessageProperties, PublishExtras, TooLong};

/// A message to publish.
#[derive(Debug, Clone)]
#[must_use]
pub struct Publish<'a> {
    pub(super) topic: &'a str,
    pub(super) payload: &'a [u8],
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) extras: PublishExtras,
    pub(super) invalid: Option<TooLong>,
}

impl<'a> Publish<'a> {
    /// A message of QoS 0 that is not retained.
    pub fn new(topic: &'a str, payload: &'a [u8]) -> Self {
        Self { topic, payload, qos: QoS::AtMostOnce, retain: false, extras: PublishExtras::default(), invalid: None }
    }

    /// Sets the QoS.
    pub fn qos(self, qos: QoS) -> Self {
        Self { qos, ..self }
    }

    /// The broker keeps the message as the topic's value; an empty payload removes it.
    pub fn retain(self, retain: bool) -> Self {
        Self { retain, ..self }
    }

    /// How long the message may wait for a receiver, seconds.
    pub fn message_expiry(mut self, seconds: u32) -> Self {
        self.extras.message_expiry_s = Some(seconds);
        self
    }

    /// The type of the payload, as `application/json`.
    pub fn content_type(self, content_type: &str) -> Self {
        self.with(|extras| extras.set_content_type(content_type))
    }

    /// The topic for a response.
    pub fn response_topic(self, topic: &str) -> Self {
        self.with(|extras| extras.set_response_topic(topic))
    }

    /// Data that the response is to carry.
    pub fn correlation_data(self, data: &[u8]) -> Self {
        self.with(|extras| extras.set_correlation_data(data))
    }

    /// Adds a user property.
    pub fn user_property(self, name: &str, value: &str) -> Self {
        self.with(|extras| extras.push_user_property(name, value))
    }

    fn with(mut self, set: impl FnOnce(&mut PublishExtras) -> Result<(), TooLong>) -> Self {
        self.invalid = set(&mut self.extras).err().or(self.invalid);
        self
    }
}

/// A message of a subscription.
#[derive(Debug)]
pub struct Message {
    received: packets::Message,
    payload: Bytes,
    client: Arc<Driven>,
}

impl Message {
    pub(super) fn new(mut received: packets::Message, client: Arc<Driven>) -> Self {
        let payload = Bytes::from(std::mem::take(&mut received.payload));
        Self { received, payload, client }
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.received.topic
    }

    /// The payload.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The payload as text; `None`: it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        std::str::from_utf8(&self.payload).ok()
    }

    /// The QoS at which it was delivered.
    pub fn qos(&self) -> QoS {
        self.received.qos
    }

    /// Whether it is the retained message of its topic, sent because of a new subscription.
    pub fn retain(&self) -> bool {
        self.received.retain
    }

    /// Whether it may have been delivered before.
    pub fn is_duplicate(&self) -> bool {
        self.received.dup
    }

    /// What it carries besides its payload; `None`: nothing.
    pub fn properties(&self) -> Option<&MessageProperties> {
        self.received.properties.as_deref()
    }

    /// Acknowledges a message of QoS 1 or 2: the broker forgets it. A message that is dropped without this is sent again when
    /// the session is resumed. At QoS 0 it does nothing.
    pub fn ack(self) {
        if let Some(id) = self.packet_id() {
            self.client.acknowledge(id);
        }
    }

    fn packet_id(&self) -> Option<PacketId> {
        self.received.packet_id.filter(|_| self.received.qos != QoS::AtMostOnce)
    }
}
