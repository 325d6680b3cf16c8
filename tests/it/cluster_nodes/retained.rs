//! Retained messages: the same ones on every node.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::nodes::{Node, Nodes};
use super::traffic::{Message, collect_until_ping, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::support::client::Client;
use crate::support::until;
use crate::wire::{Packet, PropertyValue, Version};

/// What a node has retained, by topic.
pub fn retained(address: SocketAddr) -> BTreeMap<String, Vec<u8>> {
    let mut client = Client::connect(address, Version::V5, &format!("retained-reader-{}", address.port()));
    client.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters: vec![("#".to_owned(), 0)] });
    let mut messages = BTreeMap::new();
    // Other clients' messages may come first; the SUBACK too.
    loop {
        match client.receive().expect("the broker closes the connection") {
            Packet::SubAck { .. } => break,
            Packet::Publish(publish) => {
                messages.insert(publish.topic, publish.payload);
            }
            other => panic!("{other:?}"),
        }
    }
    let rest = collect_until_ping(&mut client);
    messages.extend(rest.into_iter().map(|publish| (publish.topic, publish.payload)));
    messages
}

/// Waits until every node has retained exactly this.
fn until_equal(nodes: &[Node], expected: &BTreeMap<String, Vec<u8>>) {
    for node in nodes {
        let found = || format!("{}: {} of {}", node.name, retained(node.address).len(), expected.len());
        until("the node has retained what it should", found, || retained(node.address) == *expected);
    }
}

#[test]
fn every_node_has_the_same_retained_messages_and_a_node_that_joins_later_too() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start_on(Nats::three(), 2);
    let mut expected = BTreeMap::new();
    for (index, node) in cluster.nodes.iter().enumerate() {
        let mut messages = Vec::new();
        for number in 0..60 {
            // Some topics are written by both nodes.
            let topic = format!("kept/{}", number + index * 30);
            let payload = format!("{index}/{number}").into_bytes();
            messages.push(Message::retained(&topic, payload.clone(), (number % 3) as u8));
            messages.push(Message::retained(&format!("gone/{index}/{number}"), "x", 1));
            expected.insert(topic, payload);
        }
        for number in 0..60 {
            messages.push(Message::retained(&format!("gone/{index}/{number}"), "", 1));
        }
        publish_all(&mut node.client(Version::V3_1_1, "publisher"), &messages);
        // QoS 0 has no acknowledgement: the log has it when the node shows it.
        until_equal(std::slice::from_ref(node), &expected);
    }
    until_equal(&cluster.nodes, &expected);
    let mut late = Node::new("n3", &cluster.servers);
    late.start();
    // It serves clients only when it has the whole log.
    assert_eq!(retained(late.address), expected);
    // A removal on the new node reaches the others, and a restart finds what is there.
    let (first, _) = expected.pop_first().unwrap();
    publish_all(&mut late.client(Version::V5, "remover"), &[Message::retained(&first, "", 1)]);
    cluster.nodes.push(late);
    until_equal(&cluster.nodes, &expected);
    cluster.nodes[0].weir.kill();
    cluster.nodes[0].start();
    assert_eq!(retained(cluster.nodes[0].address), expected);
}

#[test]
fn the_cluster_keeps_what_is_retained_while_no_broker_runs() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(2);
    let expected = BTreeMap::from([("kept".to_owned(), b"value".to_vec())]);
    publish_all(
        &mut cluster.nodes[0].client(Version::V5, "publisher"),
        &[Message::retained("kept", "value", 1), Message::retained("gone", "x", 1), Message::retained("gone", "", 1)],
    );
    for node in &mut cluster.nodes {
        assert!(node.weir.stop().success());
    }
    for node in &mut cluster.nodes {
        node.start();
        assert_eq!(retained(node.address), expected);
    }
}

#[test]
fn an_expired_retained_message_is_gone_everywhere_also_for_a_node_that_joins_later() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(2);
    let mut publisher = cluster.nodes[0].client(Version::V5, "publisher");
    let message = Message::retained("brief", "x", 1);
    let Packet::Publish(mut publish) = message.packet(1) else { unreachable!() };
    publish.properties.push((0x02, PropertyValue::Number(10)));
    publisher.send(&Packet::Publish(publish));
    assert!(matches!(publisher.receive(), Some(Packet::Ack(_))));
    publish_all(&mut publisher, &[Message::retained("stays", "y", 1)]);
    for node in &cluster.nodes {
        until("the node has it", String::new, || retained(node.address).contains_key("brief"));
    }
    let expected = BTreeMap::from([("stays".to_owned(), b"y".to_vec())]);
    until_equal(&cluster.nodes, &expected);
    let mut late = Node::new("n3", &cluster.servers);
    late.start();
    assert_eq!(retained(late.address), expected);
    cluster.nodes.push(late);
}
