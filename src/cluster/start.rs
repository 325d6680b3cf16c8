//! Joins a cluster: connects to the engine, starts the gateway's thread, and waits until clients may be served.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::control::ClusterControl;
use super::driver::{ClusterView, Driver};
use super::engine::{Engine, EngineError, EngineEvents, EngineOptions, Wake};
use super::inbox::{Inbox, Port};
use super::name_check::check_name;
use super::reports::{self, ReportSettings};
use super::sessions::{RelaySender, Sessions, SharedSlots};
use super::settings::Settings;
use crate::net::relay::{RelayConfig, SlotLookup};
use crate::net::{DataPlane, GatewayPort};
use crate::random::{self, NoRandomness};
use weir_cluster::MembersConfig;
use weir_cluster::node::{ClusterNode, NodeConfig};
use weir_declare::config::ClusterSpec;

/// Bytes of a frame's body at most: the largest packet of MQTT, and room for names.
const FRAME_MAX_BYTES: usize = (256 << 20) + (1 << 20);
/// Bytes that wait to be taken from one peer at most, unless one frame is larger.
const RECEIVE_LIMIT_BYTES: usize = 16 << 20;
/// Bytes on the way to one peer above which this node's publishers wait.
const LINK_HIGH_BYTES: u64 = 8 << 20;
/// How long a node that leaves waits for its last heartbeat.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// How long its sessions may then take to move to other nodes.
const LEAVE_MOVES_WITHIN: Duration = Duration::from_secs(15);

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
    /// Each node needs its own name.
    #[error(
        "a node named {node} runs in this cluster (incarnation {incarnation:016x}): give each node its own --node-name, or stop that one"
    )]
    NameTaken { node: String, incarnation: u64 },
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
    control: Option<ClusterControl>,
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
        let EngineOptions { incarnation, ready_within, .. } = options.engine;
        if let Err(error) = check_name(&engine, node, incarnation, ready_within).await {
            engine.shutdown().await;
            return Err(error);
        }
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
                // Known when the documents are read.
                slots_per_class: 0,
                shards,
                hash_seed: random::number()?,
                max_frame: FRAME_MAX_BYTES,
                receive_limit: RECEIVE_LIMIT_BYTES,
                link_high_bytes: LINK_HIGH_BYTES,
            },
            0,
        );
        let (publish, view) = watch::channel(ClusterView::default());
        let (requested, requests) = mpsc::unbounded_channel();
        let counts = Arc::default();
        let settings = Settings::new(&options.engine.node, requested, Arc::clone(&counts));
        let mut driver = Driver::new(node, engine, events, plane, shards, publish, (settings, Sessions::new(slots)));
        let received = Arc::clone(&inbox);
        let run = move || {
            driver.run(&received);
            runtime.block_on(driver.finish());
        };
        let thread = thread::Builder::new().name("weir-cluster".to_owned()).spawn(run).map_err(ClusterError::Thread)?;
        let replicas = options.engine.replicas;
        let control = ClusterControl {
            inbox: Arc::clone(&inbox),
            requests,
            counts,
            view: view.clone(),
            replicas,
            name: options.engine.cluster.as_str().into(),
            placement: Arc::default(),
        };
        Ok(StartedCluster { inbox, view, thread: Some(thread), control: Some(control) })
    }
}

impl StartedCluster {
    /// What the node knows of its cluster; changes about once a second.
    pub fn view(&self) -> watch::Receiver<ClusterView> {
        self.view.clone()
    }

    /// The settings that hold from now on; `None`: the defaults.
    pub fn set_spec(&self, spec: Option<Arc<ClusterSpec>>) {
        self.inbox.set_spec(spec);
    }

    /// Tells the other nodes what this one has applied, and publishes what they tell, until the node's thread ends.
    pub fn exchange_reports(&self, settings: ReportSettings) -> impl Future<Output = ()> + Send + 'static {
        reports::exchange(settings, Arc::clone(&self.inbox), self.view.clone())
    }

    /// The control plane's end, once.
    pub fn take_control(&mut self) -> Option<ClusterControl> {
        self.control.take()
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

    /// Tells the other nodes that this one leaves, and waits until its sessions have moved to them.
    pub async fn leave(&mut self) {
        self.inbox.leave();
        let left = tokio::time::timeout(LEAVE_WITHIN, self.view.wait_for(|view| view.has_left));
        if left.await.is_err() {
            tracing::warn!("cluster not left in time: the other nodes take this one out after 3 s");
            return;
        }
        let given = tokio::time::timeout(LEAVE_MOVES_WITHIN, self.view.wait_for(|view| !view.gives_slots));
        if given.await.is_err() {
            tracing::warn!(
                "cluster slot moves not finished in time: the sessions that are still here are away or lost"
            );
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
