//! A revoked right takes effect at once: on connections whatever the endpoint's drain rate, on delayed wills, and on shared
//! subscriptions.

use std::net::TcpStream;

use super::broker::Broker;
use super::client::Client;
use super::reload::people;
use crate::support::ports;
use crate::wire::{Packet, Properties, Publish};

const ADMINISTRATIVE_ACTION: u8 = 0x98;
const PASSWORD_FILE: &str = "auth: {name: default, chain: [{passwordFile: {file: people}}]}\n";
const ALL: &str = "{permission: allow, topics: ['#']}";
/// Long after the test: such a will is due when its session ends.
const LATER_S: u32 = 3000;

fn acl(rules: &str) -> String {
    format!("{PASSWORD_FILE}---\nacl: {{name: default, rules: [{rules}]}}\n")
}

/// Without `bob`.
fn only_alice() -> String {
    people().lines().next().unwrap_or_default().to_owned() + "\n"
}

/// With another password for `bob`.
fn bob_changed() -> String {
    people().replacen("bob:$7$101$7e92", "bob:$7$101$7e93", 1)
}

/// Ends the session of `id`, so that its will is due; whether `watcher` gets the will.
fn publishes_its_will(broker: &Broker, watcher: &mut Client, id: &str) -> bool {
    let mut successor = broker.client(id).user("alice", "secret").connected();
    // The same shard publishes this after the will.
    let fence = format!("fence/{id}");
    assert!(successor.may_publish(&fence));
    let mut received = Vec::new();
    broker.until("the message after the will has arrived", || {
        received.extend(watcher.received());
        received.contains(&fence)
    });
    received.contains(&format!("a/{id}"))
}

fn disconnect_with_will(broker: &Broker, id: &str, user: &str) {
    let will = format!("a/{id}");
    drop(broker.client(id).user(user, "secret").durable().delayed_will(&will, LATER_S).connected());
}

#[test]
fn a_delayed_will_is_judged_by_what_is_declared_when_it_is_due() {
    let narrow = "{permission: deny, username: bob, action: publish, topics: ['a/#']}";
    let cases = [
        ("documents.yaml", acl(&format!("{narrow}, {ALL}"))),
        ("ban.yaml", "ban: {name: abuse, entries: [{username: bob}]}\n".to_owned()),
        ("people", only_alice()),
        ("people", bob_changed()),
    ];
    for shards in [1, 2] {
        for (file, content) in &cases {
            let broker = Broker::start_on(shards, "", &acl(ALL), &[("people", &people())]);
            let mut watcher = broker.client("watcher").user("alice", "secret").connected();
            assert_eq!(watcher.subscribe("#"), 1);
            disconnect_with_will(&broker, "bobs", "bob");
            disconnect_with_will(&broker, "alices", "alice");
            broker.write_until(file, content, "changed endpoint=main");
            assert!(!publishes_its_will(&broker, &mut watcher, "bobs"), "{file} on {shards} shards\n{content}");
            assert!(publishes_its_will(&broker, &mut watcher, "alices"), "{file} on {shards} shards");
            broker.until("the log names the will", || broker.log().contains("will refused"));
        }
    }
}

#[test]
fn the_will_of_a_client_that_lost_its_right_is_not_published() {
    let broker = Broker::start(", enableAcl: false", PASSWORD_FILE, &[("people", &people())]);
    let mut watcher = broker.client("watcher").user("alice", "secret").connected();
    assert_eq!(watcher.subscribe("#"), 1);
    let mut bob = broker.client("bobs").user("bob", "secret").will("a/bobs").connected();
    let alice = broker.client("alices").user("alice", "secret").will("a/alices").connected();
    broker.write("people", &only_alice());
    assert_eq!(bob.disconnected(), ADMINISTRATIVE_ACTION);
    assert!(!publishes_its_will(&broker, &mut watcher, "bobs"));
    drop(alice);
    assert!(publishes_its_will(&broker, &mut watcher, "alices"));
}

#[test]
fn a_will_that_was_kept_over_a_restart_is_judged_by_what_is_declared_then() {
    for (file, content) in [
        ("people", only_alice()),
        ("ban.yaml", "ban: {name: abuse, entries: [{username: bob}]}\n".to_owned()),
        (
            "documents.yaml",
            acl(&format!("{{permission: deny, username: bob, action: publish, topics: ['a/#']}}, {ALL}")),
        ),
    ] {
        let mut broker = Broker::start(", durability: disk", &acl(ALL), &[("people", &people())]);
        disconnect_with_will(&broker, "bobs", "bob");
        disconnect_with_will(&broker, "alices", "alice");
        broker.restart(|place| std::fs::write(place.join(file), content).unwrap());
        broker.until("it listens", || TcpStream::connect(broker.address).is_ok());
        let mut watcher = broker.client("watcher").user("alice", "secret").connected();
        assert_eq!(watcher.subscribe("#"), 1);
        assert!(!publishes_its_will(&broker, &mut watcher, "bobs"), "{file}");
        assert!(publishes_its_will(&broker, &mut watcher, "alices"), "{file}");
    }
}

/// Enough groups that each shard owns some.
const GROUPS: usize = 8;
const MESSAGES: usize = 10;

/// `bob` and `alice` are members of every group, with QoS 1; then `after` is declared, and messages are published. Returns
/// how many messages of each group `bob` and `alice` got.
fn shared_deliveries(shards: u16, before: &str, after: &str) -> (Vec<usize>, Vec<usize>) {
    let broker = Broker::start_on(shards, "", &acl(&format!("{before}, {ALL}")), &[("people", &people())]);
    let mut bob = broker.client("b").user("bob", "secret").connected();
    let mut alice = broker.client("a").user("alice", "secret").connected();
    for group in 0..GROUPS {
        let filter = format!("$share/g{group}/t/{group}");
        assert_eq!([bob.subscribe(&filter), alice.subscribe(&filter)], [1, 1]);
    }
    broker.write_until("documents.yaml", &acl(&format!("{after}, {ALL}")), "changed endpoint=main");
    let mut sender = broker.client("s").user("alice", "secret").connected();
    for message in 0..GROUPS * MESSAGES {
        assert!(sender.may_publish(&format!("t/{}", message % GROUPS)));
    }
    let (mut bobs, mut alices) = (vec![0; GROUPS], vec![0; GROUPS]);
    broker.until("every message is delivered", || {
        for (client, counts) in [(&mut bob, &mut bobs), (&mut alice, &mut alices)] {
            for topic in client.received() {
                counts[topic[2..].parse::<usize>().unwrap()] += 1;
            }
        }
        bobs.iter().chain(&alices).sum::<usize>() == GROUPS * MESSAGES
    });
    (bobs, alices)
}

#[test]
fn a_shared_subscription_is_judged_again_with_its_granted_qos() {
    let of_bob = |qos: &str| {
        format!(
            "{{permission: allow, username: bob, action: subscribe, topics: ['t/#'], qos: [{qos}]}}, \
             {{permission: deny, username: bob, action: subscribe, topics: ['t/#']}}"
        )
    };
    for shards in [1, 2, 3] {
        // Still allowed with QoS 1, not with QoS 0.
        let (bobs, alices) = shared_deliveries(shards, &of_bob("1, 2"), &of_bob("1"));
        assert!(bobs.iter().all(|count| *count > 0), "{shards} shards: {bobs:?} {alices:?}");
        // Allowed with QoS 0 alone.
        let (bobs, alices) = shared_deliveries(shards, &of_bob("0, 1"), &of_bob("0"));
        assert_eq!(alices, [MESSAGES; GROUPS], "{shards} shards: {bobs:?}");
    }
}

/// Whether a publish is answered by PUBACK; else by DISCONNECT.
fn is_served(client: &mut Client) -> bool {
    let publish = Publish {
        dup: false,
        qos: 1,
        retain: false,
        topic: "t".to_owned(),
        id: Some(1),
        properties: Properties::new(),
        payload: Vec::new(),
    };
    client.send(&Packet::Publish(publish));
    match client.receive() {
        Some(Packet::Ack(_)) => true,
        Some(Packet::Disconnect { code: ADMINISTRATIVE_ACTION, .. }) => false,
        other => panic!("{other:?}"),
    }
}

/// The same for a client that may be disconnected already.
fn is_still_served(client: &mut Client) -> bool {
    client.send(&Packet::PingReq);
    match client.receive() {
        Some(Packet::PingResp) => true,
        Some(Packet::Disconnect { .. }) | None => false,
        other => panic!("{other:?}"),
    }
}

/// Clients of both users, on an endpoint that drains one client a second.
fn connected_clients(broker: &Broker) -> (Vec<Client>, Vec<Client>) {
    let clients = |user: &str| -> Vec<Client> {
        (0..20).map(|n| broker.client(&format!("{user}{n}")).user(user, "secret").connected()).collect()
    };
    (clients("bob"), clients("alice"))
}

const SLOW_DRAIN: &str = ", enableAcl: false, drain: {windowS: 86400, maxPerSecond: 1}";

#[test]
fn clients_that_lost_their_right_are_disconnected_at_once_whatever_the_drain_rate() {
    for (file, content) in [
        ("people", only_alice()),
        ("people", bob_changed()),
        ("ban.yaml", "ban: {name: abuse, entries: [{username: bob}]}\n".to_owned()),
        ("ban.yaml", "ban: {name: abuse, entries: [{clientId: 'bob*'}]}\n".to_owned()),
    ] {
        let broker = Broker::start(SLOW_DRAIN, PASSWORD_FILE, &[("people", &people())]);
        let (mut bobs, mut alices) = connected_clients(&broker);
        broker.write_until(file, &content, "changed endpoint=main");
        let served = bobs.iter_mut().filter_map(|bob| is_served(bob).then_some(())).count();
        assert_eq!(served, 0, "{file}: {content}");
        assert!(alices.iter_mut().all(is_served), "{file}: {content}");
    }
}

#[test]
fn a_moved_endpoint_drains_slowly_but_revoked_clients_at_once() {
    let broker = Broker::start(SLOW_DRAIN, PASSWORD_FILE, &[("people", &people())]);
    let (mut bobs, mut alices) = connected_clients(&broker);
    let elsewhere = format!("endpoint: {{name: main, host: 127.0.0.1, port: {}{SLOW_DRAIN}}}\n", ports::free());
    let banned = format!("{elsewhere}---\nban: {{name: abuse, entries: [{{username: bob}}]}}\n");
    broker.write_until("endpoint.yaml", &banned, "changed endpoint=main");
    assert!(!bobs.iter_mut().any(is_served));
    let served = alices.iter_mut().filter_map(|alice| is_served(alice).then_some(())).count();
    assert!(served > 0, "none of {} is connected", alices.len());
}

#[test]
fn a_closed_endpoint_drains_slowly_but_revoked_clients_at_once() {
    let removed: (&str, &dyn Fn(&Broker)) =
        ("removed", &|broker| std::fs::remove_file(broker.path("endpoint.yaml")).unwrap());
    let disabled: (&str, &dyn Fn(&Broker)) = ("disabled", &|broker| {
        let fields =
            format!("name: main, enabled: false, host: 127.0.0.1, port: {}{SLOW_DRAIN}", broker.address.port());
        broker.write("endpoint.yaml", &format!("endpoint: {{{fields}}}\n"));
    });
    for (how, leave) in [removed, disabled] {
        for (file, content) in
            [("ban.yaml", "ban: {name: abuse, entries: [{username: bob}]}\n".to_owned()), ("people", only_alice())]
        {
            let other = format!("endpoint: {{name: other, host: 127.0.0.1, port: {}}}\n", ports::free());
            let broker = Broker::start(SLOW_DRAIN, PASSWORD_FILE, &[("people", &people()), ("other.yaml", &other)]);
            let (mut bobs, mut alices) = connected_clients(&broker);
            leave(&broker);
            broker.until(how, || broker.log().contains("listener closed endpoint=main"));
            assert!(bobs.iter_mut().any(is_served), "{how}: the drain is slow");
            broker.write_until(file, &content, "changed endpoint=other");
            assert!(!bobs.iter_mut().any(is_still_served), "{how} {file}");
            assert!(alices.iter_mut().any(is_served), "{how} {file}: the drain is slow");
        }
    }
}
