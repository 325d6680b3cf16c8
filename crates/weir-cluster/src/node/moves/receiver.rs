//! The next owner's part in a move: it takes a copy of the sessions, which the slot table may make the only one.

use weir_broker::Millis;
use weir_broker::gateway::{SlotCopy, Slots};

use super::{COPY_BYTES_MAX, MoveEvent};
use crate::Incarnation;
use crate::node::ClusterNode;
use crate::wire::MoveStep;

/// How long a copy may take to come, from the offer on.
const INCOMING_MS: Millis = 8000;
/// How often the mover is asked what became of a move.
const QUERY_EVERY_MS: Millis = 1000;
/// For how long the mover may be out until its copy is dropped: by then no write of it can be stored any more.
const MOVER_LOST_MS: Millis = 30_000;
/// Bytes around the records of a copy, at most.
const COPY_HEADER_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Incoming {
    of: (Incarnation, u64),
    slots: u128,
    deadline: Millis,
    data: Vec<u8>,
    cut: Cut,
    /// The nodes that hold, while the copy is imported.
    nodes: Option<Vec<Incarnation>>,
    /// The copy is here. The mover is asked at that time.
    query_at: Option<Millis>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    Open,
    /// The log is applied up to there.
    At(u64),
    Done,
}

impl ClusterNode {
    pub(super) fn on_offer(&mut self, of: (Incarnation, u64), slots: u128, now: Millis) {
        // The mover begins nothing before what it had begun is over. Of a whole copy the table decides, which this node may not
        // have read: it takes nothing more until then.
        let is_over = |incoming: &Incoming| incoming.of.0 == of.0 && incoming.query_at.is_none();
        if self.moves.incoming.as_ref().is_some_and(is_over) {
            self.drop_incoming();
        }
        let is_free = self.moves.incoming.is_none() && self.moves.outgoing.is_none() && !self.slots.has_import();
        if !is_free || !self.may_take_slots() || !self.slots.begin_import(slots, of.1, of.0) {
            self.send_move(of.0, of.1, MoveStep::Refused);
            return;
        }
        let deadline = now + INCOMING_MS;
        let (data, cut, nodes, query_at) = (Vec::new(), Cut::Open, None, None);
        self.moves.incoming = Some(Incoming { of, slots, deadline, data, cut, nodes, query_at });
        self.send_move(of.0, of.1, MoveStep::Accepted);
    }

    fn may_take_slots(&self) -> bool {
        self.may_move() && !self.members.is_leaving() && !self.members.is_evacuating()
    }

    pub(super) fn on_cut(&mut self, of: (Incarnation, u64), sequence: u64) {
        let at = sequence.max(self.gateway.log_handed());
        let Some(incoming) = self.moves.incoming.as_mut().filter(|incoming| incoming.of == of) else { return };
        if let Some(hold) = self.moves.hold.as_mut().filter(|hold| hold.of == of) {
            hold.log_limit = Some(at);
            incoming.cut = Cut::At(at);
        }
    }

    pub(super) fn on_data(&mut self, of: (Incarnation, u64), bytes: &[u8]) {
        let Some(incoming) = self.moves.incoming.as_mut().filter(|incoming| incoming.of == of) else { return };
        if incoming.data.len() + bytes.len() > COPY_BYTES_MAX + COPY_HEADER_MAX {
            return self.refuse_incoming();
        }
        incoming.data.extend_from_slice(bytes);
    }

    pub(super) fn on_data_end(&mut self, of: (Incarnation, u64), nodes: &[u8]) {
        let Some(incoming) = self.moves.incoming.as_mut().filter(|incoming| incoming.of == of) else { return };
        let copy = SlotCopy::from_bytes(&std::mem::take(&mut incoming.data));
        let is_cut = incoming.cut == Cut::Done && self.moves.hold.as_ref().is_some_and(|hold| hold.of == of);
        let Some(copy) = copy.filter(|_| is_cut) else { return self.refuse_incoming() };
        let node = |bytes: &[u8; 8]| u64::from_le_bytes(*bytes);
        incoming.nodes = Some(nodes.as_chunks().0.iter().map(node).collect());
        let slots = incoming.slots;
        self.gateway.begin_import(Slots(slots), copy);
    }

    fn refuse_incoming(&mut self) {
        if let Some((mover, number)) = self.moves.incoming.as_ref().map(|incoming| incoming.of) {
            self.drop_incoming();
            self.send_move(mover, number, MoveStep::Refused);
        }
    }

    /// The copy is not used, unless the table has made it the only one.
    pub(super) fn drop_incoming(&mut self) {
        if self.moves.incoming.take().is_some() {
            self.gateway.drop_copies();
            self.slots.drop_import();
        }
    }

    pub(super) fn on_abandoned(&mut self, of: (Incarnation, u64)) {
        if self.moves.hold.take_if(|hold| hold.of == of).is_some() {
            self.gateway.release_hold();
        }
        if self.moves.incoming.as_ref().is_some_and(|incoming| incoming.of == of) {
            self.drop_incoming();
        }
    }

    pub(super) fn step_incoming(&mut self, now: Millis) {
        let Some(incoming) = &self.moves.incoming else { return };
        let (of, cut, deadline, query_at) = (incoming.of, incoming.cut, incoming.deadline, incoming.query_at);
        if !self.slots.has_import() {
            // The table has decided.
            self.moves.incoming = None;
            return;
        }
        if let Some(at) = query_at {
            if now >= at {
                self.query(of, now);
            }
            return;
        }
        if now >= deadline || !self.may_take_slots() {
            return self.refuse_incoming();
        }
        if let Cut::At(sequence) = cut
            && self.gateway.log_applied() >= sequence
        {
            if let Some(incoming) = &mut self.moves.incoming {
                incoming.cut = Cut::Done;
            }
            self.send_move(of.0, of.1, MoveStep::CutDone(sequence));
        }
        match self.gateway.take_import() {
            None => {}
            Some(None) => self.refuse_incoming(),
            Some(Some(sessions)) => self.on_imported(of, u64::from(sessions), now),
        }
    }

    /// Asks the mover what became of the move.
    fn query(&mut self, of: (Incarnation, u64), now: Millis) {
        let is_there = self.send_move(of.0, of.1, MoveStep::Query);
        let Some(incoming) = &mut self.moves.incoming else { return };
        incoming.query_at = Some(now + QUERY_EVERY_MS);
        if is_there {
            incoming.deadline = now + MOVER_LOST_MS;
        } else if now >= incoming.deadline {
            self.drop_incoming();
        }
    }

    /// All of the copy takes part. A node that does not hold may have begun to publish before it knew that.
    fn on_imported(&mut self, of: (Incarnation, u64), sessions: u64, now: Millis) {
        let nodes = self.moves.incoming.as_ref().and_then(|incoming| incoming.nodes.clone()).unwrap_or_default();
        let is_known = |peer: &Incarnation| *peer == of.0 || nodes.contains(peer);
        if !self.peers_in().iter().all(is_known) {
            return self.refuse_incoming();
        }
        if let Some(incoming) = &mut self.moves.incoming {
            (incoming.query_at, incoming.deadline) = (Some(now + QUERY_EVERY_MS), now + MOVER_LOST_MS);
        }
        self.slots.complete_import();
        self.moves.counters.sessions_received += sessions;
        self.moves.events.push_back(MoveEvent::Received { sessions });
        self.send_move(of.0, of.1, MoveStep::Imported(sessions));
    }
}
