//! `mosquitto.conf`: its lines, sorted to the listeners and bridges they are about.

use std::path::{Path, PathBuf};

use super::draft::{Document, Draft};
use super::mosquitto_bridge::bridge;
use super::mosquitto_listener::{listener, report_rest};
use weir_declare::config::Kind;

/// A line: `key value`.
#[derive(Debug, Clone)]
pub(super) struct Setting {
    /// `None` in an included file.
    pub(super) line: Option<usize>,
    pub(super) key: String,
    pub(super) value: String,
}

impl Setting {
    /// mosquitto's booleans.
    pub(super) fn is_true(&self) -> bool {
        matches!(self.value.as_str(), "true" | "1")
    }

    /// The value as a number.
    pub(super) fn number(&self) -> Option<i64> {
        self.value.parse().ok()
    }
}

/// A group of lines that are about one thing.
#[derive(Debug, Default, Clone)]
pub(super) struct Section {
    pub(super) settings: Vec<Setting>,
}

impl Section {
    /// The last line with this key: the one that holds.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().rev().find(|setting| setting.key == key)
    }

    /// Whether a flag is set.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(Setting::is_true)
    }
}

/// Keys that a listener's section takes; before the first `listener` they are about the default one, on port 1883.
const LISTENER_KEYS: &[&str] = &[
    "accept_protocol_versions",
    "bind_address",
    "bind_interface",
    "cafile",
    "capath",
    "certfile",
    "ciphers",
    "ciphers_tls1.3",
    "crlfile",
    "dhparamfile",
    "disable_client_cert_date_checks",
    "enable_proxy_protocol",
    "http_dir",
    "keyfile",
    "listener_allow_anonymous",
    "listener_auto_id_prefix",
    "max_connections",
    "max_qos",
    "max_topic_alias",
    "max_topic_alias_broker",
    "mount_point",
    "port",
    "protocol",
    "psk_file",
    "psk_hint",
    "require_certificate",
    "socket_domain",
    "tls_engine",
    "tls_engine_kpass_sha1",
    "tls_keyform",
    "tls_version",
    "use_identity_as_username",
    "use_subject_as_username",
    "use_username_as_clientid",
    "websockets_headers_size",
    "websockets_origin",
];

/// Keys about who may come in: a listener's where `per_listener_settings` is set, else everybody's.
pub(super) const SECURITY_KEYS: &[&str] = &[
    "acl_file",
    "acl_plugin",
    "allow_anonymous",
    "allow_zero_length_clientid",
    "auth_plugin",
    "auto_id_prefix",
    "password_file",
    "plugin",
    "plugin_load",
    "plugin_use",
    "psk_file",
];

/// Global keys that each endpoint carries, or that have no counterpart; see `mosquitto_listener`.
const GLOBAL_KEYS: &[&str] = &[
    "autosave_interval",
    "autosave_on_changes",
    "check_retain_source",
    "connection_messages",
    "global_max_clients",
    "include_dir",
    "log_dest",
    "log_facility",
    "log_timestamp",
    "log_timestamp_format",
    "log_type",
    "max_inflight_bytes",
    "max_inflight_messages",
    "max_keepalive",
    "max_packet_size",
    "max_queued_bytes",
    "max_queued_messages",
    "memory_limit",
    "message_size_limit",
    "per_listener_settings",
    "persistence",
    "persistence_file",
    "persistence_location",
    "persistent_client_expiration",
    "pid_file",
    "queue_qos0_messages",
    "retain_available",
    "retain_expiry_interval",
    "set_tcp_nodelay",
    "sys_interval",
    "upgrade_outgoing_qos",
    "user",
    "websockets_log_level",
];

/// Whether mosquitto knows a key.
pub(super) fn is_known(key: &str) -> bool {
    matches!(key, "listener" | "connection")
        || LISTENER_KEYS.contains(&key)
        || SECURITY_KEYS.contains(&key)
        || GLOBAL_KEYS.contains(&key)
}

/// A configuration, taken apart.
#[derive(Debug, Default)]
pub(super) struct Conf {
    /// What is said of all listeners.
    pub(super) global: Section,
    /// The default listener's lines, then each `listener`'s, whose first line it is.
    pub(super) listeners: Vec<Section>,
    pub(super) bridges: Vec<Section>,
}

/// Carries a configuration over. `file` is where it stands: other files are looked for beside it.
pub(super) fn import(file: &Path, text: &str) -> Draft {
    let mut draft = Draft::default();
    let mut settings = Vec::new();
    read(file, text, false, &mut settings, &mut draft);
    let conf = sort(settings);
    let anonymous_by_default = conf.listeners.is_empty();
    let listeners = if conf.listeners.is_empty() { vec![Section::default()] } else { conf.listeners.clone() };
    for section in &listeners {
        listener(section, &conf, file, anonymous_by_default, &mut draft);
    }
    // What is said of all listeners is listed once.
    report_rest(&conf.global, &mut draft);
    let bridges: Vec<String> = conf.bridges.iter().filter_map(|section| bridge(section, &mut draft)).collect();
    attach(&bridges, &mut draft);
    draft
}

/// The lines of a file, and of those that it includes.
fn read(file: &Path, text: &str, included: bool, settings: &mut Vec<Setting>, draft: &mut Draft) {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let number = (!included).then_some(index + 1);
        if key == "include_dir" && !included {
            include(&beside(file, value.trim()), number, settings, draft);
            continue;
        }
        settings.push(Setting { line: number, key: key.to_owned(), value: value.trim().to_owned() });
    }
}

fn include(directory: &Path, line: Option<usize>, settings: &mut Vec<Setting>, draft: &mut Draft) {
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return draft.leave(line, format!("include_dir {}", directory.display()), error.to_string()),
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "conf"));
    files.sort();
    for file in files {
        match std::fs::read_to_string(&file) {
            Ok(text) => read(&file, &text, true, settings, draft),
            Err(error) => draft.leave(line, file.display().to_string(), error.to_string()),
        }
    }
}

/// A path in a configuration: mosquitto takes it from where it was started, which is most often beside the file.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

fn sort(settings: Vec<Setting>) -> Conf {
    enum Place {
        Global,
        Listener,
        Bridge,
    }
    let mut conf = Conf::default();
    let per_listener = settings.iter().any(|setting| setting.key == "per_listener_settings" && setting.is_true());
    let mut default = Section::default();
    let mut place = Place::Global;
    for setting in settings {
        let of_listener = LISTENER_KEYS.contains(&setting.key.as_str())
            || (per_listener && SECURITY_KEYS.contains(&setting.key.as_str()));
        match setting.key.as_str() {
            "listener" => {
                conf.listeners.push(Section { settings: vec![setting] });
                place = Place::Listener;
            }
            "connection" => {
                conf.bridges.push(Section { settings: vec![setting] });
                place = Place::Bridge;
            }
            key => match place {
                Place::Bridge if !GLOBAL_KEYS.contains(&key) => {
                    conf.bridges.iter_mut().last().into_iter().for_each(|s| s.settings.push(setting.clone()));
                }
                Place::Listener if of_listener => {
                    conf.listeners.iter_mut().last().into_iter().for_each(|s| s.settings.push(setting.clone()));
                }
                _ if of_listener => default.settings.push(setting),
                _ => conf.global.settings.push(setting),
            },
        }
    }
    // The default listener is there if something is said of it.
    if default.get("port").is_some()
        || default.get("bind_address").is_some()
        || (conf.listeners.is_empty() && !default.settings.is_empty())
    {
        conf.listeners.insert(0, default);
    } else {
        conf.global.settings.extend(default.settings);
    }
    conf
}

/// Bridges carry the messages of the namespace that has no mount point.
fn attach(bridges: &[String], draft: &mut Draft) {
    if bridges.is_empty() {
        return;
    }
    let shared = |endpoint: &Document| !endpoint.fields.contains_key("mountpoint");
    match draft.endpoint_mut(shared) {
        Some(endpoint) => {
            endpoint.set("enableBridge", true);
            endpoint.set("bridges", bridges.to_vec());
        }
        None => {
            draft.leave(None, "bridges", format!("every endpoint has a mountpoint; name the {}s at one", Kind::Bridge))
        }
    }
}
