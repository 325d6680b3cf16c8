//! A `connection` of mosquitto: a bridge.

use serde_json::{Map, Value, json};

use super::draft::{Draft, DraftDocument};
use super::mosquitto_conf::{Section, Setting};
use crate::config::Kind;

/// Keys without a counterpart, and what to use instead.
const NO_COUNTERPART: &[(&str, &str)] = &[
    ("bridge_alpn", "not offered"),
    ("bridge_attempt_unsubscribe", "Weir unsubscribes from topics that are no longer forwarded"),
    ("bridge_bind_address", "not offered"),
    ("bridge_capath", "name one file in `tls.caFile`"),
    ("bridge_identity", "pre-shared keys are not offered"),
    ("bridge_insecure", "certificates are always verified; see `tls.serverName`"),
    ("bridge_max_packet_size", "the remote broker's Maximum Packet Size applies"),
    ("bridge_max_topic_alias", "not offered"),
    ("bridge_psk", "pre-shared keys are not offered"),
    ("bridge_receive_maximum", "not offered"),
    ("bridge_reload_type", "a change has the smallest effect possible"),
    ("bridge_require_ocsp", "not offered"),
    ("bridge_tls_version", "TLS 1.2 and 1.3 are supported"),
    ("idle_timeout", "a bridge is always connected"),
    ("local_cleansession", "the bridge's session here is always kept"),
    ("local_clientid", "the bridge's session here has a name of its own"),
    ("local_password", "a bridge needs no credentials here"),
    ("local_username", "a bridge needs no credentials here"),
    ("round_robin", "addresses are tried in order"),
    ("start_type", "a bridge is always connected"),
    ("threshold", "a bridge is always connected"),
    ("try_private", "a bridge identifies itself as one, unless the remote broker refuses that"),
];

/// Keys that are imported.
const IMPORTED: &[&str] = &[
    "address",
    "addresses",
    "bridge_cafile",
    "bridge_certfile",
    "bridge_keyfile",
    "bridge_outgoing_retain",
    "bridge_protocol_version",
    "bridge_session_expiry_interval",
    "cleansession",
    "clientid",
    "connection",
    "keepalive_interval",
    "notification_topic",
    "notifications",
    "notifications_local_only",
    "password",
    "remote_clientid",
    "remote_password",
    "remote_username",
    "restart_timeout",
    "topic",
    "username",
];

/// Imports a bridge and returns its name. `None`: it has no address.
pub(super) fn import_bridge(section: &Section, draft: &mut Draft) -> Option<String> {
    let connection = section.get("connection")?;
    let name = draft.unique_name(&format!("bridge-{}", connection.value.replace(char::is_whitespace, "-")));
    let mut document = DraftDocument::new(Kind::Bridge, &name);
    let Some(addresses) = section.get("address").or_else(|| section.get("addresses")) else {
        draft.omit(connection.line, format!("connection {}", connection.value), "it has no address");
        return None;
    };
    let encrypted =
        section.settings.iter().any(|setting| setting.key.starts_with("bridge_ca") || setting.key == "bridge_certfile");
    let scheme = if encrypted { "mqtts" } else { "mqtt" };
    let address = |address: &str| {
        // mosquitto's default port is 1883, also with TLS.
        let has_port = address.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
        if has_port { format!("{scheme}://{address}") } else { format!("{scheme}://{address}:1883") }
    };
    document.set("address", addresses.value.split_whitespace().map(address).collect::<Vec<_>>());
    document.set("protocolVersion", version(section, draft));
    credentials(section, &name, &mut document);
    for (theirs, ours) in [("bridge_cafile", "caFile"), ("bridge_certfile", "certFile"), ("bridge_keyfile", "keyFile")]
    {
        if let Some(file) = section.get(theirs) {
            document.set(&format!("tls.{ours}"), file.value.as_str());
        }
    }
    if let Some(seconds) = section.get("keepalive_interval").and_then(Setting::number) {
        document.set("keepAliveS", seconds);
    }
    if let Some(seconds) = section.get("bridge_session_expiry_interval").and_then(Setting::number) {
        document.set("sessionExpiryS", seconds);
    }
    if section.flag("cleansession") == Some(true) {
        document.set("cleanStart", true);
    }
    reconnect_delays(section, &mut document);
    if let Some(topic) = section.get("notification_topic").filter(|_| section.flag("notifications") != Some(false)) {
        document.set("notificationTopic", topic.value.as_str());
        document.add_note("notificationTopic: published on this broker only, not on the remote one");
    }
    rules(section, &mut document, draft);
    for setting in section.settings.iter().filter(|setting| !IMPORTED.contains(&setting.key.as_str())) {
        let default = (setting.key == "start_type" && setting.value == "automatic")
            || (setting.key == "bridge_insecure" && !setting.is_true())
            || (setting.key == "round_robin" && !setting.is_true());
        if !default {
            let known = NO_COUNTERPART.iter().find(|(key, _)| *key == setting.key);
            draft.omit(setting.line, &setting.key, known.map_or("not known", |(_, instead)| instead));
        }
    }
    draft.add(document);
    Some(name)
}

fn version(section: &Section, draft: &mut Draft) -> &'static str {
    match section.get("bridge_protocol_version") {
        Some(setting) if setting.value == "mqttv50" => "5",
        Some(setting) if setting.value == "mqttv31" => {
            draft.omit(
                setting.line,
                "bridge_protocol_version mqttv31",
                "the oldest version is 3.1.1, which is used instead",
            );
            "3.1.1"
        }
        // mosquitto's default.
        _ => "3.1.1",
    }
}

fn credentials(section: &Section, name: &str, document: &mut DraftDocument) {
    let find = |keys: [&str; 2]| keys.into_iter().find_map(|key| section.get(key));
    if let Some(id) = find(["remote_clientid", "clientid"]) {
        document.set("clientId", id.value.as_str());
    }
    if let Some(user) = find(["remote_username", "username"]) {
        document.set("username", user.value.as_str());
    }
    if find(["remote_password", "password"]).is_some() {
        document.set("password", format!("file:{name}.secret"));
        document.add_decision(format!("write the password into {name}.secret; declarations never contain it"));
    }
}

/// `restart_timeout BASE CAP`, or one constant, seconds.
fn reconnect_delays(section: &Section, document: &mut DraftDocument) {
    let Some(setting) = section.get("restart_timeout") else { return };
    let numbers: Vec<u64> = setting.value.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    if let (Some(first), Some(last)) = (numbers.first(), numbers.last()) {
        document.set("reconnect.minMs", first.saturating_mul(1000));
        document.set("reconnect.maxMs", last.saturating_mul(1000));
    }
}

/// `topic PATTERN [out|in|both] [QOS] [LOCAL-PREFIX] [REMOTE-PREFIX]`.
fn rules(section: &Section, document: &mut DraftDocument, draft: &mut Draft) {
    let (mut out, mut inward) = (Vec::new(), Vec::new());
    let outgoing_retain = section.flag("bridge_outgoing_retain") != Some(false);
    for setting in section.settings.iter().filter(|setting| setting.key == "topic") {
        let words: Vec<&str> =
            setting.value.split_whitespace().map(|word| if word == "\"\"" { "" } else { word }).collect();
        let word = |at: usize| words.get(at).copied().unwrap_or_default();
        let (pattern, local, remote) = (word(0), word(3), word(4));
        let qos = words.get(2).map_or(Some(0), |qos| qos.parse::<u64>().ok().filter(|qos| *qos <= 2));
        let direction = words.get(1).copied().unwrap_or("out");
        let (true, Some(qos)) = (matches!(direction, "out" | "in" | "both"), qos) else {
            draft.omit(setting.line, format!("topic {}", setting.value), "its direction or QoS is not valid");
            continue;
        };
        if direction != "in" {
            out.push(rule(pattern, local, remote, qos, outgoing_retain));
        }
        if direction != "out" {
            inward.push(rule(pattern, remote, local, qos, true));
        }
    }
    if !out.is_empty() {
        document.set("out", out);
    }
    if !inward.is_empty() {
        document.set("in", inward);
    }
}

/// The rule for messages from the side with the prefix `from` to the side with the prefix `to`.
fn rule(pattern: &str, from: &str, to: &str, qos: u64, retain: bool) -> Value {
    let mut rule = Map::new();
    rule.insert("filter".into(), format!("{from}{pattern}").into());
    if !from.is_empty() && from != to {
        rule.insert("stripPrefix".into(), from.into());
    }
    if !to.is_empty() && from != to {
        rule.insert("addPrefix".into(), to.into());
    }
    rule.insert("qos".into(), json!(qos));
    if !retain {
        rule.insert("retain".into(), false.into());
    }
    Value::Object(rule)
}
