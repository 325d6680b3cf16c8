//! Connections come from the acceptor.

use std::net::SocketAddr;
use std::sync::Arc;

use super::handshake::{Handshake, Stage};
use super::table::{Connection, Key, State};
use super::{Event, SWEEP_MS, Shard};
use crate::net::layers::{Layers, Unsent};
use crate::net::policy::{ListenerPolicy, Transport};
use crate::net::stats::{ConnectionGuard, Pending, Reason};
use crate::net::stream::Stream;

/// A connection fresh from the acceptor.
pub(in crate::net) struct Accepted {
    pub(in crate::net) stream: Stream,
    pub(in crate::net) peer: Option<SocketAddr>,
    pub(in crate::net) policy: Arc<ListenerPolicy>,
    pub(in crate::net) opened: ConnectionGuard,
    pub(in crate::net) pending: Pending,
    pub(in crate::net) sequence: u64,
    /// The endpoint has as many pending connections as it may: another one of it goes.
    pub(in crate::net) displaces: bool,
    /// The endpoint has as many connections as it may: this one is let in to be told so.
    pub(in crate::net) over_limit: bool,
    /// It comes from this process.
    pub(in crate::net) inside: bool,
}

impl Shard {
    /// Accepts what waits. A connection whose handshake is deferred goes to the shards in turn; any other one is decoded
    /// here and goes straight to its home.
    pub(super) fn accept(&mut self) {
        let Some(acceptor) = &mut self.acceptor else { return };
        for accepted in acceptor.accept(self.instant) {
            if matches!(accepted.policy.transport, Transport::Plain) {
                self.on_accepted(accepted);
                continue;
            }
            self.next_shard = (self.next_shard + 1) % self.peers.len();
            if self.next_shard == usize::from(self.id.0) {
                self.on_accepted(accepted);
            } else {
                self.outgoing[self.next_shard].push(Event::Accepted(Box::new(accepted)));
            }
        }
    }

    pub(super) fn on_accepted(&mut self, accepted: Accepted) {
        let Accepted { stream, peer, policy, opened, pending, sequence, displaces, over_limit, inside } = accepted;
        if self.ending.is_some() {
            return opened.metrics().refused(Reason::Shutdown);
        }
        let room = self.pending.len() < self.max_pending || self.displace(sequence, |_| true);
        if !room
            || displaces && !self.displace(sequence, |handshake| handshake.policy.endpoint.id == policy.endpoint.id)
        {
            return opened.metrics().refused(Reason::PendingLimit);
        }
        let layers = match &policy.transport {
            Transport::Plain => None,
            Transport::Tls(tls) => match Layers::new_tls(&tls.config) {
                Ok(layers) => Some(Box::new(layers)),
                Err(error) => {
                    tracing::error!(endpoint = %policy.endpoint.name, %error, "a TLS connection cannot begin");
                    return opened.metrics().refused(Reason::Tls);
                }
            },
        };
        let stage = if policy.proxy_protocol.is_some() { Stage::Proxy } else { Stage::after_proxy(&policy) };
        let deadline = self.now + u64::from(policy.handshake.time_ms);
        let generation = policy.endpoint.generation;
        let handshake = Box::new(Handshake {
            stage,
            over_limit,
            inside,
            policy,
            _pending: pending,
            position: self.pending.len(),
            deadline,
            tls_bytes: 0,
            input: Vec::new(),
            out: Unsent::default(),
            certificate: None,
            assigned_id: None,
            connect: Vec::new(),
        });
        let key = self.table.insert(Connection {
            stream,
            state: State::Pending(handshake),
            layers,
            partial: None,
            enhanced: None,
            opened,
            peer,
            sequence,
            generation,
            registered: false,
            watches_writable: false,
            blocked: false,
            paused: false,
            unread: true,
            read_bytes: super::receive::FIRST_READ_BYTES,
            deferred: false,
            is_deferred: false,
            hung_up: false,
            closing: false,
        });
        self.pending.push(key);
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
        // Often the CONNECT is there already; where its home is another shard, this one's poll need not see the socket.
        if self.peers.len() > 1 {
            self.on_handshake_readable(key);
        }
        self.register(key);
    }

    /// Puts a connection into the poll, which tells of what came before, too.
    pub(super) fn register(&mut self, key: Key) {
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.registered {
            return;
        }
        let registry = self.poll.registry();
        let mut result = connection.stream.register(registry, key.token());
        if result.is_ok() && connection.watches_writable {
            result = connection.stream.watch_writable(registry, key.token());
        }
        connection.registered = result.is_ok();
        if let Err(error) = result {
            tracing::error!(shard = self.id.0, %error, "a connection could not be polled");
            self.end_whatever(key);
        }
    }

    /// Closes one of the pending connections that `may_go`: any one, for those that linger there on purpose are most.
    fn displace(&mut self, seed: u64, may_go: impl Fn(&Handshake) -> bool) -> bool {
        let count = self.pending.len();
        // Fibonacci hashing spreads consecutive numbers.
        let start = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
        let found = (0..count).map(|step| self.pending[(start + step) % count]).find(|key| {
            let state = self.table.get(*key).map(|connection| &connection.state);
            matches!(state, Some(State::Pending(handshake)) if may_go(handshake))
        });
        if let Some(key) = found {
            self.refuse(key, Reason::PendingLimit, &[]);
        }
        found.is_some()
    }
}
