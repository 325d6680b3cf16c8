//! This node's part of the log of retained messages: its own entries, and how far the log has been applied.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::ids::{Origin, ShardId};
use crate::links::link::StorageWait;

/// An entry of this node that has not come back in the log's order.
#[derive(Debug)]
pub(super) struct OwnEntry {
    /// Its publisher, and the positions of its shard's links by then.
    pub(super) origin: Origin,
    pub(super) after: Box<[u64]>,
}

/// An entry that was handed to its topic's owner.
#[derive(Debug)]
struct Applying {
    sequence: u64,
    /// Where it is this node's: its number, and when what it causes is stored.
    number: Option<(u64, StorageWait)>,
    owner: ShardId,
    position: u64,
}

#[derive(Debug, Default)]
pub(super) struct RetainedLog {
    /// This node's entries that have not come back. The log may have them in another order, by topic.
    own: BTreeMap<u64, OwnEntry>,
    /// The number of the last one; those that the log has not stored, and those that are not settled.
    last: u64,
    unstored: BTreeSet<u64>,
    unsettled: BTreeSet<u64>,
    /// Those that are stored and have not come back, by their sequence.
    stored_at: BTreeMap<u64, u64>,
    /// Up to which number entries were reported as settled.
    reported: u64,
    applying: VecDeque<Applying>,
    /// Up to which sequence entries were handed to the shards, and these have processed them.
    handed: u64,
    applied: u64,
    /// This node's entries that it has applied, and peers may not have, or not what they cause; with sequence and number.
    applied_here: VecDeque<(u64, u64, StorageWait)>,
}

impl RetainedLog {
    pub(super) fn add(&mut self, number: u64, entry: OwnEntry) {
        self.last = number;
        self.own.insert(number, entry);
        self.unstored.insert(number);
        self.unsettled.insert(number);
    }

    /// The log has stored this node's entry of that number, at that sequence; `None`: it never will.
    pub(super) fn set_stored(&mut self, number: u64, sequence: Option<u64>) {
        self.unstored.remove(&number);
        match sequence {
            Some(sequence) if self.own.contains_key(&number) => {
                self.stored_at.insert(sequence, number);
                self.drop_missed();
            }
            Some(_) => {}
            None => {
                self.own.remove(&number);
                self.unsettled.remove(&number);
            }
        }
    }

    /// Entries of this node that the log has passed were replaced by newer ones, and removed, while this node was out: all others
    /// have applied them.
    fn drop_missed(&mut self) {
        while let Some(first) = self.stored_at.first_entry().filter(|first| *first.key() <= self.handed) {
            let number = first.remove();
            if self.own.remove(&number).is_some() {
                self.unsettled.remove(&number);
            }
        }
    }

    /// The number of this node's last entry.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Up to which number every node has applied this node's entries.
    pub(super) fn settled(&self) -> u64 {
        self.unsettled.first().map_or(self.last, |first| first - 1)
    }

    /// This node's entry of that number.
    pub(super) fn take_own(&mut self, number: u64) -> Option<OwnEntry> {
        // What the log has, it has stored.
        self.unstored.remove(&number);
        self.own.remove(&number)
    }

    /// Up to which sequence entries were handed to the shards.
    pub(super) fn handed(&self) -> u64 {
        self.handed
    }

    /// The log begins anew. Entries of this node that it had stored count as settled: nothing more comes of them.
    pub(super) fn reset(&mut self) {
        self.applying.clear();
        self.applied_here.clear();
        self.stored_at.clear();
        (self.handed, self.applied) = (0, 0);
        self.own.retain(|number, _| self.unstored.contains(number));
        self.unsettled.retain(|number| self.own.contains_key(number));
    }

    /// An entry was handed to its topic's owner, whose link has come to `position`.
    pub(super) fn hand(&mut self, sequence: u64, number: Option<(u64, StorageWait)>, owner: ShardId, position: u64) {
        self.handed = sequence;
        self.applying.push_back(Applying { sequence, number, owner, position });
        self.drop_missed();
    }

    /// An entry was not for any shard.
    pub(super) fn skip(&mut self, sequence: u64) {
        self.handed = sequence;
        if self.applying.is_empty() {
            self.applied = sequence;
        }
        self.drop_missed();
    }

    /// Up to which sequence the shards have processed entries.
    pub(super) fn applied(&self) -> u64 {
        self.applied
    }

    /// Finds what the shards have processed. Returns the newest sequence where there is a newer one.
    pub(super) fn advance(&mut self, is_settled: impl Fn(ShardId, u64) -> bool) -> Option<u64> {
        let before = self.applied;
        while let Some(first) = self.applying.front().filter(|first| is_settled(first.owner, first.position)) {
            self.applied = first.sequence;
            let first = self.applying.pop_front();
            self.applied_here
                .extend(first.and_then(|first| first.number.map(|(number, wait)| (first.sequence, number, wait))));
        }
        if self.applying.is_empty() {
            self.applied = self.applied.max(self.handed);
        }
        (self.applied > before).then_some(self.applied)
    }

    /// All peers have applied the log up to `sequence`; `is_stored`: whether shards have stored what an entry causes. Returns up to which number this node's entries are settled by that,
    /// where there is news.
    pub(super) fn settle(&mut self, sequence: u64, is_stored: impl Fn(&StorageWait) -> bool) -> Option<u64> {
        while let Some(&(_, number, _)) =
            self.applied_here.front().filter(|(at, _, wait)| *at <= sequence && is_stored(wait))
        {
            self.unsettled.remove(&number);
            self.applied_here.pop_front();
        }
        let settled = self.settled();
        let before = std::mem::replace(&mut self.reported, settled);
        (settled > before).then_some(settled)
    }
}
