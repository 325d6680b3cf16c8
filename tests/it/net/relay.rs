//! Relayed connections between two data planes, which a test joins in memory.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use weir_broker::Durability;
use weirmq::net::DataPlane;
use weirmq::net::relay::{Owner, RelayConfig, RelayEnd, RelayMessage, RelayPort, SlotLookup};
use weirmq::net::{DataPlaneConfig, ListenerPolicy};

use super::plane::{Plane, policy};
use super::transports::{Everywhere, TRANSPORTS};
use crate::cluster_nodes::traffic::{Message, collect, number, publish_all};
use crate::support::client::{Client, clean_connect};
use crate::support::until;
use crate::wire::{Connect, Packet, Version, Will};

/// The slot of all sessions.
pub const SLOT: u16 = 3;
pub const SOCKET_NODE: u64 = 1;
pub const SESSION_NODE: u64 = 2;

/// One node's views of who has all sessions, one for each time that it looks, and the last one from then on.
#[derive(Debug)]
struct View(Mutex<VecDeque<Owner>>);

impl SlotLookup for View {
    fn owner(&self, _: Durability, _: &str, _: &str) -> (u16, Owner) {
        let mut owners = self.0.lock().unwrap();
        let owner = owners[0];
        if owners.len() > 1 {
            owners.pop_front();
        }
        (SLOT, owner)
    }
}

type Rewrite = fn(&[u8]) -> Vec<u8>;

/// Carries messages to the other data plane, and keeps what was said.
pub struct Wire {
    own: u64,
    peer: Mutex<Option<DataPlane>>,
    sent: Mutex<Vec<RelayMessage>>,
    rewrite: Mutex<Option<Rewrite>>,
    holds_credit: AtomicBool,
    drops: Mutex<Vec<Dropped>>,
}

/// Messages that do not reach the other node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    Opens,
    Ends,
}

impl Wire {
    /// What was said, but for data and credit.
    pub fn sent(&self) -> Vec<RelayMessage> {
        self.sent.lock().unwrap().clone()
    }

    /// Changes admissions from now on.
    pub fn rewrite_admissions(&self, rewrite: Rewrite) {
        *self.rewrite.lock().unwrap() = Some(rewrite);
    }

    /// From now on.
    pub fn drop_all(&self, dropped: Dropped) {
        self.drops.lock().unwrap().push(dropped);
    }

    /// No credit reaches the other node any more.
    pub fn hold_credit(&self) {
        self.holds_credit.store(true, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

impl RelayPort for Wire {
    fn send(&self, _: u64, mut message: RelayMessage) {
        if let (RelayMessage::Open { admission, .. }, Some(rewrite)) = (&mut message, &*self.rewrite.lock().unwrap()) {
            *admission = rewrite(admission);
        }
        if matches!(message, RelayMessage::Credit { .. }) && self.holds_credit.load(Ordering::SeqCst) {
            return;
        }
        if !matches!(message, RelayMessage::Data { .. } | RelayMessage::Credit { .. }) {
            self.sent.lock().unwrap().push(message.clone());
        }
        let is_dropped = |dropped: &Dropped| match dropped {
            Dropped::Opens => matches!(message, RelayMessage::Open { .. }),
            Dropped::Ends => matches!(message, RelayMessage::End { .. }),
        };
        if self.drops.lock().unwrap().iter().any(is_dropped) {
            return;
        }
        if let Some(peer) = &*self.peer.lock().unwrap() {
            peer.relay_message(self.own, message);
        }
    }
}

/// A node with all transports.
pub struct Node {
    pub everywhere: Everywhere,
    view: Arc<View>,
    pub wire: Arc<Wire>,
}

impl Node {
    fn start(own: u64, owner: Owner, adjust: impl Fn(&mut ListenerPolicy)) -> Self {
        let view = Arc::new(View(Mutex::new(VecDeque::from([owner]))));
        let wire = Arc::new(Wire {
            own,
            peer: Mutex::default(),
            sent: Mutex::default(),
            rewrite: Mutex::default(),
            holds_credit: AtomicBool::new(false),
            drops: Mutex::default(),
        });
        let relay = RelayConfig { lookup: Arc::clone(&view) as _, port: Arc::clone(&wire) as _ };
        let config = DataPlaneConfig { shards: 2, relay: Some(relay), ..DataPlaneConfig::default() };
        Self { everywhere: Everywhere::on(Plane::with(&config), adjust), view, wire }
    }

    pub fn plane(&self) -> &DataPlane {
        &self.everywhere.plane.plane
    }

    pub fn set_owner(&self, owner: Owner) {
        self.set_owners(&[owner]);
    }

    pub fn set_owners(&self, owners: &[Owner]) {
        *self.view.0.lock().unwrap() = owners.iter().copied().collect();
        self.plane().slots_changed();
    }
}

/// The node with the sockets, and that with the sessions.
pub fn two() -> [Node; 2] {
    two_with(|_| {})
}

/// The same, with policies that are adjusted.
pub fn two_with(adjust: impl Fn(&mut ListenerPolicy)) -> [Node; 2] {
    let nodes = [(SOCKET_NODE, Owner::Peer(SESSION_NODE)), (SESSION_NODE, Owner::Here)]
        .map(|(own, owner)| Node::start(own, owner, &adjust));
    for (own, other) in [(0, 1), (1, 0)] {
        *nodes[own].wire.peer.lock().unwrap() = Some(nodes[other].plane().clone());
    }
    nodes
}

pub fn continuing(version: Version, id: &str) -> Connect {
    Connect { clean: false, ..clean_connect(version, id, Vec::new()) }
}

pub fn enter(node: &Node, transport: &str, connect: Connect) -> (Client, bool) {
    let mut client = Client::over(node.everywhere.open(transport), connect.version);
    client.send(&Packet::Connect(connect));
    match client.receive() {
        Some(Packet::ConnAck { code: 0, session_present, .. }) => (client, session_present),
        other => panic!("not admitted: {other:?}"),
    }
}

#[test]
fn sessions_of_the_other_node_are_reached_over_every_transport() {
    let [sockets, sessions] = two();
    for (round, transport) in TRANSPORTS.into_iter().enumerate() {
        // A session of 3.1.1 with one id, which every transport continues.
        let (mut client, present) = enter(&sockets, transport, continuing(Version::V3_1_1, "moving"));
        assert_eq!(present, round > 0, "{transport}");
        if round == 0 {
            client.subscribe("large", 2);
        }
        let mut payload = format!("{round} ").into_bytes();
        payload.resize(1 << 20, b'x');
        let mut publisher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "publisher");
        let sender = std::thread::spawn(move || publish_all(&mut publisher, &[Message::new("large", payload, 2)]));
        assert_eq!(number(&collect(&mut client, 1)[0]), round, "{transport}");
        sender.join().unwrap();
        let mut payload = format!("{} ", round + 100).into_bytes();
        payload.resize(1 << 20, b'y');
        client.send(&Message::new("large", payload, 0).packet(1));
        assert_eq!(number(&collect(&mut client, 1)[0]), round + 100, "{transport}");
    }
}

#[test]
fn a_client_that_closes_is_lost_at_the_node_of_its_session() {
    let [sockets, sessions] = two();
    let mut watcher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "watcher");
    watcher.subscribe("will", 1);
    let will = Will { topic: "will".into(), payload: b"7".into(), qos: 1, retain: false, properties: Vec::new() };
    for transport in TRANSPORTS {
        let connect = Connect { will: Some(will.clone()), ..continuing(Version::V3_1_1, "mortal") };
        drop(enter(&sockets, transport, connect));
        assert_eq!(number(&collect(&mut watcher, 1)[0]), 7, "{transport}");
    }
    // The peer is lost: the session's node sees a lost connection, the client the end of its own.
    let connect = Connect { will: Some(will), ..continuing(Version::V3_1_1, "mortal") };
    let (mut client, present) = enter(&sockets, "tcp", connect);
    assert!(present);
    sessions.plane().relay_peer_lost(SOCKET_NODE);
    assert_eq!(number(&collect(&mut watcher, 1)[0]), 7);
    sockets.plane().relay_peer_lost(SESSION_NODE);
    assert_eq!(client.receive(), None);
}

#[test]
fn a_client_waits_for_an_owner_and_is_refused_after_5_s() {
    let [sockets, sessions] = two();
    sockets.set_owner(Owner::Unknown);
    for (version, code) in [(Version::V3_1_1, 3), (Version::V5, 0x88)] {
        let mut client = Client::over(sockets.everywhere.open("tcp"), version);
        let began = Instant::now();
        client.send(&Packet::Connect(continuing(version, "waiting")));
        assert!(matches!(client.receive(), Some(Packet::ConnAck { code: refused, .. }) if refused == code));
        assert!(began.elapsed().as_secs() >= 4);
    }
    // The other node does not have the session yet; then it does.
    sessions.set_owner(Owner::Unknown);
    sockets.set_owner(Owner::Peer(SESSION_NODE));
    let mut client = Client::over(sockets.everywhere.open("wss"), Version::V5);
    client.send(&Packet::Connect(continuing(Version::V5, "waiting")));
    let refused = |message: &RelayMessage| matches!(message, RelayMessage::Close { reason: RelayEnd::NotOwner, .. });
    until("the owner refuses", String::new, || sessions.wire.sent.lock().unwrap().iter().any(refused));
    sessions.set_owner(Owner::Here);
    assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })));
    // This node gets the session.
    sockets.set_owner(Owner::Unknown);
    let mut client = Client::over(sockets.everywhere.open("tls"), Version::V5);
    client.send(&Packet::Connect(continuing(Version::V5, "here")));
    sockets.set_owner(Owner::Here);
    assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })));
    client.ping();
}

#[test]
fn a_reader_that_stops_holds_a_window_and_no_more() {
    let [sockets, sessions] = two();
    let (mut slow, _) = enter(&sockets, "tcp", continuing(Version::V3_1_1, "slow"));
    slow.subscribe("flood", 1);
    let (mut other, _) = enter(&sockets, "ws", continuing(Version::V3_1_1, "other"));
    other.subscribe("flood", 1);
    let mut publisher = Client::connect(sessions.everywhere.address("tcp"), Version::V5, "publisher");
    let flood = std::thread::spawn(move || {
        let messages: Vec<Message> = (0..200)
            .map(|n| Message::new("flood", [format!("{n} ").into_bytes(), vec![b'x'; 64 << 10]].concat(), 1))
            .collect();
        publish_all(&mut publisher, &messages);
    });
    // 12.8 MB, while the slow one reads nothing.
    let numbers: Vec<usize> = collect(&mut other, 200).iter().map(number).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
    flood.join().unwrap();
    let numbers: Vec<usize> = collect(&mut slow, 200).iter().map(number).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>());
}

#[test]
fn messages_that_make_no_sense_are_answered_or_ignored() {
    let [sockets, sessions] = two();
    for admission in
        [&b""[..], b"{}", b"\xff", br#"{"endpoint":"endpoint-1","clientId":"x","admittedBy":"","bytes":"*"}"#]
    {
        let message = RelayMessage::Open { relay: 9, slot: SLOT, admission: admission.to_vec() };
        sessions.plane().relay_message(SOCKET_NODE, message);
    }
    for from_opener in [false, true] {
        let data = RelayMessage::Data { relay: 77, from_opener, bytes: vec![1; 100] };
        sessions.plane().relay_message(SOCKET_NODE, data);
        let close = RelayMessage::Close { relay: 77, from_opener, reason: RelayEnd::Full };
        sessions.plane().relay_message(SOCKET_NODE, close);
        sessions.plane().relay_message(SOCKET_NODE, RelayMessage::Credit { relay: 77, from_opener, bytes: u32::MAX });
    }
    let refused = |message: &&RelayMessage| matches!(message, RelayMessage::Close { relay: 9, .. });
    until("all are refused", String::new, || sessions.wire.sent.lock().unwrap().iter().filter(refused).count() == 4);
    // An endpoint that only the node with the socket has.
    let address = sockets.everywhere.plane.listen_tcp(policy(77));
    let mut client = Client::open(address, Version::V5);
    client.send(&Packet::Connect(continuing(Version::V5, "alone")));
    assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0x88, .. })));
    let (mut client, _) = enter(&sockets, "tcp", continuing(Version::V5, "sound"));
    client.ping();
}
