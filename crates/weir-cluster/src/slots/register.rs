//! The register of slots, as this node has read it: a stream of one subject, whose messages are whole tables. A write names
//! the last sequence of the stream, so one of a node that has not read the newest table fails.

use super::view::{SlotsWrite, SlotsWritten};
use crate::Incarnation;
use crate::wire::SlotTable;

#[derive(Debug, Default)]
pub(super) struct Register {
    version: u64,
    table: Option<SlotTable>,
    /// The table before the register was created again.
    lost: Option<SlotTable>,
    /// This node has been in, and current, since before that: what it served it may go on serving.
    is_carried: bool,
    /// The newest table cannot be decoded: this node does not know what it owns.
    is_unreadable: bool,
    undecodable: u64,
    /// The number of the question for the head, and the answer: since this node has come in.
    request: u64,
    head: Option<u64>,
    /// How often the register was created again.
    resets: u64,
    /// The write that is not answered.
    write: Option<Write>,
    /// Writes with this expected sequence may still be stored, and the slots that they give to other nodes.
    uncertain: Option<(u64, u128)>,
    /// A write with this expected sequence has failed: there is a newer table.
    conflict: Option<u64>,
}

#[derive(Debug)]
struct Write {
    expected: u64,
    table: SlotTable,
    /// The slots that it gives to other nodes.
    gives: u128,
    resets: u64,
}

impl Register {
    pub(super) const fn version(&self) -> u64 {
        self.version
    }

    pub(super) const fn table(&self) -> Option<&SlotTable> {
        self.table.as_ref()
    }

    /// The founding of the table. 0: there is none.
    pub(super) fn founded(&self) -> Incarnation {
        self.table.as_ref().map_or(0, |table| table.founded)
    }

    pub(super) const fn undecodable(&self) -> u64 {
        self.undecodable
    }

    /// The node has come in: what it has read may be old.
    pub(super) const fn on_in(&mut self) {
        self.request += 1;
        (self.head, self.is_carried) = (None, false);
    }

    pub(super) fn head_wanted(&self) -> Option<u64> {
        (self.request > 0 && self.head.is_none()).then_some(self.request)
    }

    pub(super) const fn on_head(&mut self, request: u64, version: u64) {
        if request == self.request {
            self.head = Some(version);
        }
    }

    /// Whether the table was read up to its head since the node came in. An empty register says nothing about what a node
    /// owned in the one before.
    pub(super) fn is_current(&self) -> bool {
        let is_known = self.table.is_some() || self.lost.is_none() || self.is_carried;
        self.head.is_some_and(|head| self.version >= head) && !self.is_unreadable && is_known
    }

    /// Whether this node goes on with what it served before the register was created again.
    pub(super) const fn is_carried(&self) -> bool {
        self.is_carried
    }

    /// Whether there is no table.
    pub(super) fn is_empty(&self) -> bool {
        self.table.is_none() && self.version == 0 && self.head == Some(0)
    }

    /// Returns whether the table is another one.
    pub(super) fn on_slots(&mut self, version: u64, bytes: &[u8]) -> bool {
        match SlotTable::decode(bytes) {
            Ok(table) => self.accept(version, table),
            Err(_) => {
                self.undecodable += 1;
                if version > self.version {
                    (self.version, self.is_unreadable) = (version, true);
                }
                false
            }
        }
    }

    fn accept(&mut self, version: u64, table: SlotTable) -> bool {
        // That the register was created again may be reported later than its first table.
        let is_other = self.table.is_some() && self.founded() != table.founded;
        if version <= self.version && !is_other {
            return false; // read again
        }
        if is_other {
            self.on_reset();
        }
        let is_over = |expected: &u64| version > *expected;
        self.uncertain = self.uncertain.filter(|(expected, _)| !is_over(expected));
        self.conflict = self.conflict.filter(|expected| !is_over(expected));
        (self.version, self.table, self.is_unreadable) = (version, Some(table), false);
        self.lost = None;
        true
    }

    /// The register begins anew. A node that was current still is: the new register is empty.
    pub(super) fn on_reset(&mut self) {
        self.is_carried = self.is_current();
        self.lost = self.table.take().or(self.lost.take());
        self.head = self.head.map(|_| 0);
        self.request += u64::from(self.request > 0); // an answer that is on its way is of the old one
        self.resets += 1;
        (self.version, self.is_unreadable, self.uncertain, self.conflict) = (0, false, None, None);
    }

    pub(super) fn may_write(&self) -> bool {
        self.write.is_none() && !self.is_unreadable && self.conflict.is_none()
    }

    /// The slots that a write which was sent gives to other nodes, and that may still be stored.
    pub(super) fn gives(&self) -> u128 {
        let written = self.write.as_ref().map_or(0, |write| write.gives);
        written | self.uncertain.map_or(0, |(_, gives)| gives)
    }

    /// A write whose answer was lost must not be stored later: another one has to follow, though nothing changed.
    pub(super) fn must_write(&self) -> bool {
        self.uncertain.is_some()
    }

    /// The table to begin with: of a new register, the owners of the one that was lost.
    pub(super) fn basis(&self, per_class: u16, own: Incarnation) -> SlotTable {
        if let Some(table) = &self.table {
            return table.clone();
        }
        let mut table = self.lost.clone().unwrap_or_else(|| SlotTable::new(per_class, own));
        // Unique: one node may write the first table of several registers.
        table.founded = own ^ self.resets.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        table.rows.iter_mut().filter(|row| !row.node.is_empty()).for_each(|row| row.since = 1);
        table
    }

    pub(super) fn begin_write(&mut self, table: SlotTable, gives: u128) -> SlotsWrite {
        let mut bytes = Vec::new();
        table.encode(&mut bytes);
        self.write = Some(Write { expected: self.version, table, gives, resets: self.resets });
        SlotsWrite { expected: self.version, bytes }
    }

    /// Returns whether the table is another one.
    pub(super) fn on_written(&mut self, result: SlotsWritten) -> bool {
        let Some(write) = self.write.take() else { return false };
        if write.resets != self.resets {
            return false; // of a register that is gone
        }
        let is_pending = self.version == write.expected;
        match result {
            SlotsWritten::Stored(version) if version == write.expected + 1 => {
                return self.accept(version, write.table);
            }
            SlotsWritten::Stored(_) | SlotsWritten::Conflict if is_pending => self.conflict = Some(write.expected),
            SlotsWritten::Failed if is_pending => {
                let before = self.uncertain.map_or(0, |(_, gives)| gives);
                self.uncertain = Some((write.expected, before | write.gives));
            }
            _ => {}
        }
        false
    }
}
