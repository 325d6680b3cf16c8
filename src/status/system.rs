//! `/api/system/...` and `/api/cluster/...`: this process, this broker, the others.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::http::Reply;
use super::query::Query;
use super::router::App;
use super::{ClusterNodeView, StateView};
use crate::kernel::{Machine, Process, memory_limit_bytes};
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
    let (serving, phase) = match (state.phase, &state.source.last_known_good) {
        (Phase::Starting, _) => (false, "no declaration is applied yet"),
        (Phase::Serving, None) => (true, "a declaration is applied"),
        (Phase::Serving, Some(_)) => (true, "the last known good declaration is applied"),
        (Phase::Draining, _) => (false, "the broker is shutting down"),
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
