//! The old owner's part in a move: it takes the steps, and abandons the move where one fails.

use weir_broker::Millis;
use weir_broker::gateway::Slots;

use super::{COPY_BYTES_MAX, HOLD_MS, MoveEvent, MoveFailure, REBALANCE_SLOTS};
use crate::Incarnation;
use crate::node::ClusterNode;
use crate::slots::Given;
use crate::wire::MoveStep;

/// How long the next owner may take to answer the offer.
const OFFER_MS: Millis = 2000;
/// How long clients have to finish what is in flight; and how much later all shards must have applied that.
const FREEZE_MS: Millis = 350;
const FREEZE_APPLIED_MS: Millis = 1000;
/// How long nodes may take to say that they held.
const RELEASE_MS: Millis = 2000;
/// How long the table may take to be written.
const WRITE_MS: Millis = 10_000;
/// Time from one move to the next, in which the new owner reads the table: of a node that leaves or is evacuated, and of one that
/// goes on serving. And how long a slot stays after an abandoned move.
const URGENT_EVERY_MS: Millis = 300;
const REBALANCE_EVERY_MS: Millis = 2000;
const AGAIN_MS: Millis = 60_000;
/// After an abandoned move of a node that leaves or is evacuated: plus up to as much, by its incarnation, so that two nodes do
/// not meet again.
const URGENT_AGAIN_MS: Millis = 700;
/// Bytes of one frame of a copy at most.
const CHUNK_BYTES: usize = 64 << 10;
/// Moves that are remembered as finished.
const FINISHED_MAX: usize = 64;

#[derive(Debug)]
pub(super) struct Outgoing {
    number: u64,
    pub(super) slots: u128,
    pub(super) node: String,
    to: Incarnation,
    step: Step,
    pub(super) deadline: Millis,
    /// The peers that are in, from the hold on; and those that have not answered.
    peers: Vec<Incarnation>,
    missing: Vec<Incarnation>,
    sessions: u64,
    is_urgent: bool,
    /// The last entry of the log that the clients of the slots may have caused, once they are gone.
    entries: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Offered,
    Freezing,
    Holding,
    Cutting,
    /// The log is applied up to there.
    Applying(u64),
    Exporting,
    Importing,
    Releasing,
    Writing,
    /// A write may still be stored.
    Undoing,
}

impl ClusterNode {
    pub(super) fn step_outgoing(&mut self, now: Millis) {
        let Some(outgoing) = &self.moves.outgoing else { return self.begin_move(now) };
        let (slots, step, is_late) = (outgoing.slots, outgoing.step, now >= outgoing.deadline);
        if matches!(step, Step::Writing | Step::Undoing) {
            return self.step_writing(is_late, now);
        }
        let is_changed = || {
            let has_peers = !matches!(step, Step::Offered | Step::Freezing);
            has_peers && self.peers_in() != outgoing.peers || step != Step::Offered && self.slots.frozen(slots) != slots
        };
        if !self.may_move() || is_changed() {
            return self.abandon(MoveFailure::Changed, now);
        }
        match step {
            Step::Freezing => return self.end_freeze(now),
            _ if is_late => return self.abandon(MoveFailure::Timeout, now),
            _ => {}
        }
        let own = (self.incarnation(), outgoing.number);
        let hold = self.moves.hold.as_ref().filter(|hold| hold.of == own);
        match (step, hold) {
            (Step::Offered | Step::Releasing, _) => {}
            (_, None) => self.abandon(MoveFailure::Timeout, now),
            (Step::Holding, Some(hold)) if hold.is_held && outgoing.missing.is_empty() => self.send_cut(),
            (Step::Applying(sequence), _) if self.gateway.log_applied() >= sequence => {
                self.gateway.begin_export(Slots(slots), COPY_BYTES_MAX);
                self.set_step(Step::Exporting);
            }
            (Step::Exporting, _) => match self.gateway.take_export() {
                None => {}
                Some(None) => self.abandon(MoveFailure::TooLarge, now),
                Some(Some(copy)) => self.send_copy(&copy.to_bytes(), now),
            },
            _ => {}
        }
    }

    fn set_step(&mut self, step: Step) {
        if let Some(outgoing) = &mut self.moves.outgoing {
            outgoing.step = step;
        }
    }

    fn begin_move(&mut self, now: Millis) {
        if now < self.moves.next_at || self.moves.hold.is_some() || self.moves.incoming.is_some() || !self.may_move() {
            return;
        }
        let is_urgent = self.members.is_leaving() || self.members.is_evacuating();
        let most = if is_urgent { usize::MAX } else { REBALANCE_SLOTS };
        let most = self.moves.slots_max.map_or(most, |max| most.min(max));
        let Some((slots, node, to)) = self.slots.next_move(&self.members, now, most) else { return };
        self.moves.number += 1;
        let number = self.moves.number;
        self.send_move(to, number, MoveStep::Offer(slots));
        self.moves.outgoing = Some(Outgoing {
            number,
            slots,
            node,
            to,
            step: Step::Offered,
            deadline: now + OFFER_MS,
            peers: Vec::new(),
            missing: Vec::new(),
            sessions: 0,
            is_urgent,
            entries: None,
        });
    }

    /// Begins the hold, once the clients had their time.
    fn end_freeze(&mut self, now: Millis) {
        let (own, peers) = (self.incarnation(), self.peers_in());
        let Some(outgoing) = &mut self.moves.outgoing else { return };
        if now < outgoing.deadline {
            return;
        }
        // What a client publishes at the next owner must not overtake what it has published here [MQTT-4.6.0-5]. The hold does not
        // wait for the engine; this does.
        let is_applied = self.slots.is_applied(&self.gateway);
        if is_applied && outgoing.entries.is_none() {
            outgoing.entries = Some(self.gateway.last_entry());
        }
        if outgoing.entries.is_none_or(|last| self.gateway.settled_entries() < last) {
            if now >= outgoing.deadline + FREEZE_APPLIED_MS {
                self.abandon(MoveFailure::Timeout, now);
            }
            return;
        }
        if self.moves.hold.is_some() {
            return self.abandon(MoveFailure::Busy, now);
        }
        if !peers.contains(&outgoing.to) {
            return self.abandon(MoveFailure::Changed, now);
        }
        let number = outgoing.number;
        (outgoing.step, outgoing.deadline) = (Step::Holding, now + HOLD_MS);
        (outgoing.peers, outgoing.missing) = (peers.clone(), peers.clone());
        self.begin_hold((own, number), now);
        for peer in peers {
            self.send_move(peer, number, MoveStep::Hold);
        }
    }

    /// Stops the log here, and at the next owner.
    fn send_cut(&mut self) {
        let sequence = self.gateway.log_handed();
        if let Some(hold) = &mut self.moves.hold {
            hold.log_limit = Some(sequence);
        }
        if let Some(outgoing) = &self.moves.outgoing {
            let (to, number) = (outgoing.to, outgoing.number);
            self.send_move(to, number, MoveStep::Cut(sequence));
            self.set_step(Step::Cutting);
        }
    }

    fn send_copy(&mut self, copy: &[u8], now: Millis) {
        let Some(outgoing) = &self.moves.outgoing else { return };
        let (to, number) = (outgoing.to, outgoing.number);
        let nodes: Vec<u8> = outgoing.peers.iter().flat_map(|peer| peer.to_le_bytes()).collect();
        let chunk = CHUNK_BYTES.min(self.config.max_frame / 2).max(1);
        let mut is_sent = copy.chunks(chunk).all(|bytes| self.send_move_bytes(to, number, MoveStep::Data, bytes));
        is_sent &= self.send_move_bytes(to, number, MoveStep::DataEnd, &nodes);
        if is_sent { self.set_step(Step::Importing) } else { self.abandon(MoveFailure::Changed, now) }
    }

    /// Answers of other nodes to the mover's steps.
    pub(super) fn on_answer(&mut self, (from, number): (Incarnation, u64), answer: MoveStep, now: Millis) {
        let Some(outgoing) = self.moves.outgoing.as_mut().filter(|outgoing| outgoing.number == number) else { return };
        let is_to = outgoing.to == from;
        match (outgoing.step, answer) {
            (Step::Offered, MoveStep::Accepted) if is_to => {
                (outgoing.step, outgoing.deadline) = (Step::Freezing, now + FREEZE_MS);
                let (slots, to) = (outgoing.slots, outgoing.node.clone());
                self.slots.freeze(slots);
                self.moves.events.push_back(MoveEvent::Began { slots, to });
            }
            (Step::Writing | Step::Undoing, _) => {}
            (_, MoveStep::Refused) => self.abandon(MoveFailure::Refused, now),
            (Step::Holding, MoveStep::Held) => outgoing.missing.retain(|peer| *peer != from),
            (Step::Cutting, MoveStep::CutDone(sequence)) if is_to => {
                outgoing.step = Step::Applying(sequence);
                if let Some(hold) = &mut self.moves.hold {
                    hold.log_limit = Some(sequence);
                }
            }
            (Step::Importing, MoveStep::Imported(sessions)) if is_to => {
                outgoing.sessions = sessions;
                self.release_all(now);
            }
            (Step::Releasing, MoveStep::Released(true)) => {
                outgoing.missing.retain(|peer| *peer != from);
                if outgoing.missing.is_empty() {
                    (outgoing.step, outgoing.deadline) = (Step::Writing, now + WRITE_MS);
                    let (node, incarnation) = (outgoing.node.clone(), outgoing.to);
                    self.slots.give_copied(Given { slots: outgoing.slots, number, node, incarnation });
                }
            }
            (Step::Releasing, MoveStep::Released(false)) => self.abandon(MoveFailure::Timeout, now),
            _ => {}
        }
    }

    /// Both nodes have the sessions: publishers go on.
    fn release_all(&mut self, now: Millis) {
        let own = self.incarnation();
        let Some(outgoing) = &mut self.moves.outgoing else { return };
        (outgoing.step, outgoing.deadline) = (Step::Releasing, now + RELEASE_MS);
        outgoing.missing.clone_from(&outgoing.peers);
        let (number, peers) = (outgoing.number, outgoing.peers.clone());
        if !self.end_hold((own, number), now) {
            return self.abandon(MoveFailure::Timeout, now);
        }
        for peer in peers {
            self.send_move(peer, number, MoveStep::Release);
        }
    }

    /// The slot table decides.
    fn step_writing(&mut self, is_late: bool, now: Millis) {
        let Some(outgoing) = &mut self.moves.outgoing else { return };
        let slots = outgoing.slots;
        if self.slots.is_transferred(slots) {
            return self.finish(now);
        }
        let is_target_in = self.peers.find_in(outgoing.to).is_some();
        if outgoing.step == Step::Writing && (is_late || !is_target_in || self.slots.frozen(slots) == 0) {
            outgoing.step = Step::Undoing;
            self.slots.cancel_given();
        } else if outgoing.step == Step::Undoing && !self.slots.may_be_given(slots) {
            self.abandon(MoveFailure::NotWritten, now);
        }
    }

    fn finish(&mut self, now: Millis) {
        let Some(outgoing) = self.moves.outgoing.take() else { return };
        let Outgoing { number, slots, node, sessions, is_urgent, .. } = outgoing;
        self.slots.end_move();
        self.moves.finished.push_back(number);
        if self.moves.finished.len() > FINISHED_MAX {
            self.moves.finished.pop_front();
        }
        self.moves.counters.finished += 1;
        self.moves.counters.sessions_sent += sessions;
        self.moves.next_at = now + if is_urgent { URGENT_EVERY_MS } else { REBALANCE_EVERY_MS };
        self.moves.events.push_back(MoveEvent::Finished { slots, to: node, sessions });
    }

    /// This node serves on. No write of the move can be stored any more.
    fn abandon(&mut self, why: MoveFailure, now: Millis) {
        let Some(outgoing) = self.moves.outgoing.take() else { return };
        let Outgoing { number, slots, node, to, step, is_urgent, peers, .. } = outgoing;
        self.end_hold((self.incarnation(), number), now);
        self.gateway.drop_copies();
        let others = peers.into_iter().filter(|peer| *peer != to);
        for peer in others.chain([to]).collect::<Vec<_>>() {
            self.send_move(peer, number, MoveStep::Abandoned);
        }
        if why == MoveFailure::TooLarge {
            self.moves.slots_max = Some((slots.count_ones() as usize / 2).max(1));
        }
        let jitter = self.incarnation() % URGENT_AGAIN_MS;
        // An offer that is refused costs no client anything: a node that has just joined may not be ready.
        let is_soon = is_urgent || step == Step::Offered;
        let again = now + if is_soon { URGENT_AGAIN_MS + jitter } else { AGAIN_MS };
        self.slots.thaw(slots, again);
        self.moves.next_at = now + URGENT_AGAIN_MS + jitter;
        self.moves.counters.abandoned += 1;
        self.moves.events.push_back(MoveEvent::Abandoned { slots, to: node, why });
    }

    /// The next owner asks what became of a move.
    pub(super) fn on_query(&mut self, (from, number): (Incarnation, u64)) {
        let runs = self.moves.outgoing.as_ref().is_some_and(|outgoing| outgoing.number == number);
        if !runs && !self.moves.finished.contains(&number) {
            self.send_move(from, number, MoveStep::Abandoned);
        }
    }
}
