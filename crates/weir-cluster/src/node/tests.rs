#![allow(clippy::unwrap_used, clippy::panic)]

use super::*;
use crate::slots::{SlotOwner, SlotsWritten};
use crate::wire::{MoveStep, RelayClose, RelayFrame, WIRE_VERSIONS};
use weir_broker::gateway::SlotCopy;

pub(super) const A: Incarnation = 1;
pub(super) const B: Incarnation = 2;

fn node(name: &str, incarnation: Incarnation) -> ClusterNode {
    let members = MembersConfig {
        node: name.to_owned(),
        incarnation,
        wire: WIRE_VERSIONS,
        weir_version: String::new(),
        addresses: Vec::new(),
        has_data_dir: true,
    };
    let config = NodeConfig {
        members,
        shards: 0,
        hash_seed: 0,
        max_frame: 1000,
        receive_limit: 100_000,
        link_high_bytes: 10_000,
        slots_per_class: 8,
    };
    let mut node = ClusterNode::new(config, 0);
    node.members_mut().on_caught_up();
    node
}

/// Nodes without clients, and an engine that stores and sends at once.
pub(super) struct Cluster {
    pub(super) nodes: Vec<ClusterNode>,
    slots: Vec<Vec<u8>>,
    pub(super) now: Millis,
    pub(super) is_cut: bool,
    pub(super) silent: Option<usize>,
}

impl Cluster {
    pub(super) fn new() -> Self {
        let nodes = vec![node("a", A), node("b", B)];
        let mut cluster = Self { nodes, slots: Vec::new(), now: 0, is_cut: false, silent: None };
        cluster.pass(1500);
        cluster.nodes.iter_mut().for_each(|node| while node.next_relay().is_some() {});
        cluster
    }

    pub(super) fn pass(&mut self, ms: Millis) {
        let end = self.now + ms;
        while self.now < end {
            self.now += 10;
            self.turn();
        }
    }

    fn turn(&mut self) {
        let now = self.now;
        let mut heartbeats = Vec::new();
        let mut envelopes = Vec::new();
        for (at, node) in self.nodes.iter_mut().enumerate().filter(|(at, _)| self.silent != Some(*at)) {
            if let Some(request) = node.log_head_wanted() {
                node.on_log_head(request, 0);
            }
            if let Some(request) = node.slots_head_wanted() {
                node.on_slots_head(request, self.slots.len() as u64);
            }
            node.run(now);
            while let Some((_, bytes)) = node.next_heartbeat(now) {
                node.members_mut().on_heartbeat_acked(now, now);
                heartbeats.push(bytes);
            }
            let mut out = Vec::new();
            while let Some(to) = node.next_envelope(1000, &mut out, now) {
                envelopes.push((at, to, out.clone()));
            }
            if let Some(write) = node.next_slots_write() {
                let fits = write.expected == self.slots.len() as u64;
                if fits {
                    self.slots.push(write.bytes);
                }
                let stored = SlotsWritten::Stored(self.slots.len() as u64);
                node.on_slots_written(if fits { stored } else { SlotsWritten::Conflict }, now);
            }
            while node.next_event().is_some() {}
        }
        for node in self.nodes.iter_mut().enumerate().filter(|(at, _)| self.silent != Some(*at)).map(|(_, node)| node) {
            heartbeats.iter().for_each(|bytes| node.on_heartbeat(bytes, now));
            node.members_mut().on_read(now);
            (1..).zip(&self.slots).for_each(|(version, bytes)| node.on_slots(version, bytes, now));
            let own = node.incarnation();
            for (_, _, bytes) in envelopes.iter().filter(|(_, to, _)| *to == own && !self.is_cut) {
                node.on_envelope(bytes, now);
            }
        }
    }

    pub(super) fn relays(&mut self, at: usize) -> Vec<String> {
        let mut all = Vec::new();
        while let Some((from, event)) = self.nodes[at].next_relay() {
            all.push(format!("{from} {event:?}"));
        }
        all
    }
}

pub(super) fn data(relay: u64, bytes: &[u8]) -> RelayFrame<'_> {
    RelayFrame::Data { relay, from_opener: true, bytes }
}

#[test]
fn relay_frames_arrive_in_order_and_are_counted() {
    let mut cluster = Cluster::new();
    let close = RelayFrame::Close { relay: 7, from_opener: true, reason: RelayClose::NotOwner };
    let frames = [RelayFrame::Open { relay: 7, slot: 3, admission: b"who" }, data(7, b"abc"), data(7, b"d"), close];
    for frame in &frames {
        assert!(cluster.nodes[0].send_relay(B, frame));
    }
    cluster.pass(30);
    let expected: Vec<String> = frames.iter().map(|frame| format!("{A} {:?}", RelayEvent::Frame(*frame))).collect();
    assert_eq!(cluster.relays(1), expected);
    let sent = RelayCounters { opened: 1, bytes_sent: 7, ..RelayCounters::default() };
    let received = RelayCounters { accepted: 1, bytes_received: 7, ..RelayCounters::default() };
    let now = cluster.now;
    assert_eq!((cluster.nodes[0].status(now).relays, cluster.nodes[1].status(now).relays), (sent, received));
    cluster.pass(300);
    let link = cluster.nodes[0].status(cluster.now).peers[0].link.unwrap();
    assert_eq!((link.unacknowledged_bytes, link.buffered_bytes, link.counters.resends), (0, 0, 0));
}

#[test]
fn relay_frames_need_a_link_and_a_length_that_fits() {
    let mut cluster = Cluster::new();
    assert!(!cluster.nodes[0].send_relay(9, &data(1, b"x")));
    assert!(!cluster.nodes[0].send_relay(B, &data(1, &[0; 1000])));
    assert!(cluster.nodes[0].send_relay(B, &data(1, &[0; 900])));
}

#[test]
fn relay_is_congested_while_much_is_on_the_way_and_frames_are_still_sent() {
    let mut cluster = Cluster::new();
    cluster.is_cut = true;
    for _ in 0..30 {
        assert!(cluster.nodes[0].send_relay(B, &data(1, &[0; 900])));
    }
    cluster.pass(20);
    assert!(cluster.nodes[0].relay_congested(B) && !cluster.nodes[1].relay_congested(A));
    cluster.is_cut = false;
    cluster.pass(500);
    assert!(!cluster.nodes[0].relay_congested(B));
    assert_eq!(cluster.relays(1).len(), 30);
}

#[test]
fn peer_that_is_out_or_begins_anew_loses_its_relays_on_both_sides() {
    let mut cluster = Cluster::new();
    cluster.silent = Some(1);
    cluster.pass(5000);
    let reset = |peer| format!("{peer} {:?}", RelayEvent::LinkReset);
    assert_eq!(cluster.relays(0), [reset(B)]);
    assert!(!cluster.nodes[0].send_relay(B, &data(1, b"x")));
    // What it sends before it knows that it was out belongs to relays that do not exist any more.
    assert!(cluster.nodes[1].send_relay(A, &data(2, b"old")));
    cluster.silent = None;
    cluster.pass(1500);
    assert!(cluster.relays(0).iter().all(|event| *event == reset(B)));
    assert_eq!(cluster.relays(1), [reset(A)]);
    assert!(cluster.nodes[0].send_relay(B, &data(3, b"new")));
    cluster.pass(50);
    assert_eq!(cluster.relays(1), [format!("{A} {:?}", RelayEvent::Frame(data(3, b"new")))]);

    // One that restarted is another peer.
    cluster.nodes[1] = node("b", 3);
    cluster.nodes[1].members_mut().on_read(cluster.now);
    cluster.pass(1500);
    assert_eq!(cluster.relays(0), [reset(B)]);
    assert!(cluster.nodes[0].send_relay(3, &data(4, b"x")) && !cluster.nodes[0].send_relay(B, &data(4, b"x")));
}

#[test]
fn two_nodes_share_the_slots_and_each_knows_what_the_other_serves() {
    let mut cluster = Cluster::new();
    cluster.pass(2000);
    let (a, b) = (cluster.nodes[0].slot_view().clone(), cluster.nodes[1].slot_view().clone());
    assert_eq!((a.version, a.per_class, a.slots.len()), (b.version, 8, 16));
    let mut counts = [0; 2];
    for slot in 0..16 {
        match (a.owner(slot), b.owner(slot)) {
            (SlotOwner::Here, SlotOwner::Peer(A)) => counts[0] += 1,
            (SlotOwner::Peer(B), SlotOwner::Here) => counts[1] += 1,
            other => panic!("slot {slot}: {other:?} {:?}", a.slots),
        }
        assert_eq!(a.node(slot), b.node(slot));
    }
    assert!(counts.iter().all(|count| *count > 2), "{counts:?}");
    let status = cluster.nodes[0].status(cluster.now).slots;
    assert!(status.is_current && status.version == a.version && status.slots.len() == 16);
    let classes: Vec<SlotClass> = status.slots.iter().map(|slot| slot.class).collect();
    assert_eq!((classes[7], classes[8]), (SlotClass::Memory, SlotClass::Disk));
    assert!(cluster.nodes[0].take_slot_view_changed() && !cluster.nodes[0].take_slot_view_changed());
}

#[test]
fn node_is_not_ready_before_it_has_read_the_slot_table_to_its_head() {
    let mut node = node("a", A);
    let mut ready = Vec::new();
    for (now, head) in [(0, None), (100, None), (200, Some(0)), (300, None)] {
        if let Some(request) = node.log_head_wanted() {
            node.on_log_head(request, 0);
        }
        if let Some(head) = head {
            let request = node.slots_head_wanted().unwrap();
            node.on_slots_head(request, head);
        }
        node.run(now);
        if let Some((_, bytes)) = node.next_heartbeat(now) {
            node.members_mut().on_heartbeat_acked(now, now);
            node.on_heartbeat(&bytes, now);
        }
        node.members_mut().on_read(now);
        node.run(now);
        ready.push((node.is_in(), node.is_ready()));
    }
    assert_eq!(ready, [(true, false), (true, false), (true, true), (true, true)]);
}

#[test]
fn node_that_leaves_waits_for_the_table_while_it_has_a_copy_of_slots() {
    for is_complete in [true, false] {
        let mut cluster = Cluster::new();
        let view = cluster.nodes[0].slot_view();
        let slot = (0..8).find(|slot| view.owner(*slot) == SlotOwner::Here).unwrap();
        let copy = SlotCopy::default().to_bytes();
        let mut steps = vec![(MoveStep::Offer(1 << slot), &[][..])];
        if is_complete {
            steps.extend([
                (MoveStep::Hold, &[][..]),
                (MoveStep::Cut(0), &[]),
                (MoveStep::Data, &copy),
                (MoveStep::DataEnd, &[]),
            ]);
        }
        for (step, bytes) in steps {
            assert!(cluster.nodes[0].send_move_bytes(B, 1, step, bytes));
            cluster.pass(100);
        }
        assert!(cluster.nodes[1].slots.has_import());
        let now = cluster.now;
        cluster.nodes[1].leave(now);
        cluster.pass(100);
        assert_eq!(cluster.nodes[1].slots.has_import(), is_complete, "a part of a copy is refused");
        if is_complete {
            assert!(cluster.nodes[1].is_giving_slots(), "the table may give it the slot");
            assert!(cluster.nodes[0].send_move(B, 1, MoveStep::Abandoned));
            cluster.pass(100);
            assert!(!cluster.nodes[1].slots.has_import());
        }
    }
}
