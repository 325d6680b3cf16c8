//! ReadOutcome from admitted connections.

use std::io::ErrorKind;

use super::partial::Partial;
use super::table::{Connection, ConnectionKey, ConnectionState};
use super::{DEFERRED_READ_SLICE, EARLY_FLUSH_BYTES, READ_BYTES, Shard, cpu_time, trace};
use crate::net::websocket::Incoming;
use weir_broker::{ConnId, Millis, ReadAction};

/// Reads per connection and turn.
const READS_PER_TURN: usize = 4;
/// Packets up to this size are assembled in the shared buffer; a larger one is read into its own buffer, so that it is
/// not copied again with every read.
pub(super) const PARTIAL_MAX_BYTES: usize = 128 << 10;

/// Bytes of a connection's first read, before the fan-out of its messages is known, and the minimum.
pub(super) const FIRST_READ_BYTES: u32 = 1024;
const LEAST_READ_BYTES: u32 = 256;
/// Target of work (packets and deliveries) per read: about half a millisecond.
const WORK_PER_READ: usize = 4096;
/// Work of one read above which a connection is deferred.
const DEFERRED_READ_WORK: usize = 256;

/// The result of reading from a connection.
enum ReadOutcome {
    /// The socket is empty; an event reports further bytes.
    Drained,
    /// The socket may hold more bytes.
    More,
    /// The core has paused the connection.
    Paused {
        drained: bool,
    },
    /// The core closes the connection.
    Close,
    Ended,
    /// The connection is closed already.
    Gone,
}

/// The result of one read.
enum SocketRead {
    Bytes { n: usize, drained: bool },
    Stop(ReadOutcome),
}

/// Reads into `into`. A short read means that the socket is empty, unless the end of the stream is still unread.
fn read(connection: &Connection, into: &mut [u8]) -> SocketRead {
    loop {
        match connection.stream.read(into) {
            Ok(0) => return SocketRead::Stop(ReadOutcome::Ended),
            Ok(n) => return SocketRead::Bytes { n, drained: n < into.len() && !connection.hung_up },
            Err(error) if error.kind() == ErrorKind::WouldBlock => return SocketRead::Stop(ReadOutcome::Drained),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => return SocketRead::Stop(ReadOutcome::Ended),
        }
    }
}

impl Connection {
    /// Sets the size of the next read, after a read of `n` bytes that caused `work`.
    fn adapt_read_size(&mut self, n: usize, work: usize) {
        self.deferred = work >= DEFERRED_READ_WORK;
        let read_bytes = self.read_bytes as usize;
        if work > WORK_PER_READ {
            let next = n.saturating_mul(WORK_PER_READ) / work;
            self.read_bytes = u32::try_from(next).unwrap_or(u32::MAX).clamp(LEAST_READ_BYTES, READ_BYTES as u32);
        } else if work * 2 <= WORK_PER_READ && n >= read_bytes && read_bytes < READ_BYTES {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES as u32);
        }
    }
}

impl Shard {
    /// Handles a socket that may hold bytes.
    pub(super) fn on_readable(&mut self, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        match &connection.state {
            ConnectionState::Pending(_) => self.on_handshake_readable(key),
            ConnectionState::Lingering => self.discard(key),
            ConnectionState::Open(_) if connection.paused || connection.closing => connection.unread = true,
            ConnectionState::Open(_) if connection.deferred => {
                connection.unread = true;
                self.defer_read(key);
            }
            ConnectionState::Open(id) => {
                let id = *id;
                self.read_open(key, id);
            }
        }
    }

    fn read_open(&mut self, key: ConnectionKey, id: ConnId) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let layered = connection.layers.is_some();
        if std::mem::take(&mut connection.feeds_again)
            && let Some(kept) = connection.partial.take()
        {
            match self.feed(key, id, &kept.bytes[..kept.filled], kept.begun) {
                ReadOutcome::More => {}
                reading => return self.after_reading(key, reading),
            }
        }
        let mut buffer = std::mem::take(&mut self.buffer);
        let reading =
            if layered { self.read_layers(key, id, &mut buffer) } else { self.read_socket(key, id, &mut buffer) };
        self.buffer = buffer;
        self.after_reading(key, reading);
        self.bound_partials(key);
    }

    /// Queues a connection whose packets cause much work: it is read after all other connections.
    fn defer_read(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.table.get_mut(key)
            && !std::mem::replace(&mut connection.is_deferred, true)
        {
            self.deferred.push_back(key);
        }
    }

    /// Reads deferred connections for a time slice, but not before the output that they caused earlier is written:
    /// otherwise the output would grow faster than it is written.
    pub(super) fn read_deferred(&mut self) {
        if self.deferred.is_empty() || self.bulk_ahead > 0 {
            return;
        }
        self.flush_priority();
        let until = cpu_time() + DEFERRED_READ_SLICE;
        self.deferred_until = Some(until);
        while let Some(key) = self.deferred.pop_front() {
            let Some(connection) = self.table.get_mut(key) else { continue };
            connection.is_deferred = false;
            if let ConnectionState::Open(id) = connection.state
                && !connection.paused
                && !connection.closing
            {
                self.read_open(key, id);
            }
            if self.bulk_ahead > 0 || cpu_time() >= until {
                break;
            }
        }
        self.deferred_until = None;
        self.bulk_ahead = self.core.bulk_flush_len();
    }

    /// Flushes the output when many bytes were read since the last flush. `false`: not all output could be written now.
    fn flush_early(&mut self, read_bytes: usize) -> bool {
        self.unflushed_bytes += read_bytes;
        if self.unflushed_bytes < EARLY_FLUSH_BYTES {
            return true;
        }
        self.flush_all();
        self.bulk_ahead = self.core.bulk_flush_len();
        self.bulk_ahead == 0
    }

    /// Whether a connection may be read again in this turn.
    fn may_read_again(&self, key: ConnectionKey) -> bool {
        let deferred = self.table.get(key).is_some_and(|connection| connection.deferred);
        !deferred || self.deferred_until.is_some_and(|until| cpu_time() < until)
    }

    fn after_reading(&mut self, key: ConnectionKey, reading: ReadOutcome) {
        let Some(connection) = self.table.get_mut(key) else { return };
        match reading {
            ReadOutcome::Drained => connection.unread = false,
            ReadOutcome::More => {
                connection.unread = true;
                if connection.deferred {
                    self.defer_read(key);
                } else {
                    self.ready.push(key);
                }
            }
            ReadOutcome::Paused { drained } => {
                connection.unread = !drained;
                connection.paused = true;
            }
            ReadOutcome::Close => self.close_after_reading(key),
            ReadOutcome::Ended => self.close_now(key),
            ReadOutcome::Gone => {}
        }
    }

    /// MQTT directly on the socket: the core decodes in the shared buffer; only the beginning of an incomplete packet
    /// is copied.
    fn read_socket(&mut self, key: ConnectionKey, id: ConnId, buffer: &mut [u8]) -> ReadOutcome {
        let (mut held, mut begun) = (0, self.now);
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.table.get_mut(key) else { return ReadOutcome::Gone };
            if let Some(partial) = connection.partial.take() {
                if partial.needs > PARTIAL_MAX_BYTES {
                    return self.read_large(key, id, partial);
                }
                (held, begun) = (partial.filled, partial.begun);
                buffer[..held].copy_from_slice(&partial.bytes[..held]);
            }
            let room = connection.read_bytes as usize;
            let (n, drained) = match read(connection, &mut buffer[held..held + room]) {
                SocketRead::Bytes { n, drained } => (n, drained),
                SocketRead::Stop(reading) => {
                    self.partial_bytes.keep(connection, &buffer[..held], 0, begun);
                    return reading;
                }
            };
            let filled = held + n;
            let received = self.core.receive(id, &buffer[..filled], self.now);
            connection.adapt_read_size(n, self.core.work());
            if !self.tracers.is_empty() {
                trace::received(&mut self.tracers, id, self.now, &buffer[..received.consumed.min(filled)]);
            }
            if received.action == ReadAction::Close {
                return ReadOutcome::Close;
            }
            let consumed = received.consumed.min(filled);
            let needs = received.needs.unwrap_or(0);
            held = filled - consumed;
            if consumed > 0 {
                begun = self.now;
            }
            let stops = drained || received.action == ReadAction::Pause;
            connection.feeds_again = received.action == ReadAction::Pause && held > 0;
            if stops || needs > PARTIAL_MAX_BYTES {
                self.partial_bytes.keep(connection, &buffer[consumed..filled], needs, begun);
                held = 0;
            } else {
                buffer.copy_within(consumed..filled, 0);
            }
            let all_written = self.flush_early(n);
            if received.action == ReadAction::Pause {
                return ReadOutcome::Paused { drained };
            }
            if drained {
                return ReadOutcome::Drained;
            }
            if !all_written || !self.may_read_again(key) {
                break;
            }
        }
        if let Some(connection) = self.table.get_mut(key)
            && connection.partial.is_none()
        {
            self.partial_bytes.keep(connection, &buffer[..held], 0, begun);
        }
        ReadOutcome::More
    }

    /// Reads a large packet into its own buffer, which grows with the received bytes, not with the declared length.
    fn read_large(&mut self, key: ConnectionKey, id: ConnId, mut partial: Box<Partial>) -> ReadOutcome {
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.table.get_mut(key) else { return ReadOutcome::Gone };
            partial.make_room();
            let (n, drained) = match read(connection, &mut partial.bytes[partial.filled..]) {
                SocketRead::Bytes { n, drained } => (n, drained),
                SocketRead::Stop(reading) => {
                    connection.partial = Some(partial);
                    return reading;
                }
            };
            partial.filled += n;
            if partial.filled < partial.needs {
                if drained {
                    connection.partial = Some(partial);
                    return ReadOutcome::Drained;
                }
                continue;
            }
            let received = self.core.receive(id, &partial.bytes[..partial.filled], self.now);
            if !self.tracers.is_empty() {
                trace::received(&mut self.tracers, id, self.now, &partial.bytes[..partial.filled]);
            }
            // The buffer ends with the packet, so no bytes remain.
            debug_assert!(received.consumed == partial.filled);
            return match received.action {
                ReadAction::Close => ReadOutcome::Close,
                ReadAction::Pause => ReadOutcome::Paused { drained },
                ReadAction::Continue => {
                    if drained {
                        ReadOutcome::Drained
                    } else {
                        ReadOutcome::More
                    }
                }
            };
        }
        if let Some(connection) = self.table.get_mut(key) {
            connection.partial = Some(partial);
        }
        ReadOutcome::More
    }

    /// MQTT inside TLS, WebSocket, or both.
    fn read_layers(&mut self, key: ConnectionKey, id: ConnId, buffer: &mut [u8]) -> ReadOutcome {
        for _ in 0..READS_PER_TURN {
            let Some(connection) = self.table.get_mut(key) else { return ReadOutcome::Gone };
            let room = connection.read_bytes as usize;
            let (n, drained) = match read(connection, &mut buffer[..room]) {
                SocketRead::Bytes { n, drained } => (n, drained),
                SocketRead::Stop(reading) => return reading,
            };
            let reading = self.feed_layers(key, id, &buffer[..n]);
            let work = self.core.work();
            if let Some(connection) = self.table.get_mut(key) {
                connection.adapt_read_size(n, work);
            }
            if !matches!(reading, ReadOutcome::More) {
                return match reading {
                    ReadOutcome::Paused { .. } => ReadOutcome::Paused { drained },
                    other => other,
                };
            }
            let all_written = self.flush_early(n);
            if drained {
                return ReadOutcome::Drained;
            }
            if !all_written || !self.may_read_again(key) {
                break;
            }
        }
        ReadOutcome::More
    }

    /// Decodes `raw` through the layers and passes the result to the core. `More` if the core wants more.
    fn feed_layers(&mut self, key: ConnectionKey, id: ConnId, raw: &[u8]) -> ReadOutcome {
        let Some(connection) = self.table.get_mut(key) else { return ReadOutcome::Gone };
        let Some(layers) = &mut connection.layers else { return ReadOutcome::Gone };
        let mut held = connection.partial.take();
        let mut plain = std::mem::take(&mut self.plain);
        plain.clear();
        // A large packet is assembled in its own buffer; a small beginning is put in front of the next bytes.
        let is_large = held.as_ref().is_some_and(|partial| partial.needs > PARTIAL_MAX_BYTES);
        let incoming = match &mut held {
            Some(partial) if is_large => {
                partial.bytes.truncate(partial.filled);
                layers.decode(raw, &mut partial.bytes)
            }
            Some(partial) => {
                plain.extend_from_slice(&partial.bytes[..partial.filled]);
                layers.decode(raw, &mut plain)
            }
            None => layers.decode(raw, &mut plain),
        };
        let wants_write = layers.wants_write();
        if let Some(partial) = held.as_mut().filter(|_| is_large) {
            partial.filled = partial.bytes.len();
            partial.count();
        }
        let begun = held.as_ref().map_or(self.now, |partial| partial.begun);
        let reading = match held {
            Some(partial) if is_large && partial.filled < partial.needs => {
                connection.partial = Some(partial);
                ReadOutcome::More
            }
            Some(partial) if is_large => self.feed(key, id, &partial.bytes, begun),
            _ => self.feed(key, id, &plain, begun),
        };
        self.plain = plain;
        self.plain.shrink_to(BUFFER_KEPT_BYTES);
        if wants_write {
            self.flush_connection(key);
        }
        match (incoming, reading) {
            (Ok(Incoming::Open), reading) => reading,
            (_, reading @ (ReadOutcome::Close | ReadOutcome::Ended | ReadOutcome::Gone)) => reading,
            (Ok(Incoming::Closed), _) => ReadOutcome::Ended,
            (Err(error), _) => {
                self.layer_failed(key, &error);
                ReadOutcome::Gone
            }
        }
    }

    /// Passes bytes to the core, and keeps the rest. `begun`: when the first of them was received. `More` if the core
    /// wants more.
    fn feed(&mut self, key: ConnectionKey, id: ConnId, bytes: &[u8], begun: Millis) -> ReadOutcome {
        if bytes.is_empty() {
            return ReadOutcome::More;
        }
        let received = self.core.receive(id, bytes, self.now);
        if !self.tracers.is_empty() {
            trace::received(&mut self.tracers, id, self.now, &bytes[..received.consumed.min(bytes.len())]);
        }
        if received.action == ReadAction::Close {
            return ReadOutcome::Close;
        }
        let Some(connection) = self.table.get_mut(key) else { return ReadOutcome::Gone };
        let (rest, needs) = (bytes.get(received.consumed..).unwrap_or(&[]), received.needs.unwrap_or(0));
        connection.feeds_again = received.action == ReadAction::Pause && !rest.is_empty();
        self.partial_bytes.keep(connection, rest, needs, if received.consumed > 0 { self.now } else { begun });
        match received.action {
            ReadAction::Pause => ReadOutcome::Paused { drained: false },
            ReadAction::Continue | ReadAction::Close => ReadOutcome::More,
        }
    }

    /// Passes the bytes that followed CONNECT to the core.
    pub(super) fn feed_first(&mut self, key: ConnectionKey, id: ConnId, bytes: &[u8]) {
        match self.feed(key, id, bytes, self.now) {
            ReadOutcome::More => {}
            reading => self.after_reading(key, reading),
        }
    }
}

/// Maximum capacity of the scratch buffer that stays allocated between turns, bytes.
const BUFFER_KEPT_BYTES: usize = 256 << 10;
