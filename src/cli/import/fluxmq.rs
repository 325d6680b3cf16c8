//! FluxMQ 2.1: the export of its endpoints (JSON), and `config.yaml`.

use anyhow::{Context, bail};
use serde_json::{Map, Value};

use super::draft::{Document, Draft};
use super::fluxmq_endpoint::endpoint;
use weir_declare::config::Kind;

/// Sections of `config.yaml` that are not an endpoint's, and what takes their place.
const SECTIONS: &[(&str, &str)] = &[
    ("acl", "declare `acl` documents"),
    ("allowEmptyMessage", "Weir has no rule engine"),
    ("application", "see --node-name"),
    ("auth", "declare `auth` documents"),
    ("cluster", "brokers find each other in etcd: see --etcd"),
    ("eventbus", "Weir has no event bus to set up"),
    ("http", "the status API is read-only: see --status-addr"),
    ("license", "there is none"),
    ("logAll", "see --log-level"),
    ("logLevel", "see --log-level"),
    ("meter", "metrics are always on, at /metrics"),
    ("pool", "there is a thread per core: see --shards"),
    ("retry", "QoS 1 and 2 are sent again on reconnect, as MQTT 5 demands"),
    ("shareSubscribe", "the member of a shared subscription is chosen by load"),
    ("store", "declarations are kept in git or etcd; sessions where --data-dir says"),
];

/// Keys around the endpoints of an export.
const ENVELOPE: &[&str] = &[
    "code",
    "message",
    "data",
    "endpoints",
    "activePorts",
    "total",
    "page",
    "size",
    "format",
    "timestamp",
    "overwrite",
];

/// Reads an export or a configuration.
///
/// # Errors
/// It is neither JSON nor YAML, or nothing in it is an endpoint.
pub(super) fn import(text: &str) -> anyhow::Result<Draft> {
    let root: serde_yaml::Value = serde_yaml::from_str(text).context("neither JSON nor YAML")?;
    let root: Value = serde_json::to_value(root).context("keys that are not text")?;
    let mut draft = Draft::default();
    let endpoints = match &root {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => found_in(fields, &mut draft),
        _ => Vec::new(),
    };
    if endpoints.is_empty() {
        bail!("no endpoint in it: neither an export nor a config.yaml with `mqtt` or `endpoint`");
    }
    let anonymous = root.get("allowAnonymousAccess").and_then(Value::as_bool);
    let mut asks = false;
    for fields in endpoints {
        match fields.as_object() {
            Some(fields) => {
                asks |= fields.get("enableAuth").and_then(Value::as_bool) != Some(false);
                endpoint(fields, &mut draft);
            }
            None => draft.leave(None, fields.to_string(), "not an endpoint"),
        }
    }
    if asks {
        authentication(anonymous, &mut draft);
    }
    Ok(draft)
}

fn found_in<'a>(fields: &'a Map<String, Value>, draft: &mut Draft) -> Vec<&'a Value> {
    let inner = fields.get("data").and_then(Value::as_object).unwrap_or(fields);
    if inner.contains_key("port") {
        return fields.get("data").into_iter().collect();
    }
    let mut found = Vec::new();
    match inner.get("endpoints") {
        Some(Value::Object(by_port)) => found.extend(by_port.values()),
        Some(Value::Array(items)) => found.extend(items),
        _ => {}
    }
    for (key, value) in inner {
        match (key.as_str(), value) {
            ("mqtt", Value::Array(items)) => found.extend(items),
            ("mqtt" | "endpoint", Value::Object(_)) => found.push(value),
            // Exported bare: by port.
            (port, Value::Object(_)) if port.bytes().all(|b| b.is_ascii_digit()) => found.push(value),
            ("allowAnonymousAccess", _) => {}
            (key, _) if ENVELOPE.contains(&key) => {}
            (key, _) => {
                let known = SECTIONS.iter().find(|(section, _)| *section == key);
                draft.leave(None, key, known.map_or("not known", |(_, instead)| instead));
            }
        }
    }
    found
}

/// FluxMQ keeps its users in a database; who may come in has to be said anew.
fn authentication(anonymous: Option<bool>, draft: &mut Draft) {
    if anonymous == Some(true) {
        let mut auth = Document::new(Kind::Auth, "default");
        auth.note("allowAnonymousAccess: true");
        auth.decide("name who else may connect: passwordFile, jwt, http, clientCertificate");
        auth.set("chain", serde_json::json!([{ "anonymous": {} }]));
        draft.add(auth);
    } else {
        draft.leave(
            None,
            "users",
            "FluxMQ keeps them elsewhere; declare an `auth` document called default, until then every CONNECT is refused",
        );
    }
}
