//! A cluster in memory: the gateways of several nodes, links between them that lose nothing, and one log of retained messages.

use std::collections::VecDeque;

use weir_broker::gateway::{
    Gateway, Outside, PeerMessage, PeerPublish, PeerSlot, Positions, RetainedEntry, RetainedPublisher, SlotSets,
};
use weir_broker::placement::session_slot;
use weir_broker::{Batch, Durability, ShardId};
use weir_cluster::node::ClusterNode;
use weir_mqtt::ProtocolVersion;

/// A message between nodes that owns what it names.
#[derive(Debug)]
enum Message {
    Namespace(u32, String),
    Interest(bool, u32, String),
    Group(u32, String, String, u32, u32),
    LogApplied(u64),
    Client(u32, String, u64, bool),
    Will(u32, String, u64, Option<Vec<u8>>),
    WillsEnd,
    WillPublished(u32, String, u64),
    SnapshotEnd(u64),
    Publish(Publish),
    GroupPublish(String, String, Publish),
}

#[derive(Debug)]
struct Publish {
    namespace: u32,
    version: ProtocolVersion,
    expires_in: Option<u64>,
    packet: Vec<u8>,
}

impl Publish {
    fn of(publish: &PeerPublish<'_>) -> Self {
        let PeerPublish { namespace, version, expires_in, packet } = *publish;
        Self { namespace, version, expires_in, packet: packet.to_vec() }
    }

    fn borrow(&self) -> PeerPublish<'_> {
        let Self { namespace, version, expires_in, ref packet } = *self;
        PeerPublish { namespace, version, expires_in, packet }
    }
}

impl Message {
    fn of(message: &PeerMessage<'_>) -> Self {
        match message {
            PeerMessage::Namespace { id, name } => Self::Namespace(*id, (*name).to_owned()),
            PeerMessage::AddInterest { namespace, filter } => Self::Interest(true, *namespace, (*filter).to_owned()),
            PeerMessage::RemoveInterest { namespace, filter } => {
                Self::Interest(false, *namespace, (*filter).to_owned())
            }
            PeerMessage::Group { namespace, group, filter, members, ready } => {
                Self::Group(*namespace, (*group).to_owned(), (*filter).to_owned(), *members, *ready)
            }
            PeerMessage::LogApplied { sequence } => Self::LogApplied(*sequence),
            PeerMessage::ClientConnected { namespace, client_id, stamp, clean_start } => {
                Self::Client(*namespace, (*client_id).to_owned(), *stamp, *clean_start)
            }
            PeerMessage::ClientWill { namespace, client_id, stamp, will } => {
                Self::Will(*namespace, (*client_id).to_owned(), *stamp, will.map(<[u8]>::to_vec))
            }
            PeerMessage::WillsEnd => Self::WillsEnd,
            PeerMessage::WillPublished { namespace, client_id, stamp } => {
                Self::WillPublished(*namespace, (*client_id).to_owned(), *stamp)
            }
            PeerMessage::SnapshotEnd { stamp } => Self::SnapshotEnd(*stamp),
            PeerMessage::Publish(publish) => Self::Publish(Publish::of(publish)),
            PeerMessage::GroupPublish { group, filter, publish } => {
                Self::GroupPublish((*group).to_owned(), (*filter).to_owned(), Publish::of(publish))
            }
        }
    }

    fn borrow(&self) -> PeerMessage<'_> {
        match self {
            Self::Namespace(id, name) => PeerMessage::Namespace { id: *id, name },
            Self::Interest(true, namespace, filter) => PeerMessage::AddInterest { namespace: *namespace, filter },
            Self::Interest(false, namespace, filter) => PeerMessage::RemoveInterest { namespace: *namespace, filter },
            Self::Group(namespace, group, filter, members, ready) => {
                PeerMessage::Group { namespace: *namespace, group, filter, members: *members, ready: *ready }
            }
            Self::LogApplied(sequence) => PeerMessage::LogApplied { sequence: *sequence },
            Self::Client(namespace, client_id, stamp, clean_start) => PeerMessage::ClientConnected {
                namespace: *namespace,
                client_id,
                stamp: *stamp,
                clean_start: *clean_start,
            },
            Self::Will(namespace, client_id, stamp, will) => {
                PeerMessage::ClientWill { namespace: *namespace, client_id, stamp: *stamp, will: will.as_deref() }
            }
            Self::WillsEnd => PeerMessage::WillsEnd,
            Self::WillPublished(namespace, client_id, stamp) => {
                PeerMessage::WillPublished { namespace: *namespace, client_id, stamp: *stamp }
            }
            Self::SnapshotEnd(stamp) => PeerMessage::SnapshotEnd { stamp: *stamp },
            Self::Publish(publish) => PeerMessage::Publish(publish.borrow()),
            Self::GroupPublish(group, filter, publish) => {
                PeerMessage::GroupPublish { group, filter, publish: publish.borrow() }
            }
        }
    }
}

/// Identity of a publisher: client id, user name, endpoint.
type Publisher = (String, Option<String>, Option<std::net::IpAddr>, String);

/// An entry of the log that owns what it names.
#[derive(Debug)]
struct Entry {
    node: u64,
    number: u64,
    after: Vec<u8>,
    namespace: String,
    publish: Publish,
    publisher: Option<Publisher>,
}

impl Entry {
    fn of(entry: &RetainedEntry<'_>) -> Self {
        let RetainedEntry { node, number, after, namespace, version, expires_in, publisher, packet } = entry;
        let publisher = publisher
            .as_ref()
            .map(|p| (p.client_id.to_owned(), p.username.map(str::to_owned), p.address, p.endpoint.to_owned()));
        let publish = Publish { namespace: 0, version: *version, expires_in: *expires_in, packet: packet.to_vec() };
        let (namespace, after) = ((*namespace).to_owned(), after.0.to_vec());
        Self { node: *node, number: *number, after, namespace, publish, publisher }
    }

    fn borrow(&self) -> RetainedEntry<'_> {
        RetainedEntry {
            node: self.node,
            number: self.number,
            after: Positions(&self.after),
            namespace: &self.namespace,
            version: self.publish.version,
            expires_in: self.publish.expires_in,
            publisher: self.publisher.as_ref().map(|(client_id, username, address, endpoint)| RetainedPublisher {
                client_id,
                username: username.as_deref(),
                address: *address,
                endpoint,
            }),
            packet: &self.publish.packet,
        }
    }
}

/// The outside of one gateway.
#[derive(Debug, Default)]
struct Ends {
    /// Messages on their way to each node, and how many were put there.
    links: Vec<(u64, VecDeque<(u64, Message)>)>,
    appended: VecDeque<Entry>,
}

impl Outside for Ends {
    fn push(&mut self, peer: PeerSlot, message: &PeerMessage<'_>) -> u64 {
        let (sent, link) = &mut self.links[usize::from(peer.0)];
        *sent += 1;
        link.push_back((*sent, Message::of(message)));
        *sent
    }

    fn append(&mut self, entry: &RetainedEntry<'_>) {
        self.appended.push_back(Entry::of(entry));
    }
}

/// Slots of each class that a cluster in memory has.
pub const SLOTS: u16 = 16;

/// Something that a cluster can do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A node takes a message of another one.
    Take { from: usize, at: usize },
    /// A node learns how far another one has come.
    Progress { from: usize, at: usize },
    /// The log takes an entry of a node.
    Append(usize),
    /// A node learns that its entries are stored.
    Stored(usize),
    /// A node applies the next entry.
    Apply(usize),
}

/// The gateways, and what is between them.
pub struct Cluster {
    nodes: Vec<(Gateway, Ends)>,
    log: Vec<Entry>,
    /// How many entries each node has applied, and how many of its own it knows to be stored.
    applied: Vec<usize>,
    stored: Vec<u64>,
    /// What each node has last heard of each other's progress.
    heard: Vec<Vec<(u64, u64)>>,
}

/// The node that owns a slot.
fn owner(slot: u16, nodes: usize) -> usize {
    usize::from(slot) % nodes
}

/// The incarnation of a node.
fn incarnation(node: usize) -> u64 {
    1000 + node as u64
}

impl Cluster {
    pub fn new(nodes: u16, shards: u16) -> Self {
        let count = usize::from(nodes);
        let ends = || Ends { links: (0..count).map(|_| (0, VecDeque::new())).collect(), ..Ends::default() };
        let mut cluster = Self {
            nodes: (0..count).map(|node| (Gateway::new(shards, 0, incarnation(node)), ends())).collect(),
            log: Vec::new(),
            applied: vec![0; count],
            stored: vec![0; count],
            heard: vec![vec![(0, 0); count]; count],
        };
        for (node, (gateway, ends)) in cluster.nodes.iter_mut().enumerate() {
            let owned = (0..SLOTS * 2).filter(|slot| owner(*slot, count) == node).collect();
            gateway.set_slots(SLOTS, SlotSets { owned, ..SlotSets::default() });
            gateway.set_in_until(u64::MAX);
            for peer in (0..count).filter(|peer| *peer != node) {
                gateway.add_peer(PeerSlot(peer as u16), incarnation(peer), 0, ends);
            }
        }
        (0..count).for_each(|node| cluster.set_will_keeper(node, (node + 1) % count));
        cluster
    }

    pub fn gateways(&self) -> usize {
        self.nodes.len()
    }

    /// The node that serves the sessions of a slot.
    pub fn owner(&self, slot: u16) -> usize {
        owner(slot, self.nodes.len())
    }

    pub fn errors(&self) -> u64 {
        self.nodes.iter().map(|(gateway, _)| gateway.errors()).sum()
    }

    pub fn accept_batch(&mut self, node: usize, from: ShardId, batch: Batch) {
        self.nodes[node].0.accept_batch(from, batch);
    }

    pub fn run(&mut self, node: usize, now: u64) {
        let (gateway, ends) = &mut self.nodes[node];
        gateway.run(false, ends, now);
    }

    pub fn take_batch(&mut self, node: usize, shard: usize) -> Option<Batch> {
        self.nodes[node].0.take_batch(ShardId(shard as u16))
    }

    /// The other nodes declare a node out: what is on the way from and to it is lost.
    pub fn declare_out(&mut self, node: usize, now: u64) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            let gateway = &mut self.nodes[other].0;
            gateway.publish_wills(PeerSlot(node as u16), now);
            gateway.remove_peer(PeerSlot(node as u16), u64::MAX);
            self.nodes[other].1.links[node].1.clear();
            self.nodes[node].1.links[other].1.clear();
        }
    }

    /// A node that was declared out is in again, and never stopped.
    pub fn back_in(&mut self, node: usize) {
        for other in (0..self.nodes.len()).filter(|other| *other != node) {
            for (at, peer) in [(node, other), (other, node)] {
                let (gateway, ends) = &mut self.nodes[at];
                gateway.remove_peer(PeerSlot(peer as u16), u64::MAX);
                ends.links[peer].1.clear();
                gateway.add_peer(PeerSlot(peer as u16), incarnation(peer), 0, ends);
            }
        }
        (0..self.nodes.len()).for_each(|node| self.set_will_keeper(node, (node + 1) % self.nodes.len()));
    }

    pub fn set_will_keeper(&mut self, node: usize, keeper: usize) {
        let (gateway, ends) = &mut self.nodes[node];
        gateway.set_will_keeper(Some(PeerSlot(keeper as u16)), ends);
    }

    /// The node that serves the persistent sessions in memory of a client.
    pub fn owner_of_client(&self, client_id: &str) -> usize {
        self.owner(session_slot(Durability::Memory, "", client_id, SLOTS))
    }

    /// Until when a node is in; 0: it is out.
    pub fn set_in_until(&mut self, node: usize, until: u64) {
        self.nodes[node].0.set_in_until(until);
    }

    pub fn gateway(&self, node: usize) -> &Gateway {
        &self.nodes[node].0
    }

    /// What could be done next.
    pub fn steps(&self) -> Vec<Step> {
        let count = self.nodes.len();
        let mut steps = Vec::new();
        for from in 0..count {
            for at in (0..count).filter(|at| *at != from) {
                if !self.nodes[from].1.links[at].1.is_empty() {
                    steps.push(Step::Take { from, at });
                }
                if self.nodes[from].0.progress(PeerSlot(at as u16)) != self.heard[at][from] {
                    steps.push(Step::Progress { from, at });
                }
            }
            if !self.nodes[from].1.appended.is_empty() {
                steps.push(Step::Append(from));
            }
            let newest = self.log.iter().rev().find(|entry| entry.node == incarnation(from));
            if newest.is_some_and(|entry| entry.number > self.stored[from]) {
                steps.push(Step::Stored(from));
            }
            let next = self.log.get(self.applied[from]);
            if next.is_some_and(|entry| self.nodes[from].0.may_apply(&entry.borrow())) {
                steps.push(Step::Apply(from));
            }
        }
        steps
    }

    pub fn carry_out(&mut self, step: Step, now: u64) {
        match step {
            Step::Take { from, at } => {
                let Some((number, message)) = self.nodes[from].1.links[at].1.pop_front() else { return };
                let gateway = &mut self.nodes[at].0;
                gateway.take_message(PeerSlot(from as u16), number, &message.borrow(), now);
                gateway.end_messages(PeerSlot(from as u16));
            }
            Step::Progress { from, at } => {
                let progress = self.nodes[from].0.progress(PeerSlot(at as u16));
                self.heard[at][from] = progress;
                self.nodes[at].0.peer_progress(PeerSlot(from as u16), progress.0, progress.1);
            }
            Step::Append(node) => self.log.extend(self.nodes[node].1.appended.pop_front()),
            Step::Stored(node) => {
                let own = self.log.iter().filter(|entry| entry.node == incarnation(node));
                let newest = own.map(|entry| entry.number).max().unwrap_or(0);
                for number in self.stored[node] + 1..=newest {
                    let is_it = |entry: &Entry| entry.node == incarnation(node) && entry.number == number;
                    let sequence = self.log.iter().position(is_it).map(|at| at as u64 + 1);
                    self.nodes[node].0.entry_stored(number, sequence);
                }
                self.stored[node] = newest;
            }
            Step::Apply(node) => {
                let entry = &self.log[self.applied[node]];
                self.applied[node] += 1;
                self.nodes[node].0.apply(self.applied[node] as u64, &entry.borrow(), now);
            }
        }
    }
}

/// The gateways of a [`Node`](crate::node::Node): those of a whole cluster with perfect links, or that of one node, which a
/// simulation connects to others.
pub enum Gateways {
    Perfect(Cluster),
    Real(Box<ClusterNode>),
}

impl Gateways {
    pub fn count(&self) -> usize {
        match self {
            Self::Perfect(cluster) => cluster.gateways(),
            Self::Real(_) => 1,
        }
    }

    /// The node that serves the sessions of a slot; `None`: it is not known here.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        match self {
            Self::Perfect(cluster) => Some(cluster.owner(slot)),
            Self::Real(_) => None,
        }
    }

    pub fn errors(&self) -> u64 {
        match self {
            Self::Perfect(cluster) => cluster.errors(),
            Self::Real(node) => node.status(0).errors,
        }
    }

    pub fn accept_batch(&mut self, node: usize, from: ShardId, batch: Batch) {
        match self {
            Self::Perfect(cluster) => cluster.accept_batch(node, from, batch),
            Self::Real(node) => node.accept_batch(from, batch),
        }
    }

    pub fn run(&mut self, node: usize, now: u64) {
        match self {
            Self::Perfect(cluster) => cluster.run(node, now),
            Self::Real(node) => while node.run(now) {},
        }
    }

    pub fn take_batch(&mut self, node: usize, shard: usize) -> Option<Batch> {
        match self {
            Self::Perfect(cluster) => cluster.take_batch(node, shard),
            Self::Real(node) => node.next_batch(ShardId(shard as u16)),
        }
    }

    /// What could be done next; the steps of a real node are its simulation's.
    pub fn steps(&self) -> Vec<Step> {
        match self {
            Self::Perfect(cluster) => cluster.steps(),
            Self::Real(_) => Vec::new(),
        }
    }

    pub fn carry_out(&mut self, step: Step, now: u64) {
        if let Self::Perfect(cluster) = self {
            cluster.carry_out(step, now);
        }
    }
}
