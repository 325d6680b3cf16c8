//! `mosquitto.conf`: its lines, split into listeners and bridges.

use std::path::{Path, PathBuf};

use super::Files;
use super::draft::{Document, Draft};
use super::mosquitto_bridge::import_bridge;
use super::mosquitto_listener::{import_listener, omit_unsupported};
use crate::config::Kind;

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

/// The lines of one listener or bridge, or the global ones.
#[derive(Debug, Default, Clone)]
pub(super) struct Section {
    pub(super) settings: Vec<Setting>,
}

impl Section {
    /// The last line with this key, which applies.
    pub(super) fn get(&self, key: &str) -> Option<&Setting> {
        self.settings.iter().rev().find(|setting| setting.key == key)
    }

    /// Whether a flag is set.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        self.get(key).map(Setting::is_true)
    }
}

/// Keys of listeners. Before the first `listener` they apply to the default one, on port 1883.
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

/// Keys about authentication and access: of a listener if `per_listener_settings` is set, otherwise of all.
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

/// Global keys, which apply to each endpoint or have no counterpart; see `mosquitto_listener`.
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

/// The sections of a configuration.
#[derive(Debug, Default)]
pub(super) struct Conf {
    /// Lines that apply to all listeners.
    pub(super) global: Section,
    /// The default listener's lines, then those of each `listener`, beginning with that line.
    pub(super) listeners: Vec<Section>,
    pub(super) bridges: Vec<Section>,
}

/// Imports a configuration. `file` is its path: other files are relative to its directory.
pub(super) fn import(file: &Path, text: &str, files: &dyn Files) -> Draft {
    let mut draft = Draft::default();
    let mut settings = Vec::new();
    read(file, text, Some(files), &mut settings, &mut draft);
    let conf = split_sections(settings);
    let anonymous_by_default = conf.listeners.is_empty();
    let listeners = if conf.listeners.is_empty() { vec![Section::default()] } else { conf.listeners.clone() };
    for section in &listeners {
        import_listener(section, &conf, file, files, anonymous_by_default, &mut draft);
    }
    // Unsupported global settings are listed once.
    omit_unsupported(&conf.global, &mut draft);
    let bridges: Vec<String> = conf.bridges.iter().filter_map(|section| import_bridge(section, &mut draft)).collect();
    attach_bridges(&bridges, &mut draft);
    draft
}

/// Reads the lines of a file and of the files that it includes. `files` is `None` in an included file.
fn read(file: &Path, text: &str, files: Option<&dyn Files>, settings: &mut Vec<Setting>, draft: &mut Draft) {
    for (index, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let number = files.is_some().then_some(index + 1);
        if let ("include_dir", Some(files)) = (key, files) {
            include(&beside(file, value.trim()), number, files, settings, draft);
            continue;
        }
        settings.push(Setting { line: number, key: key.to_owned(), value: value.trim().to_owned() });
    }
}

fn include(directory: &Path, line: Option<usize>, files: &dyn Files, settings: &mut Vec<Setting>, draft: &mut Draft) {
    let mut paths = match files.list(directory) {
        Ok(paths) => paths,
        Err(error) => return draft.omit(line, format!("include_dir {}", directory.display()), error.to_string()),
    };
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    for path in paths {
        match files.read(&path) {
            Ok(text) => read(&path, &text, None, settings, draft),
            Err(error) => draft.omit(line, path.display().to_string(), error.to_string()),
        }
    }
}

/// Resolves a path. mosquitto resolves it from its working directory, which usually is that of the file.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

fn split_sections(settings: Vec<Setting>) -> Conf {
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
    // The default listener exists if a line configures it.
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

/// Names the bridges at an endpoint without a mount point: a bridge forwards the messages of its namespace.
fn attach_bridges(bridges: &[String], draft: &mut Draft) {
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
            draft.omit(None, "bridges", format!("every endpoint has a mountpoint; name the {}s at one", Kind::Bridge))
        }
    }
}
