//! `/api/endpoints/list`, `get` and `status`: declared and live endpoints, in FluxMQ's format.

use std::collections::{BTreeMap, BTreeSet};

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::http::{Problem, Reply};
use super::query::Query;
use super::router::App;
use super::{EndpointView, StateView};
use weir_declare::reconcile::{Condition, ConditionReason, ConditionStatus, ConditionType};

impl EndpointView {
    /// The live document; the declared one where nothing runs.
    pub(super) fn effective(&self) -> Option<&Value> {
        self.live.as_ref().or(self.declared.as_ref())
    }

    /// The port it runs on or is declared on; `None` for a Unix socket.
    pub(super) fn port(&self) -> Option<u16> {
        port_of(self.effective()?)
    }

    /// Whether `port` is its live or its declared one.
    pub(super) fn has_port(&self, port: u16) -> bool {
        [&self.live, &self.declared].into_iter().flatten().any(|body| port_of(body) == Some(port))
    }

    /// Whether a socket is bound for it, be it by an older declaration.
    pub(super) fn listening(&self) -> bool {
        self.live.is_some()
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
        match (self.listening(), self.enabled()) {
            (true, _) => "listening",
            (false, _) if self.has_draining_clients() => "draining",
            (false, _) if self.removed() => "removed",
            (false, false) if self.refused() => "refused",
            (false, true) if self.not_selected() => "notSelected",
            (false, true) => "down",
            (false, false) => "disabled",
        }
    }

    /// Whether clients of its closed listener are still connected.
    fn has_draining_clients(&self) -> bool {
        let draining = self.conditions.get(ConditionType::Draining);
        draining.is_some_and(|draining| {
            draining.status == ConditionStatus::True && draining.reason == ConditionReason::Removed
        })
    }

    /// Whether its document was deleted.
    fn removed(&self) -> bool {
        let accepted = self.conditions.get(ConditionType::Accepted);
        self.declared.is_none() && accepted.is_some_and(|accepted| accepted.reason == ConditionReason::Removed)
    }

    /// Whether its document has errors, and no good one is held.
    fn refused(&self) -> bool {
        let accepted = self.conditions.get(ConditionType::Accepted);
        self.declared.is_none() && accepted.is_some_and(|accepted| accepted.status == ConditionStatus::False)
    }

    /// Whether `nodes` gives it to other brokers.
    pub(super) fn not_selected(&self) -> bool {
        self.conditions
            .get(ConditionType::Programmed)
            .is_some_and(|condition| condition.reason == ConditionReason::NotSelected)
    }

    /// Conditions that report an error; not those that are temporary or declared so.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Condition> {
        self.conditions.iter().filter(|condition| {
            let bad = if condition.kind.healthy_when_true() { ConditionStatus::False } else { ConditionStatus::True };
            let meant = matches!(
                condition.reason,
                ConditionReason::Disabled | ConditionReason::NotSelected | ConditionReason::Removed
            );
            condition.kind != ConditionType::Draining && condition.status == bad && !meant
        })
    }

    /// `healthy`, `degraded` (serves, but not as declared), `unhealthy` (declared and does not serve), `disabled`.
    pub(super) fn health(&self) -> &'static str {
        match self.phase() {
            "listening" if self.problems().next().is_none() && self.pending.is_none() => "healthy",
            "listening" => "degraded",
            "down" | "refused" => "unhealthy",
            _ => "disabled",
        }
    }
}

fn port_of(body: &Value) -> Option<u16> {
    u16::try_from(body.get("port")?.as_u64()?).ok()
}

/// The endpoint that a request names: the one that `port`, `name` or both name, or (`None`) all.
pub(super) fn select<'a>(state: &'a StateView, query: &Query) -> Result<Option<&'a EndpointView>, Problem> {
    let (name, port) = (query.get("name"), query.port()?);
    let mut found: Vec<&EndpointView> = state
        .endpoints
        .iter()
        .filter(|endpoint| name.is_none_or(|name| endpoint.name == name))
        .filter(|endpoint| port.is_none_or(|port| endpoint.has_port(port)))
        .collect();
    // A port of this broker's endpoint does not mean one of other brokers' endpoints.
    if found.iter().any(|endpoint| !endpoint.not_selected()) {
        found.retain(|endpoint| !endpoint.not_selected());
    }
    match (name, port, &found[..]) {
        (None, None, _) => Ok(None),
        (_, _, [endpoint]) => Ok(Some(endpoint)),
        (None, Some(port), []) => Err(Problem::not_found(format!("no endpoint on port {port}"))),
        (Some(name), None, []) => Err(Problem::not_found(format!("no endpoint is named {name:?}"))),
        (Some(name), Some(port), []) => {
            Err(Problem::not_found(format!("no endpoint is named {name:?} and has port {port}")))
        }
        // Names are unique, so only a port can mean several.
        (_, port, several) => Err(ambiguous(port.unwrap_or_default(), several)),
    }
}

fn ambiguous(port: u16, found: &[&EndpointView]) -> Problem {
    let names: Vec<&str> = found.iter().map(|endpoint| endpoint.name.as_str()).collect();
    let message = format!("{} endpoints have port {port}: {}; select one by ?name=", names.len(), names.join(", "));
    Problem::new(StatusCode::CONFLICT, message).with_data(json!({"port": port, "names": names}))
}

/// Answers for the one endpoint that the query names, else for all of them, keyed as in `list`.
pub(super) fn one_or_all(state: &StateView, query: &Query, answer: impl Fn(&EndpointView) -> Value) -> Reply {
    Ok(match select(state, query)? {
        Some(endpoint) => answer(endpoint),
        None => {
            let shown = shown(state, query)?;
            json!({"endpoints": keyed(&shown, answer), "total": shown.len(), "notSelected": not_selected(state)})
        }
    })
}

/// The endpoints that a list shows: those of this broker; with `all=true` also those that `nodes` gives to other brokers.
pub(super) fn shown<'a>(state: &'a StateView, query: &Query) -> Result<Vec<&'a EndpointView>, Problem> {
    let all = query.flag("all")?;
    Ok(state.endpoints.iter().filter(|endpoint| all || !endpoint.not_selected()).collect())
}

/// The number of declared endpoints that `nodes` gives to other brokers.
fn not_selected(state: &StateView) -> usize {
    state.endpoints.iter().filter(|endpoint| endpoint.phase() == "notSelected").count()
}

/// Endpoints keyed as FluxMQ keys them, by port, in its order; by `host:port` where a port occurs twice.
fn keyed(endpoints: &[&EndpointView], value: impl Fn(&EndpointView) -> Value) -> Map<String, Value> {
    let mut ordered = endpoints.to_vec();
    ordered.sort_by_key(|endpoint| (endpoint.port().is_none(), endpoint.port(), &endpoint.address, &endpoint.name));
    let mut on_port: BTreeMap<Option<u16>, usize> = BTreeMap::new();
    for endpoint in &ordered {
        *on_port.entry(endpoint.port()).or_default() += 1;
    }
    let mut map = Map::new();
    for endpoint in ordered {
        let key = match endpoint.port() {
            Some(port) if on_port.get(&Some(port)) == Some(&1) => port.to_string(),
            None if endpoint.address.is_empty() => endpoint.name.clone(),
            _ => endpoint.address.clone(),
        };
        // Two that want the very same address: the second cannot listen, but is listed.
        let key = if map.contains_key(&key) { format!("{key} {}", endpoint.name) } else { key };
        map.insert(key, value(endpoint));
    }
    map
}

/// `GET /api/endpoints/list`
pub(super) fn list(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let shown = shown(&state, query)?;
    let active: BTreeSet<u16> =
        state.endpoints.iter().filter(|endpoint| endpoint.listening()).filter_map(EndpointView::port).collect();
    Ok(json!({
        "endpoints": keyed(&shown, entry),
        "activePorts": active,
        "total": shown.len(),
        "notSelected": not_selected(&state),
    }))
}

/// The effective fields by FluxMQ's names, and the endpoint's name, address and state.
fn entry(endpoint: &EndpointView) -> Value {
    let mut fields = Map::new();
    if let Some(Value::Object(body)) = endpoint.effective() {
        if let Some(port) = body.get("port") {
            fields.insert("port".to_owned(), port.clone());
        }
        fields.extend(body.iter().filter(|(key, _)| *key != "port").map(|(key, value)| (key.clone(), value.clone())));
    }
    fields.insert("name".to_owned(), json!(endpoint.name));
    fields.insert("address".to_owned(), json!(endpoint.address));
    fields.insert("state".to_owned(), json!(endpoint.phase()));
    Value::Object(fields)
}

/// `GET /api/endpoints/get`: of one, or of all.
pub(super) fn get(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    one_or_all(&state, query, |endpoint| {
        let mut data = entry(endpoint);
        if let Value::Object(fields) = &mut data {
            fields.insert("health".to_owned(), json!(endpoint.health()));
            fields.insert("origin".to_owned(), json!(endpoint.origin));
            fields.insert("declared".to_owned(), json!(endpoint.declared));
            fields.insert("live".to_owned(), json!(endpoint.live));
            fields.insert("differences".to_owned(), Value::Array(differences(endpoint)));
            fields.insert("pending".to_owned(), json!(endpoint.pending));
            fields.insert("conditions".to_owned(), json!(endpoint.conditions));
        }
        data
    })
}

/// Fields whose declared and live values differ, in the declared order. Empty where one side is missing: then
/// `declared` or `live` is null.
pub(super) fn differences(endpoint: &EndpointView) -> Vec<Value> {
    let (Some(Value::Object(declared)), Some(Value::Object(live))) = (&endpoint.declared, &endpoint.live) else {
        return Vec::new();
    };
    let undeclared = live.keys().filter(|key| !declared.contains_key(*key));
    declared
        .keys()
        .chain(undeclared)
        .filter(|field| declared.get(*field) != live.get(*field))
        .map(|field| json!({"field": field, "declared": declared.get(field), "live": live.get(field)}))
        .collect()
}

/// `GET /api/endpoints/status`: of one, or of all.
pub(super) fn status(app: &App, query: &Query) -> Reply {
    let state = app.view.state();
    let traffic = app.view.traffic();
    one_or_all(&state, query, |endpoint| {
        let counted = traffic.endpoint(&endpoint.name);
        json!({
            "name": endpoint.name,
            "port": endpoint.port(),
            "address": endpoint.address,
            "state": endpoint.phase(),
            "enabled": endpoint.enabled(),
            "health": endpoint.health(),
            "connections": {"current": counted.connections, "max": endpoint.limit("maxConnectionSize")},
            "certificateExpiresAt": endpoint.certificate_expires_at,
            "differs": endpoint.declared.is_some() && endpoint.live.is_some() && endpoint.declared != endpoint.live,
            "pending": endpoint.pending,
            "origin": endpoint.origin,
            "conditions": endpoint.conditions,
        })
    })
}
