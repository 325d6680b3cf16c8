//! Client identifiers over the nodes of a cluster.

use weir_broker::{Durability, EndpointLimits};

use crate::broker_sim::rng::Rng;
use crate::node::{LinkId, Node, policy};
use crate::wire::{
    Ack, Connect, Packet, Properties, PropertyValue, Publish, Version, decode_server_packet, packet_type,
};
use weir_broker::WorkBudget;

fn connect(node: &mut Node, at: usize, clean: bool) -> LinkId {
    connect_to(node, at, clean, Durability::Memory, 0)
}

/// Connects to an endpoint with that durability.
fn connect_to(node: &mut Node, at: usize, clean: bool, durability: Durability, expiry_s: u32) -> LinkId {
    let limits = EndpointLimits { durability, session_expiry_max_s: None, ..EndpointLimits::default() };
    let link = node.open_at(at, policy(1 + durability as u32, limits));
    let packet = Packet::Connect(Connect {
        version: Version::V5,
        clean,
        keep_alive_s: 0,
        client_id: "meter".to_owned(),
        username: None,
        password: None,
        will: None,
        properties: vec![(0x11, PropertyValue::Number(expiry_s))],
    });
    node.send(link, &packet.encode(Version::V5));
    link
}

/// What a client was sent.
fn packets(node: &mut Node, link: LinkId) -> Vec<Packet> {
    let (bytes, mut at, mut packets) = (node.take_output(link), 0, Vec::new());
    while let Some((packet, size)) = decode_server_packet(Version::V5, &bytes[at..]).expect("well-formed") {
        at += size;
        packets.push(packet);
    }
    packets
}

fn session_present(node: &mut Node, link: LinkId) -> bool {
    match packets(node, link).first() {
        Some(Packet::ConnAck { session_present, code: 0, .. }) => *session_present,
        other => panic!("CONNACK, not {other:?}"),
    }
}

fn send(node: &mut Node, link: LinkId, packet: &Packet) {
    node.send(link, &packet.encode(Version::V5));
    node.settle();
}

fn sessions(node: &Node) -> usize {
    node.cores.iter().map(|core| core.gauges().sessions).sum()
}

/// The reason code of a DISCONNECT among what a client was sent.
fn disconnected_with(node: &mut Node, link: LinkId) -> Option<u8> {
    packets(node, link).into_iter().find_map(|packet| match packet {
        Packet::Disconnect { code, .. } => Some(code),
        _ => None,
    })
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

/// At QoS 2, in steps: the client has the PUBLISH at one node, sends PUBREC at the next one, and PUBCOMP at the third.
#[test]
fn a_persistent_client_finds_its_session_and_its_messages_at_every_node_exactly_once() {
    for shards in [1, 3] {
        let mut node = Node::cluster(3, shards, WorkBudget::default());
        let at = |node: &mut Node, at| {
            let link = connect_to(node, at, false, Durability::Memory, 100);
            node.settle();
            link
        };
        let link = at(&mut node, 0);
        assert!(!session_present(&mut node, link));
        let filters = vec![("t".to_owned(), 2)];
        send(&mut node, link, &Packet::Subscribe { id: 1, properties: Properties::new(), filters });
        node.close(link);
        let publish = |id, payload: &[u8]| {
            Packet::Publish(Publish {
                dup: false,
                qos: 2,
                retain: false,
                topic: "t".to_owned(),
                id: Some(id),
                properties: Properties::new(),
                payload: payload.to_vec(),
            })
        };
        let ack = |packet_type, id| Packet::Ack(Ack { packet_type, id, code: 0, properties: Properties::new() });
        // Its own publish: PUBREC is lost with the connection, and it sends the same packet by another node.
        let link = at(&mut node, 1);
        assert!(session_present(&mut node, link), "{shards} shards");
        send(&mut node, link, &publish(9, b"one"));
        node.close(link);
        let link = at(&mut node, 2);
        send(&mut node, link, &publish(9, b"one"));
        let got = packets(&mut node, link);
        let id = got.iter().find_map(|packet| match packet {
            Packet::Publish(publish) => publish.id,
            _ => None,
        });
        let count = got.iter().filter(|packet| matches!(packet, Packet::Publish(_))).count();
        assert_eq!(count, 1, "{shards} shards: {got:?}");
        let id = id.expect("QoS 2");
        send(&mut node, link, &ack(packet_type::PUBREC, id));
        node.close(link);
        let link = at(&mut node, 0);
        let got = packets(&mut node, link);
        let is_pubrel = |packet: &Packet| matches!(packet, Packet::Ack(ack) if ack.packet_type == packet_type::PUBREL);
        assert!(got.iter().any(is_pubrel), "{shards} shards: {got:?}");
        assert!(!got.iter().any(|packet| matches!(packet, Packet::Publish(_))), "{shards} shards: {got:?}");
        send(&mut node, link, &ack(packet_type::PUBCOMP, id));
        assert_eq!(sessions(&node), 1);
    }
}

#[test]
fn a_clean_session_at_another_node_discards_the_persistent_one_and_the_other_way_round() {
    for other in 0..3 {
        let mut node = Node::cluster(3, 2, WorkBudget::default());
        let persistent = connect_to(&mut node, 0, false, Durability::Memory, 100);
        node.settle();
        let clean = connect(&mut node, other, true);
        node.settle();
        assert_eq!(disconnected_with(&mut node, persistent), Some(0x8E), "node {other}");
        assert_eq!(sessions(&node), 1, "node {other}");
        let persistent = connect_to(&mut node, 0, false, Durability::Memory, 100);
        node.settle();
        assert!(!session_present(&mut node, persistent), "node {other}");
        assert_eq!(disconnected_with(&mut node, clean), Some(0x8E), "node {other}");
        assert_eq!(sessions(&node), 1, "node {other}");
    }
}

/// The client's slot is of another class then, and of another node.
#[test]
fn a_session_that_begins_at_another_endpoint_discards_what_the_old_owner_has() {
    let mut node = Node::cluster(3, 2, WorkBudget::default());
    let before = connect_to(&mut node, 0, false, Durability::Memory, 100);
    node.settle();
    node.close(before);
    let after = connect_to(&mut node, 0, false, Durability::Disk, 100);
    node.settle();
    assert!(!session_present(&mut node, after));
    assert_eq!(sessions(&node), 1);
}

/// Two nodes lose sight of each other. A client has a persistent session at one of them, which is offline, and a clean one at the
/// other, which stays connected. The session remains only where it is the newer one.
#[test]
fn a_clean_connection_discards_an_older_session_when_the_nodes_see_each_other_again() {
    for is_newer in [true, false] {
        let mut node = Node::cluster(2, 1, WorkBudget::default());
        let owner = node.gateways().owner_of_client("meter");
        let other = 1 - owner;
        [other, owner].into_iter().for_each(|out| node.gateways().declare_out(out, 0));
        // Each connection has a newer stamp on its node.
        let persistent: Vec<LinkId> = (0..if is_newer { 1 } else { 3 })
            .map(|_| connect_to(&mut node, owner, false, Durability::Memory, 100))
            .collect();
        let clean = [(); 2].map(|()| connect(&mut node, other, true));
        node.settle();
        persistent.into_iter().for_each(|link| node.close(link));
        node.settle();
        assert_eq!(sessions(&node), 2);
        node.gateways().back_in(other);
        node.settle();
        assert!(!node.is_closed(clean[1]));
        assert_eq!(sessions(&node), if is_newer { 1 } else { 2 });
    }
}
