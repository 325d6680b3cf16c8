//! Two brokers in memory and a link between them, under injected time: it is cut at random bytes, both ways, hundreds of
//! times, also with a new link that knows nothing of the former one. Nothing may be lost; at QoS 2 nothing doubled.

use std::collections::BTreeSet;
use std::sync::Arc;

use weir_bridge::{BridgeCounters, BridgeLink, BridgeSpec, LoopGuard, TopicRule};
use weir_broker::EndpointLimits;
use weir_mqtt::{
    Connect, ConnectProperties, DecodeContext, Decoded, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, ReasonCode, Side, Subscribe, SubscriptionOptions, UserProperties, decode, encode, puback, pubcomp, pubrec,
};

use crate::broker_sim::rng::Rng;
use crate::broker_sim::{Running, for_seeds};
use crate::node::{LinkId, Node, policy};

const V5: ProtocolVersion = ProtocolVersion::V5;

fn rule(filter: &str, strip: &str, add: &str, qos: QoS) -> TopicRule {
    TopicRule { filter: filter.into(), strip: strip.into(), add: add.into(), qos, retain: true, share: None }
}

fn spec(version: ProtocolVersion, out: Vec<TopicRule>, inward: Vec<TopicRule>) -> Arc<BridgeSpec> {
    Arc::new(BridgeSpec {
        version,
        client_id: "here-cloud".into(),
        username: None,
        password: None,
        keep_alive_s: 60,
        clean_start: false,
        session_expiry_s: 86_400,
        local_id: "$bridge/cloud".into(),
        mark: LoopGuard::new("here", "", 7).unwrap(),
        out,
        inward,
    })
}

/// A client of one of the brokers: it acknowledges and records messages.
struct Client {
    link: LinkId,
    received: Vec<u8>,
    got: Vec<(String, Vec<u8>, bool)>,
    next_id: u16,
    /// Identifiers of QoS 2 messages that were not released: a repeat is not a second message.
    open: BTreeSet<u16>,
}

impl Client {
    fn new(node: &mut Node, name: &str) -> Client {
        let link = node.open(policy(1, EndpointLimits::default()));
        let connect = Connect {
            version: V5,
            bridge: false,
            clean_start: true,
            keep_alive_s: 0,
            client_id: name,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        };
        let mut client = Client { link, received: Vec::new(), got: Vec::new(), next_id: 0, open: BTreeSet::new() };
        client.send(node, &Packet::Connect(Box::new(connect)));
        client
    }

    fn send(&mut self, node: &mut Node, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode(packet, V5, &mut bytes).unwrap();
        node.send(self.link, &bytes);
        node.settle();
        self.hear(node);
    }

    fn id(&mut self) -> PacketId {
        self.next_id = self.next_id % 60_000 + 1;
        PacketId::new(self.next_id).unwrap()
    }

    fn subscribe(&mut self, node: &mut Node, filter: &str) {
        let mut raw = (filter.len() as u16).to_be_bytes().to_vec();
        raw.extend_from_slice(filter.as_bytes());
        let options = SubscriptionOptions { qos: QoS::ExactlyOnce, retain_as_published: true, ..Default::default() };
        raw.push(options.qos as u8 | 8);
        let (packet_id, user_properties) = (self.id(), UserProperties::default());
        let subscribe =
            Subscribe { packet_id, subscription_identifier: None, user_properties, raw_filters: &raw, count: 1 };
        self.send(node, &Packet::Subscribe(subscribe));
    }

    fn publish(&mut self, node: &mut Node, topic: &str, payload: &[u8], qos: QoS, retain: bool) {
        let packet_id = (qos != QoS::AtMostOnce).then(|| self.id());
        let properties = PublishProperties::default();
        self.send(node, &Packet::Publish(Publish { dup: false, qos, retain, topic, packet_id, properties, payload }));
    }

    /// Receives and acknowledges packets.
    fn hear(&mut self, node: &mut Node) {
        loop {
            self.received.extend(node.take_output(self.link));
            let context = DecodeContext { version: V5, max_packet_size: u32::MAX, from: Side::Server };
            let (mut consumed, mut answer) = (0, Vec::new());
            while let Ok(Decoded::Packet { packet, len }) = decode(&self.received[consumed..], &context) {
                consumed += len;
                match packet {
                    Packet::Publish(publish) => {
                        let id = publish.packet_id;
                        match (publish.qos, id) {
                            (QoS::AtLeastOnce, Some(id)) => puback(&mut answer, V5, id, ReasonCode::Success),
                            (QoS::ExactlyOnce, Some(id)) => pubrec(&mut answer, V5, id, ReasonCode::Success),
                            _ => {}
                        }
                        let repeat =
                            publish.qos == QoS::ExactlyOnce && id.is_some_and(|id| !self.open.insert(id.get()));
                        if !repeat {
                            self.got.push((publish.topic.to_owned(), publish.payload.to_vec(), publish.retain));
                        }
                    }
                    Packet::PubRel(ack) => {
                        self.open.remove(&ack.packet_id.get());
                        pubcomp(&mut answer, V5, ack.packet_id, ReasonCode::Success);
                    }
                    Packet::PubRec(ack) => weir_mqtt::pubrel(&mut answer, V5, ack.packet_id, ReasonCode::Success),
                    _ => {}
                }
            }
            self.received.drain(..consumed);
            if answer.is_empty() {
                return;
            }
            node.send(self.link, &answer);
            node.settle();
        }
    }
}

/// Both brokers and the link between them.
struct World {
    here: Node,
    there: Node,
    link: BridgeLink,
    local: Option<LinkId>,
    remote: Option<LinkId>,
    from_local: Vec<u8>,
    from_remote: Vec<u8>,
    spec: Arc<BridgeSpec>,
    cuts: usize,
}

impl World {
    fn new(spec: Arc<BridgeSpec>, shards: u16) -> World {
        World {
            here: Node::new(shards),
            there: Node::new(shards),
            link: BridgeLink::new(Arc::clone(&spec)),
            local: None,
            remote: None,
            from_local: Vec::new(),
            from_remote: Vec::new(),
            spec,
            cuts: 0,
        }
    }

    fn now(&self) -> u64 {
        self.here.now
    }

    /// One connection has failed: the other one is closed with it.
    fn cut(&mut self) {
        self.local.take().into_iter().for_each(|local| self.here.close(local));
        self.remote.take().into_iter().for_each(|remote| self.there.close(remote));
        self.from_local.clear();
        self.from_remote.clear();
        self.link.closed();
        self.here.settle();
        self.there.settle();
        self.cuts += 1;
    }

    /// The process with the link ends, and another one starts; the sessions survive.
    fn forget(&mut self) {
        self.cut();
        self.link = BridgeLink::new(Arc::clone(&self.spec));
    }

    fn open(&mut self, reaches_remote: bool) {
        let now = self.now();
        if reaches_remote && self.remote.is_none() && self.local.is_none() {
            let limits = EndpointLimits { receive_maximum: 20, ..EndpointLimits::default() };
            self.remote = Some(self.there.open(policy(2, limits)));
            self.link.remote_opened(now).unwrap();
        }
        if self.local.is_none() && self.link.wants_local() {
            let limits = EndpointLimits { max_inflight: u16::MAX, receive_maximum: u16::MAX, ..Default::default() };
            self.local = Some(self.here.open(policy(3, limits)));
            self.link.local_opened(now).unwrap();
        }
        if self.link.needs_local_subscriptions() {
            let filters: Vec<String> = self.spec.out.iter().map(|rule| rule.filter.to_string()).collect();
            self.link.set_local_subscriptions(filters).unwrap();
        }
    }

    /// Moves at most so many bytes in each direction of each connection; whether any moved.
    fn turn(&mut self, mut most: impl FnMut(usize) -> usize) -> bool {
        let now = self.now();
        let mut moved = false;
        if let Some(remote) = self.remote {
            let part = most(self.link.to_remote().waiting().len());
            let bytes = self.link.to_remote().waiting()[..part].to_vec();
            self.link.to_remote().advance(part);
            self.there.send(remote, &bytes);
            self.there.settle();
            let came = self.there.take_output(remote);
            moved |= part > 0 || !came.is_empty();
            self.from_remote.extend(came);
            let part = most(self.from_remote.len());
            let taken = self.link.from_remote(&self.from_remote[..part], now).unwrap();
            self.from_remote.drain(..taken);
            moved |= taken > 0;
        }
        if let Some(local) = self.local {
            let part = most(self.link.to_local().waiting().len());
            let bytes = self.link.to_local().waiting()[..part].to_vec();
            self.link.to_local().advance(part);
            self.here.send(local, &bytes);
            self.here.settle();
            let came = self.here.take_output(local);
            moved |= part > 0 || !came.is_empty();
            self.from_local.extend(came);
            let part = most(self.from_local.len());
            let taken = self.link.from_local(&self.from_local[..part], now).unwrap();
            self.from_local.drain(..taken);
            moved |= taken > 0;
        }
        moved
    }

    /// Lets everything come to rest, without cuts.
    fn settle(&mut self) {
        for _ in 0..10_000 {
            self.open(true);
            if !self.turn(|all| all) && self.link.is_up() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Only the session here is there, with its subscriptions.
    fn prime(&mut self) {
        for _ in 0..100 {
            self.open(false);
            if !self.turn(|all| all) {
                break;
            }
        }
        self.cut();
    }
}

/// Every payload at least once, first seen in order; at QoS 2 exactly once.
fn check(what: &str, got: &[(String, Vec<u8>, bool)], sent: u32, qos: QoS) {
    let numbers: Vec<u32> =
        got.iter().map(|(_, payload, _)| u32::from_be_bytes(payload[..4].try_into().unwrap())).collect();
    let mut seen = BTreeSet::new();
    let first: Vec<u32> = numbers.iter().copied().filter(|number| seen.insert(*number)).collect();
    assert!(first.iter().copied().eq(0..sent), "{what}: lost or out of order, {} of {sent}: {first:?}", first.len());
    if qos == QoS::ExactlyOnce {
        assert_eq!(numbers.len(), sent as usize, "{what}: doubled");
    }
}

fn simulate(seed: u64) {
    let _running = Running(seed);
    let mut rng = Rng::new(seed);
    let qos = rng.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]);
    let version = rng.pick(&[V5, ProtocolVersion::V3_1_1]);
    let shards = rng.pick(&[1, 3]);
    let spec =
        spec(version, vec![rule("sensor/#", "", "site1/", qos)], vec![rule("cmd/site1/#", "cmd/site1/", "cmd/", qos)]);
    let mut world = World::new(spec, shards);
    world.prime();
    let mut publisher = Client::new(&mut world.here, "publisher");
    let mut reader = Client::new(&mut world.here, "reader");
    reader.subscribe(&mut world.here, "cmd/#");
    let mut operator = Client::new(&mut world.there, "operator");
    let mut archive = Client::new(&mut world.there, "archive");
    archive.subscribe(&mut world.there, "site1/#");
    // The other side keeps messages for us from the first connection on.
    world.settle();
    let (mut out, mut inward) = (0_u32, 0_u32);
    for _ in 0..400 {
        for _ in 0..rng.below(6) {
            publisher.publish(&mut world.here, "sensor/a", &out.to_be_bytes(), qos, false);
            out += 1;
        }
        for _ in 0..rng.below(4) {
            operator.publish(&mut world.there, "cmd/site1/b", &inward.to_be_bytes(), qos, false);
            inward += 1;
        }
        let reaches = !rng.one_in(8);
        for _ in 0..1 + rng.below(6) {
            world.open(reaches);
            let bytes = 1 + rng.below(400);
            world.turn(|all| all.min(rng.below(bytes + 1)));
            archive.hear(&mut world.there);
            reader.hear(&mut world.here);
        }
        match rng.below(12) {
            0..4 => world.cut(),
            4 => world.forget(),
            _ => {}
        }
    }
    world.settle();
    for _ in 0..50 {
        archive.hear(&mut world.there);
        reader.hear(&mut world.here);
        world.settle();
    }
    let what = format!("{version:?} {qos:?} on {shards} shards, {} cuts", world.cuts);
    check(&format!("out, {what}"), &archive.got, out, qos);
    check(&format!("in, {what}"), &reader.got, inward, qos);
    assert!(archive.got.iter().all(|(topic, ..)| topic == "site1/sensor/a"));
    assert!(reader.got.iter().all(|(topic, ..)| topic == "cmd/b"));
    assert!(world.cuts > 50, "{what}");
}

#[test]
fn interrupted_links_neither_lose_nor_duplicate_messages() {
    for_seeds(60, simulate);
}

/// One broker loses everything amid QoS 2 exchanges: the survivor still knows identifiers of sessions that are no more,
/// and new messages that come under them are not taken for old ones.
#[test]
fn packet_identifiers_of_a_lost_session_are_released() {
    for (version, here_is_lost) in [(V5, true), (V5, false), (ProtocolVersion::V3_1_1, true)] {
        let qos = QoS::ExactlyOnce;
        let spec = spec(version, vec![rule("a/#", "", "", qos)], vec![rule("b/#", "", "", qos)]);
        let mut world = World::new(Arc::clone(&spec), 1);
        world.prime();
        world.settle();
        let mut publisher = Client::new(&mut world.here, "publisher");
        let mut operator = Client::new(&mut world.there, "operator");
        for number in 0..5_u32 {
            publisher.publish(&mut world.here, "a/1", &number.to_be_bytes(), qos, false);
            operator.publish(&mut world.there, "b/1", &number.to_be_bytes(), qos, false);
        }
        // PUBLISH arrives on the other side, and its PUBREC does not come back.
        world.turn(|all| all);
        world.turn(|all| all);
        world.cut();
        if here_is_lost {
            world.here = Node::new(1);
            world.link = BridgeLink::new(spec);
            world.prime();
        } else {
            world.there = Node::new(1);
        }
        let mut publisher = Client::new(&mut world.here, "publisher");
        let mut reader = Client::new(&mut world.here, "reader");
        reader.subscribe(&mut world.here, "b/#");
        let mut operator = Client::new(&mut world.there, "operator");
        let mut archive = Client::new(&mut world.there, "archive");
        archive.subscribe(&mut world.there, "a/#");
        world.settle();
        for number in 100..110_u32 {
            publisher.publish(&mut world.here, "a/1", &number.to_be_bytes(), qos, false);
            operator.publish(&mut world.there, "b/1", &number.to_be_bytes(), qos, false);
        }
        for _ in 0..20 {
            world.settle();
            archive.hear(&mut world.there);
            reader.hear(&mut world.here);
        }
        let new = |got: &[(String, Vec<u8>, bool)]| {
            let numbers = got.iter().map(|(_, payload, _)| u32::from_be_bytes(payload[..4].try_into().unwrap()));
            numbers.filter(|number| *number >= 100).collect::<Vec<_>>()
        };
        let expected: Vec<u32> = (100..110).collect();
        assert_eq!(new(&archive.got), expected, "{version:?}, here lost: {here_is_lost}, out");
        assert_eq!(new(&reader.got), expected, "{version:?}, here lost: {here_is_lost}, in");
    }
}

/// Both directions carry the same topics: without No Local and the mark this would go round for ever.
#[test]
fn messages_do_not_loop_between_brokers() {
    for version in [V5, ProtocolVersion::V3_1_1] {
        let qos = QoS::AtLeastOnce;
        let spec = spec(version, vec![rule("#", "", "", qos)], vec![rule("#", "", "", qos)]);
        let mut world = World::new(spec, 1);
        world.prime();
        world.settle();
        let mut here = Client::new(&mut world.here, "here");
        here.subscribe(&mut world.here, "#");
        let mut there = Client::new(&mut world.there, "there");
        there.subscribe(&mut world.there, "#");
        here.publish(&mut world.here, "x", b"out.", qos, false);
        there.publish(&mut world.there, "y", b"in..", qos, true);
        for _ in 0..20 {
            world.settle();
            here.hear(&mut world.here);
            there.hear(&mut world.there);
        }
        let topics = |client: &Client| client.got.iter().map(|(topic, ..)| topic.clone()).collect::<Vec<_>>();
        let topics = |client: &Client| {
            let mut topics = topics(client);
            topics.sort();
            topics
        };
        assert_eq!(topics(&here), ["x", "y"], "{version:?}");
        assert_eq!(topics(&there), ["x", "y"], "{version:?}");
        let retained = here.got.iter().find(|(topic, ..)| topic == "y").map(|(_, _, retain)| *retain);
        assert_eq!(retained, Some(true), "the retain flag came along, {version:?}");
        assert_eq!(
            world.link.counters(),
            BridgeCounters { sent: 1, received: 1, ..BridgeCounters::default() },
            "{version:?}"
        );
    }
}

/// Messages that are retained when a bridge begins are forwarded once when the remote broker is connected, also at QoS
/// 0, and not again.
#[test]
fn retained_messages_are_forwarded_once() {
    let qos = QoS::AtLeastOnce;
    let mut quiet = rule("b/#", "", "", qos);
    quiet.retain = false;
    let spec = spec(V5, vec![rule("a/#", "", "", qos), quiet], Vec::new());
    let mut world = World::new(spec, 1);
    let mut here = Client::new(&mut world.here, "here");
    for (topic, qos) in [("a/0", QoS::AtMostOnce), ("a/1", qos), ("b/1", qos)] {
        here.publish(&mut world.here, topic, b"kept", qos, true);
    }
    let mut there = Client::new(&mut world.there, "there");
    there.subscribe(&mut world.there, "#");
    world.prime();
    for _ in 0..3 {
        world.settle();
        there.hear(&mut world.there);
        world.cut();
    }
    here.publish(&mut world.here, "b/1", b"live", qos, true);
    world.settle();
    there.hear(&mut world.there);
    let mut got: Vec<_> =
        there.got.iter().map(|(topic, payload, retain)| (topic.as_str(), &payload[..], *retain)).collect();
    got.sort_unstable();
    assert_eq!(got, [("a/0", &b"kept"[..], true), ("a/1", b"kept", true), ("b/1", b"live", false)]);
}

/// A change of rules is a difference of subscriptions, on the open connections.
#[test]
fn a_rule_change_resubscribes_on_the_open_link() {
    let qos = QoS::AtLeastOnce;
    let first = spec(V5, vec![rule("a/#", "", "", qos), rule("b/#", "", "", qos)], vec![rule("c/#", "", "", qos)]);
    let second =
        spec(V5, vec![rule("b/#", "b/", "new/", qos), rule("d/#", "", "", qos)], vec![rule("e/#", "", "", qos)]);
    let mut world = World::new(first, 1);
    world.prime();
    world.settle();
    world.spec = Arc::clone(&second);
    let now = world.now();
    world.link.set_spec(second, now).unwrap();
    world.settle();
    let mut here = Client::new(&mut world.here, "here");
    here.subscribe(&mut world.here, "#");
    let mut there = Client::new(&mut world.there, "there");
    there.subscribe(&mut world.there, "#");
    for topic in ["a/1", "b/1", "d/1"] {
        here.publish(&mut world.here, topic, b"1234", qos, false);
    }
    for topic in ["c/1", "e/1"] {
        there.publish(&mut world.there, topic, b"1234", qos, false);
    }
    for _ in 0..20 {
        world.settle();
        here.hear(&mut world.here);
        there.hear(&mut world.there);
    }
    let topics = |client: &Client| client.got.iter().map(|(topic, ..)| topic.clone()).collect::<BTreeSet<_>>();
    assert_eq!(topics(&there), ["new/1", "d/1", "c/1", "e/1"].map(String::from).into());
    assert_eq!(topics(&here), ["a/1", "b/1", "d/1", "e/1"].map(String::from).into());
    assert_eq!(world.cuts, 1, "the link was never closed but after the priming");
}
