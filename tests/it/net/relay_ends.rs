//! How relayed connections begin, are authenticated again, are counted, and end.

use std::sync::Arc;
use std::time::Duration;

use weir_broker::Principal;
use weirmq::auth::{AuthExchange, AuthRefusal, Authenticate, Credentials, Decision};
use weirmq::net::relay::{RelayEnd, RelayMessage};

use super::relay::{Node, SLOT, SOCKET_NODE, continuing, enter, two, two_with};
use crate::cluster_nodes::traffic::{Message, collect, number, publish_all};
use crate::support::client::Client;
use crate::support::until;
use crate::wire::{Connect, Packet, PropertyValue, Version, Will};

const METHOD: u8 = 0x15;
const DATA: u8 = 0x16;
/// The endpoint for plain TCP.
pub const TCP: u32 = 1;

pub fn disconnected_with(client: &mut Client) -> Option<u8> {
    match client.receive() {
        Some(Packet::Disconnect { code, .. }) => Some(code),
        other => panic!("DISCONNECT, not {other:?}"),
    }
}

#[test]
fn a_node_of_sessions_that_shuts_down_sends_relayed_clients_what_waits_and_0x8b() {
    let [sockets, sessions] = two();
    let (mut client, _) = enter(&sockets, "tls", continuing(Version::V5, "told"));
    client.subscribe("last", 0);
    let mut publisher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "publisher");
    let payload = [b"7 ".to_vec(), vec![b'x'; 30 << 10]].concat();
    publish_all(&mut publisher, &[Message::new("last", payload, 0), Message::new("other", "done", 1)]);
    sessions.everywhere.plane.wait(sessions.plane().shutdown(Duration::from_secs(5))).unwrap();
    assert_eq!(number(&collect(&mut client, 1)[0]), 7);
    assert_eq!(disconnected_with(&mut client), Some(0x8B));
    assert_eq!(client.receive(), None);
}

#[test]
fn a_node_with_sockets_that_shuts_down_has_relayed_clients_told_0x8b() {
    let [sockets, _sessions] = two();
    let (mut client, _) = enter(&sockets, "tls", continuing(Version::V5, "told"));
    client.ping();
    sockets.everywhere.plane.wait(sockets.plane().shutdown(Duration::from_secs(10))).unwrap();
    assert_eq!(disconnected_with(&mut client), Some(0x8B));
    assert_eq!(client.receive(), None);
}

#[test]
fn a_relayed_connection_counts_at_the_node_with_the_socket_alone() {
    let [sockets, sessions] = two();
    let (mut client, _) = enter(&sockets, "tcp", continuing(Version::V5, "counted"));
    client.ping();
    let counts = |node: &Node| {
        let stats = node.everywhere.plane.stats(TCP);
        (stats.connections_current, stats.accepted_total, stats.admitted_total)
    };
    assert_eq!((counts(&sockets), counts(&sessions)), ((1, 1, 1), (0, 0, 0)));
    drop(client);
    sockets.everywhere.plane.until(TCP, "it is gone", |stats| stats.connections_current == 0);
    assert_eq!(counts(&sessions), (0, 0, 0));
}

/// An admission with a field of another value.
fn with(admission: &[u8], field: &str, value: u32) -> Vec<u8> {
    let mut object: serde_json::Value = serde_json::from_slice(admission).unwrap();
    object[field] = value.into();
    serde_json::to_vec(&object).unwrap()
}

#[test]
fn an_admission_with_unknown_fields_is_read_and_one_of_an_unknown_version_is_refused_with_0x88() {
    let [sockets, sessions] = two();
    sockets.wire.rewrite_admissions(|admission| with(admission, "later", 1));
    let (mut client, _) = enter(&sockets, "tcp", continuing(Version::V5, "newer"));
    client.ping();
    sockets.wire.rewrite_admissions(|admission| with(admission, "version", 2));
    let mut client = Client::over(sockets.everywhere.open("tcp"), Version::V5);
    client.send(&Packet::Connect(continuing(Version::V5, "refused")));
    assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0x88, .. })));
    let refused = |message: &RelayMessage| matches!(message, RelayMessage::Close { reason: RelayEnd::Refused, .. });
    assert!(sessions.wire.sent().iter().any(refused));
}

/// What version 1 writes: a later version reads it.
#[test]
fn an_admission_of_version_1_is_read() {
    let [_sockets, sessions] = two();
    let mut watcher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "watcher");
    watcher.subscribe("will", 1);
    let will = Will { topic: "will".into(), payload: b"7".into(), qos: 1, retain: false, properties: Vec::new() };
    let connect = Connect { will: Some(will), ..continuing(Version::V3_1_1, "kept") };
    let bytes = data_encoding::BASE64.encode(&Packet::Connect(connect).encode(Version::V3_1_1));
    let admission = format!(
        r#"{{"version":1,"endpoint":"endpoint-1","clientId":"kept","peer":"10.0.0.7:40000","username":"u",
            "address":"10.0.0.7","admittedBy":"password","certificates":[],"expiresInMs":60000,
            "isAssigned":false,"bytes":"{bytes}"}}"#
    );
    let open = RelayMessage::Open { relay: 9, slot: SLOT, admission: admission.into_bytes() };
    sessions.plane().relay_message(SOCKET_NODE, open);
    let close = RelayMessage::Close { relay: 9, from_opener: true, reason: RelayEnd::Ended };
    sessions.plane().relay_message(SOCKET_NODE, close);
    assert_eq!(number(&collect(&mut watcher, 1)[0]), 7, "its will, as it was admitted");
}

#[test]
fn a_client_that_closes_while_its_node_has_no_credit_is_lost_soon() {
    let [sockets, sessions] = two();
    let (mut client, _) = enter(&sockets, "tcp", continuing(Version::V3_1_1, "cut"));
    client.ping();
    sessions.wire.hold_credit();
    // More than a window, and no more than the socket takes.
    let messages: Vec<Message> = (0..5).map(|_| Message::new("flood", vec![b'x'; 16 << 10], 0)).collect();
    messages.iter().for_each(|message| client.send(&message.packet(1)));
    drop(client);
    let ended = |message: &RelayMessage| {
        matches!(message, RelayMessage::Close { reason: RelayEnd::Ended, from_opener: true, .. })
    };
    until("the node of the session hears of it", String::new, || sockets.wire.sent().iter().any(ended));
}

/// Admits clients that answer a question.
pub struct Quiz;

struct Question;

impl AuthExchange for Question {
    fn step(self: Box<Self>, data: &[u8]) -> Decision {
        match data {
            b"right" => {
                Decision::AdmitWith { principal: principal(), data: Some(b"welcome".to_vec()), client_id: None }
            }
            _ => Decision::Refuse(AuthRefusal::NotAuthorized),
        }
    }
}

impl Authenticate for Quiz {
    fn authenticate(&self, _: &Credentials<'_>) -> Decision {
        Decision::Continue { data: b"?".to_vec(), exchange: Box::new(Question) }
    }

    fn still_valid(&self, _: &Principal, _: &str) -> bool {
        true
    }
}

fn principal() -> Principal {
    Principal {
        username: Some("u".into()),
        address: None,
        admitted_by: "quiz".into(),
        claims_acl: None,
        expires_at: None,
    }
}

pub fn auth(code: u8, data: &[u8]) -> Packet {
    let method = (METHOD, PropertyValue::String("QUIZ".to_owned()));
    Packet::Auth { code, properties: vec![method, (DATA, PropertyValue::Binary(data.to_vec()))] }
}

/// A client that was asked a question.
pub fn asked(node: &Node, id: &str) -> Client {
    let mut client = Client::over(node.everywhere.open("tcp"), Version::V5);
    let properties = vec![(METHOD, PropertyValue::String("QUIZ".to_owned())), (DATA, PropertyValue::Binary(vec![]))];
    client.send(&Packet::Connect(Connect { properties, ..continuing(Version::V5, id) }));
    assert!(matches!(client.receive(), Some(Packet::Auth { code: 0x18, .. })));
    client
}

/// [MQTT-4.12.1-1]
#[test]
fn a_relayed_client_authenticates_again_at_the_node_of_its_session() {
    let [sockets, _sessions] = two_with(|policy| policy.authenticate = Arc::new(Quiz));
    let mut client = asked(&sockets, "again");
    client.send(&auth(0x18, b"right"));
    assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })));
    for (answer, accepted) in [(&b"right"[..], true), (b"wrong", false)] {
        client.send(&auth(0x19, b""));
        assert!(matches!(client.receive(), Some(Packet::Auth { code: 0x18, .. })));
        client.send(&auth(0x18, answer));
        if accepted {
            assert!(matches!(client.receive(), Some(Packet::Auth { code: 0, .. })));
            client.ping();
        } else {
            assert_eq!(disconnected_with(&mut client), Some(0x87));
        }
    }
}
