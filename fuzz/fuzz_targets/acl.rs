//! Rules and topics of any text: a subscription that the rules grant never covers a topic that they deny.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_broker::Subject;
use weir_declare::config::{Acl, Permission};
use weir_mqtt::QoS;
use weirmq::auth::{AclRequest, RuleSet};

// The first line is a filter, the second fills its wildcards, the others are rules: an action and a pattern.
fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let (Some(filter), Some(fill)) = (lines.next(), lines.next()) else { return };
    let rules: Vec<serde_json::Value> = lines
        .take(16)
        .filter_map(|line| line.split_at_checked(1))
        .map(|(first, pattern)| {
            let permission = if first == "-" { "deny" } else { "allow" };
            serde_json::json!({ "permission": permission, "action": "all", "topics": [pattern] })
        })
        .collect();
    let document = serde_json::json!({ "noMatch": "deny", "rules": rules });
    let Ok(acl) = serde_json::from_value::<Acl>(document) else { return };
    let topic = fill.split('/').next().unwrap_or_default();
    if weir_mqtt::validate_topic_filter(filter).is_err() || topic.contains(['+', '#', '\0']) {
        return;
    }
    let set = RuleSet::compile(&acl);
    let subject = Subject { client_id: "client", username: Some("user"), address: None };
    let may = |request| set.evaluate(subject, request).permission == Permission::Allow;
    if may(AclRequest::Subscribe { filter, qos: QoS::AtLeastOnce }) {
        let levels: Vec<&str> = filter.split('/').map(|level| if level == "+" { topic } else { level }).collect();
        let topic = levels.join("/").replace('#', fill);
        // `#` and `+` at the beginning do not match topics that begin with `$` [MQTT-4.7.2-1].
        if weir_mqtt::matches(filter, &topic) {
            assert!(may(AclRequest::Receive { topic: &topic }), "{filter} is granted, and {topic} denied");
        }
    }
});
