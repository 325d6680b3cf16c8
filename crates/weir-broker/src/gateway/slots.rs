//! The slots of sessions that this node serves, and what its shards have made of a change.

use super::{Gateway, SlotSets, Slots};
use crate::ids::ShardId;
use crate::links::link::LinkMessage;

/// What shards have reported.
#[derive(Debug)]
pub(super) struct SlotReports {
    /// The number of the last change.
    number: u64,
    /// For each shard, the number of the last change that it has applied, and the slots in which it has sessions, and those of
    /// bridges.
    applied: Vec<(u64, Slots, Slots)>,
    /// The node came in again, and has not been told its slots since.
    stale: bool,
}

impl SlotReports {
    pub(super) fn new(shards: u16) -> Self {
        Self { number: 0, applied: vec![(0, Slots::NONE, Slots::NONE); usize::from(shards)], stale: false }
    }

    /// The node is in again: others may have taken its slots.
    pub(super) fn set_stale(&mut self) {
        self.stale = self.number > 0;
    }

    pub(super) fn is_stale(&self) -> bool {
        self.stale
    }

    /// The number of the last change.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn on_applied(&mut self, from: ShardId, number: u64, (occupied, pinned): (Slots, Slots)) {
        if let Some(applied) = self.applied.get_mut(from.index()) {
            *applied = (number, occupied, pinned);
        }
    }
}

impl Gateway {
    /// What the node does with the slots from now on, of which there are `per_class` in each class. Returns the number of the
    /// change. Before the first call, no slot is served.
    ///
    /// A node that was out is to be told its slots again when it is in, from a table that was read since: before that,
    /// [`Gateway::is_confirmed`] is false. Shards take this before an [`Gateway::set_in_until`] that follows.
    pub fn set_slots(&mut self, per_class: u16, sets: SlotSets) -> u64 {
        self.slots.number += 1;
        self.slots.stale = false;
        let number = self.slots.number;
        (0..self.shards)
            .for_each(|shard| self.links.push(ShardId(shard), LinkMessage::Slots { number, per_class, sets }));
        number
    }

    /// Up to which number all shards have applied changes of [`Gateway::set_slots`], and in which of the slots that are not
    /// served, or are releasing, they have sessions. Of slots that are not served, those are sessions on disk: kept, offline
    /// and out of reach of their clients.
    pub fn slots_applied(&self) -> (u64, Slots) {
        let number = self.slots.applied.iter().map(|(number, ..)| *number).min().unwrap_or(self.slots.number);
        let occupied = self.slots.applied.iter().fold(Slots::NONE, |all, (_, occupied, _)| all.union(*occupied));
        (number, occupied)
    }

    /// In which of the slots that are releasing there are sessions of bridges: what waits there does not move.
    pub fn slots_pinned(&self) -> Slots {
        self.slots.applied.iter().fold(Slots::NONE, |all, (_, _, pinned)| all.union(*pinned))
    }
}
