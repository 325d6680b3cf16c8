//! What the engine is asked to remove from the log of retained messages. A purge that failed is tried again: until it is done, a
//! message that was removed would come back at a node that starts.

use std::collections::VecDeque;

use super::engine::{Engine, SubjectHash};
use weir_broker::Millis;
use weir_cluster::node::Purge;

/// Purges that are not answered at most.
const IN_FLIGHT_MAX: usize = 16;
/// How long after a failure the next purge is tried.
const RETRY_AFTER_MS: Millis = 1000;

#[derive(Default)]
pub(super) struct Purges {
    in_flight: Vec<Purge>,
    again: VecDeque<Purge>,
    retry_at: Millis,
}

impl Purges {
    /// Whether another purge may be sent.
    pub(super) fn has_room(&self, now: Millis) -> bool {
        self.in_flight.len() < IN_FLIGHT_MAX && now >= self.retry_at
    }

    /// One that failed and is to be sent next.
    pub(super) fn next_again(&mut self) -> Option<Purge> {
        self.again.pop_front()
    }

    pub(super) fn send(&mut self, purge: Purge, engine: &Engine, now: Millis) {
        if engine.purge_retained(SubjectHash(purge.subject), purge.below).is_ok() {
            self.in_flight.push(purge);
        } else {
            self.failed(purge, now);
        }
    }

    pub(super) fn answered(&mut self, subject: SubjectHash, below: u64, is_done: bool, now: Millis) {
        let is_it = |purge: &Purge| purge.subject == subject.0 && purge.below == below;
        let Some(at) = self.in_flight.iter().position(is_it) else { return };
        let purge = self.in_flight.swap_remove(at);
        if !is_done {
            self.failed(purge, now);
        }
    }

    fn failed(&mut self, purge: Purge, now: Millis) {
        self.retry_at = now + RETRY_AFTER_MS;
        // A later purge of the topic removes what this one would.
        match self.again.iter_mut().find(|known| known.subject == purge.subject) {
            Some(known) => known.below = known.below.max(purge.below),
            None => self.again.push_back(purge),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purge_that_failed_is_tried_again_after_a_while_and_merged_with_a_later_one() {
        let purge = |subject: u8, below| Purge { subject: [subject; 16], below };
        let mut purges = Purges { in_flight: vec![purge(1, 5), purge(2, 6), purge(1, 9)], ..Purges::default() };
        purges.answered(SubjectHash([1; 16]), 5, false, 100);
        purges.answered(SubjectHash([1; 16]), 9, false, 100);
        purges.answered(SubjectHash([2; 16]), 6, true, 100);
        assert!(!purges.has_room(100) && purges.has_room(100 + RETRY_AFTER_MS));
        assert_eq!((purges.next_again(), purges.next_again()), (Some(purge(1, 9)), None));
        purges.in_flight = vec![purge(3, 1); IN_FLIGHT_MAX];
        assert!(!purges.has_room(100_000));
    }
}
