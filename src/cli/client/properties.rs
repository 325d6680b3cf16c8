//! The flags for the properties of a message.

use anyhow::{Context, bail};
use weir_mqtt::validate_topic_name;

use crate::client::PublishExtras;

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

impl PropertyArgs {
    /// # Errors
    /// A value that is too long, a response topic with a wildcard, properties of 5.0 for another version.
    pub(in crate::cli) fn extras(&self, is_v5: bool) -> anyhow::Result<PublishExtras> {
        let mut extras = PublishExtras {
            message_expiry_s: self.message_expiry,
            topic_alias: self.topic_alias,
            ..PublishExtras::default()
        };
        if self.utf8 {
            extras.set_utf8();
        }
        if let Some(content_type) = &self.content_type {
            extras.set_content_type(content_type).context("--content-type")?;
        }
        if let Some(topic) = &self.response_topic {
            validate_topic_name(topic).map_err(|problem| anyhow::anyhow!("--response-topic {topic:?} {problem}"))?;
            extras.set_response_topic(topic).context("--response-topic")?;
        }
        if let Some(data) = &self.correlation_data {
            extras.set_correlation_data(data.as_bytes()).context("--correlation-data")?;
        }
        for (name, value) in &self.user_properties {
            extras.push_user_property(name, value).context("--user-property")?;
        }
        if !is_v5 && !extras.is_empty() {
            bail!("properties of messages need MQTT 5.0: -V 5");
        }
        Ok(extras)
    }
}
