//! While the disk is full, connections are answered what can be answered; cores in memory, and a real broker on a small
//! disk.

use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy, RecordBatch, Recording, ShardId, StoreAck, home_shard};

use super::small_disk::{Client, mount, on_small_disk};
use crate::node::{LinkId, Node, policy};
use crate::wire::{Connect, Packet, PropertyValue, Publish, Version, decode_server_packet, packet_type};

const QUOTA_EXCEEDED: u8 = 0x97;

/// Cores whose disk is full now and then.
struct Broker {
    node: Node,
    policy: Arc<EndpointPolicy>,
    full: bool,
    waiting: Vec<(usize, RecordBatch)>,
}

/// A connection's answers in short.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Connack,
    Pong,
    Puback(u16, u8),
    Pubrec(u16, u8),
    Suback(u16),
    Message(String),
}

impl Broker {
    fn new(shards: u16) -> Self {
        let mut node = Node::new(shards);
        for core in &mut node.cores {
            core.start_recording(Recording { next_id: 1, epoch_unix_ms: 0 });
        }
        let limits = EndpointLimits { durability: weir_broker::Durability::Disk, ..EndpointLimits::default() };
        Self { node, policy: policy(1, limits), full: false, waiting: Vec::new() }
    }

    fn settle(&mut self) {
        for _ in 0..4 {
            self.node.settle();
            let records = self.node.take_records();
            self.waiting.extend(records.into_iter().map(|(shard, batch)| (usize::from(shard.0), batch)));
            if !self.full {
                for (shard, batch) in self.waiting.drain(..) {
                    self.node.cores[shard].on_store_ack(StoreAck::UpTo(batch.number), self.node.now);
                }
            }
        }
        self.node.settle();
    }

    /// The disk is full from now on, which was not known when the records so far were handed over.
    fn set_full(&mut self, full: bool) {
        self.full = full;
        self.settle();
        for core in &mut self.node.cores {
            core.on_store_ack(StoreAck::Full(full), self.node.now);
        }
        self.settle();
    }

    /// A client whose session ends with its connection.
    fn connect(&mut self, name: &str, version: Version) -> LinkId {
        self.open(name, version, true)
    }

    fn open(&mut self, name: &str, version: Version, clean: bool) -> LinkId {
        let link = self.node.open(Arc::clone(&self.policy));
        let expiry = (0x11, PropertyValue::Number(1000));
        let connect = Connect {
            version,
            clean,
            keep_alive_s: 0,
            client_id: name.to_owned(),
            username: None,
            password: None,
            will: None,
            properties: if version.is_v5() && !clean { vec![expiry] } else { Vec::new() },
        };
        self.send(link, version, &Packet::Connect(connect));
        link
    }

    fn send(&mut self, link: LinkId, version: Version, packet: &Packet) {
        self.node.send(link, &packet.encode(version));
        self.settle();
    }

    fn publish(&mut self, link: LinkId, version: Version, topic: &str, (id, qos): (u16, u8)) {
        let (topic, payload) = (topic.to_owned(), b"x".to_vec());
        let publish = Publish { dup: false, qos, retain: false, topic, id: Some(id), properties: Vec::new(), payload };
        self.send(link, version, &Packet::Publish(publish));
    }

    fn subscribe(&mut self, link: LinkId, version: Version, filter: &str, qos: u8) {
        let filters = vec![(filter.to_owned(), qos)];
        self.send(link, version, &Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    }

    fn answers(&mut self, link: LinkId, version: Version) -> Vec<Answer> {
        let (bytes, mut at, mut answers) = (self.node.take_output(link), 0, Vec::new());
        while let Some((packet, size)) = decode_server_packet(version, &bytes[at..]).expect("a packet") {
            at += size;
            answers.push(match packet {
                Packet::ConnAck { .. } => Answer::Connack,
                Packet::PingResp => Answer::Pong,
                Packet::Ack(ack) if ack.packet_type == packet_type::PUBACK => Answer::Puback(ack.id, ack.code),
                Packet::Ack(ack) if ack.packet_type == packet_type::PUBREC => Answer::Pubrec(ack.id, ack.code),
                Packet::SubAck { id, .. } => Answer::Suback(id),
                Packet::Publish(publish) => Answer::Message(publish.topic),
                other => panic!("{other:?}"),
            });
        }
        assert_eq!(at, bytes.len(), "whole packets");
        answers
    }

    /// Sends a packet; returns the answers that come at once.
    fn request(&mut self, link: LinkId, version: Version, packet: &Packet) -> Vec<Answer> {
        self.send(link, version, packet);
        self.answers(link, version)
    }

    /// A durable session that wants everything below `t/`, and a publisher; on several shards, not on the same.
    fn connect_pair(&mut self, version: Version) -> (LinkId, LinkId) {
        let shards = self.node.cores.len() as u16;
        let subscriber = self.open("subscriber", Version::V5, false);
        self.subscribe(subscriber, Version::V5, "t/#", 2);
        let home = |name: &String| home_shard("", name, shards);
        let elsewhere = |name: &String| shards == 1 || home(name) != home(&"subscriber".to_owned());
        let name = (0..).map(|n| format!("publisher {n}")).find(elsewhere).expect("a name");
        let publisher = self.connect(&name, version);
        self.settle();
        self.answers(subscriber, Version::V5);
        self.answers(publisher, version);
        (subscriber, publisher)
    }
}

#[test]
fn a_publisher_of_5_0_is_refused_and_served_on_when_its_message_meets_a_full_disk() {
    const V5: Version = Version::V5;
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let (subscriber, publisher) = broker.connect_pair(V5);
        broker.full = true;
        for id in 1..=2 {
            broker.publish(publisher, V5, "t/1", (id, 1));
        }
        assert_eq!(broker.answers(publisher, V5), []);
        broker.set_full(true);
        let refused = |id| Answer::Puback(id, QUOTA_EXCEEDED);
        assert_eq!(broker.answers(publisher, V5), [refused(1), refused(2)], "{shards} shards");
        broker.publish(publisher, V5, "t/1", (3, 1));
        assert_eq!(broker.answers(publisher, V5), [refused(3)]);
        broker.publish(publisher, V5, "t/1", (4, 2));
        assert_eq!(broker.answers(publisher, V5), [Answer::Pubrec(4, QUOTA_EXCEEDED)]);
        assert_eq!(broker.request(publisher, V5, &Packet::PingReq), [Answer::Pong]);
        broker.subscribe(publisher, V5, "free", 1);
        assert_eq!(broker.answers(publisher, V5), [Answer::Suback(1)]);
        broker.publish(publisher, V5, "free", (5, 1));
        assert_eq!(broker.answers(publisher, V5), [Answer::Message("free".to_owned()), Answer::Puback(5, 0)]);
        broker.set_full(false);
        assert_eq!(broker.answers(publisher, V5), [], "each is answered once");
        broker.publish(publisher, V5, "t/2", (6, 1));
        assert_eq!(broker.answers(publisher, V5), [Answer::Puback(6, 0)]);
        assert_eq!(broker.answers(subscriber, V5).last(), Some(&Answer::Message("t/2".to_owned())));
    }
}

/// Were it refused, its publisher could send it again as another one, and it would come twice.
#[test]
fn a_qos_2_message_that_was_taken_waits_for_room_and_nothing_waits_for_it() {
    const V5: Version = Version::V5;
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let (subscriber, publisher) = broker.connect_pair(V5);
        broker.full = true;
        broker.publish(publisher, V5, "t/1", (1, 2));
        broker.set_full(true);
        assert_eq!(broker.answers(publisher, V5), []);
        assert_eq!(broker.request(publisher, V5, &Packet::PingReq), [Answer::Pong]);
        broker.publish(publisher, V5, "t/1", (2, 2));
        assert_eq!(broker.answers(publisher, V5), [Answer::Pubrec(2, QUOTA_EXCEEDED)]);
        broker.publish(publisher, V5, "t/1", (3, 1));
        assert_eq!(broker.answers(publisher, V5), [Answer::Puback(3, QUOTA_EXCEEDED)]);
        broker.publish(publisher, V5, "free", (4, 2));
        assert_eq!(broker.answers(publisher, V5), [Answer::Pubrec(4, 0)]);
        // Its receiver is not to see it before it is on disk, but is not left alone either.
        assert_eq!(broker.answers(subscriber, V5), []);
        assert_eq!(broker.request(subscriber, V5, &Packet::PingReq), [Answer::Pong]);
        broker.set_full(false);
        assert_eq!(broker.answers(publisher, V5), [Answer::Pubrec(1, 0)]);
        assert_eq!(broker.answers(subscriber, V5), [Answer::Message("t/1".to_owned())]);
    }
}

#[test]
fn a_publisher_of_3_1_1_waits_for_room_and_is_served_meanwhile() {
    const V3: Version = Version::V3_1_1;
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let (_, publisher) = broker.connect_pair(V3);
        broker.full = true;
        broker.publish(publisher, V3, "t/1", (1, 1));
        broker.set_full(true);
        broker.publish(publisher, V3, "t/1", (2, 1));
        assert_eq!(broker.request(publisher, V3, &Packet::PingReq), [Answer::Pong]);
        // One without a subscriber stays in their order [MQTT-4.6.0-2].
        broker.publish(publisher, V3, "free", (3, 1));
        assert_eq!(broker.answers(publisher, V3), []);
        broker.set_full(false);
        assert_eq!(broker.answers(publisher, V3), [Answer::Puback(1, 0), Answer::Puback(2, 0), Answer::Puback(3, 0)]);
    }
}

#[test]
fn nothing_goes_out_before_connack() {
    const V5: Version = Version::V5;
    let mut broker = Broker::new(1);
    let (_, _) = broker.connect_pair(V5);
    broker.set_full(true);
    let link = broker.open("new", V5, false);
    assert_eq!(broker.request(link, V5, &Packet::PingReq), []);
    broker.publish(link, V5, "t/1", (1, 1));
    assert_eq!(broker.answers(link, V5), []);
    broker.set_full(false);
    assert_eq!(broker.answers(link, V5), [Answer::Connack, Answer::Pong, Answer::Puback(1, QUOTA_EXCEEDED)]);
}

/// More than may wait for the disk.
#[test]
fn publishers_that_are_not_read_for_the_disk_are_read_again_to_be_refused() {
    const V5: Version = Version::V5;
    for shards in [1, 2] {
        let mut broker = Broker::new(shards);
        let (_, publisher) = broker.connect_pair(V5);
        broker.full = true;
        for id in 1..=50 {
            let (topic, payload) = ("t/1".to_owned(), vec![0; 1_000_000]);
            let properties = Vec::new();
            let publish = Publish { dup: false, qos: 1, retain: false, topic, id: Some(id), properties, payload };
            broker.send(publisher, V5, &Packet::Publish(publish));
        }
        assert_eq!(broker.request(publisher, V5, &Packet::PingReq), [], "it is not read");
        broker.set_full(true);
        let answers: Vec<Answer> =
            (1..=50).map(|id| Answer::Puback(id, QUOTA_EXCEEDED)).chain([Answer::Pong]).collect();
        assert_eq!(broker.answers(publisher, V5), answers, "{shards} shards");
    }
}

#[test]
fn a_connection_whose_message_meets_a_full_disk_is_served_on() {
    let Some((mut broker, mounted)) = on_small_disk("512k", 2) else { return };
    broker.run_until_ready();
    // The publisher's shard has no records of its own.
    let on = |shard: u16| move |name: &String| home_shard("", name, 2) == ShardId(shard);
    let offline = (0..).map(|n| format!("offline {n}")).find(on(0)).unwrap();
    let name = (0..).map(|n| format!("publisher {n}")).find(on(1)).unwrap();
    let mut subscriber = Client::connect(&broker, &offline);
    let filters = vec![("t".to_owned(), 1)];
    subscriber.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters });
    assert!(matches!(subscriber.receive(), Packet::SubAck { .. }));
    drop(subscriber);
    let mut publisher = Client::connect_with(&broker, &name, Vec::new());
    let taken = (0..1_000).take_while(|number| publisher.publish(*number) == 0).count();
    assert!((10..1_000).contains(&taken), "{taken}");
    assert_eq!(publisher.publish(1_000), QUOTA_EXCEEDED);
    publisher.send(&Packet::PingReq);
    assert_eq!(publisher.receive(), Packet::PingResp);
    assert!(mount(&["-o", "remount,size=16m"], &broker.data()));
    while publisher.publish(1_001) != 0 {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    broker.kill();
    drop(mounted);
}
