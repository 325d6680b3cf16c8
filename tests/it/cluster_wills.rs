//! Wills of clients whose node dies: another node publishes them.

use weir_broker::{EndpointLimits, WorkBudget};

use crate::node::{LinkId, Node, policy};
use crate::wire::{Connect, Packet, Properties, PropertyValue, Version, Will, decode_server_packet};

const DEAD: usize = 0;
const SESSION_EXPIRY: u8 = 0x11;
const WILL_DELAY: u8 = 0x18;
const MESSAGE_EXPIRY: u8 = 0x02;

fn connect(node: &mut Node, at: usize, client_id: &str, expiry_s: u32, will: Option<Will>) -> LinkId {
    let limits = EndpointLimits { session_expiry_max_s: None, ..EndpointLimits::default() };
    let link = node.open_at(at, policy(1, limits));
    let packet = Packet::Connect(Connect {
        version: Version::V5,
        clean: true,
        keep_alive_s: 0,
        client_id: client_id.to_owned(),
        username: None,
        password: None,
        will,
        properties: vec![(SESSION_EXPIRY, PropertyValue::Number(expiry_s))],
    });
    node.send(link, &packet.encode(Version::V5));
    node.settle();
    link
}

fn will(qos: u8, delay_s: u32) -> Will {
    Will {
        topic: "w".to_owned(),
        payload: b"gone".to_vec(),
        qos,
        retain: false,
        properties: vec![(WILL_DELAY, PropertyValue::Number(delay_s)), (MESSAGE_EXPIRY, PropertyValue::Number(60))],
    }
}

/// A subscriber of wills at each node that lives.
fn witnesses(node: &mut Node) -> Vec<LinkId> {
    let connect = |at| {
        let link = connect(node, at, &format!("witness{at}"), 0, None);
        let filters = vec![("w".to_owned(), 2)];
        let subscribe = Packet::Subscribe { id: 1, properties: Properties::new(), filters };
        node.send(link, &subscribe.encode(Version::V5));
        node.settle();
        node.take_output(link);
        link
    };
    (1..node_count()).map(connect).collect()
}

const fn node_count() -> usize {
    3
}

fn cluster() -> Node {
    Node::cluster(node_count() as u16, 2, WorkBudget::default())
}

fn packets(node: &mut Node, link: LinkId) -> Vec<Packet> {
    let (bytes, mut at, mut packets) = (node.take_output(link), 0, Vec::new());
    while let Some((packet, size)) = decode_server_packet(Version::V5, &bytes[at..]).expect("well-formed") {
        at += size;
        packets.push(packet);
    }
    packets
}

/// QoS and expiry of the wills that a client was sent.
fn wills(node: &mut Node, link: LinkId) -> Vec<(u8, Properties)> {
    let publishes = packets(node, link).into_iter().filter_map(|packet| match packet {
        Packet::Publish(publish) if publish.topic == "w" => Some((publish.qos, publish.properties)),
        _ => None,
    });
    publishes.collect()
}

fn counts(node: &mut Node, witnesses: &[LinkId]) -> Vec<usize> {
    witnesses.iter().map(|link| wills(node, *link).len()).collect()
}

fn declare_out(node: &mut Node, dead: usize) {
    let now = node.now;
    node.gateways().declare_out(dead, now);
    node.settle();
}

#[test]
fn a_will_is_published_once_when_the_node_of_its_client_dies() {
    for qos in 0..3 {
        let mut node = cluster();
        let witnesses = witnesses(&mut node);
        connect(&mut node, DEAD, "c", 0, Some(will(qos, 0)));
        declare_out(&mut node, DEAD);
        for link in &witnesses {
            let expiry = (MESSAGE_EXPIRY, PropertyValue::Number(60));
            assert_eq!(wills(&mut node, *link), [(qos, vec![expiry])]);
        }
        let counts = node.gateways().gateway(1).will_counts();
        assert_eq!((counts.published, counts.kept, counts.refused), (1, 0, 0));
    }
}

#[test]
fn a_connection_that_has_ended_leaves_no_will_to_its_keeper() {
    for disconnects in [true, false] {
        let mut node = cluster();
        let witnesses = witnesses(&mut node);
        let client = connect(&mut node, DEAD, "c", 0, Some(will(1, 0)));
        if disconnects {
            let disconnect = Packet::Disconnect { code: 0, properties: Properties::new() };
            node.send(client, &disconnect.encode(Version::V5));
        } else {
            node.close(client);
        }
        node.settle();
        let by_its_node = usize::from(!disconnects);
        assert_eq!(counts(&mut node, &witnesses), [by_its_node; 2]);
        declare_out(&mut node, DEAD);
        assert_eq!(counts(&mut node, &witnesses), [0; 2]);
    }
}

#[test]
fn a_client_that_moves_takes_its_will_along() {
    let mut node = cluster();
    let witnesses = witnesses(&mut node);
    connect(&mut node, DEAD, "c", 0, Some(will(1, 0)));
    connect(&mut node, 1, "c", 0, None);
    assert_eq!(counts(&mut node, &witnesses), [1; 2], "the takeover ends the first session");
    declare_out(&mut node, DEAD);
    assert_eq!(counts(&mut node, &witnesses), [0; 2]);
}

#[test]
fn another_keeper_has_all_wills_and_the_former_one_none() {
    let mut node = cluster();
    let witnesses = witnesses(&mut node);
    connect(&mut node, DEAD, "before", 0, Some(will(1, 0)));
    node.gateways().set_will_keeper(DEAD, 2);
    node.settle();
    connect(&mut node, DEAD, "after", 0, Some(will(1, 0)));
    let kept: Vec<usize> = [1, 2].map(|at| node.gateways().gateway(at).will_counts().kept).into();
    assert_eq!(kept, [0, 2]);
    declare_out(&mut node, DEAD);
    assert_eq!(counts(&mut node, &witnesses), [2; 2]);
}

#[test]
fn a_will_waits_for_its_delay_and_is_dropped_where_its_client_returns() {
    for returns in [true, false] {
        let mut node = cluster();
        let witnesses = witnesses(&mut node);
        // The session belongs to the owner of its slot.
        let owned = (0..100).map(|n| format!("client{n}"));
        let id = owned.into_iter().find(|id| node.gateways().owner_of_client(id) == DEAD).expect("some slot");
        connect(&mut node, 1, &id, 100, Some(will(1, 5)));
        declare_out(&mut node, DEAD);
        assert_eq!(counts(&mut node, &witnesses), [0; 2]);
        if returns {
            connect(&mut node, 2, &id, 0, None);
        }
        node.advance(4_999);
        assert_eq!(counts(&mut node, &witnesses), [0; 2]);
        node.advance(2);
        assert_eq!(counts(&mut node, &witnesses), [usize::from(!returns); 2], "returns: {returns}");
    }
}

#[test]
fn a_node_that_comes_back_closes_connections_whose_wills_were_published() {
    let mut node = cluster();
    let witnesses = witnesses(&mut node);
    let published = connect(&mut node, DEAD, "c", 0, Some(will(1, 0)));
    let without = connect(&mut node, DEAD, "d", 0, None);
    declare_out(&mut node, DEAD);
    assert_eq!(counts(&mut node, &witnesses), [1; 2]);
    node.gateways().back_in(DEAD);
    node.settle();
    assert!(node.is_closed(published) && !node.is_closed(without));
    assert!(packets(&mut node, published).contains(&Packet::Disconnect { code: 0x9C, properties: Properties::new() }));
    assert_eq!(counts(&mut node, &witnesses), [0; 2], "not once more");
    let again = connect(&mut node, DEAD, "c", 0, Some(will(1, 0)));
    declare_out(&mut node, DEAD);
    assert_eq!(counts(&mut node, &witnesses), [1; 2], "of the new connection");
    assert!(!node.is_closed(again));
}

#[test]
fn a_connection_that_ends_while_its_node_is_out_has_its_will_published_once() {
    for is_declared_out in [false, true] {
        let mut node = cluster();
        let witnesses = witnesses(&mut node);
        let client = connect(&mut node, DEAD, "c", 0, Some(will(1, 0)));
        node.gateways().set_in_until(DEAD, 0);
        node.settle();
        if is_declared_out {
            declare_out(&mut node, DEAD);
        }
        node.close(client);
        node.settle();
        assert_eq!(counts(&mut node, &witnesses), [usize::from(is_declared_out); 2], "its keeper decides");
        if is_declared_out {
            node.gateways().back_in(DEAD);
            node.settle();
        }
        node.gateways().set_in_until(DEAD, u64::MAX);
        node.settle();
        assert_eq!(counts(&mut node, &witnesses), [usize::from(!is_declared_out); 2]);
        let (own, keeper) = (node.gateways().gateway(DEAD).will_counts(), node.gateways().gateway(1).will_counts());
        assert_eq!((own.entrusted, keeper.kept), (0, 0));
    }
}
