//! Bridges' IO: connections to other brokers, and to this one's own shards.
//!
//! - `driver`: a task for each bridge, which connects, relays, and tries again; `wire`: one connection's bytes; `home`:
//!   the way into the core; `dial`: the way to the other broker; `status`: what is told of it.
//!
//! All tasks share one thread, which is neither a shard's nor the control plane's.

mod dial;
mod driver;
mod local_connection;
mod status;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use dial::{DialError, probe};
pub use status::{BridgePhase, BridgeStatus};

use self::driver::Driver;
use self::status::StatusCell;
use super::plane::DataPlane;
use weir_bridge::Spec;
use weir_broker::{EndpointId, QueueOverflow};

/// A bridge, compiled from its declaration.
pub struct BridgeSettings {
    pub name: Arc<str>,
    /// Whose topics are carried: a mountpoint, or empty.
    pub namespace: Arc<str>,
    /// Whether its session here is kept on disk.
    pub durable: bool,
    /// What its session here is counted under.
    pub endpoint: EndpointId,
    /// Counts the changes.
    pub generation: u64,
    pub spec: Arc<Spec>,
    /// In the order in which they are tried.
    pub addresses: Vec<BridgeAddress>,
    /// For addresses with TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name in the other broker's certificate; `None`: the address's host.
    pub server_name: Option<Arc<str>>,
    /// Names everything that a connection depends on: where it differs, the link is drained and made anew.
    pub connection: Arc<str>,
    pub queue_max_messages: u32,
    pub queue_max_bytes: u64,
    pub queue_overflow: QueueOverflow,
    pub reconnect_min_ms: u32,
    pub reconnect_max_ms: u32,
    /// Here, retained: `1` while connected, else `0`.
    pub notification_topic: Option<Arc<str>>,
    /// `false`: not connected; the session here goes on.
    pub enabled: bool,
}

/// Where another broker is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeAddress {
    pub tls: bool,
    /// A name or an IP address, without brackets.
    pub host: Arc<str>,
    pub port: u16,
}

impl std::fmt::Display for BridgeAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        match self.host.contains(':') {
            true => write!(f, "{scheme}://[{}]:{}", self.host, self.port),
            false => write!(f, "{scheme}://{}:{}", self.host, self.port),
        }
    }
}

/// What a driver is to do.
#[derive(Clone)]
struct Orders {
    settings: Arc<BridgeSettings>,
    stop: Option<Stop>,
}

/// How a bridge ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The process ends: the sessions stay.
    Pause,
    /// Its declaration is gone: the sessions on both sides end.
    Remove,
}

/// Runs bridges. Dropping it ends them where they stand.
pub struct BridgeHost {
    plane: DataPlane,
    /// `None` only while it is dropped.
    runtime: Option<Runtime>,
}

impl BridgeHost {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(plane: DataPlane) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("weir-bridge")
            .enable_all()
            .build()?;
        Ok(Self { plane, runtime: Some(runtime) })
    }

    /// Starts a bridge.
    pub fn run(&self, settings: Arc<BridgeSettings>) -> Option<RunningBridge> {
        let runtime = self.runtime.as_ref()?;
        let status = Arc::new(StatusCell::new(self.plane.now()));
        let (orders, told) = watch::channel(Orders { settings: Arc::clone(&settings), stop: None });
        let driver = Driver::new(self.plane.clone(), told, Arc::clone(&status));
        let task = runtime.spawn(driver.run());
        let watcher = runtime.spawn(status::watch_queue(self.plane.clone(), settings, Arc::clone(&status)));
        Some(RunningBridge { plane: self.plane.clone(), orders, status, task, watcher })
    }
}

impl Drop for BridgeHost {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// A bridge that runs.
pub struct RunningBridge {
    plane: DataPlane,
    orders: watch::Sender<Orders>,
    status: Arc<StatusCell>,
    task: JoinHandle<()>,
    watcher: JoinHandle<()>,
}

impl RunningBridge {
    /// What it is to do from now on.
    pub fn change(&self, settings: Arc<BridgeSettings>) {
        self.orders.send_modify(|orders| orders.settings = settings);
    }

    /// What is known of it.
    pub fn status(&self) -> BridgeStatus {
        self.status.read(self.plane.now())
    }

    /// Reads the status for as long as the bridge runs, and after.
    pub fn status_reader(&self) -> BridgeStatusReader {
        BridgeStatusReader { plane: self.plane.clone(), status: Arc::clone(&self.status) }
    }

    /// Its declaration is gone: ends its sessions, here and, where it can be reached, there. Goes on by itself.
    pub fn remove(self) {
        self.orders.send_modify(|orders| orders.stop = Some(Stop::Remove));
        self.watcher.abort();
    }

    /// Drains and disconnects; the sessions stay. Waits until that is done, at most for `grace`.
    pub async fn pause(self, grace: Duration) {
        self.orders.send_modify(|orders| orders.stop = Some(Stop::Pause));
        self.watcher.abort();
        if tokio::time::timeout(grace, self.task).await.is_err() {
            tracing::warn!("a bridge was not drained in time; what was on its way is sent again");
        }
    }
}

/// Reads a bridge's status.
#[derive(Clone)]
pub struct BridgeStatusReader {
    plane: DataPlane,
    status: Arc<StatusCell>,
}

impl BridgeStatusReader {
    /// What is known of it.
    pub fn read(&self) -> BridgeStatus {
        self.status.read(self.plane.now())
    }
}

impl std::fmt::Debug for BridgeStatusReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(f)
    }
}
