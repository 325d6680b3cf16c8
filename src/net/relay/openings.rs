//! Clients whose session was not reached yet: their owner is not known, or has not answered.

use std::collections::HashMap;

use super::pump::RelayKey;
use crate::net::shard::HandOver;
use weir_broker::Millis;

/// How long a client waits for its session's owner, milliseconds.
const OWNER_WITHIN_MS: Millis = 5000;
/// Clients that wait at most, and bytes that they have sent.
const OPENINGS_MAX: usize = 65_536;
const OPENINGS_BYTES: usize = 64 << 20;

/// A client that waits.
pub(super) struct Opening {
    pub(super) hand_over: Box<HandOver>,
    deadline: Millis,
}

impl Opening {
    pub(super) fn new(hand_over: Box<HandOver>, now: Millis) -> Self {
        Self { hand_over, deadline: now + OWNER_WITHIN_MS }
    }
}

/// All clients that wait.
#[derive(Default)]
pub(super) struct Openings {
    /// They wait for an owner.
    waiting: Vec<Opening>,
    /// They wait for the answer of an owner.
    asked: HashMap<RelayKey, Opening>,
    /// Bytes of all.
    bytes: usize,
}

impl Openings {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.asked.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() + self.asked.len() >= OPENINGS_MAX || self.bytes >= OPENINGS_BYTES
    }

    pub(super) fn wait(&mut self, opening: Opening) {
        self.bytes += opening.hand_over.bytes.len();
        self.waiting.push(opening);
    }

    pub(super) fn ask(&mut self, key: RelayKey, opening: Opening) {
        self.bytes += opening.hand_over.bytes.len();
        self.asked.insert(key, opening);
    }

    /// The owner has answered.
    pub(super) fn answered(&mut self, key: &RelayKey) -> Option<Opening> {
        let opening = self.asked.remove(key)?;
        self.bytes -= opening.hand_over.bytes.len();
        Some(opening)
    }

    /// Those that wait for an owner, to be looked up again.
    pub(super) fn take_waiting(&mut self) -> Vec<Opening> {
        let waiting = std::mem::take(&mut self.waiting);
        self.bytes -= waiting.iter().map(|opening| opening.hand_over.bytes.len()).sum::<usize>();
        waiting
    }

    /// A peer will not answer.
    pub(super) fn peer_lost(&mut self, peer: u64) {
        self.waiting.extend(self.asked.extract_if(|key, _| key.peer == peer).map(|(_, opening)| opening));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Opening> {
        self.waiting.iter().chain(self.asked.values())
    }

    /// Those that have waited too long.
    pub(super) fn take_late(&mut self, now: Millis) -> Vec<(Option<RelayKey>, Opening)> {
        self.take_if(|opening| opening.deadline <= now)
    }

    /// Those that match; with the key where an owner was asked.
    pub(super) fn take_if(&mut self, matches: impl Fn(&Opening) -> bool) -> Vec<(Option<RelayKey>, Opening)> {
        let asked = self.asked.extract_if(|_, opening| matches(opening));
        let mut taken: Vec<_> = asked.map(|(key, opening)| (Some(key), opening)).collect();
        taken.extend(self.waiting.extract_if(.., |opening| matches(opening)).map(|opening| (None, opening)));
        self.bytes -= taken.iter().map(|(_, opening)| opening.hand_over.bytes.len()).sum::<usize>();
        taken
    }
}
