//! Messages between nodes: every QoS, their order, SUBACK, namespaces, `$SYS`.

use std::collections::BTreeMap;

use super::nodes::Nodes;
use super::traffic::{Message, collect, collect_until_ping, number, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::seeded_random::SeededRandom;
use crate::support::client::Client;
use crate::support::until;
use crate::wire::Version;

const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];
const EACH: usize = 20;

#[test]
fn every_qos_from_every_node_reaches_every_node_once_and_in_order() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start_on(Nats::three(), 3);
    let mut subscribers = Vec::new();
    for node in &cluster.nodes {
        for version in VERSIONS {
            for qos in 0..=2 {
                let mut client = node.client(version, &format!("sub-{}-{qos}", version.name()));
                client.subscribe("from/#", qos);
                subscribers.push((client, qos));
            }
        }
    }
    for node in &cluster.nodes {
        for version in VERSIONS {
            let mut publisher = node.client(version, &format!("pub-{}", version.name()));
            for qos in 0..=2 {
                let topic = format!("from/{}/{}/{qos}", node.name, version.name());
                let messages: Vec<Message> =
                    (0..EACH).map(|number| Message::new(&topic, number.to_string(), qos)).collect();
                publish_all(&mut publisher, &messages);
            }
        }
    }
    for (subscriber, granted) in &mut subscribers {
        let received = collect(subscriber, 3 * VERSIONS.len() * 3 * EACH);
        let mut by_topic: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for publish in &received {
            let qos: u8 = publish.topic.rsplit('/').next().unwrap().parse().unwrap();
            assert_eq!(publish.qos, qos.min(*granted), "{}", publish.topic);
            assert!(!publish.retain && !publish.dup);
            by_topic.entry(publish.topic.clone()).or_default().push(number(publish));
        }
        assert_eq!(by_topic.len(), 3 * VERSIONS.len() * 3);
        for (topic, numbers) in by_topic {
            assert!(numbers.iter().copied().eq(0..EACH), "{topic}: {numbers:?}");
        }
        assert_eq!(collect_until_ping(subscriber), []);
    }
}

#[test]
fn a_publisher_that_mixes_retained_and_other_messages_of_a_topic_keeps_their_order() {
    if !nats::is_there() {
        return;
    }
    const COUNT: usize = 300;
    let cluster = Nodes::start(3);
    let mut random = SeededRandom::new(7);
    for qos in 0..=2 {
        let topic = format!("mixed/{qos}");
        let subscribe = |node: &super::nodes::Node| {
            let mut client = node.client(Version::V5, &format!("sub-{qos}"));
            client.subscribe(&topic, 2);
            client
        };
        let mut subscribers: Vec<Client> = cluster.nodes.iter().map(subscribe).collect();
        let messages: Vec<Message> = (0..COUNT)
            .map(|number| Message { retain: random.one_in(3), ..Message::new(&topic, number.to_string(), qos) })
            .collect();
        let mut publisher = cluster.nodes[qos as usize].client(Version::V3_1_1, "publisher");
        publish_all(&mut publisher, &messages);
        for (subscriber, node) in subscribers.iter_mut().zip(&cluster.nodes) {
            let numbers: Vec<usize> = collect(subscriber, COUNT).iter().map(number).collect();
            assert!(numbers.iter().copied().eq(0..COUNT), "QoS {qos}, {}: {numbers:?}", node.name);
        }
    }
}

#[test]
fn a_message_published_on_another_node_right_after_suback_is_delivered() {
    if !nats::is_there() {
        return;
    }
    const ROUNDS: usize = 200;
    let cluster = Nodes::start(3);
    let mut clients: Vec<(Client, Client)> = cluster
        .nodes
        .iter()
        .map(|node| (node.client(Version::V5, "subscriber"), node.client(Version::V3_1_1, "publisher")))
        .collect();
    for round in 0..ROUNDS {
        let topic = format!("new/{round}");
        let (subscriber, publisher) = (round % 3, (round / 3 + 1) % 3);
        clients[subscriber].0.subscribe(&topic, 1);
        publish_all(&mut clients[publisher].1, &[Message::new(&topic, "x", (round % 2) as u8)]);
        let received = collect(&mut clients[subscriber].0, 1);
        assert_eq!(received[0].topic, topic);
    }
}

#[test]
fn a_filter_that_is_unsubscribed_and_subscribed_again_on_other_nodes_delivers_to_the_last_one() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(2);
    let mut publisher = cluster.nodes[0].client(Version::V5, "publisher");
    for round in 0..30 {
        // The client of the round before is gone: its interest goes while this one's comes.
        let mut subscriber = cluster.nodes[1].client(Version::V5, &format!("subscriber-{round}"));
        subscriber.subscribe("again/+", 1);
        publish_all(&mut publisher, &[Message::new("again/x", round.to_string(), 1)]);
        assert_eq!(number(&collect(&mut subscriber, 1)[0]), round);
    }
}

#[test]
fn mountpoints_keep_topics_apart_on_all_nodes() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(2);
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    let mut shared = second.client(Version::V5, "shared");
    let mut apart = Client::connect(second.apart, Version::V5, "apart");
    for client in [&mut shared, &mut apart] {
        client.subscribe("room/#", 1);
    }
    publish_all(
        &mut first.client(Version::V5, "in-shared"),
        &[Message::new("room/a", "1", 1), Message::retained("room/kept", "1", 1)],
    );
    publish_all(
        &mut Client::connect(first.apart, Version::V5, "in-apart"),
        &[Message::new("room/a", "2", 1), Message::retained("room/kept", "2", 1)],
    );
    for (client, expected) in [(&mut shared, 1), (&mut apart, 2)] {
        let received = collect(client, 2);
        assert_eq!(received.iter().map(number).collect::<Vec<_>>(), [expected; 2]);
        assert_eq!(received.iter().map(|publish| publish.topic.as_str()).collect::<Vec<_>>(), ["room/a", "room/kept"]);
        assert_eq!(collect_until_ping(client), []);
    }
    for (address, expected) in [(second.address, 1), (second.apart, 2)] {
        let mut late = Client::connect(address, Version::V5, &format!("late-{}", address.port()));
        late.subscribe("#", 1);
        assert_eq!(collect(&mut late, 1).iter().map(number).collect::<Vec<_>>(), [expected]);
        assert_eq!(collect_until_ping(&mut late), []);
    }
}

#[test]
fn sys_topics_are_those_of_the_node() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(2);
    let [first, second] = [&cluster.nodes[0], &cluster.nodes[1]];
    let _others: Vec<Client> = (0..5).map(|number| first.client(Version::V5, &format!("c{number}"))).collect();
    let connected = |node: &super::nodes::Node| {
        let mut client = node.client(Version::V5, "reader");
        client.subscribe("$SYS/broker/clients/connected", 0);
        collect_until_ping(&mut client).first().map(number)
    };
    let log = || format!("{}\n{}", first.weir.log(), second.weir.log());
    until("$SYS counts the clients of its node", log, || {
        connected(first).is_some_and(|count| count >= 5) && connected(second).is_some_and(|count| count <= 1)
    });
    // Each value comes from one node: the next one of the topic is of the same node.
    let mut reader = second.client(Version::V5, "watcher");
    reader.subscribe("$SYS/broker/clients/connected", 0);
    for publish in collect(&mut reader, 3) {
        // Readers from above may still be counted; the other node has 5 clients at least.
        assert!(number(&publish) < 5, "{publish:?}");
    }
}
