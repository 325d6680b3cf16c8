//! Flow control: a receiver that is behind pauses its publishers, and resumes them when it has caught up.

use crate::Core;
use crate::clients::timers::Timer;
use crate::ids::{ConnId, ConnectionSlot, Millis, Origin};
use crate::limits::{PAUSE_MAX_MS, PENDING_WRITE_LOW_BYTES, SLOW_FOR_MS};
use crate::observe::Site;

impl Core {
    /// A receiver is behind: reading from its publisher pauses until it has caught up, or until the pause's deadline; after
    /// that the receiver counts as slow, and no publisher is paused for it.
    pub(crate) fn pause_publisher(&mut self, slot: ConnectionSlot, origin: Origin, now: Millis) {
        let generation = self.clients.generation(slot);
        let Some(connection) = self.clients.connection_mut(slot) else {
            return self.observe.count_error(Site::ConnectionOfSession);
        };
        if now < connection.slow_until || origin == Origin::BROKER || connection.waiters.contains(&origin) {
            return;
        }
        if origin.shard == self.config.shard && origin.connection.slot == slot {
            // A publisher that is its own slow receiver would wait for itself.
            return;
        }
        connection.waiters.push(origin);
        if connection.waiters.len() == 1 {
            self.clients.set_timer(now + PAUSE_MAX_MS, Timer::Pause(ConnId { slot, generation }));
        }
        self.pause(origin);
    }

    /// The pause's deadline: the publishers that wait go on.
    pub(crate) fn on_pause_deadline(&mut self, connection: ConnId, now: Millis) {
        if let Some(slow) = self.clients.open(connection)
            && !slow.waiters.is_empty()
        {
            slow.slow_until = now + SLOW_FOR_MS;
            self.resume_waiters(connection.slot);
        }
    }

    /// Resumes the publishers that wait for a connection.
    pub(crate) fn resume_waiters(&mut self, slot: ConnectionSlot) {
        let waiters = self.clients.connection_mut(slot).map(|c| std::mem::take(&mut c.waiters)).unwrap_or_default();
        waiters.into_iter().for_each(|origin| self.resume(origin));
    }

    /// See [`Core::written`].
    pub(crate) fn on_written(&mut self, slot: ConnectionSlot, now: Millis) {
        let Some(connection) = self.clients.connection_mut(slot) else {
            return self.observe.count_error(Site::ConnectionOfSession);
        };
        self.scheduler.written(&mut connection.outlet);
        let behind = connection.outlet.out.len() > PENDING_WRITE_LOW_BYTES || connection.closing;
        if behind {
            return;
        }
        let Some(connection) = self.clients.connection(slot) else {
            return self.observe.count_error(Site::ConnectionOfSession);
        };
        let (session, has_waiters) = (connection.session, !connection.waiters.is_empty());
        let queued = self.clients.session(session).is_some_and(|s| !s.queue.is_empty());
        if queued {
            // The client had more output than the window: other connections are written first.
            self.scheduler.end_priority();
            self.drain_queue(session, now);
        }
        if has_waiters {
            self.resume_waiters_when_drained(slot);
        }
    }

    /// Waiters go on when both the socket and the queue are well below their bounds again.
    pub(crate) fn resume_waiters_when_drained(&mut self, slot: ConnectionSlot) {
        let Some(connection) = self.clients.connection(slot) else {
            return self.observe.count_error(Site::ConnectionOfSession);
        };
        let Some(session) = self.clients.session(connection.session) else {
            return self.observe.count_error(Site::SessionOfConnection);
        };
        let limits = &session.policy.limits;
        let low = session.queue.counted() <= limits.max_queued_messages / 4
            && session.queue.bytes() <= limits.max_queued_bytes / 4;
        if low && connection.outlet.out.len() <= PENDING_WRITE_LOW_BYTES {
            self.resume_waiters(slot);
        }
    }
}
