//! The control plane's handle of the data plane: it hides the threads and their mailboxes.

mod drain;
mod start;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use socket2::Socket;
use tokio::sync::oneshot;

pub use self::start::DataPlaneConfig;
use super::acceptor::Command;
use super::delivery_latency::{DeliverDurations, DeliveryLatency};
use super::mailbox::Mailbox;
use super::policy::ListenerPolicy;
use super::relay::{RelayEvent, RelayHandle, RelayMessage};
use super::shard::{AcceptedConnection, Control, HandOver, ShardEvent};
use super::socket::{BoundSocket, ListenerStatus, SocketKey, SocketOptions, SocketPool};
use super::stats::{AllEndpointMetrics, ConnectionGuard, EndpointStats, PendingGuard};
use super::stream::Stream;
use super::threads::{TaskThread, Threads};
use crate::auth::AuthCounters;
use crate::events::EventHub;
use weir_broker::{Batch, EndpointId, EndpointPolicy, MemoryAccount, Millis, ShardId, home_shard};

/// One change of the listeners. All changes of one [`DataPlane::install`] take effect together, between two accepts.
pub enum ListenerChange {
    /// Accepts connections from `socket`. It replaces a listener with the same key, as `Remove` does.
    Add { socket: BoundSocket, policy: Arc<ListenerPolicy> },
    /// Connections accepted from now on have `policy`.
    SetPolicy { key: SocketKey, policy: Arc<ListenerPolicy> },
    /// Accepts the connections in the socket's queue with its present policy, then closes the socket. If a listener
    /// with an overlapping address exists, that one takes over: it gets new connections at once, and for some seconds
    /// also those whose TCP handshake began on the removed one.
    Remove { key: SocketKey },
}

/// Why a request to the data plane failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaneError {
    #[error("the data plane was shut down")]
    Stopped,
    #[error("change {index} of the install names a listener that does not exist")]
    NoSuchListener { index: usize },
    #[error("change {index} of the install failed: {error}")]
    Install { index: usize, error: String },
}

/// A data plane that may have ended: for its own threads, which must not keep it.
pub(super) struct PlaneRef(Weak<Inner>);

impl PlaneRef {
    pub(super) fn get(&self) -> Option<DataPlane> {
        self.0.upgrade().map(|inner| DataPlane { inner })
    }
}

/// The listening sockets, the acceptor and the shards. Cheap to clone; all clones refer to the same data plane.
#[derive(Clone)]
pub struct DataPlane {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<SocketPool>,
    endpoint_metrics: Arc<AllEndpointMetrics>,
    delivery_latency: Arc<DeliveryLatency>,
    memory: MemoryAccount,
    auth_counters: AuthCounters,
    shards: Vec<Arc<Mailbox<ShardEvent>>>,
    /// The newest policy of every endpoint that listens.
    policies: Mutex<HashMap<EndpointId, Arc<ListenerPolicy>>>,
    is_durable: bool,
    threads: Threads,
    events: Arc<EventHub>,
    epoch: Instant,
    sequence: Arc<AtomicU64>,
    accepts_clients: Arc<AtomicBool>,
    relay: Option<RelayHandle>,
}

impl Inner {
    fn tell_relay(&self, event: RelayEvent) {
        if let Some(relay) = &self.relay {
            relay.send(event);
        }
    }

    fn send_to_acceptor(&self, command: Command) {
        if let Some(first) = self.shards.first() {
            first.send(ShardEvent::Listeners(command));
        }
    }
}

impl Drop for Inner {
    /// The last handle is gone: stops the threads at once.
    fn drop(&mut self) {
        self.send_to_acceptor(Command::Stop { reply: oneshot::channel().0 });
        for shard in &self.shards {
            let reply = oneshot::channel().0;
            shard.send(ShardEvent::Control(Control::Shutdown { grace: Duration::ZERO, reply }));
        }
        self.tell_relay(RelayEvent::Stop { stopped: oneshot::channel().0 });
    }
}

impl DataPlane {
    /// Brings an authenticated client to its home shard.
    pub(super) fn hand_over(&self, hand_over: HandOver) {
        if let Some(shard) = self.home_shard_of(&hand_over.policy.namespace, &hand_over.client_id) {
            shard.send(ShardEvent::HandOver(Box::new(hand_over)));
        }
    }

    /// Gives the relay thread a message of a peer.
    pub fn relay_message(&self, peer: u64, message: RelayMessage) {
        self.inner.tell_relay(RelayEvent::Message { peer, message });
    }

    /// Everything that was relayed to and from a peer is lost.
    pub fn relay_peer_lost(&self, peer: u64) {
        self.inner.tell_relay(RelayEvent::PeerLost(peer));
    }

    /// Whether so much is on the way to a peer that nothing more should be read for it.
    pub fn relay_congested(&self, peer: u64, congested: bool) {
        self.inner.tell_relay(RelayEvent::Congested { peer, congested });
    }

    /// Sessions may have other owners.
    pub fn slots_changed(&self) {
        self.inner.tell_relay(RelayEvent::SlotsChanged);
    }

    /// When the time of the shards was 0: the gateway has the same clock.
    pub fn epoch(&self) -> Instant {
        self.inner.epoch
    }

    /// Sends a batch of the gateway to a shard; see [`DataPlaneConfig::gateway`].
    pub fn deliver_from_gateway(&self, to: ShardId, batch: Batch) {
        let from = ShardId(u16::try_from(self.inner.shards.len()).unwrap_or(u16::MAX));
        if let Some(shard) = self.inner.shards.get(usize::from(to.0)) {
            shard.send(ShardEvent::Batch { from, batch });
        }
    }

    /// Whether new clients are accepted. Where they are not, CONNECT is answered with 0x88 (Server unavailable).
    pub fn set_accepts_clients(&self, accepts: bool) {
        self.inner.accepts_clients.store(accepts, Ordering::Release);
    }

    /// Memory in use by kind, over all shards.
    pub fn memory(&self) -> &MemoryAccount {
        &self.inner.memory
    }

    /// The streams of events.
    pub(super) fn event_hub(&self) -> &Arc<EventHub> {
        &self.inner.events
    }

    /// What authentication counts.
    pub fn auth_counters(&self) -> &AuthCounters {
        &self.inner.auth_counters
    }

    /// Starts a thread for tasks that ends with the data plane.
    pub(super) fn spawn_for_tasks(&self, name: &str, blocking: usize) -> io::Result<TaskThread> {
        self.inner.threads.spawn_for_tasks(name, blocking)
    }

    /// Waits until all threads have ended, after [`DataPlane::shutdown`], or after the last handle was dropped: returns
    /// what waits, and drops this handle.
    pub fn into_join(self) -> impl FnOnce() + Send + 'static {
        let (threads, events) = (self.inner.threads.clone(), Arc::clone(&self.inner.events));
        drop(self);
        move || {
            threads.join();
            events.close();
        }
    }

    /// The core's clock: milliseconds since the data plane started.
    pub fn now(&self) -> Millis {
        Millis::try_from(self.inner.epoch.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// Binds and listens, without accepting: the first step of [`ListenerChange::Add`]. If the address overlaps or
    /// equals that of a live listener, both share the port, so that the same install can remove the other.
    pub fn bind(&self, key: &SocketKey, options: &SocketOptions) -> io::Result<BoundSocket> {
        self.inner.pool.bind(key, options)
    }

    /// Applies all changes together, between two accepts. On an error none is applied.
    pub async fn install(&self, changes: Vec<ListenerChange>) -> Result<(), PlaneError> {
        // Every shard registers the endpoint's policy before any of them gets a connection of it.
        for change in &changes {
            if let ListenerChange::Add { policy, .. } | ListenerChange::SetPolicy { policy, .. } = change {
                self.policies().insert(policy.endpoint.id, Arc::clone(policy));
                for shard in &self.inner.shards {
                    shard.send(ShardEvent::Control(Control::RegisterPolicy { policy: Arc::clone(&policy.endpoint) }));
                }
            }
        }
        let (reply, receiver) = oneshot::channel();
        self.inner.send_to_acceptor(Command::Install { changes, reply });
        let result = receiver.await.map_err(|_| PlaneError::Stopped)?;
        // A removed socket may have kept the port shared.
        self.inner.pool.close_shared_ports();
        result
    }

    /// Applies a new policy to an endpoint's open connections; returns when every shard has applied it.
    pub async fn set_policy(&self, policy: Arc<ListenerPolicy>) -> Result<(), PlaneError> {
        self.policies().insert(policy.endpoint.id, Arc::clone(&policy));
        self.ask_all(|reply| Control::SetPolicy { policy: Arc::clone(&policy), reply }).await.map(|_| ())
    }

    /// Publishes a message of the broker itself at QoS 0. `topic` must be a valid topic name.
    pub fn publish(&self, namespace: &str, topic: &str, payload: Vec<u8>, retain: bool) {
        self.publish_internal(namespace, topic, payload, (retain, None));
    }

    /// The same; `expiry_s`: when it expires, seconds.
    pub(super) fn publish_internal(
        &self,
        namespace: &str,
        topic: &str,
        payload: Vec<u8>,
        (retain, expiry_s): (bool, Option<u32>),
    ) {
        let (namespace, topic) = (namespace.into(), topic.to_owned());
        if let Some(shard) = self.inner.shards.first() {
            shard.send(ShardEvent::Control(Control::Publish { namespace, topic, payload, retain, expiry_s }));
        }
    }

    /// Passes one end of a socket pair to a shard, as a connection from this process. The shard serves it like an
    /// accepted connection; its client id may be a reserved one.
    pub(super) fn open_internal(&self, end: Socket, policy: Arc<ListenerPolicy>, client_id: &str) {
        let guards = self.inner.endpoint_metrics.get_or_create(policy.endpoint.id).open();
        self.open_pair(end, policy, client_id, guards, (None, Vec::new()));
    }

    /// The same, for a client of another node, which has connected from `peer`, with these certificates.
    pub(super) fn open_relayed(
        &self,
        end: Socket,
        policy: Arc<ListenerPolicy>,
        client_id: &str,
        from: (Option<SocketAddr>, Vec<CertificateDer<'static>>),
    ) -> u64 {
        let guards = self.inner.endpoint_metrics.get_or_create(policy.endpoint.id).open_relayed();
        self.open_pair(end, policy, client_id, guards, from)
    }

    fn open_pair(
        &self,
        end: Socket,
        policy: Arc<ListenerPolicy>,
        client_id: &str,
        (guard, pending): (ConnectionGuard, PendingGuard),
        (peer, certificates): (Option<SocketAddr>, Vec<CertificateDer<'static>>),
    ) -> u64 {
        let sequence = self.inner.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        for shard in &self.inner.shards {
            shard.send(ShardEvent::Control(Control::RegisterPolicy { policy: Arc::clone(&policy.endpoint) }));
        }
        let Some(shard) = self.home_shard_of(&policy.endpoint.namespace, client_id) else {
            debug_assert!(false, "every client has a home shard");
            return sequence;
        };
        shard.send(ShardEvent::Accepted(Box::new(AcceptedConnection {
            stream: Stream::new(end, true),
            peer,
            policy,
            guard,
            pending,
            sequence,
            evicts_pending: false,
            over_source_limit: false,
            over_limit: false,
            internal: true,
            certificates,
        })));
        sequence
    }

    /// The newest policy of an endpoint that listens.
    pub(super) fn policy(&self, endpoint: EndpointId) -> Option<Arc<EndpointPolicy>> {
        self.policies().get(&endpoint).map(|policy| Arc::clone(&policy.endpoint))
    }

    /// The newest policy of the endpoint with this name, if it listens.
    pub(super) fn policy_named(&self, name: &str) -> Option<Arc<ListenerPolicy>> {
        // An endpoint that is declared again under the name of a removed one has a higher id.
        let policies = self.policies();
        let named = policies.values().filter(|policy| &*policy.endpoint.name == name);
        named.max_by_key(|policy| policy.endpoint.id).cloned()
    }

    /// Whether durable state is stored.
    pub(crate) fn is_durable(&self) -> bool {
        self.inner.is_durable
    }

    /// Each change is a single operation, so a panic leaves no partial one.
    fn policies(&self) -> MutexGuard<'_, HashMap<EndpointId, Arc<ListenerPolicy>>> {
        self.inner.policies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn home_shard_of(&self, namespace: &str, client_id: &str) -> Option<&Mailbox<ShardEvent>> {
        let shards = &self.inner.shards;
        let home = home_shard(namespace, client_id, u16::try_from(shards.len()).unwrap_or(u16::MAX));
        shards.get(usize::from(home.0)).map(|shard| &**shard)
    }

    /// Every endpoint's counters, by id.
    pub fn stats(&self) -> Vec<EndpointStats> {
        self.inner.endpoint_metrics.read()
    }

    /// Delivery latency of the shards, from a sample.
    pub fn deliver_durations(&self) -> DeliverDurations {
        self.inner.delivery_latency.read()
    }

    /// One endpoint's counters; `None`: it never had a listener.
    pub fn endpoint_stats(&self, endpoint: EndpointId) -> Option<EndpointStats> {
        self.inner.endpoint_metrics.get(endpoint).map(|metrics| metrics.read())
    }

    /// Removes the counters and the policy of an endpoint that was removed.
    pub fn forget_endpoint(&self, endpoint: EndpointId) {
        self.policies().remove(&endpoint);
        self.inner.endpoint_metrics.remove(endpoint);
        for shard in &self.inner.shards {
            shard.send(ShardEvent::Control(Control::UnregisterPolicy { endpoint }));
        }
    }

    /// The status of all listening sockets, read from the sockets themselves, by key.
    pub fn listeners(&self) -> Vec<ListenerStatus> {
        self.inner.pool.statuses()
    }

    /// The status of one listening socket.
    pub fn listener(&self, key: &SocketKey) -> Option<ListenerStatus> {
        self.inner.pool.status(key)
    }

    /// Sends a request to one shard and awaits its reply; `None`: there is no such shard.
    pub(super) async fn ask_one<T>(
        &self,
        shard: u16,
        request: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<Option<T>, PlaneError> {
        let Some(mailbox) = self.inner.shards.get(usize::from(shard)) else { return Ok(None) };
        let (reply, receiver) = oneshot::channel();
        mailbox.send(ShardEvent::Control(request(reply)));
        receiver.await.map(Some).map_err(|_| PlaneError::Stopped)
    }

    /// Sends a request to every shard and awaits all replies.
    pub(super) async fn ask_all<T>(
        &self,
        mut request: impl FnMut(oneshot::Sender<T>) -> Control,
    ) -> Result<Vec<T>, PlaneError> {
        let mut receivers = Vec::with_capacity(self.inner.shards.len());
        for shard in &self.inner.shards {
            let (reply, receiver) = oneshot::channel();
            shard.send(ShardEvent::Control(request(reply)));
            receivers.push(receiver);
        }
        let mut replies = Vec::with_capacity(receivers.len());
        for receiver in receivers {
            replies.push(receiver.await.map_err(|_| PlaneError::Stopped)?);
        }
        Ok(replies)
    }
}
