//! `/api/endpoints/...`: what is declared and what runs, in FluxMQ's shapes.

use std::collections::BTreeSet;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::http::{Problem, Reply};
use super::query::Query;
use super::router::App;
use super::{ConditionStatus, Endpoint, EndpointTraffic, State};

impl Endpoint {
    /// What it runs by; what is declared where nothing runs.
    pub(super) fn effective(&self) -> Option<&Value> {
        self.live.as_ref().or(self.declared.as_ref())
    }

    /// The port it runs on or is declared on; `None` for a Unix socket.
    pub(super) fn port(&self) -> Option<u16> {
        port_of(self.effective()?)
    }

    /// Whether `port` is its live or its declared one.
    pub(super) fn has_port(&self, port: u64) -> bool {
        [&self.live, &self.declared].into_iter().flatten().any(|body| port_of(body).map(u64::from) == Some(port))
    }

    fn host(&self) -> Option<&str> {
        self.effective()?.get("host")?.as_str()
    }

    /// `host:port`, `[v6]:port` or `unix:/path`.
    pub(super) fn address(&self) -> String {
        match (self.host(), self.port()) {
            (Some(host), Some(port)) if host.contains(':') && !host.starts_with("unix:") => format!("[{host}]:{port}"),
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (Some(host), None) => host.to_owned(),
            (None, Some(port)) => format!("*:{port}"),
            (None, None) => self.name.clone(),
        }
    }

    /// Whether its document asks for a listener.
    pub(super) fn enabled(&self) -> bool {
        self.declared.as_ref().is_some_and(|body| body.get("enabled").and_then(Value::as_bool).unwrap_or(true))
    }

    /// A limit it runs by, where there is one.
    pub(super) fn limit(&self, field: &str) -> Option<u64> {
        self.effective()?.get(field)?.as_u64()
    }

    /// One word for a person.
    pub(super) fn phase(&self) -> &'static str {
        match (self.draining, self.listening, self.enabled()) {
            (true, _, _) => "draining",
            (false, true, _) => "listening",
            (false, false, true) => "down",
            (false, false, false) => "disabled",
        }
    }
}

fn port_of(body: &Value) -> Option<u16> {
    u16::try_from(body.get("port")?.as_u64()?).ok()
}

/// Which endpoints a request speaks of: all, or the one that `port` or `name` names.
pub(super) fn select<'a>(state: &'a State, query: &Query) -> Result<Option<&'a Endpoint>, Problem> {
    match (query.get("name"), query.port()?) {
        (Some(_), Some(_)) => Err(Problem::bad_request("give port or name, not both")),
        (None, None) => Ok(None),
        (Some(name), None) => match state.endpoints.iter().find(|endpoint| endpoint.name == name) {
            Some(endpoint) => Ok(Some(endpoint)),
            None => Err(Problem::not_found(format!("no endpoint is called {name:?}"))),
        },
        (None, Some(port)) => {
            let found: Vec<&Endpoint> =
                state.endpoints.iter().filter(|endpoint| endpoint.has_port(port.into())).collect();
            match found[..] {
                [] => Err(Problem::not_found(format!("no endpoint on port {port}"))),
                [endpoint] => Ok(Some(endpoint)),
                _ => Err(ambiguous(port, &found)),
            }
        }
    }
}

fn ambiguous(port: u16, found: &[&Endpoint]) -> Problem {
    let names: Vec<&str> = found.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let message = format!("{} endpoints have port {port}: {}; ask by ?name=", names.len(), names.join(", "));
    Problem::new(StatusCode::CONFLICT, message).with_data(json!({"port": port, "names": names}))
}

/// The one endpoint a request names.
fn select_one<'a>(state: &'a State, query: &Query) -> Result<&'a Endpoint, Problem> {
    select(state, query)?.ok_or_else(|| Problem::bad_request("say which endpoint: ?port=1883 or ?name=..."))
}

/// Endpoints keyed as FluxMQ keys them, by port, in its order; by `host:port` where a port occurs twice.
pub(super) fn keyed(state: &State, value: impl Fn(&Endpoint) -> Value) -> Map<String, Value> {
    let mut ordered: Vec<&Endpoint> = state.endpoints.iter().collect();
    ordered.sort_by_key(|endpoint| (endpoint.port(), endpoint.address(), endpoint.name.clone()));
    let mut map = Map::new();
    for endpoint in &ordered {
        let same_port = ordered.iter().filter(|other| other.port() == endpoint.port()).count();
        let key = match endpoint.port() {
            Some(port) if same_port == 1 => port.to_string(),
            _ => endpoint.address(),
        };
        // Two that want the very same address: the second cannot listen, but is listed.
        let key = if map.contains_key(&key) { format!("{key} {}", endpoint.name) } else { key };
        map.insert(key, value(endpoint));
    }
    map
}

/// `GET /api/endpoints/list`
pub(super) fn list(app: &App, _: &Query) -> Reply {
    let state = app.view.state();
    let active: BTreeSet<u16> =
        state.endpoints.iter().filter(|endpoint| endpoint.listening).filter_map(Endpoint::port).collect();
    Ok(json!({
        "endpoints": keyed(&state, entry),
        "activePorts": active,
        "total": state.endpoints.len(),
    }))
}

/// The fields as they run, by FluxMQ's names, and who it is.
fn entry(endpoint: &Endpoint) -> Value {
    let mut fields = Map::new();
    if let Some(Value::Object(body)) = endpoint.effective() {
        if let Some(port) = body.get("port") {
            fields.insert("port".to_owned(), port.clone());
        }
        fields.extend(body.iter().filter(|(key, _)| *key != "port").map(|(key, value)| (key.clone(), value.clone())));
    }
    fields.insert("name".to_owned(), json!(endpoint.name));
    fields.insert("state".to_owned(), json!(endpoint.phase()));
    Value::Object(fields)
}

/// `GET /api/endpoints/get?port=|name=`
pub(super) fn get(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let endpoint = select_one(&state, query)?;
    let mut data = entry(endpoint);
    if let Value::Object(fields) = &mut data {
        fields.insert("origin".to_owned(), json!(endpoint.origin));
        fields.insert("declared".to_owned(), json!(endpoint.declared));
        fields.insert("live".to_owned(), json!(endpoint.live));
        fields.insert("differences".to_owned(), Value::Array(differences(endpoint)));
        fields.insert("conditions".to_owned(), json!(endpoint.conditions));
    }
    Ok(data)
}

/// Fields whose declared and live values are not the same, in the declared order.
pub(super) fn differences(endpoint: &Endpoint) -> Vec<Value> {
    let empty = Map::new();
    let object = |body: &'_ Option<Value>| body.as_ref().and_then(Value::as_object).cloned().unwrap_or_default();
    let (declared, live) = match (&endpoint.declared, &endpoint.live) {
        (None, None) => (empty.clone(), empty),
        (declared, live) => (object(declared), object(live)),
    };
    let mut fields: Vec<&String> = declared.keys().collect();
    fields.extend(live.keys().filter(|key| !declared.contains_key(*key)));
    fields
        .into_iter()
        .filter(|field| declared.get(*field) != live.get(*field))
        .map(|field| json!({"field": field, "declared": declared.get(field), "live": live.get(field)}))
        .collect()
}

/// `GET /api/endpoints/status`: of one, or of all.
pub(super) fn status(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let traffic = app.view.traffic();
    let none = EndpointTraffic::default();
    let one = |endpoint: &Endpoint| {
        let counted = traffic.endpoints.get(&endpoint.name).unwrap_or(&none);
        json!({
            "name": endpoint.name,
            "port": endpoint.port(),
            "address": endpoint.address(),
            "state": endpoint.phase(),
            "enabled": endpoint.enabled(),
            "listening": endpoint.listening,
            "listeningSince": endpoint.listening_since,
            "health": health_of(endpoint).0,
            "connections": {"current": counted.connections, "max": endpoint.limit("maxConnectionSize")},
            "sessions": {"current": counted.sessions, "max": endpoint.limit("maxSessionSize")},
            "certificateExpiresAt": endpoint.certificate_expires_at,
            "origin": endpoint.origin,
            "conditions": endpoint.conditions,
        })
    };
    Ok(match select(&state, query)? {
        Some(endpoint) => one(endpoint),
        None => json!({"endpoints": keyed(&state, one), "total": state.endpoints.len()}),
    })
}

/// `healthy`, `degraded` (serves, but not as declared), `unhealthy` (declared and does not serve), `disabled`; and why.
pub(super) fn health_of(endpoint: &Endpoint) -> (&'static str, Vec<&str>) {
    let trouble: Vec<&str> = endpoint
        .conditions
        .iter()
        .filter(|condition| condition.status == ConditionStatus::False)
        .map(|condition| condition.message.as_str())
        .collect();
    let word = match (endpoint.listening, endpoint.enabled()) {
        (true, _) if trouble.is_empty() => "healthy",
        (true, _) => "degraded",
        (false, true) => "unhealthy",
        (false, false) => "disabled",
    };
    (word, trouble)
}
