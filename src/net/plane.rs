//! The control plane's handle of the data plane: it hides the threads and their mailboxes.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use rustls::pki_types::CertificateDer;
use socket2::Socket;
use tokio::sync::oneshot;

use super::acceptor::{AcceptorConfig, Command};
use super::auth_tasks::AuthTasks;
use super::delivery_latency::{DeliverDurations, DeliveryLatency};
use super::drain::{DrainPlan, DrainWhich, newest};
use super::gateway_port::GatewayPort;
use super::mailbox::Mailbox;
use super::policy::ListenerPolicy;
use super::relay::{RelayConfig, RelayEvent, RelayHandle, RelayMessage, RelayThread};
use super::shard::{self, AcceptedConnection, Control, DurableStore, HandOver, ShardContext, ShardEvent};
use super::socket::{BoundSocket, ListenerStatus, SocketKey, SocketOptions, SocketPool};
use super::stats::{AllEndpointMetrics, ConnectionGuard, EndpointStats, PendingGuard};
use super::stream::Stream;
use super::threads::{TaskThread, Threads};
use super::tls_handshakes::TlsHandshakes;
use super::workers::Workers;
use crate::auth::AuthCounters;
use crate::events::EventHub;
use weir_broker::limits::SHARDS_MAX;
use weir_broker::{
    Batch, EndpointId, EndpointPolicy, MemoryAccount, Millis, OfflineSessions, RetainedTotals, ShardId, TotalRates,
    home_shard,
};

/// The memory that everything together may take where nothing is configured.
const DEFAULT_MEMORY_BYTES: usize = 4 << 30;

/// Configuration of the data plane.
#[derive(Debug, Clone)]
pub struct DataPlaneConfig {
    /// Number of shards (threads that serve connections), 1 to [`SHARDS_MAX`].
    pub shards: u16,
    /// Maximum of open connections of the node; `None`: as many as the file descriptor limit allows.
    pub max_connections: Option<u32>,
    /// Maximum of pending connections (accepted, not admitted yet) of the node. Above it, a pending connection of the
    /// source that has the most is closed for each new one.
    pub max_pending_connections: u32,
    /// Memory in use by kind, and its limits.
    pub memory: MemoryAccount,
    /// Number of threads for blocking authentication (password hashes).
    pub workers: u16,
    /// Number of threads for TLS handshakes; `None`: one for each core.
    pub tls_threads: Option<u16>,
    /// Where batches for the gateway of a cluster go; `None`: the node is alone.
    pub gateway: Option<Arc<dyn GatewayPort>>,
    /// How sessions of other nodes of a cluster are reached; `None`: this node has every session.
    pub relay: Option<RelayConfig>,
    /// Raise the process's limit of file descriptors to what the system allows.
    pub raise_descriptor_limit: bool,
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        let (max_pending_connections, memory) = (8192, MemoryAccount::new(DEFAULT_MEMORY_BYTES));
        Self {
            shards: 1,
            max_connections: None,
            max_pending_connections,
            memory,
            workers: 2,
            tls_threads: None,
            gateway: None,
            relay: None,
            raise_descriptor_limit: false,
        }
    }
}

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

/// File descriptors reserved for other uses: listening sockets, files, connections of the control plane.
const OTHER_DESCRIPTORS: u64 = 512;

impl DataPlane {
    /// Starts the threads.
    ///
    /// The configuration has more than [`SHARDS_MAX`] shards, or the system refused a thread or a file descriptor.
    pub fn start(config: &DataPlaneConfig) -> io::Result<DataPlane> {
        Self::begin(config, None)
    }

    /// Starts the threads with a store: restores its state before this returns, and stores durable state there.
    pub fn start_with(config: &DataPlaneConfig, durable_store: DurableStore) -> io::Result<DataPlane> {
        Self::begin(config, Some(durable_store))
    }

    fn begin(config: &DataPlaneConfig, durable_store: Option<DurableStore>) -> io::Result<DataPlane> {
        if config.shards > SHARDS_MAX {
            let message = format!("{} shards are too many: configure at most {SHARDS_MAX}", config.shards);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let epoch = Instant::now();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch_unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let pool = Arc::new(SocketPool::default());
        let endpoint_metrics = Arc::new(AllEndpointMetrics::default());
        let sequence = Arc::new(AtomicU64::new(0));
        let (threads, auth_counters) = (Threads::default(), AuthCounters::default());
        let workers = Workers::start(config.workers, &threads, auth_counters.dropped.clone())?;
        let auth_tasks = AuthTasks::start(&threads)?;
        let cores =
            || thread::available_parallelism().map_or(1, |cores| u16::try_from(cores.get()).unwrap_or(u16::MAX));
        let tls_handshakes = TlsHandshakes::start(config.tls_threads.unwrap_or_else(cores), &threads)?;
        let delivery_latency = Arc::new(DeliveryLatency::default());
        let events = Arc::<EventHub>::default();
        let accepts_clients = Arc::new(AtomicBool::new(config.gateway.is_none()));
        let relay = config.relay.clone().map(RelayThread::new).transpose()?;
        let relay_handle = relay.as_ref().map(RelayThread::handle);
        let shared = Arc::new(ShardContext {
            epoch,
            delivery_latency: Arc::clone(&delivery_latency),
            endpoint_metrics: Arc::clone(&endpoint_metrics),
            workers,
            auth_tasks,
            tls_handshakes,
            pending: AtomicU32::new(0),
            offline_sessions: OfflineSessions::default(),
            total_rates: TotalRates::default(),
            retained: RetainedTotals::default(),
            events: Arc::clone(&events),
            // A node of a cluster accepts clients when it knows what the others have subscribed to.
            accepts_clients: Arc::clone(&accepts_clients),
            relay: relay_handle.clone(),
        });
        let descriptors = descriptor_limit(config.raise_descriptor_limit);
        let affordable = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(descriptors / 2);
        let max_connections =
            config.max_connections.unwrap_or(u32::MAX).min(u32::try_from(affordable).unwrap_or(u32::MAX));
        let acceptor = AcceptorConfig {
            pool: Arc::clone(&pool),
            endpoint_metrics: Arc::clone(&endpoint_metrics),
            sequence: Arc::clone(&sequence),
            max_connections,
        };
        let is_durable = durable_store.is_some();
        let durable_store = durable_store.map(|durable_store| (durable_store, epoch_unix_ms));
        let shards = shard::start(config, &shared, acceptor, durable_store, &threads)?;
        let plane = Self {
            inner: Arc::new(Inner {
                pool,
                endpoint_metrics,
                delivery_latency,
                memory: config.memory.clone(),
                auth_counters,
                shards,
                policies: Mutex::default(),
                is_durable,
                threads,
                events,
                epoch,
                sequence,
                accepts_clients,
                relay: relay_handle,
            }),
        };
        if let Some(relay) = relay {
            let (plane, threads) = (Arc::downgrade(&plane.inner), plane.inner.threads.clone());
            relay.start(PlaneRef(plane), &threads)?;
        }
        Ok(plane)
    }

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

    /// Disconnects connections of an endpoint as planned. Returns their number when DISCONNECT was sent to, or is
    /// scheduled for, all of them. Dropping the future does not stop the drain.
    pub async fn drain(&self, endpoint: EndpointId, plan: DrainPlan) -> Result<u32, PlaneError> {
        let chosen = match plan.which {
            DrainWhich::Newest(_) | DrainWhich::NewestOfAddress(_) => {
                let accepted = self.ask_all(|reply| Control::Sequences { endpoint, reply }).await?.concat();
                Some(Arc::new(newest(accepted, &plan.which)))
            }
            DrainWhich::All | DrainWhich::Before(_) | DrainWhich::Matching(_) => None,
        };
        let plan = Arc::new(plan);
        let until_sequence = self.inner.sequence.load(Ordering::Acquire);
        let (reply, relayed) = oneshot::channel();
        self.inner.tell_relay(RelayEvent::Drain { endpoint, plan: Arc::clone(&plan), reply });
        let drained = self
            .ask_all(|reply| {
                let (plan, chosen) = (Arc::clone(&plan), chosen.clone());
                Control::Drain { endpoint, chosen, until_sequence, plan, reply }
            })
            .await?;
        // Without relayed connections there is no thread that answers.
        Ok(drained.into_iter().sum::<u32>().saturating_add(relayed.await.unwrap_or(0)))
    }

    /// Disconnects these connections of an endpoint, by sequence number.
    pub(super) fn drain_chosen(&self, endpoint: EndpointId, sequences: HashSet<u64>, plan: DrainPlan) {
        let until_sequence = self.inner.sequence.load(Ordering::Acquire);
        let (chosen, plan) = (Arc::new(sequences), Arc::new(plan));
        for shard in &self.inner.shards {
            let (chosen, plan) = (Some(Arc::clone(&chosen)), Arc::clone(&plan));
            let (reply, _) = oneshot::channel();
            shard.send(ShardEvent::Control(Control::Drain { endpoint, chosen, until_sequence, plan, reply }));
        }
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

    /// Stops accepting, sends DISCONNECT 0x8B (server shutting down; 5.0) to each client when it has nothing in flight,
    /// or after half of `grace`, and stops the threads when all connections are closed or `grace` is over.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), PlaneError> {
        let (reply, receiver) = oneshot::channel();
        self.inner.send_to_acceptor(Command::Stop { reply });
        receiver.await.map_err(|_| PlaneError::Stopped)?;
        let (relayed, relayed_closed) = oneshot::channel();
        let grace_ms = Millis::try_from(grace.as_millis()).unwrap_or(Millis::MAX);
        self.inner.tell_relay(RelayEvent::Shutdown { grace: grace_ms, closed: relayed });
        let closed = self.ask_all(|reply| Control::Shutdown { grace, reply }).await.map(|_| ());
        let _ = relayed_closed.await;
        let (stopped, receiver) = oneshot::channel();
        self.inner.tell_relay(RelayEvent::Stop { stopped });
        // Without relayed connections there is no thread that answers.
        let _ = receiver.await;
        closed
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

/// The limit of file descriptors; `raise` sets the soft limit to the hard limit first.
fn descriptor_limit(raise: bool) -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if !raise {
        return current.unwrap_or(u64::MAX);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, ?current, "file descriptor limit not raised");
            current.unwrap_or(u64::MAX)
        }
    }
}
