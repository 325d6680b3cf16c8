//! Counters of each endpoint, shared by the acceptor and all shards.
//!
//! Events per connection are counted at once. Events per message are counted by each shard's core, and published here a
//! few times a second, so that shards do not contend for a cache line on the message path.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::source_address::SourceAddress;
use weir_broker::{EndpointCounters, EndpointId};

/// A snapshot of an endpoint's counters. Totals count from the start of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointStats {
    pub endpoint: EndpointId,
    /// Open sockets, those before CONNECT included; `max_connections` limits them.
    pub connections_current: u32,
    /// Of these, the connections that are not admitted yet.
    pub connections_pending: u32,
    pub accepted_total: u64,
    /// Connections that got a CONNACK with success.
    pub admitted_total: u64,
    pub refused: RefusalCounts,
    /// Counters of the cores, summed over all shards; at most a fraction of a second old.
    pub broker: EndpointCounters,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $field:ident),+ $(,)?) => {
        /// Why a connection was closed before it was admitted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum CloseReason { $($variant),+ }

        impl CloseReason {
            /// The reason's name, as in the label of the metric.
            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($field)),+ }
            }
        }

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
            fn counter(&self, reason: CloseReason) -> &AtomicU64 {
                match reason { $(CloseReason::$variant => &self.$field),+ }
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
    /// The endpoint's `max_connections_per_address` was reached.
    AddressLimit address_limit,
    /// The node's connection limit (file descriptors) was reached.
    NodeLimit node_limit,
    /// Above the accept rate, if the endpoint refuses instead of delaying.
    AcceptRate accept_rate,
    /// Closed in favour of newer connections: too many were pending, and its source had the most of them.
    PendingLimit pending_limit,
    /// Refused since its source had the endpoint's maximum of pending connections, or closed for a newer one of them.
    PendingAddressLimit pending_address_limit,
    /// The node is not in its cluster, or not ready there.
    NodeOut node_out,
    /// Not admitted before the handshake timeout.
    HandshakeTimeout handshake_timeout,
    /// Closed since too many TLS handshakes of its source, or of the node, waited for a thread.
    HandshakeQueue handshake_queue,
    /// More bytes before CONNECT than allowed, or a CONNECT too large.
    HandshakeSize handshake_size,
    /// The peer closed, or the network failed, before CONNECT was complete.
    PeerClosed peer_closed,
    /// PROXY header missing, malformed, of an unknown version, or from an untrusted source.
    ProxyProtocol proxy_protocol,
    /// TLS handshake failed.
    Tls tls,
    /// WebSocket upgrade refused, or a frame that violates the protocol.
    WebSocket web_socket,
    /// The first packet was not a CONNECT, or was malformed.
    Protocol protocol,
    /// An MQTT version the endpoint does not admit.
    Version version,
    /// Refused by authentication.
    Authentication authentication,
    /// Too many authentications of its address or its endpoint were waiting.
    AuthBusy auth_busy,
    /// Too many failed attempts of its address or its user before.
    AuthRate auth_rate,
    /// Refused by the broker core (session limit, client id, will).
    Session session,
    /// Closed after its admission: it had a large incomplete packet, and those of all connections had no room.
    PartialPackets partial_packets,
    /// The server is shutting down.
    Shutdown shutdown,
}

/// One endpoint's counters.
pub(super) struct EndpointMetrics {
    endpoint: EndpointId,
    connections: AtomicU32,
    pending: AtomicU32,
    /// Open sockets of the node.
    node: Arc<AtomicU32>,
    accepted: AtomicU64,
    admitted: AtomicU64,
    refused: Refused,
    /// Open connections by address, of those accepted while a limit per address was in effect.
    addresses: Mutex<HashMap<IpAddr, u32>>,
    /// Pending connections by source.
    pending_by_source: Mutex<HashMap<SourceAddress, u32>>,
    /// The counters of each shard.
    shards: Mutex<Vec<EndpointCounters>>,
}

/// Every write under these locks is a single operation of the collection, so a panic leaves no partial change.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EndpointMetrics {
    fn new(endpoint: EndpointId, node: Arc<AtomicU32>) -> Self {
        Self {
            endpoint,
            connections: AtomicU32::new(0),
            pending: AtomicU32::new(0),
            node,
            accepted: AtomicU64::new(0),
            admitted: AtomicU64::new(0),
            refused: Refused::default(),
            addresses: Mutex::default(),
            pending_by_source: Mutex::default(),
            shards: Mutex::default(),
        }
    }

    pub(super) fn endpoint(&self) -> EndpointId {
        self.endpoint
    }

    pub(super) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Acquire)
    }

    pub(super) fn pending(&self) -> u32 {
        self.pending.load(Ordering::Acquire)
    }

    /// Counts an accepted connection; dropping the guards uncounts it.
    pub(super) fn open(self: &Arc<Self>) -> (ConnectionGuard, PendingGuard) {
        self.connections.fetch_add(1, Ordering::AcqRel);
        self.accepted.fetch_add(1, Ordering::Relaxed);
        self.guards(true)
    }

    /// Counts a connection above the limit, which gets a CONNACK with the reason: it is not a connection of the
    /// endpoint.
    pub(super) fn open_over_limit(self: &Arc<Self>) -> (ConnectionGuard, PendingGuard) {
        self.guards(false)
    }

    /// Counts a connection whose socket another node of the cluster has, where its limits apply and it is counted.
    pub(super) fn open_relayed(self: &Arc<Self>) -> (ConnectionGuard, PendingGuard) {
        self.guards(false)
    }

    fn guards(self: &Arc<Self>, counted: bool) -> (ConnectionGuard, PendingGuard) {
        self.pending.fetch_add(1, Ordering::AcqRel);
        self.node.fetch_add(1, Ordering::AcqRel);
        let guard = ConnectionGuard { metrics: Arc::clone(self), counted, address: None };
        (guard, PendingGuard { metrics: Arc::clone(self), source: None })
    }

    pub(super) fn count_refused(&self, reason: CloseReason) {
        self.refused.counter(reason).fetch_add(1, Ordering::Relaxed);
    }

    /// Publishes the counters of one shard.
    pub(super) fn publish(&self, shard: u16, counters: &EndpointCounters) {
        let mut shards = lock(&self.shards);
        let index = usize::from(shard);
        if shards.len() <= index {
            shards.resize(index + 1, EndpointCounters::default());
        }
        shards[index].clone_from(counters);
    }

    pub(super) fn read(&self) -> EndpointStats {
        let mut broker = EndpointCounters::default();
        for counters in lock(&self.shards).iter() {
            broker.messages_received += counters.messages_received;
            broker.messages_sent += counters.messages_sent;
            broker.bytes_received += counters.bytes_received;
            broker.bytes_sent += counters.bytes_sent;
            broker.protocol_errors += counters.protocol_errors;
            broker.authorization_failures += counters.authorization_failures;
            for (sum, dropped) in broker.dropped.iter_mut().zip(counters.dropped) {
                *sum += dropped;
            }
        }
        EndpointStats {
            endpoint: self.endpoint,
            connections_current: self.connections(),
            connections_pending: self.pending(),
            accepted_total: self.accepted.load(Ordering::Relaxed),
            admitted_total: self.admitted.load(Ordering::Relaxed),
            refused: self.refused.read(),
            broker,
        }
    }
}

/// Counts a connection as open while it lives; dropped with the socket.
pub(super) struct ConnectionGuard {
    metrics: Arc<EndpointMetrics>,
    /// Whether it counts as a connection of the endpoint, or only as a socket of the node.
    counted: bool,
    address: Option<Box<IpAddr>>,
}

impl ConnectionGuard {
    pub(super) fn metrics(&self) -> &Arc<EndpointMetrics> {
        &self.metrics
    }

    /// The endpoint whose limits count the connection.
    pub(super) fn counts_for(&self) -> Option<EndpointId> {
        self.counted.then_some(self.metrics.endpoint)
    }

    pub(super) fn count_admitted(&self) {
        if self.counted {
            self.metrics.admitted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts the connection under its address; `false`: `max` connections from there are open already.
    pub(super) fn claim_address(&mut self, address: IpAddr, max: u32) -> bool {
        let mut addresses = lock(&self.metrics.addresses);
        let open = addresses.entry(address).or_insert(0);
        if *open >= max {
            return false;
        }
        *open += 1;
        self.address = Some(Box::new(address));
        true
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        if self.counted {
            self.metrics.connections.fetch_sub(1, Ordering::AcqRel);
        }
        self.metrics.node.fetch_sub(1, Ordering::AcqRel);
        if let Some(address) = self.address.take() {
            let mut addresses = lock(&self.metrics.addresses);
            if let Some(open) = addresses.get_mut(&*address) {
                *open -= 1;
                if *open == 0 {
                    addresses.remove(&*address);
                }
            }
        }
    }
}

/// Counts a connection as not yet admitted while it lives.
pub(super) struct PendingGuard {
    metrics: Arc<EndpointMetrics>,
    source: Option<SourceAddress>,
}

impl PendingGuard {
    /// Counts the connection under its source too; `false`: `max` pending connections of the endpoint are from there, and
    /// it is not counted.
    pub(super) fn claim_source(&mut self, source: SourceAddress, max: u32) -> bool {
        let mut by_source = lock(&self.metrics.pending_by_source);
        let pending = by_source.entry(source).or_insert(0);
        if *pending >= max {
            return false;
        }
        *pending += 1;
        self.source = Some(source);
        true
    }

    /// The source under which it is counted.
    pub(super) fn source(&self) -> Option<SourceAddress> {
        self.source
    }

    /// The number of the endpoint's pending connections from its source; 0: it is not counted under any.
    pub(super) fn pending_of_source(&self) -> u32 {
        let by_source = lock(&self.metrics.pending_by_source);
        self.source.and_then(|source| by_source.get(&source).copied()).unwrap_or(0)
    }
}

impl Drop for PendingGuard {
    fn drop(&mut self) {
        self.metrics.pending.fetch_sub(1, Ordering::AcqRel);
        if let Some(source) = self.source {
            let mut by_source = lock(&self.metrics.pending_by_source);
            if let Some(pending) = by_source.get_mut(&source) {
                *pending -= 1;
                if *pending == 0 {
                    by_source.remove(&source);
                }
            }
        }
    }
}

/// The metrics of every endpoint that has, or had, a listener.
#[derive(Default)]
pub(super) struct AllEndpointMetrics {
    /// Open sockets of the node.
    node: Arc<AtomicU32>,
    by_endpoint: Mutex<HashMap<EndpointId, Arc<EndpointMetrics>>>,
}

impl AllEndpointMetrics {
    pub(super) fn node_connections(&self) -> u32 {
        self.node.load(Ordering::Acquire)
    }

    pub(super) fn get_or_create(&self, endpoint: EndpointId) -> Arc<EndpointMetrics> {
        let new = || Arc::new(EndpointMetrics::new(endpoint, Arc::clone(&self.node)));
        Arc::clone(lock(&self.by_endpoint).entry(endpoint).or_insert_with(new))
    }

    pub(super) fn get(&self, endpoint: EndpointId) -> Option<Arc<EndpointMetrics>> {
        lock(&self.by_endpoint).get(&endpoint).map(Arc::clone)
    }

    pub(super) fn remove(&self, endpoint: EndpointId) {
        lock(&self.by_endpoint).remove(&endpoint);
    }

    pub(super) fn read(&self) -> Vec<EndpointStats> {
        let mut all: Vec<_> = lock(&self.by_endpoint).values().map(|metrics| metrics.read()).collect();
        all.sort_unstable_by_key(|stats| stats.endpoint);
        all
    }
}
