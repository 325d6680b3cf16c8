//! `/api/system/...` and `/api/cluster/...`: this process, this broker, the others.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};

use super::http::Reply;
use super::query::Query;
use super::router::App;
use super::{ClusterNodeView, StateView};
use crate::state::Phase;
use weir_declare::config::{Diagnostic, Kind};

/// `GET /api/system/health`: whether this broker serves everything as declared.
pub(super) fn health(app: &App, _: &Query) -> Reply {
    let state = app.view.state();
    let checks = checks(&state);
    let ok = checks.iter().all(|check| check["ok"] == json!(true));
    Ok(json!({
        "health": if ok { "healthy" } else { "degraded" },
        "phase": state.phase,
        "version": state.node.version,
        "startedAt": state.node.started_at,
        "uptimeS": app.view.now().since_ms(state.node.started_at) / 1000,
        "checks": checks,
    }))
}

fn checks(state: &StateView) -> Vec<Value> {
    let check = |name: &str, ok: bool, message: &str| json!({"check": name, "ok": ok, "message": message});
    let listening = named(state, "unhealthy");
    let as_declared = named(state, "degraded");
    let refused = refused_documents(state);
    let (serving, phase) = match state.phase {
        Phase::Starting => (false, "no declaration is applied yet"),
        Phase::Serving => (true, "a declaration is applied"),
        Phase::Draining => (false, "the broker is shutting down"),
    };
    let source = match &state.source.error {
        Some(error) => check("SourceReadable", false, &error.message),
        None => check("SourceReadable", true, &format!("{} is readable", state.source.location)),
    };
    let suspended = if state.suspended { "`reconcile: {suspend: true}` is declared: nothing is applied" } else { "" };
    vec![
        check("Serving", serving, phase),
        source,
        check("DocumentsAccepted", refused.is_empty(), &refused),
        check("EndpointsListening", listening.is_empty(), &listening),
        check("EndpointsAsDeclared", as_declared.is_empty(), &as_declared),
        check("NotSuspended", !state.suspended, suspended),
    ]
}

/// Errors in documents that are not endpoints; an endpoint shows its own.
fn refused_documents(state: &StateView) -> String {
    const SHOWN_MAX: usize = 3;
    let of_endpoint = |found: &Diagnostic| found.identity.as_ref().is_some_and(|id| id.kind == Kind::Endpoint);
    let errors = state.diagnostics.iter().filter(|found| found.is_error() && !of_endpoint(found));
    let mut shown: Vec<String> = errors.clone().take(SHOWN_MAX).map(ToString::to_string).collect();
    match errors.count().saturating_sub(SHOWN_MAX) {
        0 => {}
        more => shown.push(format!("and {more} more")),
    }
    shown.join("; ")
}

/// The endpoints of this health, for a person.
fn named(state: &StateView, health: &str) -> String {
    let found = state.endpoints.iter().filter(|endpoint| endpoint.health() == health);
    found.map(|endpoint| endpoint.name.as_str()).collect::<Vec<_>>().join(", ")
}

/// `GET /api/system/resources`: use and limits of the process. Null where the system does not report a value.
pub(super) fn resources(app: &App, _: &Query) -> Reply {
    let process = Process::read();
    let machine = Machine::read();
    let state = app.view.state();
    Ok(json!({
        "cpu": {
            "cores": std::thread::available_parallelism().map(usize::from).ok(),
            "shards": state.node.shards,
            "usedS": process.cpu_s,
            "load1": machine.load1,
        },
        "memory": {
            "residentBytes": process.resident_bytes,
            "peakResidentBytes": process.peak_resident_bytes,
            "limitBytes": memory_limit_bytes(),
            "machineBytes": machine.memory_bytes,
            "machineAvailableBytes": machine.memory_available_bytes,
        },
        "fileDescriptors": {"open": process.open_fds, "max": process.max_fds},
        "threads": process.threads,
        "uptimeS": app.view.now().since_ms(state.node.started_at) / 1000,
    }))
}

/// `GET /api/cluster/status`
pub(super) fn cluster_status(app: &App, _: &Query) -> Reply {
    let state = app.view.state();
    let behind: Vec<Value> = state
        .nodes
        .iter()
        .filter(|node| !node.converged)
        .map(|node| json!({"name": node.record.name, "reason": node.reason}))
        .collect();
    let duplicates: BTreeSet<&str> =
        state.nodes.iter().filter(|node| node.duplicate_name).map(|node| node.record.name.as_str()).collect();
    Ok(json!({
        "node": state.node.name,
        "clustered": state.nodes.len() > 1,
        "converged": behind.is_empty(),
        "notConverged": behind,
        "nodes": state.nodes.len(),
        "duplicateNames": duplicates,
        "trouble": state.membership_error,
        "appliedRevision": state.source.applied_revision,
        "declarationDigest": state.declaration_digest,
    }))
}

/// `GET /api/cluster/nodes`
pub(super) fn cluster_nodes(app: &App, _: &Query) -> Reply {
    let state = app.view.state();
    let nodes: &Vec<ClusterNodeView> = &state.nodes;
    Ok(json!({"nodes": nodes, "total": nodes.len(), "trouble": state.membership_error}))
}

/// The kernel's values for this process; `None` where the kernel has none.
#[derive(Debug, Clone, Default)]
pub(super) struct Process {
    pub(super) cpu_s: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) peak_resident_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) max_fds: Option<u64>,
    pub(super) threads: Option<u64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let status = read("/proc/self/status");
        let limits = read("/proc/self/limits");
        Self {
            cpu_s: cpu_s(&read("/proc/self/stat")),
            resident_bytes: kib(&status, "VmRSS:"),
            peak_resident_bytes: kib(&status, "VmHWM:"),
            open_fds: std::fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count() as u64),
            max_fds: limits
                .lines()
                .find_map(|line| line.strip_prefix("Max open files"))
                .and_then(|rest| rest.split_whitespace().next()?.parse().ok()),
            threads: field(&status, "Threads:").and_then(|value| value.parse().ok()),
        }
    }
}

/// User and system time, which the kernel counts in hundredths of a second (USER_HZ, the same on every platform).
fn cpu_s(stat: &str) -> Option<f64> {
    // The second field is the program's name in brackets, which may hold anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / 100.0)
}

struct Machine {
    load1: Option<f64>,
    memory_bytes: Option<u64>,
    memory_available_bytes: Option<u64>,
}

impl Machine {
    fn read() -> Self {
        let memory = read("/proc/meminfo");
        Self {
            load1: read("/proc/loadavg").split_whitespace().next().and_then(|value| value.parse().ok()),
            memory_bytes: kib(&memory, "MemTotal:"),
            memory_available_bytes: kib(&memory, "MemAvailable:"),
        }
    }
}

/// Empty where there is no such file: other systems than Linux.
fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).and_then(|rest| rest.split_whitespace().next())
}

fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// Memory that this process has in use.
pub fn resident_bytes() -> Option<u64> {
    kib(&read("/proc/self/status"), "VmRSS:")
}

/// The limit of this process's address space (`ulimit -v`). `None`: there is none.
pub fn address_space_bytes() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::As).current
}

/// The memory limit of this process: the least of its own (`ulimit -d`), its control groups' (version 2, or 1 in a container)
/// and the machine's memory. `None`: the system does not report it.
pub fn memory_limit_bytes() -> Option<u64> {
    let machine = kib(&read("/proc/meminfo"), "MemTotal:")?;
    let group = read("/proc/self/cgroup");
    let group = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let groups = Path::new(group).ancestors().map(|group| {
        let below = group.strip_prefix("/").unwrap_or(group);
        std::fs::read_to_string(Path::new("/sys/fs/cgroup").join(below).join("memory.max")).unwrap_or_default()
    });
    // `max`, or no file at all: no limit there.
    let limits = groups.filter_map(|text| text.trim().parse().ok());
    let container = std::fs::read_to_string("/sys/fs/cgroup/memory/memory.limit_in_bytes").unwrap_or_default();
    let own = rustix::process::getrlimit(rustix::process::Resource::Data).current;
    limits.chain(container.trim().parse().ok()).chain(own).chain([machine]).min()
}
