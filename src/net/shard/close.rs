//! Closing connections.

use std::sync::atomic::Ordering;

use super::table::{ConnectionKey, ConnectionState};
use super::{SWEEP_MS, Shard};
use crate::log_value::log_value;
use crate::net::layers::{self, DriverOutput, LayerError, Outgoing};
use crate::net::stats::CloseReason;
use weir_broker::Millis;

/// How long a closing connection may take to write its output, and then to wait for the peer's close, milliseconds.
const CLOSING_MS: Millis = 5_000;
const LINGER_MS: Millis = 2_000;
/// Closing connections of a shard above which a refused connection is closed at once: its CONNACK may be lost.
const CLOSING_MAX: usize = 128;
/// Reads of discarded bytes per connection and turn.
const DISCARDS_PER_TURN: usize = 16;

impl Shard {
    /// Closes a connection on behalf of the core, after its output is written.
    pub(super) fn close_connection(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.closing || !matches!(connection.state, ConnectionState::Open(_)) {
            return;
        }
        connection.closing = true;
        self.closing.push((key, self.now + CLOSING_MS));
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
        self.flush_connection(key);
    }

    /// Closes a connection on behalf of the core, after a read. Without output (after the client's DISCONNECT) the
    /// socket is closed at once. TLS and WebSocket need their own close handshake, without which the peer sees a
    /// failure.
    pub(super) fn close_after_reading(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get(key) else { return };
        let ConnectionState::Open(id) = connection.state else { return };
        let has_close_handshake = connection.layers.is_some();
        if !has_close_handshake && self.core.out(id).is_none_or(|out| out.is_empty()) {
            self.close_now(key);
        } else {
            self.close_connection(key);
        }
    }

    /// All output of a closing connection is written.
    pub(super) fn finish_closing(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if let ConnectionState::Open(id) = connection.state {
            self.trace_ended(id);
            self.core.connection_closed(id, self.now);
        }
        self.linger(key);
    }

    /// Sends the close messages of the layers, and waits for the peer to close. (Closing a socket with unread bytes
    /// sends a reset, on which the peer's kernel discards bytes that the peer has not read yet.)
    fn linger(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.state = ConnectionState::Lingering;
        connection.partial = None;
        if connection.hung_up {
            return self.drop_connection(key);
        }
        if let Some(layers) = connection.layers.as_deref_mut() {
            layers.close();
        }
        let mut layers = connection.layers.take();
        let result = layers::write(&connection.stream, layers.as_deref_mut(), &mut DriverOutput::default())
            .and_then(|_| layers::send_close_notify(&connection.stream, layers.as_deref_mut()))
            .and_then(|_| connection.stream.finish_writing());
        if result.is_err() {
            return self.drop_connection(key);
        }
        self.closing.push((key, self.now + LINGER_MS));
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
        self.discard(key);
    }

    /// Discards bytes of a lingering connection, a bounded amount per turn.
    pub(super) fn discard(&mut self, key: ConnectionKey) {
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

    /// Closes an admitted connection at once, and informs the core.
    pub(super) fn close_now(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.remove(key) else { return };
        if let ConnectionState::Open(id) = connection.state {
            self.trace_ended(id);
            self.core.connection_closed(id, self.now);
        }
    }

    /// Closes a connection at once, in any state.
    pub(super) fn abort_connection(&mut self, key: ConnectionKey) {
        match self.table.get(key).map(|connection| &connection.state) {
            Some(ConnectionState::Open(_)) => self.close_now(key),
            Some(_) => self.drop_connection(key),
            None => {}
        }
    }

    /// Closes the socket of a connection that the core does not know, or no longer.
    pub(super) fn drop_connection(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.remove(key) else { return };
        debug_assert!(
            !matches!(connection.state, ConnectionState::Open(_)),
            "the core must be informed before the socket is closed"
        );
        if let ConnectionState::Pending(handshake) = connection.state {
            self.remove_pending(handshake.position);
        }
    }

    /// Handles a TLS or WebSocket error on an admitted connection.
    pub(super) fn layer_failed(&mut self, key: ConnectionKey, error: &LayerError) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if let ConnectionState::Open(id) = connection.state
            && let Some(client) = self.core.client(id)
        {
            let (endpoint, client_id) = (client.endpoint, log_value(client.client_id));
            tracing::debug!(endpoint, client_id = &*client_id, shard = self.id.0, %error, "connection closed: TLS or WebSocket error");
        }
        if let Some(layers) = connection.layers.as_deref_mut() {
            layers.close_with_error(error);
        }
        if let ConnectionState::Open(id) = connection.state {
            self.trace_ended(id);
            self.core.connection_closed(id, self.now);
        }
        self.linger(key);
    }

    /// Removes a connection from the list of pending ones.
    pub(super) fn remove_pending(&mut self, position: usize) {
        self.pending.swap_remove(position);
        self.shared.pending.fetch_sub(1, Ordering::Relaxed);
        if let Some(&moved) = self.pending.get(position)
            && let Some(ConnectionState::Pending(handshake)) = self.table.get_mut(moved).map(|moved| &mut moved.state)
        {
            handshake.position = position;
        }
    }

    /// Refuses a pending connection: sends `bytes` (a CONNACK, an HTTP response), then closes it.
    pub(super) fn refuse(&mut self, key: ConnectionKey, reason: CloseReason, bytes: &[u8]) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.guard.metrics().count_refused(reason);
        let endpoint = match &connection.state {
            ConnectionState::Pending(handshake) => Some(&*handshake.policy.endpoint.name),
            _ => None,
        };
        let peer = connection.peer.map(tracing::field::display);
        tracing::debug!(endpoint, peer, shard = self.id.0, reason = reason.name(), "connection refused");
        let mut out = DriverOutput::default();
        if let ConnectionState::Pending(handshake) =
            std::mem::replace(&mut connection.state, ConnectionState::Lingering)
        {
            out = handshake.out;
            self.remove_pending(handshake.position);
        }
        out.push(bytes);
        let Some(connection) = self.table.get_mut(key) else { return };
        let layers = connection.layers.as_deref_mut();
        let has_output = out.waiting() > 0 || layers.as_ref().is_some_and(|layers| layers.wants_write());
        // Bytes that the socket does not accept at once are dropped.
        let may_linger = self.closing.len() < CLOSING_MAX;
        if has_output
            && may_linger
            && !connection.blocked
            && layers::write(&connection.stream, layers, &mut out).is_ok()
        {
            self.linger(key);
        } else {
            self.drop_connection(key);
        }
    }

    /// Closes connections whose deadline has passed.
    pub(super) fn sweep(&mut self) {
        let now = self.now;
        let is_late = |key: &ConnectionKey| match self.table.get(*key).map(|connection| &connection.state) {
            Some(ConnectionState::Pending(handshake)) => handshake.deadline <= now,
            _ => false,
        };
        let late: Vec<ConnectionKey> = self.pending.iter().copied().filter(is_late).collect();
        for key in late {
            self.refuse(key, CloseReason::HandshakeTimeout, &[]);
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
            self.abort_connection(key);
        }
        let more = !self.pending.is_empty() || !self.closing.is_empty();
        self.next_sweep = if more { now + SWEEP_MS } else { Millis::MAX };
    }
}
