//! Wills are authorized when they are due, by what is declared then: the core in memory, under made-up time.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_broker::{
    Authorize, Dropped, EndpointId, EndpointLimits, EndpointPolicy, Principal, RecordKey, Recording, RefusedWill,
    StillAdmits, StoreAck, StoredRecords, Subject, WillRefusal,
};
use weir_mqtt::QoS;

use crate::node::{LinkId, Node, policy};
use crate::support::client::{connect, publish};
use crate::wire::{Packet, Properties, PropertyValue, Version, Will, decode_server_packet};

const SHARDS: [u16; 2] = [1, 3];
const EXPIRY_S: u32 = 100;
const DELAY_S: u32 = 10;

/// Nothing may be published under this prefix.
#[derive(Debug)]
struct Denies(&'static str);

impl Authorize for Denies {
    fn may_publish(&self, _: Subject<'_>, topic: &str, _: QoS, _: bool) -> bool {
        !topic.starts_with(self.0)
    }

    fn may_subscribe(&self, _: Subject<'_>, _: &str, _: QoS) -> bool {
        true
    }

    fn may_receive(&self, _: Subject<'_>, _: &str) -> bool {
        true
    }
}

/// A client of this user or id would no longer be admitted.
#[derive(Debug)]
struct Bans {
    client_id: &'static str,
    username: &'static str,
}

impl StillAdmits for Bans {
    fn still_admits(&self, client_id: &str, principal: &Principal) -> bool {
        client_id != self.client_id && principal.username.as_deref() != Some(self.username)
    }
}

fn limits() -> EndpointLimits {
    EndpointLimits { durability: weir_broker::Durability::Disk, ..EndpointLimits::default() }
}

/// The endpoint of the clients with wills, as of a later declaration.
fn later(generation: u64, acl: Option<&'static str>, admission: Option<Bans>) -> Arc<EndpointPolicy> {
    let plain = Arc::into_inner(policy(1, limits())).unwrap();
    Arc::new(EndpointPolicy {
        generation,
        acl: acl.map(|prefix| Arc::new(Denies(prefix)) as Arc<dyn Authorize>),
        interceptors: None,
        admission: admission.map(|bans| Arc::new(bans) as Arc<dyn StillAdmits>),
        ..plain
    })
}

fn denied() -> Arc<EndpointPolicy> {
    later(2, Some("will"), None)
}

fn banned() -> Arc<EndpointPolicy> {
    later(2, None, Some(Bans { client_id: "client", username: "" }))
}

fn deleted() -> Arc<EndpointPolicy> {
    later(2, None, Some(Bans { client_id: "", username: "user" }))
}

/// What takes the right to the will, and what is reported of it.
type Change = (fn() -> Arc<EndpointPolicy>, WillRefusal);
const CHANGES: [Change; 3] =
    [(denied, WillRefusal::NotPermitted), (banned, WillRefusal::NotAdmitted), (deleted, WillRefusal::NotAdmitted)];

/// A watcher of `#` on another endpoint of the namespace, and a client with a delayed will.
struct Scene {
    node: Node,
    watcher: LinkId,
    client: LinkId,
}

impl Scene {
    fn new(shards: u16) -> Self {
        Self::of(Node::new(shards))
    }

    fn of(mut node: Node) -> Self {
        let watcher = watch(&mut node);
        let client = node.open(policy(1, limits()));
        send(&mut node, client, &with_will(true));
        assert!(matches!(received(&mut node, client)[..], [Packet::ConnAck { code: 0, .. }]));
        Self { node, watcher, client }
    }

    /// A new declaration of the client's endpoint is put in force.
    fn declare(&mut self, policy: &Arc<EndpointPolicy>) {
        let now = self.node.now;
        self.node.cores.iter_mut().for_each(|core| core.set_policy(Arc::clone(policy), now));
        self.node.settle();
    }

    /// The network fails between the client and the broker.
    fn lose(&mut self) {
        self.node.close(self.client);
        self.node.settle();
    }

    fn seen(&mut self) -> Vec<String> {
        messages(&mut self.node, self.watcher)
    }

    /// Nothing was sent, and the reason was reported.
    #[track_caller]
    fn is_refused(&mut self, why: WillRefusal) {
        assert_eq!(self.seen(), [""; 0]);
        let will =
            RefusedWill { endpoint: "endpoint1".into(), client_id: "client".into(), topic: "will/t".into(), why };
        assert_eq!(refused(&mut self.node), [will]);
        assert_eq!(counted(&self.node), 1);
    }
}

/// An endpoint is declared.
fn know(node: &mut Node, policy: &Arc<EndpointPolicy>) {
    let now = node.now;
    node.cores.iter_mut().for_each(|core| core.register_policy(policy, now));
}

fn watch(node: &mut Node) -> LinkId {
    let watcher = node.open(policy(2, EndpointLimits::default()));
    send(node, watcher, &connect(Version::V5, "watcher", Properties::new()));
    let filters = vec![("#".to_owned(), 0)];
    send(node, watcher, &Packet::Subscribe { id: 1, properties: Properties::new(), filters });
    received(node, watcher);
    watcher
}

fn with_will(clean: bool) -> Packet {
    let expiry = (0x11, PropertyValue::Number(EXPIRY_S));
    let Packet::Connect(mut packet) = connect(Version::V5, "client", vec![expiry]) else { panic!("CONNECT") };
    packet.clean = clean;
    packet.username = Some("user".to_owned());
    packet.will = Some(Will {
        topic: "will/t".to_owned(),
        payload: b"will".to_vec(),
        qos: 1,
        retain: false,
        properties: vec![(0x18, PropertyValue::Number(DELAY_S))],
    });
    Packet::Connect(packet)
}

fn send(node: &mut Node, link: LinkId, packet: &Packet) {
    node.send(link, &packet.encode(Version::V5));
    node.settle();
}

fn received(node: &mut Node, link: LinkId) -> Vec<Packet> {
    let (mut bytes, mut packets) = (node.take_output(link), Vec::new());
    while let Some((packet, size)) = decode_server_packet(Version::V5, &bytes).unwrap() {
        bytes.drain(..size);
        packets.push(packet);
    }
    packets
}

fn messages(node: &mut Node, link: LinkId) -> Vec<String> {
    let messages = received(node, link).into_iter().filter_map(|packet| match packet {
        Packet::Publish(message) => Some(message.topic),
        _ => None,
    });
    messages.collect()
}

fn refused(node: &mut Node) -> Vec<RefusedWill> {
    node.cores.iter_mut().flat_map(|core| core.take_refused_wills()).collect()
}

/// Wills that were dropped, as counted.
fn counted(node: &Node) -> u64 {
    let counters = node.cores.iter().flat_map(|core| core.counters());
    counters.map(|(_, counters)| counters.dropped[Dropped::Revoked as usize]).sum()
}

#[test]
fn a_will_whose_client_lost_the_right_meanwhile_is_dropped_when_it_is_due() {
    for shards in SHARDS {
        for (change, why) in CHANGES {
            // After its delay.
            let mut scene = Scene::new(shards);
            scene.lose();
            scene.declare(&change());
            scene.node.advance(u64::from(DELAY_S) * 1000 - 1);
            assert_eq!(refused(&mut scene.node), []);
            scene.node.advance(1);
            scene.is_refused(why);
            // With the connection that was there before the change: at its end, once its delay is over.
            let mut scene = Scene::new(shards);
            scene.declare(&change());
            scene.lose();
            scene.node.advance(u64::from(DELAY_S) * 1000);
            scene.is_refused(why);
            // As the session ends: a client that may connect begins it anew.
            let mut scene = Scene::new(shards);
            scene.lose();
            scene.declare(&change());
            let other = scene.node.open(policy(2, EndpointLimits::default()));
            send(&mut scene.node, other, &connect(Version::V5, "client", Properties::new()));
            scene.is_refused(why);
        }
    }
}

#[test]
fn a_will_whose_client_has_its_right_when_it_is_due_is_sent_once() {
    for shards in SHARDS {
        for change in [denied, banned, deleted] {
            let mut scene = Scene::new(shards);
            scene.lose();
            scene.declare(&change());
            scene.declare(&later(3, Some("other"), Some(Bans { client_id: "other", username: "other" })));
            scene.node.advance(u64::from(EXPIRY_S) * 2000);
            assert_eq!(scene.seen(), ["will/t"]);
            assert_eq!((refused(&mut scene.node), counted(&scene.node)), (vec![], 0));
        }
    }
}

#[test]
fn a_will_of_an_endpoint_that_is_gone_needs_the_right_on_another_of_the_namespace() {
    for shards in SHARDS {
        for (admission, sent) in [(None, true), (Some(Bans { client_id: "", username: "user" }), false)] {
            let mut scene = Scene::new(shards);
            scene.lose();
            let other = Arc::into_inner(policy(2, EndpointLimits::default())).unwrap();
            let admission = admission.map(|bans| Arc::new(bans) as Arc<dyn StillAdmits>);
            scene.declare(&Arc::new(EndpointPolicy { generation: 2, admission, ..other }));
            scene.node.cores.iter_mut().for_each(|core| core.unregister_policy(EndpointId(1)));
            scene.node.advance(u64::from(DELAY_S) * 1000);
            if sent {
                assert_eq!(scene.seen(), ["will/t"]);
            } else {
                scene.is_refused(WillRefusal::NotAdmitted);
            }
        }
    }
}

#[test]
fn a_client_that_is_thrown_out_leaves_no_will() {
    for shards in SHARDS {
        let mut scene = Scene::new(shards);
        let now = scene.node.now;
        for core in &mut scene.node.cores {
            for id in core.connections(EndpointId(1)) {
                assert!(core.revoke(id, 0x98, now));
                assert!(!core.revoke(id, 0x98, now), "it is gone");
            }
        }
        scene.node.settle();
        assert!(matches!(received(&mut scene.node, scene.client)[..], [Packet::Disconnect { code: 0x98, .. }]));
        assert!(scene.node.is_closed(scene.client));
        scene.is_refused(WillRefusal::Revoked);
        scene.node.advance(u64::from(EXPIRY_S) * 2000);
        assert_eq!(scene.seen(), [""; 0]);
    }
}

/// What outlives the process.
#[derive(Default)]
struct Disk {
    records: BTreeMap<RecordKey, Box<[u8]>>,
    /// The wall clock, ms since 1970, at a node's time 0.
    epoch_unix_ms: u64,
}

impl Disk {
    /// A process begins, `down_ms` after `before` ended.
    fn begin(&mut self, shards: u16, before: Option<&Node>, down_ms: u64) -> Node {
        let mut node = Node::new(shards);
        self.epoch_unix_ms = match before {
            None => 1_800_000_000_000,
            Some(before) => self.epoch_unix_ms + before.now + down_ms - node.now,
        };
        let stored = StoredRecords::new(self.records.iter().map(|(key, value)| (*key, value.clone())).collect());
        let recording = Recording { next_id: stored.next_id(), epoch_unix_ms: self.epoch_unix_ms };
        let now = node.now;
        for core in &mut node.cores {
            core.start_recording(recording);
            core.restore(&stored, now).expect("its own records");
        }
        node.settle();
        node.advance(0);
        node
    }

    fn commit(&mut self, node: &mut Node) {
        for (shard, batch) in node.take_records() {
            for (key, value) in batch.records() {
                match value {
                    Some(value) => self.records.insert(key, value.into()),
                    None => self.records.remove(&key),
                };
            }
            node.cores[usize::from(shard.0)].on_store_ack(StoreAck::UpTo(batch.number), node.now);
        }
        node.settle();
    }
}

/// A client with a will connects, and loses its connection, or not; the process ends `down_ms` before the next one begins.
fn restarted(shards: u16, loses: bool, down_ms: u64) -> (Disk, Node) {
    let mut disk = Disk::default();
    let mut node = disk.begin(shards, None, 0);
    let client = node.open(policy(1, limits()));
    send(&mut node, client, &with_will(true));
    disk.commit(&mut node);
    if loses {
        node.close(client);
        disk.commit(&mut node);
    }
    let node = disk.begin(shards, Some(&node), down_ms);
    (disk, node)
}

#[test]
fn a_restored_will_waits_for_its_endpoint_and_is_judged_by_what_is_declared_then() {
    let changes = CHANGES.map(|(change, why)| (change, Some(why)));
    let unchanged: fn() -> Arc<EndpointPolicy> = || later(1, None, None);
    for shards in SHARDS {
        for loses in [true, false] {
            // Due or ended while no process was there, and not due yet.
            for down_ms in [1, u64::from(DELAY_S) * 2000, u64::from(EXPIRY_S) * 2000] {
                for (change, why) in changes.into_iter().chain([(unchanged, None)]) {
                    let (mut disk, mut node) = restarted(shards, loses, down_ms);
                    let watcher = watch(&mut node);
                    node.advance(u64::from(DELAY_S) * 1000);
                    assert_eq!(messages(&mut node, watcher), [""; 0], "its endpoint is not declared yet");
                    let declared = change();
                    know(&mut node, &declared);
                    node.advance(u64::from(DELAY_S) * 1000);
                    let reported: Vec<WillRefusal> = refused(&mut node).into_iter().map(|will| will.why).collect();
                    let sent = messages(&mut node, watcher);
                    assert_eq!((sent.len(), reported), (usize::from(why.is_none()), why.into_iter().collect()));
                    // It is done with, also for the next process.
                    disk.commit(&mut node);
                    let mut node = disk.begin(shards, Some(&node), 1);
                    let watcher = watch(&mut node);
                    know(&mut node, &declared);
                    node.advance(u64::from(EXPIRY_S) * 2000);
                    assert_eq!((messages(&mut node, watcher), refused(&mut node)), (vec![], vec![]));
                }
            }
        }
    }
}

#[test]
fn a_restored_will_whose_endpoint_is_not_declared_again_is_judged_as_of_one_that_is_gone() {
    for shards in SHARDS {
        let (_, mut node) = restarted(shards, true, 1);
        node.advance(u64::from(EXPIRY_S) * 2000);
        let why: Vec<WillRefusal> = refused(&mut node).into_iter().map(|will| will.why).collect();
        assert_eq!(why, [WillRefusal::NotAdmitted], "nothing of the namespace is declared");
        let (_, mut node) = restarted(shards, true, 1);
        let watcher = watch(&mut node);
        node.advance(u64::from(EXPIRY_S) * 2000);
        assert_eq!(messages(&mut node, watcher), ["will/t"], "the watcher's endpoint admits and permits it");
    }
}

#[test]
fn a_client_that_is_back_in_time_has_no_will_to_be_judged() {
    for shards in SHARDS {
        let mut scene = Scene::new(shards);
        scene.lose();
        scene.client = scene.node.open(policy(1, limits()));
        send(&mut scene.node, scene.client, &with_will(false));
        scene.node.advance(u64::from(DELAY_S) * 1000);
        assert_eq!((scene.seen(), refused(&mut scene.node)), (vec![], vec![]));
        let other = publish("other", b"m", 0, None);
        send(&mut scene.node, scene.client, &other);
        assert_eq!(scene.seen(), ["other"]);
    }
}
