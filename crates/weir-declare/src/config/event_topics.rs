//! `events`: the events that are published as messages.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{EventPattern, Origin};

/// The events that are published below `$events/`. There is one such document at most.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EventTopics {
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// Topic filters below `$events/`; each selects a kind of event at least.
    pub topics: Vec<Arc<str>>,
    /// Topic filters of the messages that events of messages are about; empty: all messages.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub message_topics: Vec<Arc<str>>,
    /// How long the newest event of each kind is retained, seconds; 0: none is.
    #[serde(default)]
    pub retain_s: u32,
}

impl EventTopics {
    /// The selected kinds, as bits; see [`super::EventKind::bit`].
    pub fn bits(&self) -> u32 {
        let patterns = self.topics.iter().filter_map(|topic| EventPattern::parse(topic).ok());
        patterns.fold(0, |bits, pattern| bits | pattern.bits())
    }
}
