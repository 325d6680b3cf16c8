//! Clients are disconnected as `drain` declares, and the process ends in order.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::broker::{Broker, at, client, endpoint};
use crate::support::client::{Client, connect, publish};
use crate::support::ports;
use crate::wire::{Packet, Properties, PropertyRow, PropertyValue, Version, Will};

/// DISCONNECT's code and server reference, and then the end.
fn told_to_leave(client: &mut Client) -> (u8, Option<String>) {
    let Some(Packet::Disconnect { code, properties }) = client.receive() else { panic!("no DISCONNECT") };
    let id = PropertyRow::by_name("server_reference").unwrap().id;
    let reference = properties.iter().find(|(known, _)| *known == id).map(|(_, value)| match value {
        PropertyValue::String(text) => text.clone(),
        other => panic!("{other:?}"),
    });
    assert_eq!(client.receive(), None);
    (code, reference)
}

#[test]
fn a_disabled_endpoint_is_drained_and_stays_declared() {
    let (port, other) = (ports::free(), ports::free());
    let at_once = ", drain: {windowS: 0}";
    let broker =
        Broker::start(&[("e.yaml", &endpoint("e", port, at_once)), ("other.yaml", &endpoint("other", other, ""))]);
    broker.until_listening("e");
    let mut v5 = client(port, "v5");
    let mut v4 = Client::connect(at(port), Version::V3_1_1, "v4");
    let mut bystander = client(other, "bystander");
    broker.write("e.yaml", &endpoint("e", port, &format!("{at_once}, enabled: false")));
    assert_eq!(told_to_leave(&mut v5), (0x98, None));
    assert_eq!(v4.receive(), None);
    broker.until_condition("e", "Programmed", false, "Disabled");
    assert!(std::net::TcpStream::connect(at(port)).is_err());
    let list = broker.get("/api/endpoints/list");
    assert_eq!(list["total"], 2);
    assert_eq!(list["activePorts"], serde_json::json!([other]));
    assert!(broker.condition("e", "Accepted").unwrap().holds);
    bystander.ping();
    broker.write("e.yaml", &endpoint("e", port, at_once));
    broker.until_listening("e");
    client(port, "again").ping();
}

#[test]
fn a_drain_sends_the_declared_server_reference() {
    let (moved, gone, stays) = (ports::free(), ports::free(), ports::free());
    let drain = ", drain: {windowS: 0, serverReference: 'b.example:1883'}";
    let broker = Broker::start(&[
        ("moved.yaml", &endpoint("moved", moved, drain)),
        ("gone.yaml", &endpoint("gone", gone, drain)),
        ("stays.yaml", &endpoint("stays", stays, "")),
    ]);
    ["moved", "gone", "stays"].iter().for_each(|name| broker.until_listening(name));
    let (mut a, mut b) = (client(moved, "a"), client(gone, "b"));
    broker.write("moved.yaml", &endpoint("moved", ports::free(), drain));
    let reference = Some("b.example:1883".to_owned());
    assert_eq!(told_to_leave(&mut a), (0x9C, reference.clone()), "use another server");
    broker.remove("gone.yaml");
    assert_eq!(told_to_leave(&mut b), (0x9D, reference), "server moved");
}

#[test]
fn clients_are_drained_at_the_declared_rate_and_wills_are_sent() {
    let (port, other) = (ports::free(), ports::free());
    let rate = ", drain: {windowS: 0, maxPerSecond: 20}";
    let broker =
        Broker::start(&[("e.yaml", &endpoint("e", port, rate)), ("other.yaml", &endpoint("other", other, ""))]);
    broker.until_listening("e");
    broker.until_listening("other");
    let mut watcher = client(other, "watcher");
    watcher.subscribe("will/#", 0);
    let mut clients: Vec<Client> = (0..30)
        .map(|n| {
            let mut client = Client::open(at(port), Version::V5);
            let Packet::Connect(mut packet) = connect(Version::V5, &format!("c{n}"), Properties::new()) else {
                panic!("CONNECT");
            };
            packet.will = Some(Will {
                topic: format!("will/{n}"),
                payload: b"gone".to_vec(),
                qos: 0,
                retain: false,
                properties: Properties::new(),
            });
            client.send(&Packet::Connect(packet));
            assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })));
            client
        })
        .collect();
    let begun = Instant::now();
    broker.write("e.yaml", &endpoint("e", port, &format!("{rate}, enabled: false")));
    broker.until_condition("e", "Draining", true, "Removed");
    for client in &mut clients {
        assert_eq!(told_to_leave(client).0, 0x98);
    }
    // The first of each shard at once, the others at a twentieth of a second each.
    assert!(begun.elapsed() >= Duration::from_millis(1000), "{:?}", begun.elapsed());
    for _ in 0..30 {
        assert!(matches!(watcher.receive(), Some(Packet::Publish(_))));
    }
    broker.until_condition("e", "Draining", false, "AsDeclared");
}

#[test]
fn over_a_lowered_limit_the_newest_clients_are_disconnected() {
    let (of_all, of_one) = (ports::free(), ports::free());
    let text = |name: &str, port: u16, limit: &str| endpoint(name, port, &format!(", drain: {{windowS: 0}}, {limit}"));
    let broker = Broker::start(&[
        ("all.yaml", &text("all", of_all, "maxConnectionSize: 5")),
        ("one.yaml", &text("one", of_one, "maxConnectionPerAddress: 5")),
    ]);
    for (name, port, limit) in [("all", of_all, "maxConnectionSize: 2"), ("one", of_one, "maxConnectionPerAddress: 2")]
    {
        broker.until_listening(name);
        let mut clients: Vec<Client> = (0..4).map(|n| client(port, &format!("{name}{n}"))).collect();
        broker.until("they are counted", || broker.connected(name) == 4);
        broker.apply(&format!("{name}.yaml"), &text(name, port, limit));
        for client in clients.drain(2..).rev() {
            let mut client = client;
            assert_eq!(told_to_leave(&mut client), (0x98, None), "{name}");
        }
        clients.iter_mut().for_each(Client::ping);
    }
}

#[test]
fn a_declared_restart_happens_once() {
    let port = ports::free();
    let restarted = |when: &str| endpoint("e", port, &format!(", drain: {{windowS: 0}}, restartedAt: '{when}'"));
    let broker = Broker::start(&[("e.yaml", &restarted("2026-01-01T00:00:00Z"))]);
    broker.until_listening("e");
    let mut resident = client(port, "resident");
    broker.apply("e.yaml", &restarted("2026-01-02T00:00:00Z"));
    assert_eq!(told_to_leave(&mut resident), (0x98, None));
    let mut again = client(port, "resident");
    broker.signal(Signal::HUP);
    broker.apply("note.yaml", &endpoint("other", ports::free(), ""));
    again.ping();
}

#[test]
fn sigterm_disconnects_all_clients_and_exits_in_order() {
    let port = ports::free();
    let mut broker = Broker::start(&[("e.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    let mut v5 = client(port, "v5");
    let mut v4 = Client::connect(at(port), Version::V3_1_1, "v4");
    broker.signal(Signal::TERM);
    assert_eq!(told_to_leave(&mut v5), (0x8B, None), "server shutting down");
    assert_eq!(v4.receive(), None);
    drop((v5, v4));
    assert_eq!(broker.wait().code(), Some(0));
    assert!(std::net::TcpStream::connect(at(port)).is_err());
}

#[test]
fn a_second_sigterm_does_not_wait() {
    let port = ports::free();
    let mut broker = Broker::start(&[("e.yaml", &endpoint("e", port, ""))]);
    broker.until_listening("e");
    // A client has many messages waiting and does not read: the shutdown waits for it.
    let mut deaf = client(port, "deaf");
    deaf.subscribe("t", 0);
    let mut sender = client(port, "sender");
    for _ in 0..200 {
        sender.send(&publish("t", &[0; 60_000], 0, None));
    }
    sender.ping();
    drop(sender);
    broker.signal(Signal::TERM);
    broker.until("it begins to end", || broker.log().contains("disconnecting clients"));
    assert!(!broker.has_ended());
    broker.signal(Signal::TERM);
    assert_eq!(broker.wait().code(), Some(0));
    assert!(broker.log().contains("shutdown aborted by a second signal"), "{}", broker.log());
    drop(deaf);
}
