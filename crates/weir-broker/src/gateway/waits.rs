//! What shards wait for: acknowledgements of peers, and the log of retained messages.

use std::collections::VecDeque;

use super::peers::Peers;
use super::retained_log::RetainedLog;
use super::{Gateway, Outside};
use crate::ids::{PeerSlot, ShardId};
use crate::links::link::{BarrierId, LinkMessage, RANK_ASSIGN, StorageWait};
use crate::links::state::Links;

/// Something that has to happen outside of the node. What a peer that is out has not done is not waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    /// The peer has stored the message of that number on the link to it.
    Stored { peer: PeerSlot, key: u64, number: u64 },
    /// The peer has processed it.
    Processed { peer: PeerSlot, key: u64, number: u64 },
    /// Every node has applied this node's entry of that number, and what it caused here is stored. An entry that is stored may be removed, replaced by a newer one,
    /// before a node that is out has read it.
    Entry(u64),
    /// A shard of this node has stored it.
    Shard(StorageWait),
}

impl Wait {
    pub(super) fn is_over(self, peers: &Peers, log: &RetainedLog, links: &Links) -> bool {
        let of = |slot, key| peers.get(slot).filter(|peer| peer.key == key);
        match self {
            Wait::Stored { peer, key, number } => of(peer, key).is_none_or(|peer| peer.stored >= number),
            Wait::Processed { peer, key, number } => of(peer, key).is_none_or(|peer| peer.processed >= number),
            Wait::Entry(number) => log.settled() >= number,
            Wait::Shard(wait) => links.has_stored(&wait),
        }
    }

    /// The peer and the kind, of which the highest number alone matters.
    fn key(self) -> (u8, u16, u64) {
        match self {
            Wait::Stored { peer, key, .. } => (0, peer.0, key),
            Wait::Processed { peer, key, .. } => (1, peer.0, key),
            Wait::Entry(_) => (2, 0, 0),
            Wait::Shard(wait) => (3, wait.shard, wait.rank as u64),
        }
    }
}

/// The waits of what shards have sent, in order: for them, the gateway's store. Messages for members of shared groups have their
/// own: an entry of the log is not settled before those that it causes are stored, so these must not wait for entries.
#[derive(Debug, Default)]
pub(super) struct Epochs {
    publishes: EpochQueue,
    assigns: EpochQueue,
}

/// The epochs of some ranks of messages.
#[derive(Debug, Default)]
struct EpochQueue {
    /// The number of the last epoch that ended.
    ended: u64,
    settled: u64,
    /// Of the epoch that has not ended.
    waits: Vec<Wait>,
    waiting: VecDeque<(u64, Vec<Wait>)>,
}

impl Epochs {
    fn of_rank(&mut self, rank: usize) -> &mut EpochQueue {
        if rank < RANK_ASSIGN { &mut self.publishes } else { &mut self.assigns }
    }

    pub(super) fn are_settled(&self) -> bool {
        self.publishes.waiting.is_empty() && self.assigns.waiting.is_empty()
    }

    /// The epoch waits for something more, because of a message of that rank.
    pub(super) fn wait_for(&mut self, rank: usize, wait: Wait) {
        self.of_rank(rank).wait_for(wait);
    }

    /// Ends the epoch. Returns, by rank, the number of the newest that is not settled; 0: all are.
    pub(super) fn end(&mut self) -> impl Fn(usize) -> u64 + use<> {
        let (publishes, assigns) = (self.publishes.end(), self.assigns.end());
        move |rank| if rank < RANK_ASSIGN { publishes } else { assigns }
    }
}

impl EpochQueue {
    fn wait_for(&mut self, wait: Wait) {
        match self.waits.iter_mut().find(|known| known.key() == wait.key()) {
            // Numbers grow.
            Some(known) => *known = wait,
            None => self.waits.push(wait),
        }
    }

    fn end(&mut self) -> u64 {
        if !self.waits.is_empty() {
            self.ended += 1;
            self.waiting.push_back((self.ended, std::mem::take(&mut self.waits)));
        }
        if self.waiting.is_empty() { 0 } else { self.ended }
    }

    fn settle(&mut self, is_over: impl Fn(&Wait) -> bool) {
        while let Some((number, waits)) = self.waiting.front()
            && waits.iter().all(&is_over)
        {
            self.settled = *number;
            self.waiting.pop_front();
        }
    }
}

/// A SUBSCRIBE that waits until every peer knows of it.
#[derive(Debug)]
pub(super) struct WaitingBarrier {
    from: ShardId,
    request: BarrierId,
    waits: Vec<Wait>,
}

/// A message of a shard that does not count as processed before every peer has processed what was sent because of it.
#[derive(Debug)]
pub(super) struct Hold {
    /// The position of the shard's link before that message.
    position: u64,
    waits: Vec<Wait>,
}

impl Hold {
    pub(super) fn position(&self) -> u64 {
        self.position
    }
}

impl Gateway {
    /// Waits for all peers to have processed what they were sent of this node's interest.
    pub(super) fn interest_waits(&self) -> Vec<Wait> {
        let number =
            |slot, peer: &super::peers::Peer| Wait::Processed { peer: slot, key: peer.key, number: peer.last_interest };
        let waits = self.peers.iter().map(|(slot, peer)| number(slot, peer));
        waits.filter(|wait| !wait.is_over(&self.peers, &self.log, &self.links)).collect()
    }

    /// A SUBSCRIBE on a shard: its SUBACK waits until every peer forwards what it matches.
    pub(super) fn begin_barrier(&mut self, from: ShardId, request: BarrierId) {
        let waits = self.interest_waits();
        if waits.is_empty() {
            self.links.push(from, LinkMessage::BarrierAck { request, retained: None, complete: true });
        } else {
            self.barriers.push(WaitingBarrier { from, request, waits });
        }
    }

    /// The message of `from` at `position` counts as processed when every peer knows of this node's interest.
    pub(super) fn hold(&mut self, from: ShardId, position: u64) {
        let waits = self.interest_waits();
        if !waits.is_empty()
            && let Some(holds) = self.holds.get_mut(from.index())
        {
            holds.push_back(Hold { position, waits });
        }
    }

    pub(super) fn answer_barriers(&mut self) {
        if !self.is_confirmed() {
            return; // a peer that began anew is another one for what waits
        }
        let (peers, log, links) = (&self.peers, &self.log, &mut self.links);
        self.barriers.retain_mut(|barrier| {
            barrier.waits.retain(|wait| !wait.is_over(peers, log, links));
            let WaitingBarrier { from, request, .. } = *barrier;
            let is_over = barrier.waits.is_empty();
            if is_over {
                links.push(from, LinkMessage::BarrierAck { request, retained: None, complete: true });
            }
            !is_over
        });
    }

    pub(super) fn release_holds(&mut self) {
        if !self.is_confirmed() {
            return;
        }
        for (shard, holds) in self.holds.iter_mut().enumerate() {
            let (peers, log, links) = (&self.peers, &self.log, &mut self.links);
            let is_over = |hold: &Hold| hold.waits.iter().all(|wait| wait.is_over(peers, log, links));
            let over = holds.iter().take_while(|hold| is_over(hold)).count();
            if over > 0 {
                holds.drain(..over);
                links.owe_ack(ShardId(shard as u16));
            }
        }
    }

    /// Settles epochs, and tells shards what is stored because of that.
    pub(super) fn advance_epochs(&mut self) {
        let is_over = |wait: &Wait| wait.is_over(&self.peers, &self.log, &self.links);
        let Epochs { publishes, assigns } = &mut self.epochs;
        publishes.settle(is_over);
        assigns.settle(is_over);
        let settled = |rank| if rank < RANK_ASSIGN { publishes.settled } else { assigns.settled };
        self.links.settle_storage(|rank, number| number <= settled(rank));
    }

    /// Finds how far shards have processed, and stored, what peers have sent.
    pub(super) fn advance_peers(&mut self) {
        let links = &self.links;
        for peer in self.peers.iter_mut() {
            let is_processed = |until: &[u64]| {
                until.iter().enumerate().all(|(shard, position)| links.acked(ShardId(shard as u16)) >= *position)
            };
            while let Some(taken) = peer.processing.front().filter(|taken| is_processed(&taken.until)) {
                peer.own_processed = taken.number;
                peer.processing.pop_front();
            }
            let is_stored = |taken: &super::peers::Taken| {
                is_processed(&taken.until) && taken.stored.iter().all(|wait| links.has_stored(wait))
            };
            while let Some(taken) = peer.unstored.front().filter(|taken| is_stored(taken)) {
                peer.own_stored = taken.number;
                peer.unstored.pop_front();
            }
        }
    }

    /// Finds how far the log has been applied here and everywhere.
    pub(super) fn advance_log(&mut self, outside: &mut impl Outside) {
        let links = &self.links;
        if let Some(sequence) = self.log.advance(|shard, position| links.settled(shard) >= position) {
            let slots = self.peers.slots();
            slots.for_each(|slot| self.push(slot, &super::PeerMessage::LogApplied { sequence }, outside));
        }
        let applied = self.peers.iter().map(|(_, peer)| peer.applied).min().unwrap_or(u64::MAX);
        let links = &self.links;
        if let Some(number) = self.log.settle(applied, |wait| links.has_stored(wait)) {
            self.links.settle_entries(number);
            (0..self.shards).for_each(|shard| self.links.owe_ack(ShardId(shard)));
        }
    }
}
