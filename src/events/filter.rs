//! Which events a stream has, and how many of them wait for its reader.

use weir_declare::config::{EventKind, EventPattern, UnknownEventPattern};

/// Which events a stream has, and how many of them may wait for its reader.
///
/// ```
/// use weirmq::events::{EventFilter, EventKind};
/// let clients = EventFilter::topics(["client/#"])?.max_events(1000);
/// let refusals = EventFilter::kinds([EventKind::AuthenticationRefused, EventKind::AuthorizationRefused]);
/// # let _ = (clients, refusals);
/// assert!(EventFilter::topics(["clients/#"]).is_err(), "no kind of event has such a topic");
/// # Ok::<(), weirmq::events::UnknownEventPattern>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    pub(super) bits: u32,
    pub(super) max_events: usize,
    pub(super) max_bytes: usize,
}

/// Events that wait for a reader, and their bytes, where nothing else is asked for.
const MAX_EVENTS: usize = 8192;
const MAX_BYTES: usize = 8 << 20;

impl EventFilter {
    /// Events of the kinds whose [bits](EventKind::bit) are set.
    pub(crate) fn bits(bits: u32) -> Self {
        Self { bits, max_events: MAX_EVENTS, max_bytes: MAX_BYTES }
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
