//! Work that is put off: a client's request that costs more than a turn is worth is continued in later turns, in rounds with
//! the others, and nothing is reordered by that.

use std::collections::VecDeque;

use crate::Core;
use crate::core::receiver_search::ReceiverSearches;
use crate::ids::{ConnId, Millis, SessionRef};
use crate::limits::{DEFERRED_WORK_PER_TURN, MATCH_NODES_AT_ONCE, READ_WORK_MAX, RETAINED_READ_AT_ONCE};
use weir_mqtt::ReasonCode;

/// Units of work: nodes of the filter tree visited, retained topics looked at, subscriptions removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkBudget {
    /// For the receivers of one PUBLISH, before it is put off.
    pub match_at_once: usize,
    /// For one client's read of retained messages, or the end of one session, in a row.
    pub at_once: usize,
    /// For all that was put off, in one turn.
    pub per_turn: usize,
    /// For the packets of one read, before the rest of it is put off: a packet counts with its deliveries.
    pub read: usize,
}

impl Default for WorkBudget {
    fn default() -> Self {
        Self {
            match_at_once: MATCH_NODES_AT_ONCE,
            at_once: RETAINED_READ_AT_ONCE,
            per_turn: DEFERRED_WORK_PER_TURN,
            read: READ_WORK_MAX,
        }
    }
}

impl WorkBudget {
    /// As little as possible: each turn one unit.
    pub const LEAST: Self = Self { match_at_once: 1, at_once: 1, per_turn: 1, read: 1 };
}

/// Deferred work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Task {
    /// A session's queue, whose first read is not done.
    Drain(SessionRef),
    /// Subscriptions of a session that has ended.
    EndSession(SessionRef),
    /// Packets that were read from a connection.
    Read(ConnId),
    /// Sessions are looked at, after a change of the node's slots.
    SweepSlots,
    /// A connection about whose delivery an interceptor panicked.
    EndAfterPanic(ConnId),
}

/// All that was put off.
#[derive(Debug, Default)]
pub(crate) struct Deferred {
    tasks: VecDeque<Task>,
    pub(crate) searches: ReceiverSearches,
}

impl Deferred {
    pub(crate) fn push(&mut self, task: Task) {
        self.tasks.push_back(task);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.searches.is_empty()
    }
}

impl Core {
    /// Goes on with what was put off, for one turn's budget: half of it for searches of receivers, where there are any.
    pub(crate) fn run_deferred(&mut self, now: Millis) {
        if self.deferred.is_empty() {
            return;
        }
        let mut work = self.config.work.per_turn;
        let for_tasks = if self.deferred.searches.is_empty() { work } else { work / 2 };
        let mut left = for_tasks;
        while left > 0
            && let Some(task) = self.deferred.tasks.pop_front()
        {
            let slice = left.min(self.config.work.at_once);
            let unused = self.run_task(task, slice, now);
            left -= (slice - unused).max(1);
        }
        work -= for_tasks - left;
        self.search_receivers(work.max(1), now);
    }

    /// Returns the work that it did not use.
    fn run_task(&mut self, task: Task, work: usize, now: Millis) -> usize {
        let mut left = work;
        match task {
            Task::Drain(session) => {
                if let Some(cold) = self.clients.session_by_ref(session).and_then(|session| session.cold.as_mut()) {
                    cold.drain_deferred = false;
                    self.drain_queue_within(session.id, now, &mut left);
                }
            }
            Task::EndSession(session) => self.continue_end(session, &mut left),
            Task::SweepSlots => self.sweep_slots(&mut left, now),
            Task::Read(connection) => self.clients.resume(connection),
            Task::EndAfterPanic(connection) => {
                if self.clients.open(connection).is_some() {
                    self.disconnect_with(connection.slot, ReasonCode::ImplementationSpecificError);
                }
            }
        }
        left
    }

    /// The rest of what was read from a connection is to be handled in a later turn.
    pub(crate) fn defer_reading(&mut self, connection: ConnId) {
        self.clients.pause(connection);
        self.deferred.push(Task::Read(connection));
    }

    /// A session's queue is to be drained further in a later turn.
    pub(crate) fn defer_drain(&mut self, session: SessionRef) {
        if let Some(cold) = self.clients.session_by_ref(session).and_then(|session| session.cold.as_mut())
            && !std::mem::replace(&mut cold.drain_deferred, true)
        {
            self.deferred.push(Task::Drain(session));
        }
    }
}
