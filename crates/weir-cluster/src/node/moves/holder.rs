//! The part of every node in a move, the mover's own included: it begins nothing that would be delivered.

use weir_broker::Millis;

use super::HOLD_MS;
use crate::Incarnation;
use crate::node::ClusterNode;
use crate::wire::MoveStep;

/// Shards end a hold by themselves so much later than their node, should that hang.
const SHARD_MARGIN_MS: Millis = 500;

#[derive(Debug)]
pub(super) struct Hold {
    /// The mover, and its number of the move.
    pub(super) of: (Incarnation, u64),
    pub(super) until: Millis,
    /// All that was begun before has been processed everywhere.
    pub(super) is_held: bool,
    /// The log of retained messages is not applied behind that.
    pub(super) log_limit: Option<u64>,
}

impl ClusterNode {
    pub(super) fn begin_hold(&mut self, of: (Incarnation, u64), now: Millis) {
        self.gateway.begin_hold(self.peers.find_in(of.0), now + HOLD_MS + SHARD_MARGIN_MS);
        self.moves.hold = Some(super::Hold { of, until: now + HOLD_MS, is_held: false, log_limit: None });
    }

    /// Ends the hold of a move. Returns whether it was not over before.
    pub(super) fn end_hold(&mut self, of: (Incarnation, u64), now: Millis) -> bool {
        let Some(hold) = self.moves.hold.take_if(|hold| hold.of == of) else { return false };
        self.gateway.release_hold();
        hold.is_held && now < hold.until
    }

    pub(super) fn on_hold(&mut self, of: (Incarnation, u64), now: Millis) {
        if self.moves.hold.is_some() || !self.may_move() {
            self.send_move(of.0, of.1, MoveStep::Refused);
            return;
        }
        self.begin_hold(of, now);
    }

    pub(super) fn on_release(&mut self, of: (Incarnation, u64), now: Millis) {
        let has_held = self.end_hold(of, now);
        self.send_move(of.0, of.1, MoveStep::Released(has_held));
    }

    pub(super) fn step_hold(&mut self, now: Millis) {
        let Some(hold) = &self.moves.hold else { return };
        let (of, is_held, until) = (hold.of, hold.is_held, hold.until);
        if now >= until || !self.is_in {
            self.end_hold(of, now);
            return;
        }
        if is_held {
            return;
        }
        if !self.gateway.is_held() {
            // What was sent is to be acknowledged soon.
            for peer in self.peers_in() {
                if let Some(link) = self.peers.in_link_mut(peer) {
                    link.request_acknowledgement();
                }
            }
            return;
        }
        if let Some(hold) = &mut self.moves.hold {
            hold.is_held = true;
        }
        if of.0 != self.incarnation() {
            self.send_move(of.0, of.1, MoveStep::Held);
        }
    }
}
