//! How connections end.

use super::table::{Key, State};
use super::{SWEEP_MS, Shard};
use crate::net::layers::{self, LayerError, Outgoing, Unsent};
use crate::net::stats::Reason;
use weir_broker::Millis;

/// How long a closing connection may take to be written out, and then for its peer to close, ms.
const CLOSING_MS: Millis = 5_000;
const LINGER_MS: Millis = 2_000;
/// Reads of what is thrown away before others have their turn.
const DISCARDS_PER_TURN: usize = 16;

impl Shard {
    /// The core is done with a connection: writes what waits, then closes it.
    pub(super) fn close_connection(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.closing || !matches!(connection.state, State::Open(_)) {
            return;
        }
        connection.closing = true;
        self.closing.push((key, self.now + CLOSING_MS));
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
        self.flush_connection(key);
    }

    /// The core is done with a connection after what it read: where there is nothing to tell it (it said DISCONNECT
    /// itself), the socket is closed at once. TLS and WebSocket have a goodbye of their own: without it, the peer takes the
    /// end for a failure.
    pub(super) fn close_after_reading(&mut self, key: Key) {
        let Some(connection) = self.table.get(key) else { return };
        let State::Open(id) = connection.state else { return };
        let has_goodbye = connection.layers.is_some();
        if !has_goodbye && self.core.out(id).is_none_or(|out| out.is_empty()) {
            self.end(key);
        } else {
            self.close_connection(key);
        }
    }

    /// Everything was written to a closing connection.
    pub(super) fn finish(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if let State::Open(id) = connection.state {
            self.trace_ended(id);
            self.core.connection_closed(id, self.now);
        }
        self.linger(key);
    }

    /// Says goodbye in the layers' words, and waits for the peer to close. (A socket that is closed while bytes of the
    /// peer are unread sends a reset, which makes the peer's kernel throw away what the peer has not read yet.)
    fn linger(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.state = State::Lingering;
        connection.partial = None;
        if connection.hung_up {
            return self.drop_connection(key);
        }
        if let Some(layers) = connection.layers.as_deref_mut() {
            layers.close();
        }
        let mut layers = connection.layers.take();
        let said = layers::write(&connection.stream, layers.as_deref_mut(), &mut Unsent::default())
            .and_then(|_| layers::finish(&connection.stream, layers.as_deref_mut()))
            .and_then(|_| connection.stream.finish_writing());
        if said.is_err() {
            return self.drop_connection(key);
        }
        self.closing.push((key, self.now + LINGER_MS));
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
        self.discard(key);
    }

    /// Throws away what still comes; of a peer that sends without end, the rest in the next turn.
    pub(super) fn discard(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        for _ in 0..DISCARDS_PER_TURN {
            match connection.stream.read(&mut self.buffer) {
                Ok(0) => return self.drop_connection(key),
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return self.drop_connection(key),
            }
        }
        self.ready.push(key);
    }

    /// An admitted connection is gone: the core is told, the socket closed.
    pub(super) fn end(&mut self, key: Key) {
        let Some(connection) = self.table.remove(key) else { return };
        if let State::Open(id) = connection.state {
            self.trace_ended(id);
            self.core.connection_closed(id, self.now);
        }
    }

    /// Closes the socket, wherever its connection stands.
    pub(super) fn end_whatever(&mut self, key: Key) {
        match self.table.get(key).map(|connection| &connection.state) {
            Some(State::Open(_)) => self.end(key),
            Some(_) => self.drop_connection(key),
            None => {}
        }
    }

    /// Closes the socket of a connection the core does not know (any more).
    pub(super) fn drop_connection(&mut self, key: Key) {
        let Some(connection) = self.table.remove(key) else { return };
        debug_assert!(!matches!(connection.state, State::Open(_)), "the core is to be told first");
        if let State::Pending(handshake) = connection.state {
            self.no_longer_pending(handshake.position);
        }
    }

    /// TLS or WebSocket failed on an admitted connection.
    pub(super) fn layer_failed(&mut self, key: Key, error: &LayerError) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if let State::Open(id) = connection.state
            && let Some(client) = self.core.client(id)
        {
            let (endpoint, client_id) = (client.endpoint, client.client_id);
            tracing::debug!(endpoint, client_id, shard = self.id.0, %error, "a connection ends");
        }
        if let Some(layers) = connection.layers.as_deref_mut() {
            layers.close_for(error);
        }
        if let State::Open(id) = connection.state {
            self.trace_ended(id);
            self.core.connection_closed(id, self.now);
        }
        self.linger(key);
    }

    /// Takes a connection out of the list of pending ones.
    pub(super) fn no_longer_pending(&mut self, position: usize) {
        self.pending.swap_remove(position);
        if let Some(&moved) = self.pending.get(position)
            && let Some(State::Pending(handshake)) = self.table.get_mut(moved).map(|moved| &mut moved.state)
        {
            handshake.position = position;
        }
    }

    /// Refuses a connection the core does not know: `bytes` (a CONNACK, an HTTP response) are its last words.
    pub(super) fn refuse(&mut self, key: Key, reason: Reason, bytes: &[u8]) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.opened.metrics().refused(reason);
        let mut out = Unsent::default();
        if let State::Pending(handshake) = std::mem::replace(&mut connection.state, State::Lingering) {
            out = handshake.out;
            self.no_longer_pending(handshake.position);
        }
        out.push(bytes);
        let Some(connection) = self.table.get_mut(key) else { return };
        let layers = connection.layers.as_deref_mut();
        let has_last_words = out.waiting() > 0 || layers.as_ref().is_some_and(|layers| layers.wants_write());
        // What the socket does not take at once is not worth waiting for.
        if has_last_words && !connection.blocked && layers::write(&connection.stream, layers, &mut out).is_ok() {
            self.linger(key);
        } else {
            self.drop_connection(key);
        }
    }

    /// Ends what has taken too long.
    pub(super) fn sweep(&mut self) {
        let now = self.now;
        let late = |key: &Key| match self.table.get(*key).map(|connection| &connection.state) {
            Some(State::Pending(handshake)) => handshake.deadline <= now,
            _ => false,
        };
        let late: Vec<Key> = self.pending.iter().copied().filter(late).collect();
        for key in late {
            self.refuse(key, Reason::HandshakeTimeout, &[]);
        }
        let mut due = Vec::new();
        let table = &self.table;
        self.closing.retain(|&(key, deadline)| {
            if deadline <= now {
                due.push(key);
            }
            deadline > now && table.get(key).is_some()
        });
        for key in due {
            self.end_whatever(key);
        }
        let more = !self.pending.is_empty() || !self.closing.is_empty();
        self.next_sweep = if more { now + SWEEP_MS } else { Millis::MAX };
    }
}
