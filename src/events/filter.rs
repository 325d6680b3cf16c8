//! Which events a stream has, and how many of them wait for its reader.

use std::sync::Arc;

use weir_broker::MessageTopics;
use weir_declare::config::{EventKind, EventPattern, UnknownEventPattern};

/// Which events a stream has, and how many of them may wait for its reader.
///
/// ```
/// use weirmq::events::{EventFilter, EventKind};
/// let clients = EventFilter::topics(["client/#"])?.max_events(1000);
/// let messages = EventFilter::topics(["message/#"])?.message_topics(["sensor/+/temp"])?;
/// let refusals = EventFilter::kinds([EventKind::AuthenticationRefused, EventKind::AuthorizationRefused]);
/// # let _ = (clients, messages, refusals);
/// assert!(EventFilter::topics(["clients/#"]).is_err(), "no kind of event has such a topic");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    pub(super) bits: u32,
    pub(super) message_topics: MessageTopics,
    pub(super) max_events: usize,
    pub(super) max_bytes: usize,
}

/// A text that [`EventFilter::message_topics`] does not take.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("topic filter {filter:?} {problem}")]
#[non_exhaustive]
pub struct InvalidMessageTopic {
    /// The text.
    pub filter: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Events that wait for a reader, and their bytes, where nothing else is asked for.
const MAX_EVENTS: usize = 8192;
const MAX_BYTES: usize = 8 << 20;

impl EventFilter {
    /// Events of the kinds whose [bits](EventKind::bit) are set.
    pub(crate) fn bits(bits: u32) -> Self {
        Self { bits, message_topics: None, max_events: MAX_EVENTS, max_bytes: MAX_BYTES }
    }

    /// Limits events of messages to these topic filters, which are valid; none: all messages.
    pub(crate) fn limit_messages(&mut self, filters: &[Arc<str>]) {
        self.message_topics =
            (!filters.is_empty()).then(|| filters.iter().map(|filter| Box::from(&**filter)).collect());
    }

    /// Events of every kind.
    pub fn all() -> Self {
        Self::kinds(EventKind::ALL.iter().copied())
    }

    /// Events of these kinds.
    pub fn kinds(kinds: impl IntoIterator<Item = EventKind>) -> Self {
        Self::bits(kinds.into_iter().fold(0, |bits, kind| bits | kind.bit()))
    }

    /// Events whose topic matches one of these topic filters: `client/#`, `message/dropped`.
    ///
    /// # Errors
    /// A topic filter matches no kind of event.
    pub fn topics<T: AsRef<str>>(topics: impl IntoIterator<Item = T>) -> Result<Self, UnknownEventPattern> {
        let bits = topics.into_iter().map(|topic| Ok(EventPattern::parse(topic.as_ref())?.bits()));
        Ok(Self::bits(bits.collect::<Result<Vec<u32>, _>>()?.into_iter().fold(0, |all, bits| all | bits)))
    }

    /// Events of messages (`message/#`) only for messages whose topic matches one of these topic filters; otherwise, for all.
    ///
    /// # Errors
    /// One is not a topic filter.
    pub fn message_topics<T: AsRef<str>>(
        mut self,
        filters: impl IntoIterator<Item = T>,
    ) -> Result<Self, InvalidMessageTopic> {
        let checked = filters.into_iter().map(|filter| {
            let filter = filter.as_ref();
            let invalid = |problem| InvalidMessageTopic { filter: filter.to_owned(), problem };
            weir_mqtt::validate_topic_filter(filter).map_err(|problem| invalid(problem.to_string()))?;
            Ok(Box::from(filter))
        });
        self.message_topics = Some(checked.collect::<Result<Arc<[Box<str>]>, _>>()?);
        Ok(self)
    }

    /// How many events may wait for the reader, 1 at least; otherwise 8192. Further ones are counted as missed.
    #[must_use]
    pub fn max_events(mut self, max_events: usize) -> Self {
        self.max_events = max_events.max(1);
        self
    }

    /// How many bytes the events that wait for the reader may take; otherwise 8 MiB. Further ones are counted as missed.
    #[must_use]
    pub fn max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }
}
