//! Writing to connections.

use super::table::{Connection, Key, State};
use super::{CROWD_SLICE, Shard, cpu_time};
use crate::net::layers::{self, Wrote};
use weir_broker::Ended;

/// Connections of the crowd that are written to between two looks at the clock.
const CROWD_STEP: usize = 8;
/// Rounds of flushing within one turn: writing may let queued messages move on, which want to be written in turn. What
/// is left then has to wait until others had theirs: the loop does not sleep before.
const FLUSH_ROUNDS: usize = 4;

impl Shard {
    /// Writes what waits for connections, each once, but for the crowd's. Other shards get their part before: who is told
    /// that its message was taken, and then asks another shard for it, finds it there.
    pub(super) fn flush_dirty(&mut self) {
        self.send_batches();
        let mut ids = std::mem::take(&mut self.ids);
        for _ in 0..FLUSH_ROUNDS {
            self.core.take_dirty(&mut ids);
            if ids.is_empty() {
                break;
            }
            for id in ids.drain(..) {
                if let Some(key) = self.table.key_of(id) {
                    self.flush(key);
                }
            }
        }
        self.ids = ids;
    }

    /// Writes what waits for those who got something because it went to many: for a slice of time, the rest in the next
    /// turns. Writing to thousands takes long, and others want to be served in between.
    pub(super) fn flush_crowd(&mut self) {
        self.unflushed_bytes = 0;
        if self.core.crowd_len() == 0 {
            return;
        }
        let until = cpu_time() + CROWD_SLICE;
        for place in 1_usize.. {
            let Some(id) = self.core.next_in_crowd() else { break };
            self.crowd_ahead = self.crowd_ahead.saturating_sub(1);
            if let Some(key) = self.table.key_of(id) {
                self.flush(key);
            }
            if place.is_multiple_of(CROWD_STEP) && cpu_time() >= until {
                break;
            }
        }
    }

    /// Writes what waits for one connection, as far as its socket takes it.
    pub(super) fn flush(&mut self, key: Key) {
        if !self.tracers.is_empty()
            && let Some(&Connection { state: State::Open(id), blocked: false, .. }) = self.table.get(key)
        {
            self.trace_sending(id);
        }
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.blocked {
            return;
        }
        let layers = connection.layers.as_deref_mut();
        let (wrote, open) = match &mut connection.state {
            State::Open(id) => {
                let id = *id;
                let Some(out) = self.core.out(id) else { return };
                let wrote = layers::write(&connection.stream, layers, out);
                for tracer in self.tracers.iter_mut().filter(|tracer| tracer.follows(id)) {
                    tracer.left(out.ready());
                }
                if wrote.is_ok() {
                    self.core.written(id, self.now);
                }
                (wrote, true)
            }
            State::Pending(handshake) => (layers::write(&connection.stream, layers, &mut handshake.out), false),
            State::Lingering => return,
        };
        match wrote {
            Ok(Wrote::All) => {
                // What waits for the disk is still to come.
                if connection.closing && !self.holds_back(key) {
                    self.finish(key);
                }
            }
            Ok(Wrote::Blocked) => self.watch_writable(key),
            Err(_) if open => self.end(key, Ended::WriteFailed),
            Err(_) => self.drop_connection(key),
        }
    }

    /// Whether the core has more for a connection than may be written yet.
    fn holds_back(&mut self, key: Key) -> bool {
        let Some(State::Open(id)) = self.table.get(key).map(|connection| &connection.state) else { return false };
        let id = *id;
        self.core.out(id).is_some_and(|out| !out.is_empty())
    }

    fn watch_writable(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.blocked = true;
        // Once watched, always watched: edges come only after a write fell short, so they cost nothing otherwise.
        if connection.watches_writable {
            return;
        }
        connection.watches_writable = true;
        if !connection.registered {
            // On its way into the poll, or into another shard's.
            return;
        }
        if let Err(error) = connection.stream.watch_writable(self.poll.registry(), key.token()) {
            tracing::error!(shard = self.id.0, %error, "a connection could not be watched for writing");
            self.end_whatever(key, Ended::WriteFailed);
        }
    }
}
