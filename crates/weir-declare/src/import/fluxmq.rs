//! FluxMQ 2.1: the export of its endpoints (JSON), and `config.yaml`.

use serde_json::{Map, Value};

use super::ImportError;
use super::draft::{Draft, DraftDocument};
use super::fluxmq_endpoint::import_endpoint;
use crate::config::{Kind, parse_yaml};

/// Sections of `config.yaml` that do not belong to an endpoint, and what to use instead.
const SECTIONS: &[(&str, &str)] = &[
    ("acl", "declare `acl` documents"),
    ("allowEmptyMessage", "Weir has no rule engine"),
    ("application", "see --node-name"),
    ("auth", "declare `auth` documents"),
    ("cluster", "brokers find each other in etcd: see --etcd"),
    ("eventbus", "Weir has no event bus to set up"),
    ("http", "the status API is read-only: see --status-addr"),
    ("license", "Weir needs none"),
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

/// Imports an export or a configuration.
///
/// # Errors
/// `text` is neither JSON nor YAML, or has no endpoint.
pub(super) fn import(text: &str) -> Result<Draft, ImportError> {
    let root = parse_yaml(text)?;
    let mut draft = Draft::default();
    let endpoints = match &root {
        Value::Array(items) => items.iter().collect(),
        Value::Object(fields) => endpoints_in(fields, &mut draft),
        _ => Vec::new(),
    };
    if endpoints.is_empty() {
        return Err(ImportError::NoEndpoint);
    }
    let anonymous = root.get("allowAnonymousAccess").and_then(Value::as_bool);
    let mut needs_auth = false;
    for fields in endpoints {
        match fields.as_object() {
            Some(fields) => {
                needs_auth |= fields.get("enableAuth").and_then(Value::as_bool) != Some(false);
                import_endpoint(fields, &mut draft);
            }
            None => draft.omit(None, fields.to_string(), "not an endpoint"),
        }
    }
    if needs_auth {
        authentication(anonymous, &mut draft);
    }
    Ok(draft)
}

fn endpoints_in<'a>(fields: &'a Map<String, Value>, draft: &mut Draft) -> Vec<&'a Value> {
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
            // An export without its envelope: endpoints by port.
            (port, Value::Object(_)) if port.bytes().all(|b| b.is_ascii_digit()) => found.push(value),
            ("allowAnonymousAccess", _) => {}
            (key, _) if ENVELOPE.contains(&key) => {}
            (key, _) => {
                let known = SECTIONS.iter().find(|(section, _)| *section == key);
                draft.omit(None, key, known.map_or("not known", |(_, instead)| instead));
            }
        }
    }
    found
}

/// FluxMQ keeps its users in a database, so authentication has to be declared.
fn authentication(anonymous: Option<bool>, draft: &mut Draft) {
    if anonymous == Some(true) {
        let mut auth = DraftDocument::new(Kind::Auth, "default");
        auth.add_note("allowAnonymousAccess: true");
        auth.add_decision("add authenticators for other clients: passwordFile, jwt, http, clientCertificate");
        auth.set("chain", serde_json::json!([{ "anonymous": {} }]));
        draft.add(auth);
    } else {
        draft.omit(
            None,
            "users",
            "FluxMQ keeps them in a database; declare an `auth` document with the name default, until then every CONNECT is refused",
        );
    }
}
