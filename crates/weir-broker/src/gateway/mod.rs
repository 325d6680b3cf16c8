//! The gateway of a node to the other nodes of its cluster: a shard without clients.
//!
//! To the shards of its node it is one more shard: it has interest in what peers have subscribed to, gets those messages
//! over the links between shards, and reports as stored what the peers have taken. To the peers it speaks
//! [`PeerMessage`]s over node links, which lose and reorder nothing. A message of a peer enters the node as one of a shard.
//! So order, flow control, durability and acknowledgements are those that exist between shards.

mod clients;
mod from_peers;
mod from_shards;
mod groups;
mod message;
mod moves;
mod peers;
mod retained_log;
mod slots;
#[cfg(test)]
mod tests;
mod waits;
mod wills;

pub use crate::ids::PeerSlot;
pub use crate::placement::{SlotSets, Slots};
pub use crate::values::slot_copy::SlotCopy;
pub use message::{PeerMessage, PeerPublish, Positions, RetainedEntry, RetainedPublisher};
pub use wills::WillCounts;

use std::collections::VecDeque;

use crate::gateway::groups::Groups;
use crate::gateway::moves::Moves;
use crate::gateway::peers::Peers;
use crate::gateway::retained_log::RetainedLog;
use crate::gateway::slots::SlotReports;
use crate::gateway::waits::{Epochs, Hold, WaitingBarrier};
use crate::gateway::wills::Wills;
use crate::hash::HashSeed;
use crate::ids::{ConnId, ConnectionSlot, Millis, Origin, SessionId, ShardId};
use crate::limits::GATEWAY_INCOMING_BYTES;
use crate::links::link::{Batch, LinkMessage};
use crate::links::state::Links;
use crate::routing::state::Routing;
use crate::shard_set::ShardSet;

/// Whether a topic, or a filter, is of one node: `$SYS` and `$events` of each node are its own.
pub(crate) fn is_of_node(topic: &str) -> bool {
    topic.starts_with('$')
}

/// What a gateway sends: the driver carries it out.
pub trait Outside {
    /// Puts a message on the link to a peer; returns its number on that link, which grows by 1.
    fn push(&mut self, peer: PeerSlot, message: &PeerMessage<'_>) -> u64;
    /// Appends an entry to the log of retained messages. Entries are appended in the order of the calls.
    fn append(&mut self, entry: &RetainedEntry<'_>);
}

/// The gateway of a node.
///
/// A driver calls [`Gateway::accept_batch`] for what shards send, [`Gateway::take_message`] for what peers send and
/// [`Gateway::apply`] for entries of the log, then [`Gateway::run`], and then sends what [`Gateway::take_batch`] answers.
#[derive(Debug)]
pub struct Gateway {
    /// The number of shards with clients; this one is behind them.
    shards: u16,
    /// This node's incarnation.
    incarnation: u64,
    links: Links,
    /// The filters that shards and peers want. A shard's destination is its number, a peer's is behind the gateway's.
    routing: Routing,
    peers: Peers,
    groups: Groups,
    epochs: Epochs,
    barriers: Vec<WaitingBarrier>,
    /// What holds back the acknowledgement of each shard's messages.
    holds: Vec<VecDeque<Hold>>,
    log: RetainedLog,
    /// What the shards have made of this node's slots.
    slots: SlotReports,
    moves: Moves,
    wills: Wills,
    /// The key that was given to a peer last.
    last_key: u64,
    /// The newest stamp of a connection that this node knows of.
    stamp: u64,
    /// Messages that contradict what this node knows.
    errors: u64,
}

impl Gateway {
    /// The gateway of a node with `shards` shards.
    ///
    /// `hash_seed` is that of the cores; `incarnation` is this start of the node, as peers know it.
    pub fn new(shards: u16, hash_seed: u64, incarnation: u64) -> Self {
        let seed = HashSeed::new(hash_seed);
        let mut links = Links::new(ShardId(shards), shards + 1);
        // Shards wait for the peers as they wait for a shard with durable sessions.
        links.broadcast(|| LinkMessage::HasDurableSessions);
        Self {
            shards,
            incarnation,
            links,
            routing: Routing::new(shards, seed),
            peers: Peers::default(),
            groups: Groups::default(),
            epochs: Epochs::default(),
            barriers: Vec::new(),
            holds: (0..shards).map(|_| VecDeque::new()).collect(),
            log: RetainedLog::default(),
            slots: SlotReports::new(shards),
            moves: Moves::default(),
            wills: Wills::default(),
            last_key: 0,
            stamp: 0,
            errors: 0,
        }
    }

    /// The origin of peers' messages on this node.
    fn origin(&self) -> Origin {
        let connection = ConnId { slot: ConnectionSlot(u32::MAX), generation: u32::MAX };
        Origin { shard: ShardId(self.shards), connection, session: SessionId(u32::MAX) }
    }

    fn shard_destinations(&self) -> ShardSet {
        ShardSet::range(0, self.shards)
    }

    fn peer_destinations(&self) -> ShardSet {
        ShardSet::range(self.shards + 1, crate::limits::SHARDS_MAX)
    }

    fn destination_of(&self, peer: PeerSlot) -> ShardId {
        ShardId(self.shards + 1 + peer.0)
    }

    fn peer_of(&self, destination: ShardId) -> PeerSlot {
        PeerSlot(destination.0 - self.shards - 1)
    }

    /// The node is in until that moment, by the clock of its shards; 0: it is out. Later, and before the first call, its shards
    /// acknowledge no PUBLISH of QoS 1 and 2.
    pub fn set_in_until(&mut self, until: Millis) {
        (0..self.shards).for_each(|shard| self.links.push(ShardId(shard), LinkMessage::InUntil(until)));
    }

    /// The log of retained messages takes entries of so many bytes. Larger messages that are to be retained are refused.
    pub fn set_log_entry_max(&mut self, bytes: usize) {
        (0..self.shards).for_each(|shard| self.links.push(ShardId(shard), LinkMessage::LogEntryMax(bytes)));
    }

    /// Takes a shard's batch. What it holds is processed by [`Gateway::run`].
    pub fn accept_batch(&mut self, from: ShardId, batch: Batch) {
        // Publishers that wait for this shard are none: peers are held back by `has_room`.
        self.links.accept(from, batch);
    }

    /// Processes what shards have sent, unless `congested`: a peer has too much on the way, so that the publishers on this
    /// node have to wait. Finds what has been acknowledged, and answers it.
    pub fn run(&mut self, congested: bool, outside: &mut impl Outside, now: Millis) {
        if !congested {
            self.drain_shards(outside, now);
        }
        if !self.moves.is_held() {
            self.publish_delayed_wills(now);
        }
        self.advance_peers();
        self.advance_log(outside);
        self.advance_epochs();
        self.answer_barriers();
        self.release_holds();
    }

    /// The batch for a shard; `None`: nothing is to be sent.
    pub fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        let mut batch = self.links.take_batch(to)?;
        if let Some(hold) = self.holds.get(usize::from(to.0)).and_then(VecDeque::front) {
            batch.acked = batch.acked.min(hold.position());
        }
        Some(batch)
    }

    /// Whether messages of peers may be taken: shards have processed enough of the earlier ones.
    pub fn has_room(&self) -> bool {
        (0..self.shards).all(|shard| self.links.unacked_bytes(ShardId(shard)) < GATEWAY_INCOMING_BYTES)
    }

    /// How many messages contradicted what this node knows: a defect of this node or a peer.
    pub fn errors(&self) -> u64 {
        self.errors
    }
}
