//! One relayed connection at either node: it copies bytes between its socket and a peer.

use std::io::ErrorKind;

use mio::{Registry, Token};

use super::WINDOW_BYTES;
use super::client::RelayedClient;
use crate::net::drain::DrainRequest;
use crate::net::layers::{self, DriverOutput, LayerError, Layers, Outgoing, Wrote};
use crate::net::stats::ConnectionGuard;
use crate::net::stream::Stream;
use crate::net::websocket::Incoming;
use weir_broker::{EndpointId, Millis};

/// Bytes of one read, and reads in one turn.
const READ_BYTES: usize = 16 << 10;
const READS_PER_TURN: usize = 4;
/// The other side learns that bytes were taken when there are so many, or none waits.
const CREDIT_BYTES: usize = WINDOW_BYTES / 4;
/// Bytes above the window that a peer may send at most: more is a defect of the peer.
const SLACK_BYTES: usize = 1 << 20;
/// How long the last bytes for a socket may take, and then its close, milliseconds.
const CLOSING_MS: Millis = 30_000;
const LINGER_MS: Millis = 2_000;
/// How long the peer may take to take the last bytes of a client that has closed its connection, milliseconds.
const HUNG_UP_MS: Millis = 5_000;

/// The name of a connection on a link: the opener's number, and which end this node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct RelayKey {
    pub(super) peer: u64,
    pub(super) relay: u64,
    pub(super) is_opener: bool,
}

/// How far the end of a connection is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    /// The peer has ended it: what is left goes to the socket.
    Flushing {
        deadline: Millis,
    },
    /// Closed for writing; what comes is discarded.
    Lingering {
        deadline: Millis,
    },
}

/// What a step of a connection has found.
#[derive(Debug, Default)]
pub(super) struct Step {
    /// Bytes for the peer.
    pub(super) data: Vec<Vec<u8>>,
    /// Bytes that the socket has taken since the peer was told.
    pub(super) credit: usize,
    /// There is more to read at once.
    pub(super) more: bool,
    /// The connection is over. `true`: the peer does not know.
    pub(super) ended: Option<bool>,
}

/// What the connection is to this node.
pub(super) enum Role {
    /// That of a client whose socket this node has.
    Client(Box<RelayedClient>),
    /// That of a client of another node: one of this node's shards serves it, as the connection with this sequence number.
    Served { endpoint: EndpointId, sequence: u64 },
    /// A client that gets its last bytes.
    Refused { _guard: ConnectionGuard },
}

/// A connection with its socket.
pub(super) struct Pump {
    pub(super) key: RelayKey,
    stream: Stream,
    layers: Option<Box<Layers>>,
    role: Role,
    out: DriverOutput,
    /// Bytes that the peer still takes.
    credit: usize,
    /// Bytes that the socket has taken, and the peer does not know of.
    taken: usize,
    unread: bool,
    watches_writable: bool,
    phase: Phase,
    /// The other end of the socket has closed it. What it sent before goes to the peer by this time.
    hung_up_until: Option<Millis>,
}

impl Pump {
    pub(super) fn new(key: RelayKey, stream: Stream, layers: Option<Box<Layers>>, role: Role, credit: usize) -> Self {
        Self {
            key,
            stream,
            layers,
            role,
            out: DriverOutput::default(),
            credit,
            taken: 0,
            unread: true,
            watches_writable: false,
            phase: Phase::Open,
            hung_up_until: None,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token) -> std::io::Result<()> {
        self.stream.register(registry, token)
    }

    /// The peer takes so many more bytes.
    pub(super) fn add_credit(&mut self, bytes: u32) {
        self.credit = self.credit.saturating_add(bytes as usize);
    }

    /// Bytes of the peer for the socket. `false`: it sent more than it may.
    pub(super) fn push(&mut self, bytes: &[u8]) -> bool {
        if let Some(client) = self.client_mut() {
            client.receive(bytes);
        }
        self.out.push(bytes);
        self.out.waiting() <= WINDOW_BYTES + SLACK_BYTES
    }

    pub(super) fn client(&self) -> Option<&RelayedClient> {
        match &self.role {
            Role::Client(client) => Some(client),
            Role::Served { .. } | Role::Refused { .. } => None,
        }
    }

    pub(super) fn client_mut(&mut self) -> Option<&mut RelayedClient> {
        match &mut self.role {
            Role::Client(client) => Some(client),
            Role::Served { .. } | Role::Refused { .. } => None,
        }
    }

    /// The endpoint and the sequence number of the shard's connection, where the socket is at another node.
    pub(super) const fn served(&self) -> Option<(EndpointId, u64)> {
        match self.role {
            Role::Served { endpoint, sequence } => Some((endpoint, sequence)),
            Role::Client(_) | Role::Refused { .. } => None,
        }
    }

    /// Whether a drain disconnects its client; `None`: the shutdown.
    pub(super) fn is_selected(&self, request: Option<&DrainRequest>) -> bool {
        !self.is_closing() && self.client().is_some_and(|client| client.is_selected(request, self.layers.as_deref()))
    }

    /// The peer has ended the connection.
    pub(super) fn finish(&mut self, now: Millis) {
        let refusal = self.client().map(RelayedClient::refusal).unwrap_or_default();
        self.finish_with(&refusal, now);
    }

    /// This node ends the connection, as the peer does not.
    pub(super) fn finish_alone(&mut self, now: Millis) {
        let last = self.client().map(RelayedClient::last_packet).unwrap_or_default();
        self.finish_with(&last, now);
    }

    /// The connection ends: `bytes` are the last.
    pub(super) fn finish_with(&mut self, bytes: &[u8], now: Millis) {
        if self.phase == Phase::Open {
            self.out.push(bytes);
            self.phase = Phase::Flushing { deadline: now + CLOSING_MS };
        }
    }

    /// Whether the owner has not ended it in time.
    pub(super) fn is_unanswered(&self, now: Millis) -> bool {
        self.phase == Phase::Open && self.ending_until().is_some_and(|deadline| deadline <= now)
    }

    fn ending_until(&self) -> Option<Millis> {
        self.client().and_then(RelayedClient::deadline)
    }

    /// Whether its time to close is over.
    pub(super) fn is_late(&self, now: Millis) -> bool {
        match self.phase {
            Phase::Open => self.hung_up_until.is_some_and(|deadline| deadline <= now),
            Phase::Flushing { deadline } | Phase::Lingering { deadline } => deadline <= now,
        }
    }

    pub(super) fn is_closing(&self) -> bool {
        self.phase != Phase::Open
    }

    /// Whether [`Pump::is_late`] may become true.
    pub(super) fn has_deadline(&self) -> bool {
        self.is_closing() || self.hung_up_until.is_some() || self.ending_until().is_some()
    }

    /// The other end of the socket has closed it: without credit, nothing is read that would tell. Returns whether this is news.
    pub(super) fn set_hung_up(&mut self, now: Millis) -> bool {
        let is_news = self.phase == Phase::Open && self.hung_up_until.is_none();
        if is_news {
            self.hung_up_until = Some(now + HUNG_UP_MS);
        }
        is_news
    }

    /// The socket may hold bytes.
    pub(super) fn set_unread(&mut self) {
        self.unread = true;
    }

    /// Reads what may be sent to the peer. `may_send`: not too much is on the way to it.
    pub(super) fn read(&mut self, may_send: bool, buffer: &mut [u8], step: &mut Step) {
        if self.phase != Phase::Open {
            return self.discard(buffer, step);
        }
        for _ in 0..READS_PER_TURN {
            if !self.unread || !may_send || self.credit == 0 {
                return;
            }
            let len = READ_BYTES.min(self.credit).min(buffer.len());
            match self.stream.read(&mut buffer[..len]) {
                Ok(0) => return step.ended = Some(true),
                Ok(n) => self.take(&buffer[..n], step),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.unread = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return step.ended = Some(true),
            }
            if step.ended.is_some() {
                return;
            }
        }
        step.more = self.unread;
    }

    fn take(&mut self, raw: &[u8], step: &mut Step) {
        let mut plain = Vec::new();
        let decoded = match self.layers.as_deref_mut() {
            Some(layers) => layers.decode(raw, &mut plain),
            None => {
                plain.extend_from_slice(raw);
                Ok(Incoming::Open)
            }
        };
        if !plain.is_empty() {
            self.credit = self.credit.saturating_sub(plain.len());
            step.data.push(plain);
        }
        match decoded {
            Ok(Incoming::Open) => {}
            Ok(_) => step.ended = Some(true),
            Err(error) => self.fail(&error, step),
        }
    }

    fn fail(&mut self, error: &LayerError, step: &mut Step) {
        tracing::debug!(%error, "connection closed: TLS or WebSocket error");
        if let Some(layers) = self.layers.as_deref_mut() {
            layers.close_with_error(error);
        }
        self.write(step);
        step.ended = Some(true);
    }

    fn discard(&mut self, buffer: &mut [u8], step: &mut Step) {
        for _ in 0..READS_PER_TURN {
            match self.stream.read(buffer) {
                Ok(0) => return step.ended = Some(false),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return self.unread = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return step.ended = Some(false),
            }
        }
        step.more = true;
    }

    /// Writes to the socket, as far as it takes bytes, and closes where the peer has ended.
    pub(super) fn flush(&mut self, registry: &Registry, token: Token, now: Millis, step: &mut Step) {
        let is_blocked = self.write(step);
        if is_blocked && !self.watches_writable {
            self.watches_writable = self.stream.watch_writable(registry, token).is_ok();
        }
        if self.out.waiting() == 0 && matches!(self.phase, Phase::Flushing { .. }) {
            self.close(now, step);
        }
    }

    /// Whether the socket takes no more at the moment.
    fn write(&mut self, step: &mut Step) -> bool {
        let before = self.out.waiting();
        let written = layers::write(&self.stream, self.layers.as_deref_mut(), &mut self.out);
        self.taken += before - self.out.waiting();
        if self.taken >= CREDIT_BYTES || (self.taken > 0 && self.out.waiting() == 0) {
            step.credit += std::mem::take(&mut self.taken);
        }
        match written {
            Ok(wrote) => wrote == Wrote::Blocked,
            Err(_) => {
                step.ended = Some(!self.is_closing());
                false
            }
        }
    }

    /// Sends the close messages of the layers, and waits for the client to close: a socket that is closed with unread bytes is
    /// reset, on which the client may lose its last bytes.
    fn close(&mut self, now: Millis, step: &mut Step) {
        if !self.key.is_opener {
            return step.ended = Some(false);
        }
        if let Some(layers) = self.layers.as_deref_mut() {
            layers.close();
        }
        let mut layers = self.layers.take();
        let closed = layers::write(&self.stream, layers.as_deref_mut(), &mut self.out)
            .and_then(|_| layers::send_close_notify(&self.stream, layers.as_deref_mut()))
            .and_then(|_| self.stream.finish_writing());
        match closed {
            Ok(()) => {
                self.phase = Phase::Lingering { deadline: now + LINGER_MS };
                self.unread = true;
                step.more = true;
            }
            Err(_) => step.ended = Some(false),
        }
    }
}
