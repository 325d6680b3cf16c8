//! Every limit of `examples/limits`, on the built program with two shards.

use std::time::{Duration, Instant};

use super::broker::Broker;
use super::client::{Client, property};
use super::examples::{example, run};
use crate::support::ports;
use crate::wire::{Packet, Properties, PropertyValue, Publish, Version};

const QUOTA_EXCEEDED: u8 = 0x97;

/// The example with other values for some fields: `("maxQueuedMessages: 3", "maxQueuedMessages: 100")`.
fn run_with(changes: &[(&str, &str)]) -> Broker {
    let address = ports::free_address();
    Broker::serve(address, &text(address.port(), changes), &[])
}

fn text(port: u16, changes: &[(&str, &str)]) -> String {
    let text = example("limits").replace("port: 1883", &format!("port: {port}"));
    changes.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "{old}");
        text.replace(old, new)
    })
}

/// Declares other values, and waits until they apply.
fn redeclare(broker: &Broker, changes: &[(&str, &str)]) {
    broker.write_until("documents.yaml", &text(broker.address.port(), changes), "changed endpoint=bounded");
}

fn publish(topic: &str, payload: &[u8], qos: u8) -> Packet {
    Packet::Publish(Publish {
        dup: false,
        qos,
        retain: false,
        topic: topic.to_owned(),
        id: (qos > 0).then_some(7),
        properties: Properties::new(),
        payload: payload.to_vec(),
    })
}

/// DISCONNECT's code, after any other packets; `None`: closed without one.
fn disconnect_code(client: &mut Client) -> Option<u8> {
    loop {
        match client.receive() {
            Some(Packet::Disconnect { code, .. }) => return Some(code),
            Some(_) => {}
            None => return None,
        }
    }
}

fn connack(client: &mut Client) -> (bool, u8, Properties) {
    client.send_connect();
    match client.receive() {
        Some(Packet::ConnAck { session_present, code, properties }) => (session_present, code, properties),
        other => panic!("{other:?} for CONNACK"),
    }
}

#[test]
fn connack_carries_the_declared_limits() {
    let broker = run("limits", &[]);
    let mut client = broker.client("c").with("session_expiry_interval", PropertyValue::Number(100_000));
    let (_, code, properties) = connack(&mut client);
    assert_eq!(code, 0);
    for (name, value) in [
        ("server_keep_alive", 300),
        ("session_expiry_interval", 3600),
        ("receive_maximum", 20),
        ("maximum_packet_size", 4096),
        ("topic_alias_maximum", 8),
        ("maximum_qos", 1),
    ] {
        let expected = property(name, PropertyValue::Number(value));
        assert!(properties.contains(&expected), "{name}: {properties:?}");
    }
}

#[test]
fn a_connection_above_the_limit_is_refused_with_a_reason() {
    let broker = run_with(&[("maxConnectionSize: 100", "maxConnectionSize: 2")]);
    let (first, _second) = (broker.client("a").connected(), broker.client("b").connected());
    assert_eq!(broker.client("c").connect(), QUOTA_EXCEEDED);
    first.disconnect();
    broker.until("a connection is free", || broker.client("c").connect() == 0);
}

#[test]
fn sessions_of_absent_clients_are_counted_over_all_shards() {
    let broker = run("limits", &[]);
    let names: Vec<String> = (0..8).map(|n| format!("durable{n}")).collect();
    for name in &names {
        broker.client(name).durable().connected().disconnect();
    }
    let present: Vec<bool> = names.iter().map(|name| connack(&mut broker.client(name).durable()).0).collect();
    assert_eq!(present, [true, true, false, false, false, false, false, false]);
}

#[test]
fn a_large_packet_is_refused_before_it_is_read() {
    let broker = run("limits", &[]);
    let mut client = broker.client("c").connected();
    client.send_bytes(&publish("a", &[b'x'; 5000], 0).encode(Version::V5)[..100]);
    assert_eq!(disconnect_code(&mut client), Some(0x95), "packet too large");
}

#[test]
fn subscriptions_and_levels_are_bounded() {
    let broker = run("limits", &[]);
    let mut client = broker.client("c").connected();
    assert_eq!([client.subscribe("a"), client.subscribe("$share/g/b")], [1, 1]);
    assert_eq!([client.subscribe("c"), client.subscribe("$share/g/c")], [QUOTA_EXCEEDED; 2]);
    assert_eq!(client.subscribe("a"), 1, "again the same one");
    assert_eq!([client.publish("1/2/3/4", "x", false), client.publish("1/2/3/4/5", "x", false)], [0, 0x90]);
    let mut other = broker.client("d").connected();
    assert_eq!(
        [other.subscribe("1/2/3/4/5"), other.subscribe("1/2/3/4"), other.subscribe("+/+/+/+/#")],
        [0x8F, 1, 0x8F]
    );
    // A change applies to connected clients.
    redeclare(&broker, &[("maxTopicLevels: 4", "maxTopicLevels: 2"), ("maxSubscriptions: 2", "maxSubscriptions: 3")]);
    assert_eq!(client.publish("1/2/3", "x", false), 0x90);
    assert_eq!(client.subscribe("c"), 1);
}

#[test]
fn retained_messages_of_an_endpoint_are_counted_over_all_shards() {
    let broker = run("limits", &[]);
    let mut client = broker.client("c").connected();
    // Where another shard owns the topic, the answer is a success, and the message is not retained.
    let codes: Vec<u8> = (0..20).map(|n| client.publish(&format!("r/{n}"), "x", true)).collect();
    assert!(codes[..5].iter().all(|&code| code == 0), "{codes:?}");
    assert!(codes[5..].contains(&QUOTA_EXCEEDED), "{codes:?}");
    let mut kept = broker.client("d").connected();
    kept.subscribe("r/+");
    let received = kept.received();
    assert_eq!(received.len(), 5, "{received:?}");
    assert_eq!(client.publish(&received[0], "y", true), 0, "it is replaced");
    assert_eq!(client.publish(&received[0], "", true), 0, "it is cleared");
    assert_eq!(client.publish("r/new", "z", true), 0, "there is room again");
}

/// The topics of ten messages that a client gets that was offline meanwhile.
fn delivered_after_offline(broker: &Broker, payload: &str) -> Vec<String> {
    let mut offline = broker.client("offline").durable().connected();
    offline.subscribe("q/+");
    offline.disconnect();
    let mut sender = broker.client("sender").connected();
    for n in 0..10 {
        assert!(sender.publish(&format!("q/{n}"), payload, false) < 0x80);
    }
    let mut back = broker.client("offline").durable().connected();
    let topics = back.received();
    broker.client("offline").connected().disconnect(); // clean start: deletes the session
    topics
}

#[test]
fn a_full_queue_drops_by_the_declared_policy() {
    let broker = run("limits", &[]);
    assert_eq!(delivered_after_offline(&broker, "x"), ["q/7", "q/8", "q/9"]);
    redeclare(&broker, &[("dropOldest", "dropNewest")]);
    assert_eq!(delivered_after_offline(&broker, "x"), ["q/0", "q/1", "q/2"]);
    let bytes =
        [("maxQueuedMessages: 3", "maxQueuedMessages: 100"), ("maxQueuedBytes: 1048576", "maxQueuedBytes: 5000")];
    redeclare(&broker, &bytes);
    let two_kilobytes = "x".repeat(2000);
    assert_eq!(delivered_after_offline(&broker, &two_kilobytes), ["q/8", "q/9"]);
    redeclare(&broker, &[bytes[0], bytes[1], ("dropOldest", "dropNewest")]);
    assert_eq!(delivered_after_offline(&broker, &two_kilobytes), ["q/0", "q/1"]);
}

#[test]
fn a_message_expires_after_the_declared_maximum() {
    let broker = run("limits", &[]);
    let mut publisher = broker.client("p").connected();
    assert!(publisher.publish("kept", "x", true) < 0x80);
    let mut reader = broker.client("r").connected();
    assert_eq!(reader.subscribe("kept"), 1);
    let Some(Packet::Publish(message)) = reader.receive() else { panic!("no retained message") };
    let name = property("message_expiry_interval", PropertyValue::Number(0)).0;
    let expiry = message.properties.iter().find(|(own, _)| *own == name);
    assert!(matches!(expiry, Some((_, PropertyValue::Number(86_000..=86_400)))), "{expiry:?}");
}

#[test]
fn too_many_unacknowledged_messages_wait() {
    let broker =
        run_with(&[("maxInflight: 20", "maxInflight: 2"), ("maxPublishPerSecond: 50 ", "maxPublishPerSecond: 5000 ")]);
    let mut reader = broker.client("r").connected();
    assert_eq!(reader.subscribe("a/+"), 1);
    let mut sender = broker.client("s").connected();
    for n in 0..4 {
        assert!(sender.publish(&format!("a/{n}"), "x", false) < 0x80);
    }
    assert_eq!(reader.received(), ["a/0", "a/1"]);
    let id = |n: u8| [0x40, 2, 0, n];
    reader.send_bytes(&[id(1), id(2)].concat());
    assert_eq!(reader.received(), ["a/2", "a/3"]);
}

#[test]
fn a_publisher_above_its_rate_is_refused_and_others_are_not_delayed() {
    let broker = run("limits", &[]);
    let mut good = broker.client("good").connected();
    let flood: Vec<u8> = (0..5000).flat_map(|_| publish("f", b"x", 0).encode(Version::V5)).collect();
    let bytes: Vec<u8> = (0..30).flat_map(|_| publish("f", &[b'x'; 4000], 0).encode(Version::V5)).collect();
    for (why, burst) in [("messages", &flood), ("bytes", &bytes)] {
        let mut fast = broker.client("fast").connected();
        fast.send_bytes(burst);
        assert_eq!(disconnect_code(&mut fast), Some(0x96), "message rate too high: {why}");
        assert!(good.publish("a", "x", false) < 0x80);
    }
}

#[test]
fn all_clients_together_keep_the_endpoints_rate() {
    let broker = run_with(&[("maxPublishPerSecond: 50 ", "maxPublishPerSecond: 100000 ")]);
    let burst: Vec<u8> = (0..3000).flat_map(|_| publish("f", b"x", 0).encode(Version::V5)).collect();
    let mut clients: Vec<Client> = (0..4).map(|n| broker.client(&format!("c{n}")).connected()).collect();
    clients.iter_mut().for_each(|client| client.send_bytes(&burst));
    for client in &mut clients {
        assert_eq!(disconnect_code(client), Some(0x96));
    }
}

#[test]
fn a_publisher_above_its_rate_is_read_later_where_declared() {
    let delay = [("publishOverflow: disconnect", "publishOverflow: delay")];
    let broker = run_with(&delay);
    let mut reader = broker.client("r").connected();
    assert_eq!(reader.subscribe("f"), 1);
    let mut fast = broker.client("fast").connected();
    let start = Instant::now();
    let burst: Vec<u8> = (0..100).flat_map(|_| publish("f", b"x", 0).encode(Version::V5)).collect();
    fast.send_bytes(&burst);
    for _ in 0..100 {
        assert!(matches!(reader.receive(), Some(Packet::Publish(_))), "nothing is lost");
    }
    assert!(fast.received().is_empty());
    // A hundred at fifty a second; the first fifty are the burst.
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());

    // A higher declared rate ends a pause of minutes.
    let slow = [delay[0], ("maxPublishBytesPerSecond: 65536", "maxPublishBytesPerSecond: 1024")];
    redeclare(&broker, &slow);
    let large: Vec<u8> = (0..50).flat_map(|_| publish("f", &[b'x'; 4000], 0).encode(Version::V5)).collect();
    fast.send_bytes(&large);
    assert!(matches!(reader.receive(), Some(Packet::Publish(_))));
    fast.send(&Packet::PingReq);
    redeclare(&broker, &delay);
    assert_eq!(fast.receive(), Some(Packet::PingResp));
}

#[test]
fn wrong_passwords_are_counted_by_user_and_by_address() {
    let people = super::reload::people();
    let documents = "auth: {name: default, chain: [{passwordFile: {file: people}}], \
                     rateLimit: {maxFailures: 3, maxFailuresPerAddress: 5, windowS: 600}}\n";
    let broker = Broker::start(", enableAcl: false", documents, &[("people", &people)]);
    let mut open = broker.client("open").user("alice", "secret").connected();
    let codes: Vec<u8> = (0..4).map(|n| broker.client("x").user("alice", &format!("guess{n}")).connect()).collect();
    assert_eq!(codes, [0x86, 0x86, 0x86, 0x9F]);
    assert_eq!(broker.client("y").user("alice", "secret").connect(), 0x9F, "a valid password is refused too");
    assert_eq!(broker.client("y").user("bob", "secret").connect(), 0, "another user of the same address");
    let codes: Vec<u8> = (0..3).map(|n| broker.client("x").user(&format!("user{n}"), "guess").connect()).collect();
    assert_eq!(codes, [0x86, 0x86, 0x9F]);
    assert_eq!(broker.client("y").user("bob", "secret").connect(), 0x9F, "the address has its limit");
    assert!(open.received().is_empty(), "connected clients stay");
}
