//! From those that report events to the streams that have them. Reporting never waits: neither for a lock nor for a reader.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use futures_core::Stream;
use tokio::sync::mpsc;

use super::event::Event;
use super::filter::EventFilter;
use super::of_core::kind_of_core;
use weir_broker::{CoreEventKind, CoreEvents, EventMask, MessageTopics};
use weir_declare::config::EventKind;

/// The streams of a server.
#[derive(Debug, Default)]
pub(crate) struct EventHub {
    /// The kinds that any stream has, for the shards' cores and for [`EventHub::wants`].
    core_mask: EventMask,
    mask: EventMask,
    streams: ArcSwap<Vec<Arc<Sender>>>,
    /// Serializes changes of `streams` and of the masks.
    changes: Mutex<()>,
    next_id: AtomicU64,
    missed: AtomicU64,
}

/// The sending side of a stream.
#[derive(Debug)]
struct Sender {
    id: u64,
    bits: u32,
    message_topics: MessageTopics,
    max_bytes: usize,
    events: mpsc::Sender<Event>,
    shared: Arc<Shared>,
}

/// What both sides of a stream count.
#[derive(Debug, Default)]
struct Shared {
    bytes: AtomicUsize,
    missed: AtomicU64,
}

impl EventHub {
    /// The kinds that cores make events of.
    pub(crate) fn core_mask(&self) -> EventMask {
        self.core_mask.clone()
    }

    /// Whether a stream has events of the kind: one load.
    #[inline]
    pub(crate) fn wants(&self, kind: EventKind) -> bool {
        self.mask.wants(kind.bit())
    }

    /// Opens a stream.
    pub(crate) fn open(self: &Arc<Self>, filter: &EventFilter) -> Events {
        let (events, receiver) = mpsc::channel(filter.max_events);
        let shared = Arc::<Shared>::default();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let sender = Sender {
            id,
            bits: filter.bits,
            message_topics: filter.message_topics.clone(),
            max_bytes: filter.max_bytes,
            events,
            shared: Arc::clone(&shared),
        };
        self.change(|streams| streams.push(Arc::new(sender)));
        Events { id, receiver, shared, hub: Arc::downgrade(self) }
    }

    /// Ends all streams: their readers get what waits, then the end.
    pub(crate) fn close(&self) {
        self.change(Vec::clear);
    }

    /// Events that all streams together have missed since the start.
    pub(crate) fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Arc<Sender>>)) {
        // Each change is a single operation, so a panic leaves no partial one.
        let _serialized = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut streams = self.streams.load().as_ref().clone();
        change(&mut streams);
        let bits = streams.iter().fold(0, |bits, stream| bits | stream.bits);
        let message_topics = message_topics(&streams);
        // A stream has all events from the moment that it is open: it is there before its kinds are made.
        self.streams.store(Arc::new(streams));
        self.mask.set(bits);
        self.core_mask.set_message_topics(message_topics);
        self.core_mask.set(core_bits(bits));
    }

    /// Reports an event.
    pub(crate) fn publish(&self, event: &Event) {
        let (bit, bytes) = (event.kind().bit(), event.bytes());
        let takes = |stream: &&Arc<Sender>| stream.bits & bit != 0 && stream.takes_message(event);
        for stream in self.streams.load().iter().filter(takes) {
            let waiting = stream.shared.bytes.fetch_add(bytes, Ordering::AcqRel);
            if waiting + bytes > stream.max_bytes || stream.events.try_send(event.clone()).is_err() {
                stream.shared.bytes.fetch_sub(bytes, Ordering::AcqRel);
                self.count_missed(stream, 1);
            }
        }
    }

    /// Reports the events of a core.
    pub(crate) fn publish_core(&self, reported: CoreEvents, at: SystemTime) {
        for event in reported.events {
            self.publish(&Event::of_core(event, at));
        }
        for (kind, count) in CoreEventKind::ALL.into_iter().zip(reported.missed).filter(|&(_, count)| count > 0) {
            let bit = kind_of_core(kind).bit();
            self.streams
                .load()
                .iter()
                .filter(|stream| stream.bits & bit != 0)
                .for_each(|stream| self.count_missed(stream, count));
        }
    }

    fn count_missed(&self, stream: &Sender, count: u64) {
        stream.shared.missed.fetch_add(count, Ordering::Relaxed);
        self.missed.fetch_add(count, Ordering::Relaxed);
    }
}

impl Sender {
    fn takes_message(&self, event: &Event) -> bool {
        let filters = self.message_topics.as_ref().zip(event.message_topic());
        filters.is_none_or(|(filters, topic)| filters.iter().any(|filter| weir_mqtt::matches(filter, topic)))
    }
}

/// The topic filters of all streams that have events of messages; `None`: one has them of all messages.
fn message_topics(streams: &[Arc<Sender>]) -> MessageTopics {
    let kinds = EventFilter::topics(["message/#"]).map_or(0, |filter| filter.bits);
    let of_messages = streams.iter().filter(|stream| stream.bits & kinds != 0);
    let filters: Option<Vec<&[Box<str>]>> = of_messages.map(|stream| stream.message_topics.as_deref()).collect();
    Some(filters?.concat().into())
}

/// The core's kinds among `bits`, as the core's bits.
fn core_bits(bits: u32) -> u32 {
    let wanted = CoreEventKind::ALL.into_iter().filter(|&kind| bits & kind_of_core(kind).bit() != 0);
    wanted.fold(0, |all, kind| all | kind.bit())
}

/// A stream of events, from [`ServerHandle::events`](crate::ServerHandle::events). It ends with the server. When it is
/// dropped, its kinds of events are not made any more.
#[derive(Debug)]
pub struct Events {
    id: u64,
    receiver: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
    hub: Weak<EventHub>,
}

impl Events {
    /// The next event; `None`: the server has ended. Nothing is lost where the future is dropped.
    pub async fn next(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await;
        self.taken(event)
    }

    /// Events that the stream did not get, because too many, or too many bytes, waited for its reader.
    pub fn missed(&self) -> u64 {
        self.shared.missed.load(Ordering::Relaxed)
    }

    fn taken(&self, event: Option<Event>) -> Option<Event> {
        if let Some(event) = &event {
            self.shared.bytes.fetch_sub(event.bytes(), Ordering::AcqRel);
        }
        event
    }
}

impl Stream for Events {
    type Item = Event;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = self.receiver.poll_recv(context);
        event.map(|event| self.taken(event))
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        if let Some(hub) = self.hub.upgrade() {
            hub.change(|streams| streams.retain(|stream| stream.id != self.id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(endpoint: &str) -> Event {
        Event::EndpointClosed { at: SystemTime::UNIX_EPOCH, endpoint: endpoint.to_owned() }
    }

    #[tokio::test]
    async fn a_slow_reader_misses_events_that_are_counted_and_an_unread_kind_is_not_wanted() {
        let hub = Arc::<EventHub>::default();
        assert!(!hub.wants(EventKind::EndpointClosed));
        let mut few = hub.open(&EventFilter::kinds([EventKind::EndpointClosed]).max_events(2));
        let size = closed("a").bytes();
        let mut small = hub.open(&EventFilter::all().max_bytes(size));
        assert!(hub.wants(EventKind::EndpointClosed) && hub.core_mask().wants(u32::MAX));
        for name in ["a", "b", "c"] {
            hub.publish(&closed(name));
        }
        assert_eq!((few.missed(), small.missed(), hub.missed()), (1, 2, 3));
        assert_eq!((few.next().await, few.next().await), (Some(closed("a")), Some(closed("b"))));
        assert_eq!(small.next().await, Some(closed("a")));
        hub.publish(&closed("d"));
        assert_eq!((few.next().await, small.next().await), (Some(closed("d")), Some(closed("d"))));
        drop(small);
        assert!(hub.wants(EventKind::EndpointClosed) && !hub.wants(EventKind::EndpointBound));
        assert!(!hub.core_mask().wants(u32::MAX), "no stream has an event of a core");
        hub.close();
        assert_eq!(few.next().await, None);
        drop(few);
        assert!(!hub.wants(EventKind::EndpointClosed));
    }
}
