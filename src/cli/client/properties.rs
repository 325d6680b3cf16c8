//! What a PUBLISH carries besides topic and payload: the flags of `weir pub`, and what `weir sub` shows.

use anyhow::bail;
use weir_mqtt::{Publish, PublishProperties, push_user_property, validate_topic_name};

/// MQTT 5.0's properties of a message.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "MQTT 5.0 properties")]
pub(in crate::cli) struct PropertyArgs {
    /// Type of the payload, as application/json
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,
    /// Topic for a response
    #[arg(long, value_name = "TOPIC")]
    response_topic: Option<String>,
    /// Data that the response is to carry
    #[arg(long, value_name = "TEXT")]
    correlation_data: Option<String>,
    /// A user property; may be repeated
    #[arg(long = "user-property", value_name = "NAME=VALUE", value_parser = pair)]
    user_properties: Vec<(String, String)>,
    /// Seconds that the broker keeps the message for subscribers that are offline
    #[arg(long, value_name = "S")]
    message_expiry: Option<u32>,
    /// Mark the payload as UTF-8 text
    #[arg(long)]
    utf8: bool,
    /// Send the topic once and this alias from then on
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    topic_alias: Option<u16>,
}

fn pair(text: &str) -> Result<(String, String), &'static str> {
    let (name, value) = text.split_once('=').ok_or("a user property is written NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// The properties of messages that go out.
#[derive(Debug, Clone, Default)]
pub(in crate::cli) struct PublishExtras {
    /// Encoded: what stays the same in every message.
    pub(super) block: Vec<u8>,
    pub(super) message_expiry_s: Option<u32>,
    pub(super) topic_alias: Option<u16>,
}

impl PropertyArgs {
    /// # Errors
    /// A value that is too long, a response topic with a wildcard, properties of 5.0 for another version.
    pub(in crate::cli) fn extras(&self, is_v5: bool) -> anyhow::Result<PublishExtras> {
        let mut block = Vec::new();
        if self.utf8 {
            block.extend_from_slice(&[PAYLOAD_FORMAT_INDICATOR, 1]);
        }
        if let Some(topic) = &self.response_topic {
            validate_topic_name(topic).map_err(|problem| anyhow::anyhow!("--response-topic {topic:?} {problem}"))?;
        }
        for (id, flag, value) in [
            (CONTENT_TYPE, "--content-type", &self.content_type),
            (RESPONSE_TOPIC, "--response-topic", &self.response_topic),
            (CORRELATION_DATA, "--correlation-data", &self.correlation_data),
        ] {
            let Some(value) = value else { continue };
            let Ok(length) = u16::try_from(value.len()) else { bail!("{flag} is longer than 65,535 bytes") };
            block.push(id);
            block.extend_from_slice(&length.to_be_bytes());
            block.extend_from_slice(value.as_bytes());
        }
        for (name, value) in &self.user_properties {
            push_user_property(&mut block, name, value)?;
        }
        let extras = PublishExtras { block, message_expiry_s: self.message_expiry, topic_alias: self.topic_alias };
        let is_empty = extras.block.is_empty() && extras.message_expiry_s.is_none() && extras.topic_alias.is_none();
        if !is_v5 && !is_empty {
            bail!("properties of messages need MQTT 5.0: -V 5");
        }
        Ok(extras)
    }
}

// Property identifiers: MQTT 5.0, table 2-4.
const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
const CONTENT_TYPE: u8 = 0x03;
const RESPONSE_TOPIC: u8 = 0x08;
const CORRELATION_DATA: u8 = 0x09;

/// The properties of a message that came in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct MessageProperties {
    pub(in crate::cli) payload_format_indicator: Option<u8>,
    pub(in crate::cli) message_expiry_s: Option<u32>,
    pub(in crate::cli) content_type: Option<String>,
    pub(in crate::cli) response_topic: Option<String>,
    pub(in crate::cli) correlation_data: Option<Vec<u8>>,
    pub(in crate::cli) user_properties: Vec<(String, String)>,
    pub(in crate::cli) subscription_identifiers: Vec<u32>,
}

impl MessageProperties {
    /// `None`: the message has none.
    pub(super) fn of(publish: &Publish<'_>) -> Option<Box<Self>> {
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
