//! Deletions and disconnects that wait for confirmation.

use super::broker::{Broker, at, client, endpoint};
use crate::support::ports;
use crate::support::weir;

fn listens(port: u16) -> bool {
    std::net::TcpStream::connect(at(port)).is_ok()
}

#[test]
fn a_large_deletion_is_held_until_confirmed() {
    let names = ["a", "b", "c", "d", "e"];
    let ports: Vec<u16> = names.iter().map(|_| ports::free()).collect();
    let texts: Vec<String> = names.iter().zip(&ports).map(|(name, port)| endpoint(name, *port, "")).collect();
    let files = ["a.yaml", "b.yaml", "c.yaml", "d.yaml", "e.yaml"];
    let documents: Vec<(&str, &str)> = files.iter().copied().zip(texts.iter().map(String::as_str)).collect();
    let broker = Broker::start(&documents);
    names.iter().for_each(|name| broker.until_listening(name));
    let mut residents: Vec<_> = ports.iter().map(|port| client(*port, &port.to_string())).collect();
    // Three of five go at once: too many.
    for file in &files[2..] {
        broker.remove(file);
    }
    for name in &names[2..] {
        let told = broker.until_condition(name, "Accepted", false, "DeletionHeld");
        assert!(told.message.contains("3 of 5") && told.message.contains("reconcile.prune.confirm"), "{told:?}");
    }
    assert!(ports.iter().all(|port| listens(*port)));
    residents.iter_mut().for_each(crate::support::client::Client::ping);
    broker.write("reconcile.yaml", "reconcile: {prune: {confirm: [c, d]}}\n");
    broker.until("the confirmed ones go", || !listens(ports[2]) && !listens(ports[3]));
    // The one that is left would be within the bound, but it was held.
    let told = broker.condition("e", "Accepted").unwrap();
    assert_eq!((told.holds, told.reason.as_str()), (false, "DeletionHeld"), "{told:?}");
    for resident in [0, 1, 4] {
        residents[resident].ping();
    }
    broker.write("reconcile.yaml", "reconcile: {prune: {confirm: [c, d, e]}}\n");
    broker.until("it goes once it is confirmed", || !listens(ports[4]));
    for resident in &mut residents[..2] {
        resident.ping();
    }
}

/// What the docs advise where a deletion was not meant: put the documents back, one by one.
#[test]
fn a_held_deletion_stays_held_while_documents_are_put_back() {
    let names = ["a", "b", "c", "d", "e", "f", "g"];
    let ports: Vec<u16> = names.iter().map(|_| ports::free()).collect();
    let texts: Vec<String> = names.iter().zip(&ports).map(|(name, port)| endpoint(name, *port, "")).collect();
    let files: Vec<String> = names.iter().map(|name| format!("{name}.yaml")).collect();
    let documents: Vec<(&str, &str)> = files.iter().map(String::as_str).zip(texts.iter().map(String::as_str)).collect();
    let mut broker = Broker::start(&documents);
    names.iter().for_each(|name| broker.until_listening(name));
    let connect = || -> Vec<_> { ports.iter().map(|port| client(*port, &port.to_string())).collect() };
    let mut residents = connect();
    files.iter().for_each(|file| broker.remove(file));
    for name in names {
        broker.until_condition(name, "Accepted", false, "DeletionHeld");
    }
    for (at, file) in files.iter().enumerate() {
        if at == 3 {
            // What is held is held after a restart as well.
            let known = names.map(|name| broker.condition(name, "Accepted").unwrap());
            saved(&broker);
            broker.restart(&[]);
            names.iter().for_each(|name| broker.until_listening(name));
            for (name, known) in names.iter().zip(&known) {
                assert_eq!(broker.until_condition(name, "Accepted", known.holds, &known.reason), *known);
            }
            residents = connect();
        }
        broker.write(file, &texts[at]);
        broker.until_condition(names[at], "Accepted", true, "AsDeclared");
        for name in &names[at + 1..] {
            let told = broker.condition(name, "Accepted").unwrap();
            assert!(!told.holds && told.reason == "DeletionHeld", "{name}: {told:?}");
        }
        residents.iter_mut().for_each(crate::support::client::Client::ping);
        let held = names.len() - 1 - at;
        let expected = if held == 0 { "nothing to do".to_owned() } else { format!("{held} waiting") };
        assert!(planned(&broker).contains(&format!("{expected}\n")), "{}", planned(&broker));
    }
}

/// What `weir plan` says that the broker will do about its directory.
pub fn planned(broker: &Broker) -> String {
    let against = format!("http://{}", broker.status());
    let output = weir::command().arg("plan").arg(broker.endpoints()).args(["--against", &against]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until what is applied now is kept.
fn saved(broker: &Broker) {
    let kept = broker.endpoints().join("../data/last-known-good.json");
    let revision = broker.applied();
    broker.until("it is kept", || std::fs::read_to_string(&kept).is_ok_and(|kept| kept.contains(&revision)));
}

/// An endpoint whose deletion is held goes on with its auth document, after a restart as well.
#[test]
fn documents_of_a_held_endpoint_are_held_with_it() {
    let names = ["a", "b", "c", "d"];
    let ports: Vec<u16> = names.iter().map(|_| ports::free()).collect();
    let guarded = |at: usize| {
        let (name, port) = (names[at], ports[at]);
        format!("endpoint: {{name: {name}, host: 127.0.0.1, port: {port}, auth: people, enableAcl: false}}\n")
    };
    let open = endpoint("a", ports[0], "");
    let mut broker = Broker::start(&[
        ("a.yaml", &open),
        ("b.yaml", &guarded(1)),
        ("c.yaml", &guarded(2)),
        ("d.yaml", &guarded(3)),
        ("people.yaml", "auth: {name: people, chain: [{anonymous: {}}]}\n"),
    ]);
    names.iter().for_each(|name| broker.until_listening(name));
    for file in ["b.yaml", "c.yaml", "d.yaml", "people.yaml"] {
        broker.remove(file);
    }
    for name in &names[1..] {
        broker.until_condition(name, "Accepted", false, "DeletionHeld");
    }
    broker.apply("a.yaml", &endpoint("a", ports[0], ", maxConnectionSize: 9"));
    saved(&broker);
    broker.restart(&[]);
    for (name, port) in names.iter().zip(&ports).skip(1) {
        broker.until_condition(name, "Accepted", false, "DeletionHeld");
        broker.until_listening(name);
        client(*port, "c").ping();
    }
}

#[test]
fn the_last_endpoint_and_protected_ones_are_held_until_confirmed() {
    let (kept, last) = (ports::free(), ports::free());
    let broker = Broker::start(&[
        ("kept.yaml", &endpoint("kept", kept, ", prune: disabled")),
        ("last.yaml", &endpoint("last", last, "")),
    ]);
    broker.until_listening("kept");
    broker.until_listening("last");
    broker.remove("kept.yaml");
    let told = broker.until_condition("kept", "Accepted", false, "DeletionHeld");
    assert!(told.message.contains("prune: disabled"), "{told:?}");
    broker.remove("last.yaml");
    let told = broker.until_condition("last", "Accepted", false, "DeletionHeld");
    assert!(told.message.contains("every endpoint was deleted at once"), "{told:?}");
    assert!(listens(kept) && listens(last));
    broker.write("reconcile.yaml", "reconcile: {prune: {confirm: [kept, last]}}\n");
    broker.until("both go", || !listens(kept) && !listens(last));
}

#[test]
fn a_change_over_max_disconnects_waits_until_confirmed() {
    let (from, to, bystander) = (ports::free(), ports::free(), ports::free());
    let broker = Broker::start(&[
        ("e.yaml", &endpoint("e", from, ", drain: {windowS: 0}")),
        ("bystander.yaml", &endpoint("bystander", bystander, "")),
        ("reconcile.yaml", "reconcile: {maxDisconnects: 3}\n"),
    ]);
    broker.until_listening("e");
    let mut clients: Vec<_> = (0..5).map(|n| client(from, &format!("c{n}"))).collect();
    broker.until("they are counted", || broker.connected("e") == 5);
    broker.write("e.yaml", &endpoint("e", to, ", drain: {windowS: 0}"));
    let told = broker.until_condition("e", "Programmed", false, "DisconnectsHeld");
    assert!(told.message.contains("5 clients would be disconnected"), "{told:?}");
    clients.iter_mut().for_each(crate::support::client::Client::ping);
    assert!(listens(from) && !listens(to));
    let plan = broker.get("/api/plan");
    assert_eq!((&plan["converged"], &plan["pending"][0]["endpoint"]), (&false.into(), &"e".into()), "{plan}");
    broker.write("reconcile.yaml", "reconcile: {maxDisconnects: 3, prune: {confirm: [e]}}\n");
    broker.until_listening("e");
    for client in &mut clients {
        assert!(matches!(client.receive(), Some(crate::wire::Packet::Disconnect { code: 0x98, .. })));
    }
    assert!(!listens(from) && listens(to));
}

#[test]
fn while_suspended_nothing_is_applied() {
    let (port, other) = (ports::free(), ports::free());
    let broker = Broker::start(&[("e.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    broker.write("reconcile.yaml", "reconcile: {suspend: true}\n");
    broker.until("it says so", || broker.get("/api/source")["suspended"] == true);
    assert!(broker.log().contains("reconciliation suspended"), "{}", broker.log());
    broker.write("e.yaml", &endpoint("e", other, ""));
    broker.write("new.yaml", &endpoint("new", ports::free(), ""));
    let before = broker.get("/api/source")["attemptedRevision"].clone();
    broker.until("it is read", || {
        broker.get("/api/source")["attemptedRevision"] != before || broker.log().contains("new")
    });
    broker.signal(rustix::process::Signal::HUP);
    client(port, "c").ping();
    assert!(!listens(other));
    assert_eq!(broker.get("/api/plan")["suspended"], true);
    broker.write("reconcile.yaml", "reconcile: {suspend: false}\n");
    broker.until_listening("new");
    broker.until("what waited is applied", || listens(other) && !listens(port));
}
