//! `weir validate`

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::error::ErrorKind;

use super::format::{Report, ReportFormat};
use super::input::read_noting;
use super::print::{has_color, print, print_styled, printable};
use super::references::ReferenceArgs;
use super::{Exit, broker, wrong_usage};
use weir_declare::config::{
    Declared, Diagnostic, Kind, LastGood, Loaded, NodeContext, Position, ReadError, Severity, Snapshot,
    declaration_digest, load,
};

/// How often `--watch` looks for changes.
const WATCH_INTERVAL: Duration = Duration::from_millis(300);

/// Validate declarations: all errors of all files at once.
///
/// Several paths are one set of documents. Exits with 0 if the set is valid, with 1 if it is not or cannot be read.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  weir validate endpoints.d\n  weir validate --strict --environment /etc/weir/endpoints.d\n  \
    kubectl get configmap weir-endpoints -o jsonpath='{.data.endpoints\\.yaml}' | weir validate -\n  \
    weir validate endpoints.d --watch    while you edit\n  \
    weir validate endpoints.d --format github    in a workflow of GitHub"
)]
pub(super) struct Args {
    /// Directories (read recursively), files, or - for standard input.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// Check this machine, too: free ports, valid certificates, readable files
    #[arg(long)]
    environment: bool,
    /// Treat warnings as errors
    #[arg(long)]
    strict: bool,
    /// Validate again whenever a file changes, until Ctrl-C (which exits with 0)
    #[arg(long)]
    watch: bool,
    /// The output format
    #[arg(long, value_enum, default_value = "human")]
    format: ReportFormat,
    #[command(flatten)]
    references: ReferenceArgs,
    #[command(flatten)]
    node: NodeArgs,
}

/// The context of the broker that the declarations are for.
#[derive(Debug, clap::Args)]
pub(super) struct NodeArgs {
    /// The address of the broker's HTTP API, or `none`: no endpoint can use its port
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", value_parser = parse_status_addr)]
    status_addr: StatusAddr,
    /// The address of endpoints without a `host`
    #[arg(long, value_name = "IP", default_value = "0.0.0.0")]
    host: IpAddr,
    /// The node's labels, for --environment: endpoints with other `nodes` are not checked
    #[arg(long = "node-label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
}

/// An address, or none.
#[derive(Debug, Clone, Copy)]
pub(super) struct StatusAddr(pub(super) Option<SocketAddr>);

/// Parses `ADDRESS:PORT` or `none`.
pub(super) fn parse_status_addr(text: &str) -> Result<StatusAddr, &'static str> {
    if text == "none" {
        return Ok(StatusAddr(None));
    }
    text.parse().map(|addr| StatusAddr(Some(addr))).map_err(|_| "neither ADDRESS:PORT nor `none`")
}

/// Parses a node's label.
pub(super) fn parse_label(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("a label is written KEY=VALUE"),
    }
}

impl NodeArgs {
    /// The context for validation.
    pub(super) fn context(&self) -> NodeContext {
        NodeContext {
            status_addr: self.status_addr.0,
            default_host: self.host,
            labels: self.labels.iter().cloned().collect::<BTreeMap<_, _>>(),
        }
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<Exit> {
    if args.watch {
        return watch(&args);
    }
    let (snapshot, ignored) = read_paths(&args)?;
    validate(&args, &snapshot, &ignored)
}

fn read_paths(args: &Args) -> anyhow::Result<(Snapshot, Vec<String>)> {
    let mut ignored = Vec::new();
    let snapshot = read_noting(&args.paths, &args.references.allow_files, &mut ignored)?;
    Ok((snapshot, ignored))
}

/// Validates now and after every change. The files are read again and again: that needs no notification of the system, and a
/// change on a network's file system is noticed, too.
fn watch(args: &Args) -> anyhow::Result<Exit> {
    if args.paths.iter().any(|path| path == Path::new("-")) {
        let message = "--watch needs files: standard input is read once";
        return Err(wrong_usage("validate", ErrorKind::ArgumentConflict, message));
    }
    broker::runtime()?.block_on(async {
        let mut last = None;
        let mut interrupt = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            let begun = Instant::now();
            let now = read_paths(args).map_err(|error| format!("{error:#}"));
            let state = now.as_ref().map(|(snapshot, _)| contents(snapshot)).map_err(Clone::clone);
            if last.as_ref() != Some(&state) {
                match &now {
                    Ok((snapshot, ignored)) => drop(validate(args, snapshot, ignored)?),
                    Err(error) => eprintln!("error: {}", printable(error)),
                }
                last = Some(state);
            }
            // What takes long to read is read less often.
            let pause = WATCH_INTERVAL.max(begun.elapsed() * 5);
            tokio::select! {
                interrupted = &mut interrupt => return Ok(interrupted.map(|()| Exit::Success)?),
                () = tokio::time::sleep(pause) => {}
            }
        }
    })
}

/// A file's name, and its content or why it cannot be read.
type FileState = (Arc<str>, Result<Arc<[u8]>, ReadError>);

/// The files of a snapshot.
fn contents(snapshot: &Snapshot) -> Vec<FileState> {
    snapshot.files.iter().map(|file| (Arc::clone(&file.shown), file.content.clone())).collect()
}

/// Validates a snapshot, and prints the report.
fn validate(args: &Args, snapshot: &Snapshot, ignored: &[String]) -> anyhow::Result<Exit> {
    let node = args.node.context();
    let loaded = load(snapshot, &LastGood::default(), &node);
    let here = if args.environment {
        super::environment::check(&loaded, &node, &args.references.file_system(&args.paths))
    } else {
        args.references.remarks(&loaded, &args.paths)
    };
    let is_empty = loaded.last_good.paths().is_empty();
    let Loaded { declared, mut diagnostics, .. } = loaded;
    diagnostics.extend(here);
    if is_empty && diagnostics.is_empty() {
        diagnostics.push(nothing_declared(snapshot));
    }
    if args.strict {
        for diagnostic in diagnostics.iter_mut().filter(|diagnostic| diagnostic.severity == Severity::Warning) {
            diagnostic.severity = Severity::Error;
        }
    }
    let valid = !diagnostics.iter().any(|diagnostic| diagnostic.is_error());
    let report = Report {
        snapshot,
        diagnostics: &diagnostics,
        ignored,
        counts: counts(&declared),
        digest: valid.then(|| declaration_digest(&declared)),
    };
    let color = args.format == ReportFormat::Human && has_color();
    let text = report.render(args.format, color);
    if color {
        print_styled(&text)?
    } else {
        print(&text)?
    }
    Ok(if valid { Exit::Success } else { Exit::Failure })
}

/// A directory without documents is probably the wrong one.
fn nothing_declared(snapshot: &Snapshot) -> Diagnostic {
    Diagnostic {
        severity: Severity::Warning,
        code: "empty",
        file: if &*snapshot.origin == "-" { Arc::from("<stdin>") } else { Arc::clone(&snapshot.origin) },
        position: Position::START,
        path: String::new(),
        message: "no document is in it, so no endpoint is declared".to_owned(),
        help: Some(
            "name the directory that has the .yaml, .yml or .json files, or put a document such as \
             `endpoint: {port: 1883}` into it"
                .to_owned(),
        ),
        related: Vec::new(),
        identity: None,
    }
}

fn counts(declared: &Declared) -> Vec<(Kind, usize)> {
    let counts = [
        (Kind::Endpoint, declared.endpoints.len()),
        (Kind::Auth, declared.auths.len()),
        (Kind::Acl, declared.acls.len()),
        (Kind::Bridge, declared.bridges.len()),
        (Kind::Ban, declared.bans.len()),
    ];
    counts.into_iter().filter(|(_, count)| *count > 0).collect()
}
