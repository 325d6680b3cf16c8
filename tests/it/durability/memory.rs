//! Cores in memory on a disk in memory that forgets whatever was not committed, crashed at random; seeded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use weirmq::broker::{EndpointLimits, EndpointPolicy, Kept, Key, Kind, RecordBatch, Recording, ShardId, Stored};

use super::actor::{Actor, Role, cast, judge_retained};
use super::history::History;
use crate::broker_sim::rng::Rng;
use crate::node::{LinkId, Node, policy};
use crate::wire::Version;

/// What a run shows of a broker whose disk is faulty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Batches are said to be durable before they are.
    TellsEarly,
}

struct Simulation {
    rng: Rng,
    fault: Fault,
    policy: Arc<EndpointPolicy>,
    node: Node,
    shards: u16,
    /// The wall clock at the node's time 0.
    epoch_unix_ms: u64,
    durable: BTreeMap<Key, Box<[u8]>>,
    /// Handed over and not committed, oldest first.
    pending: VecDeque<(ShardId, RecordBatch)>,
    actors: Vec<Actor>,
    links: Vec<Option<LinkId>>,
    history: History,
}

impl Simulation {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = Rng::new(seed);
        let limits = EndpointLimits { durable: true, max_queued_messages: 1_000_000, ..EndpointLimits::default() };
        let shards = rng.pick(&[1, 1, 2, 3]);
        let actors = cast();
        let mut simulation = Self {
            rng,
            fault,
            policy: policy(1, limits),
            node: Node::new(shards),
            shards,
            epoch_unix_ms: 1_800_000_000_000,
            durable: BTreeMap::new(),
            pending: VecDeque::new(),
            links: actors.iter().map(|_| None).collect(),
            actors,
            history: History::default(),
        };
        simulation.start();
        simulation
    }

    /// A process begins with what is on the disk.
    fn start(&mut self) {
        self.node = Node::new(self.shards);
        let stored = Stored::new(self.durable.iter().map(|(key, value)| (*key, value.clone())).collect());
        let recording = Recording { next_id: stored.next_id(), epoch_unix_ms: self.epoch_unix_ms };
        let now = self.node.now;
        for core in &mut self.node.cores {
            core.keep_records(recording);
            core.restore(&stored, now).expect("its own records");
        }
        self.node.settle();
        self.node.advance(0);
    }

    /// Takes the turns' records, and commits some of what waits.
    fn turn(&mut self, commit_all: bool) {
        self.node.settle();
        for (shard, core) in self.node.cores.iter_mut().enumerate() {
            if let Some(batch) = core.take_records() {
                if self.fault == Fault::TellsEarly {
                    core.on_kept(Kept::UpTo(batch.number), self.node.now);
                }
                self.pending.push_back((ShardId(shard as u16), batch));
            }
        }
        let some = if commit_all { self.pending.len() } else { self.rng.below(self.pending.len() + 1) };
        let rarely = self.fault == Fault::TellsEarly && !commit_all && !self.rng.one_in(20);
        if !rarely {
            self.commit(some, true);
        }
        self.node.settle();
    }

    fn commit(&mut self, count: usize, tell: bool) {
        for (shard, batch) in self.pending.drain(..count) {
            for (key, value) in batch.records() {
                match value {
                    Some(value) => self.durable.insert(key, value.into()),
                    None => self.durable.remove(&key),
                };
            }
            if tell {
                self.node.cores[usize::from(shard.0)].on_kept(Kept::UpTo(batch.number), self.node.now);
            }
        }
    }

    /// The process is gone; of what was handed over some arrived, and nobody was told.
    fn crash(&mut self) {
        let some = if self.fault == Fault::TellsEarly { 0 } else { self.rng.below(self.pending.len() + 1) };
        self.commit(some, false);
        self.pending.clear();
        for at in 0..self.actors.len() {
            self.close(at);
        }
        self.epoch_unix_ms += self.node.now;
        if self.rng.one_in(3) {
            self.shards = self.rng.pick(&[1, 2, 3]);
        }
        self.start();
    }

    fn close(&mut self, at: usize) {
        if let Some(link) = self.links[at].take() {
            self.node.close(link);
            self.actors[at].closed(&mut self.history);
        }
    }

    /// One client does something, or hears something.
    fn step(&mut self, at: usize) {
        let Some(link) = self.links[at] else {
            let link = self.node.open(Arc::clone(&self.policy));
            self.links[at] = Some(link);
            let hello = self.actors[at].open(&mut self.history);
            return self.node.send(link, &hello);
        };
        let bytes = self.node.take(link);
        let mut answer = self.actors[at].receive(&bytes, &mut self.history);
        if self.node.is_closed(link) {
            return self.close(at);
        }
        answer.extend(self.actors[at].act(&mut self.rng, &mut self.history));
        if !answer.is_empty() {
            self.node.send(link, &answer);
        }
    }

    fn run(&mut self) -> Vec<String> {
        // Who listens is there before anybody speaks.
        while !self.actors.iter().all(Actor::is_set_up) {
            (0..3).for_each(|at| self.step(at));
            self.turn(true);
        }
        for _ in 0..4 {
            for _ in 0..self.rng.below(400) {
                let at = self.rng.below(self.actors.len());
                if self.rng.one_in(60) {
                    self.close(at);
                }
                self.step(at);
                if self.rng.one_in(3) {
                    self.turn(false);
                }
                if self.rng.one_in(10) {
                    self.node.advance(1);
                }
            }
            self.crash();
        }
        self.actors.iter_mut().for_each(|actor| actor.rests = true);
        for _ in 0..3_000 {
            (0..self.actors.len()).for_each(|at| self.step(at));
            self.turn(true);
            self.node.advance(1);
            if self.actors.iter().all(Actor::is_at_rest) && self.history.is_complete() {
                break;
            }
        }
        for actor in self.actors.iter().filter(|actor| !actor.is_at_rest()) {
            self.history.finding(format!("{} does not come to rest", actor.name));
        }
        if self.fault == Fault::None {
            self.judge_retained();
            self.judge_what_is_left();
        }
        self.history.findings()
    }

    fn judge_retained(&mut self) {
        self.actors.push(Actor::new("reader", Role::Reader, Version::V3_1_1));
        self.links.push(None);
        let reader = self.actors.len() - 1;
        for _ in 0..50 {
            self.step(reader);
            self.turn(true);
        }
        if !self.actors[reader].has_read {
            self.history.finding("nothing retained can be read".to_owned());
        }
        let found = std::mem::take(&mut self.actors[reader].found);
        judge_retained(&self.actors, &found, &mut self.history);
    }

    /// Everything was delivered and acknowledged: nothing of it may be left behind on the disk.
    fn judge_what_is_left(&mut self) {
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for key in self.durable.keys() {
            *left.entry(key.kind().map_or("unknown", Kind::label)).or_default() += 1;
        }
        for kind in ["message", "delivery", "released", "received"] {
            if let Some(count) = left.get(kind) {
                self.history.finding(format!("{count} records of kind {kind} are left of what is done"));
            }
        }
    }
}

fn findings(seed: u64, fault: Fault) -> Vec<String> {
    Simulation::new(seed, fault).run()
}

#[test]
fn nothing_acknowledged_is_lost_whenever_the_process_dies() {
    let seeds = std::env::var("WEIR_CRASH_SEEDS").ok().map_or(40, |seeds| seeds.parse().expect("a number"));
    let one = std::env::var("WEIR_CRASH_SEED").ok().map(|seed| seed.parse().expect("a number"));
    for seed in one.map_or(0..seeds, |one| one..one + 1) {
        let findings = findings(seed, Fault::None);
        assert!(findings.is_empty(), "WEIR_CRASH_SEED={seed}:\n{}", findings.join("\n"));
    }
}

#[test]
fn a_broker_that_tells_before_it_has_committed_is_found_out() {
    let found = (0..20).filter(|seed| !findings(*seed, Fault::TellsEarly).is_empty()).count();
    assert!(found > 10, "{found} of 20 seeds");
}
