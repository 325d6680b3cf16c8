//! Models of a stream of the engine, and of the cores of a node.

use std::collections::VecDeque;

use weir_broker::Millis;
use weir_broker::gateway::SlotSets;

use crate::sim::Rng;
use crate::slots::Cores;

/// Something on its way to be stored.
pub(super) struct Append<T> {
    pub(super) node: usize,
    pub(super) incarnation: u64,
    pub(super) what: T,
    pub(super) sent: Millis,
    pub(super) store_at: Millis,
    pub(super) is_answered: bool,
}

/// A stream with elections.
pub(super) struct Stream<T, S> {
    pub(super) stored: Vec<(Millis, S)>,
    pub(super) appends: Vec<Append<T>>,
    pub(super) election_until: Millis,
}

impl<T, S> Stream<T, S> {
    pub(super) const fn new() -> Self {
        Self { stored: Vec::new(), appends: Vec::new(), election_until: 0 }
    }

    pub(super) fn append(
        &mut self,
        from: (usize, u64),
        what: T,
        (sent, now): (Millis, Millis),
        calm: bool,
        rng: &mut Rng,
    ) {
        let mut store_at = now + rng.below(20);
        let mut is_answered = calm || !rng.one_in(20);
        if now < self.election_until {
            if rng.one_in(2) {
                return;
            }
            (store_at, is_answered) = (self.election_until + rng.below(50), rng.one_in(2));
        }
        self.appends.push(Append { node: from.0, incarnation: from.1, what, sent, store_at, is_answered });
    }

    pub(super) fn take_ready(&mut self, now: Millis) -> Vec<Append<T>> {
        if now < self.election_until {
            return Vec::new();
        }
        let mut ready: Vec<Append<T>> = self.appends.extract_if(.., |append| append.store_at <= now).collect();
        ready.sort_by_key(|append| append.store_at);
        ready
    }
}

/// A write to the register.
pub(super) struct Write {
    pub(super) number: u64,
    pub(super) expected: u64,
    pub(super) bytes: Vec<u8>,
}

/// The cores of a node: what they are told takes effect later.
#[derive(Default)]
pub(super) struct CoreModel {
    pub(super) queue: VecDeque<(Millis, u64, u128, u128)>,
    pub(super) delay: Millis,
    pub(super) now: Millis,
    pub(super) told: u64,
    pub(super) applied: u64,
    pub(super) owned: u128,
    pub(super) releasing: u128,
    pub(super) sessions: u128,
    pub(super) in_until: Millis,
}

impl Cores for CoreModel {
    fn set_slots(&mut self, _per_class: u16, sets: SlotSets) -> u64 {
        let (owned, releasing) = (sets.owned.without(sets.releasing).0, sets.releasing.0);
        self.told += 1;
        self.queue.push_back((self.now + self.delay, self.told, owned, releasing));
        self.told
    }

    fn slots_applied(&self) -> (u64, u128) {
        (self.applied, self.sessions & self.releasing)
    }
}

impl CoreModel {
    /// Slots that were kept without new sessions, had sessions and were dropped.
    pub(super) fn apply(&mut self, now: Millis) -> u128 {
        let mut lost = 0;
        while let Some((_, number, owned, releasing)) = self.queue.pop_front_if(|(at, ..)| *at <= now) {
            lost |= self.sessions & self.releasing & !(owned | releasing);
            (self.applied, self.owned, self.releasing) = (number, owned, releasing);
            self.sessions &= owned | releasing;
        }
        lost
    }
}
