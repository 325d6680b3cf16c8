//! Clients that are asked to leave while messages are in flight: the core in memory, under made-up time.

use weir_broker::{EndpointId, EndpointLimits};

use crate::node::{LinkId, Node, policy};
use crate::support::client::{connect, publish};
use crate::wire::packet_type::{PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::wire::{Ack, Packet, Properties, PropertyValue, Version, decode_server_packet};

const PATIENCE_MS: u64 = 5_000;

/// A subscriber with a session that stays, and a publisher elsewhere.
struct Scene {
    node: Node,
    version: Version,
    client: LinkId,
    other: LinkId,
}

impl Scene {
    fn new(version: Version, shards: u16) -> Self {
        let mut node = Node::new(shards);
        let client = node.open(policy(1, EndpointLimits::default()));
        let other = node.open(policy(2, EndpointLimits::default()));
        let mut scene = Self { node, version, client, other };
        scene.enter(true);
        let others = connect(version, "other", Properties::new());
        scene.send(other, &others);
        assert!(matches!(scene.all(other)[..], [Packet::ConnAck { code: 0, .. }]));
        let filters = vec![("t".to_owned(), 2)];
        scene.send(client, &Packet::Subscribe { id: 1, properties: Properties::new(), filters });
        assert!(matches!(scene.all(client)[..], [Packet::SubAck { .. }]));
        scene
    }

    fn enter(&mut self, clean: bool) {
        let mut properties = Properties::new();
        if self.version.is_v5() {
            properties.push((0x11, PropertyValue::Number(1000)));
        }
        let Packet::Connect(mut packet) = connect(self.version, "client", properties) else { panic!("CONNECT") };
        packet.clean = clean && self.version.is_v5();
        self.send(self.client, &Packet::Connect(packet));
        assert!(
            matches!(self.all(self.client)[0], Packet::ConnAck { code: 0, session_present, .. } if session_present != clean)
        );
    }

    fn send(&mut self, link: LinkId, packet: &Packet) {
        self.node.send(link, &packet.encode(self.version));
        self.node.settle();
    }

    /// Everything that a client was sent.
    fn all(&mut self, link: LinkId) -> Vec<Packet> {
        let (mut bytes, mut packets) = (self.node.take_output(link), Vec::new());
        while let Some((packet, size)) = decode_server_packet(self.version, &bytes).unwrap() {
            bytes.drain(..size);
            packets.push(packet);
        }
        assert!(bytes.is_empty());
        packets
    }

    /// What the client was sent, by name.
    fn received(&mut self) -> Vec<String> {
        let name = |packet: &Packet| match packet {
            Packet::Publish(message) => String::from_utf8_lossy(&message.payload).into_owned(),
            Packet::Disconnect { code, .. } => format!("DISCONNECT {code:#x}"),
            Packet::Ack(Ack { packet_type: PUBREC, .. }) => "PubRec".to_owned(),
            Packet::Ack(Ack { packet_type: PUBREL, .. }) => "PubRel".to_owned(),
            Packet::Ack(Ack { packet_type: PUBCOMP, .. }) => "PubComp".to_owned(),
            other => format!("{other:?}").split([' ', '{']).next().unwrap_or_default().to_owned(),
        };
        self.all(self.client).iter().map(name).collect()
    }

    fn publish(&mut self, payload: &str, qos: u8) {
        let packet = publish("t", payload.as_bytes(), qos, (qos > 0).then_some(9));
        self.send(self.other, &packet);
        if qos == 2 {
            self.send(self.other, &ack(PUBREL, 9));
        }
    }

    fn begin_drain(&mut self, deadline_ms: u64) -> bool {
        let now = self.node.now;
        let mut asked = false;
        for core in &mut self.node.cores {
            for id in core.connections(EndpointId(1)) {
                asked |= core.begin_drain(id, 0x98, None, now + deadline_ms, now);
            }
        }
        self.node.settle();
        asked
    }

    /// The client got DISCONNECT after `before`, and its connection closed.
    #[track_caller]
    fn assert_disconnected(&mut self, before: &[&str]) {
        let mut expected: Vec<String> = before.iter().map(|name| (*name).to_owned()).collect();
        if self.version.is_v5() {
            expected.push("DISCONNECT 0x98".to_owned());
        }
        assert_eq!(self.received(), expected, "{:?}", self.version);
        assert!(self.node.is_closed(self.client));
    }

    #[track_caller]
    fn assert_connected(&mut self, received: &[&str]) {
        assert_eq!(self.received(), received, "{:?}", self.version);
        assert!(!self.node.is_closed(self.client));
    }
}

fn ack(packet_type: u8, id: u16) -> Packet {
    Packet::Ack(Ack { packet_type, id, code: 0, properties: Properties::new() })
}

fn scenes() -> impl Iterator<Item = Scene> {
    [Version::V5, Version::V3_1_1].into_iter().flat_map(|version| [1, 3].map(|shards| Scene::new(version, shards)))
}

#[test]
fn a_client_with_nothing_in_flight_is_disconnected_at_once() {
    for mut scene in scenes() {
        scene.publish("0", 0);
        assert!(scene.begin_drain(PATIENCE_MS));
        scene.assert_disconnected(&["0"]);
    }
}

#[test]
fn a_drain_waits_for_messages_in_flight_and_sends_nothing_new() {
    for mut scene in scenes() {
        scene.publish("1", 1);
        scene.publish("2", 2);
        scene.assert_connected(&["1", "2"]);
        assert!(scene.begin_drain(PATIENCE_MS));
        scene.publish("later", 1);
        scene.assert_connected(&[]);
        scene.send(scene.client, &ack(PUBACK, 1));
        scene.send(scene.client, &ack(PUBREC, 2));
        scene.send(scene.client, &Packet::PingReq);
        scene.assert_connected(&["PubRel", "PingResp"]);
        scene.send(scene.client, &ack(PUBCOMP, 2));
        scene.assert_disconnected(&[]);
        scene.client = scene.node.open(policy(1, EndpointLimits::default()));
        scene.enter(false);
        // CONNACK was taken together with it.
        scene.send(scene.client, &Packet::PingReq);
        scene.assert_connected(&["PingResp"]);
    }
}

#[test]
fn messages_queued_during_a_drain_come_with_the_next_connection() {
    for mut scene in scenes() {
        scene.publish("first", 1);
        assert!(scene.begin_drain(PATIENCE_MS));
        scene.publish("second", 1);
        scene.assert_connected(&["first"]);
        scene.send(scene.client, &ack(PUBACK, 1));
        scene.assert_disconnected(&[]);
        scene.client = scene.node.open(policy(1, EndpointLimits::default()));
        let Packet::Connect(mut packet) = connect(scene.version, "client", Properties::new()) else {
            panic!("CONNECT")
        };
        packet.clean = false;
        scene.send(scene.client, &Packet::Connect(packet));
        scene.assert_connected(&["ConnAck", "second"]);
    }
}

#[test]
fn a_drain_waits_for_the_release_of_a_received_qos2_message() {
    for mut scene in scenes() {
        scene.send(scene.client, &publish("elsewhere", b"x", 2, Some(7)));
        assert!(scene.begin_drain(PATIENCE_MS));
        scene.assert_connected(&["PubRec"]);
        scene.send(scene.client, &ack(PUBREL, 7));
        scene.assert_disconnected(&["PubComp"]);
    }
}

#[test]
fn a_drain_ends_at_its_deadline() {
    for mut scene in scenes() {
        scene.publish("1", 1);
        assert!(scene.begin_drain(PATIENCE_MS));
        assert!(!scene.begin_drain(2 * PATIENCE_MS), "it was asked before");
        scene.node.advance(PATIENCE_MS - 1);
        scene.assert_connected(&["1"]);
        scene.node.advance(1);
        scene.assert_disconnected(&[]);
    }
    for mut scene in scenes() {
        scene.publish("1", 1);
        assert!(scene.begin_drain(PATIENCE_MS));
        assert!(!scene.begin_drain(0), "it was asked before, and is not waited for any longer");
        scene.assert_disconnected(&["1"]);
    }
}
