//! IO of bridges: connections to remote brokers, and to this broker's shards.
//!
//! - `driver`: the task of a bridge, which connects and reconnects; `relay`: an open link; `local_task`: work on the
//!   local session without a link; `wire`: the bytes of one connection; `local_connection`: the connection to this
//!   broker; `dial`: connections to the remote broker; `status`: the status of a bridge.
//!
//! All tasks share one thread, separate from the shards and the control plane.

mod dial;
mod driver;
mod local_connection;
mod local_task;
mod relay;
mod status;
mod wire;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

pub use dial::{DialError, probe};
pub use status::{BridgePhase, BridgeStatus};

use self::driver::BridgeDriver;
use self::status::StatusCell;
use super::plane::DataPlane;
use super::threads::TaskThread;
use weir_bridge::BridgeSpec;
use weir_broker::{EndpointId, QueueOverflow};

/// A bridge, compiled from its declaration.
pub struct BridgeSettings {
    pub name: Arc<str>,
    /// The namespace whose topics are bridged: a mountpoint, or empty.
    pub namespace: Arc<str>,
    /// Whether its local session is stored on disk.
    pub durable: bool,
    /// The endpoint id of its local session.
    pub endpoint: EndpointId,
    /// Generation of the settings.
    pub generation: u64,
    pub spec: Arc<BridgeSpec>,
    /// In the order in which they are tried.
    pub addresses: Vec<BridgeAddress>,
    /// The TLS configuration, for addresses with TLS.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name in the remote broker's certificate; `None`: the address's host.
    pub server_name: Option<Arc<str>>,
    /// A fingerprint of all settings of the connection: if it changes, the link drains and reconnects.
    pub connection: Arc<str>,
    pub queue_max_messages: u32,
    pub queue_max_bytes: u64,
    pub queue_overflow: QueueOverflow,
    pub reconnect_min_ms: u32,
    pub reconnect_max_ms: u32,
    /// A local topic with the retained state: `1` while connected, otherwise `0`.
    pub notification_topic: Option<Arc<str>>,
    /// `false`: not connected; the local session continues to queue messages.
    pub enabled: bool,
}

/// The address of a remote broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeAddress {
    pub tls: bool,
    /// A host name or an IP address, without brackets.
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

/// The desired state of a bridge.
#[derive(Clone)]
struct DesiredState {
    settings: Arc<BridgeSettings>,
    /// Not connected for now: no node of the cluster may run the bridge. The local session queues.
    held: bool,
    stop: Option<Stop>,
}

/// Why a bridge stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    /// The process shuts down: the sessions remain.
    Pause,
    /// Its declaration was removed: the sessions on both sides end.
    Remove,
    /// Another node runs it: the session on this node ends.
    Move,
}

/// Runs bridges. Dropping it stops them at once, without draining.
pub struct BridgeHost {
    plane: DataPlane,
    thread: TaskThread,
}

/// Maximum of threads for name resolution.
const LOOKUPS_MAX: usize = 4;

impl BridgeHost {
    /// Starts the thread.
    ///
    /// The system refused a thread.
    pub fn start(plane: DataPlane) -> io::Result<Self> {
        let thread = plane.spawn_for_tasks("weir-bridge", LOOKUPS_MAX)?;
        Ok(Self { plane, thread })
    }

    /// Starts a bridge.
    pub fn run(&self, settings: Arc<BridgeSettings>) -> RunningBridge {
        let status = Arc::new(StatusCell::new(self.plane.now()));
        let (desired, receiver) =
            watch::channel(DesiredState { settings: Arc::clone(&settings), held: false, stop: None });
        let driver = BridgeDriver::new(self.plane.clone(), receiver, Arc::clone(&status));
        let task = self.thread.tasks.spawn(driver.run());
        let queue_poller =
            self.thread.tasks.spawn(status::poll_queue(self.plane.clone(), settings, Arc::clone(&status)));
        RunningBridge { plane: self.plane.clone(), desired, status, task, queue_poller }
    }
}

/// A running bridge.
pub struct RunningBridge {
    plane: DataPlane,
    desired: watch::Sender<DesiredState>,
    status: Arc<StatusCell>,
    task: JoinHandle<()>,
    queue_poller: JoinHandle<()>,
}

impl RunningBridge {
    /// Applies new settings.
    pub fn change(&self, settings: Arc<BridgeSettings>) {
        self.desired.send_modify(|desired| desired.settings = settings);
    }

    /// Whether it is disconnected for now, and only queues.
    pub fn set_held(&self, held: bool) {
        self.desired.send_if_modified(|desired| std::mem::replace(&mut desired.held, held) != held);
    }

    /// Ends the bridge on this node: another one runs it, as the same client of the remote broker. Continues in the background.
    pub fn move_away(self) {
        self.desired.send_modify(|desired| desired.stop = Some(Stop::Move));
        self.queue_poller.abort();
    }

    /// The status now.
    pub fn status(&self) -> BridgeStatus {
        self.status.read(self.plane.now())
    }

    /// A reader of the status that outlives the bridge.
    pub fn status_reader(&self) -> BridgeStatusReader {
        BridgeStatusReader { plane: self.plane.clone(), status: Arc::clone(&self.status) }
    }

    /// Ends the bridge and its sessions, on this broker and, if it can be reached, on the remote one. Continues in the
    /// background.
    pub fn remove(self) {
        self.desired.send_modify(|desired| desired.stop = Some(Stop::Remove));
        self.queue_poller.abort();
    }

    /// Drains and disconnects; the sessions remain. Waits for that, at most `grace`.
    pub async fn pause(self, grace: Duration) {
        self.desired.send_modify(|desired| desired.stop = Some(Stop::Pause));
        self.queue_poller.abort();
        if tokio::time::timeout(grace, self.task).await.is_err() {
            tracing::warn!("bridge drain timed out: unacknowledged messages will be sent again");
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
    /// The status now.
    pub fn read(&self) -> BridgeStatus {
        self.status.read(self.plane.now())
    }
}

impl std::fmt::Debug for BridgeStatusReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.read().fmt(f)
    }
}
