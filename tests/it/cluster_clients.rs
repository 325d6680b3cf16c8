//! Client identifiers over the nodes of a cluster.

use weir_broker::EndpointLimits;

use crate::broker_sim::rng::Rng;
use crate::node::{LinkId, Node, policy};
use crate::wire::{Connect, Packet, Version, decode_server_packet};
use weir_broker::WorkBudget;

fn connect(node: &mut Node, at: usize, clean: bool) -> LinkId {
    let link = node.open_at(at, policy(1, EndpointLimits::default()));
    let packet = Packet::Connect(Connect {
        version: Version::V5,
        clean,
        keep_alive_s: 0,
        client_id: "meter".to_owned(),
        username: None,
        password: None,
        will: None,
        properties: Vec::new(),
    });
    node.send(link, &packet.encode(Version::V5));
    link
}

/// The reason code of a DISCONNECT among what a client was sent.
fn disconnected_with(node: &mut Node, link: LinkId) -> Option<u8> {
    let (bytes, mut at) = (node.take_output(link), 0);
    while let Some((packet, size)) = decode_server_packet(Version::V5, &bytes[at..]).expect("well-formed") {
        at += size;
        if let Packet::Disconnect { code, .. } = packet {
            return Some(code);
        }
    }
    None
}

#[test]
fn a_client_that_connects_to_another_node_is_disconnected_from_the_first() {
    for shards in [1, 3] {
        let mut node = Node::cluster(3, shards, WorkBudget::default());
        let first = connect(&mut node, 0, true);
        node.settle();
        let second = connect(&mut node, 1, true);
        node.settle();
        assert_eq!(disconnected_with(&mut node, first), Some(0x8E), "{shards} shards");
        assert!(node.is_closed(first) && !node.is_closed(second), "{shards} shards");
        // And back again: the older node hears of a newer connection, not of its own.
        let third = connect(&mut node, 0, false);
        node.settle();
        assert!(node.is_closed(second) && !node.is_closed(third), "{shards} shards");
    }
}

#[test]
fn of_connections_at_the_same_time_exactly_one_remains_whatever_arrives_first() {
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut node = Node::cluster(3, 2, WorkBudget::default());
        let links: Vec<LinkId> = (0..3)
            .map(|at| {
                let link = connect(&mut node, at, true);
                (0..rng.below(4)).for_each(|_| {
                    node.step(|count| rng.below(count));
                });
                link
            })
            .collect();
        while node.step(|count| rng.below(count)) {}
        node.settle();
        let open = links.iter().filter(|link| !node.is_closed(**link)).count();
        assert_eq!(open, 1, "seed {seed}");
    }
}
