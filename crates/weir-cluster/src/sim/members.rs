//! Nodes that follow each other over a model of the engine: a stream that is appended to and read, and elections in it.

use std::collections::BTreeMap;

use weir_broker::Millis;

use super::{Fault, Rng};
use crate::members::{MemberEvent, Members, MembersConfig, PEER_TIMEOUT, PeerState};
use crate::wire::{Heartbeat, WIRE_VERSIONS};

const TROUBLE: Millis = 60_000;
const QUIET: Millis = 20_000;
/// Delays of the model, and steps of its time, at most.
const SLACK: Millis = 250;

/// An append that is under way: it is stored, and then acknowledged.
struct Append {
    node: usize,
    incarnation: u64,
    heartbeat: Heartbeat,
    sent: Millis,
    store_at: Millis,
    answered: bool,
}

#[derive(Default)]
struct Engine {
    log: Vec<(Millis, Heartbeat)>,
    appends: Vec<Append>,
    /// Beginnings and ends.
    elections: Vec<(Millis, Millis)>,
}

impl Engine {
    fn election(&self, now: Millis) -> Option<Millis> {
        self.elections.last().map(|(_, end)| *end).filter(|end| now < *end)
    }

    /// How long the engine had no election in a time.
    fn worked(&self, from: Millis, to: Millis) -> Millis {
        let lost = |(begin, end): &(Millis, Millis)| (*end).min(to).saturating_sub((*begin).max(from));
        to.saturating_sub(from) - self.elections.iter().map(lost).sum::<Millis>()
    }
}

struct Node {
    name: String,
    incarnation: u64,
    members: Members,
    /// Its clock differs from the others'.
    clock: Millis,
    read: usize,
    acks: Vec<(Millis, Millis)>,
    view: BTreeMap<String, Seen>,
    runs: bool,
    paused_until: Millis,
    appends_cut: Millis,
    reads_cut: Millis,
    answers_cut: Millis,
}

/// What the events say about a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    In(u64),
    Out(u64),
    Left,
}

impl Node {
    fn new(number: usize, incarnation: u64, now: Millis, fault: Option<Fault>) -> Self {
        let (name, clock) = (format!("n{number}"), incarnation * 1_000_003);
        let config = MembersConfig {
            node: name.clone(),
            incarnation,
            wire: WIRE_VERSIONS,
            weir_version: String::new(),
            addresses: Vec::new(),
            has_data_dir: false,
        };
        let mut members = Members::new(config, clock + now);
        if let Some(fault) = fault {
            members.plant(fault);
        }
        Self {
            name,
            incarnation,
            members,
            clock,
            read: 0,
            acks: Vec::new(),
            view: BTreeMap::new(),
            runs: true,
            paused_until: 0,
            appends_cut: 0,
            reads_cut: 0,
            answers_cut: 0,
        }
    }
}

pub(super) struct MembersSim {
    rng: Rng,
    now: Millis,
    engine: Engine,
    nodes: Vec<Node>,
    incarnations: u64,
    fault: Option<Fault>,
    /// Only elections happen.
    only_elections: bool,
}

impl MembersSim {
    pub(super) fn new(seed: u64, fault: Option<Fault>) -> Self {
        let mut rng = Rng::new(seed);
        let count = 2 + rng.below(3) as usize;
        let nodes: Vec<Node> = (0..count).map(|number| Node::new(number, number as u64 + 1, 0, fault)).collect();
        let (engine, only_elections) = (Engine::default(), rng.one_in(4));
        Self { rng, now: 0, engine, incarnations: count as u64, nodes, fault, only_elections }
    }

    pub(super) fn run(mut self) -> Result<(), String> {
        while self.now < TROUBLE {
            self.trouble();
            self.step()?;
        }
        for node in &mut self.nodes {
            node.paused_until = 0;
            (node.appends_cut, node.reads_cut, node.answers_cut) = (0, 0, 0);
        }
        let end = self.now + QUIET;
        while self.now < end {
            self.step()?;
        }
        self.nodes.iter().filter(|node| node.runs).try_for_each(|node| self.check_converged(node))
    }

    fn trouble(&mut self) {
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        let until = self.now + self.rng.below(8000);
        let chance = self.rng.below(4000);
        if chance < 6 && self.engine.election(self.now).is_none() {
            self.engine.elections.push((self.now, self.now + 4000 + self.rng.below(5000)));
        }
        if self.only_elections {
            return;
        }
        let node = &mut self.nodes[at];
        match chance {
            10..14 => node.paused_until = until,
            14..17 => node.appends_cut = until,
            17..20 => node.reads_cut = until,
            20..23 => node.answers_cut = until,
            23..26 => (node.appends_cut, node.reads_cut, node.answers_cut) = (until, until, until),
            26..30 => {
                self.incarnations += 1;
                self.nodes[at] = Node::new(at, self.incarnations, self.now, self.fault);
            }
            30 => node.members.set_leaving(node.clock + self.now),
            31 => node.runs = false,
            _ => {}
        }
    }

    fn step(&mut self) -> Result<(), String> {
        self.now += 1 + self.rng.below(49);
        self.store();
        for at in 0..self.nodes.len() {
            if self.nodes[at].runs && self.nodes[at].paused_until <= self.now {
                self.turn(at)?;
            }
        }
        Ok(())
    }

    /// Stores what has reached the engine. Answers travel a little.
    fn store(&mut self) {
        if self.engine.election(self.now).is_some() {
            return;
        }
        let (ready, waiting) =
            std::mem::take(&mut self.engine.appends).into_iter().partition(|append| append.store_at <= self.now);
        self.engine.appends = waiting;
        let ready: Vec<Append> = ready;
        for append in ready {
            self.engine.log.push((self.now, append.heartbeat));
            let node = &mut self.nodes[append.node];
            if append.answered && node.incarnation == append.incarnation && node.answers_cut <= self.now {
                node.acks.push((self.now + self.rng.below(20), append.sent));
            }
        }
    }

    fn turn(&mut self, at: usize) -> Result<(), String> {
        let now = self.now;
        let node = &mut self.nodes[at];
        let own = node.clock + now;
        if let Some(heartbeat) = node.members.next_heartbeat(own)
            && node.appends_cut <= now
        {
            let (answered, store_at) = (now > TROUBLE || !self.rng.one_in(50), now + self.rng.below(20));
            let incarnation = node.incarnation;
            self.engine.appends.push(Append { node: at, incarnation, heartbeat, sent: own, store_at, answered });
        }
        let acks = std::mem::take(&mut node.acks);
        for (when, sent) in acks {
            match when <= now {
                true => node.members.on_heartbeat_acked(sent, own),
                false => node.acks.push((when, sent)),
            }
        }
        if node.reads_cut <= now && self.engine.election(now).is_none() {
            // a snapshot of the newest records first, then all
            let first = node.read == 0;
            let is_newest = |index: usize, name: &str| {
                self.engine.log[index + 1..].iter().all(|(_, heartbeat)| heartbeat.node != name)
            };
            for (index, (_, heartbeat)) in self.engine.log.iter().enumerate().skip(node.read) {
                if !first || is_newest(index, &heartbeat.node) {
                    node.members.on_heartbeat(heartbeat.clone(), own);
                }
            }
            node.read = self.engine.log.len();
            node.members.on_caught_up();
            node.members.on_read(own);
        }
        node.members.poll(own);
        while let Some(event) = self.nodes[at].members.next_event() {
            self.check_event(at, &event)?;
        }
        let node = &self.nodes[at];
        let is_in = |peer: &str| node.members.peer(peer).map(|peer| (peer.state, peer.heartbeat.incarnation));
        for (peer, seen) in &node.view {
            let agrees = match (is_in(peer), seen) {
                (Some((PeerState::In | PeerState::Leaving, now)), Seen::In(told)) => now == *told,
                (Some((PeerState::Out, now)), Seen::Out(told)) => now == *told,
                (Some((PeerState::Left, _)), Seen::Left) => true,
                _ => false,
            };
            if !agrees {
                return Err(format!("events say {seen:?} of {peer}, the state is {:?}", is_in(peer)));
            }
        }
        Ok(())
    }

    /// Events alternate as they should, and a peer is out only if it did not move while the engine worked.
    fn check_event(&mut self, at: usize, event: &MemberEvent) -> Result<(), String> {
        let node = &mut self.nodes[at];
        let seen = |name: &String| node.view.get(name).copied();
        let (name, now_seen, is_right) = match event {
            MemberEvent::SelfIn | MemberEvent::SelfOut => return Ok(()),
            MemberEvent::Leaving { node: name, incarnation } => {
                return (seen(name) == Some(Seen::In(*incarnation))).then_some(()).ok_or(format!("{event:?}"));
            }
            MemberEvent::Joined { node: name, incarnation, .. } => {
                (name, Seen::In(*incarnation), matches!(seen(name), None | Some(Seen::Left)))
            }
            MemberEvent::Restarted { node: name, old, incarnation, .. } => {
                let was = seen(name);
                let is_right = was == Some(Seen::In(*old)) || was == Some(Seen::Out(*old));
                (name, Seen::In(*incarnation), is_right && old != incarnation)
            }
            MemberEvent::Out { node: name, incarnation } => {
                (name, Seen::Out(*incarnation), seen(name) == Some(Seen::In(*incarnation)))
            }
            MemberEvent::BackIn { node: name, incarnation } => {
                (name, Seen::In(*incarnation), seen(name) == Some(Seen::Out(*incarnation)))
            }
            MemberEvent::Left { node: name, incarnation } => {
                (name, Seen::Left, seen(name) == Some(Seen::In(*incarnation)))
            }
            MemberEvent::Refused { .. }
            | MemberEvent::DuplicateName { .. }
            | MemberEvent::DuplicateNameResolved { .. } => return Err(format!("{event:?}")),
        };
        if !is_right {
            return Err(format!("{event:?} after {:?}", seen(name)));
        }
        node.view.insert(name.clone(), now_seen);
        if matches!(event, MemberEvent::Out { .. } | MemberEvent::Left { .. }) {
            let last = |(at, heartbeat): &(Millis, Heartbeat)| (heartbeat.node == *name).then_some(*at);
            let before = self.now.saturating_sub(SLACK);
            let known = self.engine.log.iter().rev().filter_map(last).find(|stored| *stored < before).unwrap_or(0);
            let worked = self.engine.worked(known, self.now);
            if self.only_elections || worked + SLACK < PEER_TIMEOUT {
                return Err(format!("{event:?} after {worked} ms in which the engine worked"));
            }
        }
        Ok(())
    }

    fn check_converged(&self, node: &Node) -> Result<(), String> {
        let now = node.clock + self.now;
        if !node.members.is_in(now) || !node.members.is_settled() {
            return Err(format!("{} is out or not settled: {:?}", node.name, node.members.suspects(now)));
        }
        for peer in self.nodes.iter().filter(|peer| peer.name != node.name) {
            let seen = node.view.get(&peer.name).copied();
            let is_right =
                if peer.runs { seen == Some(Seen::In(peer.incarnation)) } else { !matches!(seen, Some(Seen::In(_))) };
            if !is_right {
                return Err(format!("{} sees {seen:?} of {}, incarnation {}", node.name, peer.name, peer.incarnation));
            }
        }
        let placed = node.members.placement(now);
        let expected = self.nodes.iter().filter(|other| other.runs);
        let expected: Vec<String> = expected
            .filter(|other| other.members.placement(other.clock + self.now).contains(&other.name.as_str()))
            .map(|other| other.name.clone())
            .collect();
        (placed == expected).then_some(()).ok_or(format!("{}: {placed:?} instead of {expected:?}", node.name))
    }
}
