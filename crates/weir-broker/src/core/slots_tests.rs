//! The slots of a cluster: which CONNECT is served, and what becomes of sessions whose slot is lost.

use std::sync::Arc;

use super::tests::policy;
use crate::gateway::{Gateway, Outside, PeerMessage, PeerSlot, RetainedEntry, SlotSets, Slots};
use crate::ids::{ConnId, Millis};
use crate::placement::session_slot;
use crate::{
    Admission, Core, CoreConfig, Durability, EndpointLimits, EndpointPolicy, Output, Principal, Recording, Scope,
    ShardId, StoreAck, WorkBudget,
};
use weir_mqtt::{Decoded, decode_connect};

pub(super) const PER_CLASS: u16 = 16;
pub(super) const ALL: Slots = Slots((1 << (2 * PER_CLASS)) - 1);

fn sets(owned: Slots, releasing: Slots) -> SlotSets {
    SlotSets { owned, releasing, ..SlotSets::default() }
}

pub(super) struct Nowhere;

impl Outside for Nowhere {
    fn push(&mut self, _: PeerSlot, _: &PeerMessage<'_>) -> u64 {
        1
    }

    fn append(&mut self, _: &RetainedEntry<'_>) {}
}

/// One shard and its gateway.
pub(super) struct Bench {
    pub(super) core: Core,
    pub(super) gateway: Gateway,
    pub(super) policy: Arc<EndpointPolicy>,
    /// Connections that the core closed, and how many bytes each was to be sent before.
    pub(super) closed: Vec<(ConnId, usize)>,
    pub(super) now: Millis,
}

impl Bench {
    fn new(durability: Durability, work: WorkBudget) -> Self {
        let mut core = Core::new(CoreConfig { shard: ShardId(0), shards: 1, hash_seed: 0, work });
        core.start_recording(Recording { next_id: 1, epoch_unix_ms: 0 });
        core.join_cluster();
        let limits = EndpointLimits { durability, ..EndpointLimits::default() };
        let policy = Arc::new(EndpointPolicy { limits, ..policy() });
        core.register_policy(&policy, 0);
        let mut gateway = Gateway::new(1, 0, 1);
        gateway.set_in_until(1_000_000);
        let mut bench = Self { core, gateway, policy, closed: Vec::new(), now: 1000 };
        bench.run();
        bench
    }

    /// A node that owns every slot.
    pub(super) fn of_all(durability: Durability) -> Self {
        let mut bench = Self::new(durability, WorkBudget::default());
        bench.gateway.set_slots(PER_CLASS, sets(ALL, Slots::NONE));
        bench.run();
        bench
    }

    /// One turn. Returns whether anything was done.
    fn turn(&mut self) -> bool {
        self.turn_with(&mut Nowhere)
    }

    fn turn_with(&mut self, outside: &mut impl Outside) -> bool {
        let mut is_busy = self.core.next_deadline().is_some_and(|at| at <= self.now);
        self.core.tick(self.now);
        while let Some(output) = self.core.poll(Scope::All) {
            match output {
                Output::Batch(_, batch) => {
                    self.gateway.accept_batch(ShardId(0), batch);
                    is_busy = true;
                }
                Output::Close(conn) => {
                    let unsent = self.core.out(conn).map_or(0, |out| out.len());
                    self.closed.push((conn, unsent));
                    self.core.connection_closed(conn, self.now);
                }
                Output::Records(records) => self.core.on_store_ack(StoreAck::UpTo(records.number), self.now),
                _ => {}
            }
        }
        self.gateway.run(false, outside, self.now);
        while let Some(batch) = self.gateway.take_batch(ShardId(0)) {
            self.core.deliver_batch(ShardId(1), batch, self.now);
            is_busy = true;
        }
        is_busy
    }

    pub(super) fn run(&mut self) {
        self.run_with(&mut Nowhere);
    }

    fn run_with(&mut self, outside: &mut impl Outside) {
        while self.turn_with(outside) {}
    }

    /// A CONNECT of 3.1.1, with a will to `w` where asked. `Err`: the CONNACK.
    pub(super) fn connect(&mut self, client_id: &str, clean: bool, has_will: bool) -> Result<ConnId, Vec<u8>> {
        let flags = u8::from(clean) << 1 | u8::from(has_will) << 2;
        let will: &[u8] = if has_will { b"\0\x01w\0\x04gone" } else { b"" };
        let body =
            [&b"\0\x04MQTT\x04"[..], &[flags, 0, 0, 0, client_id.len() as u8], client_id.as_bytes(), will].concat();
        self.admit(client_id, &[&[0x10, body.len() as u8][..], &body].concat())
    }

    pub(super) fn admit(&mut self, client_id: &str, bytes: &[u8]) -> Result<ConnId, Vec<u8>> {
        let Ok(Decoded::Packet { packet, .. }) = decode_connect(bytes, 1000) else { panic!("no CONNECT") };
        let principal =
            Principal { username: None, address: None, admitted_by: "test".into(), claims_acl: None, expires_at: None };
        let admission = Admission {
            policy: Arc::clone(&self.policy),
            connect: &packet,
            client_id,
            assigned: false,
            principal,
            authentication_data: None,
        };
        self.core.admit(admission, self.now)
    }

    pub(super) fn subscribe(&mut self, conn: ConnId, topic: u8) {
        self.core.receive(conn, &[0x82, 6, 0, 1, 0, 1, topic, 1], self.now);
    }

    pub(super) fn publish(&mut self, conn: ConnId, topic: u8) {
        self.core.receive(conn, &[0x32, 6, 0, 1, topic, 0, 9, b'x'], self.now);
    }

    /// Takes what a connection may be sent.
    pub(super) fn flush(&mut self, conn: ConnId) -> Vec<u8> {
        let Some(out) = self.core.out(conn) else { return Vec::new() };
        let bytes = out.ready_from(0);
        out.advance(bytes.len());
        self.core.written(conn, self.now);
        bytes
    }

    pub(super) fn slot(&self, client_id: &str) -> u16 {
        session_slot(self.policy.limits.durability, "", client_id, PER_CLASS)
    }

    fn own_all_but(&mut self, client_id: &str) {
        let mut slots = ALL;
        slots.remove(self.slot(client_id));
        self.gateway.set_slots(PER_CLASS, sets(slots, Slots::NONE));
    }

    pub(super) fn sessions(&self) -> usize {
        self.core.gauges().sessions
    }
}

#[test]
fn connect_of_a_slot_that_is_not_owned_is_refused_before_anything_changes() {
    let mut bench = Bench::new(Durability::Memory, WorkBudget::default());
    assert_eq!(bench.connect("a", false, true), Err(vec![0x20, 2, 0, 3]), "no slot is known yet");
    bench.connect("transient", true, false).expect("a clean session is served where its socket is");
    bench.connect("$bridge/b", false, false).expect("a bridge is of its node");
    bench.own_all_but("a");
    bench.run();
    bench.connect("b", false, false).expect("its slot is owned");
    let sessions = bench.sessions();
    assert_eq!(bench.connect("a", false, false), Err(vec![0x20, 2, 0, 3]));
    // 5.0, Clean Start with a session expiry of 9 s: the session outlasts the connection.
    let v5 = b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x09\0\x01a";
    assert_eq!(bench.admit("a", v5).map_err(|connack| connack[3]), Err(0x88));
    bench.connect("a", true, false).expect("a clean session needs no slot");
    assert_eq!(bench.sessions(), sessions + 1);
}

#[test]
fn connect_is_refused_where_the_lease_is_over() {
    let mut bench = Bench::of_all(Durability::Memory);
    bench.gateway.set_in_until(2000);
    bench.run();
    bench.connect("a", false, false).expect("in");
    bench.now = 2001;
    assert_eq!(bench.connect("b", false, false), Err(vec![0x20, 2, 0, 3]));
}

#[test]
fn lost_slot_closes_its_connections_unsent_ends_its_sessions_and_publishes_their_wills() {
    let mut bench = Bench::of_all(Durability::Memory);
    let witness = bench.connect("witness", true, false).expect("clean");
    bench.subscribe(witness, b'w');
    let lost = bench.connect("lost", false, true).expect("owned");
    let kept = bench.connect("kept", false, false).expect("owned");
    assert_ne!(bench.slot("lost"), bench.slot("kept"));
    [lost, kept].into_iter().for_each(|conn| bench.subscribe(conn, b't'));
    bench.run();
    [lost, kept, witness].into_iter().for_each(|conn| {
        bench.flush(conn);
    });
    // Its own PUBACK and the copies wait to be sent; the lease ended before.
    bench.publish(lost, b't');
    bench.own_all_but("lost");
    bench.run();
    assert_eq!(bench.closed, [(lost, 0)], "nothing is left to send");
    assert!(bench.flush(kept).ends_with(b"x"), "others get the message");
    assert!(bench.flush(witness).ends_with(b"gone"), "the will is published");
    assert_eq!(bench.sessions(), 2);
    assert_eq!(bench.gateway.slots_applied(), (2, Slots::NONE));
    bench.gateway.set_slots(PER_CLASS, sets(ALL, Slots::NONE));
    bench.run();
    let again = bench.connect("lost", false, false).expect("owned again");
    assert_eq!(bench.flush(again), [0x20, 2, 0, 0], "session present 0");
}

#[test]
fn lost_sessions_end_over_several_turns_and_only_then_the_change_counts_as_applied() {
    let mut bench = Bench::new(Durability::Memory, WorkBudget::LEAST);
    bench.gateway.set_slots(PER_CLASS, sets(ALL, Slots::NONE));
    bench.run();
    for n in 0..20 {
        let conn = bench.connect(&format!("client-{n}"), false, false).expect("owned");
        bench.subscribe(conn, b't');
        bench.core.connection_closed(conn, bench.now);
    }
    bench.run();
    let number = bench.gateway.set_slots(PER_CLASS, sets(Slots::NONE, Slots::NONE));
    let mut turns = 0;
    while bench.gateway.slots_applied().0 < number {
        assert!(bench.sessions() > 0 || turns > 0);
        turns += 1;
        assert!(bench.turn(), "{turns} turns");
    }
    assert!(turns > 20, "{turns} turns");
    assert_eq!(bench.sessions(), 0);
}

#[test]
fn change_during_the_pass_over_sessions_is_applied_to_all_of_them() {
    let mut bench = Bench::new(Durability::Memory, WorkBudget::LEAST);
    bench.gateway.set_slots(PER_CLASS, sets(ALL, Slots::NONE));
    bench.run();
    for n in 0..20 {
        let conn = bench.connect(&format!("client-{n}"), false, false).expect("owned");
        bench.core.connection_closed(conn, bench.now);
    }
    bench.gateway.set_slots(PER_CLASS, sets(ALL, Slots::all(8)));
    (0..5).for_each(|_| {
        bench.turn();
    });
    let number = bench.gateway.set_slots(PER_CLASS, sets(Slots::NONE, Slots::NONE));
    bench.run();
    assert_eq!((bench.gateway.slots_applied(), bench.sessions()), ((number, Slots::NONE), 0));
}

#[test]
fn releasing_slot_serves_the_sessions_that_it_has_and_no_new_ones() {
    let mut bench = Bench::of_all(Durability::Memory);
    let conn = bench.connect("a", false, false).expect("owned");
    let releasing: Slots = [bench.slot("a"), bench.slot("b")].into_iter().collect();
    assert_eq!(releasing.len(), 2);
    bench.gateway.set_slots(PER_CLASS, sets(ALL, releasing));
    bench.run();
    assert_eq!(bench.gateway.slots_applied(), (2, [bench.slot("a")].into_iter().collect()));
    assert!(bench.closed.is_empty());
    bench.core.connection_closed(conn, bench.now);
    assert_eq!(bench.connect("b", false, false), Err(vec![0x20, 2, 0, 3]), "a new session");
    let v5_clean_start = b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x09\0\x01a";
    assert!(bench.admit("a", v5_clean_start).is_err(), "Clean Start begins a new session");
    let conn = bench.connect("a", false, false).expect("its session is here");
    assert_eq!(bench.flush(conn), [0x20, 2, 1, 0], "session present 1");
    // A clean session elsewhere discards it: the slot is empty.
    let clean = bench.connect("a", true, false).expect("clean");
    bench.core.connection_closed(clean, bench.now);
    bench.gateway.set_slots(PER_CLASS, sets(ALL, releasing));
    bench.run();
    assert_eq!(bench.gateway.slots_applied(), (3, Slots::NONE));
}

#[test]
fn session_on_disk_of_a_slot_that_is_lost_is_kept_counted_and_out_of_reach() {
    let mut bench = Bench::of_all(Durability::Disk);
    let conn = bench.connect("a", false, false).expect("owned");
    bench.subscribe(conn, b't');
    bench.run();
    bench.own_all_but("a");
    bench.run();
    assert_eq!(bench.closed, [(conn, 0)]);
    let gauges = bench.core.gauges();
    assert_eq!((gauges.sessions, gauges.unowned_sessions), (1, 1));
    assert_eq!(bench.gateway.slots_applied(), (2, [bench.slot("a")].into_iter().collect()));
    assert_eq!(bench.connect("a", false, false), Err(vec![0x20, 2, 0, 3]));
    bench.gateway.set_slots(PER_CLASS, sets(ALL, Slots::NONE));
    bench.run();
    assert_eq!(bench.core.gauges().unowned_sessions, 0);
    let conn = bench.connect("a", false, false).expect("owned again");
    bench.run();
    assert_eq!(bench.flush(conn), [0x20, 2, 1, 0], "session present 1");
}

#[test]
fn node_that_is_in_again_is_not_confirmed_before_it_knows_its_slots() {
    let mut bench = Bench::of_all(Durability::Memory);
    assert!(bench.gateway.is_confirmed());
    bench.gateway.confirm(&mut Nowhere);
    assert!(!bench.gateway.is_confirmed(), "others may have taken its slots");
    bench.gateway.set_slots(PER_CLASS, sets(Slots::NONE, Slots::NONE));
    assert!(bench.gateway.is_confirmed());
}

#[test]
fn acknowledgement_that_waited_for_the_lease_is_dropped_with_a_lost_slot() {
    let mut bench = Bench::of_all(Durability::Memory);
    let conn = bench.connect("a", false, false).expect("owned");
    bench.flush(conn);
    bench.gateway.set_in_until(0);
    bench.run();
    bench.publish(conn, b't');
    bench.run();
    assert!(bench.flush(conn).is_empty(), "the node is out");
    bench.gateway.confirm(&mut Nowhere);
    bench.own_all_but("a");
    bench.gateway.set_in_until(1_000_000);
    bench.run();
    assert_eq!(bench.closed, [(conn, 0)]);
}

#[test]
fn qos_2_publish_that_is_sent_again_is_not_acknowledged_while_the_node_is_out() {
    let mut bench = Bench::of_all(Durability::Memory);
    let conn = bench.connect("a", false, false).expect("owned");
    let publish = [0x34, 6, 0, 1, b't', 0, 5, b'x'];
    bench.core.receive(conn, &publish, bench.now);
    bench.run();
    assert!(bench.flush(conn).ends_with(&[0x50, 2, 0, 5]));
    bench.now = 1_000_001;
    bench.core.receive(conn, &publish, bench.now);
    bench.run();
    assert!(bench.flush(conn).is_empty(), "the lease is over");
    bench.gateway.set_in_until(2_000_000);
    bench.run();
    assert_eq!(bench.flush(conn), [0x50, 2, 0, 5]);
}

/// Counts what peers are sent of publishes.
#[derive(Default)]
struct Publishes(u64);

impl Outside for Publishes {
    fn push(&mut self, _: PeerSlot, message: &PeerMessage<'_>) -> u64 {
        self.0 += u64::from(matches!(message, PeerMessage::Publish(_)));
        1
    }

    fn append(&mut self, _: &RetainedEntry<'_>) {}
}

#[test]
fn publish_that_comes_while_the_node_is_out_reaches_a_peer_whose_interest_comes_later() {
    let mut bench = Bench::of_all(Durability::Memory);
    let conn = bench.connect("a", false, false).expect("owned");
    bench.gateway.set_in_until(0);
    bench.run();
    bench.publish(conn, b't');
    bench.core.tick(bench.now);
    while let Some(output) = bench.core.poll(Scope::All) {
        if let Output::Batch(_, batch) = output {
            bench.gateway.accept_batch(ShardId(0), batch);
        }
    }
    bench.gateway.add_peer(PeerSlot(0), 2, 1, &mut Nowhere);
    let interest = [
        PeerMessage::Namespace { id: 0, name: "" },
        PeerMessage::AddInterest { namespace: 0, filter: "t" },
        PeerMessage::SnapshotEnd { stamp: 0 },
    ];
    for (number, message) in interest.iter().enumerate() {
        bench.gateway.take_message(PeerSlot(0), number as u64 + 1, message, bench.now);
    }
    let mut publishes = Publishes::default();
    bench.gateway.run(false, &mut publishes, bench.now);
    assert_eq!(publishes.0, 1);
}

#[test]
fn shared_message_that_comes_while_the_node_is_out_reaches_one_member_of_each_group() {
    let mut bench = Bench::of_all(Durability::Memory);
    let conn = bench.connect("a", false, false).expect("owned");
    let member = bench.connect("m", true, false).expect("clean");
    bench.core.receive(member, b"\x82\x0f\0\x01\0\x0a$share/g/t\x01", bench.now);
    bench.run();
    [conn, member].into_iter().for_each(|conn| drop(bench.flush(conn)));
    bench.gateway.set_in_until(0);
    bench.run();
    bench.publish(conn, b't');
    bench.core.tick(bench.now);
    while let Some(output) = bench.core.poll(Scope::All) {
        if let Output::Batch(_, batch) = output {
            bench.gateway.accept_batch(ShardId(0), batch);
        }
    }
    // The shards did not know the group of the peer.
    bench.gateway.add_peer(PeerSlot(0), 2, 1, &mut Nowhere);
    let groups = [
        PeerMessage::Namespace { id: 0, name: "" },
        PeerMessage::Group { namespace: 0, group: "h", filter: "+", members: 1, ready: 1 },
        PeerMessage::Group { namespace: 0, group: "i", filter: "u", members: 1, ready: 1 },
        PeerMessage::SnapshotEnd { stamp: 0 },
    ];
    for (number, message) in groups.iter().enumerate() {
        bench.gateway.take_message(PeerSlot(0), number as u64 + 1, message, bench.now);
    }
    bench.gateway.set_in_until(1_000_000);
    let mut assigned = GroupPublishes::default();
    bench.run_with(&mut assigned);
    assert_eq!(assigned.0, ["h"], "one copy for the peer's group");
    assert_eq!(bench.flush(member).windows(3).filter(|bytes| bytes == b"\0\x01t").count(), 1);
    assert!(bench.flush(conn).is_empty(), "the peer has not stored it");
    bench.gateway.peer_progress(PeerSlot(0), 1, 1);
    bench.run();
    assert_eq!(bench.flush(conn), [0x40, 2, 0, 9]);
}

/// Keeps the groups of what peers are sent for members.
#[derive(Default)]
struct GroupPublishes(Vec<String>);

impl Outside for GroupPublishes {
    fn push(&mut self, _: PeerSlot, message: &PeerMessage<'_>) -> u64 {
        if let PeerMessage::GroupPublish { group, .. } = message {
            self.0.push((*group).to_owned());
        }
        1
    }

    fn append(&mut self, _: &RetainedEntry<'_>) {}
}

#[test]
fn node_that_is_in_again_waits_for_the_interest_of_a_peer_that_has_started_meanwhile() {
    let mut gateway = Gateway::new(1, 0, 1);
    gateway.add_peer(PeerSlot(0), 2, 1, &mut Nowhere);
    gateway.confirm(&mut Nowhere);
    gateway.peer_progress(PeerSlot(0), 1, 1);
    assert!(!gateway.is_confirmed(), "its interest may be on the way");
    gateway.take_message(PeerSlot(0), 1, &PeerMessage::SnapshotEnd { stamp: 0 }, 0);
    assert!(gateway.is_confirmed());
}

/// A message of a QoS for a group is given to a peer's member, and the peer dies. `sent`: the last message that may have left this
/// node. Answers what the member here gets.
fn shared_message_of_a_dead_peer(packet: &[u8], sent: u64) -> Vec<u8> {
    let mut bench = Bench::of_all(Durability::Memory);
    let publisher = bench.connect("p", true, false).expect("clean");
    let member = bench.connect("m", true, false).expect("clean");
    bench.gateway.add_peer(PeerSlot(0), 2, 1, &mut Nowhere);
    let of_peer = [
        PeerMessage::Namespace { id: 0, name: "" },
        PeerMessage::Group { namespace: 0, group: "g", filter: "t", members: 1, ready: 1 },
        PeerMessage::SnapshotEnd { stamp: 0 },
    ];
    for (number, message) in of_peer.iter().enumerate() {
        bench.gateway.take_message(PeerSlot(0), number as u64 + 1, message, bench.now);
    }
    bench.run();
    bench.core.receive(publisher, packet, bench.now);
    bench.run();
    bench.core.receive(member, b"\x82\x0f\0\x01\0\x0a$share/g/t\x02", bench.now);
    bench.run();
    let before = bench.flush(member);
    assert!(!before.ends_with(b"x"), "the peer's member has it");
    bench.gateway.remove_peer(PeerSlot(0), sent);
    bench.run();
    bench.flush(member)
}

#[test]
fn shared_message_that_a_dead_peer_has_not_stored_goes_to_another_member() {
    assert!(shared_message_of_a_dead_peer(b"\x32\x06\0\x01t\0\x09x", u64::MAX).ends_with(b"x"));
}

#[test]
fn shared_qos_2_message_goes_to_another_member_only_if_it_has_not_left_for_the_dead_peer() {
    // All messages have number 1 on this link.
    for (sent, comes) in [(0, true), (1, false)] {
        let received = shared_message_of_a_dead_peer(b"\x34\x06\0\x01t\0\x09x", sent);
        assert_eq!(received.ends_with(b"x"), comes, "{received:?}");
    }
}
