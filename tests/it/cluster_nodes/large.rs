//! Payloads that need more than one envelope.

use super::nodes::Nodes;
use super::traffic::{Message, collect, publish_all};
use crate::cluster_engine::nats;
use crate::support::client::Client;
use crate::wire::Version;

/// A payload whose every part is different.
fn payload(bytes: usize, salt: u8) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at / 65_536) as u8 ^ salt).collect()
}

#[test]
fn payloads_of_one_and_ten_mib_arrive_whole_on_other_nodes() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    let mut subscribers: Vec<Client> = cluster
        .nodes
        .iter()
        .map(|node| {
            let mut client = node.client(Version::V5, "subscriber");
            client.subscribe("large/#", 2);
            client
        })
        .collect();
    let mut publisher = cluster.nodes[1].client(Version::V3_1_1, "publisher");
    let sizes = [1 << 20, 10 << 20, 1 << 20];
    let messages: Vec<Message> = sizes
        .iter()
        .enumerate()
        .map(|(number, size)| Message::new(&format!("large/{number}"), payload(*size, number as u8), number as u8))
        .collect();
    publish_all(&mut publisher, &messages);
    for subscriber in &mut subscribers {
        let received = collect(subscriber, messages.len());
        for (publish, message) in received.iter().zip(&messages) {
            assert_eq!(publish.topic, message.topic);
            assert!(publish.payload == message.payload, "{}: {} bytes", publish.topic, publish.payload.len());
        }
    }
}
