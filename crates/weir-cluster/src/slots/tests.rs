#![allow(clippy::unwrap_used, clippy::panic)]

mod transfer;

use super::*;
use crate::members::MemberEvent;
use crate::wire::{Heartbeat, HeartbeatSlots, Load, WIRE_VERSIONS, WireVersions};

const OWN: Incarnation = 100;
const MEMORY: u128 = 0xff;
const ALL: u128 = 0xffff;

/// Cores that apply at once.
#[derive(Default)]
struct AtOnce {
    number: u64,
    owned: u128,
    releasing: u128,
    sessions: u128,
    sets: SlotSets,
    /// Slots of which a copy was dropped.
    dropped: u128,
}

impl Cores for AtOnce {
    fn set_slots(&mut self, _per_class: u16, sets: SlotSets) -> u64 {
        let (owned, releasing) = (sets.owned.without(sets.releasing).0, sets.releasing.0);
        (self.owned, self.releasing, self.sets) = (owned, releasing, sets);
        self.dropped |= sets.moved.0;
        self.sessions &= owned | releasing;
        self.number += 1;
        self.number
    }

    fn slots_applied(&self) -> (u64, u128) {
        (self.number, self.sessions & self.releasing)
    }
}

struct Bench {
    members: Members,
    slots: SlotManager,
    cores: AtOnce,
    now: Millis,
    is_ready: bool,
}

impl Bench {
    fn new(has_data_dir: bool) -> Self {
        let config = MembersConfig {
            node: "own".to_owned(),
            incarnation: OWN,
            wire: WIRE_VERSIONS,
            weir_version: String::new(),
            addresses: Vec::new(),
            has_data_dir,
        };
        let slots = SlotManager::new(&config, 8);
        let mut members = Members::new(config, 0);
        members.on_caught_up();
        Self { members, slots, cores: AtOnce::default(), now: 0, is_ready: true }
    }

    /// Time passes in which the stream of members works, and peers send heartbeats.
    fn pass(&mut self, ms: Millis, peers: &[Heartbeat]) {
        let end = self.now + ms;
        loop {
            if let Some(heartbeat) = self.members.next_heartbeat(self.now) {
                self.members.on_heartbeat_acked(self.now, self.now);
                self.members.on_heartbeat(heartbeat, self.now);
            }
            for peer in peers {
                let (sequence, uptime_ms) = (self.now + peer.sequence, peer.uptime_ms + self.now);
                self.members.on_heartbeat(Heartbeat { sequence, uptime_ms, ..peer.clone() }, self.now);
            }
            self.members.on_read(self.now);
            self.step();
            self.now += 100;
            if self.now > end {
                break;
            }
        }
        self.now = end;
    }

    fn step(&mut self) {
        while let Some(event) = self.members.next_event() {
            if event == MemberEvent::SelfIn {
                self.slots.on_in();
            }
        }
        self.slots.on_members();
        let (members, cores) = (&mut self.members, &mut self.cores);
        let mut with = Surroundings { members, cores, is_confirmed: true, is_ready: self.is_ready, now: self.now };
        self.slots.step(&mut with);
    }

    fn head(&mut self, version: u64) {
        let request = self.slots.head_wanted().unwrap();
        self.slots.on_head(request, version);
    }

    /// The table that this node writes, and the sequence that it expects.
    fn write(&mut self) -> Option<(u64, SlotTable)> {
        let write = self.slots.next_write()?;
        Some((write.expected, SlotTable::decode(&write.bytes).unwrap()))
    }

    fn stored(&mut self, version: u64) {
        self.slots.on_written(SlotsWritten::Stored(version));
    }

    fn read(&mut self, version: u64, table: &SlotTable) {
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        self.slots.on_slots(version, &bytes);
    }

    /// The slots in the view that this node serves.
    fn here(&self) -> u128 {
        let is_here = |slot: &u16| self.slots.view().owner(*slot) == SlotOwner::Here;
        (0..16).filter(is_here).fold(0, |set, slot| set | 1 << slot)
    }

    /// A node that has founded the slots, owns all that it can own, and has run for `ms`.
    fn founder(has_data_dir: bool, ms: Millis) -> Self {
        let mut bench = Self::new(has_data_dir);
        bench.pass(0, &[]);
        bench.head(0);
        bench.pass(0, &[]);
        bench.write().unwrap();
        bench.stored(1);
        bench.pass(ms.max(200), &[]);
        bench
    }

    /// A node that has read this table.
    fn reader(has_data_dir: bool, version: u64, table: &SlotTable, peers: &[Heartbeat]) -> Self {
        let mut bench = Self::new(has_data_dir);
        bench.pass(0, peers);
        bench.read(version, table);
        bench.head(version);
        bench.pass(200, peers);
        bench
    }
}

fn peer(node: &str, incarnation: Incarnation, uptime_ms: Millis, applied: u64) -> Heartbeat {
    Heartbeat {
        node: node.to_owned(),
        incarnation,
        sequence: 1,
        wire: WIRE_VERSIONS,
        weir_version: String::new(),
        addresses: Vec::new(),
        load: Load::default(),
        leaving: false,
        gone: false,
        evacuating: false,
        uptime_ms,
        slots: Some(HeartbeatSlots { has_data_dir: true, founded: 7, applied }),
        report: Default::default(),
    }
}

/// A table of founding 7 in which a node owns these slots.
fn table(owners: &[(&str, Incarnation, u128)]) -> SlotTable {
    let mut table = SlotTable::new(8, 7);
    for (node, incarnation, slots) in owners {
        for (_, row) in (0..).zip(&mut table.rows).filter(|(slot, _)| slots & (1 << *slot) != 0) {
            *row = SlotRow { node: (*node).to_owned(), incarnation: *incarnation, from: 0, since: 2, transfer: 0 };
        }
    }
    table
}

fn owned(table: &SlotTable, node: &str) -> u128 {
    (0..).zip(&table.rows).filter(|(_, row)| row.node == node).fold(0, |set, (slot, _)| set | 1 << slot)
}

/// The slots that rendezvous hashing gives to a node.
fn share(node: &str, nodes: &[&str]) -> u128 {
    let is_its = |slot: &u16| crate::placement::owner_of(*slot, nodes.iter().copied()) == Some(node);
    (0..16).filter(is_its).fold(0, |set, slot| set | 1 << slot)
}

#[test]
fn first_node_founds_the_slots_and_serves_what_it_can_own_when_the_table_is_stored() {
    for (has_data_dir, slots) in [(false, MEMORY), (true, ALL)] {
        let mut bench = Bench::new(has_data_dir);
        bench.pass(0, &[]);
        assert!(bench.write().is_none() && !bench.slots.is_current(), "the head is not known");
        bench.head(0);
        bench.pass(0, &[]);
        let (expected, table) = bench.write().unwrap();
        assert_eq!((expected, table.per_class, owned(&table, "own")), (0, 8, slots));
        assert!(table.rows.iter().all(|row| row.from == 0 && row.since == u64::from(!row.node.is_empty())));
        bench.pass(100, &[]);
        assert_eq!((bench.here(), bench.write()), (0, None));
        bench.stored(1);
        bench.pass(200, &[]);
        assert_eq!((bench.here(), bench.cores.owned, bench.write()), (slots, slots, None));
    }
}

#[test]
fn write_that_conflicts_is_repeated_after_the_newer_table_was_read() {
    let mut bench = Bench::new(false);
    bench.pass(0, &[]);
    bench.head(0);
    bench.pass(0, &[]);
    bench.write().unwrap();
    bench.slots.on_written(SlotsWritten::Conflict);
    bench.pass(500, &[]);
    assert_eq!(bench.write(), None);
    bench.read(1, &table(&[]));
    bench.pass(0, &[]);
    let (expected, table) = bench.write().unwrap();
    assert_eq!((expected, table.founded, owned(&table, "own"), table.rows[0].since), (1, 7, MEMORY, 2));
}

#[test]
fn slots_that_a_write_without_an_answer_gives_away_are_not_served_before_another_write_is_stored() {
    let mut bench = Bench::founder(false, 20_000);
    let old = [peer("n1", 1, 60_000, 0)];
    bench.pass(200, &old);
    let (expected, given) = bench.write().unwrap();
    assert_eq!((expected, owned(&given, "n1")), (1, share("n1", &["n1", "own"]) & MEMORY));
    bench.slots.on_written(SlotsWritten::Failed);
    // The peer is out: nothing has to be given any more, but the write may still be stored.
    bench.pass(5000, &[]);
    assert_eq!(bench.here(), MEMORY & !owned(&given, "n1"));
    let (expected, again) = bench.write().unwrap();
    assert_eq!((expected, owned(&again, "own")), (1, MEMORY));
    bench.stored(2);
    bench.pass(200, &[]);
    assert_eq!((bench.here(), bench.write()), (MEMORY, None));
}

#[test]
fn table_that_was_lost_is_written_to_the_new_register_and_goes_on_being_served() {
    let mut bench = Bench::founder(false, 1000);
    bench.cores.sessions = MEMORY;
    let before = bench.slots.register.founded();
    bench.slots.on_reset();
    bench.pass(0, &[]);
    let (expected, table) = bench.write().unwrap();
    assert_eq!((expected, owned(&table, "own")), (0, MEMORY));
    assert_ne!(table.founded, before);
    bench.stored(1);
    bench.pass(200, &[]);
    assert_eq!((bench.here(), bench.cores.sessions), (MEMORY, MEMORY));
}

/// What a node claims: owners, peers (name, incarnation, uptime, applied), own uptime, whether it has a data directory, removed
/// nodes, and the slots.
#[test]
fn slots_are_claimed_by_the_member_that_should_have_them() {
    type Case = (&'static str, SlotTable, Vec<Heartbeat>, Millis, bool, &'static [&'static str], u128);
    let both = ["n1", "own"];
    let mut without_disk = peer("n1", 1, 60_000, 3);
    without_disk.slots = Some(HeartbeatSlots { has_data_dir: false, founded: 7, applied: 3 });
    let mut old_version = peer("n1", 1, 60_000, 3);
    old_version.slots = None;
    let mut refused = peer("n2", 2, 60_000, 3);
    refused.wire = WireVersions { min: 8, max: 9 };
    let young = |uptime| peer("n1", 1, uptime, 3);
    let cases: [Case; 13] = [
        ("free, all are young", table(&[]), vec![young(0)], 0, true, &[], share("own", &both)),
        ("free, the other one is young", table(&[]), vec![young(0)], 12_000, true, &[], share("own", &both)),
        ("free, this one is young", table(&[]), vec![young(60_000)], 0, true, &[], 0),
        ("free, no data directory", table(&[]), vec![young(60_000)], 12_000, false, &[], share("own", &both) & MEMORY),
        (
            "free, the other has no data directory",
            table(&[]),
            vec![without_disk],
            12_000,
            true,
            &[],
            share("own", &both) & MEMORY | ALL & !MEMORY,
        ),
        ("free, the other has an older version", table(&[]), vec![old_version], 12_000, true, &[], ALL),
        (
            "of a node that is out",
            table(&[("n2", 2, ALL)]),
            vec![young(60_000)],
            12_000,
            true,
            &[],
            share("own", &both) & MEMORY,
        ),
        (
            "of a node that is out and removed",
            table(&[("n2", 2, ALL)]),
            vec![young(60_000)],
            12_000,
            true,
            &["n2"],
            share("own", &both),
        ),
        ("of a node that is in", table(&[("n1", 1, ALL)]), vec![young(60_000)], 12_000, true, &[], 0),
        (
            "of a node that restarted",
            table(&[("n1", 8, ALL)]),
            vec![young(60_000)],
            12_000,
            true,
            &[],
            share("own", &both) & MEMORY,
        ),
        ("of a node with another wire format", table(&[("n2", 2, ALL)]), vec![refused], 12_000, true, &[], 0),
        ("of this name, at once", table(&[("own", 8, ALL)]), vec![young(60_000)], 0, true, &[], ALL & !MEMORY),
        ("of this name, no data directory", table(&[("own", 8, ALL)]), vec![young(60_000)], 0, false, &[], 0),
    ];
    for (name, table, peers, uptime, has_data_dir, removed, expected) in cases {
        let mut bench = Bench::new(has_data_dir);
        bench.members.set_removed(removed.iter().map(|name| (*name).to_owned()));
        bench.pass(0, &peers);
        bench.read(3, &table);
        bench.head(3);
        if uptime > 0 {
            bench.is_ready = false;
            bench.pass(uptime, &peers);
            bench.is_ready = true;
        }
        bench.pass(0, &peers);
        let claimed = bench.write().map_or(0, |(_, new)| {
            let is_new = |(slot, row): &(usize, &SlotRow)| row.node == "own" && **row != table.rows[*slot];
            new.rows.iter().enumerate().filter(is_new).fold(0, |set, (slot, _)| set | 1 << slot)
        });
        assert_eq!(claimed, expected, "{name}: {claimed:b} {expected:b}");
    }
}

#[test]
fn slot_is_served_when_every_other_node_has_applied_the_table_and_is_known_to_be_all() {
    let own = table(&[("own", OWN, MEMORY)]);
    for (applied, founded, is_served) in [(1, 7, false), (2, 7, true), (9, 8, false)] {
        let mut other = peer("n1", 1, 60_000, applied);
        other.slots.as_mut().unwrap().founded = founded;
        let bench = Bench::reader(false, 2, &own, &[other.clone()]);
        assert_eq!(bench.cores.owned | bench.cores.releasing == MEMORY, is_served, "{applied} {founded}");
    }
    // One that is out does not count, but it takes a heartbeat of this node, read behind the table, to know that it is.
    let mut bench = Bench::new(false);
    bench.pass(0, &[]);
    bench.read(2, &own);
    bench.head(2);
    bench.step();
    bench.step();
    assert_eq!(bench.cores.owned, 0);
    bench.pass(200, &[]);
    assert_eq!(bench.here(), MEMORY);
}

#[test]
fn node_that_was_out_serves_what_it_still_owns_when_it_has_read_the_table() {
    let mut bench = Bench::founder(false, 1000);
    bench.cores.sessions = 0b11;
    bench.now += 5000; // nothing is acknowledged
    bench.members.poll(bench.now);
    bench.step();
    assert_eq!((bench.here(), bench.cores.owned, bench.slots.is_current()), (0, MEMORY, true));
    bench.pass(0, &[]);
    let request = bench.slots.head_wanted().unwrap();
    assert!(!bench.slots.is_current());
    bench.slots.on_head(request - 1, 1);
    assert!(!bench.slots.is_current(), "an answer from before it was out");
    bench.slots.on_head(request, 2);
    bench.step();
    assert_eq!((bench.here(), bench.slots.is_current()), (0, false));
    let mut newer = bench.slots.register.table().unwrap().clone();
    newer.rows[0] = SlotRow { node: "n1".into(), incarnation: 1, from: OWN, since: 2, transfer: 0 };
    let number = bench.cores.number;
    bench.read(2, &newer);
    bench.pass(0, &[]);
    assert_eq!((bench.here(), bench.cores.sessions, bench.cores.owned), (MEMORY & !1, 0b10, MEMORY & !1));
    assert!(bench.cores.number > number);
}

#[test]
fn cores_are_told_again_what_they_serve_when_the_node_comes_in() {
    let mut bench = Bench::founder(false, 1000);
    let number = bench.cores.number;
    bench.now += 5000;
    bench.pass(0, &[]);
    assert_eq!(bench.cores.number, number, "the table may be old");
    bench.head(1);
    bench.pass(0, &[]);
    assert_eq!((bench.cores.number, bench.here()), (number + 1, MEMORY));
}

#[test]
fn slot_that_was_lost_and_came_back_begins_without_sessions() {
    let mut bench = Bench::founder(false, 1000);
    bench.cores.sessions = 0b11;
    let mut newer = bench.slots.register.table().unwrap().clone();
    newer.rows[0].since = 3;
    bench.read(3, &newer);
    bench.pass(300, &[]);
    assert_eq!((bench.here(), bench.cores.sessions), (MEMORY, 0b10));
}

#[test]
fn slots_without_sessions_are_given_to_a_node_that_joins_and_those_with_sessions_later() {
    let mut bench = Bench::founder(false, 20_000);
    let its = share("n1", &["n1", "own"]) & MEMORY;
    let busy = its & its.wrapping_neg();
    bench.cores.sessions = busy;
    let young = [peer("n1", 1, 0, 0)];
    bench.pass(0, &young);
    // As this node has run for 20 s, so has the peer by its heartbeats.
    bench.pass(200, &young);
    let (expected, given) = bench.write().unwrap();
    assert_eq!((expected, owned(&given, "n1"), bench.cores.releasing), (1, its & !busy, its & !busy));
    assert_eq!(given.rows.iter().find(|row| row.node == "n1").unwrap().from, OWN);
    bench.stored(2);
    bench.pass(200, &young);
    assert_eq!((bench.here(), bench.cores.owned), (MEMORY & !its | busy, MEMORY & !its | busy));
    bench.cores.sessions = 0;
    bench.pass(50_000, &young);
    assert_eq!(bench.write(), None);
    bench.pass(11_000, &young);
    assert_eq!(owned(&bench.write().unwrap().1, "n1"), its);
}

#[test]
fn node_that_leaves_gives_its_slots_without_sessions_away_at_once() {
    let others = [peer("n1", 1, 60_000, 3)];
    let mine = table(&[("own", OWN, MEMORY & 0b1111), ("n1", 1, ALL & !0b1111)]);
    let mut bench = Bench::reader(true, 3, &mine, &others);
    bench.pass(15_000, &others);
    if bench.write().is_some() {
        bench.slots.on_written(SlotsWritten::Conflict); // whatever should be moved anyway
        bench.read(4, &mine);
        bench.pass(200, &others);
        bench.slots.next_write();
        bench.slots.on_written(SlotsWritten::Conflict);
        bench.read(5, &mine);
    }
    bench.cores.sessions = 1;
    bench.members.set_leaving(bench.now);
    bench.pass(300, &others);
    let (_, given) = bench.write().unwrap();
    assert_eq!(owned(&given, "own") & !1, 0);
    assert_eq!(bench.cores.sessions, 1);
}

#[test]
fn table_that_cannot_be_read_stops_the_node_from_serving_and_writing() {
    let mut bench = Bench::founder(false, 1000);
    bench.slots.on_slots(2, b"\x09newer");
    bench.pass(300, &[]);
    assert_eq!((bench.here(), bench.slots.is_current(), bench.slots.undecodable()), (0, false, 1));
    assert_eq!((bench.cores.owned, bench.write()), (MEMORY, None));
    let readable = bench.slots.register.table().unwrap().clone();
    bench.read(3, &readable);
    bench.pass(300, &[]);
    assert_eq!(bench.here(), MEMORY);
}

#[test]
fn node_whose_name_a_later_process_uses_claims_nothing() {
    let mut bench = Bench::reader(false, 3, &table(&[]), &[]);
    let later = [peer("own", 200, 0, 0)];
    bench.slots.next_write();
    bench.slots.on_written(SlotsWritten::Conflict);
    bench.read(4, &table(&[]));
    bench.pass(0, &[]);
    assert!(bench.write().is_some());
    bench.slots.on_written(SlotsWritten::Conflict);
    bench.now += 1000;
    let heartbeat = Heartbeat { sequence: 5, uptime_ms: 10, ..later[0].clone() };
    bench.members.on_heartbeat(heartbeat, bench.now);
    bench.read(5, &table(&[]));
    bench.pass(100, &[]);
    assert_eq!(bench.write(), None);
    bench.pass(6000, &[]);
    assert!(bench.write().is_some(), "it has ended");
}
