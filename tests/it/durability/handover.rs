//! A message that goes from one shard to another is there once after a crash, whichever of their disks was ahead.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy, RecordKey, Recording, ShardId, StoreAck, StoredRecords, home_shard};

use crate::node::{LinkId, Node, policy};
use crate::wire::{Connect, Packet, PropertyValue, Publish, Version, Will, decode_server_packet};

const V5: Version = Version::V5;
const SHARDS: u16 = 2;

struct Broker {
    node: Node,
    disk: BTreeMap<RecordKey, Box<[u8]>>,
    policy: Arc<EndpointPolicy>,
}

impl Broker {
    fn new() -> Self {
        let policy =
            policy(1, EndpointLimits { durability: weir_broker::Durability::Disk, ..EndpointLimits::default() });
        let mut broker = Self { node: Node::new(SHARDS), disk: BTreeMap::new(), policy };
        broker.restart();
        broker
    }

    /// A process begins with what is on the disk; nothing that is due is done yet.
    fn start(&mut self) {
        self.node = Node::new(SHARDS);
        self.node.ends_turns_apart = true;
        let stored = StoredRecords::new(self.disk.iter().map(|(key, value)| (*key, value.clone())).collect());
        let now = self.node.now;
        for core in &mut self.node.cores {
            core.start_recording(Recording { next_id: stored.next_id(), epoch_unix_ms: 0 });
            core.restore(&stored, now).expect("its own records");
        }
        self.node.settle();
    }

    fn restart(&mut self) {
        self.start();
        self.node.advance(0);
        self.settle();
    }

    /// Everything arrives and is on disk.
    fn settle(&mut self) {
        for _ in 0..6 {
            self.node.settle();
            self.commit([true; SHARDS as usize]);
        }
    }

    /// A turn of each shard ends; the records of some are on disk.
    fn commit(&mut self, shards: [bool; SHARDS as usize]) {
        let now = self.node.now;
        for (shard, is_stored) in shards.into_iter().enumerate() {
            for batch in self.node.end_turn(shard).into_iter().filter(|_| is_stored) {
                for (key, value) in batch.records() {
                    match value {
                        Some(value) => self.disk.insert(key, value.into()),
                        None => self.disk.remove(&key),
                    };
                }
                self.node.cores[shard].on_store_ack(StoreAck::UpTo(batch.number), now);
            }
        }
    }

    fn connect(&mut self, name: &str, will: Option<Will>) -> LinkId {
        let link = self.node.open(Arc::clone(&self.policy));
        let connect = Connect {
            version: V5,
            clean: false,
            keep_alive_s: 0,
            client_id: name.to_owned(),
            username: None,
            password: None,
            will,
            properties: vec![(0x11, PropertyValue::Number(u32::MAX))],
        };
        self.send(link, &Packet::Connect(connect));
        link
    }

    fn send(&mut self, link: LinkId, packet: &Packet) {
        self.node.send(link, &packet.encode(V5));
        self.settle();
    }

    fn subscribe_and_leave(&mut self, name: &str, filter: &str) {
        let link = self.connect(name, None);
        let filters = vec![(filter.to_owned(), 2)];
        self.send(link, &Packet::Subscribe { id: 1, properties: Vec::new(), filters });
        self.node.close(link);
    }

    /// The messages that a client finds when it comes back.
    fn messages(&mut self, name: &str) -> usize {
        let link = self.connect(name, None);
        let (bytes, mut at, mut count) = (self.node.take_output(link), 0, 0);
        while let Some((packet, size)) = decode_server_packet(V5, &bytes[at..]).expect("a packet") {
            at += size;
            count += usize::from(matches!(packet, Packet::Publish(_)));
        }
        count
    }
}

/// A client at home on a shard.
fn at_home(shard: u16, what: &str) -> String {
    let is_there = |name: &String| home_shard("", name, SHARDS) == ShardId(shard);
    (0..).map(|n| format!("{what} {n}")).find(is_there).expect("a name")
}

/// What of the turn reached the disk, by shard.
const CUTS: [[bool; SHARDS as usize]; 4] = [[false, false], [true, false], [false, true], [true, true]];

#[test]
fn a_will_is_published_once_whichever_disk_is_ahead() {
    for (qos, stored) in [1, 2].into_iter().flat_map(|qos| CUTS.map(|stored| (qos, stored))) {
        let mut broker = Broker::new();
        let (here, elsewhere, will_client) = (at_home(0, "here"), at_home(1, "there"), at_home(0, "will client"));
        [&here, &elsewhere].into_iter().for_each(|name| broker.subscribe_and_leave(name, "will"));
        let (topic, payload, properties) = ("will".to_owned(), b"x".to_vec(), Vec::new());
        let link = broker.connect(&will_client, Some(Will { topic, payload, qos, retain: false, properties }));
        broker.settle();
        broker.node.close(link);
        broker.node.settle();
        broker.commit(stored);
        broker.restart();
        broker.restart();
        let found = [broker.messages(&here), broker.messages(&elsewhere)];
        assert_eq!(found, [1, 1], "QoS {qos}, on disk {stored:?}");
    }
}

#[test]
fn a_will_is_published_though_its_client_is_back_before_the_broker_came_to_it() {
    let mut broker = Broker::new();
    let (here, elsewhere, will_client) = (at_home(0, "here"), at_home(1, "there"), at_home(0, "will client"));
    [&here, &elsewhere].into_iter().for_each(|name| broker.subscribe_and_leave(name, "will"));
    let (topic, payload, properties) = ("will".to_owned(), b"x".to_vec(), Vec::new());
    broker.connect(&will_client, Some(Will { topic, payload, qos: 1, retain: false, properties }));
    broker.settle();
    broker.start();
    broker.connect(&will_client, None);
    assert_eq!([broker.messages(&here), broker.messages(&elsewhere)], [1, 1]);
}

/// The member's session ends; the other one, elsewhere, gets what it had not acknowledged.
#[test]
fn a_returned_message_of_a_group_is_there_once_whichever_disk_is_ahead() {
    for (leaves, stays) in [(0, 1), (1, 0)] {
        for (filter, stored) in ["$share/a/t", "$share/b/t"].into_iter().flat_map(|f| CUTS.map(|stored| (f, stored))) {
            let mut broker = Broker::new();
            let (leaves, stays) = (at_home(leaves, "leaves"), at_home(stays, "stays"));
            let publisher = broker.connect("publisher", None);
            broker.subscribe_and_leave(&leaves, filter);
            let publish = Publish {
                dup: false,
                qos: 2,
                retain: false,
                topic: "t".to_owned(),
                id: Some(1),
                properties: Vec::new(),
                payload: b"x".to_vec(),
            };
            broker.send(publisher, &Packet::Publish(publish));
            broker.subscribe_and_leave(&stays, filter);
            broker.settle();
            // It comes back for a new session.
            let link = broker.node.open(Arc::clone(&broker.policy));
            let connect = Connect {
                version: V5,
                clean: true,
                keep_alive_s: 0,
                client_id: leaves.clone(),
                username: None,
                password: None,
                will: None,
                properties: Vec::new(),
            };
            broker.node.send(link, &Packet::Connect(connect).encode(V5));
            for _ in 0..4 {
                broker.node.settle();
                broker.commit(stored);
            }
            broker.restart();
            broker.restart();
            let found = broker.messages(&stays) + broker.messages(&leaves);
            assert_eq!(found, 1, "{filter}, on disk {stored:?}");
        }
    }
}
