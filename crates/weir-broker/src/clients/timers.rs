//! Timers. A timer is not cancelled: when it expires without a reason any more, it is skipped. Where many have none, they are
//! removed.

use crate::ids::{ConnId, Millis, SessionRef};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A check that a timer triggers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// Has the client been silent for one and a half times its keep-alive?
    KeepAlive(ConnId),
    /// Has the session ended, or is its will due?
    Session(SessionRef),
    /// Has a slow receiver held up its publishers for long enough?
    Pause(ConnId),
    /// May a client that published faster than its rate be read again?
    Rate(ConnId),
    /// Has the credential ended?
    Credential(ConnId),
    /// Is the deadline of a draining client reached?
    DrainDeadline(ConnId),
}

impl Timer {
    pub(crate) fn session(session: SessionRef) -> Self {
        Self::Session(session)
    }
}

#[derive(Debug, Default)]
pub(crate) struct Timers {
    heap: BinaryHeap<Reverse<(Millis, Timer)>>,
}

impl Timers {
    pub(crate) fn push(&mut self, at: Millis, timer: Timer) {
        if at != Millis::MAX {
            self.heap.push(Reverse((at, timer)));
        }
    }

    pub(crate) fn pop_due(&mut self, now: Millis) -> Option<Timer> {
        let Reverse((at, timer)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        Some(timer)
    }

    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    /// Bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.heap.len() * size_of::<Reverse<(Millis, Timer)>>()
    }

    /// Drops those that `keep` does not name.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(Millis, Timer) -> bool) {
        self.heap.retain(|&Reverse((at, timer))| keep(at, timer));
        self.heap.shrink_to(self.heap.len() * 2);
    }

    pub(crate) fn next(&self) -> Option<Millis> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }
}
