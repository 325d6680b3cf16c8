//! Links between shards: what crosses goes in batches, in order, and is acknowledged by how far it was taken.
//!
//! A link's other end is a shard today; nothing here says that it could not be another node.

use std::collections::VecDeque;
use std::sync::Arc;

use super::connection::Origin;
use super::inflight::Delivery;
use super::journal::Once;
use super::message::Message;
use super::provenance::Publisher;
use super::session::{SessionRef, SpaceId};
use super::shared::{GroupKey, Member, Readiness};
use super::{ConnId, Millis, ShardId};
use weir_mqtt::ProtocolVersion;

/// What an item counts for on a link beside its bytes.
const ITEM_BYTES: u64 = 32;

/// How far from its publisher an item is, by [`Item::rank`]: what is durable of a link is counted for each rank apart, for
/// what comes of an item is of a higher rank. So an answer waits for higher ranks alone, and nobody waits in a circle.
pub(super) const RANKS: usize = 5;
pub(super) const RANK_OWNER: usize = 0;
pub(super) const RANK_LAST: usize = 1;
pub(super) const RANK_ASSIGN: usize = 2;
pub(super) const RANK_RETURN: usize = 3;
pub(super) const RANK_ASSIGN_AGAIN: usize = 4;

/// Work for another shard, in order; made by `Core::take_batch`, taken by `Core::deliver_batch` over there.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) items: VecDeque<Item>,
    /// The packets that items name by range.
    pub(super) bytes: Vec<u8>,
    /// Where the link stands after this batch.
    pub(super) end: u64,
    /// How far the other direction was taken by who sends this.
    pub(super) taken: u64,
    /// How far the other direction, and what was sent on because of it, was taken by everybody.
    pub(super) settled: u64,
    /// The sender wants to hear of it at once when this is taken.
    pub(super) asks_notice: bool,
    /// At its receiver: some of it was sent on to others.
    pub(super) sent_on: bool,
    /// The sender wants to hear of it when what came of its items of a rank is durable.
    pub(super) asks_stored: [bool; RANKS],
    /// How far what came from the receiver is durable, and what was sent on because of it.
    pub(super) stored: [u64; RANKS],
    /// At its receiver: other shards that something was sent on to because of its items of a rank.
    pub(super) stored_until: [Vec<Wait>; RANKS],
}

/// Another shard has to have stored what it was sent of a rank, up to a place of the link.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wait {
    pub(super) shard: u16,
    pub(super) rank: usize,
    pub(super) place: u64,
}

/// What the receiver of a PUBLISH does with it.
#[derive(Debug)]
pub(super) enum Hop {
    /// Deliver it to who wants it here, but not before what its publisher's shard had sent here by then: the link from
    /// there was taken up to `after`.
    Last { after: u64 },
    /// It belongs to the topic's owner: keep it if it is retained, and send it everywhere. `after` is where the publisher's
    /// shard's links to each shard stood.
    Owner { after: Box<[u64]> },
}

#[derive(Debug)]
pub(super) enum Item {
    /// From now on `id` means this namespace.
    Space {
        id: SpaceId,
        name: Arc<str>,
    },
    Publish(Crossing),
    /// Messages of `filter` are wanted over there.
    Want {
        space: SpaceId,
        filter: Box<str>,
    },
    /// They no longer are.
    Unwant {
        space: SpaceId,
        filter: Box<str>,
    },
    /// All that was asked before holds here: say so, and send what is retained under these filters.
    Sync {
        request: SyncId,
        reads: Vec<(SpaceId, Box<str>)>,
    },
    /// Retained messages by the index of the read that found them, and whether all holds now; else it is said later.
    Synced {
        request: SyncId,
        retained: Vec<(u32, Message)>,
        holds: bool,
    },
    /// A member for a group owned here.
    Join {
        group: Arc<GroupKey>,
        member: Member,
    },
    Leave {
        group: Arc<GroupKey>,
        session: SessionRef,
    },
    Readiness {
        group: Arc<GroupKey>,
        session: SessionRef,
        readiness: Readiness,
    },
    /// A member's part of a shared subscription.
    Assign {
        session: SessionRef,
        message: Message,
        delivery: Delivery,
        origin: Origin,
        once: Option<Once>,
        /// The owner took the member for ready: if it is not, another one is to have the message.
        may_return: bool,
        /// Another member has returned it.
        again: bool,
    },
    /// A member went before it took the message: another one is to have it.
    Return {
        group: Arc<GroupKey>,
        message: Message,
        once: Option<Once>,
    },
    /// A receiver over there is slow: pause its publisher.
    Pause(ConnId),
    Resume(ConnId),
    /// Over there is a durable session.
    Durable,
    /// A QoS 2 publish that an earlier process took is released.
    Released(Once),
    /// A session ended before it released a QoS 2 publish: its part over there is to be forgotten, too.
    Orphaned(Once),
    /// Asks to hear when everything that was recorded before is on disk.
    Barrier,
    /// Carries nothing but the batch's watermark.
    Taken,
}

/// A PUBLISH between shards.
#[derive(Debug)]
pub(super) struct Crossing {
    pub(super) space: SpaceId,
    pub(super) hop: Hop,
    pub(super) version: ProtocolVersion,
    pub(super) origin: Origin,
    /// Of a message that is retained.
    pub(super) publisher: Option<Arc<Publisher>>,
    pub(super) expires_at: Millis,
    /// If it is retained, then on disk.
    pub(super) durable: bool,
    /// See [`Once`].
    pub(super) once: Option<Once>,
    /// Range in the batch's bytes.
    pub(super) start: u32,
    pub(super) end: u32,
}

/// Names a SUBSCRIBE that waits for other shards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SyncId {
    pub(super) session: SessionRef,
    pub(super) serial: u32,
}

/// What came with a batch and was sent on to others: settled once they all have taken it.
#[derive(Debug)]
pub(super) struct Onward {
    /// Where the link that it came by stood after it.
    pub(super) end: u64,
    /// Where each link of ours stood after it; empty where nothing was sent on.
    pub(super) until: Vec<u64>,
}

/// A SUBSCRIBE elsewhere that waits until every shard has taken what it was sent.
#[derive(Debug)]
pub(super) struct LateSync {
    pub(super) from: ShardId,
    pub(super) request: SyncId,
    pub(super) until: Vec<u64>,
}

/// What came of a batch's items of one rank and is not durable. It waits for nothing that has another cause: else two
/// shards whose clients publish to each other would wait in a circle.
#[derive(Debug)]
pub(super) struct Storing {
    /// Where the link that it came by stood after it.
    pub(super) end: u64,
    /// The batch of records that it left here; 0: none.
    pub(super) batch: u64,
    /// Other shards that it was sent on to, and how far each must have stored.
    pub(super) until: Vec<Wait>,
}

/// This end of a link.
#[derive(Debug, Default)]
pub(super) struct Link {
    pub(super) batch: Batch,
    /// Everything put on the link, in bytes, and how much of it the other end has taken.
    pub(super) sent: u64,
    pub(super) taken: u64,
    /// Batches from the other end that wait for another link.
    pub(super) held: VecDeque<Batch>,
    /// What was taken from the other end, and what it was told of that.
    pub(super) received: u64,
    pub(super) told: u64,
    /// How far what was put on the link has also been taken by those it was sent on to.
    pub(super) settled: u64,
    /// The same of what came from the other end, and what is not settled of it yet.
    pub(super) their_settled: u64,
    pub(super) onward: VecDeque<Onward>,
    /// How far what was put on the link is durable wherever it had to be, by rank.
    pub(super) stored: [u64; RANKS],
    /// The same of what came from the other end, and what is not durable of it.
    pub(super) their_stored: [u64; RANKS],
    pub(super) storing: [VecDeque<Storing>; RANKS],
    /// The other end is to hear how far things are, though there be nothing else to say.
    pub(super) owes_notice: bool,
    /// Where our links stood when somebody over there last joined a group that is owned here: by then every shard had been
    /// told that the group wants its filter. The [`Item::Sync`] that follows takes it.
    pub(super) joined: Vec<u64>,
    /// Namespaces the other end has been told.
    pub(super) defined: Vec<bool>,
    /// The other end's numbers of namespaces, as ours.
    pub(super) spaces: Vec<SpaceId>,
    /// Publishers that wait for the link.
    pub(super) waiters: Vec<Origin>,
}

impl Item {
    /// What it, and the bytes it names, count for on a link.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Publish(crossing) => ITEM_BYTES + u64::from(crossing.end - crossing.start),
            // It is put there as the batch leaves, past all bounds.
            Self::Taken => 0,
            _ => ITEM_BYTES,
        }
    }

    /// What it is on the way from a publisher to a receiver; `None`: nothing.
    pub(super) fn rank(&self) -> Option<usize> {
        match self {
            Self::Publish(Crossing { hop: Hop::Owner { .. }, .. }) => Some(RANK_OWNER),
            Self::Publish(Crossing { hop: Hop::Last { .. }, .. }) | Self::Barrier => Some(RANK_LAST),
            Self::Assign { again: false, .. } => Some(RANK_ASSIGN),
            Self::Return { .. } => Some(RANK_RETURN),
            Self::Assign { again: true, .. } => Some(RANK_ASSIGN_AGAIN),
            _ => None,
        }
    }
}

impl Link {
    pub(super) fn push(&mut self, item: Item) {
        self.sent += ITEM_BYTES;
        self.batch.items.push_back(item);
    }

    /// Appends bytes to the batch; answers with their range.
    pub(super) fn append(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> (u32, u32) {
        let start = self.batch.bytes.len();
        write(&mut self.batch.bytes);
        let end = self.batch.bytes.len();
        self.sent += (end - start) as u64;
        (start as u32, end as u32)
    }
}
