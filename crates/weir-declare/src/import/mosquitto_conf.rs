//! The form of `mosquitto.conf`: lines, keys, and the sections of listeners and bridges.

use std::path::{Path, PathBuf};

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

/// Resolves a path. mosquitto resolves it from its working directory, which usually is that of the file.
pub(super) fn beside(file: &Path, path: &str) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

/// Splits lines into the global ones, and those of each listener and bridge.
pub(super) fn split_sections(settings: Vec<Setting>) -> Conf {
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
