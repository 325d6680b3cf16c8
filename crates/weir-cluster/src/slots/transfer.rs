//! Slots whose sessions are copied from one owner to the next, as the slot table decides about them. The steps of a move are in
//! `node/moves`; here is what a copy is worth.
//!
//! The old owner freezes the slot, and writes the new owner into the table only when that one has a whole copy. The row names
//! the move, so the new owner uses the copy of exactly that move, and drops any other.

use weir_broker::Millis;

use super::plan::Candidates;
use super::view::GIVE_AGAIN;
use super::{Cores, SlotManager, Surroundings, bit};
use crate::Incarnation;
use crate::members::Members;
use crate::wire::SlotRow;

/// Slots for which the next owner has a copy: it is to be written into the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Given {
    pub(crate) slots: u128,
    pub(crate) number: u64,
    pub(crate) node: String,
    pub(crate) incarnation: Incarnation,
}

/// A copy that comes, or has come, from the owner of these slots.
#[derive(Debug)]
struct Import {
    slots: u128,
    number: u64,
    from: Incarnation,
    is_complete: bool,
}

/// What becomes of slots with sessions.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    /// Slots that another node should own, and that have sessions.
    wanted: u128,
    /// Slots that another node should own.
    pub(super) away: u128,
    /// Slots that this node owns, and does not serve, as they are copied.
    pub(super) frozen: u128,
    given: Option<Given>,
    /// Slots that the table gave to the node that has the copy, in the present move.
    transferred: u128,
    import: Option<Import>,
    /// What the cores have of these is to be dropped, as another node has it. Cleared when the cores are told.
    pub(super) moved: u128,
}

impl Transfers {
    /// Slots with sessions of other nodes, but for those of `held`.
    pub(super) fn importing(&self, held: u128) -> u128 {
        self.import.as_ref().map_or(0, |import| import.slots & !held)
    }

    /// Slots that are released have sessions.
    pub(super) const fn want(&mut self, slots: u128) {
        self.wanted |= slots & !self.frozen;
    }

    pub(super) const fn forget(&mut self, slots: u128) {
        self.wanted &= !slots;
    }

    /// The row that a slot should have because its copy is complete.
    pub(super) fn given(&self, slot: usize) -> Option<&Given> {
        self.given.as_ref().filter(|given| given.slots & self.frozen & bit(slot) != 0)
    }

    /// This node does not own a slot any more: it has another row.
    pub(super) fn on_lost(&mut self, slot: usize, row: &SlotRow, own: Incarnation) {
        let given = self.given.as_ref().filter(|given| given.slots & self.frozen & bit(slot) != 0);
        if given.is_some_and(|given| {
            row.from == own && row.transfer == given.number && row.incarnation == given.incarnation
        }) {
            self.transferred |= bit(slot);
            self.moved |= bit(slot);
        }
        (self.frozen, self.wanted, self.away) =
            (self.frozen & !bit(slot), self.wanted & !bit(slot), self.away & !bit(slot));
    }

    /// What the table says about the slots of an import. `held`: slots that the cores serve.
    pub(super) fn check_import(&mut self, rows: &[SlotRow], own: Incarnation, held: u128) {
        let Some(import) = &mut self.import else { return };
        let slots = import.slots;
        for (slot, row) in rows.iter().enumerate().filter(|(slot, _)| slots & bit(*slot) != 0) {
            if row.incarnation == import.from {
                continue;
            }
            let is_given = row.incarnation == own
                && row.from == import.from
                && row.transfer == import.number
                && import.is_complete;
            if !is_given {
                self.moved |= bit(slot);
            }
            if !is_given || held & bit(slot) != 0 {
                import.slots &= !bit(slot);
            }
        }
        if import.slots == 0 {
            self.import = None;
        }
    }

    /// Another cluster's table: nothing that was begun counts.
    pub(super) fn reset(&mut self) {
        let importing = self.importing(0);
        *self = Self { moved: self.moved | importing, ..Self::default() };
    }
}

impl SlotManager {
    /// The slots to move next with their sessions, at most so many, and to which node.
    pub(crate) fn next_move(&self, members: &Members, now: Millis, most: usize) -> Option<(u128, String, Incarnation)> {
        let table = self.register.table()?;
        let candidates = Candidates::new(members, now);
        let mut found: Option<(u128, &str, Incarnation)> = None;
        let wanted = self.transfers.wanted & !self.transfers.frozen & !self.register.gives();
        for slot in (0..table.rows.len()).filter(|slot| wanted & bit(*slot) != 0) {
            let Some((node, incarnation)) = candidates.preferred(slot as u16, table) else { continue };
            if node == self.node || self.held[slot].is_none() {
                continue;
            }
            match &mut found {
                None => found = Some((bit(slot), node, incarnation)),
                Some((slots, to, _)) if *to == node && (slots.count_ones() as usize) < most => *slots |= bit(slot),
                Some(_) => {}
            }
        }
        found.map(|(slots, node, incarnation)| (slots, node.to_owned(), incarnation))
    }

    /// A move begins: these slots are served no more.
    pub(crate) fn freeze(&mut self, slots: u128) {
        let held = self.held_slots();
        self.transfers.frozen |= slots & held;
        self.transfers.transferred &= !slots;
        self.transfers.wanted &= !slots;
        self.releasing &= !slots;
        self.is_dirty = true;
    }

    /// Of these slots, those that are frozen: this node still owns them.
    pub(crate) const fn frozen(&self, slots: u128) -> u128 {
        self.transfers.frozen & slots
    }

    /// Whether the cores have applied what they were told last.
    pub(crate) fn is_applied<C: Cores>(&self, cores: &C) -> bool {
        cores.slots_applied().0 >= self.sent.number
    }

    /// A move is over: what is still frozen of it is served again, and tried again at that time.
    pub(crate) fn thaw(&mut self, slots: u128, again_at: Millis) {
        self.transfers.frozen &= !slots;
        self.end_move();
        for slot in (0..self.give_at.len()).filter(|slot| slots & bit(*slot) != 0) {
            self.give_at[slot] = again_at;
        }
        self.is_dirty = true;
    }

    /// The next owner has the copy: the table may be written.
    pub(crate) fn give_copied(&mut self, given: Given) {
        (self.transfers.given, self.is_cancelled) = (Some(given), false);
        self.is_dirty = true;
    }

    /// Nothing is to be written any more. A write that is not answered may still be stored.
    pub(crate) fn cancel_given(&mut self) {
        // The row that such a write stores is recognised all the same.
        self.is_cancelled = true;
        self.is_dirty = true;
    }

    /// Whether a write that gives any of these slots away may still be stored.
    pub(crate) fn may_be_given(&self, slots: u128) -> bool {
        self.register.gives() & slots != 0
    }

    /// Whether the table gave all these slots to the node with the copy.
    pub(crate) const fn is_transferred(&self, slots: u128) -> bool {
        self.transfers.transferred & slots == slots
    }

    /// A move is finished.
    pub(crate) fn end_move(&mut self) {
        (self.transfers.given, self.is_cancelled) = (None, false);
        self.is_dirty = true;
    }

    /// A copy of these slots comes from their owner. `false`: that is not their owner, or this node has a part of them.
    pub(crate) fn begin_import(&mut self, slots: u128, number: u64, from: Incarnation) -> bool {
        let Some(table) = self.register.table() else { return false };
        let rows = table.rows.iter().enumerate().filter(|(slot, _)| slots & bit(*slot) != 0);
        let (mut count, mut is_owner) = (0, true);
        for (_, row) in rows {
            count += 1;
            is_owner &= row.incarnation == from && !row.node.is_empty() && row.node != self.node;
        }
        if !is_owner || count != slots.count_ones() || self.held_slots() & slots != 0 {
            return false;
        }
        self.drop_import();
        self.transfers.moved &= !slots;
        self.transfers.import = Some(Import { slots, number, from, is_complete: false });
        self.is_dirty = true;
        true
    }

    /// All of the copy is here, and takes part.
    pub(crate) fn complete_import(&mut self) {
        if let Some(import) = &mut self.transfers.import {
            import.is_complete = true;
        }
    }

    /// Whether there is a copy that is not in use.
    pub(crate) const fn has_import(&self) -> bool {
        self.transfers.import.is_some()
    }

    /// The copy is not wanted any more. What of it is in use stays.
    pub(crate) fn drop_import(&mut self) {
        let held = self.held_slots();
        self.transfers.moved |= self.transfers.importing(held);
        self.transfers.import = None;
        self.is_dirty = true;
    }

    /// A slot that this node takes itself begins without sessions: its owner may have served it after the copy was made.
    pub(super) fn drop_claimed<C: Cores>(&mut self, with: &Surroundings<'_, C>) {
        let Some(table) = self.register.table() else { return };
        let Some(import) = &mut self.transfers.import else { return };
        let (candidates, slots) = (Candidates::new(with.members, with.now), import.slots);
        for slot in (0..table.rows.len()).filter(|slot| slots & bit(*slot) != 0) {
            if table.rows[slot].incarnation != self.own && candidates.should_claim(slot as u16, table) {
                import.slots &= !bit(slot);
                self.transfers.moved |= bit(slot);
                self.is_dirty = true;
            }
        }
    }

    pub(super) fn held_slots(&self) -> u128 {
        let held = self.held.iter().enumerate().filter(|(_, held)| held.is_some());
        held.fold(0, |held, (slot, _)| held | bit(slot))
    }

    /// When a slot with sessions is tried again, where it was not moved.
    pub(super) const fn again_at(now: Millis) -> Millis {
        now + GIVE_AGAIN
    }
}
