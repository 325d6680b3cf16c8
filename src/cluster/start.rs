//! Joins a cluster: connects to the engine, starts the gateway's thread, and waits until clients may be served.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;

use super::driver::{ClusterView, Driver};
use super::engine::{Engine, EngineError, EngineEvents, EngineOptions, Wake};
use super::inbox::{Inbox, Port};
use super::sessions::{RelaySender, Sessions, SharedSlots};
use crate::net::relay::{RelayConfig, SlotLookup};
use crate::net::{DataPlane, GatewayPort};
use crate::random::{self, NoRandomness};
use weir_cluster::MembersConfig;
use weir_cluster::node::{ClusterNode, NodeConfig};

/// Bytes of a frame's body at most: the largest packet of MQTT, and room for names.
const FRAME_MAX_BYTES: usize = (256 << 20) + (1 << 20);
/// Bytes that wait to be taken from one peer at most, unless one frame is larger.
const RECEIVE_LIMIT_BYTES: usize = 16 << 20;
/// Bytes on the way to one peer above which this node's publishers wait.
const LINK_HIGH_BYTES: u64 = 8 << 20;
/// Slots of each class where this node founds a cluster.
const SLOTS_PER_CLASS: u16 = 16;
/// How long a node that leaves waits for its last heartbeat.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);

/// How a node joins its cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// The engine. Its node name and incarnation are replaced by the server's.
    pub engine: EngineOptions,
    /// Addresses of this node, for operators.
    pub addresses: Vec<String>,
}

/// Why a node cannot join its cluster.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// See [`EngineError`].
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error(transparent)]
    Random(#[from] NoRandomness),
    #[error("thread of the cluster not started: {0}")]
    Thread(io::Error),
}

/// A connection to the engine, before the data plane exists.
pub struct Cluster {
    inbox: Arc<Inbox>,
    engine: Engine,
    events: EngineEvents,
    options: ClusterOptions,
    runtime: Handle,
    slots: Arc<SharedSlots>,
}

/// What the data plane needs to know of a cluster.
pub struct ClusterPort {
    /// Where its shards send what is for the gateway.
    pub gateway: Arc<dyn GatewayPort>,
    /// How its clients reach sessions of other nodes.
    pub relay: RelayConfig,
}

/// A node of a cluster. Dropping it stops the gateway at once.
#[derive(Debug)]
pub struct StartedCluster {
    inbox: Arc<Inbox>,
    view: watch::Receiver<ClusterView>,
    thread: Option<JoinHandle<()>>,
}

impl Cluster {
    /// Connects to the engine, and checks that it can be used.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub async fn connect(mut options: ClusterOptions, node: &str) -> Result<Self, ClusterError> {
        let inbox = Arc::new(Inbox::default());
        let waked = Arc::clone(&inbox);
        let wake: Wake = Arc::new(move || waked.wake());
        options.engine.node = node.to_owned();
        options.engine.incarnation = random::number()?;
        options.engine.wake = Some(wake);
        let runtime = Handle::current();
        let (engine, events) = Engine::connect(options.engine.clone(), &runtime).await?;
        Ok(Self { inbox, engine, events, options, runtime, slots: Arc::default() })
    }

    /// What the data plane is to be started with.
    pub fn port(&self) -> ClusterPort {
        let relay = RelayConfig {
            lookup: Arc::clone(&self.slots) as Arc<dyn SlotLookup>,
            port: Arc::new(RelaySender(Arc::clone(&self.inbox))),
        };
        ClusterPort { gateway: Arc::new(Port(Arc::clone(&self.inbox))), relay }
    }

    /// Starts the gateway of a data plane that was started with [`Cluster::port`].
    ///
    /// # Errors
    /// The system refused a thread, or random bytes.
    pub fn start(self, plane: DataPlane, shards: u16) -> Result<StartedCluster, ClusterError> {
        let Self { inbox, engine, events, options, runtime, slots } = self;
        let node = ClusterNode::new(
            NodeConfig {
                members: MembersConfig {
                    node: options.engine.node.clone(),
                    incarnation: options.engine.incarnation,
                    wire: weir_cluster::wire::WIRE_VERSIONS,
                    weir_version: env!("CARGO_PKG_VERSION").to_owned(),
                    addresses: options.addresses,
                    has_data_dir: plane.is_durable(),
                },
                slots_per_class: SLOTS_PER_CLASS,
                shards,
                hash_seed: random::number()?,
                max_frame: FRAME_MAX_BYTES,
                receive_limit: RECEIVE_LIMIT_BYTES,
                link_high_bytes: LINK_HIGH_BYTES,
            },
            0,
        );
        let (publish, view) = watch::channel(ClusterView::default());
        let mut driver = Driver::new(node, engine, events, plane, shards, publish, Sessions::new(slots));
        let received = Arc::clone(&inbox);
        let run = move || {
            driver.run(&received);
            runtime.block_on(driver.finish());
        };
        let thread = thread::Builder::new().name("weir-cluster".to_owned()).spawn(run).map_err(ClusterError::Thread)?;
        Ok(StartedCluster { inbox, view, thread: Some(thread) })
    }
}

impl StartedCluster {
    /// What the node knows of its cluster; changes about once a second.
    pub fn view(&self) -> watch::Receiver<ClusterView> {
        self.view.clone()
    }

    /// Waits until clients may be served: this node knows every peer's interest, and has applied the log of retained messages.
    pub async fn ready(&mut self) {
        let began = Instant::now();
        let mut waiting = self.view.clone();
        loop {
            let ready = tokio::time::timeout(Duration::from_secs(10), waiting.wait_for(|view| view.is_ready()));
            match ready.await {
                Ok(_) => return,
                Err(_) => tracing::warn!(
                    waited_s = began.elapsed().as_secs(),
                    "cluster not joined yet: waiting for the engine and for the other nodes"
                ),
            }
        }
    }

    /// Tells the other nodes that this one leaves.
    pub async fn leave(&mut self) {
        self.inbox.leave();
        let left = tokio::time::timeout(LEAVE_WITHIN, self.view.wait_for(|view| view.has_left));
        if left.await.is_err() {
            tracing::warn!("cluster not left in time: the other nodes take this one out after 3 s");
        }
    }

    /// Ends the gateway and the connection to the engine.
    pub async fn stop(mut self) {
        self.inbox.stop();
        if let Some(thread) = self.thread.take()
            && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
        {
            tracing::error!("thread of the cluster panicked");
        }
    }
}

impl Drop for StartedCluster {
    fn drop(&mut self) {
        self.inbox.stop();
    }
}
