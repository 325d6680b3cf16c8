//! A shard's connections, by slot.

use std::net::SocketAddr;

use mio::Token;

use crate::net::layers::Layers;
use crate::net::stats::ConnectionGuard;
use crate::net::stream::Stream;
use weir_broker::ConnId;

use super::handshake::Handshake;
use super::reauthenticate::Enhanced;

/// A connection of this shard: a slot and its generation, so that what is meant for one that is gone finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::net) struct Key {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

/// Generations stay below it: the topmost bit of a token is the listeners' and the waker's.
const GENERATIONS: u32 = 1 << 31;

impl Key {
    pub(super) fn token(self) -> Token {
        Token(((u64::from(self.generation) << 32) | u64::from(self.slot)) as usize)
    }

    pub(super) fn of(token: Token) -> Self {
        let bits = token.0 as u64;
        Self { slot: bits as u32, generation: (bits >> 32) as u32 }
    }
}

const _: () = assert!(size_of::<usize>() == 8, "a token holds a slot and a generation");

/// Where a connection stands.
pub(super) enum State {
    /// Not admitted yet.
    Pending(Box<Handshake>),
    /// The core knows it.
    Open(ConnId),
    /// All was said; what still comes is thrown away until the peer closes, so that the last words are not lost to a
    /// reset.
    Lingering,
}

/// The beginning of a packet that has not come whole.
pub(super) struct Partial {
    /// The bytes that came, and behind them zeros to read into.
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
    /// The packet's whole length, where its header tells.
    pub(super) needs: usize,
}

/// One connection. Kept small: there may be a million idle ones.
pub(super) struct Connection {
    pub(super) stream: Stream,
    pub(super) state: State,
    /// `None`: MQTT directly on the socket.
    pub(super) layers: Option<Box<Layers>>,
    pub(super) partial: Option<Box<Partial>>,
    /// Where CONNECT named an authentication method.
    pub(super) enhanced: Option<Box<Enhanced>>,
    pub(super) opened: ConnectionGuard,
    pub(super) peer: Option<SocketAddr>,
    /// Counts the process's accepted connections.
    pub(super) sequence: u64,
    /// That of the policy it was admitted by.
    pub(super) generation: u64,
    /// Whether the socket is in the poll, and for writing too.
    pub(super) registered: bool,
    pub(super) watches_writable: bool,
    /// The socket took no more; it will say when it does.
    pub(super) blocked: bool,
    /// The core wants nothing of it for now.
    pub(super) paused: bool,
    /// The socket may hold bytes that no event will tell of again.
    pub(super) unread: bool,
    /// Bytes read at once: less where what comes goes to many, so that others have their turn.
    pub(super) read_bytes: u32,
    /// What it sends makes much work: it is read in its turn with others like it, and stands in their line.
    pub(super) deferred: bool,
    pub(super) is_deferred: bool,
    /// The peer will send no more: read to the end.
    pub(super) hung_up: bool,
    /// To be closed once everything is written.
    pub(super) closing: bool,
}

struct Slot {
    generation: u32,
    connection: Option<Connection>,
}

/// The connections, and where the core's ids stand among them.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// The slot of each of the core's.
    by_core: Vec<u32>,
}

impl Table {
    pub(super) fn insert(&mut self, connection: Connection) -> Key {
        if let Some(slot) = self.free.pop() {
            let place = &mut self.slots[slot as usize];
            place.connection = Some(connection);
            return Key { slot, generation: place.generation };
        }
        self.slots.push(Slot { generation: 0, connection: Some(connection) });
        Key { slot: (self.slots.len() - 1) as u32, generation: 0 }
    }

    pub(super) fn remove(&mut self, key: Key) -> Option<Connection> {
        let place = self.slots.get_mut(key.slot as usize).filter(|place| place.generation == key.generation)?;
        let connection = place.connection.take()?;
        place.generation = (place.generation + 1) % GENERATIONS;
        self.free.push(key.slot);
        Some(connection)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut Connection> {
        let place = self.slots.get_mut(key.slot as usize)?;
        if place.generation == key.generation { place.connection.as_mut() } else { None }
    }

    pub(super) fn get(&self, key: Key) -> Option<&Connection> {
        let place = self.slots.get(key.slot as usize)?;
        if place.generation == key.generation { place.connection.as_ref() } else { None }
    }

    /// Notes which slot the core's connection is in.
    pub(super) fn bind(&mut self, id: ConnId, key: Key) {
        let place = id.slot.0 as usize;
        if self.by_core.len() <= place {
            self.by_core.resize(place + 1, u32::MAX);
        }
        self.by_core[place] = key.slot;
    }

    /// The connection the core calls `id`.
    #[inline]
    pub(super) fn key_of(&self, id: ConnId) -> Option<Key> {
        let slot = *self.by_core.get(id.slot.0 as usize)?;
        let place = self.slots.get(slot as usize)?;
        match place.connection {
            Some(Connection { state: State::Open(open), .. }) if open == id => {
                Some(Key { slot, generation: place.generation })
            }
            _ => None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &Connection)> {
        self.slots.iter().enumerate().filter_map(|(slot, place)| {
            Some((Key { slot: slot as u32, generation: place.generation }, place.connection.as_ref()?))
        })
    }
}
