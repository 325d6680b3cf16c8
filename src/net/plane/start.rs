//! The configuration of the data plane, and its start.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use std::{io, thread};

use super::{DataPlane, Inner, PlaneRef};
use crate::auth::AuthCounters;
use crate::events::EventHub;
use crate::net::acceptor::AcceptorConfig;
use crate::net::auth_tasks::AuthTasks;
use crate::net::delivery_latency::DeliveryLatency;
use crate::net::gateway_port::GatewayPort;
use crate::net::relay::{RelayConfig, RelayThread};
use crate::net::shard::{self, DurableStore, ShardContext};
use crate::net::socket::SocketPool;
use crate::net::stats::AllEndpointMetrics;
use crate::net::threads::Threads;
use crate::net::tls_handshakes::TlsHandshakes;
use crate::net::workers::Workers;
use weir_broker::limits::SHARDS_MAX;
use weir_broker::{MemoryAccount, OfflineSessions, RetainedTotals, TotalRates};

/// The memory that everything together may take where nothing is configured.
const DEFAULT_MEMORY_BYTES: usize = 4 << 30;

/// File descriptors reserved for other uses: listening sockets, files, connections of the control plane.
const OTHER_DESCRIPTORS: u64 = 512;

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
