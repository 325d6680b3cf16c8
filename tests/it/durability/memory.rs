//! Cores in memory on a disk in memory that forgets whatever was not committed, crashed at random; seeded.
//!
//! The shards' turns end, their batches cross, and their records are committed, each at times of its own: of any two
//! shards, either may be ahead on the disk when the process dies, by much.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use weir_broker::{
    EndpointLimits, EndpointPolicy, RecordBatch, RecordKey, RecordKind, Recording, StoreAck, StoredRecords,
};

use super::client_set::{check_retained, client_set};
use super::history::History;
use super::roles::Role;
use super::sim_client::SimClient;
use crate::broker_sim::rng::Rng;
use crate::node::{LinkId, Node, policy};
use crate::wire::Version;

/// A fault of the disk that a run has to detect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Batches are acknowledged before they are durable.
    AcknowledgesEarly,
}

struct Simulation {
    rng: Rng,
    fault: Fault,
    policy: Arc<EndpointPolicy>,
    node: Node,
    shards: u16,
    /// The wall clock at the node's time 0.
    epoch_unix_ms: u64,
    durable: BTreeMap<RecordKey, Box<[u8]>>,
    /// Handed over and not committed, by shard, oldest first.
    pending: Vec<VecDeque<RecordBatch>>,
    /// The shard whose records reach the disk long after the others'.
    slow_shard: usize,
    clients: Vec<SimClient>,
    links: Vec<Option<LinkId>>,
    history: History,
}

impl Simulation {
    fn new(seed: u64, fault: Fault) -> Self {
        let mut rng = Rng::new(seed);
        let limits = EndpointLimits {
            durability: weir_broker::Durability::Disk,
            max_queued_messages: 1_000_000,
            ..EndpointLimits::default()
        };
        let shards = rng.pick(&[1, 2, 3]);
        // Members are soon busy: what a group's owner gives them while it does not know comes back.
        let clients = client_set(2);
        let mut simulation = Self {
            rng,
            fault,
            policy: policy(1, limits),
            node: Node::new(shards),
            shards,
            epoch_unix_ms: 1_800_000_000_000,
            durable: BTreeMap::new(),
            pending: Vec::new(),
            slow_shard: 0,
            links: clients.iter().map(|_| None).collect(),
            clients,
            history: History::default(),
        };
        simulation.start();
        simulation
    }

    /// A process begins with what is on the disk.
    fn start(&mut self) {
        let wall = self.epoch_unix_ms + self.node.now;
        self.node = Node::new(self.shards);
        self.node.ends_turns_apart = true;
        self.epoch_unix_ms = wall - self.node.now;
        self.pending = (0..self.shards).map(|_| VecDeque::new()).collect();
        self.slow_shard = self.rng.below(4);
        let stored = StoredRecords::new(self.durable.iter().map(|(key, value)| (*key, value.clone())).collect());
        let recording = Recording { next_id: stored.next_id(), epoch_unix_ms: self.epoch_unix_ms };
        let now = self.node.now;
        for core in &mut self.node.cores {
            core.start_recording(recording);
            if let Err(error) = core.restore(&stored, now) {
                self.history.finding(format!("it does not start: {error}"));
            }
        }
        // As the shards' threads are started only then.
        self.node.settle();
    }

    /// Some of what is on its way between the shards arrives, some turns end, some records are committed.
    fn turn(&mut self) {
        while !self.rng.one_in(3) && self.node.step(|waiting| self.rng.below(waiting)) {}
        for shard in 0..self.node.cores.len() {
            if self.rng.one_in(2) {
                let (core, now) = (&mut self.node.cores[shard], self.node.now);
                if core.next_deadline().is_some_and(|due| due <= now) {
                    core.tick(now);
                }
                self.end_turn(shard);
            }
            let waits = self.pending[shard].len();
            let lags = self.slow_shard == shard && !self.rng.one_in(30);
            let rarely = self.fault == Fault::AcknowledgesEarly && !self.rng.one_in(20);
            if !lags && !rarely {
                let some = self.rng.below(waits + 1);
                self.commit(shard, some, true);
            }
        }
    }

    /// Everything arrives and is committed.
    fn settle(&mut self) {
        for _ in 0..4 {
            self.node.settle();
            for shard in 0..self.node.cores.len() {
                self.end_turn(shard);
                self.commit(shard, self.pending[shard].len(), true);
            }
        }
        self.node.settle();
    }

    fn end_turn(&mut self, shard: usize) {
        for batch in self.node.end_turn(shard) {
            if self.fault == Fault::AcknowledgesEarly {
                self.node.cores[shard].on_store_ack(StoreAck::UpTo(batch.number), self.node.now);
            }
            self.pending[shard].push_back(batch);
        }
    }

    fn commit(&mut self, shard: usize, count: usize, acknowledge: bool) {
        for batch in self.pending[shard].drain(..count) {
            for (key, value) in batch.records() {
                match value {
                    Some(value) => self.durable.insert(key, value.into()),
                    None => self.durable.remove(&key),
                };
            }
            if acknowledge {
                self.node.cores[shard].on_store_ack(StoreAck::UpTo(batch.number), self.node.now);
            }
        }
    }

    /// The process dies, perhaps again before any client is back.
    fn crash(&mut self) {
        self.crash_once();
        while self.rng.one_in(2) {
            for _ in 0..self.rng.below(12) {
                self.turn();
            }
            self.crash_once();
        }
    }

    /// The process is gone; some of what each shard handed over was written, and no shard got an acknowledgement.
    fn crash_once(&mut self) {
        for shard in 0..self.pending.len() {
            let some =
                if self.fault == Fault::AcknowledgesEarly { 0 } else { self.rng.below(self.pending[shard].len() + 1) };
            self.commit(shard, some, false);
        }
        for at in 0..self.clients.len() {
            self.close(at);
        }
        if self.rng.one_in(3) {
            self.shards = self.rng.pick(&[1, 2, 3]);
        }
        self.start();
    }

    fn close(&mut self, at: usize) {
        if let Some(link) = self.links[at].take() {
            self.node.close(link);
            self.clients[at].closed(&mut self.history);
        }
    }

    /// The client leaves without a close: its session is taken over when it connects again.
    fn abandon(&mut self, at: usize) {
        if self.links[at].take().is_some() {
            self.clients[at].closed(&mut self.history);
        }
    }

    /// One client sends or receives something.
    fn step(&mut self, at: usize) {
        let Some(link) = self.links[at] else {
            if !self.clients[at].may_open(&self.history) {
                return;
            }
            let link = self.node.open(Arc::clone(&self.policy));
            self.links[at] = Some(link);
            let connect = self.clients[at].open(&mut self.history);
            return self.node.send(link, &connect);
        };
        let bytes = self.node.take_output(link);
        let mut answer = self.clients[at].receive(&bytes, &mut self.history);
        if self.node.is_closed(link) {
            return self.close(at);
        }
        answer.extend(self.clients[at].act(&mut self.rng, &mut self.history));
        if !answer.is_empty() {
            self.node.send(link, &answer);
        }
    }

    fn run(&mut self) -> Vec<String> {
        // The subscribers are subscribed before any client publishes.
        while !self.clients.iter().all(SimClient::is_set_up) {
            (0..self.clients.len())
                .filter(|at| self.clients[*at].role.subscribes())
                .collect::<Vec<_>>()
                .into_iter()
                .for_each(|at| self.step(at));
            self.settle();
        }
        for _ in 0..4 {
            for _ in 0..self.rng.below(1_000) {
                let at = self.rng.below(self.clients.len());
                match self.rng.below(120) {
                    0 => self.close(at),
                    1 if self.clients[at].role.has_will_at_once() => self.abandon(at),
                    _ => {}
                }
                self.step(at);
                self.turn();
                if self.rng.one_in(10) {
                    self.node.now += 1;
                }
                if self.rng.one_in(300) {
                    self.node.now += 1_000;
                }
            }
            self.crash();
        }
        self.clients.iter_mut().for_each(|client| client.stops_publishing = true);
        for _ in 0..3_000 {
            (0..self.clients.len()).for_each(|at| self.step(at));
            self.settle();
            self.node.advance(1);
            if self.clients.iter().all(SimClient::is_idle) && self.history.is_complete() {
                break;
            }
        }
        // What came twice is acknowledged, too.
        for _ in 0..200 {
            (0..self.clients.len()).for_each(|at| self.step(at));
            self.settle();
        }
        for client in self.clients.iter().filter(|client| !client.is_idle()) {
            self.history.finding(format!("{} does not become idle", client.name));
        }
        if self.fault == Fault::None {
            self.check_retained();
            self.check_leftover_records();
        }
        self.history.findings()
    }

    fn check_retained(&mut self) {
        self.clients.push(SimClient::new("reader", Role::Reader, Version::V3_1_1));
        self.links.push(None);
        let reader = self.clients.len() - 1;
        for _ in 0..50 {
            self.step(reader);
            self.settle();
        }
        if !self.clients[reader].has_read {
            self.history.finding("nothing retained can be read".to_owned());
        }
        let found = std::mem::take(&mut self.clients[reader].found);
        check_retained(&self.clients, &found, &mut self.history);
    }

    /// Everything was delivered and acknowledged: nothing of it may be left behind on the disk.
    fn check_leftover_records(&mut self) {
        let mut left: BTreeMap<&str, usize> = BTreeMap::new();
        for key in self.durable.keys() {
            *left.entry(key.kind().map_or("unknown", RecordKind::label)).or_default() += 1;
        }
        if left.get("node") != Some(&usize::from(self.shards)) {
            self.history.finding(format!("{:?} records of kind node for {} shards", left.get("node"), self.shards));
        }
        for kind in ["message", "delivery", "released", "received", "outbox"] {
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
    let seeds = std::env::var("WEIR_CRASH_SEEDS").ok().map_or(25, |seeds| seeds.parse().expect("a number"));
    let one = std::env::var("WEIR_CRASH_SEED").ok().map(|seed| seed.parse().expect("a number"));
    for seed in one.map_or(0..seeds, |one| one..one + 1) {
        println!("WEIR_CRASH_SEED={seed}");
        let findings = findings(seed, Fault::None);
        assert!(findings.is_empty(), "WEIR_CRASH_SEED={seed}:\n{}", findings.join("\n"));
    }
}

#[test]
fn a_broker_that_acknowledges_before_it_has_committed_is_detected() {
    let found = (0..10).filter(|seed| !findings(*seed, Fault::AcknowledgesEarly).is_empty()).count();
    assert!(found > 5, "{found} of 10 seeds");
}
