//! A shard's connections, by slot.

use std::net::SocketAddr;

use mio::Token;

use crate::net::layers::Layers;
use crate::net::stats::ConnectionGuard;
use crate::net::stream::Stream;
use weir_broker::{ConnId, Slab};

use super::handshake::Handshake;
use super::partial::Partial;
use super::reauthenticate::EnhancedAuth;
use super::receive::FIRST_READ_BYTES;

/// The key of a connection in this shard: a slot and its generation, so that a key of a closed connection finds none. The
/// slab leaves a generation's highest bit free: in a token, it marks listeners and wakers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct ConnectionKey {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl ConnectionKey {
    pub(super) fn token(self) -> Token {
        Token(((u64::from(self.generation) << 32) | u64::from(self.slot)) as usize)
    }

    pub(super) fn from_token(token: Token) -> Self {
        let bits = token.0 as u64;
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

const _: () = assert!(size_of::<usize>() == 8, "a token holds a slot and a generation");

/// Bytes in which no message fits: DISCONNECT, alone or in a TLS record before the record that closes TLS.
const DISCONNECT_MAX_BYTES: usize = 4;
const TLS_CLOSE_MAX_BYTES: usize = 48;

/// The state of a connection.
pub(super) enum ConnectionState {
    /// In its handshake.
    Pending(Box<Handshake>),
    /// Admitted by the core.
    Open(ConnId),
    /// Shut down for writing; received bytes are discarded until the peer closes, so that a reset does not destroy the
    /// last output.
    Lingering,
}

/// One connection. Small, since there may be a million idle ones.
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) state: ConnectionState,
    /// `None`: MQTT directly on the socket.
    pub(super) layers: Option<Box<Layers>>,
    pub(super) partial: Option<Box<Partial>>,
    /// `Some` if CONNECT has an authentication method.
    pub(super) enhanced: Option<Box<EnhancedAuth>>,
    pub(super) guard: ConnectionGuard,
    pub(super) peer: Option<SocketAddr>,
    /// Sequence number, counted over the process.
    pub(super) sequence: u64,
    /// The generation of the policy that admitted it.
    pub(super) generation: u64,
    /// Whether the socket is registered in the poll, and for writing too.
    pub(super) registered: bool,
    pub(super) watches_writable: bool,
    /// The last write blocked; an event reports when the socket accepts bytes again.
    pub(super) blocked: bool,
    /// The core has paused reading.
    pub(super) paused: bool,
    /// The socket may hold bytes for which no further event comes.
    pub(super) unread: bool,
    /// The core has left whole packets among the bytes that are kept: it takes them before anything is read.
    pub(super) feeds_again: bool,
    /// Size of the next read: smaller for a large fan-out, so that other connections are served.
    pub(super) read_bytes: u32,
    /// Its packets cause much work, so it is read after the others; and whether it is in that queue.
    pub(super) deferred: bool,
    pub(super) is_deferred: bool,
    /// The peer has closed its side: read to the end of the stream.
    pub(super) hung_up: bool,
    /// Closes when all output is written.
    pub(super) closing: bool,
}

impl Connection {
    /// Whether a peer that has closed its side has left nothing behind that could matter, `read` bytes after CONNECT
    /// included: a client may send CONNECT, messages and DISCONNECT, and close without waiting for CONNACK.
    pub(super) fn has_nothing_left(&self, read: usize) -> bool {
        let is_tls = self.layers.as_ref().is_some_and(|layers| layers.tls.is_some());
        let ignored = if is_tls { TLS_CLOSE_MAX_BYTES } else { DISCONNECT_MAX_BYTES };
        ignored.checked_sub(read).is_some_and(|ignored| self.stream.holds_at_most(ignored))
    }

    /// A connection whose socket is not registered in the poll yet.
    pub(super) fn new(
        stream: Stream,
        state: ConnectionState,
        layers: Option<Box<Layers>>,
        guard: ConnectionGuard,
        peer: Option<SocketAddr>,
        sequence: u64,
        generation: u64,
    ) -> Self {
        Self {
            stream,
            state,
            layers,
            partial: None,
            enhanced: None,
            guard,
            peer,
            sequence,
            generation,
            registered: false,
            watches_writable: false,
            blocked: false,
            paused: false,
            unread: true,
            feeds_again: false,
            read_bytes: FIRST_READ_BYTES,
            deferred: false,
            is_deferred: false,
            hung_up: false,
            closing: false,
        }
    }
}

/// The connections, and the mapping from the core's ids.
#[derive(Default)]
pub(super) struct Table {
    connections: Slab<u32, Connection>,
    /// Slot of each of the core's connections, by the core's slot.
    by_core: Vec<u32>,
}

impl Table {
    pub(super) fn insert(&mut self, connection: Connection) -> ConnectionKey {
        let (slot, generation) = self.connections.insert(connection);
        ConnectionKey { slot, generation }
    }

    pub(super) fn remove(&mut self, key: ConnectionKey) -> Option<Connection> {
        self.get(key)?;
        self.connections.remove(key.slot)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.connections.get_generation_mut(key.slot, key.generation)
    }

    pub(super) fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        self.connections.get_generation(key.slot, key.generation)
    }

    /// Records the slot of a core connection.
    pub(super) fn bind(&mut self, id: ConnId, key: ConnectionKey) {
        let index = id.slot.0 as usize;
        if self.by_core.len() <= index {
            self.by_core.resize(index + 1, u32::MAX);
        }
        self.by_core[index] = key.slot;
    }

    /// The key of the core's connection `id`.
    #[inline]
    pub(super) fn key_of(&self, id: ConnId) -> Option<ConnectionKey> {
        let slot = *self.by_core.get(id.slot.0 as usize)?;
        match self.connections.get(slot)?.state {
            ConnectionState::Open(open) if open == id => {
                Some(ConnectionKey { slot, generation: self.connections.generation(slot) })
            }
            _ => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.count()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ConnectionKey, &Connection)> {
        let key = |slot| ConnectionKey { slot, generation: self.connections.generation(slot) };
        self.connections.iter().map(move |(slot, connection)| (key(slot), connection))
    }
}
