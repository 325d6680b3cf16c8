//! flux-mqtt's TOML: `[mqtt]` with `[mqtt.tls]`, `[mqtt.auth]` and the rules of its `AclRule`.

use serde_json::{Map, Value, json};

use super::ImportError;
use super::draft::{Draft, DraftDocument};
use crate::config::Kind;

/// Settings without a counterpart, and what to use instead.
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("event_bus", "Weir has no event bus; messages go out over `bridge` documents"),
    ("log", "see --log-level and --log-format"),
    ("log_level", "see --log-level"),
    ("logging", "see --log-level and --log-format"),
    ("metrics", "metrics are always on, at /metrics of --status-addr"),
    ("persistence", "declare `durability: disk`, and see --data-dir"),
    ("storage", "declare `durability: disk`, and see --data-dir"),
    ("workers", "there is a thread per core: see --shards"),
];

/// Fields with another name and the same meaning.
const RENAMED: &[(&str, &str)] = &[
    ("bind", "host"),
    ("enabled", "enabled"),
    ("host", "host"),
    ("max_connections", "maxConnectionSize"),
    ("max_inflight", "maxInflight"),
    ("max_packet_size", "messageMaxSize"),
    ("max_sessions", "maxSessionSize"),
    ("port", "port"),
];

/// Whether `text` is a TOML file with a `[mqtt]` table.
pub(super) fn is_flux_mqtt(text: &str) -> bool {
    let header = |line: &str| line == "[mqtt]" || line.starts_with("[mqtt.") || line.starts_with("[[mqtt.");
    text.lines().any(|line| header(line.trim()))
}

/// Imports a configuration.
///
/// # Errors
/// `text` is not TOML, or has no `mqtt` table.
pub(super) fn import(text: &str) -> Result<Draft, ImportError> {
    let root: Map<String, Value> = toml::from_str(text).map_err(|error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let message = error.message().replace('\n', "; ");
        ImportError::Malformed { line: before.matches('\n').count() + 1, message }
    })?;
    let mut draft = Draft::default();
    let Some(mqtt) = root.get("mqtt").and_then(Value::as_object) else { return Err(ImportError::NoMqttTable) };
    let acl = acl(mqtt, &mut draft);
    let has_auth = authentication(mqtt, &mut draft);
    let shared = |document: &mut DraftDocument| {
        if !acl {
            document.set("enableAcl", false);
            document.add_note("enableAcl: false: flux-mqtt permits everything without rules");
        }
        if !has_auth {
            document.add_decision(
                "auth: flux-mqtt's authenticator is Rust code; declare an `auth` document with the name default, until then \
                 every CONNECT is refused",
            );
        }
    };
    let mut plain = endpoint("mqtt", mqtt, 1883, &["tls", "acl", "auth"], &mut draft);
    shared(&mut plain);
    draft.add(plain);
    if let Some(tls) = mqtt.get("tls").and_then(Value::as_object) {
        let own = ["cert_path", "key_path", "client_auth", "ca_path", "ca_cert_path", "client_ca_path"];
        let mut encrypted = endpoint("mqtts", tls, 8883, &own, &mut draft);
        import_tls(tls, &mut encrypted);
        for (_, field) in RENAMED.iter().filter(|(theirs, _)| theirs.starts_with("max_")) {
            let inherited = RENAMED.iter().find(|(_, ours)| ours == field).and_then(|(theirs, _)| mqtt.get(*theirs));
            if let Some(value) = inherited.filter(|_| !encrypted.fields.contains_key(*field)) {
                encrypted.set(field, value.clone());
            }
        }
        if let Some(host) = plain_host(mqtt).filter(|_| !encrypted.fields.contains_key("host")) {
            encrypted.set("host", host.clone());
        }
        shared(&mut encrypted);
        draft.add(encrypted);
    }
    for (key, value) in root.iter().filter(|(key, _)| *key != "mqtt") {
        omit(key, key, value, &mut draft);
    }
    Ok(draft)
}

fn plain_host(mqtt: &Map<String, Value>) -> Option<&Value> {
    mqtt.get("host").or_else(|| mqtt.get("bind"))
}

fn omit(path: &str, key: &str, value: &Value, draft: &mut Draft) {
    let reason = NO_COUNTERPART.iter().find(|(known, _)| *known == key);
    match (reason, value) {
        (Some((_, reason)), _) => draft.omit(None, path, *reason),
        (None, Value::Object(fields)) => {
            fields.iter().for_each(|(key, value)| omit(&format!("{path}.{key}"), key, value, draft));
        }
        (None, _) => draft.omit(None, path, "not known"),
    }
}

/// An endpoint with the fields of `table`; `others` are read by the caller.
fn endpoint(
    scheme: &str,
    table: &Map<String, Value>,
    default_port: u64,
    others: &[&str],
    draft: &mut Draft,
) -> DraftDocument {
    let port = table.get("port").cloned().unwrap_or_else(|| default_port.into());
    let name = draft.unique_name(&format!("{scheme}-{port}"));
    let mut document = DraftDocument::new(Kind::Endpoint, &name);
    document.set("port", port);
    let path = if scheme == "mqtts" { "mqtt.tls" } else { "mqtt" };
    for (key, value) in table {
        match RENAMED.iter().find(|(theirs, _)| theirs == key) {
            Some((_, "enabled")) if *value == true => {}
            Some((_, "host")) if *value == "localhost" => document.set("host", "127.0.0.1"),
            Some((_, ours)) => document.set(ours, value.clone()),
            None if others.contains(&key.as_str()) => {}
            None => omit(&format!("{path}.{key}"), key, value, draft),
        }
    }
    document
}

fn import_tls(tls: &Map<String, Value>, document: &mut DraftDocument) {
    for (theirs, ours) in [("cert_path", "certFile"), ("key_path", "keyFile")] {
        if let Some(file) = tls.get(theirs) {
            document.set(&format!("sslConfig.{ours}"), file.clone());
        }
    }
    if !tls.contains_key("cert_path") {
        document.set("enabled", false);
        document.add_decision("enabled: false, because mqtt.tls names no certificate: add certFile and keyFile");
    }
    let ca = ["ca_path", "ca_cert_path", "client_ca_path"].iter().find_map(|key| tls.get(*key));
    // `with_client_auth` takes the authority's file.
    let (asks, ca) = match tls.get("client_auth") {
        Some(Value::String(file)) => (true, Some(Value::from(file.as_str()))),
        Some(Value::Bool(true)) => (true, ca.cloned()),
        _ => (false, None),
    };
    if asks {
        document.set("sslConfig.clientAuth", "required");
        match ca {
            Some(file) => document.set("sslConfig.caFile", file),
            None => {
                document.set("sslConfig.caFile", "clients-ca.pem");
                document.add_decision("caFile: the authority of the clients' certificates");
            }
        }
    }
}

/// Declares the rules as the `acl` document `default`: `[[mqtt.acl]]`, or `[[mqtt.acl.rules]]`. Whether there are any.
fn acl(mqtt: &Map<String, Value>, draft: &mut Draft) -> bool {
    let Some(section) = mqtt.get("acl") else { return false };
    let rules = match section {
        Value::Array(rules) => rules.as_slice(),
        Value::Object(fields) => {
            if fields.get("enabled") == Some(&json!(false)) {
                return false;
            }
            for (key, value) in fields.iter().filter(|(key, _)| !["enabled", "rules"].contains(&key.as_str())) {
                omit(&format!("mqtt.acl.{key}"), key, value, draft);
            }
            fields.get("rules").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
        }
        _ => {
            draft.omit(None, "mqtt.acl", "neither a list of rules nor a table with rules");
            return true;
        }
    };
    let mut document = DraftDocument::new(Kind::Acl, "default");
    let mut ours = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        match rule.as_object().ok_or("not a rule").and_then(acl_rule) {
            Ok(rule) => ours.push(rule),
            Err(why) => {
                document.add_decision(format!("rule {} is missing here: {rule}", index + 1));
                draft.omit(None, format!("mqtt.acl: rule {}", index + 1), why);
            }
        }
    }
    document.set("rules", ours);
    draft.add(document);
    true
}

fn acl_rule(rule: &Map<String, Value>) -> Result<Value, &'static str> {
    let word = |key: &str| rule.get(key).and_then(Value::as_str).map(str::to_lowercase);
    let mut ours = Map::new();
    match word("permission").as_deref() {
        Some(permission @ ("allow" | "deny")) => drop(ours.insert("permission".into(), permission.into())),
        _ => return Err("its permission is neither allow nor deny"),
    }
    match word("action").as_deref() {
        Some(action @ ("publish" | "subscribe")) => drop(ours.insert("action".into(), action.into())),
        Some("both" | "all") | None => {}
        Some(_) => return Err("its action is neither publish, subscribe nor both"),
    }
    for (theirs, field) in [("client_id", "clientId"), ("username", "username"), ("priority", "priority")] {
        if let Some(value) = rule.get(theirs) {
            ours.insert(field.into(), value.clone());
        }
    }
    let topic = rule.get("topic_pattern").or_else(|| rule.get("topic")).ok_or("it names no topic_pattern")?;
    ours.insert("topics".into(), json!([topic]));
    let known = ["permission", "action", "client_id", "username", "priority", "topic_pattern", "topic"];
    if rule.keys().any(|key| !known.contains(&key.as_str())) {
        return Err("it has a condition that Weir does not know");
    }
    Ok(Value::Object(ours))
}

/// Declares the `auth` document `default`, where a file says enough. Whether there is one.
fn authentication(mqtt: &Map<String, Value>, draft: &mut Draft) -> bool {
    let Some(auth) = mqtt.get("auth").and_then(Value::as_object) else { return false };
    let mut document = DraftDocument::new(Kind::Auth, "default");
    let mut chain: Vec<Value> = Vec::new();
    for (key, value) in auth {
        match (key.as_str(), value) {
            ("enabled", _) => {}
            ("password_file", file) => chain.push(json!({ "passwordFile": { "file": file } })),
            ("allow_anonymous", Value::Bool(true)) => chain.push(json!({ "anonymous": {} })),
            ("allow_anonymous", _) => {}
            ("users", _) => {
                chain.push(json!({ "passwordFile": { "file": "default.passwd" } }));
                document.add_decision(
                    "write the users into default.passwd with `weir passwd`; declarations have no passwords",
                );
            }
            (key, value) => omit(&format!("mqtt.auth.{key}"), key, value, draft),
        }
    }
    chain.sort_by_key(|item| item.get("anonymous").is_some());
    if auth.get("enabled") == Some(&json!(false)) {
        chain = vec![json!({ "anonymous": { "withUsername": true } })];
        document.add_note("mqtt.auth.enabled: false");
    }
    if chain.is_empty() {
        return false;
    }
    document.set("chain", chain);
    draft.add(document);
    true
}
