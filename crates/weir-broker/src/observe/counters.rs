//! Counters of the core by endpoint, and gauges.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::ids::{EndpointId, Millis};
use crate::observe::InternalErrors;
use weir_mqtt::QoS;

/// Why a message went no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Dropped {
    /// QoS 0 for a subscriber that does not keep up.
    Slow,
    /// The session's queue is full.
    QueueFull,
    /// The message expired.
    Expired,
    /// Larger than the receiver's Maximum Packet Size, or to be retained and larger than an entry of a cluster's log may be.
    TooLarge,
    /// The publisher may not publish there.
    NotAuthorized,
    /// The receiver lost the right to it; or it was a will, and its client the right to send it.
    Revoked,
    /// No member of a shared subscription could take it.
    NoMember,
    /// Its topic has too many levels, or its payload is not the UTF-8 it claims to be.
    Invalid,
    /// The disk that it had to be kept on is full.
    StoreFull,
    /// Its endpoint's publishers, or all of the node's, have retained as much as they may.
    RetainedFull,
    /// An interceptor rejected it.
    Intercepted,
    /// An interceptor rejected its delivery to a receiver.
    DeliveryIntercepted,
    /// An interceptor panicked: about a message, or about a CONNECT or a subscription, which count here, too.
    InterceptorPanic,
}

impl Dropped {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Slow,
        Self::QueueFull,
        Self::Expired,
        Self::TooLarge,
        Self::NotAuthorized,
        Self::Revoked,
        Self::NoMember,
        Self::Invalid,
        Self::StoreFull,
        Self::RetainedFull,
        Self::Intercepted,
        Self::DeliveryIntercepted,
        Self::InterceptorPanic,
    ];

    /// The metric's label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Slow => "slow",
            Self::QueueFull => "queue_full",
            Self::Expired => "expired",
            Self::TooLarge => "too_large",
            Self::NotAuthorized => "not_authorized",
            Self::Revoked => "revoked",
            Self::NoMember => "no_member",
            Self::Invalid => "invalid",
            Self::StoreFull => "store_full",
            Self::RetainedFull => "retained_full",
            Self::Intercepted => "intercepted",
            Self::DeliveryIntercepted => "delivery_intercepted",
            Self::InterceptorPanic => "interceptor_panic",
        }
    }
}

/// Counters of one endpoint in one core. They only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointCounters {
    /// PUBLISH packets from clients.
    pub messages_received: u64,
    /// PUBLISH packets to clients.
    pub messages_sent: u64,
    /// Bytes fed to the core.
    pub bytes_received: u64,
    /// Bytes of PUBLISH packets to clients.
    pub bytes_sent: u64,
    /// By [`Dropped`].
    pub dropped: [u64; Dropped::ALL.len()],
    /// Connections ended for breaking the protocol.
    pub protocol_errors: u64,
    /// Publishes, subscriptions and wills that an acl refused, and what an interceptor rejected as not authorized.
    pub authorization_failures: u64,
}

/// A connection and its session, for the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionDetail {
    /// The client id.
    pub client_id: String,
    /// The keep alive in use, seconds; 0: none.
    pub keep_alive_s: u16,
    /// `u32::MAX`: never.
    pub session_expiry_s: u32,
    /// Filters, shared ones as `$share/group/filter`.
    pub subscriptions: Vec<String>,
    /// Messages sent and not yet acknowledged.
    pub inflight: usize,
    /// Messages that wait.
    pub queued: usize,
    /// Bytes of the queued messages.
    pub queued_bytes: u64,
    /// Bytes that wait for the socket.
    pub waiting_bytes: usize,
    /// It did not keep up lately: no publisher is paused for it.
    pub slow: bool,
    /// Its reading pauses, for a slow receiver or for its rate.
    pub paused: bool,
    /// Messages that the session did not get, since it began.
    pub dropped: u32,
    /// PUBLISH packets from the client and to it, since it connected.
    pub messages_received: u64,
    /// PUBLISH packets sent to it.
    pub messages_sent: u64,
}

/// A session with messages that wait for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backlog {
    /// The client id.
    pub client_id: String,
    /// Of the endpoint it is, or was last, connected to.
    pub endpoint: EndpointId,
    /// Whether a client is connected to the session.
    pub connected: bool,
    /// Messages sent and not acknowledged.
    pub inflight: usize,
    /// Messages that wait in the queue.
    pub queued: usize,
    /// Bytes of those in the queue.
    pub queued_bytes: u64,
    /// Bytes that wait for the socket.
    pub waiting_bytes: u64,
    /// It did not keep up lately.
    pub slow: bool,
    /// Messages that the session did not get, since it began.
    pub dropped: u32,
}

impl Backlog {
    /// The weight of a backlog: larger is worse.
    pub fn weight(&self) -> (u64, u32) {
        (self.queued_bytes.saturating_add(self.waiting_bytes), self.dropped)
    }
}

/// The position from which to continue listing retained messages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RetainedPosition {
    /// The core's number of a namespace.
    pub namespace: u32,
    /// The topic that was listed last there; empty: none.
    pub after: String,
}

/// A retained message, without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetainedTopic {
    /// The namespace.
    pub namespace: Arc<str>,
    /// The topic.
    pub topic: String,
    /// The QoS at which it was published.
    pub qos: QoS,
    /// Length of the payload, bytes.
    pub payload_bytes: usize,
    /// Milliseconds until it expires; `None`: it does not.
    pub expires_in_ms: Option<Millis>,
}

/// Gauges of a core.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreGauges {
    /// Open connections.
    pub connections: usize,
    /// Sessions, with those of offline clients.
    pub sessions: usize,
    /// Those of them on disk whose slots another node of the cluster owns, or none: their clients cannot reach them.
    pub unowned_sessions: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Retained messages.
    pub retained_messages: usize,
    /// Bytes of the retained messages.
    pub retained_bytes: usize,
    /// Messages sent and not acknowledged.
    pub inflight: usize,
    /// Messages that wait in queues.
    pub queued: usize,
    /// Internal inconsistencies since the start: defects of the broker.
    pub internal_errors: InternalErrors,
    /// The same by endpoint.
    pub endpoints: BTreeMap<EndpointId, EndpointGauges>,
}

/// Gauges of the sessions of one endpoint: those that are, or were last, connected to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndpointGauges {
    /// Sessions, with those of offline clients.
    pub sessions: usize,
    /// Those of them whose client is offline.
    pub offline: usize,
    /// Subscriptions.
    pub subscriptions: usize,
    /// Messages sent and not acknowledged.
    pub inflight: usize,
    /// Messages that wait in queues.
    pub queued: usize,
    /// Bytes of those in queues.
    pub queued_bytes: u64,
}

impl EndpointGauges {
    fn add(&mut self, other: &Self) {
        self.sessions += other.sessions;
        self.offline += other.offline;
        self.subscriptions += other.subscriptions;
        self.inflight += other.inflight;
        self.queued += other.queued;
        self.queued_bytes += other.queued_bytes;
    }
}

impl CoreGauges {
    /// Adds what another core holds.
    pub fn add(&mut self, other: &Self) {
        self.connections += other.connections;
        self.sessions += other.sessions;
        self.unowned_sessions += other.unowned_sessions;
        self.subscriptions += other.subscriptions;
        self.retained_messages += other.retained_messages;
        self.retained_bytes += other.retained_bytes;
        self.inflight += other.inflight;
        self.queued += other.queued;
        self.internal_errors.add(&other.internal_errors);
        for (endpoint, gauges) in &other.endpoints {
            self.endpoints.entry(*endpoint).or_default().add(gauges);
        }
    }
}

/// The queue and the window of one client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Messages that have not been sent, and their bytes.
    pub queued: u64,
    /// Bytes of the queued messages.
    pub queued_bytes: u64,
    /// Messages sent and not yet acknowledged.
    pub inflight: u64,
}
