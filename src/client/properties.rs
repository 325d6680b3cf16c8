//! What a PUBLISH carries besides topic and payload.

use weir_mqtt::{Publish, PublishProperties, push_user_property};

/// The properties of messages that go out.
#[derive(Debug, Clone, Default)]
pub(crate) struct PublishExtras {
    /// Encoded: what stays the same in every message.
    pub(crate) block: Vec<u8>,
    pub(crate) message_expiry_s: Option<u32>,
    pub(crate) topic_alias: Option<u16>,
}

impl PublishExtras {
    /// Marks the payload as UTF-8 text.
    pub(crate) fn set_utf8(&mut self) {
        self.block.extend_from_slice(&[PAYLOAD_FORMAT_INDICATOR, 1]);
    }

    /// The type of the payload.
    ///
    /// # Errors
    /// It is too long.
    pub(crate) fn set_content_type(&mut self, content_type: &str) -> Result<(), TooLong> {
        self.push(CONTENT_TYPE, content_type.as_bytes())
    }

    /// The topic for a response, which must be a topic name.
    ///
    /// # Errors
    /// It is too long.
    pub(crate) fn set_response_topic(&mut self, topic: &str) -> Result<(), TooLong> {
        self.push(RESPONSE_TOPIC, topic.as_bytes())
    }

    /// Data that the response is to carry.
    ///
    /// # Errors
    /// It is too long.
    pub(crate) fn set_correlation_data(&mut self, data: &[u8]) -> Result<(), TooLong> {
        self.push(CORRELATION_DATA, data)
    }

    /// Adds a user property.
    ///
    /// # Errors
    /// Its name or value is too long.
    pub(crate) fn push_user_property(&mut self, name: &str, value: &str) -> Result<(), TooLong> {
        push_user_property(&mut self.block, name, value).map_err(|_| TooLong)
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.block.is_empty() && self.message_expiry_s.is_none() && self.topic_alias.is_none()
    }

    fn push(&mut self, id: u8, value: &[u8]) -> Result<(), TooLong> {
        let length = u16::try_from(value.len()).map_err(|_| TooLong)?;
        self.block.push(id);
        self.block.extend_from_slice(&length.to_be_bytes());
        self.block.extend_from_slice(value);
        Ok(())
    }
}

/// A text or data of a property is longer than MQTT allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("longer than 65,535 bytes")]
pub(crate) struct TooLong;

// Property identifiers: MQTT 5.0, table 2-4.
const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;

/// The properties of a message that came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct MessageProperties {
    /// 1: the payload is UTF-8 text.
    pub payload_format_indicator: Option<u8>,
    /// How long it may still wait, seconds.
    pub message_expiry_s: Option<u32>,
    /// The type of the payload.
    pub content_type: Option<String>,
    /// The topic for a response.
    pub response_topic: Option<String>,
    /// Data that the response is to carry.
    pub correlation_data: Option<Vec<u8>>,
    /// Names and values, in their order.
    pub user_properties: Vec<(String, String)>,
    /// Of the subscriptions that it matches.
    pub subscription_identifiers: Vec<u32>,
}

impl MessageProperties {
    /// `None`: the message has none.
    pub(crate) fn of(publish: &Publish<'_>) -> Option<Box<Self>> {
        let properties: &PublishProperties<'_> = &publish.properties;
        if properties.raw.is_empty() {
            return None;
        }
        let user = properties.user_properties();
        Some(Box::new(Self {
            payload_format_indicator: properties.payload_format_indicator,
            message_expiry_s: properties.message_expiry_s,
            content_type: properties.content_type.map(str::to_owned),
            response_topic: properties.response_topic.map(str::to_owned),
            correlation_data: properties.correlation_data.map(<[u8]>::to_vec),
            user_properties: user.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            subscription_identifiers: properties.subscription_identifiers().collect(),
        }))
    }
}
