//! Persistent sessions: a client finds its session by whatever node it connects.

use std::time::{Duration, Instant};

use super::nodes::{Node, Nodes};
use super::traffic::{Message, collect, collect_until_ping, number, publish_all};
use crate::cluster_engine::nats::{self, Nats};
use crate::support::client::{Client, clean_connect};
use crate::support::until;
use crate::wire::{Connect, Packet, PropertyValue, Version, Will};

const SESSION_EXPIRY: u8 = 0x11;
const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];
/// So many client ids have owners on all nodes.
const CLIENTS: usize = 12;

/// A CONNECT that continues a session.
pub(super) fn continuing(version: Version, id: &str) -> Connect {
    let properties = match version {
        Version::V5 => vec![(SESSION_EXPIRY, PropertyValue::Number(600))],
        _ => Vec::new(),
    };
    Connect { clean: false, ..clean_connect(version, id, properties) }
}

/// A client, and whether its session was present.
pub(super) fn enter(node: &Node, connect: Connect) -> (Client, bool) {
    let mut client = Client::open(node.address, connect.version);
    client.send(&Packet::Connect(connect));
    match client.receive() {
        Some(Packet::ConnAck { code: 0, session_present, .. }) => (client, session_present),
        other => panic!("not admitted: {other:?}"),
    }
}

/// The answer to a CONNECT that continues a session.
fn answer(node: &Node, version: Version, id: &str) -> Option<Packet> {
    let mut client = Client::open(node.address, version);
    client.send(&Packet::Connect(continuing(version, id)));
    client.receive()
}

pub(super) fn leave(mut client: Client) {
    client.send(&Packet::Disconnect { code: 0, properties: Vec::new() });
    while client.receive().is_some() {}
}

/// Waits until all nodes know the owners of all sessions.
pub(super) fn settle(cluster: &Nodes) {
    for node in &cluster.nodes {
        for number in 0..CLIENTS {
            let id = format!("settle-{number}");
            until(
                "every session has an owner",
                || node.weir.log(),
                || matches!(answer(node, Version::V3_1_1, &id), Some(Packet::ConnAck { code: 0, .. })),
            );
        }
    }
}

#[test]
fn a_session_is_found_by_every_node_with_its_subscriptions_and_messages() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    let mut publisher = cluster.nodes[1].client(Version::V5, "publisher");
    for version in VERSIONS {
        for client in 0..CLIENTS {
            let (id, topic) = (format!("moving-{client}"), format!("to/{client}"));
            leave(enter(&cluster.nodes[0], Connect { clean: true, ..continuing(version, &id) }).0);
            let (mut first, _) = enter(&cluster.nodes[0], continuing(version, &id));
            first.subscribe(&topic, 2);
            leave(first);
            publish_all(
                &mut publisher,
                &(1..4).map(|n| Message::new(&topic, n.to_string(), (n % 3) as u8)).collect::<Vec<_>>(),
            );
            let (mut second, present) = enter(&cluster.nodes[2], continuing(version, &id));
            assert!(present, "{id} {version:?}");
            // QoS 0 is not kept.
            let numbers: Vec<usize> = collect(&mut second, 2).iter().map(number).collect();
            assert_eq!(numbers, [1, 2], "{id} {version:?}");
            publish_all(&mut publisher, &[Message::new(&topic, "9", 2)]);
            assert_eq!(collect(&mut second, 1).iter().map(number).collect::<Vec<_>>(), [9]);
            assert!(collect_until_ping(&mut second).is_empty());
        }
    }
}

#[test]
fn a_session_that_connects_elsewhere_leaves_its_first_connection() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    for client in 0..CLIENTS {
        let id = format!("twice-{client}");
        let mut connections: Vec<Client> = Vec::new();
        for (round, node) in cluster.nodes.iter().chain(&cluster.nodes).enumerate() {
            let (connection, present) = enter(node, continuing(Version::V5, &id));
            assert_eq!(present, round > 0, "{id} {round}");
            if let Some(mut before) = connections.pop() {
                assert!(matches!(before.receive(), Some(Packet::Disconnect { code: 0x8E, .. })));
                assert_eq!(before.receive(), None);
            }
            connections.push(connection);
        }
    }
}

#[test]
fn a_clean_start_on_another_node_discards_the_session() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(3);
    for client in 0..CLIENTS {
        let id = format!("clean-{client}");
        let (mut first, _) = enter(&cluster.nodes[0], continuing(Version::V5, &id));
        first.subscribe("clean/#", 1);
        leave(first);
        // Without an expiry: a session of the node that it connects to.
        let mut clean = Client::connect(cluster.nodes[1].address, Version::V5, &id);
        clean.subscribe("any", 0);
        leave(clean);
        let (_, present) = enter(&cluster.nodes[2], continuing(Version::V5, &id));
        assert!(!present, "{id}");
    }
}

#[test]
fn a_mebibyte_goes_both_ways_through_a_relay() {
    if !nats::is_there() {
        return;
    }
    let cluster = Nodes::start(2);
    for client in 0..4 {
        for node in &cluster.nodes {
            let id = format!("large-{client}");
            let (mut connection, _) = enter(node, continuing(Version::V5, &id));
            connection.subscribe(&format!("large/{client}"), 1);
            let mut payload = b"7 ".to_vec();
            payload.resize(1 << 20, b'x');
            connection.send(&Message::new(&format!("large/{client}"), payload.clone(), 0).packet(1));
            assert_eq!(collect(&mut connection, 1)[0].payload, payload);
            leave(connection);
        }
    }
}

/// The node of the socket dies: the session stays, its will is published. The node of the session dies: the session begins
/// anew, within the time that the documentation promises.
#[test]
fn sessions_outlive_the_node_of_their_socket_and_begin_anew_without_their_owner() {
    if !nats::is_there() {
        return;
    }
    let mut cluster = Nodes::start(3);
    settle(&cluster);
    let mut watcher = cluster.nodes[1].client(Version::V5, "watcher");
    watcher.subscribe("will/#", 1);
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|client| {
            let will = Will {
                topic: format!("will/{client}"),
                payload: client.to_string().into_bytes(),
                qos: 1,
                retain: false,
                properties: Vec::new(),
            };
            let connect = Connect { will: Some(will), ..continuing(Version::V3_1_1, &format!("kept-{client}")) };
            enter(&cluster.nodes[0], connect).0
        })
        .collect();
    cluster.nodes[0].weir.kill();
    let began = Instant::now();
    drop(clients);
    let mut present = Vec::new();
    for client in 0..CLIENTS {
        let id = format!("kept-{client}");
        until(
            "the client is served again",
            || cluster.nodes[2].weir.log(),
            || match answer(&cluster.nodes[2], Version::V3_1_1, &id) {
                Some(Packet::ConnAck { code: 0, session_present, .. }) => {
                    present.push(session_present);
                    true
                }
                _ => false,
            },
        );
    }
    eprintln!("all sessions are served again after {:?}; present: {present:?}", began.elapsed());
    assert!(present.contains(&true), "some sessions have their owner on a node that lives");
    // Those of all: of sessions on other nodes by these, of sessions on the node that has died by the keeper of its wills.
    let mut numbers: Vec<usize> = collect(&mut watcher, CLIENTS).iter().map(number).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (0..CLIENTS).collect::<Vec<_>>(), "present: {present:?}");
}

#[test]
fn sessions_on_disk_are_away_until_their_node_returns() {
    if !nats::is_there() {
        return;
    }
    let servers = vec![Nats::start()];
    let nodes = (1..=3).map(|number| Node::durable(&format!("n{number}"), &servers)).collect();
    let mut cluster = Nodes::start_nodes(servers, nodes);
    settle(&cluster);
    let mut publisher = cluster.nodes[1].client(Version::V5, "publisher");
    for client in 0..CLIENTS {
        let (mut connection, _) = enter(&cluster.nodes[1], continuing(Version::V5, &format!("disk-{client}")));
        connection.subscribe(&format!("disk/{client}"), 1);
        leave(connection);
        publish_all(&mut publisher, &[Message::new(&format!("disk/{client}"), "1", 1)]);
    }
    cluster.nodes[0].weir.kill();
    cluster.nodes[2].until_logged(&["cluster peer is out", "n1"]);
    let mut away = Vec::new();
    for client in 0..CLIENTS {
        let began = Instant::now();
        match answer(&cluster.nodes[2], Version::V5, &format!("disk-{client}")) {
            Some(Packet::ConnAck { code: 0, session_present: true, .. }) => {}
            Some(Packet::ConnAck { code: 0x88, .. }) => {
                assert!(began.elapsed() < Duration::from_secs(15));
                away.push(client);
            }
            other => panic!("never an empty session: {other:?}"),
        }
    }
    assert!(!away.is_empty() && away.len() < CLIENTS, "{away:?}");
    cluster.nodes[0].start();
    for client in away {
        until(
            "the session is there again",
            || cluster.nodes[2].weir.log(),
            || {
                let mut connection = Client::open(cluster.nodes[2].address, Version::V5);
                connection.send(&Packet::Connect(continuing(Version::V5, &format!("disk-{client}"))));
                match connection.receive() {
                    Some(Packet::ConnAck { code: 0x88, .. }) => false,
                    Some(Packet::ConnAck { code: 0, session_present: true, .. }) => {
                        assert_eq!(collect(&mut connection, 1).iter().map(number).collect::<Vec<_>>(), [1]);
                        true
                    }
                    other => panic!("never an empty session: {other:?}"),
                }
            },
        );
    }
}
