//! Nodes that share slots over models of the stream of members, the register and the cores.

mod models;

use std::collections::{BTreeMap, BTreeSet};

use weir_broker::Millis;

use self::models::{CoreModel, Stream, Write};
use super::{Fault, Rng};
use crate::members::{MemberEvent, Members, MembersConfig};
use crate::placement::owner_of;
use crate::slots::{SlotManager, SlotOwner, SlotsWritten, Surroundings};
use crate::wire::{Heartbeat, SlotTable, WIRE_VERSIONS};

const TROUBLE: Millis = 50_000;
/// After the faults, every slot is served again within this time.
const SERVED_WITHIN: Millis = 16_000;
/// And slots without sessions are where they should be within this time: a slot that had some is tried again after 60 s.
const QUIET: Millis = 80_000;
const PER_CLASS: u16 = 8;
/// A node takes the answer to a write for lost after this time.
const WRITE_TIMEOUT: Millis = 2000;

struct Node {
    name: String,
    incarnation: u64,
    clock: Millis,
    has_data_dir: bool,
    members: Members,
    slots: SlotManager,
    cores: CoreModel,
    is_joined: bool,
    members_read: usize,
    slots_read: (u64, usize),
    acks: Vec<(Millis, Millis)>,
    answers: Vec<(Millis, u64, SlotsWritten)>,
    write: Option<(u64, Millis)>,
    head_asked: u64,
    heads: Vec<(Millis, u64, Option<u64>)>,
    runs: bool,
    paused_until: Millis,
    appends_cut: Millis,
    members_cut: Millis,
    slots_cut: Millis,
    answers_cut: Millis,
    /// How old what it reads of the members and of the register is.
    members_lag: Millis,
    slots_lag: Millis,
}

impl Node {
    fn new(number: usize, incarnation: u64, has_data_dir: bool, now: Millis, fault: Option<Fault>) -> Self {
        let (name, clock) = (format!("n{number}"), incarnation * 1_000_003);
        let config = MembersConfig {
            node: name.clone(),
            incarnation,
            wire: WIRE_VERSIONS,
            weir_version: String::new(),
            addresses: Vec::new(),
            has_data_dir,
        };
        let mut slots = SlotManager::new(&config, PER_CLASS);
        if let Some(fault) = fault {
            slots.plant(fault);
        }
        Self {
            name,
            incarnation,
            clock,
            has_data_dir,
            members: Members::new(config, clock + now),
            slots,
            cores: CoreModel::default(),
            is_joined: false,
            members_read: 0,
            slots_read: (0, 0),
            acks: Vec::new(),
            answers: Vec::new(),
            write: None,
            head_asked: 0,
            heads: Vec::new(),
            runs: true,
            paused_until: 0,
            appends_cut: 0,
            members_cut: 0,
            slots_cut: 0,
            answers_cut: 0,
            members_lag: 0,
            slots_lag: 0,
        }
    }

    /// Slots whose clients it answers at that moment.
    fn serves(&self, now: Millis, fault: Option<Fault>) -> u128 {
        let is_in = self.cores.in_until >= self.clock + now || fault == Some(Fault::NoLease);
        let serves = self.runs && self.paused_until <= now && is_in;
        if serves { self.cores.owned | self.cores.releasing } else { 0 }
    }
}

pub(super) struct SlotsSim {
    rng: Rng,
    now: Millis,
    members: Stream<Heartbeat, Heartbeat>,
    register: Stream<Write, (usize, Vec<u8>)>,
    /// How often the register was created again.
    generation: u64,
    may_reset: bool,
    /// Nodes read late.
    is_slow: bool,
    nodes: Vec<Node>,
    incarnations: u64,
    writes: u64,
    removed: BTreeSet<String>,
    fault: Option<Fault>,
}

impl SlotsSim {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = Rng::new(seed ^ 0x510_7500);
        let count = 1 + rng.below(4) as usize;
        let with_disk = rng.below(3);
        let has_data_dir = |number: usize| with_disk == 0 || with_disk == 1 && number.is_multiple_of(2);
        let nodes =
            (0..count).map(|number| Node::new(number, number as u64 + 1, has_data_dir(number), 0, fault)).collect();
        let (may_reset, is_slow) = (rng.one_in(5), rng.one_in(3));
        Self {
            rng,
            now: 0,
            members: Stream::new(),
            register: Stream::new(),
            generation: 0,
            may_reset,
            is_slow,
            nodes,
            incarnations: count as u64,
            writes: 0,
            removed: BTreeSet::new(),
            fault,
        }
    }

    pub(super) fn run(mut self) -> Result<(), String> {
        while self.now < TROUBLE {
            self.trouble();
            self.step(50)?;
        }
        for node in &mut self.nodes {
            (node.paused_until, node.appends_cut, node.members_cut) = (0, 0, 0);
            (node.slots_cut, node.answers_cut, node.cores.delay) = (0, 0, 0);
            (node.members_lag, node.slots_lag) = (0, 0);
        }
        if self.rng.one_in(2) {
            self.removed = self.nodes.iter().filter(|node| !node.runs).map(|node| node.name.clone()).collect();
            for node in &mut self.nodes {
                node.members.set_removed(self.removed.iter().cloned());
                node.slots.on_members();
            }
        }
        let began = self.now.max(self.members.election_until).max(self.register.election_until);
        while self.now < began + SERVED_WITHIN {
            self.step(50)?;
        }
        self.check_served(false)?;
        while self.now < began + QUIET {
            self.step(200)?;
        }
        self.check_served(true)
    }

    fn trouble(&mut self) {
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        // Of a node that is late, others may not see for a while that it is in again.
        let long = if self.is_slow && self.rng.one_in(2) { 2800 + self.rng.below(2000) } else { self.rng.below(8000) };
        let (now, until) = (self.now, self.now + long);
        let chance = self.rng.below(3000);
        let node = &mut self.nodes[at];
        match chance {
            0..3 => self.members.election_until = now + 4000 + self.rng.below(5000),
            3..6 => self.register.election_until = now + 4000 + self.rng.below(5000),
            6 if self.may_reset => {
                self.generation += 1;
                self.register.stored.clear();
                self.register.appends.clear();
            }
            10..16 => node.paused_until = until,
            16..20 => node.appends_cut = until,
            20..25 => node.members_cut = until,
            25..31 => node.slots_cut = until,
            31..35 => node.answers_cut = until,
            35..39 => {
                (node.appends_cut, node.members_cut) = (until, until);
                (node.slots_cut, node.answers_cut) = (until, until);
            }
            39..44 => {
                self.incarnations += 1;
                let has_data_dir = node.has_data_dir;
                self.nodes[at] = Node::new(at, self.incarnations, has_data_dir, now, self.fault);
                self.nodes[at].paused_until = if self.rng.one_in(2) { now } else { until };
            }
            44..46 => node.members.set_leaving(node.clock + now),
            46 => node.runs = false,
            47..50 => node.cores.delay = self.rng.below(400),
            150..170 if self.is_slow => {
                (node.members_lag, node.slots_lag) = (self.rng.below(1300), self.rng.below(3000));
            }
            50..150 => {
                // A client begins a session, or ends it.
                let slot = 1 << self.rng.below(u64::from(PER_CLASS) * 2);
                match self.rng.one_in(3) {
                    true => node.cores.sessions &= !slot,
                    false => node.cores.sessions |= slot & node.serves(now, self.fault) & node.cores.owned,
                }
            }
            _ => {}
        }
    }

    fn step(&mut self, most: u64) -> Result<(), String> {
        self.now += 1 + self.rng.below(most - 1);
        self.store_heartbeats();
        self.store_tables()?;
        self.check_one_owner()?;
        for at in 0..self.nodes.len() {
            let runs = self.nodes[at].runs && self.nodes[at].paused_until <= self.now;
            if runs && (self.now > TROUBLE || !self.rng.one_in(8)) {
                self.turn(at)?;
            }
        }
        self.check_one_owner()
    }

    fn store_heartbeats(&mut self) {
        for append in self.members.take_ready(self.now) {
            self.members.stored.push((self.now, append.what));
            let node = &mut self.nodes[append.node];
            if append.is_answered && node.incarnation == append.incarnation && node.answers_cut <= self.now {
                node.acks.push((self.now + self.rng.below(20), append.sent));
            }
        }
    }

    fn store_tables(&mut self) -> Result<(), String> {
        for append in self.register.take_ready(self.now) {
            let Write { number, expected, bytes } = append.what;
            let head = self.register.stored.len() as u64;
            let result = if expected == head || self.fault == Some(Fault::NoFence) {
                self.check_table(&bytes, append.incarnation)?;
                self.register.stored.push((self.now, (append.node, bytes)));
                SlotsWritten::Stored(head + 1)
            } else {
                SlotsWritten::Conflict
            };
            let node = &mut self.nodes[append.node];
            if append.is_answered && node.incarnation == append.incarnation && node.answers_cut <= self.now {
                node.answers.push((self.now + self.rng.below(20), number, result));
            }
        }
        Ok(())
    }

    /// A slot on disk goes to another name only from its owner, or when the name is removed.
    fn check_table(&self, bytes: &[u8], writer: u64) -> Result<(), String> {
        let new = SlotTable::decode(bytes).map_err(|error| error.to_string())?;
        let Some((_, (_, old))) = self.register.stored.last() else { return Ok(()) };
        let old = SlotTable::decode(old).map_err(|error| error.to_string())?;
        for (slot, (old, new)) in old.rows.iter().zip(&new.rows).enumerate().skip(usize::from(PER_CLASS)) {
            let moves = !old.node.is_empty() && old.node != new.node;
            if moves && old.incarnation != writer && !self.removed.contains(&old.node) {
                return Err(format!("{writer} moves disk slot {slot} from {old:?} to {new:?}"));
            }
        }
        Ok(())
    }

    fn turn(&mut self, at: usize) -> Result<(), String> {
        self.take_inputs(at)?;
        let now = self.now;
        let node = &mut self.nodes[at];
        let own = node.clock + now;
        node.members.poll(own);
        while let Some(event) = node.members.next_event() {
            node.slots.on_members();
            if event == MemberEvent::SelfIn {
                node.slots.on_in();
            }
        }
        let is_in = node.members.is_in(own);
        let is_confirmed = node.members.is_current();
        let mut with = Surroundings {
            members: &mut node.members,
            cores: &mut node.cores,
            is_confirmed,
            is_ready: node.is_joined,
            now: own,
        };
        node.slots.step(&mut with);
        let knows_all = node.members.is_settled() && is_confirmed && node.slots.is_current();
        node.is_joined = is_in && (node.is_joined || knows_all);
        let until = node.members.in_until(own).filter(|_| is_confirmed && node.slots.is_current());
        // As the node's link to its cores is in order, they know what they have lost before they know that they are in.
        if node.cores.queue.is_empty() || until.is_none() {
            node.cores.in_until = until.unwrap_or(0);
        }
        self.send(at);
        Ok(())
    }

    fn take_inputs(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        let node = &mut self.nodes[at];
        let own = node.clock + now;
        node.cores.now = now;
        let lost = node.cores.apply(now);
        self.check_given(at, lost)?;
        let node = &mut self.nodes[at];
        for (_, sent) in node.acks.extract_if(.., |(when, _)| *when <= now) {
            node.members.on_heartbeat_acked(sent, own);
        }
        for (_, number, result) in node.answers.extract_if(.., |(when, ..)| *when <= now) {
            if node.write.is_some_and(|(waits, _)| waits == number) {
                node.write = None;
                node.slots.on_written(result);
            }
        }
        if node.write.is_some_and(|(_, at)| now > at + WRITE_TIMEOUT) {
            node.write = None;
            node.slots.on_written(SlotsWritten::Failed);
        }
        let delay = if self.rng.one_in(8) { self.rng.below(300) } else { 0 };
        let seen = |at: Millis| at + delay <= now;
        if node.members_cut <= now && now >= self.members.election_until {
            let seen = |at: Millis| at + node.members_lag <= now && seen(at);
            while let Some((_, heartbeat)) = self.members.stored.get(node.members_read).filter(|(at, _)| seen(*at)) {
                let is_replaced = || {
                    self.members.stored[node.members_read + 1..].iter().any(|(_, newer)| newer.node == heartbeat.node)
                };
                if node.members_read > 0 || !is_replaced() {
                    node.members.on_heartbeat(heartbeat.clone(), own);
                    node.slots.on_members();
                }
                node.members_read += 1;
            }
            if node.members_read == self.members.stored.len() {
                node.members.on_caught_up();
            }
            node.members.on_read(own);
        }
        if node.slots_cut <= now && now >= self.register.election_until {
            if node.slots_read.0 != self.generation {
                node.slots_read = (self.generation, 0);
                node.slots.on_reset();
            }
            let seen = |at: Millis| at + node.slots_lag <= now && seen(at);
            while let Some((_, (_, bytes))) = self.register.stored.get(node.slots_read.1).filter(|(at, _)| seen(*at)) {
                node.slots_read.1 += 1;
                node.slots.on_slots(node.slots_read.1 as u64, bytes);
            }
            // The engine answers some time after the question.
            let head = self.register.stored.len() as u64;
            node.heads.iter_mut().for_each(|(_, _, known)| *known = known.or(Some(head)));
        }
        for (_, request, head) in node.heads.extract_if(.., |(when, _, head)| *when <= now && head.is_some()) {
            node.slots.on_head(request, head.unwrap_or(0));
        }
        Ok(())
    }

    /// A node that gives a slot away has no sessions of it.
    fn check_given(&self, at: usize, lost: u128) -> Result<(), String> {
        let node = &self.nodes[at];
        for (at_version, (_, (writer, bytes))) in (1_u64..).zip(&self.register.stored) {
            if lost == 0 || *writer != at {
                continue;
            }
            let table = SlotTable::decode(bytes).map_err(|error| error.to_string())?;
            for (slot, row) in table.rows.iter().enumerate() {
                let gives = row.since == at_version && row.from == node.incarnation && row.node != node.name;
                if lost & (1 << slot) != 0 && gives && at_version >= node.slots_read.1 as u64 {
                    return Err(format!("{} gave slot {slot} with sessions to {row:?}", node.name));
                }
            }
        }
        Ok(())
    }

    fn send(&mut self, at: usize) {
        let now = self.now;
        let calm = now > TROUBLE;
        let node = &mut self.nodes[at];
        let own = node.clock + now;
        let from = (at, node.incarnation);
        if let Some(heartbeat) = node.members.next_heartbeat(own)
            && node.appends_cut <= now
        {
            self.members.append(from, heartbeat, (own, now), calm, &mut self.rng);
        }
        if node.write.is_none()
            && let Some(write) = node.slots.next_write()
        {
            self.writes += 1;
            node.write = Some((self.writes, now));
            if node.appends_cut <= now {
                let write = Write { number: self.writes, expected: write.expected, bytes: write.bytes };
                self.register.append(from, write, (own, now), calm, &mut self.rng);
            }
        }
        if let Some(request) = node.slots.head_wanted()
            && node.head_asked != request
        {
            node.head_asked = request;
            let late = if self.rng.one_in(6) { 1000 } else { 20 };
            node.heads.push((now + self.rng.below(late), request, None));
        }
    }

    fn check_one_owner(&self) -> Result<(), String> {
        let mut served = 0_u128;
        for node in &self.nodes {
            let own = node.serves(self.now, self.fault);
            if served & own != 0 {
                let who =
                    self.nodes.iter().map(|node| (&node.name, node.incarnation, node.serves(self.now, self.fault)));
                let who: Vec<_> = who.collect();
                return Err(format!("at {}: slots {:b} are served twice: {who:?}", self.now, served & own));
            }
            served |= own;
        }
        Ok(())
    }

    /// Every slot is served by one running node, and all know it. With `balanced`, those without sessions by the right one.
    fn check_served(&self, balanced: bool) -> Result<(), String> {
        let running: BTreeMap<&str, &Node> = self
            .nodes
            .iter()
            .filter(|node| node.runs && !node.members.is_leaving())
            .map(|node| (node.name.as_str(), node))
            .collect();
        let all = || self.nodes.iter().filter(|node| node.runs);
        if running.is_empty() {
            return Ok(());
        }
        let (_, (_, bytes)) = self.register.stored.last().ok_or("there is no slot table")?;
        let table = SlotTable::decode(bytes).map_err(|error| error.to_string())?;
        for (slot, row) in table.rows.iter().enumerate() {
            let is_disk = slot >= usize::from(PER_CLASS);
            let can = |node: &&&Node| node.has_data_dir || !is_disk;
            let any = running.values().filter(can).count();
            let owner = all().find(|node| node.name == row.node);
            let waits =
                is_disk && (any == 0 || owner.is_none() && !self.removed.contains(&row.node) && !row.node.is_empty());
            if waits {
                continue;
            }
            let owner = owner.ok_or(format!("slot {slot} is {row:?}: removed {:?}", self.removed))?;
            if is_disk && owner.members.is_leaving() && row.incarnation != owner.incarnation {
                continue; // it does not take again what it had before
            }
            if owner.serves(self.now, None) & (1 << slot) == 0 || row.incarnation != owner.incarnation {
                return Err(format!("slot {slot} is not served: {row:?}, {:?}", owner.slots));
            }
            for node in all() {
                let seen = node.slots.view().owner(slot as u16);
                let here = if node.cores.releasing & (1 << slot) == 0 { SlotOwner::Here } else { SlotOwner::Unknown };
                let expected = if node.name == owner.name { here } else { SlotOwner::Peer(row.incarnation) };
                if seen != expected {
                    return Err(format!("{} sees {seen:?} for slot {slot}, {row:?}", node.name));
                }
            }
            let names = running.values().filter(can).map(|node| node.name.as_str());
            let best = owner_of(slot as u16, names);
            if balanced && owner.cores.sessions & (1 << slot) == 0 && best.is_some_and(|best| best != owner.name) {
                return Err(format!("slot {slot} has no sessions and is at {}, not {best:?}", owner.name));
            }
        }
        Ok(())
    }
}
