//! `/api/endpoints/metrics`, `performance`, `health` and `check-port`: load and health of endpoints.

use std::net::{IpAddr, SocketAddr};

use hyper::StatusCode;
use serde_json::{Value, json};

use super::http::{Problem, Reply};
use super::query::Query;
use super::router::App;
use super::sampler::Rates;
use super::{EndpointView, endpoints};
use weir_declare::reconcile::ConditionStatus;

/// Seconds over which rates are averaged.
const RATE_WINDOW_S: u64 = 60;

/// `GET /api/endpoints/metrics`: counters since start and rates over the last minute.
pub(super) async fn metrics(app: &App, query: &Query) -> Reply {
    let gauges = app.gauges().await;
    let state = app.view.state();
    let traffic = app.view.traffic();
    endpoints::one_or_all(&state, query, |endpoint| {
        let counted = traffic.endpoint(&endpoint.name);
        json!({
            "name": endpoint.name,
            "port": endpoint.port(),
            "since": state.node.started_at,
            "connections": {
                "current": counted.connections,
                "pending": counted.pending,
                "max": endpoint.limit("maxConnectionSize"),
                "acceptedTotal": counted.accepted,
            },
            "sessions": gauges.as_ref().map(|held| held.endpoints.get(&endpoint.name).copied().unwrap_or_default()),
            "connects": counted.connects,
            "messages": {
                "receivedTotal": counted.messages_received,
                "sentTotal": counted.messages_sent,
                "droppedTotal": counted.messages_dropped.values().sum::<u64>(),
                "droppedByReason": counted.messages_dropped,
            },
            "bytes": {"receivedTotal": counted.bytes_received, "sentTotal": counted.bytes_sent},
            "errors": {"total": counted.errors.values().sum::<u64>(), "byKind": counted.errors},
            "authenticationFailuresTotal": counted.authentication_failures,
            "authorizationFailuresTotal": counted.authorization_failures,
            "rates": app.sampler.rates(&endpoint.name, RATE_WINDOW_S).map(|rates| rates_json(&rates)),
        })
    })
}

fn rates_json(rates: &Rates) -> Value {
    json!({
        "windowS": rates.window_s,
        "acceptedPerS": rates.accepted,
        "messagesReceivedPerS": rates.messages_received,
        "messagesSentPerS": rates.messages_sent,
        "messagesDroppedPerS": rates.messages_dropped,
        "bytesReceivedPerS": rates.bytes_received,
        "bytesSentPerS": rates.bytes_sent,
        "errorsPerS": rates.errors,
    })
}

/// `GET /api/endpoints/performance`: use of limits, and rates.
pub(super) fn performance(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let traffic = app.view.traffic();
    endpoints::one_or_all(&state, query, |endpoint| {
        let counted = traffic.endpoint(&endpoint.name);
        json!({
            "name": endpoint.name,
            "port": endpoint.port(),
            "connectionsUsed": used(counted.connections, endpoint.limit("maxConnectionSize")),
            "pendingConnections": counted.pending,
            "droppedByReason": counted.messages_dropped,
            "rates": app.sampler.rates(&endpoint.name, RATE_WINDOW_S).map(|rates| rates_json(&rates)),
        })
    })
}

/// The part of a limit that is in use, 0 to 1; `None` where there is no limit.
fn used(current: u64, max: Option<u64>) -> Option<f64> {
    max.filter(|max| *max > 0).map(|max| current as f64 / max as f64)
}

/// `GET /api/endpoints/health`: of one, or of all; 503 where one that is asked about should serve and does not.
pub(super) fn health(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let traffic = app.view.traffic();
    let answer = |endpoint: &EndpointView| {
        let connections = traffic.endpoint(&endpoint.name).connections;
        json!({
            "name": endpoint.name,
            "port": endpoint.port(),
            "health": endpoint.health(),
            "checks": checks(endpoint, connections),
        })
    };
    let one = endpoints::select(&state, query)?;
    let data = endpoints::one_or_all(&state, query, answer)?;
    let sick: Vec<&str> = state
        .endpoints
        .iter()
        .filter(|endpoint| one.is_none_or(|one| one.name == endpoint.name) && endpoint.health() == "unhealthy")
        .map(|endpoint| endpoint.name.as_str())
        .collect();
    if sick.is_empty() {
        return Ok(data);
    }
    let message = format!("declared and not listening: {}; see the checks", sick.join(", "));
    Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, message).with_data(data))
}

fn checks(endpoint: &EndpointView, connections: u64) -> Vec<Value> {
    let unhealthy: Vec<_> = endpoint.problems().map(|condition| condition.kind).collect();
    let mut checks: Vec<Value> = endpoint
        .conditions
        .iter()
        .map(|condition| {
            let ok = !unhealthy.contains(&condition.kind) && condition.status != ConditionStatus::Unknown;
            json!({"check": condition.kind, "ok": ok, "reason": condition.reason, "message": condition.message})
        })
        .collect();
    if let Some(max) = endpoint.limit("maxConnectionSize") {
        let full = connections >= max;
        let reason = if full { "LimitReached" } else { "BelowLimit" };
        let message = format!("{connections} of {max} connections");
        checks.push(json!({"check": "Connections", "ok": !full, "reason": reason, "message": message}));
    }
    checks
}

/// `GET /api/endpoints/check-port?port=`: whether the port can be bound, and which endpoint, or another process, has it.
pub(super) fn check_port(app: &App, query: &Query) -> Reply {
    let port = query.port()?.ok_or_else(|| Problem::bad_request("port is missing: ?port=1884"))?;
    let state = app.view.state();
    let of_port: Vec<&EndpointView> = state.endpoints.iter().filter(|endpoint| endpoint.has_port(port)).collect();
    let mut used_by: Vec<Value> = of_port
        .iter()
        .map(|endpoint| json!({"endpoint": endpoint.name, "address": endpoint.address, "state": endpoint.phase()}))
        .collect();
    let mut listening = of_port.iter().any(|endpoint| endpoint.listening());
    if app.local_addr.port() == port {
        listening = true;
        used_by.push(json!({"endpoint": null, "address": app.local_addr.to_string(), "state": "statusServer"}));
    }
    let hosts: Vec<IpAddr> = of_port
        .iter()
        .filter_map(|endpoint| endpoint.address.parse::<SocketAddr>().ok())
        .map(|address| address.ip())
        .collect();
    let mut error = None;
    if let Some(failed) = app.view.bind_error(port, &hosts).filter(|_| !listening) {
        if failed.in_use {
            used_by.push(json!({"endpoint": null, "address": failed.address.to_string(), "state": "otherProcess"}));
        } else {
            error = Some(format!("{}: {}", failed.address, failed.message));
        }
    }
    Ok(json!({"port": port, "available": used_by.is_empty() && error.is_none(), "usedBy": used_by, "error": error}))
}
