//! Reads of retained messages, as shards name them to each other.

use crate::values::message::Message;

/// The position at which a read continues: the first topic that is not less.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ReadPosition(Box<str>);

impl ReadPosition {
    /// At a topic.
    pub(crate) fn at(topic: &str) -> Self {
        Self(topic.into())
    }

    /// Behind a topic: no topic holds U+0000 [MQTT-4.7.3-2].
    pub(crate) fn after(topic: &str) -> Self {
        Self(format!("{topic}\0").into())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Retained messages that a shard found, and where it goes on; `None`: it has no more.
#[derive(Debug)]
pub(crate) struct RetainedPage {
    pub(crate) messages: Vec<Message>,
    pub(crate) next: Option<ReadPosition>,
}
