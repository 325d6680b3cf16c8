//! Moves of slots between nodes, as this node's shards do their part of them: the hold, the export and the import.

use std::sync::Arc;

use super::{Gateway, Slots};
use crate::gateway::waits::Wait;
use crate::ids::{Millis, PeerSlot, ShardId};
use crate::links::link::LinkMessage;
use crate::values::slot_copy::SlotCopy;

/// This node begins nothing that would be delivered.
#[derive(Debug)]
struct Hold {
    number: u64,
    /// Shards of which all that was begun before has been processed.
    held: Vec<bool>,
    /// Peers that have to process what this node has sent them. `None`: shards still send.
    waits: Option<Vec<Wait>>,
}

#[derive(Debug)]
struct Export {
    number: u64,
    missing: u16,
    max_bytes: usize,
    /// `None`: it is too large.
    copy: Option<SlotCopy>,
}

#[derive(Debug)]
struct Import {
    number: u64,
    missing: u16,
    /// `None`: the records cannot be understood.
    sessions: Option<u32>,
    /// Peers that have to know the interest of the sessions. `None`: shards have not answered.
    waits: Option<Vec<Wait>>,
}

/// What this node's shards do for a move.
#[derive(Debug, Default)]
pub(super) struct Moves {
    /// The number that was given last.
    number: u64,
    hold: Option<Hold>,
    /// The positions of the links to the shards behind the end of the last hold.
    released: Vec<u64>,
    export: Option<Export>,
    import: Option<Import>,
}

impl Moves {
    pub(super) fn is_held(&self) -> bool {
        self.hold.is_some()
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub(super) fn on_held(&mut self, from: ShardId, number: u64) {
        if let Some(hold) = self.hold.as_mut().filter(|hold| hold.number == number)
            && let Some(held) = hold.held.get_mut(from.index())
        {
            *held = true;
        }
    }

    pub(super) fn on_exported(&mut self, number: u64, part: Option<SlotCopy>) {
        let Some(export) = self.export.as_mut().filter(|export| export.number == number) else { return };
        export.missing = export.missing.saturating_sub(1);
        match (&mut export.copy, part) {
            (Some(copy), Some(part)) => copy.add(part),
            (copy, _) => *copy = None,
        }
        if export.copy.as_ref().is_some_and(|copy| copy.size() > export.max_bytes) {
            export.copy = None;
        }
    }

    pub(super) fn on_imported(&mut self, number: u64, sessions: Option<u32>) {
        let Some(import) = self.import.as_mut().filter(|import| import.number == number) else { return };
        import.missing = import.missing.saturating_sub(1);
        import.sessions = import.sessions.zip(sessions).map(|(all, more)| all + more);
    }
}

impl Gateway {
    fn tell_shards(&mut self, message: impl Fn() -> LinkMessage) {
        (0..self.shards).for_each(|shard| self.links.push(ShardId(shard), message()));
    }

    /// This node begins nothing that would be delivered until [`Gateway::release_hold`], or that moment. `mover`: the peer whose slots
    /// move; `None`: they are of this node.
    pub fn begin_hold(&mut self, mover: Option<PeerSlot>, until: Millis) {
        let number = self.moves.next_number();
        self.moves.hold = Some(Hold { number, held: vec![false; usize::from(self.shards)], waits: None });
        self.tell_shards(|| LinkMessage::Hold { number, mover, until });
    }

    /// Whether all that was begun before the hold has been processed by all nodes.
    pub fn is_held(&mut self) -> bool {
        let Some(hold) = &self.moves.hold else { return false };
        if !hold.held.iter().all(|held| *held) {
            return false;
        }
        let waits = match &hold.waits {
            Some(waits) => waits.clone(),
            None => {
                let sent = self.peers.iter().map(|(slot, peer)| (slot, peer.key, peer.sent));
                sent.map(|(peer, key, number)| Wait::Processed { peer, key, number }).collect()
            }
        };
        let is_over = waits.iter().all(|wait| wait.is_over(&self.peers, &self.log, &self.links));
        if let Some(hold) = &mut self.moves.hold {
            hold.waits = Some(waits);
        }
        is_over
    }

    /// The hold is over.
    pub fn release_hold(&mut self) {
        if let Some(Hold { number, .. }) = self.moves.hold.take() {
            self.tell_shards(|| LinkMessage::Release { number });
            self.moves.released = self.links.positions();
            (0..self.shards).for_each(|shard| self.links.request_ack(ShardId(shard)));
        }
    }

    /// Whether there is no hold, and the shards have begun what waited for the end of the last one.
    pub(super) fn is_released(&self) -> bool {
        let mut released = (0..self.shards).zip(&self.moves.released);
        !self.moves.is_held() && released.all(|(shard, position)| self.links.acked(ShardId(shard)) >= *position)
    }

    /// Begins to copy the sessions of frozen slots, into at most so many bytes.
    pub fn begin_export(&mut self, slots: Slots, max_bytes: usize) {
        let number = self.moves.next_number();
        let copy = Some(SlotCopy::default());
        self.moves.export = Some(Export { number, missing: self.shards, max_bytes, copy });
        self.tell_shards(|| LinkMessage::Export { number, slots, max_bytes });
    }

    /// The copy, once all shards have done their part; inside of it `None`: it is larger than allowed.
    pub fn take_export(&mut self) -> Option<Option<SlotCopy>> {
        self.moves.export.take_if(|export| export.missing == 0).map(|export| export.copy)
    }

    /// Puts a copy in the place of what these slots, which are importing, have here.
    pub fn begin_import(&mut self, slots: Slots, copy: SlotCopy) {
        let number = self.moves.next_number();
        let copy = Arc::new(copy);
        self.moves.import = Some(Import { number, missing: self.shards, sessions: Some(0), waits: None });
        self.tell_shards(|| LinkMessage::Import { number, slots, copy: Arc::clone(&copy) });
    }

    /// How many sessions were imported, once they are stored where they are durable, and every node knows their interest; inside of
    /// it `None`: the copy cannot be understood.
    pub fn take_import(&mut self) -> Option<Option<u32>> {
        let import = self.moves.import.as_ref().filter(|import| import.missing == 0)?;
        let waits = match &import.waits {
            Some(waits) => waits.clone(),
            None => self.interest_waits(),
        };
        let is_over =
            import.sessions.is_none() || waits.iter().all(|wait| wait.is_over(&self.peers, &self.log, &self.links));
        if let Some(import) = &mut self.moves.import {
            import.waits = Some(waits);
        }
        if is_over { self.moves.import.take().map(|import| import.sessions) } else { None }
    }

    /// Nothing that was begun of a copy is wanted any more.
    pub fn drop_copies(&mut self) {
        (self.moves.export, self.moves.import) = (None, None);
    }

    /// The number of this node's last entry of the log.
    pub fn last_entry(&self) -> u64 {
        self.log.last()
    }

    /// Up to which number all nodes have applied this node's entries.
    pub fn settled_entries(&self) -> u64 {
        self.log.settled()
    }

    /// Up to which sequence entries of the log were given to the shards.
    pub fn log_handed(&self) -> u64 {
        self.log.handed()
    }
}
