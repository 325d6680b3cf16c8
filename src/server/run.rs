//! Starts the control plane on the data plane, serves, and stops both in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::data_dir::{self, DataDir};
use super::durable_store::OpenStore;
use super::error::ServerError;
use super::http_api::{self, HttpApi, View};
use super::memory_watch;
use super::options::{ServerOptions, SourceOptions};
use super::parts::Parts;
use super::traces::Traces;
use crate::apply::{
    DrainReport, EventPublisher, FileSystem, History, LastGoodStore, Reconciler, ReconcilerOptions, Signal, Start,
    publish_sys_topics, report_control_events, run as reconcile,
};
#[cfg(feature = "cluster")]
use crate::cluster::{ReportSettings, StartedCluster};
#[cfg(feature = "etcd")]
use crate::fleet::{ClusterMember, MemberHandle, spawn_member};
use crate::net::DataPlane;
#[cfg(feature = "bridge")]
use crate::net::bridge::BridgeHost;
use crate::random::{self, NoRandomness};
#[cfg(feature = "etcd")]
use crate::source::etcd::spawn_etcd;
use crate::source::{MemoryFile, SourceHandle, spawn_directory, spawn_git_ref, spawn_memory};
use crate::state::{NodeFacts, SharedState, check_node_name, wall_clock};
use weir_declare::config::NodeContext;
use weir_declare::reconcile::NodeSettings;

/// How long a shutdown waits for clients to disconnect; the first half of it for what is in flight with them.
pub(super) const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How long it waits for a collector to take the last traces.
const TRACES_GRACE: Duration = Duration::from_secs(2);

/// A server that runs in a task of its own.
pub(super) struct Running {
    pub(super) plane: DataPlane,
    pub(super) state: Arc<SharedState>,
    pub(super) context: NodeContext,
    pub(super) view: View,
    pub(super) status_addr: Option<SocketAddr>,
    /// The documents of [`SourceOptions::Memory`].
    pub(super) documents: Option<watch::Sender<Vec<MemoryFile>>>,
    /// How long clients have to disconnect when the server stops.
    pub(super) grace: watch::Sender<Duration>,
    pub(super) task: JoinHandle<Result<(), ServerError>>,
}

/// What the task of a server owns.
struct Serving {
    plane: DataPlane,
    store: Option<OpenStore>,
    reconciler: Reconciler<DataPlane, FileSystem>,
    source: SourceHandle,
    drained: mpsc::UnboundedReceiver<DrainReport>,
    last_good_store: Option<LastGoodStore>,
    api: HttpApi,
    traces: Traces,
    #[cfg(feature = "etcd")]
    member: Option<MemberHandle>,
    #[cfg(feature = "cluster")]
    cluster: Option<StartedCluster>,
    /// Ends with the server.
    background: JoinSet<()>,
}

/// Starts the control plane on the present runtime. The server stops when the sender is dropped.
///
/// # Errors
/// See [`ServerError`].
pub(super) fn launch(parts: Parts) -> Result<(Running, mpsc::Sender<Signal>), ServerError> {
    let Parts {
        mut options,
        shards,
        plane,
        store,
        #[cfg(feature = "cluster")]
        mut cluster,
    } = parts;
    // Bound before any listener: a second broker on this machine fails here.
    let socket = http_api::bind(&mut options)?;
    let DataDir { last_known_good, history, last_good_store } =
        data_dir::open(options.data_dir.as_deref(), options.source.name())?;
    let node_name = node_name(&options)?;
    let owns_process = options.owns_process;
    let variable = |name: &str| std::env::var(name).ok().filter(|_| owns_process);
    let traces = Traces::start(&options.traces, &node_name, variable)?;
    let facts = node_facts(&options)?;
    let context = NodeContext {
        status_addr: options.status_addr,
        default_host: options.default_host,
        labels: options.node_labels.clone(),
    };
    let (source, documents) = start_source(&options.source, last_known_good.as_ref());
    let start = start_of_reconciler(&options, node_name, &context, &source, store.is_some(), last_known_good, history);
    log_start(&options, shards, &source);
    let (mut reconciler, drained) = Reconciler::new(start, plane.clone(), options.file_system());
    reconciler.register(options.authenticators.clone().run_on(Handle::current()), options.interceptors.clone());
    #[cfg(feature = "bridge")]
    reconciler.run_bridges_on(BridgeHost::start(plane.clone()).map_err(ServerError::Bridges)?);
    reconciler.publish_events_with(EventPublisher::new(plane.clone()));
    #[cfg(feature = "cluster")]
    if let Some(control) = cluster.as_mut().and_then(StartedCluster::take_control) {
        reconciler.control_cluster(control);
    }
    if let Some(tracer) = traces.tracer() {
        reconciler.trace_with(tracer);
    }
    let shown = http_api::Shown {
        control: reconciler.state(),
        plane: plane.clone(),
        context: context.clone(),
        shards,
        facts: facts.clone(),
        resync: source.resync_requester(),
        store: store.as_ref().map(|open| open.store.stats()),
        directory: options.source.directory(),
        #[cfg(feature = "cluster")]
        cluster: cluster.as_ref().map(StartedCluster::view),
    };
    let (api, view) = HttpApi::start(socket, shown, &traces, &options)?;
    #[cfg(feature = "etcd")]
    let member = join_cluster(&options.source, facts.clone(), &reconciler, &plane);
    let state = reconciler.state();
    let mut background = JoinSet::new();
    #[cfg(feature = "cluster")]
    if let Some(cluster) = &cluster {
        background.spawn(cluster.exchange_reports(ReportSettings {
            shared: Arc::clone(&state),
            facts,
            plane: plane.clone(),
            publishes_nodes: !options.source.joins_nodes(),
        }));
    }
    let topics = publish_sys_topics(Arc::clone(&state), plane.clone());
    background.spawn(async { drop(topics.await) });
    background.spawn(report_control_events(Arc::clone(&state), plane.clone()));
    background.spawn(memory_watch::watch(plane.clone()));
    let (signals, control) = mpsc::channel(4);
    let (grace, graces) = watch::channel(SHUTDOWN_GRACE);
    let serving = Serving {
        plane: plane.clone(),
        store,
        reconciler,
        source,
        drained,
        last_good_store,
        api,
        traces,
        #[cfg(feature = "etcd")]
        member,
        #[cfg(feature = "cluster")]
        cluster,
        background,
    };
    let task = tokio::spawn(serving.run(control, graces));
    let running = Running { plane, state, context, view, status_addr: options.status_addr, documents, grace, task };
    Ok((running, signals))
}

impl Serving {
    /// Serves until the signals end, then disconnects the clients.
    async fn run(self, control: mpsc::Receiver<Signal>, grace: watch::Receiver<Duration>) -> Result<(), ServerError> {
        let Self { plane, mut store, reconciler, source, drained, last_good_store, api, traces, background, .. } = self;
        let served = reconcile(reconciler, source, drained, control, last_good_store);
        let mut reconciler = tokio::select! {
            reconciler = served => reconciler,
            Some(error) = store_failure(store.as_mut()) => {
                // What the disk holds is unknown from here on: a broker that went on would acknowledge messages that may be
                // lost. A restart reads what the disk holds.
                tracing::error!(%error, "store write failed: the server stops");
                return Err(ServerError::StoreFailed(error));
            }
        };
        reconciler.begin_shutdown();
        // Before the node leaves its cluster: another one then runs its bridges, as the same clients of the remote brokers.
        reconciler.pause_bridges().await;
        #[cfg(feature = "etcd")]
        if let Some(member) = self.member {
            member.leave().await;
        }
        #[cfg(feature = "cluster")]
        let mut cluster = self.cluster;
        #[cfg(feature = "cluster")]
        if let Some(cluster) = &mut cluster {
            cluster.leave().await;
        }
        traces.finish(TRACES_GRACE).await;
        tracing::info!("shutdown started: disconnecting clients");
        let grace = *grace.borrow();
        if let Err(error) = plane.shutdown(grace).await {
            tracing::error!(%error, "data plane shutdown failed");
        }
        #[cfg(feature = "cluster")]
        if let Some(cluster) = cluster {
            cluster.stop().await;
        }
        api.shutdown().await;
        drop((reconciler, background));
        let join = plane.into_join();
        let ended = tokio::task::spawn_blocking(move || {
            join();
            if let Some(open) = store {
                open.store.finish();
            }
        });
        ended.await.map_err(ServerError::Task)?;
        tracing::info!("shutdown complete");
        Ok(())
    }
}

/// Yields when the store has failed; `None`: there is none, or it has ended.
async fn store_failure(store: Option<&mut OpenStore>) -> Option<crate::store::records::RecordLogError> {
    match store {
        Some(open) => (&mut open.failed).await.ok(),
        None => None,
    }
}

/// The inputs of the reconciler's first pass.
fn start_of_reconciler(
    options: &ServerOptions,
    node_name: String,
    context: &NodeContext,
    source: &SourceHandle,
    has_store: bool,
    last_known_good: Option<data_dir::StartDeclaration>,
    history: History,
) -> Start {
    Start {
        options: ReconcilerOptions {
            node_name,
            node: NodeSettings { default_host: options.default_host, labels: Some(options.node_labels.clone()) },
            context: context.clone(),
            atomic: options.atomic,
            allow_empty: options.allow_empty,
            has_store,
        },
        source_kind: source.kind,
        source_location: source.location.clone(),
        incidents: Arc::clone(&source.incidents),
        last_known_good,
        history,
        now: wall_clock(),
    }
}

fn log_start(options: &ServerOptions, shards: u16, source: &SourceHandle) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards,
        source = source.location,
        status = options.status_addr.map(tracing::field::display),
        "weir starting"
    );
}

/// The source, and where its documents are replaced, if they are in memory.
#[cfg_attr(not(feature = "etcd"), allow(unused_variables))]
fn start_source(
    source: &SourceOptions,
    last_known_good: Option<&data_dir::StartDeclaration>,
) -> (SourceHandle, Option<watch::Sender<Vec<MemoryFile>>>) {
    let source = match source {
        SourceOptions::Directory(options) => spawn_directory(options.clone()),
        SourceOptions::GitRef { directory, revision, resync } => spawn_git_ref(directory, revision, *resync),
        SourceOptions::Memory(files) => {
            let (documents, receiver) = watch::channel(files.clone());
            return (spawn_memory(receiver), Some(documents));
        }
        #[cfg(feature = "etcd")]
        SourceOptions::Etcd(options) => {
            for url in options.access.in_clear_text() {
                tracing::warn!(
                    etcd = url,
                    "credentials in clear text: the etcd password goes over the network without TLS; write https:// and \
                     --etcd-ca"
                );
            }
            spawn_etcd(options.clone(), last_known_good.and_then(data_dir::known))
        }
    };
    (source, None)
}

/// Brokers that follow one etcd know one another there.
#[cfg(feature = "etcd")]
fn join_cluster(
    source: &SourceOptions,
    facts: NodeFacts,
    reconciler: &Reconciler<DataPlane, FileSystem>,
    plane: &DataPlane,
) -> Option<MemberHandle> {
    let SourceOptions::Etcd(etcd) = source else { return None };
    let plane = plane.clone();
    let connections = move || plane.stats().iter().map(|stats| u64::from(stats.connections_current)).sum();
    let connections = Box::new(connections);
    let (access, root, shared) = (etcd.access.clone(), etcd.root.clone(), reconciler.state());
    Some(spawn_member(ClusterMember { access, root, facts, shared, connections }))
}

/// The name of this node.
///
/// # Errors
/// It is not valid.
pub(super) fn node_name(options: &ServerOptions) -> Result<String, ServerError> {
    let name = options.node_name.clone().unwrap_or_else(host_name);
    check_node_name(&name)?;
    Ok(name)
}

fn node_facts(options: &ServerOptions) -> Result<NodeFacts, ServerError> {
    let secure = http_api::is_secure(options);
    Ok(NodeFacts {
        instance: random_instance()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        status_url: options.status_addr.map(|address| status_url(address, secure)),
        labels: options.node_labels.clone(),
        default_host: Some(options.default_host),
    })
}

/// The host's name.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "weir".to_owned() } else { name.to_owned() }
}

/// Distinguishes this process from others of the same node name.
fn random_instance() -> Result<String, NoRandomness> {
    random::number().map(|number| format!("{number:016x}"))
}

/// Where other brokers find this broker's status; where it is bound to all addresses, by the host's name.
fn status_url(address: SocketAddr, secure: bool) -> String {
    let scheme = if secure { "https" } else { "http" };
    if address.ip().is_unspecified() {
        return format!("{scheme}://{}:{}", host_name(), address.port());
    }
    format!("{scheme}://{address}")
}
