//! Starts the control plane on the data plane, serves, and stops both in order.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::data_dir::{self, DataDir};
use super::error::ServerError;
use super::logging::{self, LogControl};
use super::options::{ServerOptions, SourceOptions};
use super::{memory_watch, signals, systemd};
#[cfg(feature = "etcd")]
use crate::apply::FileSystem;
use crate::apply::{History, Reconciler, ReconcilerOptions, Signal, Start, publish_sys_topics, run as reconcile};
#[cfg(feature = "etcd")]
use crate::cluster::{ClusterMember, MemberHandle, spawn_member};
use crate::net::DataPlane;
use crate::net::bridge::BridgeHost;
use crate::random::{self, NoRandomness};
#[cfg(feature = "etcd")]
use crate::source::etcd::spawn_etcd;
use crate::source::{SourceHandle, spawn_directory, spawn_git_ref, spawn_memory};
use crate::state::{ControlState, NodeFacts, SharedState, check_node_name, wall_clock};
#[cfg(feature = "etcd")]
use crate::status::connections;
use crate::status::{LiveStatus, StatusOptions, StatusServer, is_host_name, serve};
use crate::store::records::StoreStats;
use crate::telemetry::Exporter;
use weir_declare::config::NodeContext;
use weir_declare::reconcile::NodeSettings;

/// How long a shutdown waits for clients to leave; the first half of it for what is in flight with them.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How long it waits for a collector to take the last traces.
const TRACES_GRACE: Duration = Duration::from_secs(2);

/// What a server runs on.
pub(super) struct ServerParts {
    pub(super) options: ServerOptions,
    pub(super) log: Option<Arc<LogControl>>,
    pub(super) shards: u16,
    pub(super) plane: DataPlane,
    pub(super) store: Option<Arc<StoreStats>>,
    pub(super) listening: Option<OnListening>,
}

/// Called once all declared endpoints listen.
pub(super) type OnListening = Box<dyn FnOnce() + Send>;

/// Serves until the first [`Signal::Stop`], then asks clients to leave.
pub(super) async fn serve_until_stopped(
    parts: ServerParts,
    signals: mpsc::Receiver<Signal>,
) -> Result<(), ServerError> {
    let ServerParts { mut options, log, shards, plane, store, listening } = parts;
    // Bound before any listener: a second broker on this machine fails here.
    let status_socket = options.status_addr.map(bind_status).transpose()?;
    if let Some(socket) = &status_socket {
        // With port 0, the system has picked one.
        options.status_addr = Some(socket.local_addr().map_err(ServerError::Status)?);
    }
    let DataDir { last_known_good, history, last_good_store } =
        data_dir::open(options.data_dir.as_deref(), options.source.name())?;
    let node_name = options.node_name.clone().unwrap_or_else(host_name);
    check_node_name(&node_name)?;
    let exporter = options.traces.exporter(&node_name, |name| std::env::var(name).ok())?.map(Exporter::start);
    let facts = node_facts(&options)?;
    let context = NodeContext {
        status_addr: options.status_addr,
        default_host: options.default_host,
        labels: options.node_labels.clone(),
    };
    let source = start_source(&options.source, last_known_good.as_ref());
    let start = start_of_reconciler(&options, node_name, &context, &source, store.is_some(), last_known_good, history);
    log_start(&options, shards, &source);
    let (mut reconciler, drained) = Reconciler::new(start, plane.clone(), options.file_system());
    reconciler.run_bridges_on(BridgeHost::start(plane.clone()).map_err(ServerError::Bridges)?);
    if let Some(exporter) = &exporter {
        reconciler.trace_with(exporter.tracer());
    }
    let status = status_socket.map(|socket| {
        let view = LiveStatus::new(
            reconciler.state(),
            plane.clone(),
            context,
            shards,
            facts.clone(),
            source.resync_requester(),
        );
        let view = view.with_store(store).with_telemetry(exporter.as_ref().map(Exporter::stats));
        let view = view.with_directory(options.source.directory());
        start_status(socket, view, &options)
    });
    let status = status.transpose()?;
    #[cfg(feature = "etcd")]
    let member = join_cluster(&options.source, facts, &reconciler, &plane);
    tokio::spawn(publish_sys_topics(reconciler.state(), plane.clone()));
    if let Some(listening) = listening {
        tokio::spawn(call_when_listening(reconciler.state(), listening));
    }
    if let Some(log) = log {
        tokio::spawn(logging::follow_levels(log, reconciler.state()));
    }
    tokio::spawn(memory_watch::watch(plane.clone()));
    let signals = signals::forward(signals);
    let manager = systemd::Manager::from_environment()?.map(Arc::new);
    if let Some(manager) = &manager {
        tokio::spawn(systemd::follow(manager.clone(), reconciler.state(), plane.clone(), signals.reloads));
    }
    let mut reconciler = reconcile(reconciler, source, drained, signals.control, last_good_store).await;
    reconciler.begin_shutdown();
    if let Some(manager) = &manager {
        manager.stopping();
    }
    #[cfg(feature = "etcd")]
    if let Some(member) = member {
        member.leave().await;
    }
    reconciler.pause_bridges().await;
    if let Some(exporter) = exporter {
        exporter.finish(TRACES_GRACE).await;
    }
    let signals = signals.rest.await.map_err(ServerError::SignalTask)?;
    shut_down(&plane, status, signals).await;
    Ok(())
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

#[cfg_attr(not(feature = "etcd"), allow(unused_variables))]
fn start_source(source: &SourceOptions, last_known_good: Option<&data_dir::StartDeclaration>) -> SourceHandle {
    match source {
        SourceOptions::Directory(options) => spawn_directory(options.clone()),
        SourceOptions::GitRef { directory, revision, resync } => spawn_git_ref(directory, revision, *resync),
        SourceOptions::Memory(files) => spawn_memory(files.clone()),
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
    }
}

async fn call_when_listening(shared: Arc<SharedState>, listening: OnListening) {
    let mut changes = shared.subscribe();
    while !all_listen(&shared.load()) {
        if changes.changed().await.is_err() {
            return;
        }
    }
    listening();
}

fn all_listen(state: &ControlState) -> bool {
    let mut declared = state.endpoints.values().filter(|endpoint| endpoint.declared.is_some()).peekable();
    declared.peek().is_some() && declared.all(|endpoint| endpoint.live.is_some())
}

fn start_status(socket: TcpListener, view: LiveStatus, options: &ServerOptions) -> Result<StatusServer, ServerError> {
    if access_in_clear_text(options) {
        tracing::warn!(
            status = options.status_addr.map(tracing::field::display),
            "credentials in clear text: the status token goes over the network without TLS; set --status-tls-cert and \
             --status-tls-key"
        );
    }
    let mut access = options.status_access.clone();
    // Other brokers find this one by its host's name where it listens on all addresses.
    access.hosts.extend(Some(host_name()).filter(|name| is_host_name(name)));
    if access.is_open() && options.status_addr.is_some_and(|address| !address.ip().is_loopback()) {
        tracing::warn!(
            status = options.status_addr.map(tracing::field::display),
            "status address is open: every host that reaches it can read endpoints and metrics; clients, topics and \
             documents are shown over loopback only; set --status-bearer-token or --status-client-ca"
        );
    }
    let options = StatusOptions { access, ..StatusOptions::default() };
    serve(socket, Arc::new(view), options).map_err(ServerError::Status)
}

/// A token that other machines send can be read on the network.
fn access_in_clear_text(options: &ServerOptions) -> bool {
    let access = &options.status_access;
    let reachable = options.status_addr.is_some_and(|address| !address.ip().is_loopback());
    access.token.is_some() && access.tls.is_none() && reachable
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
    let connections = Box::new(move || connections(&plane));
    let (access, root, shared) = (etcd.access.clone(), etcd.root.clone(), reconciler.state());
    Some(spawn_member(ClusterMember { access, root, facts, shared, connections }))
}

/// Asks all clients to leave; another [`Signal::Stop`] ends that at once.
async fn shut_down(plane: &DataPlane, status: Option<StatusServer>, signals: mpsc::Receiver<Signal>) {
    tracing::info!("shutdown started: disconnecting clients");
    let orderly = async {
        if let Err(error) = plane.shutdown(SHUTDOWN_GRACE).await {
            tracing::error!(%error, "data plane shutdown failed");
        }
        if let Some(status) = status {
            status.shutdown().await;
        }
    };
    tokio::select! {
        () = orderly => tracing::info!("shutdown complete"),
        () = signals::next_stop(signals) => tracing::warn!("shutdown aborted by a second signal: ending at once"),
    }
}

fn bind_status(address: SocketAddr) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).map_err(|source| ServerError::StatusAddress { address, source })
}

fn node_facts(options: &ServerOptions) -> Result<NodeFacts, ServerError> {
    let secure = options.status_access.tls.is_some();
    Ok(NodeFacts {
        instance: random_instance()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        status_url: options.status_addr.map(|address| status_url(address, secure)),
        labels: options.node_labels.clone(),
        default_host: Some(options.default_host),
    })
}

fn host_name() -> String {
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
