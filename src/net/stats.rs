//! Counters of each endpoint, shared by the acceptor and all shards.
//!
//! What happens per connection is counted at once; what happens per message is summed up by each shard and added here
//! at most every 100 ms, so that no cache line is fought over on the message path.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::broker::EndpointId;

/// An endpoint's counters at one moment. Totals count from the process's start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EndpointStats {
    pub endpoint: EndpointId,
    /// Open sockets, those before CONNECT included: what `max_connections` bounds.
    pub connections_current: u32,
    pub accepted_total: u64,
    /// Connections whose CONNECT was answered with success.
    pub admitted_total: u64,
    pub bytes_received_total: u64,
    pub bytes_sent_total: u64,
    pub refused: RefusalCounts,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $field:ident),+ $(,)?) => {
        /// Why a connection was closed before it was admitted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Reason { $($variant),+ }

        /// Connections closed before they were admitted, by reason.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        pub struct RefusalCounts { $($(#[$doc])* pub $field: u64),+ }

        impl RefusalCounts {
            /// Each reason's name (as a metric's label) and count.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
                [$((stringify!($field), self.$field)),+].into_iter()
            }
        }

        #[derive(Default)]
        struct Refused { $($field: AtomicU64),+ }

        impl Refused {
            fn cell(&self, reason: Reason) -> &AtomicU64 {
                match reason { $(Reason::$variant => &self.$field),+ }
            }
            fn read(&self) -> RefusalCounts {
                RefusalCounts { $($field: self.$field.load(Ordering::Relaxed)),+ }
            }
        }
    };
}

reasons! {
    /// The endpoint's `max_connections` was reached.
    ConnectionLimit connection_limit,
    /// The node's bound (file descriptors) was reached.
    NodeLimit node_limit,
    /// Above the accept rate, where the endpoint refuses instead of delaying.
    AcceptRate accept_rate,
    /// Displaced by newer ones: too many connections had not yet sent their CONNECT.
    PendingLimit pending_limit,
    /// Not admitted in time.
    HandshakeTimeout handshake_timeout,
    /// More bytes before CONNECT than allowed, or a CONNECT too large.
    HandshakeSize handshake_size,
    /// The peer closed, or the network failed, before CONNECT was complete.
    PeerClosed peer_closed,
    /// PROXY header missing, malformed or of a version that is not admitted.
    ProxyProtocol proxy_protocol,
    /// TLS handshake failed.
    Tls tls,
    /// WebSocket upgrade refused, or a frame against the protocol.
    WebSocket web_socket,
    /// The first packet was no CONNECT, or a malformed one.
    Protocol protocol,
    /// An MQTT version the endpoint does not admit.
    Version version,
    /// Refused by the authentication.
    Authentication authentication,
    /// Refused by the broker core (session limit, client id, will).
    Session session,
    /// The server is shutting down.
    Shutdown shutdown,
}

/// One endpoint's counters.
pub(super) struct EndpointCounters {
    pub(super) endpoint: EndpointId,
    connections: AtomicU32,
    accepted: AtomicU64,
    admitted: AtomicU64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    refused: Refused,
}

impl EndpointCounters {
    fn new(endpoint: EndpointId) -> Self {
        Self {
            endpoint,
            connections: AtomicU32::new(0),
            accepted: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            refused: Refused::default(),
        }
    }

    pub(super) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Acquire)
    }

    /// Counts an accepted connection in; the guard counts it out.
    pub(super) fn open(self: &Arc<Self>) -> Opened {
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        Opened(Arc::clone(self))
    }

    pub(super) fn refused(&self, reason: Reason) {
        self.refused.cell(reason).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn admitted(&self) {
        self.admitted.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn add_bytes(&self, received: u64, sent: u64) {
        self.bytes_received.fetch_add(received, Ordering::Relaxed);
        self.bytes_sent.fetch_add(sent, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> EndpointStats {
        EndpointStats {
            endpoint: self.endpoint,
            connections_current: self.connections(),
            accepted_total: self.accepted.load(Ordering::Relaxed),
            admitted_total: self.admitted.load(Ordering::Relaxed),
            bytes_received_total: self.bytes_received.load(Ordering::Relaxed),
            bytes_sent_total: self.bytes_sent.load(Ordering::Relaxed),
            refused: self.refused.read(),
        }
    }
}

/// A connection that counts as open for as long as this lives: dropped with its socket.
pub(super) struct Opened(Arc<EndpointCounters>);

impl Opened {
    pub(super) fn counters(&self) -> &Arc<EndpointCounters> {
        &self.0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The counters of every endpoint that has, or had, a listener.
#[derive(Default)]
pub(super) struct CounterRegistry(Mutex<HashMap<EndpointId, Arc<EndpointCounters>>>);

impl CounterRegistry {
    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<EndpointCounters>>> {
        // Every write is one map operation: a panic elsewhere while it was held cannot have left it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of(&self, endpoint: EndpointId) -> Arc<EndpointCounters> {
        Arc::clone(self.lock().entry(endpoint).or_insert_with(|| Arc::new(EndpointCounters::new(endpoint))))
    }

    pub(super) fn get(&self, endpoint: EndpointId) -> Option<Arc<EndpointCounters>> {
        self.lock().get(&endpoint).map(Arc::clone)
    }

    pub(super) fn forget(&self, endpoint: EndpointId) {
        self.lock().remove(&endpoint);
    }

    pub(super) fn read(&self) -> Vec<EndpointStats> {
        let mut all: Vec<_> = self.lock().values().map(|counters| counters.read()).collect();
        all.sort_unstable_by_key(|stats| stats.endpoint);
        all
    }
}
