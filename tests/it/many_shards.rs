//! As many shards as `--shards` allows, and the bounds of sets that are kept in machine words: every message arrives on
//! every shard.

use std::collections::BTreeSet;

use weir_broker::{EndpointLimits, home_shard};
use weirmq::net::{DataPlane, DataPlaneConfig};

use crate::node::{LinkId, Node, policy};
use crate::process::Broker;
use crate::support::client::{Client, connect, publish};
use crate::wire::{Packet, Properties, Publish, Version, decode_server_packet};

const COUNTS: [u16; 4] = [64, 65, 128, 255];

/// A client id that begins with `prefix` and whose session lives on `shard`.
fn id_on(prefix: &str, shard: u16, shards: u16) -> String {
    let mut candidates = (0..).map(|salt| format!("{prefix}{salt}"));
    candidates.find(|id| home_shard("", id, shards).0 == shard).expect("some salt fits")
}

struct Scene {
    node: Node,
    shards: u16,
}

impl Scene {
    fn new(shards: u16) -> Self {
        Self { node: Node::new(shards), shards }
    }

    /// A client on each of `shards`, subscribed to `filter` with QoS 2. Its CONNACK and SUBACK are taken.
    fn subscribers(&mut self, prefix: &str, shards: impl Iterator<Item = u16>, filter: &str) -> Vec<LinkId> {
        let links: Vec<LinkId> = shards.map(|shard| self.enter(prefix, shard)).collect();
        for &link in &links {
            let filters = vec![(filter.to_owned(), 2)];
            self.send(link, &Packet::Subscribe { id: 1, properties: Properties::new(), filters });
        }
        links
    }

    fn enter(&mut self, prefix: &str, shard: u16) -> LinkId {
        let link = self.node.open(policy(1, EndpointLimits::default()));
        let id = id_on(prefix, shard, self.shards);
        self.send(link, &connect(Version::V3_1_1, &id, Properties::new()));
        link
    }

    fn send(&mut self, link: LinkId, packet: &Packet) {
        self.node.send(link, &packet.encode(Version::V3_1_1));
    }

    /// The messages that a client was sent: topic and QoS.
    fn messages(&mut self, link: LinkId) -> Vec<(String, u8)> {
        let (mut bytes, mut messages) = (self.node.take_output(link), Vec::new());
        while let Some((packet, size)) = decode_server_packet(Version::V3_1_1, &bytes).unwrap() {
            bytes.drain(..size);
            if let Packet::Publish(message) = packet {
                messages.push((message.topic, message.qos));
            }
        }
        messages
    }
}

fn retained(topic: &str, qos: u8, id: Option<u16>) -> Packet {
    let Packet::Publish(message) = publish(topic, b"kept", qos, id) else { panic!("PUBLISH") };
    Packet::Publish(Publish { retain: true, ..message })
}

/// The first, the last, and those beside the ends of words.
fn ends(shards: u16) -> impl Iterator<Item = u16> {
    [0, 63, 64, 127, 128, 191, 192, 254].into_iter().filter(move |shard| *shard < shards)
}

#[test]
fn every_message_arrives_on_every_shard() {
    for shards in COUNTS {
        let mut scene = Scene::new(shards);
        let subscribers = scene.subscribers("s", 0..shards, "t/#");
        let publishers: Vec<LinkId> = ends(shards).map(|shard| scene.enter("p", shard)).collect();
        scene.node.settle_in_rounds();
        let mut expected = BTreeSet::new();
        for (number, &publisher) in publishers.iter().enumerate() {
            for qos in 0..=2 {
                let topic = format!("t/{number}/{qos}");
                scene.send(publisher, &publish(&topic, b"m", qos, (qos > 0).then_some(u16::from(qos))));
                expected.insert((topic, qos));
            }
        }
        scene.node.settle_in_rounds();
        for (shard, link) in subscribers.into_iter().enumerate() {
            let messages = scene.messages(link);
            assert_eq!(messages.len(), expected.len(), "{shards} shards, shard {shard}");
            assert_eq!(messages.into_iter().collect::<BTreeSet<_>>(), expected, "{shards} shards, shard {shard}");
        }
    }
}

#[test]
fn a_shared_group_gets_each_message_once_whatever_shard_owns_it() {
    for shards in COUNTS {
        let mut scene = Scene::new(shards);
        // Groups enough that owners lie all over the shards, each with members on three of them.
        let groups = 40_u16;
        let members: Vec<Vec<LinkId>> = (0..groups)
            .map(|group| {
                let on = [group, shards / 2 + group, shards - 1 - group].map(|shard| shard % shards);
                scene.subscribers(&format!("m{group}x"), on.into_iter(), &format!("$share/g{group}/t/#"))
            })
            .collect();
        let publishers: Vec<LinkId> = ends(shards).map(|shard| scene.enter("p", shard)).collect();
        scene.node.settle_in_rounds();
        let mut expected = Vec::new();
        for (number, &publisher) in publishers.iter().enumerate() {
            for qos in 0..=2 {
                let topic = format!("t/{number}/{qos}");
                scene.send(publisher, &publish(&topic, b"m", qos, (qos > 0).then_some(u16::from(qos))));
                expected.push((topic, qos));
            }
        }
        expected.sort();
        scene.node.settle_in_rounds();
        for (group, members) in members.into_iter().enumerate() {
            let mut messages: Vec<_> = members.into_iter().flat_map(|link| scene.messages(link)).collect();
            messages.sort();
            assert_eq!(messages, expected, "{shards} shards, group {group}");
        }
    }
}

#[test]
fn retained_messages_of_every_owner_are_found_from_every_word_of_shards() {
    for shards in COUNTS {
        let mut scene = Scene::new(shards);
        let watchers = scene.subscribers("w", ends(shards), "r/#");
        let publisher = scene.enter("p", shards - 1);
        scene.node.settle_in_rounds();
        let topics: BTreeSet<String> = (0..3 * shards).map(|number| format!("r/{number}")).collect();
        for (topic, id) in topics.iter().zip(1..) {
            scene.send(publisher, &retained(topic, 1, Some(id)));
        }
        scene.node.settle_in_rounds();
        let late = scene.subscribers("l", ends(shards), "r/#");
        scene.node.settle_in_rounds();
        for link in watchers.into_iter().chain(late) {
            let messages = scene.messages(link);
            assert_eq!(messages.len(), topics.len(), "{shards} shards");
            assert_eq!(messages.into_iter().map(|(topic, _)| topic).collect::<BTreeSet<_>>(), topics);
        }
    }
}

#[test]
fn a_broker_of_65_shards_delivers_to_all_of_them() {
    const SHARDS: u16 = 65;
    let broker = Broker::start(SHARDS);
    let address = broker.address("default");
    let mut subscribers: Vec<Client> =
        (0..SHARDS).map(|shard| Client::connect(address, Version::V3_1_1, &id_on("s", shard, SHARDS))).collect();
    subscribers.iter_mut().for_each(|client| client.subscribe("t/#", 1));
    let mut publisher = Client::connect(address, Version::V3_1_1, &id_on("p", 64, SHARDS));
    for number in 0..10_u16 {
        publisher.send(&publish(&format!("t/{number}"), b"m", 1, Some(number + 1)));
        assert!(matches!(publisher.receive(), Some(Packet::Ack(_))));
    }
    for client in &mut subscribers {
        let received = (0..10).map(|_| match client.receive() {
            Some(Packet::Publish(message)) => message.topic,
            other => panic!("{other:?}"),
        });
        let expected: Vec<String> = (0..10).map(|number| format!("t/{number}")).collect();
        assert_eq!(received.collect::<Vec<_>>(), expected);
    }
}

#[test]
fn a_data_plane_with_more_shards_than_a_route_can_name_is_not_started() {
    for shards in [256, 1024, u16::MAX] {
        let config = DataPlaneConfig { shards, ..DataPlaneConfig::default() };
        let error = DataPlane::start(&config).err().expect("it is refused");
        assert_eq!(error.to_string(), format!("{shards} shards are too many: configure at most 255"));
    }
}
