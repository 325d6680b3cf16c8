//! Writing to connections.

use super::Shard;
use super::table::{Connection, ConnectionKey, ConnectionState};
use crate::net::layers::{self, Wrote};

impl Shard {
    /// Writes the output of one connection, until the socket blocks.
    pub(super) fn flush_connection(&mut self, key: ConnectionKey) {
        if !self.tracers.is_empty()
            && let Some(&Connection { state: ConnectionState::Open(id), blocked: false, .. }) = self.table.get(key)
        {
            self.trace_sending(id);
        }
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.blocked {
            return;
        }
        let layers = connection.layers.as_deref_mut();
        let (wrote, open) = match &mut connection.state {
            ConnectionState::Open(id) => {
                let id = *id;
                let Some(out) = self.core.out(id) else { return };
                let wrote = layers::write(&connection.stream, layers, out);
                for tracer in self.tracers.iter_mut().filter(|tracer| tracer.follows(id)) {
                    tracer.after_write(out.ready());
                }
                if wrote.is_ok() {
                    self.core.written(id, self.now);
                }
                (wrote, true)
            }
            ConnectionState::Pending(handshake) => {
                (layers::write(&connection.stream, layers, &mut handshake.out), false)
            }
            ConnectionState::Lingering => return,
        };
        match wrote {
            Ok(Wrote::All) => {
                // Output that waits for the store is written later.
                if connection.closing && !self.holds_back(key) {
                    self.finish_closing(key);
                }
            }
            Ok(Wrote::Blocked) => self.watch_writable(key),
            Err(_) if open => self.close_now(key),
            Err(_) => self.drop_connection(key),
        }
    }

    /// Whether the core holds output that may not be written yet.
    fn holds_back(&mut self, key: ConnectionKey) -> bool {
        let Some(ConnectionState::Open(id)) = self.table.get(key).map(|connection| &connection.state) else {
            return false;
        };
        let id = *id;
        self.core.out(id).is_some_and(|out| !out.is_empty())
    }

    fn watch_writable(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.blocked = true;
        // The socket stays watched: edges come only after a short write, so they cost nothing otherwise.
        if connection.watches_writable {
            return;
        }
        connection.watches_writable = true;
        if !connection.registered {
            // Its registration follows, in this shard or another.
            return;
        }
        if let Err(error) = connection.stream.watch_writable(self.poll.registry(), key.token()) {
            tracing::error!(shard = self.id.0, %error, "connection registration for writing failed: closing it");
            self.abort_connection(key);
        }
    }
}
