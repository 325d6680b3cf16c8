//! EMQX's `mqtt` section, of the whole broker or of a zone.

use serde_json::Value;

use super::draft::{Draft, DraftDocument};
use super::settings::{Limit, Settings};

/// Settings without a counterpart, and what to use instead.
pub(super) const NO_COUNTERPART: &[(&str, &str)] = &[
    ("await_rel_timeout", "a QoS 2 exchange waits as long as its session"),
    ("client_attrs_init", "rules know client ids and usernames; see `auth`"),
    ("clientid_override", "a client id is the client's own; see `clientIdClaim` of `jwt`"),
    ("exclusive_subscription", "subscriptions are shared or not"),
    ("flapping_detect", "flapping is a `ban` document's, for all endpoints"),
    ("force_gc", "Weir has no garbage collector"),
    ("force_shutdown", "queues are bounded: see `maxQueuedMessages` and `maxQueuedBytes`"),
    ("ignore_loop_deliver", "MQTT 5 has No Local; MQTT 3 clients get their own messages"),
    ("keepalive_check_interval", "an idle client is closed after one and a half times its keep-alive"),
    ("keepalive_multiplier", "an idle client is closed after one and a half times its keep-alive, as MQTT specifies"),
    ("max_clientid_len", "a client id is bounded by `maxConnectBytes`"),
    ("message_queue", "see `maxQueuedMessages`"),
    ("mqueue_default_priority", "messages have no priority"),
    ("mqueue_priorities", "messages have no priority"),
    ("mqueue_store_qos0", "QoS 0 is not queued for disconnected clients"),
    ("peer_cert_as_clientid", "a client id is the client's own"),
    ("peer_cert_as_username", "add `clientCertificate` with `username` to the chain of the `auth` document"),
    ("response_information", "Response Information is not sent"),
    ("retry_interval", "QoS 1 and 2 are sent again on reconnect, as MQTT 5 demands"),
    ("shared_subscription", "shared subscriptions are always available"),
    ("shared_subscription_initial_sticky_pick", "the member of a shared subscription is chosen by load"),
    ("shared_subscription_strategy", "the member of a shared subscription is chosen by load"),
    ("strict_mode", "Weir is always strict"),
    ("upgrade_qos", "a message keeps its QoS"),
    ("use_username_as_clientid", "a client id is the client's own"),
    ("wildcard_subscription", "wildcard subscriptions are always available; forbid them by an `acl` document"),
];

/// Where Weir always has a limit, the largest value stands for none.
const MAX_INFLIGHT: u64 = 65_535;
const MAX_QUEUED: u64 = 100_000_000;
const MAX_SUBSCRIPTIONS: u64 = 10_000_000;
const FOREVER_S: u64 = 4_294_967_295;

/// A field of an endpoint, and its value.
pub(super) type Field = (&'static str, Value);

/// The limits of the listeners that name the zone.
pub(super) struct Zone {
    pub(super) name: String,
    pub(super) limits: Vec<Field>,
}

/// Takes the zones.
pub(super) fn zones(root: &mut Settings, draft: &mut Draft) -> Vec<Zone> {
    let mut section = root.section("zones");
    let mut zones = Vec::new();
    for name in section.keys() {
        let mut zone = section.section(&name);
        let mut mqtt = zone.section("mqtt");
        let limits = limits(&mut mqtt);
        mqtt.finish(NO_COUNTERPART, draft);
        zone.finish(NO_COUNTERPART, draft);
        zones.push(Zone { name, limits });
    }
    section.finish(&[], draft);
    zones
}

/// Sets the fields below `section`, which may be empty.
pub(super) fn apply(limits: &[Field], section: &str, document: &mut DraftDocument) {
    for (field, value) in limits {
        let path = if section.is_empty() { (*field).to_owned() } else { format!("{section}.{field}") };
        document.set(&path, value.clone());
        match *field {
            "sessionExpiryMaxS" => document.add_decision(
                "sessionExpiryMaxS: for EMQX the expiry of MQTT 3 sessions; for Weir the upper limit of MQTT 5 clients, too",
            ),
            "keepAliveMaxS" => {
                document.add_note("keepAliveMaxS: EMQX sets the keep-alive of all clients; Weir shortens longer ones");
            }
            _ => {}
        }
    }
}

/// Takes the settings that are limits of endpoints.
pub(super) fn limits(mqtt: &mut Settings) -> Vec<Field> {
    let mut fields: Vec<Field> = Vec::new();
    let mut limit = |field: &'static str, limit: Option<Limit>, unlimited: Option<u64>| match (limit, unlimited) {
        (Some(Limit::Of(value)), _) => fields.push((field, value.into())),
        (Some(Limit::None), Some(most)) => fields.push((field, most.into())),
        _ => {}
    };
    let none_if_0 = |limit: Option<Limit>| limit.map(|limit| if limit == Limit::Of(0) { Limit::None } else { limit });
    let seconds = |limit: Option<Limit>| match limit {
        Some(Limit::Of(millis)) => Some(Limit::Of(millis.div_ceil(1000))),
        other => other,
    };
    limit("messageMaxSize", mqtt.bytes("max_packet_size"), None);
    limit("maxTopicLevels", mqtt.number("max_topic_levels"), None);
    limit("maximumQos", mqtt.number("max_qos_allowed"), None);
    limit("topicAliasMaximum", mqtt.number("max_topic_alias"), None);
    limit("maxInflight", none_if_0(mqtt.number("max_inflight")), Some(MAX_INFLIGHT));
    limit("receiveMaximum", none_if_0(mqtt.number("max_awaiting_rel")), Some(MAX_INFLIGHT));
    limit("maxQueuedMessages", none_if_0(mqtt.number("max_mqueue_len")), Some(MAX_QUEUED));
    limit("maxSubscriptions", none_if_0(mqtt.number("max_subscriptions")), Some(MAX_SUBSCRIPTIONS));
    limit("connectTimeoutMs", mqtt.millis("idle_timeout"), None);
    limit("messageExpiryMaxS", seconds(mqtt.millis("message_expiry_interval")), None);
    limit("sessionExpiryMaxS", seconds(mqtt.millis("session_expiry_interval")), Some(FOREVER_S));
    limit("keepAliveMaxS", mqtt.number("server_keepalive"), None);
    if let Some(flag) = mqtt.flag("retain_available") {
        fields.push(("retainAvailable", flag.into()));
    }
    fields
}
