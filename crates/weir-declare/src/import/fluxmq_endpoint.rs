//! One endpoint of FluxMQ.

use serde_json::{Map, Value, json};

use super::draft::{Draft, DraftDocument};
use crate::config::Kind;

/// Fields with the same meaning.
const SAME_MEANING: &[&str] = &[
    "port",
    "useWebsocket",
    "path",
    "enabled",
    "isDefault",
    "enableAuth",
    "enableAcl",
    "maxConnectionSize",
    "maxConnectionPerSecond",
    "maxSessionSize",
    "messageMaxSize",
];

/// Fields with run-time state, which is not configuration.
const RUNTIME_STATE: &[&str] = &["status", "createTime", "updateTime", "uptime", "id", "version"];

/// Fields without a counterpart, and what to use instead.
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("aclRefreshPeriod", "ACLs apply when they are declared"),
    ("authConfig", "declare an `auth` document; databases are asked through its `http`"),
    ("authType", "declare an `auth` document; databases are asked through its `http`"),
    ("exclusivePool", "there is a thread per core: see --shards"),
    ("logging", "see --log-level and --log-format"),
    ("metrics", "metrics are always on, at /metrics"),
    ("metricsConfig", "metrics are always on, at /metrics of --status-addr"),
    ("options", "see `serverOptions`"),
    ("wiretap", "packets are not logged"),
];

/// Imports an endpoint.
pub(super) fn import_endpoint(fields: &Map<String, Value>, draft: &mut Draft) {
    let Some(port) = fields.get("port").and_then(Value::as_u64) else {
        draft.omit(None, "an endpoint without a port", "the port identifies the endpoint");
        return;
    };
    let flag = |field: &str| fields.get(field).and_then(Value::as_bool);
    let encrypted = is_encrypted(fields);
    let scheme = match (flag("useWebsocket").unwrap_or(false), encrypted) {
        (false, false) => "mqtt",
        (false, true) => "mqtts",
        (true, false) => "ws",
        (true, true) => "wss",
    };
    let mut document = DraftDocument::new(Kind::Endpoint, &draft.unique_name(&format!("{scheme}-{port}")));
    for field in SAME_MEANING {
        if let Some(value) = fields.get(*field) {
            document.set(field, value.clone());
        }
    }
    let what = |field: &str| format!("endpoint {port}: {field}");
    for (field, value) in fields {
        match field.as_str() {
            known if SAME_MEANING.contains(&known) || RUNTIME_STATE.contains(&known) => {}
            "sslConfig" | "ssl" => tls(value, &what(field), &mut document, draft),
            "serverOptions" | "childOptions" => options(field, value, &what(field), &mut document, draft),
            "host" => host(value, &mut document),
            "maxSendWindowSize" => document.set("maxInflight", value.clone()),
            "maxReceiveWindowSize" => document.set("receiveMaximum", value.clone()),
            "sessionPersistence" if *value == true => {
                document.set("durability", "disk");
                document.add_note("sessionPersistence: true");
            }
            "proxy" if *value == true => {
                document.set("proxyProtocol.trustedSources", json!(["127.0.0.1/32"]));
                document.add_decision("list your proxies in trustedSources; FluxMQ trusts every address");
            }
            "aclConfig" => acl(value, &what(field), &mut document, draft),
            "aclType" if *value == "config" => {}
            "aclType" => draft.omit(None, what(field), "declare an `acl` document"),
            "bridgeConfig" => bridge(value, &mut document, draft),
            "enableBridge" if *value == true && !fields.contains_key("bridgeConfig") => {
                draft.omit(
                    None,
                    what(field),
                    "Weir has no rule engine; declare `bridge` documents and name them in `bridges`",
                );
            }
            // Off or empty, which is Weir's default.
            _ if matches!(value, Value::Bool(false) | Value::Null) || value.as_object().is_some_and(Map::is_empty) => {}
            "enableBridge" => {}
            "metrics" if *value == true => {}
            other => {
                let known = NO_COUNTERPART.iter().find(|(field, _)| *field == other);
                draft.omit(None, what(other), known.map_or("not known", |(_, instead)| instead));
            }
        }
    }
    if fields.contains_key("maxSessionSize") {
        document.add_decision(
            "maxSessionSize counts sessions; FluxMQ before 2.1 meant messages per session (maxQueuedMessages)",
        );
    }
    draft.add(document);
}

fn is_encrypted(fields: &Map<String, Value>) -> bool {
    let config = fields.get("sslConfig").or_else(|| fields.get("ssl")).and_then(Value::as_object);
    config.is_some_and(|config| !config.is_empty() && config.get("enabled") != Some(&json!(false)))
}

fn tls(value: &Value, what: &str, document: &mut DraftDocument, draft: &mut Draft) {
    let Some(config) = value.as_object().filter(|config| !config.is_empty()) else { return };
    if config.get("enabled") == Some(&json!(false)) {
        return;
    }
    for (theirs, ours) in [("crt", "certFile"), ("key", "keyFile"), ("ca", "caFile")] {
        if let Some(file) = config.get(theirs) {
            document.set(&format!("sslConfig.{ours}"), file.clone());
        }
    }
    if config.contains_key("ca") {
        document.set("sslConfig.clientAuth", "required");
        document.add_decision("clientAuth: required, or optional to admit clients without a certificate");
    }
    if let Some(store) = config.get("keyStorePath").and_then(Value::as_str) {
        document.set("sslConfig.certFile", "tls/server.crt");
        document.set("sslConfig.keyFile", "tls/server.key");
        document.add_decision(format!(
            "turn the keystore into PEM: keytool -importkeystore -srckeystore {store} -destkeystore k.p12 -deststoretype PKCS12;\n\
             openssl pkcs12 -in k.p12 -nokeys -out tls/server.crt; openssl pkcs12 -in k.p12 -nocerts -nodes -out tls/server.key"
        ));
    }
    if let Some(store) = config.get("trustStorePath").and_then(Value::as_str) {
        document.set("sslConfig.caFile", "tls/clients-ca.crt");
        document.set("sslConfig.clientAuth", "required");
        document.add_decision(format!("export the trusted certificates of {store} to tls/clients-ca.crt, PEM"));
    }
    if !config.contains_key("crt") && !config.contains_key("keyStorePath") {
        document.set("enabled", false);
        document.add_decision("enabled: false, because sslConfig names no certificate: add certFile and keyFile");
    }
    let versions = config.get("protocols").and_then(Value::as_array);
    if versions.is_some_and(|versions| !versions.is_empty() && versions.iter().all(|version| version == "TLSv1.3")) {
        document.set("sslConfig.minVersion", "1.3");
    }
    let imported = [
        "enabled",
        "crt",
        "key",
        "ca",
        "keyStorePath",
        "trustStorePath",
        "protocols",
        "keyStorePassword",
        "trustStorePassword",
    ];
    for field in config.keys().filter(|field| !imported.contains(&field.as_str())) {
        draft.omit(None, format!("{what}.{field}"), "Weir's TLS has no such setting");
    }
}

/// The address to listen on. An empty one and `*` mean all, as in Weir without `host`.
fn host(value: &Value, document: &mut DraftDocument) {
    match value.as_str() {
        Some("" | "*") => {}
        Some("localhost") => document.set("host", "127.0.0.1"),
        _ => document.set("host", value.clone()),
    }
}

/// Netty's options as they are spelled in FluxMQ's files, without `_` and in lower case, and Weir's.
const SERVER_OPTIONS: &[(&str, &str)] = &[
    ("backlog", "backlog"),
    ("rcvbuf", "receiveBuffer"),
    ("receivebuffer", "receiveBuffer"),
    ("reuseport", "reusePort"),
    ("sendbuffer", "sendBuffer"),
    ("sndbuf", "sendBuffer"),
];

const CHILD_OPTIONS: &[(&str, &str)] = &[
    ("keepalive", "keepAlive"),
    ("keepalivecount", "keepAliveCount"),
    ("keepaliveidles", "keepAliveIdleS"),
    ("keepaliveintervals", "keepAliveIntervalS"),
    ("keepcnt", "keepAliveCount"),
    ("keepidle", "keepAliveIdleS"),
    ("keepintvl", "keepAliveIntervalS"),
    ("nodelay", "noDelay"),
    ("rcvbuf", "receiveBuffer"),
    ("receivebuffer", "receiveBuffer"),
    ("sendbuffer", "sendBuffer"),
    ("sndbuf", "sendBuffer"),
    ("usertimeout", "userTimeoutMs"),
    ("usertimeoutms", "userTimeoutMs"),
];

/// Options without a counterpart, and why.
const NO_OPTION: &[(&str, &str)] = &[
    ("allocator", "Weir has no JVM: see --memory"),
    ("autoread", "reading pauses where a receiver does not keep up"),
    ("connecttimeoutmillis", "see `connectTimeoutMs`, which covers handshakes, CONNECT and authentication"),
    ("iptos", "Weir marks no packets"),
    ("linger", "a connection is closed as the kernel does it by default"),
    ("rcvbufallocator", "the kernel's and Weir's buffers grow with need"),
    ("reuseaddr", "it is always set on the listening socket"),
    ("tcpfastopen", "Weir has no TCP Fast Open"),
    ("writebufferwatermark", "a receiver that does not keep up slows its publishers; see `maxQueuedBytes`"),
];

/// Netty's options in every spelling: `soBacklog`, `SO_BACKLOG`, `backlog`.
fn options(field: &str, value: &Value, what: &str, document: &mut DraftDocument, draft: &mut Draft) {
    let known = if field == "serverOptions" { SERVER_OPTIONS } else { CHILD_OPTIONS };
    for (option, value) in value.as_object().into_iter().flatten() {
        let plain: String = option.chars().filter(|c| *c != '_').flat_map(char::to_lowercase).collect();
        let spelled = |name: &str| {
            let short = plain.strip_prefix("so").or_else(|| plain.strip_prefix("tcp"));
            plain == name || short == Some(name)
        };
        match known.iter().find(|(theirs, _)| spelled(theirs)) {
            Some((_, ours)) => document.set(&format!("{field}.{ours}"), value.clone()),
            None if spelled("reuseaddr") && *value == true => {}
            None => {
                let reason = NO_OPTION.iter().find(|(theirs, _)| spelled(theirs));
                let reason = reason.map_or("Weir has no such option there", |(_, reason)| reason);
                draft.omit(None, format!("{what}.{option}"), reason);
            }
        }
    }
}

/// `config: {rules: [{username, allow: [filter], deny: [filter]}]}`.
fn acl(value: &Value, what: &str, endpoint: &mut DraftDocument, draft: &mut Draft) {
    let config = value.as_object();
    for source in config.into_iter().flat_map(Map::keys).filter(|source| *source != "config") {
        draft.omit(None, format!("{what}.{source}"), "declare an `acl` document");
    }
    let Some(rules) = value.pointer("/config/rules").and_then(Value::as_array) else { return };
    let mut carried = Vec::new();
    for rule in rules {
        for (key, permission) in [("deny", "deny"), ("allow", "allow")] {
            let Some(topics) = rule.get(key).filter(|topics| topics.is_array()) else { continue };
            let mut ours = Map::new();
            ours.insert("permission".into(), permission.into());
            for (theirs, field) in [("username", "username"), ("clientId", "clientId"), ("clientid", "clientId")] {
                if let Some(value) = rule.get(theirs) {
                    ours.insert(field.into(), value.clone());
                }
            }
            ours.insert("topics".into(), topics.clone());
            carried.push(Value::Object(ours));
        }
    }
    let name = draft.unique_name("imported-acl");
    let mut document = DraftDocument::new(Kind::Acl, &name);
    document.set("rules", carried);
    endpoint.set("acl", name);
    draft.add(document);
}

fn bridge(value: &Value, endpoint: &mut DraftDocument, draft: &mut Draft) {
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    let Some(host) = text("remoteHost") else {
        draft.omit(None, "bridgeConfig", "it names no remoteHost");
        return;
    };
    let name = draft.unique_name("bridge");
    let mut document = DraftDocument::new(Kind::Bridge, &name);
    let port = value.get("remotePort").and_then(Value::as_u64).unwrap_or(1883);
    document.set("address", json!([format!("mqtt://{host}:{port}")]));
    for field in ["clientId", "username"] {
        if let Some(value) = text(field) {
            document.set(field, value);
        }
    }
    if value.get("password").is_some() {
        document.set("password", format!("file:{name}.secret"));
        document.add_decision(format!("write the password into {name}.secret; declarations never contain it"));
    }
    let topics = value.get("topics").and_then(Value::as_array).into_iter().flatten();
    let rules: Vec<Value> = topics.map(|filter| json!({ "filter": filter })).collect();
    document.set("out", rules);
    document.add_decision("FluxMQ has no direction for topics; here it is `out`");
    endpoint.set("enableBridge", true);
    endpoint.set("bridges", json!([name]));
    draft.add(document);
}
