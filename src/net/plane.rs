//! The handle the control plane holds: it hides the threads and their mailboxes.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use socket2::Socket;
use tokio::sync::oneshot;

use super::acceptor::{AcceptorConfig, Command};
use super::auth_tasks::AuthTasks;
use super::delivery_latency::{DeliverDurations, DeliveryLatency};
use super::mailbox::Mailbox;
use super::policy::ListenerPolicy;
use super::shard::{self, Accepted, Control, DurableStore, Event, Shared};
use super::socket::{BoundSocket, ListenerStatus, SocketKey, SocketOptions, SocketPool};
use super::stats::{AllEndpointMetrics, EndpointStats};
use super::stream::Stream;
use super::workers::Workers;
use weir_broker::limits::SHARDS_MAX;
use weir_broker::{CoreGauges, EndpointId, Millis, OfflineSessions, Principal, TotalRates, Waiting, home_shard};
use weir_mqtt::ProtocolVersion;

/// How the data plane is set up.
#[derive(Debug, Clone)]
pub struct DataPlaneConfig {
    /// Threads that serve connections; at least 1, at most [`SHARDS_MAX`].
    pub shards: u16,
    /// Open connections of the node; `None`: what the file descriptor limit allows.
    pub max_connections: Option<u32>,
    /// Connections that are not admitted yet, per shard. Above it the oldest of them is closed.
    pub max_pending_connections: u32,
    /// Bytes that the queues of all sessions hold together, above which none of them grows.
    pub queued_max_bytes: usize,
    /// Threads for slow authentication.
    pub workers: u16,
}

impl Default for DataPlaneConfig {
    fn default() -> Self {
        let (max_pending_connections, queued_max_bytes) = (8192, 1 << 30);
        Self { shards: 1, max_connections: None, max_pending_connections, queued_max_bytes, workers: 2 }
    }
}

/// One change of what listens. All changes of one [`DataPlane::install`] take effect between two accepts.
pub enum ListenerChange {
    /// Accepts from `socket` from now on. A listener with the same key is replaced, as by `Remove`.
    Add { socket: BoundSocket, policy: Arc<ListenerPolicy> },
    /// Connections accepted from now on get `policy`.
    SetPolicy { key: SocketKey, policy: Arc<ListenerPolicy> },
    /// Accepts what already waits in the socket's queue, to the policy it has, then closes the socket. Where a listener
    /// of an overlapping address is there, that takes over: it gets new connections at once, and for some seconds also
    /// those whose handshake the removed one had begun.
    Remove { key: SocketKey },
}

/// How connections are asked to leave.
#[derive(Clone)]
pub struct DrainPlan {
    pub which: DrainWhich,
    /// Connections per second, over all shards; `None`: all at once.
    pub per_s: Option<u32>,
    /// DISCONNECT's reason code for 5.0; 3.x is closed.
    pub reason_code: u8,
    /// Where to go instead, for 5.0.
    pub server_reference: Option<Arc<str>>,
    /// How long, once its turn has come, a connection may take to finish what is in flight of QoS 1 and 2 before it is
    /// told; nothing new is begun with it meanwhile. 0: it is told at once.
    pub in_flight_ms: u32,
    /// Their right to be connected is gone: `in_flight_ms` does not count, and wills are not sent.
    pub revokes: bool,
    /// How long the plan is remembered for those who were accepted before it and are admitted after it: the time a
    /// handshake may take.
    pub handshake_ms: u32,
}

/// Which of an endpoint's connections a drain means, judged when it begins; those still shaking hands then, when they are
/// admitted.
#[derive(Clone)]
pub enum DrainWhich {
    /// Everybody. Who is still shaking hands is let in and told to leave at once, like the others.
    All,
    /// Everybody who came in by an older generation than this of the endpoint's policy; the others as with `All`.
    Before(u64),
    /// So many, those accepted last first.
    Newest(u32),
    /// Of each address all but so many, those accepted last first.
    NewestOfAddress(u32),
    /// Those for which this is true; it gets the client id, its principal and, with mutual TLS, its certificate chain. Who
    /// is still shaking hands is refused where it is true.
    Matching(Arc<DrainPredicate>),
}

/// Judges one connection.
pub type DrainPredicate = dyn Fn(&ConnectionFacts<'_>) -> bool + Send + Sync;

/// What a drain can judge a connection by.
pub struct ConnectionFacts<'a> {
    pub client_id: &'a str,
    pub principal: &'a Principal,
    pub peer: Option<SocketAddr>,
    pub version: ProtocolVersion,
    /// [`EndpointPolicy::generation`] of the listener's policy that it was admitted by: tells those who came after a
    /// change from those who were there before it.
    pub generation: u64,
    /// DER, the client's own first; empty without mutual TLS.
    pub certificates: &'a [rustls::pki_types::CertificateDer<'static>],
}

/// One connected client, for the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRow {
    pub client_id: String,
    pub username: Option<String>,
    /// `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// Milliseconds since it was admitted.
    pub connected_ms: Millis,
    /// CONNECT's protocol level: 3, 4 or 5.
    pub protocol_level: u8,
    pub tls: bool,
    pub websocket: bool,
    pub shard: u16,
    /// Counts accepted connections of the process; rows are sorted by it.
    pub sequence: u64,
}

/// The data plane does not answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaneError {
    #[error("the data plane was shut down")]
    Stopped,
    #[error("nothing listens under the key of change {index} of the install")]
    NoSuchListener { index: usize },
    #[error("change {index} of the install cannot be applied: {error}")]
    Install { index: usize, error: String },
}

/// Listening sockets, the acceptor and the shards. Cheap to clone; all clones are the same data plane.
#[derive(Clone)]
pub struct DataPlane {
    inner: Arc<Inner>,
}

struct Inner {
    pool: Arc<SocketPool>,
    endpoint_metrics: Arc<AllEndpointMetrics>,
    delivery_latency: Arc<DeliveryLatency>,
    shards: Vec<Arc<Mailbox<Event>>>,
    epoch: Instant,
    sequence: Arc<AtomicU64>,
}

impl Inner {
    fn tell_acceptor(&self, command: Command) {
        if let Some(first) = self.shards.first() {
            first.send(Event::Listeners(command));
        }
    }
}

impl Drop for Inner {
    /// Nobody is left to ask for anything: the threads end at once.
    fn drop(&mut self) {
        self.tell_acceptor(Command::Stop { reply: oneshot::channel().0 });
        for shard in &self.shards {
            let reply = oneshot::channel().0;
            shard.send(Event::Control(Control::Shutdown { grace: Duration::ZERO, reply }));
        }
    }
}

/// File descriptors that are no connections: listening sockets, files, the control plane's own connections.
const OTHER_DESCRIPTORS: u64 = 512;

impl DataPlane {
    /// Starts the threads. Raises the file descriptor limit to what the system allows this process.
    ///
    /// # Errors
    /// There are to be more than [`SHARDS_MAX`] shards, or the system refuses a thread or a file descriptor.
    pub fn start(config: &DataPlaneConfig) -> io::Result<DataPlane> {
        Self::begin(config, None)
    }

    /// The same with a store: what it holds is back when this returns, and durable state is kept there.
    pub fn start_with(config: &DataPlaneConfig, durable_store: DurableStore) -> io::Result<DataPlane> {
        Self::begin(config, Some(durable_store))
    }

    fn begin(config: &DataPlaneConfig, durable_store: Option<DurableStore>) -> io::Result<DataPlane> {
        if config.shards > SHARDS_MAX {
            let message = format!("{} shards are too many: at most {SHARDS_MAX} are possible", config.shards);
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let epoch = Instant::now();
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let epoch_unix_ms = u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX);
        let pool = Arc::new(SocketPool::default());
        let endpoint_metrics = Arc::new(AllEndpointMetrics::default());
        let sequence = Arc::new(AtomicU64::new(0));
        let workers = Workers::start(config.workers)?;
        let auth_tasks = AuthTasks::start()?;
        let delivery_latency = Arc::new(DeliveryLatency::default());
        let shared = Arc::new(Shared {
            epoch,
            delivery_latency: Arc::clone(&delivery_latency),
            endpoint_metrics: Arc::clone(&endpoint_metrics),
            workers,
            auth_tasks,
            away: OfflineSessions::default(),
            total_rates: TotalRates::default(),
        });
        let descriptors = raise_descriptor_limit();
        let affordable = descriptors.saturating_sub(OTHER_DESCRIPTORS).max(descriptors / 2);
        let max_connections =
            config.max_connections.unwrap_or(u32::MAX).min(u32::try_from(affordable).unwrap_or(u32::MAX));
        let acceptor = AcceptorConfig {
            pool: Arc::clone(&pool),
            endpoint_metrics: Arc::clone(&endpoint_metrics),
            sequence: Arc::clone(&sequence),
            max_connections,
        };
        let durable_store = durable_store.map(|durable_store| (durable_store, epoch_unix_ms));
        let shards = shard::start(config, &shared, acceptor, durable_store)?;
        Ok(Self { inner: Arc::new(Inner { pool, endpoint_metrics, delivery_latency, shards, epoch, sequence }) })
    }

    /// The core's clock: milliseconds since the data plane started.
    pub fn now(&self) -> Millis {
        Millis::try_from(self.inner.epoch.elapsed().as_millis()).unwrap_or(Millis::MAX)
    }

    /// Binds and listens, the prepared half of [`ListenerChange::Add`]. An address that overlaps or equals one of a
    /// live listener is bound beside it, so that the other may be removed in the same install.
    pub fn bind(&self, key: &SocketKey, options: &SocketOptions) -> io::Result<BoundSocket> {
        self.inner.pool.bind(key, options)
    }

    /// Applies all changes, between two accepts. On an error nothing was applied.
    pub async fn install(&self, changes: Vec<ListenerChange>) -> Result<(), PlaneError> {
        // Every shard knows an endpoint before one of them gets its first connection.
        for change in &changes {
            if let ListenerChange::Add { policy, .. } | ListenerChange::SetPolicy { policy, .. } = change {
                for shard in &self.inner.shards {
                    shard.send(Event::Control(Control::Know { policy: Arc::clone(&policy.endpoint) }));
                }
            }
        }
        let (reply, answer) = oneshot::channel();
        self.inner.tell_acceptor(Command::Install { changes, reply });
        let result = answer.await.map_err(|_| PlaneError::Stopped)?;
        // A removed socket may have been what stood in the way.
        self.inner.pool.close_shared_ports();
        result
    }

    /// Puts a new policy in force for an endpoint's open connections; done when every shard has it.
    pub async fn set_policy(&self, policy: Arc<ListenerPolicy>) -> Result<(), PlaneError> {
        self.ask_all(|reply| Control::SetPolicy { policy: Arc::clone(&policy), reply }).await.map(|_| ())
    }

    /// Asks connections of an endpoint to leave, as the plan says. Returns how many were asked, when all were. A drain
    /// goes on where the future is dropped.
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
        let drained = self
            .ask_all(|reply| {
                let (plan, chosen) = (Arc::clone(&plan), chosen.clone());
                Control::Drain { endpoint, chosen, until_sequence, plan, reply }
            })
            .await?;
        Ok(drained.into_iter().sum())
    }

    /// Connected clients of an endpoint, in the order they were accepted: `limit` of them from number `offset` on.
    pub async fn clients(
        &self,
        endpoint: EndpointId,
        offset: usize,
        limit: usize,
    ) -> Result<Vec<ClientRow>, PlaneError> {
        let first = offset.saturating_add(limit);
        let mut rows = self.ask_all(|reply| Control::Clients { endpoint, limit: first, reply }).await?.concat();
        rows.sort_unstable_by_key(|row| row.sequence);
        Ok(rows.into_iter().skip(offset).take(limit).collect())
    }

    /// Publishes a message of the broker itself, with QoS 0. `topic` must be a valid topic name.
    pub fn publish(&self, namespace: &str, topic: &str, payload: Vec<u8>, retain: bool) {
        let (namespace, topic) = (namespace.into(), topic.to_owned());
        if let Some(shard) = self.inner.shards.first() {
            shard.send(Event::Control(Control::Publish { namespace, topic, payload, retain }));
        }
    }

    /// What waits for a client, connected or away; `None` where it has no session.
    pub async fn waiting_for(&self, namespace: &str, client_id: &str) -> Result<Option<Waiting>, PlaneError> {
        let (reply, answer) = oneshot::channel();
        if let Some(shard) = self.home_of(namespace, client_id) {
            let (namespace, client_id) = (namespace.into(), client_id.into());
            shard.send(Event::Control(Control::Waiting { namespace, client_id, reply }));
        }
        answer.await.map_err(|_| PlaneError::Stopped)
    }

    /// Hands a shard the one end of a socket pair as a connection of its own process. It is served as an accepted one;
    /// its client id may be one that is reserved.
    pub(super) fn open_inside(&self, end: Socket, policy: Arc<ListenerPolicy>, client_id: &str) {
        let (opened, pending) = self.inner.endpoint_metrics.of(policy.endpoint.id).open();
        let sequence = self.inner.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        for shard in &self.inner.shards {
            shard.send(Event::Control(Control::Know { policy: Arc::clone(&policy.endpoint) }));
        }
        let Some(shard) = self.home_of(&policy.endpoint.namespace, client_id) else { return };
        shard.send(Event::Accepted(Box::new(Accepted {
            stream: Stream::new(end, true),
            peer: None,
            policy,
            opened,
            pending,
            sequence,
            displaces: false,
            over_limit: false,
            inside: true,
        })));
    }

    fn home_of(&self, namespace: &str, client_id: &str) -> Option<&Mailbox<Event>> {
        let shards = &self.inner.shards;
        let home = home_shard(namespace, client_id, u16::try_from(shards.len()).unwrap_or(u16::MAX));
        shards.get(usize::from(home.0)).map(|shard| &**shard)
    }

    /// What the cores hold now, all together.
    pub async fn gauges(&self) -> Result<CoreGauges, PlaneError> {
        let each = self.ask_all(|reply| Control::Gauges { reply }).await?;
        let mut all = CoreGauges::default();
        each.iter().for_each(|core| all.add(core));
        Ok(all)
    }

    /// Stops accepting, tells every client (5.0: 0x8B, server shutting down) as soon as nothing is in flight with it, at
    /// half of `grace` at the latest, and ends the threads when all have gone or `grace` is over.
    pub async fn shutdown(&self, grace: Duration) -> Result<(), PlaneError> {
        let (reply, answer) = oneshot::channel();
        self.inner.tell_acceptor(Command::Stop { reply });
        answer.await.map_err(|_| PlaneError::Stopped)?;
        self.ask_all(|reply| Control::Shutdown { grace, reply }).await.map(|_| ())
    }

    /// Every endpoint's counters, by id.
    pub fn stats(&self) -> Vec<EndpointStats> {
        self.inner.endpoint_metrics.read()
    }

    /// How long messages stayed in the shards, from a sample.
    pub fn deliver_durations(&self) -> DeliverDurations {
        self.inner.delivery_latency.read()
    }

    /// One endpoint's counters; `None` where it never had a listener.
    pub fn endpoint_stats(&self, endpoint: EndpointId) -> Option<EndpointStats> {
        self.inner.endpoint_metrics.get(endpoint).map(|metrics| metrics.read())
    }

    /// Drops the counters of an endpoint that is gone for good.
    pub fn forget_endpoint(&self, endpoint: EndpointId) {
        self.inner.endpoint_metrics.forget(endpoint);
        for shard in &self.inner.shards {
            shard.send(Event::Control(Control::Forget { endpoint }));
        }
    }

    /// What really listens, asked of the sockets themselves, by key.
    pub fn listeners(&self) -> Vec<ListenerStatus> {
        self.inner.pool.statuses()
    }

    /// One of them.
    pub fn listener(&self, key: &SocketKey) -> Option<ListenerStatus> {
        self.inner.pool.status(key)
    }

    /// Puts a question to one shard; `None`: there is no such shard.
    pub(super) async fn ask_one<T>(
        &self,
        shard: u16,
        question: impl FnOnce(oneshot::Sender<T>) -> Control,
    ) -> Result<Option<T>, PlaneError> {
        let Some(mailbox) = self.inner.shards.get(usize::from(shard)) else { return Ok(None) };
        let (reply, answer) = oneshot::channel();
        mailbox.send(Event::Control(question(reply)));
        answer.await.map(Some).map_err(|_| PlaneError::Stopped)
    }

    /// Puts a question to every shard and waits for all answers.
    pub(super) async fn ask_all<T>(
        &self,
        mut question: impl FnMut(oneshot::Sender<T>) -> Control,
    ) -> Result<Vec<T>, PlaneError> {
        let mut answers = Vec::with_capacity(self.inner.shards.len());
        for shard in &self.inner.shards {
            let (reply, answer) = oneshot::channel();
            shard.send(Event::Control(question(reply)));
            answers.push(answer);
        }
        let mut replies = Vec::with_capacity(answers.len());
        for answer in answers {
            replies.push(answer.await.map_err(|_| PlaneError::Stopped)?);
        }
        Ok(replies)
    }
}

/// Which of the `accepted` connections are over a limit: theirs are the highest sequence numbers.
fn newest(mut accepted: Vec<(u64, Option<IpAddr>)>, which: &DrainWhich) -> HashSet<u64> {
    accepted.sort_unstable();
    match which {
        DrainWhich::Newest(count) => {
            accepted.iter().rev().take(*count as usize).map(|(sequence, _)| *sequence).collect()
        }
        DrainWhich::NewestOfAddress(limit) => {
            let mut counts: HashMap<IpAddr, u32> = HashMap::new();
            let is_over = |(sequence, address): (u64, Option<IpAddr>)| {
                let count = counts.entry(address?).or_default();
                *count += 1;
                (*count > *limit).then_some(sequence)
            };
            accepted.into_iter().filter_map(is_over).collect()
        }
        DrainWhich::All | DrainWhich::Before(_) | DrainWhich::Matching(_) => HashSet::new(),
    }
}

/// Raises the soft limit of file descriptors to the hard one; answers with what holds now.
fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum.unwrap_or(u64::MAX),
        Err(error) => {
            tracing::warn!(%error, ?current, "the file descriptor limit stays as it is");
            current.unwrap_or(u64::MAX)
        }
    }
}
