//! EMQX 5's `emqx.conf`, or its `cluster.hocon`.

use std::path::Path;

use serde_json::json;

use super::draft::{Draft, DraftDocument};
use super::emqx_auth::{self, import_authentication};
use super::emqx_listener::{import_default_listeners, import_listener};
use super::emqx_mqtt::{self, limits};
use super::settings::{Limit, Settings};
use super::{ImportError, ImportFiles, hocon};
use crate::config::Kind;

/// Sections without a counterpart, and what to use instead.
const SECTIONS: &[(&str, &str)] = &[
    ("actions", "messages go out over `bridge` documents"),
    ("alarm", "alerts are Prometheus rules: see examples/prometheus"),
    ("api_key", "the status API has a token: see --status-bearer-token"),
    ("auto_subscribe", "a client subscribes to its own topics"),
    ("banned", "declare a `ban` document"),
    ("bridges", "declare `bridge` documents"),
    ("broker", "a message has one path through a shard; sessions are locked by the shard"),
    ("cluster", "brokers hold the same listeners by one etcd: see --etcd"),
    ("cluster_linking", "declare `bridge` documents"),
    ("conn_congestion", "slow receivers are counted in the metrics"),
    ("connectors", "messages go out over `bridge` documents"),
    ("crl_cache", "name a file in `sslConfig.crlFile`"),
    ("dashboard", "the page is at --status-addr; it changes nothing"),
    ("delayed", "Weir delays wills only"),
    ("event_message", "Weir publishes no events about clients"),
    ("exhook", "Weir loads no extensions; `auth` asks a service by `http`"),
    ("file_transfer", "files are not transferred over MQTT"),
    ("force_gc", "Weir has no garbage collector"),
    ("force_shutdown", "queues are bounded: see `maxQueuedMessages` and `maxQueuedBytes`"),
    ("gateway", "protocols other than MQTT are not served"),
    ("license", "Weir needs none"),
    ("limiter", "rates are an endpoint's: `maxPublishPerSecond`, `maxConnectionPerSecond`"),
    ("log", "see --log-level and --log-format"),
    ("node", "see --node-name and --data-dir"),
    ("opentelemetry", "see --otlp-endpoint"),
    ("overload_protection", "limits are an endpoint's; see `maxConnectionPerSecond`"),
    ("plugins", "Weir loads no plugins"),
    ("prometheus", "metrics are always on, at /metrics of --status-addr"),
    ("psk_authentication", "pre-shared keys are not offered; use certificates"),
    ("rewrite", "topics are not rewritten, except by rules of `bridge` documents"),
    ("rpc", "brokers do not call each other"),
    ("rule_engine", "Weir has no rule engine"),
    ("schema_registry", "payloads are not looked at"),
    ("schema_validation", "payloads are not looked at"),
    ("slow_subs", "slow receivers are counted in the metrics"),
    ("sources", "messages come in over `bridge` documents"),
    ("stats", "metrics are always on, at /metrics"),
    ("sysmon", "the machine is measured by other programs"),
    ("sys_topics", "$SYS has a fixed interval"),
    ("telemetry", "Weir sends no usage data"),
    ("topic_metrics", "metrics count endpoints, not topics"),
    ("trace", "see `logLevel` of an endpoint"),
];

/// Settings of the retainer without a counterpart.
const RETAINER: &[(&str, &str)] = &[
    ("backend", "retained messages are where --data-dir says"),
    ("delivery_rate", "retained messages are sent as fast as the client takes them"),
    ("max_payload_size", "see `messageMaxSize`"),
    ("max_publish_rate", "see `maxPublishPerSecond`"),
    ("msg_clear_interval", "expired messages are removed automatically"),
    ("msg_expiry_interval", "see `messageExpiryMaxS`"),
    ("msg_expiry_interval_override", "see `messageExpiryMaxS`"),
    ("stop_publish_clear_msg", "an empty payload removes a retained message [MQTT-3.3.1-6]"),
];

/// Kinds of listeners: EMQX's name, WebSocket, TLS, the port of the default listener.
const TRANSPORTS: &[(&str, bool, bool, u64)] =
    &[("tcp", false, false, 1883), ("ssl", false, true, 8883), ("ws", true, false, 8083), ("wss", true, true, 8084)];

/// Imports a configuration. `file` is its path: other files are relative to its directory.
///
/// # Errors
/// `text` is not HOCON, or of another version of EMQX.
pub(super) fn import(file: &Path, text: &str, files: &dyn ImportFiles) -> Result<Draft, ImportError> {
    let mut root = Settings::new("", hocon::parse(file, text, files)?);
    if root.has("listener") && !root.has("listeners") {
        return Err(ImportError::OldEmqx);
    }
    let mut draft = Draft::default();
    let mut defaults = DraftDocument::single(Kind::Defaults);
    global_limits(&mut root, &mut defaults, &mut draft);
    if defaults.fields.contains_key("endpoint") {
        draft.add(defaults);
    }
    flapping(&mut root, &mut draft);
    let authenticated = import_authentication(&mut root, "default", &mut draft);
    let authorized = emqx_auth::import_authorization(&mut root, file, files, &mut draft);
    let zones = emqx_mqtt::zones(&mut root, &mut draft);
    let mut listeners = root.section("listeners");
    for &(transport, websocket, encrypted, port) in TRANSPORTS {
        if !listeners.has(transport) {
            import_default_listeners((transport, websocket, encrypted, port), authenticated, authorized, &mut draft);
            continue;
        }
        let mut section = listeners.section(transport);
        for name in section.keys() {
            let listener = section.section(&name);
            import_listener(listener, (websocket, encrypted), &zones, (authenticated, authorized), &mut draft);
        }
        section.finish(&[], &mut draft);
    }
    listeners.omit("quic", "MQTT over QUIC is not offered");
    listeners.finish(&[], &mut draft);
    root.finish(SECTIONS, &mut draft);
    Ok(draft)
}

/// Limits that EMQX has for all listeners: fields of `defaults`.
fn global_limits(root: &mut Settings, defaults: &mut DraftDocument, draft: &mut Draft) {
    let mut mqtt = root.section("mqtt");
    emqx_mqtt::apply(&limits(&mut mqtt), "endpoint", defaults);
    mqtt.finish(emqx_mqtt::NO_COUNTERPART, draft);
    let mut retainer = root.section("retainer");
    if retainer.flag("enable") == Some(false) {
        defaults.set("endpoint.retainAvailable", false);
    }
    let mut backend = retainer.section("backend");
    if let Some(Limit::Of(most @ 1..)) = backend.number("max_retained_messages") {
        defaults.set("endpoint.maxRetainedMessages", most);
        defaults
            .add_note("maxRetainedMessages: EMQX counts all retained messages, Weir those of an endpoint's publishers");
    }
    for key in backend.keys() {
        backend.omit(&key, "retained messages are where --data-dir says");
    }
    backend.finish(&[], draft);
    retainer.finish(RETAINER, draft);
    let mut durable = root.section("durable_sessions");
    if durable.flag("enable") == Some(true) {
        defaults.set("endpoint.durability", "disk");
        defaults.add_note("durable_sessions.enable: true; Weir needs --data-dir for it");
    }
    for key in durable.keys() {
        durable.omit(&key, "sessions are where --data-dir says");
    }
    durable.finish(&[], draft);
    root.omit("durable_storage", "sessions are where --data-dir says");
}

fn flapping(root: &mut Settings, draft: &mut Draft) {
    let mut section = root.section("flapping_detect");
    let enabled = section.flag("enable") == Some(true);
    let window = section.millis("window_time");
    let (most, length) = (section.number("max_count"), section.millis("ban_time"));
    section.finish(&[], draft);
    if !enabled {
        return;
    }
    let seconds = |limit: Option<Limit>, default: u64| match limit {
        Some(Limit::Of(millis)) => millis.div_ceil(1000),
        _ => default,
    };
    let count = match most {
        Some(Limit::Of(count)) => count,
        _ => 15,
    };
    let mut ban = DraftDocument::new(Kind::Ban, "flapping");
    ban.add_note("EMQX counts disconnects, Weir connects");
    ban.set("flapping", json!({"maxConnects": count, "windowS": seconds(window, 60), "banS": seconds(length, 300)}));
    draft.add(ban);
}
