//! `weir run`

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};

use super::data_dir::{self, DataDir};
#[cfg(feature = "etcd")]
use super::etcd::EtcdArgs;
use super::log::{self, LogFilter, LogFormat};
use super::otlp::OtlpArgs;
use super::validate::parse_label;
use super::{Exit, durable, pressure, systemd};
use crate::apply::{
    FileSystem, Reconciler, ReconcilerOptions, Signal, Start, publish_sys_topics, run as reconcile, signals,
    source_name,
};
#[cfg(feature = "etcd")]
use crate::cluster::{Member, spawn_member};
use crate::net::bridge::BridgeHost;
use crate::net::{DataPlane, DataPlaneConfig};
use crate::random::{self, NoRandomness};
#[cfg(feature = "etcd")]
use crate::source::etcd::{EtcdAccess, EtcdOptions, EtcdRoot, spawn_etcd};
use crate::source::{DirectoryOptions, SourceHandle, spawn_directory, spawn_git_ref};
use crate::state::wall_clock;
use crate::state::{NodeFacts, is_node_name};
#[cfg(feature = "etcd")]
use crate::status::connections;
use crate::status::{AccessOptions, LiveView, Secret, StatusOptions, StatusServer, TlsFiles, serve};
use crate::store::records::{Store, StoreStats};
use crate::telemetry::Exporter;
use weir_broker::limits::SHARDS_MAX;
use weir_declare::config::NodeContext;
use weir_declare::reconcile::Node;

/// How long SIGTERM waits for clients to leave; the first half of it for what is in flight with them.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(10);
/// How long it waits for a collector to take the last traces.
const TRACES_GRACE: Duration = Duration::from_secs(2);

/// Run the broker: its listeners follow what is declared.
///
/// SIGHUP reads the source now. SIGTERM asks clients to leave and exits with 0; a second one ends at once.
///
/// Exits with 0 where it was told to stop, with 1 where it could not start (the reason is on standard error).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir run --endpoints endpoints.d\n  \
    weir run --endpoints /srv/mqtt/endpoints.d --git-ref main --data-dir /var/lib/weir\n  \
    WEIR_ENDPOINTS=endpoints.d WEIR_LOG_FORMAT=json weir run\n\n\
    Under systemd (Type=notify-reload, WatchdogSec=) it tells the manager that it is ready, reloads, stops and lives.")]
pub(super) struct Args {
    /// Directory of declarations
    #[arg(long, env = "WEIR_ENDPOINTS", value_name = "DIR")]
    #[cfg_attr(feature = "etcd", arg(required_unless_present = "etcd", conflicts_with = "etcd"))]
    #[cfg_attr(not(feature = "etcd"), arg(required = true))]
    endpoints: Option<PathBuf>,
    /// Serve what is committed at REF of the repository that DIR lies in, not the work tree
    #[arg(long, env = "WEIR_GIT_REF", value_name = "REF")]
    #[cfg_attr(feature = "etcd", arg(conflicts_with = "etcd"))]
    git_ref: Option<String>,
    #[cfg(feature = "etcd")]
    #[command(flatten)]
    etcd: EtcdArgs,
    /// Directory that files named in etcd's documents are relative to
    #[cfg(feature = "etcd")]
    #[arg(long, env = "WEIR_FILES", value_name = "DIR", default_value = ".")]
    files: PathBuf,
    /// Address of the read-only HTTP API, or `none`
    #[arg(long, env = "WEIR_STATUS_ADDR", value_name = "ADDR", default_value = "127.0.0.1:8080")]
    status_addr: String,
    #[command(flatten)]
    status_access: StatusAccess,
    /// Directory for what outlives a restart (last known good, history); without it, nothing does
    #[arg(long, env = "WEIR_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// This broker's name [default: the host's]
    #[arg(long, env = "WEIR_NODE_NAME", value_name = "NAME")]
    node_name: Option<String>,
    /// A label that `nodes:` selectors are matched against; may be repeated
    #[arg(long = "node-label", env = "WEIR_NODE_LABEL", value_name = "KEY=VALUE", value_delimiter = ',', value_parser = parse_label)]
    node_labels: Vec<(String, String)>,
    /// Address that endpoints without a `host` bind
    #[arg(long, env = "WEIR_HOST", value_name = "ADDR", default_value = "0.0.0.0")]
    host: IpAddr,
    /// Threads that serve connections, at most 255 [default: one less than there are cores]
    #[arg(long, env = "WEIR_SHARDS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shards: Option<u16>,
    /// Refuse a whole snapshot for any error in it
    #[arg(long, env = "WEIR_ATOMIC")]
    atomic: bool,
    /// Take an empty declaration for what is meant
    #[arg(long, env = "WEIR_ALLOW_EMPTY")]
    allow_empty: bool,
    /// Seconds after which the source is read even if nothing seems to have changed
    #[arg(long, env = "WEIR_RESYNC_S", value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    resync_s: u32,
    /// `error`, `warn` (or `warning`), `info`, `debug`, `trace` or `off`; modules can have their own, as in
    /// `weirmq::net=debug,info`
    #[arg(long, env = "WEIR_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LogFilter,
    #[arg(long, env = "WEIR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(flatten)]
    otlp: OtlpArgs,
}

/// Who may read the HTTP API. Without any of it, whoever reaches the address.
#[derive(Debug, clap::Args)]
struct StatusAccess {
    /// Certificate chain (PEM) of the HTTP API: makes it HTTPS; read again when it changes
    #[arg(long, env = "WEIR_STATUS_TLS_CERT", value_name = "FILE", requires = "status_tls_key")]
    status_tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "WEIR_STATUS_TLS_KEY", value_name = "FILE", requires = "status_tls_cert")]
    status_tls_key: Option<PathBuf>,
    /// Callers need a certificate issued by one of these (PEM), or the token where one is declared
    #[arg(long, env = "WEIR_STATUS_CLIENT_CA", value_name = "FILE", requires = "status_tls_cert")]
    status_client_ca: Option<PathBuf>,
    /// Callers need this bearer token; /livez and /readyz go without
    #[arg(long, env = "WEIR_STATUS_BEARER_TOKEN", value_name = "file:PATH|env:NAME")]
    status_bearer_token: Option<Secret>,
    /// An origin whose pages may read the HTTP API in a browser, as https://grafana.example.com; may be repeated
    #[arg(long = "status-cors-origin", env = "WEIR_STATUS_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    status_cors_origins: Vec<String>,
}

impl StatusAccess {
    fn options(&self) -> AccessOptions {
        let tls = self.status_tls_cert.clone().zip(self.status_tls_key.clone());
        AccessOptions {
            tls: tls.map(|(cert, key)| TlsFiles { cert, key, client_ca: self.status_client_ca.clone() }),
            token: self.status_bearer_token.clone(),
            cors_origins: self.status_cors_origins.clone(),
        }
    }

    fn is_secure(&self) -> bool {
        self.status_tls_cert.is_some()
    }

    fn is_open(&self) -> bool {
        self.status_client_ca.is_none() && self.status_bearer_token.is_none()
    }
}

/// As browsers send it: a scheme, a host, maybe a port, nothing after them.
fn origin(text: &str) -> Result<String, String> {
    match text.split_once("://") {
        Some(("http" | "https", host)) if !host.is_empty() && !host.contains(['/', '*', ' ']) => Ok(text.to_owned()),
        _ => Err("an origin is written https://HOST or https://HOST:PORT, without a path or a *".to_owned()),
    }
}

/// One core is left to everything that is not a shard.
fn default_shards(cores: usize) -> u16 {
    u16::try_from(cores.saturating_sub(1)).unwrap_or(u16::MAX).clamp(1, SHARDS_MAX)
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let log = log::start(&args.log_level, args.log_format)?;
    let status_addr = status_addr(&args.status_addr)?;
    let declared = declared_in(&args)?;
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let shards = args.shards.unwrap_or_else(|| default_shards(cores));
    let mut config = DataPlaneConfig { shards, ..DataPlaneConfig::default() };
    if let Some(bytes) = pressure::queued_max_bytes() {
        config.queued_max_bytes = bytes;
    }
    let (plane, store) = match &args.data_dir {
        None => (DataPlane::start(&config).context("the data plane cannot be started")?, None),
        Some(data_dir) => {
            let (plane, store) = durable::start(&config, data_dir)?;
            (plane, Some(store))
        }
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("weir-control")
        .enable_all()
        .build()
        .context("the control plane cannot be started")?;
    let stats = store.as_ref().map(Store::stats);
    runtime.block_on(serve_until_stopped(args, declared, status_addr, (plane, shards, stats), log))?;
    if let Some(store) = store {
        store.finish();
    }
    Ok(Exit::Success)
}

/// Where declarations are.
enum DeclaredIn {
    Directory(DirectoryOptions),
    GitRef {
        directory: PathBuf,
        revision: String,
        resync: Duration,
    },
    #[cfg(feature = "etcd")]
    Etcd(EtcdOptions),
}

fn declared_in(args: &Args) -> anyhow::Result<DeclaredIn> {
    let resync = Duration::from_secs(u64::from(args.resync_s));
    match (&args.endpoints, &args.git_ref) {
        (Some(directory), Some(revision)) => {
            Ok(DeclaredIn::GitRef { directory: directory.clone(), revision: revision.clone(), resync })
        }
        (Some(root), None) if root.is_dir() || args.data_dir.is_some() => {
            Ok(DeclaredIn::Directory(DirectoryOptions { root: root.clone(), resync }))
        }
        (Some(root), None) => bail!("--endpoints {}: no such directory", root.display()),
        #[cfg(not(feature = "etcd"))]
        (None, _) => bail!("--endpoints DIR is missing"),
        #[cfg(feature = "etcd")]
        (None, _) => {
            let files =
                std::path::absolute(&args.files).with_context(|| format!("--files {}", args.files.display()))?;
            Ok(DeclaredIn::Etcd(EtcdOptions { access: args.etcd.access()?, root: args.etcd.root(), files, resync }))
        }
    }
}

impl DeclaredIn {
    /// What last known good declarations are told apart by.
    fn name(&self) -> String {
        match self {
            Self::Directory(options) => source_name("directory", &options.root.display().to_string()),
            Self::GitRef { directory, revision, .. } => {
                source_name("git", &format!("{} at {revision}", directory.display()))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(options) => source_name("etcd", &options.location()),
        }
    }

    /// Where brokers of one fleet meet.
    #[cfg(feature = "etcd")]
    fn meeting_place(&self) -> Option<(EtcdAccess, EtcdRoot)> {
        match self {
            Self::Etcd(options) => Some((options.access.clone(), options.root.clone())),
            Self::Directory(_) | Self::GitRef { .. } => None,
        }
    }

    #[cfg_attr(not(feature = "etcd"), allow(unused_variables))]
    fn spawn(self, last_known_good: Option<&data_dir::LastKnownGood>) -> SourceHandle {
        match self {
            Self::Directory(options) => spawn_directory(options),
            Self::GitRef { directory, revision, resync } => spawn_git_ref(&directory, &revision, resync),
            #[cfg(feature = "etcd")]
            Self::Etcd(options) => spawn_etcd(options, last_known_good.and_then(data_dir::known)),
        }
    }
}

async fn serve_until_stopped(
    args: Args,
    declared: DeclaredIn,
    status_addr: Option<SocketAddr>,
    (plane, shards, store): (DataPlane, u16, Option<Arc<StoreStats>>),
    log: Arc<log::Control>,
) -> anyhow::Result<()> {
    // Bound before anything listens: a second broker on this machine is told at once.
    let status_socket = status_addr.map(bind_status).transpose()?;
    let mut stops = signals().context("signals cannot be received")?;
    let context = NodeContext {
        status_addr,
        default_host: args.host,
        labels: args.node_labels.iter().cloned().collect::<BTreeMap<_, _>>(),
    };
    let DataDir { last_known_good, history, kept } = data_dir::open(args.data_dir.as_deref(), declared.name())?;
    #[cfg(feature = "etcd")]
    let member = declared.meeting_place();
    let node_name = args.node_name.clone().unwrap_or_else(host_name);
    is_node_name(&node_name).map_err(|problem| anyhow::anyhow!("--node-name: {problem}"))?;
    let exporter = args.otlp.options(&node_name, |name| std::env::var(name).ok())?.map(Exporter::start);
    let facts = NodeFacts {
        instance: random_instance()?,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        status_url: status_addr.map(|address| status_url(address, args.status_access.is_secure())),
        labels: context.labels.clone(),
        default_host: Some(args.host),
    };
    let source = declared.spawn(last_known_good.as_ref());
    let start = Start {
        options: ReconcilerOptions {
            node_name,
            node: Node { default_host: args.host, labels: Some(context.labels.clone()) },
            context: context.clone(),
            atomic: args.atomic,
            allow_empty: args.allow_empty,
            has_store: store.is_some(),
        },
        source_kind: source.kind,
        source_location: source.location.clone(),
        incidents: Arc::clone(&source.incidents),
        last_known_good,
        history,
        now: wall_clock(),
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        shards,
        source = source.location,
        status = status_addr.map(tracing::field::display),
        "weir starts"
    );
    let (mut reconciler, drained) = Reconciler::new(start, plane.clone(), FileSystem);
    reconciler.run_bridges_on(BridgeHost::start(plane.clone()).context("the bridges' thread cannot be started")?);
    if let Some(exporter) = &exporter {
        reconciler.trace_with(exporter.tracer());
    }
    let status = match status_socket {
        None => None,
        Some(socket) => {
            let (state, facts) = (reconciler.state(), facts.clone());
            let telemetry = exporter.as_ref().map(Exporter::stats);
            let view = LiveView::new(state, plane.clone(), context, shards, facts, source.nudger());
            let view = view.with_store(store).with_telemetry(telemetry);
            let access = args.status_access.options();
            let options = StatusOptions { access, ..StatusOptions::default() };
            if args.status_access.is_open() && status_addr.is_some_and(|address| !address.ip().is_loopback()) {
                tracing::warn!(
                    status = status_addr.map(tracing::field::display),
                    "whoever reaches the status address reads who is connected: --status-bearer-token or --status-client-ca"
                );
            }
            Some(serve(socket, Arc::new(view), options).context("the status server cannot be started")?)
        }
    };
    #[cfg(feature = "etcd")]
    let member = member.map(|(access, root)| {
        let (shared, plane) = (reconciler.state(), plane.clone());
        let connections = Box::new(move || connections(&plane));
        spawn_member(Member { access, root, facts, shared, connections })
    });
    tokio::spawn(publish_sys_topics(reconciler.state(), plane.clone()));
    tokio::spawn(log::follow(log, reconciler.state()));
    tokio::spawn(pressure::watch(plane.clone()));
    let manager = systemd::Manager::from_environment()?.map(Arc::new);
    let (reload, reloads) = tokio::sync::mpsc::channel(4);
    if let Some(manager) = &manager {
        tokio::spawn(systemd::follow(manager.clone(), reconciler.state(), plane.clone(), reloads));
    }
    let (tell, told) = tokio::sync::mpsc::channel(4);
    let forward = tokio::spawn(async move {
        while let Some(signal) = stops.recv().await {
            if signal == Signal::ReadNow {
                // Several reloads at once are one; without a manager nobody listens.
                let _busy = reload.try_send(());
            }
            if signal == Signal::Stop || tell.send(signal).await.is_err() {
                break;
            }
        }
        let _ended = tell.send(Signal::Stop).await; // nobody waits for it where the loop has ended
        stops
    });
    let mut reconciler = reconcile(reconciler, source, drained, told, kept).await;
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
    let stops = forward.await.context("signals are lost")?;
    shut_down(&plane, status, stops).await;
    Ok(())
}

/// Asks everybody to leave; another SIGTERM ends that at once.
async fn shut_down(plane: &DataPlane, status: Option<StatusServer>, mut stops: tokio::sync::mpsc::Receiver<Signal>) {
    tracing::info!("stopping: clients are asked to leave");
    let again = async {
        while let Some(signal) = stops.recv().await {
            if signal == Signal::Stop {
                return;
            }
        }
        std::future::pending::<()>().await;
    };
    let orderly = async {
        if let Err(error) = plane.shutdown(SHUTDOWN_GRACE).await {
            tracing::error!(%error, "the data plane did not stop in order");
        }
        if let Some(status) = status {
            status.shutdown().await;
        }
    };
    tokio::select! {
        () = orderly => tracing::info!("stopped"),
        () = again => tracing::warn!("told to stop again: ending at once"),
    }
}

fn status_addr(text: &str) -> anyhow::Result<Option<SocketAddr>> {
    if text == "none" {
        return Ok(None);
    }
    text.parse()
        .map(Some)
        .with_context(|| format!("--status-addr {text}: an address and port such as 127.0.0.1:8080, or `none`"))
}

fn bind_status(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).with_context(|| format!("the status address {address} (--status-addr)"))
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "weir".to_owned() } else { name.to_owned() }
}

/// Tells this process from another of the same name.
fn random_instance() -> Result<String, NoRandomness> {
    random::number().map(|number| format!("{number:016x}"))
}

/// Where others find this broker's status; bound to every address, it is looked for under the machine's name.
fn status_url(address: SocketAddr, secure: bool) -> String {
    let scheme = if secure { "https" } else { "http" };
    if address.ip().is_unspecified() {
        return format!("{scheme}://{}:{}", host_name(), address.port());
    }
    format!("{scheme}://{address}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_number_of_shards_is_one_less_than_the_cores_within_the_bound() {
        let cases = [(0, 1), (1, 1), (2, 1), (8, 7), (256, 255), (257, 255), (1000, 255), (usize::MAX, 255)];
        for (cores, shards) in cases {
            assert_eq!(default_shards(cores), shards, "{cores} cores");
        }
    }
}
