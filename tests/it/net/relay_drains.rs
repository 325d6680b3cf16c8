//! Drains and the shutdown of the node with the socket end relayed clients, whatever their owner does meanwhile.

use std::sync::Arc;
use std::time::Duration;

use weir_broker::EndpointId;
use weirmq::net::relay::{Owner, RelayEnd, RelayMessage};
use weirmq::net::{DrainPlan, DrainPredicate, DrainWhich};

use super::relay::{Dropped, Node, SESSION_NODE, SOCKET_NODE, continuing, enter, two, two_with};
use super::relay_ends::{Quiz, TCP, asked, auth, disconnected_with};
use crate::cluster_nodes::traffic::{Message, collect, number, publish_all};
use crate::support::client::Client;
use crate::support::until;
use crate::wire::{Ack, Connect, Packet, PropertyValue, Publish, Version, Will};

const REFERENCE: u8 = 0x1C;
const MAXIMUM_PACKET_SIZE: u8 = 0x27;

fn plan(which: DrainWhich, in_flight_ms: u32) -> DrainPlan {
    DrainPlan {
        which,
        per_s: Some(100),
        reason_code: 0x9C,
        server_reference: Some("other:1883".into()),
        in_flight_ms,
        revokes: false,
        handshake_ms: 60_000,
    }
}

/// How many clients of the TCP endpoint were asked to leave.
fn drain(node: &Node, plan: DrainPlan) -> u32 {
    node.everywhere.plane.wait(node.plane().drain(EndpointId(TCP), plan)).unwrap()
}

fn named(name: &'static str) -> DrainWhich {
    let predicate: Arc<DrainPredicate> = Arc::new(move |facts| facts.client_id == name);
    DrainWhich::Matching(predicate)
}

/// Its DISCONNECT names the other server, and is the last.
fn assert_sent_elsewhere(client: &mut Client) {
    match client.receive() {
        Some(Packet::Disconnect { code, properties }) => {
            assert_eq!(code, 0x9C);
            assert_eq!(properties, [(REFERENCE, PropertyValue::String("other:1883".to_owned()))]);
        }
        packet => panic!("DISCONNECT, not {packet:?}"),
    }
    assert_eq!(client.receive(), None);
}

fn assert_refused(client: &mut Client, unavailable: u8) {
    let packet = client.receive();
    assert!(matches!(packet, Some(Packet::ConnAck { code, .. }) if code == unavailable), "{packet:?}");
    assert_eq!(client.receive(), None);
}

/// A client that has sent CONNECT.
fn connecting(node: &Node, version: Version, id: &str) -> Client {
    let mut client = Client::over(node.everywhere.open("tcp"), version);
    client.send(&Packet::Connect(continuing(version, id)));
    client
}

fn until_sent(node: &Node, what: &str, is_meant: fn(&RelayMessage) -> bool) {
    until(what, || format!("{:?}", node.wire.sent()), || node.wire.sent().iter().any(is_meant));
}

#[test]
fn a_drain_where_the_socket_is_reaches_relayed_clients_of_that_endpoint() {
    let [sockets, sessions] = two();
    let (mut client, _) = enter(&sockets, "tcp", continuing(Version::V5, "drained"));
    let (mut older, _) = enter(&sockets, "tcp", continuing(Version::V3_1_1, "older"));
    let (mut other, _) = enter(&sockets, "tls", continuing(Version::V5, "other"));
    client.subscribe("last", 1);
    // It waits for this one's acknowledgement.
    let mut publisher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "publisher");
    publish_all(&mut publisher, &[Message::new("last", "7 ", 1)]);
    let Some(Packet::Publish(Publish { id: Some(id), .. })) = client.receive() else { panic!("PUBLISH") };
    assert_eq!(drain(&sockets, plan(DrainWhich::Before(0), 60_000)), 0, "none is so old");
    assert_eq!(drain(&sockets, plan(DrainWhich::All, 60_000)), 2);
    assert_eq!(older.receive(), None);
    client.ping();
    client.send(&Packet::Ack(Ack { packet_type: 4, id, code: 0, properties: Vec::new() }));
    assert_sent_elsewhere(&mut client);
    other.ping();
}

#[test]
fn a_drain_where_the_socket_is_chooses_relayed_clients_by_predicate() {
    let [sockets, _sessions] = two();
    let (mut one, _) = enter(&sockets, "tcp", continuing(Version::V5, "one"));
    let (mut other, _) = enter(&sockets, "tcp", continuing(Version::V5, "other"));
    assert_eq!(drain(&sockets, plan(named("one"), 0)), 1);
    assert_sent_elsewhere(&mut one);
    other.ping();
}

#[test]
fn a_drain_by_number_counts_relayed_clients_where_their_socket_is_and_only_there() {
    let [sockets, sessions] = two();
    let mut clients = Vec::new();
    for n in 0..3 {
        clients.push(enter(&sockets, "tcp", continuing(Version::V5, &format!("relayed-{n}"))).0);
        clients.push(Client::connect(sockets.everywhere.address("tcp"), Version::V5, &format!("local-{n}")));
    }
    let mut there = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "there");
    assert_eq!(drain(&sessions, plan(DrainWhich::NewestOfAddress(1), 0)), 0, "one counts there");
    assert_eq!(drain(&sockets, plan(DrainWhich::Newest(2), 0)), 2);
    clients.split_off(4).iter_mut().for_each(assert_sent_elsewhere);
    assert_eq!(drain(&sockets, plan(DrainWhich::NewestOfAddress(3), 0)), 1);
    clients.split_off(3).iter_mut().for_each(assert_sent_elsewhere);
    clients.iter_mut().for_each(Client::ping);
    assert_eq!(drain(&sessions, plan(DrainWhich::Newest(1), 0)), 1);
    assert_sent_elsewhere(&mut there);
    clients.iter_mut().for_each(Client::ping);
}

#[test]
fn the_will_of_a_relayed_client_that_is_revoked_where_its_socket_is_is_not_published() {
    let [sockets, sessions] = two();
    let mut watcher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "watcher");
    watcher.subscribe("will", 1);
    for (revokes, id) in [(true, "revoked"), (false, "drained")] {
        let payload = format!("{} ", u8::from(revokes)).into_bytes();
        let will = Will { topic: "will".into(), payload, qos: 1, retain: false, properties: Vec::new() };
        let connect = Connect { will: Some(will), ..continuing(Version::V5, id) };
        let (mut client, _) = enter(&sockets, "tcp", connect);
        assert_eq!(drain(&sockets, DrainPlan { revokes, ..plan(named(id), 0) }), 1);
        assert_eq!(disconnected_with(&mut client), Some(0x9C));
        assert_eq!(client.receive(), None);
    }
    assert_eq!(number(&collect(&mut watcher, 1)[0]), 0);
}

#[test]
fn a_relayed_client_whose_owner_does_not_end_it_in_time_gets_its_disconnect_from_the_node_with_the_socket() {
    let [sockets, _sessions] = two();
    sockets.wire.drop_all(Dropped::Ends);
    let (mut newer, _) = enter(&sockets, "tcp", continuing(Version::V5, "newer"));
    let (mut older, _) = enter(&sockets, "tcp", continuing(Version::V3_1_1, "older"));
    let properties = vec![(MAXIMUM_PACKET_SIZE, PropertyValue::Number(100))];
    let (mut small, _) = enter(&sockets, "tcp", Connect { properties, ..continuing(Version::V5, "small") });
    let far = Some("far.example".repeat(20).into());
    assert_eq!(drain(&sockets, DrainPlan { server_reference: far, ..plan(named("small"), 0) }), 1);
    assert_eq!(drain(&sockets, plan(DrainWhich::All, 0)), 2, "each is asked once");
    newer.ping();
    older.ping();
    assert_sent_elsewhere(&mut newer);
    assert_eq!(older.receive(), None);
    // [MQTT-3.1.2-24]
    assert_eq!(small.receive(), Some(Packet::Disconnect { code: 0x9C, properties: Vec::new() }));
}

#[test]
fn a_relayed_client_whose_owner_is_lost_during_a_drain_gets_its_disconnect() {
    let [sockets, _sessions] = two();
    sockets.wire.drop_all(Dropped::Ends);
    let (mut newer, _) = enter(&sockets, "tcp", continuing(Version::V5, "newer"));
    let (mut older, _) = enter(&sockets, "tls", continuing(Version::V3_1_1, "older"));
    assert_eq!(drain(&sockets, plan(DrainWhich::All, 600_000)), 1);
    newer.ping();
    sockets.plane().relay_peer_lost(SESSION_NODE);
    assert_sent_elsewhere(&mut newer);
    assert_eq!(older.receive(), None);
}

#[test]
fn a_client_whose_owner_has_not_answered_is_refused_when_its_node_drains_or_stops() {
    let [sockets, _sessions] = two();
    for (accepted, version, unavailable) in [(1, Version::V5, 0x88), (2, Version::V3_1_1, 3)] {
        sockets.set_owner(Owner::Unknown);
        let mut waiting = connecting(&sockets, version, "waiting");
        sockets
            .everywhere
            .plane
            .until(TCP, "it waits", |stats| (stats.accepted_total, stats.connections_pending) == (accepted, 0));
        assert_eq!(drain(&sockets, plan(named("waiting"), 0)), 0, "it is not connected");
        sockets.set_owner(Owner::Peer(SESSION_NODE));
        assert_refused(&mut waiting, unavailable);
    }
    sockets.wire.drop_all(Dropped::Opens);
    let mut asks = connecting(&sockets, Version::V5, "asks");
    until_sent(&sockets, "its owner is asked", |message| matches!(message, RelayMessage::Open { .. }));
    let relays = sockets.wire.sent().into_iter().filter_map(|message| match message {
        RelayMessage::Open { relay, .. } => Some(relay),
        _ => None,
    });
    let relay = relays.max().unwrap();
    assert_eq!(drain(&sockets, plan(DrainWhich::All, 0)), 0);
    // Its answer comes too late.
    let credit = RelayMessage::Credit { relay, from_opener: false, bytes: 1 << 16 };
    sockets.plane().relay_message(SESSION_NODE, credit);
    assert_refused(&mut asks, 0x88);
    until_sent(&sockets, "its owner is told", |message| matches!(message, RelayMessage::Close { .. }));
    let mut last = Client::over(sockets.everywhere.open("tls"), Version::V3_1_1);
    last.send(&Packet::Connect(continuing(Version::V3_1_1, "last")));
    let opens = || sockets.wire.sent().iter().filter(|m| matches!(m, RelayMessage::Open { .. })).count();
    until("its owner is asked", String::new, || opens() == 2);
    sockets.everywhere.plane.wait(sockets.plane().shutdown(Duration::from_secs(10))).unwrap();
    assert_refused(&mut last, 3);
}

#[test]
fn a_client_that_is_authenticated_after_a_drain_has_begun_is_refused() {
    let [sockets, _sessions] = two_with(|policy| policy.authenticate = Arc::new(Quiz));
    let (mut meant, mut other) = (asked(&sockets, "meant"), asked(&sockets, "other"));
    assert_eq!(drain(&sockets, plan(named("meant"), 0)), 0);
    for client in [&mut meant, &mut other] {
        client.send(&auth(0x18, b"right"));
    }
    assert_refused(&mut meant, 0x88);
    assert!(matches!(other.receive(), Some(Packet::ConnAck { code: 0, .. })));
    other.ping();
}

/// The owner's view changes between its answer and the admission: the connection goes on to a third place.
#[test]
fn a_drain_reaches_a_client_whose_session_moved_while_it_connected() {
    let [sockets, sessions] = two();
    let there = Owner::Peer(SESSION_NODE);
    // Its shard and its relay thread look, then it is asked itself.
    sockets.set_owners(&[there, there, Owner::Here]);
    sessions.set_owners(&[Owner::Here, Owner::Peer(SOCKET_NODE)]);
    let (mut client, _) = enter(&sockets, "tcp", continuing(Version::V5, "moving"));
    client.ping();
    let opens = |node: &Node| node.wire.sent().iter().filter(|m| matches!(m, RelayMessage::Open { .. })).count();
    assert_eq!((opens(&sockets), opens(&sessions)), (1, 1));
    assert_eq!(drain(&sockets, plan(DrainWhich::Newest(1), 0)), 1);
    assert_sent_elsewhere(&mut client);
    let ends = |node: &Node| node.wire.sent().iter().filter(|m| matches!(m, RelayMessage::End { .. })).count();
    assert_eq!((ends(&sockets), ends(&sessions)), (1, 1), "its end was asked for all the way");
}

/// A client whose owner has much for it, and that reads nothing.
fn full(sockets: &Node, sessions: &Node) -> Client {
    let (mut slow, _) = enter(sockets, "tcp", continuing(Version::V5, "slow"));
    slow.subscribe("flood", 0);
    let mut publisher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "publisher");
    let messages: Vec<Message> = (0..16).map(|_| Message::new("flood", vec![b'x'; 1 << 20], 0)).collect();
    publish_all(&mut publisher, &messages);
    slow
}

#[test]
fn a_relayed_client_that_does_not_read_is_closed_after_a_drain() {
    let [sockets, sessions] = two();
    let _slow = full(&sockets, &sessions);
    assert_eq!(drain(&sockets, plan(DrainWhich::All, 0)), 1);
    let ended = |message: &RelayMessage| matches!(message, RelayMessage::Close { reason: RelayEnd::Ended, .. });
    until_sent(&sockets, "its owner is told", ended);
    sockets.everywhere.plane.until(TCP, "its socket is closed", |stats| stats.connections_current == 0);
}

#[test]
fn a_shutdown_ends_in_its_time_with_a_relayed_client_that_does_not_read() {
    let [sockets, sessions] = two();
    let mut slow = full(&sockets, &sessions);
    sockets.everywhere.plane.wait(sockets.plane().shutdown(Duration::from_secs(2))).unwrap();
    while slow.receive().is_some() {}
}
