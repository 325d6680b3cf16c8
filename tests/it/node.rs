//! A broker in memory: the shards' cores, driven as the event loops drive them, but deterministically and under injected
//! time. Conformance scripts, the simulation and the regression tests share it.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cluster::{Cluster, Gateways};
use weir_broker::{
    Batch, ConnId, Core, CoreConfig, Driver, EndpointId, EndpointLimits, EndpointPolicy, ProtocolVersions,
    Reauthentication, RecordBatch, Scope, ShardId, WorkBudget, drive,
};
use weir_cluster::node::ClusterNode;

mod connections;

use connections::Link;
pub use connections::LinkId;

/// The policy of an endpoint without rules.
pub fn policy(id: u32, limits: EndpointLimits) -> Arc<EndpointPolicy> {
    Arc::new(EndpointPolicy {
        id: EndpointId(id),
        name: format!("endpoint{id}").into(),
        generation: 1,
        namespace: "".into(),
        versions: ProtocolVersions::ALL,
        limits,
        acl: None,
        interceptors: None,
        admission: None,
    })
}

/// The broker.
pub struct Node {
    /// Of all nodes, where it is a cluster: those of a node follow each other.
    pub cores: Vec<Core>,
    cluster: Option<Gateways>,
    /// Shards of each node.
    shards: usize,
    pub now: u64,
    links: Vec<Link>,
    /// Batches on their way, by sender and receiver.
    in_transit: Vec<Vec<VecDeque<Batch>>>,
    assigned: u32,
    records: Vec<(ShardId, RecordBatch)>,
    /// Turns end only by [`Node::end_turn`], of one shard at a time; until then only batches and flushes are carried out.
    pub ends_turns_apart: bool,
    /// All bytes to clients, in order, where they are recorded.
    pub transcript: Option<Vec<(LinkId, Vec<u8>)>>,
}

impl Node {
    /// A broker of `shards` shards.
    pub fn new(shards: u16) -> Node {
        Self::with_budget(shards, WorkBudget::default())
    }

    /// The same, with cores that do no more work at once than that.
    pub fn with_budget(shards: u16, work: WorkBudget) -> Node {
        Self::build(1, shards, work, None)
    }

    /// A cluster of `nodes` nodes with `shards` shards each. A client whose session belongs to its slot is relayed to the node
    /// that owns that; another one is on the node that it chose, or that its name hashes to.
    pub fn cluster(nodes: u16, shards: u16, work: WorkBudget) -> Node {
        let mut node = Self::build(nodes, shards, work, Some(Gateways::Perfect(Cluster::new(nodes, shards))));
        node.settle();
        node
    }

    /// One node of a cluster, whose driver connects it to the others.
    pub fn of_cluster(shards: u16, work: WorkBudget, gateway: ClusterNode) -> Node {
        Self::build(1, shards, work, Some(Gateways::Real(Box::new(gateway))))
    }

    /// The node that [`Node::of_cluster`] was given.
    pub fn gateway(&mut self) -> &mut ClusterNode {
        match &mut self.cluster {
            Some(Gateways::Real(gateway)) => gateway,
            _ => panic!("not one node of a cluster"),
        }
    }

    fn build(nodes: u16, shards: u16, work: WorkBudget, cluster: Option<Gateways>) -> Node {
        let is_cluster = cluster.is_some();
        let mut cores: Vec<Core> = (0..nodes * shards)
            .map(|core| Core::new(CoreConfig { shard: ShardId(core % shards), shards, hash_seed: 0, work }))
            .collect();
        if is_cluster {
            cores.iter_mut().for_each(Core::join_cluster);
        }
        // Of each node: its shards, then its gateway.
        let count = usize::from(nodes) * (usize::from(shards) + usize::from(is_cluster));
        let in_transit = (0..count).map(|_| (0..count).map(|_| VecDeque::new()).collect()).collect();
        // Time does not start at zero: an early instant must have room below it.
        Node {
            cores,
            cluster,
            shards: usize::from(shards),
            now: 1_000_000,
            links: Vec::new(),
            in_transit,
            assigned: 0,
            records: Vec::new(),
            ends_turns_apart: false,
            transcript: None,
        }
    }

    /// Lets time pass, and does what is due when it is due.
    pub fn advance(&mut self, millis: u64) {
        let end = self.now + millis;
        self.settle();
        while let Some(due) = self.cores.iter().filter_map(Core::next_deadline).min().filter(|due| *due <= end) {
            self.now = due.max(self.now);
            self.tick();
            self.settle();
        }
        self.now = end;
        self.tick();
        self.settle();
    }

    fn tick(&mut self) {
        for core in &mut self.cores {
            core.tick(self.now);
        }
    }

    /// Runs until nothing is left to do.
    pub fn settle(&mut self) {
        loop {
            self.collect();
            match self.pairs().find(|&(from, to)| !self.in_transit[from][to].is_empty()) {
                Some((from, to)) => self.deliver(from, to),
                None if self.cluster_steps() > 0 => self.cluster_step(0),
                None if self.has_deferred() => self.tick(),
                None => return,
            }
        }
    }

    /// Whether a core has work that it put off.
    fn has_deferred(&self) -> bool {
        self.cores.iter().any(|core| core.next_deadline() == Some(0))
    }

    /// The same, a batch of every link at a time: where there are many shards, to look for them one by one takes long.
    pub fn settle_in_rounds(&mut self) {
        loop {
            self.collect();
            let waiting: Vec<_> = self.pairs().filter(|&(from, to)| !self.in_transit[from][to].is_empty()).collect();
            if waiting.is_empty() && !self.has_deferred() {
                return;
            }
            self.tick();
            waiting.into_iter().for_each(|(from, to)| self.deliver(from, to));
        }
    }

    /// Collects what the cores want written and sent, then delivers one batch: the one `choose` picks among those that
    /// could be delivered next. Returns false where there is none.
    pub fn step(&mut self, choose: impl FnOnce(usize) -> usize) -> bool {
        self.collect();
        let delivered = self.deliver_one(choose);
        self.collect();
        delivered
    }

    /// Delivers one of the batches on their way, if there is any; what comes of it is not collected yet.
    pub fn deliver_one(&mut self, choose: impl FnOnce(usize) -> usize) -> bool {
        let waiting: Vec<_> = self.pairs().filter(|&(from, to)| !self.in_transit[from][to].is_empty()).collect();
        let steps = self.cluster_steps();
        if waiting.is_empty() && steps == 0 {
            let has_deferred = self.has_deferred();
            if has_deferred {
                self.tick();
            }
            return has_deferred;
        }
        let chosen = choose(waiting.len() + steps) % (waiting.len() + steps);
        match waiting.get(chosen) {
            Some(&(from, to)) => self.deliver(from, to),
            None => self.cluster_step(chosen - waiting.len()),
        }
        true
    }

    /// How many things the gateways could do next.
    fn cluster_steps(&self) -> usize {
        self.cluster.as_ref().map_or(0, |cluster| cluster.steps().len())
    }

    /// Does one of them.
    fn cluster_step(&mut self, chosen: usize) {
        if let Some(cluster) = &mut self.cluster {
            let step = cluster.steps()[chosen];
            cluster.carry_out(step, self.now);
        }
        self.collect_gateways();
    }

    /// Takes the batches of the gateways for their shards.
    fn collect_gateways(&mut self) {
        let Some(cluster) = &mut self.cluster else { return };
        let stride = self.shards + 1;
        for node in 0..cluster.count() {
            cluster.run(node, self.now);
            for shard in 0..self.shards {
                while let Some(batch) = cluster.take_batch(node, shard) {
                    self.in_transit[node * stride + self.shards][node * stride + shard].push_back(batch);
                }
            }
        }
    }

    fn pairs(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let count = self.in_transit.len();
        (0..count).flat_map(move |from| (0..count).map(move |to| (from, to)))
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.cores.len() / self.shards
    }

    /// How many shards a node has, its gateway included.
    fn stride(&self) -> usize {
        self.shards + usize::from(self.cluster.is_some())
    }

    fn deliver(&mut self, from: usize, to: usize) {
        let Some(batch) = self.in_transit[from][to].pop_front() else { return };
        let stride = self.stride();
        let (node, shard, from) = (to / stride, to % stride, ShardId((from % stride) as u16));
        match &mut self.cluster {
            Some(cluster) if shard == self.shards => cluster.accept_batch(node, from, batch),
            _ => self.cores[node * self.shards + shard].deliver_batch(from, batch, self.now),
        }
    }

    /// Carries out what the cores ask for.
    pub fn collect(&mut self) {
        let scope = if self.ends_turns_apart { Scope::Writes } else { Scope::All };
        for shard in 0..self.cores.len() {
            drive(&mut Shard { node: self, shard, scope });
        }
        self.collect_gateways();
    }

    /// What a shard does at the end of a turn of its loop: hand over records and batches, flush, close, read on. Answers
    /// with the records.
    pub fn end_turn(&mut self, shard: usize) -> Vec<RecordBatch> {
        drive(&mut Shard { node: self, shard, scope: Scope::All });
        std::mem::take(&mut self.records).into_iter().map(|(_, records)| records).collect()
    }

    /// Records that the cores handed over, by shard, in order.
    pub fn take_records(&mut self) -> Vec<(ShardId, RecordBatch)> {
        self.collect();
        std::mem::take(&mut self.records)
    }
}

impl Drop for Node {
    /// No index led nowhere: debug builds find that at once, release builds count it.
    fn drop(&mut self) {
        let errors: u64 = self.cores.iter().map(|core| core.gauges().internal_errors.total()).sum();
        let errors = errors + self.cluster.as_ref().map_or(0, Gateways::errors);
        assert!(std::thread::panicking() || errors == 0, "{errors} internal errors");
    }
}

/// One shard of a node, driven.
struct Shard<'a> {
    node: &'a mut Node,
    shard: usize,
    scope: Scope,
}

impl Driver for Shard<'_> {
    fn core(&mut self) -> &mut Core {
        &mut self.node.cores[self.shard]
    }

    fn scope(&mut self) -> Scope {
        self.scope
    }

    fn reauthenticate(&mut self, request: Reauthentication) {
        panic!("a node admits no enhanced authentication: {request:?}");
    }

    fn store(&mut self, records: RecordBatch) {
        self.node.records.push((ShardId(self.shard as u16), records));
    }

    fn send(&mut self, to: ShardId, batch: Batch) {
        let (stride, node) = (self.node.stride(), self.shard / self.node.shards);
        let from = node * stride + self.shard % self.node.shards;
        self.node.in_transit[from][node * stride + usize::from(to.0)].push_back(batch);
    }

    fn flush(&mut self, conn: ConnId) {
        if let Some(link) = self.node.link_of(self.shard, conn) {
            self.node.flush(self.shard, conn, link);
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(link) = self.node.link_of(self.shard, conn) {
            self.node.finish(link);
        }
    }

    fn resume(&mut self, conn: ConnId) {
        if let Some(link) = self.node.link_of(self.shard, conn) {
            self.node.resume(link);
        }
    }
}
