//! Moves of slots with their sessions, step by step. One move runs at a time in a cluster; one that cannot be finished in time
//! is abandoned, and the old owner serves on.
//!
//! 1. *Offer*: the mover asks the next owner whether it takes the slots.
//! 2. *Freeze*: the mover disconnects the clients of the slots, and lets none in.
//! 3. *Hold*: no node begins anything that would be delivered, until all that it had begun has been processed everywhere; mover
//!    and next owner stop the log of retained messages at one entry. So both have seen the same messages.
//! 4. *Copy*: the mover exports the sessions; the next owner imports them, and makes their interest known to all nodes.
//! 5. *Release*: each node says whether it held until then. From here on, both have the sessions, and both get what is published.
//! 6. *Table*: the mover writes the next owner into the slot table. The owner by the table serves; the other copy is dropped.
//!
//! So nothing depends on whether, or when, the write is stored. The hold is short: it does not wait for the engine.

mod holder;
mod mover;
mod receiver;

use std::collections::VecDeque;

use weir_broker::Millis;

use self::holder::Hold;
use self::mover::Outgoing;
use self::receiver::Incoming;
use super::ClusterNode;
use crate::Incarnation;
use crate::wire::{MoveFrame, MoveStep};

/// How long a node may begin nothing that would be delivered.
pub const HOLD_MS: Millis = 1000;
/// Bytes of the sessions of one move at most.
pub const COPY_BYTES_MAX: usize = 16 << 20;
/// Slots of one move at most, where the node goes on serving.
pub const REBALANCE_SLOTS: usize = 4;

/// Moves since the start of the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MoveCounters {
    /// Moves from this node that were finished.
    pub finished: u64,
    /// Moves from this node that were abandoned.
    pub abandoned: u64,
    /// Sessions that went to other nodes.
    pub sessions_sent: u64,
    /// Sessions that were copied to this node.
    pub sessions_received: u64,
}

/// Why a move was abandoned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MoveFailure {
    /// A node did not answer in time.
    Timeout,
    /// A node cannot take part now.
    Refused,
    /// The sessions have more than [`COPY_BYTES_MAX`].
    TooLarge,
    /// The members, or the owners of the slots, changed meanwhile.
    Changed,
    /// This node takes part in another move.
    Busy,
    /// The slot table was not written.
    NotWritten,
}

impl std::fmt::Display for MoveFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Timeout => "a node did not answer in time",
            Self::Refused => "a node refused it",
            Self::TooLarge => "the sessions are too large to be moved",
            Self::Changed => "the members or the owners of slots changed",
            Self::Busy => "another move runs",
            Self::NotWritten => "the slot table was not written",
        })
    }
}

/// What happened to a move, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MoveEvent {
    /// Slots are on their way to another node.
    Began {
        /// A bit each.
        slots: u128,
        /// The next owner.
        to: String,
    },
    /// The other node owns them.
    Finished {
        /// A bit each.
        slots: u128,
        /// The new owner.
        to: String,
        /// The sessions that went there.
        sessions: u64,
    },
    /// This node serves on.
    Abandoned {
        /// A bit each.
        slots: u128,
        /// The node that should have got them.
        to: String,
        /// Why.
        why: MoveFailure,
    },
    /// Sessions of another node are here.
    Received {
        /// How many.
        sessions: u64,
    },
}

/// A frame that has come and was not looked at.
#[derive(Debug)]
struct Waiting {
    from: Incarnation,
    number: u64,
    step: MoveStep,
    bytes: Box<[u8]>,
}

/// What this node does for moves.
#[derive(Debug, Default)]
pub(super) struct Moves {
    waiting: VecDeque<Waiting>,
    hold: Option<Hold>,
    outgoing: Option<Outgoing>,
    incoming: Option<Incoming>,
    /// The number of the last move of this node, and when the next one may begin.
    number: u64,
    next_at: Millis,
    /// Slots of a move at most, since the sessions of more were too large for one.
    slots_max: Option<usize>,
    /// Moves that were finished: the next owner may not know it yet.
    finished: VecDeque<u64>,
    counters: MoveCounters,
    events: VecDeque<MoveEvent>,
}

impl Moves {
    pub(super) fn on_frame(&mut self, from: Incarnation, frame: &MoveFrame<'_>) {
        let MoveFrame { number, step, bytes } = *frame;
        self.waiting.push_back(Waiting { from, number, step, bytes: bytes.into() });
    }

    pub(super) const fn counters(&self) -> &MoveCounters {
        &self.counters
    }

    /// Up to which entry the log may be applied.
    pub(super) fn log_limit(&self) -> u64 {
        self.hold.as_ref().and_then(|hold| hold.log_limit).unwrap_or(u64::MAX)
    }

    /// Slots that are moving to another node, and which one that is.
    pub(super) fn moving(&self) -> Option<(u128, &str)> {
        self.outgoing.as_ref().map(|outgoing| (outgoing.slots, outgoing.node.as_str()))
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        let hold = self.hold.as_ref().map(|hold| hold.until);
        let outgoing = self.outgoing.as_ref().map(|outgoing| outgoing.deadline);
        [hold, outgoing].into_iter().flatten().min()
    }
}

impl ClusterNode {
    /// The next thing that happened to a move of slots, for the log.
    pub fn next_move_event(&mut self) -> Option<MoveEvent> {
        self.moves.events.pop_front()
    }

    pub(super) fn send_move(&mut self, peer: Incarnation, number: u64, step: MoveStep) -> bool {
        self.send_move_bytes(peer, number, step, &[])
    }

    pub(super) fn send_move_bytes(&mut self, peer: Incarnation, number: u64, step: MoveStep, bytes: &[u8]) -> bool {
        let Some(link) = self.peers.in_link_mut(peer) else { return false };
        let is_sent = link.push_move(&MoveFrame { number, step, bytes });
        link.request_acknowledgement();
        is_sent
    }

    /// The incarnations of the peers that are in.
    fn peers_in(&self) -> Vec<Incarnation> {
        self.peers.iter().filter(|peer| peer.is_in).map(|peer| peer.incarnation).collect()
    }

    /// Whether this node may take part in a move.
    fn may_move(&self) -> bool {
        self.is_in && self.is_joined && self.is_confirmed() && self.slots.is_current()
    }

    /// Does what can be done for moves.
    pub(super) fn step_moves(&mut self, now: Millis) {
        while let Some(Waiting { from, number, step, bytes }) = self.moves.waiting.pop_front() {
            match step {
                MoveStep::Offer(slots) => self.on_offer((from, number), slots, now),
                MoveStep::Hold => self.on_hold((from, number), now),
                MoveStep::Cut(sequence) => self.on_cut((from, number), sequence),
                MoveStep::Data => self.on_data((from, number), &bytes),
                MoveStep::DataEnd => self.on_data_end((from, number), &bytes),
                MoveStep::Release => self.on_release((from, number), now),
                MoveStep::Abandoned => self.on_abandoned((from, number)),
                MoveStep::Query => self.on_query((from, number)),
                MoveStep::Accepted
                | MoveStep::Refused
                | MoveStep::Held
                | MoveStep::CutDone(_)
                | MoveStep::Imported(_)
                | MoveStep::Released(_) => self.on_answer((from, number), step, now),
                MoveStep::Unknown => {}
            }
        }
        self.step_hold(now);
        self.step_incoming(now);
        self.step_outgoing(now);
    }
}
