//! A listener of mosquitto, with the settings for all listeners.

use std::path::Path;

use serde_json::{Value, json};

use super::ImportFiles;
use super::draft::{Draft, DraftDocument};
use super::mosquitto_acl;
use super::mosquitto_conf::{Conf, SECURITY_KEYS, Section, Setting, beside};
use crate::config::Kind;

/// Keys without a counterpart, and what to use instead.
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("accept_protocol_versions", "see `protocolVersions`"),
    ("acl_plugin", "plugins are not loaded; `http` asks a service"),
    ("allow_zero_length_clientid", "the server assigns one, as MQTT specifies"),
    ("auth_plugin", "plugins are not loaded; `http` asks a service"),
    ("auto_id_prefix", "chosen client ids have no prefix"),
    ("autosave_interval", "what is durable is on disk before it is acknowledged"),
    ("autosave_on_changes", "what is durable is on disk before it is acknowledged"),
    ("bind_interface", "name its address in `host`"),
    ("capath", "name one file in `caFile`"),
    ("check_retain_source", "ACLs are asked at delivery, too"),
    ("ciphers", "rustls offers secure suites only"),
    ("ciphers_tls1.3", "rustls offers secure suites only"),
    ("connection_messages", "see --log-level"),
    ("dhparamfile", "key exchange is by elliptic curves"),
    ("disable_client_cert_date_checks", "expired certificates are refused"),
    ("global_max_clients", "limits are an endpoint's: `maxConnectionSize`"),
    ("http_dir", "Weir serves no files"),
    ("log_dest", "Weir logs to standard error"),
    ("log_facility", "Weir logs to standard error"),
    ("log_timestamp", "see --log-format"),
    ("log_timestamp_format", "see --log-format"),
    ("log_type", "see --log-level"),
    ("max_inflight_bytes", "see `maxInflight`"),
    ("max_topic_alias_broker", "the client's Topic Alias Maximum applies"),
    ("memory_limit", "memory is bounded by each limit"),
    ("persistence_file", "see --data-dir"),
    ("persistence_location", "see --data-dir"),
    ("pid_file", "a service manager knows the process"),
    ("plugin", "plugins are not loaded; `http` asks a service"),
    ("plugin_load", "plugins are not loaded; `http` asks a service"),
    ("plugin_use", "plugins are not loaded; `http` asks a service"),
    ("psk_file", "pre-shared keys are not offered; use certificates"),
    ("psk_hint", "pre-shared keys are not offered; use certificates"),
    ("queue_qos0_messages", "QoS 0 is not queued for disconnected clients"),
    ("retain_expiry_interval", "see `messageExpiryMaxS`"),
    ("sys_interval", "$SYS has a fixed interval"),
    ("tls_engine", "keys are read from files"),
    ("tls_engine_kpass_sha1", "keys are read from files"),
    ("tls_keyform", "keys are read from files"),
    ("upgrade_outgoing_qos", "a message keeps its QoS"),
    ("use_username_as_clientid", "a client id is the client's own"),
    ("user", "a service manager starts Weir as a user of its own"),
    ("websockets_headers_size", "handshakes have a fixed bound"),
    ("websockets_log_level", "see --log-level"),
];

/// Keys that are imported.
const IMPORTED: &[&str] = &[
    "acl_file",
    "allow_anonymous",
    "bind_address",
    "cafile",
    "certfile",
    "crlfile",
    "enable_proxy_protocol",
    "keyfile",
    "listener",
    "listener_allow_anonymous",
    "max_connections",
    "max_inflight_messages",
    "max_keepalive",
    "max_packet_size",
    "max_qos",
    "max_queued_bytes",
    "max_queued_messages",
    "max_topic_alias",
    "message_size_limit",
    "mount_point",
    "password_file",
    "per_listener_settings",
    "persistence",
    "persistent_client_expiration",
    "port",
    "protocol",
    "require_certificate",
    "retain_available",
    "set_tcp_nodelay",
    "socket_domain",
    "tls_version",
    "use_identity_as_username",
    "use_subject_as_username",
    "websockets_origin",
];

/// Imports a listener as an endpoint, with its `auth` and `acl` documents.
pub(super) fn import_listener(
    section: &Section,
    conf: &Conf,
    file: &Path,
    files: &dyn ImportFiles,
    anonymous_by_default: bool,
    draft: &mut Draft,
) {
    let words: Vec<&str> = section.get("listener").map_or_else(Vec::new, |own| own.value.split_whitespace().collect());
    let port = words.first().copied().or_else(|| section.get("port").map(|port| port.value.as_str())).unwrap_or("1883");
    let websocket = section.get("protocol").is_some_and(|protocol| protocol.value == "websockets");
    let encrypted = section.get("certfile").is_some();
    let unix = port == "0";
    let scheme = match (unix, websocket, encrypted) {
        (true, ..) => "unix",
        (_, false, false) => "mqtt",
        (_, false, true) => "mqtts",
        (_, true, false) => "ws",
        (_, true, true) => "wss",
    };
    let name = draft.unique_name(&if unix { scheme.to_owned() } else { format!("{scheme}-{port}") });
    let mut document = DraftDocument::new(Kind::Endpoint, &name);
    let address = words.get(1).copied().or_else(|| section.get("bind_address").map(|address| address.value.as_str()));
    if unix {
        document.set("host", format!("unix:{}", address.unwrap_or_default()));
    } else {
        document.set("port", port.parse::<u64>().map_or_else(|_| Value::from(port), Value::from));
        match (address, section.get("socket_domain").map(|domain| domain.value.as_str())) {
            (Some("localhost"), _) => document.set("host", "127.0.0.1"),
            (Some(address), _) => document.set("host", address),
            (None, _) if anonymous_by_default => {
                document.set("host", "127.0.0.1");
                document.add_note("without a listener, mosquitto serves this machine only");
            }
            (None, Some("ipv4")) => {}
            (None, Some("ipv6")) => document.set("host", "::"),
            (None, _) => document.add_note("mosquitto listens on IPv6, too; so does Weir with `host: \"::\"`"),
        }
    }
    if websocket {
        document.set("useWebsocket", true);
        document.add_decision("path: mosquitto answers on every path, Weir on this one");
        document.set("path", "/mqtt");
    }
    tls(section, &mut document, draft);
    limits(section, &conf.global, &mut document, draft);
    let security = Security::new(section, conf, anonymous_by_default);
    security.authentication(&name, &mut document, draft);
    security.authorization(&name, (file, files), &mut document, draft);
    omit_unsupported(section, draft);
    draft.add(document);
}

fn tls(section: &Section, document: &mut DraftDocument, draft: &mut Draft) {
    let Some(cert) = section.get("certfile") else {
        if section.get("psk_hint").is_some() {
            document.set("enabled", false);
            document
                .add_decision("enabled: false, because it was encrypted by pre-shared keys: add certFile and keyFile");
        }
        return;
    };
    document.set("sslConfig.certFile", cert.value.as_str());
    if let Some(key) = section.get("keyfile") {
        document.set("sslConfig.keyFile", key.value.as_str());
    }
    if section.flag("require_certificate") == Some(true) {
        document.set("sslConfig.clientAuth", "required");
        for (theirs, ours) in [("cafile", "caFile"), ("crlfile", "crlFile")] {
            if let Some(file) = section.get(theirs) {
                document.set(&format!("sslConfig.{ours}"), file.value.as_str());
            }
        }
    } else if let Some(ca) = section.get("cafile").or_else(|| section.get("crlfile")) {
        draft.omit(ca.line, &ca.key, "without require_certificate, mosquitto does not look at it either");
    }
    match section.get("tls_version") {
        Some(version) if version.value == "tlsv1.3" => document.set("sslConfig.minVersion", "1.3"),
        Some(version) if version.value != "tlsv1.2" => {
            draft.omit(version.line, format!("tls_version {}", version.value), "the oldest version is TLS 1.2");
        }
        _ => {}
    }
}

fn limits(section: &Section, global: &Section, document: &mut DraftDocument, draft: &mut Draft) {
    // 0 and -1 mean unlimited in mosquitto. Here the field is left out, or set to its maximum where Weir always has a limit.
    let fields: &[(&str, &str, Option<i64>)] = &[
        ("max_connections", "maxConnectionSize", None),
        ("max_topic_alias", "topicAliasMaximum", None),
        ("max_inflight_messages", "maxInflight", Some(65_535)),
        ("max_keepalive", "keepAliveMaxS", None),
        ("max_packet_size", "messageMaxSize", Some(16_777_216)),
        ("max_queued_bytes", "maxQueuedBytes", None),
        ("max_queued_messages", "maxQueuedMessages", Some(100_000_000)),
    ];
    for (theirs, ours, unlimited) in fields {
        let Some(setting) = section.get(theirs).or_else(|| global.get(theirs)) else { continue };
        match (setting.number(), unlimited) {
            (Some(0), _) if *theirs == "max_topic_alias" => document.set(ours, 0),
            (Some(number), _) if number > 0 => document.set(ours, number),
            (Some(_), Some(largest)) => document.set(ours, *largest),
            (Some(_), None) => {}
            (None, _) => draft.omit(setting.line, format!("{theirs} {}", setting.value), "not a number"),
        }
    }
    if let Some(qos) = section.get("max_qos").and_then(Setting::number) {
        document.set("maximumQos", qos);
    }
    if let Some(limit) = global.get("message_size_limit").and_then(Setting::number).filter(|limit| *limit > 0) {
        document.set("messageMaxSize", limit);
        document.add_decision("messageMaxSize counts the whole packet, message_size_limit counted the payload");
    }
    if let Some(mount_point) = section.get("mount_point") {
        document.set("mountpoint", mount_point.value.as_str());
        document.add_note("mount_point: Weir separates client ids and sessions, too, not only topics");
    }
    if section.flag("enable_proxy_protocol") == Some(true)
        || section.get("enable_proxy_protocol").is_some_and(|v| v.value == "2")
    {
        document.set("proxyProtocol.trustedSources", json!(["127.0.0.1/32"]));
        document.add_decision("list your proxies in trustedSources; mosquitto trusts every address");
    }
    let origins: Vec<&str> =
        section.settings.iter().filter(|s| s.key == "websockets_origin").map(|s| s.value.as_str()).collect();
    if !origins.is_empty() {
        document.set("websocket.origins", origins);
    }
    if global.flag("retain_available") == Some(false) {
        document.set("retainAvailable", false);
    }
    if global.flag("set_tcp_nodelay") == Some(false) {
        document.set("childOptions.noDelay", false);
    }
    if global.flag("persistence") == Some(true) {
        document.set("durability", "disk");
        document.add_note("persistence: mosquitto saves periodically, Weir before each acknowledgement");
    }
    if let Some(setting) = global.get("persistent_client_expiration") {
        match seconds(&setting.value) {
            Some(seconds) => document.set("sessionExpiryMaxS", seconds),
            None => draft.omit(setting.line, "persistent_client_expiration", "not a number and one of h d w m y"),
        }
    }
}

/// `14d`, `2w`, `1m`, `1y`, `12h`.
fn seconds(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    const DAY: u64 = 86_400;
    let unit = match unit {
        "h" => 3600,
        "d" => DAY,
        "w" => 7 * DAY,
        "m" => 30 * DAY,
        "y" => 365 * DAY,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit)
}

/// mosquitto's authentication and access control of a listener.
struct Security<'a> {
    /// Whether a setting applies to this listener alone.
    own: bool,
    password_file: Option<&'a Setting>,
    acl_file: Option<&'a Setting>,
    /// The part of a certificate that becomes the username.
    certificate: Option<&'static str>,
    anonymous: bool,
    /// Whether a plugin decides, too.
    plugin: bool,
}

impl<'a> Security<'a> {
    fn new(section: &'a Section, conf: &'a Conf, anonymous_by_default: bool) -> Self {
        let find = |key: &str| section.get(key).or_else(|| conf.global.get(key));
        let certificate = if section.flag("use_subject_as_username") == Some(true) {
            Some("subject")
        } else {
            (section.flag("use_identity_as_username") == Some(true)).then_some("commonName")
        };
        let allow = section.get("listener_allow_anonymous").or_else(|| find("allow_anonymous"));
        let is_security_setting = |setting: &Setting| {
            SECURITY_KEYS.contains(&setting.key.as_str()) || setting.key == "listener_allow_anonymous"
        };
        Self {
            own: certificate.is_some() || section.settings.iter().any(is_security_setting),
            password_file: find("password_file"),
            acl_file: find("acl_file"),
            certificate,
            anonymous: allow.map_or(anonymous_by_default, Setting::is_true),
            plugin: ["plugin", "plugin_load", "plugin_use", "auth_plugin", "acl_plugin"]
                .iter()
                .any(|key| find(key).is_some()),
        }
    }

    /// Declares the authentication.
    fn authentication(&self, endpoint: &str, document: &mut DraftDocument, draft: &mut Draft) {
        let mut chain: Vec<Value> = Vec::new();
        if let Some(username) = self.certificate {
            chain.push(json!({ "clientCertificate": { "username": username } }));
        }
        if let Some(file) = self.password_file {
            chain.push(json!({ "passwordFile": { "file": file.value } }));
        }
        match (self.anonymous, self.plugin) {
            (true, true) => {
                document.add_decision(
                    "a plugin decided who may connect; add an authenticator, otherwise no client may connect",
                );
            }
            // Without a password file, mosquitto does not check usernames.
            (true, false) if self.password_file.is_none() => {
                chain.push(json!({ "anonymous": { "withUsername": true } }));
            }
            (true, false) => chain.push(json!({ "anonymous": {} })),
            (false, _) => {}
        }
        let name = if self.own { format!("{endpoint}-auth") } else { "default".to_owned() };
        if chain.is_empty() {
            // The endpoint must not use the `default` document of another listener.
            document.set("enabled", false);
            document.add_decision(
                "enabled: false, because no client may connect: add an authenticator in an `auth` document",
            );
            return;
        }
        if self.own {
            document.set("auth", name.as_str());
        }
        if !draft.has(Kind::Auth, &name) {
            let mut auth = DraftDocument::new(Kind::Auth, &name);
            auth.set("chain", chain);
            draft.add(auth);
        }
    }

    /// Declares the access list.
    fn authorization(
        &self,
        endpoint: &str,
        (file, files): (&Path, &dyn ImportFiles),
        document: &mut DraftDocument,
        draft: &mut Draft,
    ) {
        if self.acl_file.is_none() && !self.plugin {
            document.set("enableAcl", false);
            document.add_note("enableAcl: false: mosquitto has no acl_file here, so everything is permitted");
            return;
        }
        let name = if self.own { format!("{endpoint}-acl") } else { "default".to_owned() };
        if self.own {
            document.set("acl", name.as_str());
        }
        if draft.has(Kind::Acl, &name) {
            return;
        }
        match self.acl_file {
            Some(setting) => {
                let no_usernames = self.password_file.is_none() && self.certificate.is_none();
                let path = beside(file, &setting.value);
                mosquitto_acl::import(&path, files, setting, &name, no_usernames, self.anonymous, draft);
            }
            None => {
                let mut acl = DraftDocument::new(Kind::Acl, &name);
                acl.add_decision("a plugin decided about access; without rules, nothing is permitted");
                acl.set("rules", json!([]));
                draft.add(acl);
            }
        }
    }
}

/// Records settings without a counterpart.
pub(super) fn omit_unsupported(section: &Section, draft: &mut Draft) {
    for setting in section.settings.iter().filter(|setting| !IMPORTED.contains(&setting.key.as_str())) {
        let known = NO_COUNTERPART.iter().find(|(key, _)| *key == setting.key);
        draft.omit(setting.line, &setting.key, known.map_or("not known", |(_, instead)| instead));
    }
}
