use super::*;

fn rules(yaml: &str) -> RuleSet {
    let acl: Acl = serde_yaml::from_str(yaml).unwrap();
    RuleSet::compile(&acl)
}

fn subject<'a>(client_id: &'a str, username: Option<&'a str>, address: &str) -> Subject<'a> {
    Subject { client_id, username, address: address.parse().ok() }
}

fn publish(topic: &str) -> AclRequest<'_> {
    AclRequest::Publish { topic, qos: QoS::AtMostOnce, retain: false }
}

fn subscribe(filter: &str) -> AclRequest<'_> {
    AclRequest::Subscribe { filter, qos: QoS::AtLeastOnce }
}

const EXAMPLE: &str = r##"
name: default
rules:
  - {permission: allow, action: subscribe, username: dashboard, topics: ["$SYS/#"]}
  - {permission: allow, action: all, ipaddr: 127.0.0.1/32, topics: ["$SYS/#", "#"]}
  - {permission: deny, action: subscribe, topics: ["$SYS/#", {eq: "#"}]}
  - {permission: allow, action: publish, clientId: "sensor_*", topics: ["sensor/${clientid}/data"], priority: 10}
  - {permission: allow, action: subscribe, topics: ["open/#"]}
"##;

#[test]
fn the_documented_example_gives_the_documented_decisions() {
    let set = rules(EXAMPLE);
    let far = |client| subject(client, None, "192.0.2.7");
    let cases = [
        (subject("x", Some("dashboard"), "192.0.2.7"), subscribe("$SYS/broker/#"), true, Some(0)),
        (far("x"), subscribe("$SYS/broker/#"), false, Some(2)),
        (far("x"), subscribe("#"), false, Some(2)),
        (subject("x", None, "127.0.0.1"), subscribe("#"), true, Some(1)),
        (subject("x", None, "127.0.0.1"), publish("$SYS/x"), true, Some(1)),
        (far("sensor_1"), publish("sensor/sensor_1/data"), true, Some(3)),
        (far("sensor_1"), publish("sensor/sensor_2/data"), false, None),
        (far("sensor_+"), publish("sensor/sensor_+/data"), false, None),
        (far("x"), subscribe("open/a/+"), true, Some(4)),
        (far("x"), subscribe("open"), true, Some(4)),
        (far("x"), subscribe("+/a"), false, None),
    ];
    for (subject, request, allowed, rule) in cases {
        let decision = set.evaluate(subject, request);
        assert_eq!((decision.permission == Permission::Allow, decision.rule), (allowed, rule), "{request:?}");
    }
}

#[test]
fn a_denied_part_denies_the_whole_subscription() {
    let set = rules(
        r##"{rules: [{permission: deny, topics: ["secret/+/key"]}, {permission: allow, topics: ["#"]}], noMatch: deny}"##,
    );
    let client = subject("x", None, "192.0.2.7");
    for (filter, allowed) in [
        ("#", false),
        ("secret/#", false),
        ("secret/+/+", false),
        ("secret/a/key", false),
        ("+/+/key", false),
        ("secret/a", true),
        ("secret/a/key/deeper", true),
        ("other/#", true),
        ("$SYS/#", false),
    ] {
        assert_eq!(set.may_subscribe(client, filter, QoS::AtMostOnce), allowed, "{filter}");
    }
    assert!(!set.may_publish(client, "secret/a/key", QoS::AtMostOnce, false));
    assert!(!set.may_receive(client, "secret/a/key"));
    assert!(set.may_receive(client, "secret/a/lock"));
}

#[test]
fn client_values_neither_widen_an_allow_rule_nor_evade_a_deny_rule() {
    let set = rules(
        r##"{rules: [{permission: deny, topics: ["jail/${username}/#"]},
                   {permission: allow, topics: ["home/${username}/#", "jail/#"]}]}"##,
    );
    for name in ["+", "#", "a/b", "", "+/+", "$x"] {
        let client = subject("c", Some(name), "192.0.2.7");
        assert!(!set.may_subscribe(client, &format!("home/{name}/x"), QoS::AtMostOnce), "{name}");
        assert!(!set.may_publish(client, "home/someone/x", QoS::AtMostOnce, false), "{name}");
    }
    let ann = subject("c", Some("ann"), "192.0.2.7");
    assert!(set.may_subscribe(ann, "home/ann/#", QoS::AtMostOnce));
    assert!(!set.may_subscribe(ann, "home/+/x", QoS::AtMostOnce));
    assert!(!set.may_publish(ann, "jail/ann/x", QoS::AtMostOnce, false));
    assert!(set.may_publish(ann, "jail/bob/x", QoS::AtMostOnce, false));
    assert!(!set.may_publish(subject("c", Some("a/b"), "192.0.2.7"), "jail/a/b/x", QoS::AtMostOnce, false));
    assert!(!set.may_publish(subject("c", None, "192.0.2.7"), "home//x", QoS::AtMostOnce, false));
}

#[test]
fn qos_and_retain_conditions_narrow_a_rule() {
    let set = rules(
        r##"{rules: [{permission: allow, action: publish, qos: [0, 1], retain: false, topics: ["a"]},
                   {permission: allow, action: subscribe, qos: [0], topics: ["b"]}]}"##,
    );
    let client = subject("x", None, "192.0.2.7");
    assert!(set.may_publish(client, "a", QoS::AtLeastOnce, false));
    assert!(!set.may_publish(client, "a", QoS::ExactlyOnce, false));
    assert!(!set.may_publish(client, "a", QoS::AtMostOnce, true));
    assert!(set.may_subscribe(client, "b", QoS::AtMostOnce));
    assert!(!set.may_subscribe(client, "b", QoS::AtLeastOnce));
    assert!(set.may_receive(client, "b"));
}

/// Two clients must not be able to choose values that make the same topic.
#[test]
fn placeholders_in_one_level_need_a_separator_that_no_value_contains() {
    let set = rules(
        r##"
name: default
rules:
  - {permission: deny, topics: ["deny/${clientid}-${username}"]}
  - {permission: allow, topics: ["a/${clientid}-${username}", "b/x${clientid}--${username}y", "c/${clientid}${username}", "deny/#"]}
"##,
    );
    let cases = [
        ("a", "b", "a/a-b", true),
        ("a-b", "c", "a/a-b-c", false),
        ("a", "b-c", "a/a-b-c", false),
        ("a", "b", "b/xa--by", true),
        // Of a separator, each character counts: `a-` and `b`, `a` and `-b`.
        ("a-", "b", "b/xa---by", false),
        ("a", "-b", "b/xa---by", false),
        // Touching placeholders allow nothing; the validator refuses them.
        ("ab", "c", "c/abc", false),
        // What denies goes on to deny.
        ("a-b", "c", "deny/a-b-c", false),
        ("a-b", "c", "deny/other", true),
    ];
    for (client_id, username, topic, allowed) in cases {
        let permission = set.evaluate(subject(client_id, Some(username), "192.0.2.1"), publish(topic)).permission;
        assert_eq!(permission == Permission::Allow, allowed, "{client_id} {username} {topic}");
    }
}

/// Against the definition: every topic of a small world.
#[test]
fn covering_and_overlapping_agree_with_matching() {
    let names = ["a", "b", "$s"];
    let mut topics = vec![];
    for x in names {
        topics.push(x.to_owned());
        for y in names {
            topics.push(format!("{x}/{y}"));
            topics.extend(names.iter().map(|z| format!("{x}/{y}/{z}")));
        }
    }
    let words = ["a", "$s", "+"];
    let mut filters = vec!["#".to_owned()];
    for x in words {
        filters.extend([x.to_owned(), format!("{x}/#")]);
        for y in words {
            filters.extend([format!("{x}/{y}"), format!("{x}/{y}/#")]);
        }
    }
    for own in &filters {
        let levels = Pattern::compile(&TopicPattern::Filter(own.as_str().into())).levels;
        for other in &filters {
            let theirs: Vec<_> = topics.iter().filter(|topic| weir_mqtt::matches(other, topic)).collect();
            let both = theirs.iter().filter(|topic| weir_mqtt::matches(own, topic)).count();
            assert_eq!(overlaps(&levels, other), both > 0, "{own} {other}");
            assert_eq!(covers(&levels, other, false), both == theirs.len(), "{own} covers {other}");
        }
    }
}
