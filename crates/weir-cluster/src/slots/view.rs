//! Where sessions are served, as this node sees it.

use weir_broker::Millis;

use crate::Incarnation;

/// The node that serves a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotOwner {
    /// This node, now.
    Here,
    /// A peer that is in, as the slot table says. It may not serve the slot yet.
    Peer(Incarnation),
    /// No node is known to serve it: its owner is out, or changes.
    Unknown,
}

/// A slot in the view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotPlace {
    /// The node that serves it.
    pub owner: SlotOwner,
    /// The owner's name in the slot table. Empty: it has none.
    pub node: Box<str>,
    /// The owner's incarnation there.
    pub incarnation: Incarnation,
    /// The version of the table with which the owner got it.
    pub since: u64,
}

/// Where the sessions of each slot are served. It is valid until [`ClusterNode::run`](crate::node::ClusterNode::run) is next
/// called, and while this node is in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotView {
    /// The version of the slot table. 0: none is known.
    pub version: u64,
    /// Slots of each class: those of sessions in memory are numbered from 0, those of sessions on disk from `per_class`. 0: no
    /// table is known.
    pub per_class: u16,
    /// All slots, by number. Empty: no table is known.
    pub slots: Vec<SlotPlace>,
}

impl SlotView {
    /// The node that serves a slot.
    pub fn owner(&self, slot: u16) -> SlotOwner {
        self.slots.get(usize::from(slot)).map_or(SlotOwner::Unknown, |place| place.owner)
    }

    /// The name of a slot's owner in the table, if it has one.
    pub fn node(&self, slot: u16) -> Option<&str> {
        self.slots.get(usize::from(slot)).map(|place| &*place.node).filter(|node| !node.is_empty())
    }
}

/// A write to the register of slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotsWrite {
    /// The last sequence of the register, without which the write must fail.
    pub expected: u64,
    /// The whole table.
    pub bytes: Vec<u8>,
}

/// What became of a write to the register of slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotsWritten {
    /// It is stored, at that sequence.
    Stored(u64),
    /// The register has another last sequence. It will not be stored.
    Conflict,
    /// It may or may not be stored, or be stored later.
    Failed,
}

/// Time between two tries to give a slot with sessions to another node.
pub(super) const GIVE_AGAIN: Millis = 60_000;
