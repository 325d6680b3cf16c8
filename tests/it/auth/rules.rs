//! The rules of `examples/auth/rules`, by packets and by `weir acl explain`.

use super::broker::Broker;
use super::client::Client;
use super::examples::run;
use super::reload::people;
use crate::support::weir;
use crate::wire::{Packet, Properties};

const NOT_AUTHORIZED: u8 = 0x87;

/// Whether `weir acl explain` allows, and the first line of its output.
fn explained(broker: &Broker, question: &[&str]) -> (bool, String) {
    let mut command = weir::command();
    command
        .args(["acl", "explain", "--client-id", "a", "--username", "alice", "--address", "127.0.0.1"])
        .args(question);
    let output = command.arg(broker.path("documents.yaml")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    (output.status.success(), text.lines().next().unwrap_or_default().to_owned())
}

fn subscribe_at_most_once(client: &mut Client, filter: &str) -> u8 {
    client.send(&Packet::Subscribe { id: 1, properties: Properties::new(), filters: vec![(filter.to_owned(), 0)] });
    match client.receive() {
        Some(Packet::SubAck { codes, .. }) => codes[0],
        other => panic!("{other:?} for SUBACK"),
    }
}

#[test]
fn packets_and_explain_agree_about_each_rule() {
    let broker = run("auth/rules", &[("users.passwd", &people())]);
    let mut alice = broker.client("a").user("alice", "secret").connected();
    let mut bob = broker.client("gateway-1").user("bob", "secret").connected();
    for (filter, code, rule) in [
        ("news/#", NOT_AUTHORIZED, "rule 2"),
        ("news/+", 0, "rule 3"),
        ("news/a", 0, "rule 3"),
        ("alice/#", 0, "rule 7"),
        ("vault/#", NOT_AUTHORIZED, "rule 1"),
        ("gateways/1", NOT_AUTHORIZED, "noMatch"),
        ("#", NOT_AUTHORIZED, "rule 1"),
        ("other", NOT_AUTHORIZED, "noMatch"),
    ] {
        assert_eq!(subscribe_at_most_once(&mut alice, filter), code, "{filter}");
        let (allowed, words) = explained(&broker, &["--subscribe", "--topic", filter]);
        assert!(allowed == (code == 0) && words.contains(rule), "{filter}: {words}");
    }
    assert_eq!(alice.subscribe("news/a"), NOT_AUTHORIZED, "with QoS 1");
    assert!(!explained(&broker, &["--subscribe", "--qos", "1", "--topic", "news/a"]).0);
    for (topic, retain, code) in [
        ("telemetry/alice/t", false, 0),
        ("telemetry/alice/t", true, NOT_AUTHORIZED),
        ("telemetry/bob/t", false, NOT_AUTHORIZED),
        ("state/a", true, 0),
        ("state/a", false, NOT_AUTHORIZED),
        ("state/gateway-1", true, NOT_AUTHORIZED),
        ("vault/x", false, NOT_AUTHORIZED),
        ("news/a", false, NOT_AUTHORIZED),
    ] {
        assert_eq!(alice.publish(topic, "x", retain), code, "{topic} {retain}");
        let retained = ["--qos", "1", "--topic", topic, "--retain"];
        let question = if retain { &retained[..] } else { &retained[..4] };
        assert_eq!(explained(&broker, question).0, code != NOT_AUTHORIZED, "{topic} {retain}");
    }
    assert_eq!([bob.subscribe("gateways/1"), bob.subscribe("vault/x"), bob.subscribe("alice/x")], [1, 0x87, 0x87]);
    assert_eq!([bob.publish("gateways/1", "x", false), bob.publish("vault/x", "x", false)], [0, NOT_AUTHORIZED]);
}
