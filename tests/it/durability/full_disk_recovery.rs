//! A disk that the store itself fills: what is refused and what waits, what passes, and that there is room again once
//! messages are fetched; cores in memory, and a real process on a small disk.

use std::collections::BTreeSet;

use weir_broker::{EndpointLimits, RecordKey, Recording, StoreAck};

use super::data_directory::refused;
use super::process::DurableBroker;
use super::small_disk::{Client, on_small_disk};
use crate::node::{LinkId, Node, policy};
use crate::support::weir;
use crate::wire::{Ack, Connect, Packet, Properties, PropertyValue, Publish, Version, decode_server_packet};

/// A core whose store the test is.
struct Broker {
    node: Node,
    /// What was recorded since it was last asked for.
    records: Vec<(RecordKey, bool)>,
}

impl Broker {
    fn new() -> Self {
        let mut node = Node::new(1);
        node.cores[0].start_recording(Recording { next_id: 1, epoch_unix_ms: 0 });
        Self { node, records: Vec::new() }
    }

    fn connect(&mut self, version: Version, name: &str) -> LinkId {
        let policy =
            policy(1, EndpointLimits { durability: weir_broker::Durability::Disk, ..EndpointLimits::default() });
        let link = self.node.open(policy);
        let expires = vec![(0x11, PropertyValue::Number(1_000))];
        let connect = Connect {
            version,
            clean: false,
            keep_alive_s: 0,
            client_id: name.to_owned(),
            username: None,
            password: None,
            will: None,
            properties: if version == Version::V5 { expires } else { Properties::new() },
        };
        self.send(link, version, &Packet::Connect(connect));
        assert!(matches!(self.receive(link, version)[..], [Packet::ConnAck { code: 0, .. }]));
        link
    }

    /// Sends, and commits what comes of it.
    fn send(&mut self, link: LinkId, version: Version, packet: &Packet) {
        self.node.send(link, &packet.encode(version));
        self.settle();
    }

    fn settle(&mut self) {
        for _ in 0..3 {
            self.node.settle();
            for (_, batch) in self.node.take_records() {
                self.records.extend(batch.records().map(|(key, value)| (key, value.is_some())));
                self.node.cores[0].on_store_ack(StoreAck::UpTo(batch.number), self.node.now);
            }
        }
        self.node.settle();
    }

    fn set_full(&mut self, full: bool) {
        self.node.cores[0].on_store_ack(StoreAck::Full(full), self.node.now);
        self.settle();
    }

    fn receive(&mut self, link: LinkId, version: Version) -> Vec<Packet> {
        let (bytes, mut at, mut packets) = (self.node.take_output(link), 0, Vec::new());
        while let Some((packet, size)) = decode_server_packet(version, &bytes[at..]).expect("a packet") {
            at += size;
            packets.push(packet);
        }
        packets
    }

    /// How many records were put, and how many removed.
    fn recorded(&mut self) -> (usize, usize) {
        let puts = self.records.iter().filter(|(_, put)| *put).count();
        let removals = self.records.len() - puts;
        self.records.clear();
        (puts, removals)
    }
}

fn publish(qos: u8, retain: bool, id: u16, payload: &[u8]) -> Packet {
    let id = (qos > 0).then_some(id);
    let topic = "t".to_owned();
    Packet::Publish(Publish { dup: false, qos, retain, topic, id, properties: Vec::new(), payload: payload.to_vec() })
}

fn ack(id: u16) -> Packet {
    Packet::Ack(Ack { packet_type: 4, id, code: 0, properties: Vec::new() })
}

const V3: Version = Version::V3_1_1;
const V5: Version = Version::V5;

fn subscribe(broker: &mut Broker, link: LinkId, version: Version) {
    let filters = vec![("t".to_owned(), 1)];
    broker.send(link, version, &Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(broker.receive(link, version)[..], [Packet::SubAck { .. }]));
}

#[test]
fn a_3x_client_publishes_when_there_is_room_and_goes_on_otherwise() {
    let mut broker = Broker::new();
    // The publisher is also the subscriber that fetches what is on the disk.
    let both = broker.connect(V3, "both");
    subscribe(&mut broker, both, V3);
    broker.send(both, V3, &publish(1, false, 1, b"before"));
    let received = broker.receive(both, V3);
    let [Packet::Publish(before), Packet::Ack(_)] = &received[..] else { panic!("{received:?}") };
    broker.recorded();
    broker.set_full(true);
    for id in 2..=50 {
        broker.send(both, V3, &publish(1, false, id, &id.to_be_bytes()));
    }
    broker.send(both, V3, &Packet::PingReq);
    broker.send(both, V3, &ack(before.id.unwrap()));
    assert!(matches!(broker.receive(both, V3)[..], [Packet::PingResp]), "no publish is taken");
    assert_eq!(broker.recorded(), (0, 1), "its acknowledgement frees space");
    broker.set_full(false);
    let received = broker.receive(both, V3);
    let acknowledged: Vec<u16> =
        received.iter().filter_map(|packet| if let Packet::Ack(ack) = packet { Some(ack.id) } else { None }).collect();
    let delivered: Vec<&[u8]> = received
        .iter()
        .filter_map(|packet| if let Packet::Publish(publish) = packet { Some(&publish.payload[..]) } else { None })
        .collect();
    assert_eq!(acknowledged, (2..=50).collect::<Vec<u16>>());
    assert_eq!(delivered, (2..=50_u16).map(u16::to_be_bytes).collect::<Vec<_>>(), "in the order in which they came");
}

#[test]
fn a_3x_client_that_sends_much_to_a_full_disk_is_not_read_until_there_is_room() {
    let mut broker = Broker::new();
    let subscriber = broker.connect(V5, "subscriber");
    subscribe(&mut broker, subscriber, V5);
    let publisher = broker.connect(V3, "publisher");
    broker.set_full(true);
    for id in 1..=100 {
        broker.send(publisher, V3, &publish(1, false, id, &[0; 4_000]));
    }
    broker.send(publisher, V3, &Packet::PingReq);
    assert!(broker.receive(publisher, V3).is_empty(), "it is not read");
    broker.set_full(false);
    let received = broker.receive(publisher, V3);
    assert_eq!(received.len(), 101, "all are acknowledged, and the ping is answered");
    // The publishes of a client that leaves meanwhile are dropped: none was acknowledged.
    broker.receive(subscriber, V5);
    broker.set_full(true);
    broker.send(publisher, V3, &publish(1, false, 1, b"gone"));
    broker.node.close(publisher);
    broker.set_full(false);
    assert!(broker.receive(subscriber, V5).is_empty());
}

#[test]
fn what_adds_nothing_passes_a_full_disk() {
    let mut broker = Broker::new();
    let client = broker.connect(V5, "client");
    broker.send(client, V5, &publish(1, true, 1, b"kept"));
    broker.receive(client, V5);
    broker.recorded();
    broker.set_full(true);
    // QoS 0 gets no answer, and is not kept.
    broker.send(client, V5, &publish(0, true, 1, b"not kept"));
    broker.send(client, V5, &publish(1, true, 2, b"not kept"));
    broker.send(client, V5, &publish(1, false, 3, b"not to be stored"));
    let codes: Vec<u8> = broker
        .receive(client, V5)
        .iter()
        .map(|packet| if let Packet::Ack(ack) = packet { ack.code } else { panic!("{packet:?}") })
        .collect();
    assert_eq!((codes, broker.recorded()), (vec![0x97, 0], (0, 0)));
    // An empty payload removes what is retained.
    broker.send(client, V5, &publish(1, true, 4, b""));
    assert!(matches!(&broker.receive(client, V5)[..], [Packet::Ack(ack)] if ack.code == 0));
    assert_eq!(broker.recorded(), (0, 1));
}

/// Publishes until it is refused; answers with the numbers that were acknowledged.
fn fill(broker: &DurableBroker, first: u32) -> Vec<u32> {
    let mut publisher = Client::connect(broker, "publisher");
    (first..).take_while(|number| publisher.publish(*number) == 0).collect()
}

/// Fetches the messages that have these numbers.
fn fetch(subscriber: &mut Client, numbers: &[u32]) {
    let mut missing: BTreeSet<u32> = numbers.iter().copied().collect();
    while !missing.is_empty() {
        match subscriber.receive() {
            Packet::Publish(publish) => {
                missing.remove(&u32::from_be_bytes(publish.payload[..4].try_into().unwrap()));
                subscriber.send(&ack(publish.id.unwrap()));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_disk_that_the_store_fills_has_room_again_once_messages_are_fetched() {
    for (shards, restarts) in [(1, false), (1, true), (2, false), (2, true)] {
        let Some((mut broker, mounted)) = on_small_disk("4m", shards) else { return };
        broker.run_until_ready();
        let mut subscriber = Client::connect(&broker, "offline");
        let filters = vec![("t".to_owned(), 1)];
        subscriber.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
        assert!(matches!(subscriber.receive(), Packet::SubAck { .. }));
        drop(subscriber);
        let mut next = 0;
        for cycle in 0..3 {
            let acknowledged = fill(&broker, next);
            next += acknowledged.len() as u32 + 1;
            println!("{shards} shards, restarts: {restarts}: {} messages fill the disk", acknowledged.len());
            assert!(cycle > 0 || acknowledged.len() > 600, "{}\n{}", acknowledged.len(), broker.log());
            if restarts {
                broker.stop();
                broker.run_until_ready();
            }
            let mut subscriber = Client::connect(&broker, "offline");
            fetch(&mut subscriber, &acknowledged[..acknowledged.len() / 2]);
            broker.until("there is room again", || Client::connect(&broker, "asks").publish(next) == 0);
            let rest: Vec<u32> = acknowledged[acknowledged.len() / 2..].iter().copied().chain([next]).collect();
            next += 1;
            fetch(&mut subscriber, &rest);
        }
        broker.kill();
        broker.run_until_ready();
        broker.stop();
        drop(mounted);
    }
}

#[test]
fn a_disk_too_small_for_the_store_is_refused() {
    let Some((broker, _mounted)) = on_small_disk("256k", 1) else { return };
    let said = refused(&broker);
    assert!(
        said.contains("data/store: the file system has 262144 bytes, but the store needs at least 524288"),
        "{said}"
    );
}

#[test]
fn inspect_tells_damage_and_fails() {
    let mut broker = DurableBroker::start(1, "");
    Client::connect(&broker, "kept");
    broker.stop();
    let inspect = || {
        let output = weir::command().args(["store", "inspect"]).arg(broker.data()).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = inspect();
    assert_eq!(code, Some(0), "{said}");
    let file = broker.data().join("store/000000000001.log");
    let bytes = std::fs::read(&file).unwrap();
    // The salt, and a header of zeros.
    for range in [13..14, 0..20] {
        let mut harmed = bytes.clone();
        harmed[range.clone()].iter_mut().for_each(|byte| *byte = if range.len() == 1 { *byte ^ 1 } else { 0 });
        std::fs::write(&file, &harmed).unwrap();
        let (code, said) = inspect();
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains("file 1 is damaged in its header") && said.contains("restore a backup"), "{said}");
        assert_eq!(std::fs::read(&file).unwrap(), harmed, "it is left as it is");
    }
}
