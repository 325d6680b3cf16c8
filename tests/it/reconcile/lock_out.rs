//! The `auth` or `acl` document that endpoints use is deleted: no client could connect, or use any topic, any longer.

use super::broker::{Broker, at, client};
use super::held_deletions::planned;
use crate::support::client::{Client, connect, publish};
use crate::support::ports;
use crate::wire::{Packet, Properties, Version};

const AUTH: &str = "auth: {name: default, chain: [{anonymous: {}}]}\n";
const ACL: &str = "acl: {name: default, rules: [{permission: allow, topics: ['#']}]}\n";

/// An endpoint that uses the documents called `default`.
fn guarded(name: &str, port: u16, fields: &str) -> String {
    format!("endpoint: {{name: {name}, host: 127.0.0.1, port: {port}{fields}}}\n")
}

fn refused(port: u16) -> Option<u8> {
    let mut client = Client::open(at(port), Version::V5);
    client.send(&connect(Version::V5, "c", Properties::new()));
    match client.receive() {
        Some(Packet::ConnAck { code, .. }) if code != 0 => Some(code),
        _ => None,
    }
}

/// The code of a PUBACK.
fn published(client: &mut Client) -> u8 {
    client.send(&publish("t", b"x", 1, Some(7)));
    match client.receive() {
        Some(Packet::Ack(ack)) => ack.code,
        other => panic!("no PUBACK: {other:?}"),
    }
}

#[test]
fn a_deleted_auth_document_is_held_until_every_endpoint_that_uses_it_is_confirmed() {
    let (one, two) = (ports::free(), ports::free());
    let mut broker = Broker::start(&[
        ("one.yaml", &guarded("one", one, "")),
        ("two.yaml", &guarded("two", two, "")),
        ("auth.yaml", AUTH),
        ("acl.yaml", ACL),
    ]);
    for name in ["one", "two"] {
        broker.until_listening(name);
    }
    let mut resident = client(one, "resident");
    broker.remove("auth.yaml");
    for name in ["one", "two"] {
        let told = broker.until_condition(name, "ResolvedRefs", false, "LockOutHeld");
        for words in ["auth `default`", "every CONNECT", "one, two", "reconcile.prune.confirm"] {
            assert!(told.message.contains(words), "{words}: {told:?}");
        }
    }
    assert!(broker.log().contains("deletion held"), "{}", broker.log());
    resident.ping();
    client(two, "newcomer").ping();
    let plan = planned(&broker);
    for name in ["one", "two"] {
        assert!(plan.contains(&format!("\nlock-out: every CONNECT to endpoint {name} will be refused\n")), "{plan}");
    }
    assert!(plan.contains("\nPlan: 2 waiting, 2 lock-outs\n"), "{plan}");
    // What else is declared of the endpoints is in force, and after a restart it is held as before.
    broker.apply("two.yaml", &guarded("two", two, ", maxConnectionSize: 9"));
    let revision = broker.applied();
    let kept = broker.endpoints().join("../data/last-known-good.json");
    broker.until("it is kept", || std::fs::read_to_string(&kept).is_ok_and(|kept| kept.contains(&revision)));
    broker.restart(&[]);
    broker.until_condition("one", "ResolvedRefs", false, "LockOutHeld");
    let mut resident = client(one, "resident");
    // One of two is not enough: they share the document.
    broker.write("reconcile.yaml", "reconcile: {prune: {confirm: [one]}}\n");
    broker.until("it is read", || {
        broker.condition("two", "ResolvedRefs").is_some_and(|told| !told.message.contains("one, two"))
    });
    resident.ping();
    client(one, "newcomer").ping();
    broker.write("reconcile.yaml", "reconcile: {prune: {confirm: [one, two]}}\n");
    let told = broker.until_condition("one", "ResolvedRefs", false, "MissingReference");
    assert!(told.message.contains("every CONNECT is refused"), "{told:?}");
    assert!(matches!(resident.receive(), Some(Packet::Disconnect { code: 0x98, .. })));
    assert_eq!((refused(one), refused(two)), (Some(0x88), Some(0x88)));
    broker.write("auth.yaml", AUTH);
    broker.until_condition("one", "ResolvedRefs", true, "AsDeclared");
    client(one, "c").ping();
}

#[test]
fn a_deleted_or_renamed_acl_document_is_held() {
    let port = ports::free();
    let broker = Broker::start(&[("e.yaml", &guarded("e", port, "")), ("auth.yaml", AUTH), ("acl.yaml", ACL)]);
    broker.until_listening("e");
    let mut resident = client(port, "resident");
    assert_eq!(published(&mut resident), 0);
    broker.write("acl.yaml", &ACL.replace("default", "other"));
    let told = broker.until_condition("e", "ResolvedRefs", false, "LockOutHeld");
    assert!(told.message.contains("acl `default`") && told.message.contains("every topic"), "{told:?}");
    assert_eq!(published(&mut resident), 0);
    // The endpoint is declared to use the one that is there: nothing waits any longer.
    broker.write("e.yaml", &guarded("e", port, ", acl: other"));
    broker.until_condition("e", "ResolvedRefs", true, "AsDeclared");
    assert_eq!(published(&mut resident), 0);
    broker.write("e.yaml", &guarded("e", port, ""));
    // To use one that is not there is a lock-out, however it comes about.
    let told = broker.until_condition("e", "Accepted", false, "LockOutHeld");
    assert!(told.message.contains("every topic"), "{told:?}");
    assert_eq!(published(&mut resident), 0);
    broker.write("reconcile.yaml", "reconcile: {prune: {confirm: [e]}}\n");
    broker.until_condition("e", "ResolvedRefs", false, "MissingReference");
    assert_eq!(published(&mut resident), 0x87);
    // CONNECT is still answered: it is every topic that is refused.
    assert_eq!(refused(port), None);
}

/// An endpoint that was open and is to ask for authentication closes at once: what it let in is revoked, not deleted.
#[test]
fn an_open_endpoint_that_is_to_authenticate_closes_at_once() {
    let port = ports::free();
    let broker = Broker::start(&[("e.yaml", &guarded("e", port, ", enableAuth: false, enableAcl: false"))]);
    broker.until_listening("e");
    client(port, "c").ping();
    broker.write("e.yaml", &guarded("e", port, ", enableAcl: false"));
    broker.until_condition("e", "ResolvedRefs", false, "MissingReference");
    assert_eq!(refused(port), Some(0x88));
}
