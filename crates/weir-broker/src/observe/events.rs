//! Events: what happened to clients, sessions and messages, for those kinds that are wanted.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::observe::counters::Dropped;
use weir_mqtt::{ProtocolVersion, QoS};

/// Events that wait until they are taken, and their bytes; more are counted as missed.
const PENDING_MAX: usize = 8192;
const PENDING_MAX_BYTES: usize = 4 << 20;

/// The kinds of events of a core.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum CoreEventKind {
    /// A client was admitted.
    ClientConnected,
    /// A connection ended.
    ClientDisconnected,
    /// A session began.
    SessionCreated,
    /// A client connected to its session.
    SessionResumed,
    /// Another connection took a session over.
    SessionTakenOver,
    /// A session's expiry interval has passed.
    SessionExpired,
    /// A session was discarded by a clean start, or by the broker.
    SessionDiscarded,
    /// A subscription was made.
    SessionSubscribed,
    /// A subscription was removed.
    SessionUnsubscribed,
    /// An access list denied a publish or a subscription.
    AuthorizationRefused,
    /// A message was accepted from a client.
    MessagePublished,
    /// A message was sent to a client.
    MessageDelivered,
    /// A client has acknowledged a message.
    MessageAcknowledged,
    /// A message was dropped.
    MessageDropped,
}

impl CoreEventKind {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::ClientConnected,
        Self::ClientDisconnected,
        Self::SessionCreated,
        Self::SessionResumed,
        Self::SessionTakenOver,
        Self::SessionExpired,
        Self::SessionDiscarded,
        Self::SessionSubscribed,
        Self::SessionUnsubscribed,
        Self::AuthorizationRefused,
        Self::MessagePublished,
        Self::MessageDelivered,
        Self::MessageAcknowledged,
        Self::MessageDropped,
    ];

    /// The kind's bit in an [`EventMask`].
    pub fn bit(self) -> u32 {
        1 << self as u32
    }
}

/// The kinds that are wanted, as bits, and the topics of the messages whose events are wanted. Shared with the control plane,
/// which changes them.
#[derive(Debug, Clone, Default)]
pub struct EventMask(Arc<Wanted>);

#[derive(Debug, Default)]
struct Wanted {
    bits: AtomicU32,
    /// Counts the changes of `topics`: a core locks them only after a change.
    changes: AtomicU32,
    topics: Mutex<MessageTopics>,
}

/// Topic filters of the messages whose events are wanted; `None`: all messages.
pub type MessageTopics = Option<Arc<[Box<str>]>>;

impl EventMask {
    /// Sets the wanted kinds.
    pub fn set(&self, bits: u32) {
        self.0.bits.store(bits, Ordering::Release);
    }

    /// Sets the topics of the messages that are published, delivered and acknowledged, whose events are wanted.
    pub fn set_message_topics(&self, topics: MessageTopics) {
        *self.0.topics.lock().unwrap_or_else(PoisonError::into_inner) = topics;
        self.0.changes.fetch_add(1, Ordering::Release);
    }

    /// Whether any of the kinds is wanted.
    #[inline]
    pub fn wants(&self, bits: u32) -> bool {
        self.0.bits.load(Ordering::Acquire) & bits != 0
    }
}

/// The client that an event concerns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventClient {
    /// The client id.
    pub client_id: Box<str>,
    /// The endpoint's name.
    pub endpoint: Arc<str>,
    /// Empty: the shared namespace.
    pub namespace: Arc<str>,
    /// Known while it is connected, as is its address.
    pub username: Option<Box<str>>,
    /// The client's address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
}

/// What ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// DISCONNECT of the client, with its reason code.
    ByClient(u8),
    /// The broker, for this reason.
    ByServer(u8),
    /// The socket closed without DISCONNECT.
    Lost,
}

/// What a client was not authorized to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusedAction {
    /// A publish.
    Publish,
    /// A subscription.
    Subscribe,
    /// To have the will of its CONNECT.
    Will,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreEventDetail {
    /// A client was admitted.
    ClientConnected {
        /// The version of MQTT that it speaks.
        version: ProtocolVersion,
        /// Whether it asked for a new session.
        clean_start: bool,
        /// Whether it has a session from before.
        session_present: bool,
        /// Seconds; 0: none.
        keep_alive_s: u16,
        /// Seconds; `u32::MAX`: never.
        session_expiry_s: u32,
    },
    /// A connection ended.
    ClientDisconnected(Ended),
    /// A session began.
    SessionCreated,
    /// A client connected to its session.
    SessionResumed,
    /// By another connection with the same client id.
    SessionTakenOver,
    /// Its expiry is over; or it was 0, and its client is gone.
    SessionExpired,
    /// By a CONNECT with Clean Start.
    SessionDiscarded,
    /// A shared filter as `$share/group/filter`.
    SessionSubscribed {
        /// The filter.
        filter: Box<str>,
        /// The granted QoS.
        qos: QoS,
    },
    /// By the client, or because the rules do not permit it any more.
    SessionUnsubscribed {
        /// The filter.
        filter: Box<str>,
        /// Whether the client asked for it.
        by_client: bool,
    },
    /// `topic`: of the PUBLISH or the will, or the filter.
    AuthorizationRefused {
        /// What was denied.
        action: RefusedAction,
        /// The topic or filter.
        topic: Box<str>,
    },
    /// The broker has accepted it from the client.
    MessagePublished {
        /// The message's topic.
        topic: Box<str>,
        /// Its QoS.
        qos: QoS,
        /// Whether it is retained.
        retain: bool,
        /// Bytes of its payload.
        payload_bytes: usize,
    },
    /// It is sent to the client, or sent again.
    MessageDelivered {
        /// The message's topic.
        topic: Box<str>,
        /// Its QoS.
        qos: QoS,
        /// Whether it is retained.
        retain: bool,
        /// Bytes of its payload.
        payload_bytes: usize,
    },
    /// The client has acknowledged it, by PUBACK or PUBREC with this reason code.
    MessageAcknowledged {
        /// The message's topic.
        topic: Box<str>,
        /// Its QoS.
        qos: QoS,
        /// The acknowledgement's reason code.
        code: u8,
    },
    /// The client is the receiver; where the publisher lost the message, the publisher.
    MessageDropped {
        /// The message's topic.
        topic: Box<str>,
        /// Why it was dropped.
        why: Dropped,
    },
}

impl CoreEventDetail {
    /// The kind of the event.
    pub fn kind(&self) -> CoreEventKind {
        match self {
            Self::ClientConnected { .. } => CoreEventKind::ClientConnected,
            Self::ClientDisconnected(_) => CoreEventKind::ClientDisconnected,
            Self::SessionCreated => CoreEventKind::SessionCreated,
            Self::SessionResumed => CoreEventKind::SessionResumed,
            Self::SessionTakenOver => CoreEventKind::SessionTakenOver,
            Self::SessionExpired => CoreEventKind::SessionExpired,
            Self::SessionDiscarded => CoreEventKind::SessionDiscarded,
            Self::SessionSubscribed { .. } => CoreEventKind::SessionSubscribed,
            Self::SessionUnsubscribed { .. } => CoreEventKind::SessionUnsubscribed,
            Self::AuthorizationRefused { .. } => CoreEventKind::AuthorizationRefused,
            Self::MessagePublished { .. } => CoreEventKind::MessagePublished,
            Self::MessageDelivered { .. } => CoreEventKind::MessageDelivered,
            Self::MessageAcknowledged { .. } => CoreEventKind::MessageAcknowledged,
            Self::MessageDropped { .. } => CoreEventKind::MessageDropped,
        }
    }

    fn text_bytes(&self) -> usize {
        match self {
            Self::SessionSubscribed { filter, .. } | Self::SessionUnsubscribed { filter, .. } => filter.len(),
            Self::AuthorizationRefused { topic, .. }
            | Self::MessagePublished { topic, .. }
            | Self::MessageDelivered { topic, .. }
            | Self::MessageAcknowledged { topic, .. }
            | Self::MessageDropped { topic, .. } => topic.len(),
            _ => 0,
        }
    }
}

/// An event of a core.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CoreEvent {
    /// The client that it is about.
    pub client: EventClient,
    /// What happened.
    pub detail: CoreEventDetail,
}

/// The events since the last call of [`Core::take_events`](crate::Core::take_events), oldest first.
#[derive(Debug, Default)]
pub struct CoreEvents {
    /// The events since the last call, oldest first.
    pub events: Vec<CoreEvent>,
    /// Events that there was no room for, by kind.
    pub missed: [u64; CoreEventKind::ALL.len()],
}

impl CoreEvents {
    /// Whether nothing happened.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty() && self.missed.iter().all(|&count| count == 0)
    }
}

/// The wanted kinds, and the events that wait to be taken.
#[derive(Debug, Default)]
pub(crate) struct EventLog {
    mask: EventMask,
    /// Of the mask, as of its change `topics_as_of`.
    topics: MessageTopics,
    topics_as_of: u32,
    pending: CoreEvents,
    bytes: usize,
}

impl EventLog {
    /// An empty one of these kinds.
    pub(crate) fn of(mask: EventMask) -> Self {
        let topics_as_of = mask.0.changes.load(Ordering::Acquire).wrapping_sub(1);
        Self { mask, topics_as_of, ..Self::default() }
    }

    /// Whether events of the kind are wanted.
    #[inline]
    pub(crate) fn wants(&self, kind: CoreEventKind) -> bool {
        self.mask.wants(kind.bit())
    }

    /// Whether events of a message of this topic are wanted.
    #[cold]
    pub(crate) fn wants_topic(&mut self, topic: &str) -> bool {
        let changes = self.mask.0.changes.load(Ordering::Acquire);
        if changes != self.topics_as_of {
            self.topics = self.mask.0.topics.lock().unwrap_or_else(PoisonError::into_inner).clone();
            self.topics_as_of = changes;
        }
        self.topics.as_ref().is_none_or(|filters| filters.iter().any(|filter| weir_mqtt::matches(filter, topic)))
    }

    pub(crate) fn push(&mut self, client: EventClient, detail: CoreEventDetail) {
        let user = client.username.as_ref().map_or(0, |name| name.len());
        let bytes = size_of::<CoreEvent>() + client.client_id.len() + user + detail.text_bytes();
        if self.pending.events.len() >= PENDING_MAX || self.bytes + bytes > PENDING_MAX_BYTES {
            self.pending.missed[detail.kind() as usize] += 1;
            return;
        }
        self.bytes += bytes;
        self.pending.events.push(CoreEvent { client, detail });
    }

    pub(crate) fn take(&mut self) -> Option<CoreEvents> {
        if self.pending.is_empty() {
            return None;
        }
        self.bytes = 0;
        Some(std::mem::take(&mut self.pending))
    }
}
