//! `weir run`

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

#[cfg(not(feature = "etcd"))]
use anyhow::bail;
use anyhow::{Context, anyhow};
use clap::ValueEnum;
use clap::builder::{BoolishValueParser, PossibleValue};

use super::Exit;
#[cfg(feature = "cluster")]
use super::cluster::ClusterArgs;
#[cfg(feature = "etcd")]
use super::etcd::EtcdArgs;
use super::references::ReferenceArgs;
use super::validate::parse_label;
use crate::server::logging::{self, LogFilter, LogFormat};
use crate::server::{MemorySize, ServerError, ServerOptions, SourceOptions, TraceOptions, process};
use crate::source::DirectoryOptions;
#[cfg(feature = "etcd")]
use crate::source::etcd::EtcdOptions;
use crate::status::{AccessOptions, Secret, TlsFiles, is_host_name};
use weir_broker::limits::SHARDS_MAX;

/// Run the broker: its listeners follow the declarations.
///
/// SIGHUP reads the source now. SIGTERM disconnects the clients and exits with 0; a second one exits at once.
///
/// Exits with 0 after a signal to stop, with 1 if it could not start (the reason is on standard error).
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  weir run --endpoints endpoints.d\n  \
    weir run --endpoints /srv/mqtt/endpoints.d --git-ref main --data-dir /var/lib/weir\n  \
    WEIR_ENDPOINTS=endpoints.d WEIR_LOG_FORMAT=json weir run\n\n\
    Under systemd (Type=notify-reload, WatchdogSec=) it reports readiness, reloads, shutdown and liveness.")]
pub(super) struct Args {
    /// Directory of declarations
    #[arg(long, env = "WEIR_ENDPOINTS", value_name = "DIR")]
    #[cfg_attr(feature = "etcd", arg(required_unless_present = "etcd", conflicts_with = "etcd"))]
    #[cfg_attr(not(feature = "etcd"), arg(required = true))]
    endpoints: Option<PathBuf>,
    /// Serve what is committed at REF of the repository that contains DIR, not the work tree
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
    /// Directory for state that survives a restart (durable sessions, last known good, history); without it, none
    /// does
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
    /// Threads that serve connections, at most 255 [default: one less than the number of cores]
    #[arg(long, env = "WEIR_SHARDS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=i64::from(SHARDS_MAX)))]
    shards: Option<u16>,
    /// Memory that clients, sessions and messages may take together: bytes, or a share of the available memory, as
    /// 60% [default: 75% of the least of the machine's memory, its control group's and half of its address space]
    #[arg(long, env = "WEIR_MEMORY", value_name = "BYTES|PERCENT%")]
    memory: Option<MemorySize>,
    /// Refuse a whole snapshot for any error in it
    #[arg(long, env = "WEIR_ATOMIC", value_parser = BoolishValueParser::new())]
    atomic: bool,
    /// Apply an empty declaration at the start
    #[arg(long, env = "WEIR_ALLOW_EMPTY", value_parser = BoolishValueParser::new())]
    allow_empty: bool,
    /// Seconds after which the source is read again, even without a notification of a change
    #[arg(long, env = "WEIR_RESYNC_S", value_name = "S", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=3600))]
    resync_s: u32,
    /// `error`, `warn` (or `warning`), `info`, `debug`, `trace` or `off`; modules can have their own, as in
    /// `weirmq::net=debug,info`
    #[arg(long, env = "WEIR_LOG_LEVEL", value_name = "LEVEL", default_value = "info")]
    log_level: LogFilter,
    /// The form of log lines: text for people, one JSON object per line for machines
    #[arg(long, env = "WEIR_LOG_FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[cfg(feature = "cluster")]
    #[command(flatten)]
    cluster: ClusterArgs,
    #[command(flatten)]
    references: ReferenceArgs,
    #[command(flatten)]
    traces: TraceArgs,
}

/// Traces of reconcile passes for an OpenTelemetry collector.
#[derive(Debug, clap::Args)]
struct TraceArgs {
    /// OpenTelemetry collector that reconcile passes are traced to over OTLP/HTTP, as http://127.0.0.1:4318
    /// [default: OTEL_EXPORTER_OTLP_ENDPOINT, or none]
    #[arg(long, env = "WEIR_OTLP_ENDPOINT", value_name = "URL")]
    otlp_endpoint: Option<String>,
    /// Authorities that may have issued an https:// collector's certificate (PEM) [default:
    /// OTEL_EXPORTER_OTLP_CERTIFICATE, or the system's authorities]
    #[arg(long, env = "WEIR_OTLP_CA", value_name = "FILE")]
    otlp_ca: Option<PathBuf>,
}

/// Access to the HTTP API. Without a token or client certificates, whatever shows clients, topics or documents is served
/// on this machine only (over 127.0.0.1 or ::1), and the rest to every host that reaches the address.
#[derive(Debug, clap::Args)]
struct StatusAccess {
    /// Certificate chain (PEM) of the HTTP API: makes it HTTPS; reloaded when it changes
    #[arg(long, env = "WEIR_STATUS_TLS_CERT", value_name = "FILE", requires = "status_tls_key")]
    status_tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, env = "WEIR_STATUS_TLS_KEY", value_name = "FILE", requires = "status_tls_cert")]
    status_tls_key: Option<PathBuf>,
    /// Callers need a certificate issued by one of these (PEM), or the token where one is declared
    #[arg(long, env = "WEIR_STATUS_CLIENT_CA", value_name = "FILE", requires = "status_tls_cert")]
    status_client_ca: Option<PathBuf>,
    /// Callers need this bearer token; /livez and /readyz need none
    #[arg(long, env = "WEIR_STATUS_BEARER_TOKEN", value_name = "file:PATH|env:NAME")]
    status_bearer_token: Option<Secret>,
    /// A name that callers may use for the HTTP API beside its address and localhost, as weir.example.com, or
    /// *.example.com for all names below; may be repeated
    #[arg(long = "status-host", env = "WEIR_STATUS_HOST", value_name = "NAME", value_delimiter = ',', value_parser = host)]
    status_hosts: Vec<String>,
    /// An origin whose pages may read the HTTP API in a browser, as https://grafana.example.com; may be repeated
    #[arg(long = "status-cors-origin", env = "WEIR_STATUS_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',', value_parser = origin)]
    status_cors_origins: Vec<String>,
}

impl StatusAccess {
    fn options(self) -> AccessOptions {
        let tls = self.status_tls_cert.zip(self.status_tls_key);
        AccessOptions {
            tls: tls.map(|(cert, key)| TlsFiles { cert, key, client_ca: self.status_client_ca }),
            token: self.status_bearer_token,
            hosts: self.status_hosts,
            cors_origins: self.status_cors_origins,
        }
    }
}

impl ValueEnum for LogFormat {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self::Text, Self::Json]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(match self {
            Self::Text => "text",
            Self::Json => "json",
        }))
    }
}

fn host(text: &str) -> Result<String, &'static str> {
    let problem = "a host is a name or an address without a port, or *. and a name";
    if is_host_name(text) { Ok(text.to_owned()) } else { Err(problem) }
}

/// As browsers send it: a scheme, a host, maybe a port, nothing after them.
fn origin(text: &str) -> Result<String, &'static str> {
    match text.split_once("://") {
        Some(("http" | "https", host)) if !host.is_empty() && !host.contains(['/', '*', ' ']) => Ok(text.to_owned()),
        _ => Err("an origin is written https://HOST or https://HOST:PORT, without a path or a *"),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    let log = logging::start(&args.log_level, args.log_format)?;
    process::run(server_options(args)?, log, None).map_err(with_flag)?;
    Ok(Exit::Success)
}

/// Names the flag of `weir run` that an error is about.
fn with_flag(error: ServerError) -> anyhow::Error {
    match error {
        ServerError::NoSuchDirectory(path) => anyhow!("--endpoints {}: no such directory", path.display()),
        ServerError::DataDirectory { path, source } => {
            anyhow::Error::new(source).context(format!("--data-dir {}", path.display()))
        }
        ServerError::StatusAddress { address, source } => {
            anyhow::Error::new(source).context(format!("--status-addr {address}: the address cannot be bound"))
        }
        ServerError::NodeName(error) => anyhow!("--node-name: {error}"),
        other => other.into(),
    }
}

fn server_options(args: Args) -> anyhow::Result<ServerOptions> {
    Ok(ServerOptions {
        status_addr: status_addr(&args.status_addr)?,
        source: source_options(&args)?,
        #[cfg(feature = "cluster")]
        cluster: args.cluster.options(
            Vec::new(),
            #[cfg(feature = "etcd")]
            &args.etcd,
        )?,
        allow_files: args.references.allow_files,
        allow_env: args.references.allow_env,
        status_access: args.status_access.options(),
        data_dir: args.data_dir,
        node_name: args.node_name,
        node_labels: args.node_labels.into_iter().collect(),
        default_host: args.host,
        shards: args.shards,
        memory: args.memory,
        atomic: args.atomic,
        allow_empty: args.allow_empty,
        traces: TraceOptions { otlp_endpoint: args.traces.otlp_endpoint, otlp_ca: args.traces.otlp_ca },
        owns_process: true,
        ..ServerOptions::default()
    })
}

fn source_options(args: &Args) -> anyhow::Result<SourceOptions> {
    let resync = Duration::from_secs(u64::from(args.resync_s));
    match (&args.endpoints, &args.git_ref) {
        (Some(directory), Some(revision)) => {
            Ok(SourceOptions::GitRef { directory: directory.clone(), revision: revision.clone(), resync })
        }
        (Some(root), None) => Ok(SourceOptions::Directory(DirectoryOptions {
            root: root.clone(),
            linked: args.references.allow_files.clone(),
            resync,
        })),
        #[cfg(not(feature = "etcd"))]
        (None, _) => bail!("--endpoints DIR is missing"),
        #[cfg(feature = "etcd")]
        (None, _) => {
            let files =
                std::path::absolute(&args.files).with_context(|| format!("--files {}", args.files.display()))?;
            Ok(SourceOptions::Etcd(EtcdOptions { access: args.etcd.access()?, root: args.etcd.root(), files, resync }))
        }
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
