//! New connections from the acceptor.

use std::net::SocketAddr;
use std::sync::Arc;

use super::handshake::Handshake;
use super::table::{Connection, ConnectionKey, ConnectionState};
use super::{SWEEP_MS, Shard, ShardEvent};
use crate::net::layers::Layers;
use crate::net::policy::{ListenerPolicy, Transport};
use crate::net::stats::{CloseReason, ConnectionGuard, PendingGuard};
use crate::net::stream::Stream;

/// A newly accepted connection.
pub(in crate::net) struct AcceptedConnection {
    pub(in crate::net) stream: Stream,
    pub(in crate::net) peer: Option<SocketAddr>,
    pub(in crate::net) policy: Arc<ListenerPolicy>,
    pub(in crate::net) guard: ConnectionGuard,
    pub(in crate::net) pending: PendingGuard,
    pub(in crate::net) sequence: u64,
    /// The endpoint is at its limit of pending connections: one of them is closed for this one.
    pub(in crate::net) evicts_pending: bool,
    /// The endpoint is at its connection limit: this connection gets a CONNACK with the reason.
    pub(in crate::net) over_limit: bool,
    /// It comes from this process (a bridge).
    pub(in crate::net) internal: bool,
}

impl Shard {
    /// Accepts waiting connections. TLS handshakes are distributed over the shards in turn; a plain connection is
    /// decoded here, and goes to its home shard directly.
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
                self.outgoing[self.next_shard].push(ShardEvent::Accepted(Box::new(accepted)));
            }
        }
    }

    pub(super) fn on_accepted(&mut self, accepted: AcceptedConnection) {
        if self.shutdown.is_some() {
            return accepted.guard.metrics().count_refused(CloseReason::Shutdown);
        }
        if !self.make_room(&accepted) {
            return accepted.guard.metrics().count_refused(CloseReason::PendingLimit);
        }
        let AcceptedConnection { stream, peer, policy, guard, pending, sequence, over_limit, internal, .. } = accepted;
        let layers = match &policy.transport {
            Transport::Plain => None,
            Transport::Tls(tls) => match Layers::new_tls(&tls.config) {
                Ok(layers) => Some(Box::new(layers)),
                Err(error) => {
                    tracing::error!(endpoint = %policy.endpoint.name, %error, "TLS setup failed");
                    return guard.metrics().count_refused(CloseReason::Tls);
                }
            },
        };
        let generation = policy.endpoint.generation;
        let deadline = self.now + u64::from(policy.handshake.time_ms);
        let mut handshake = Box::new(Handshake::new(policy, pending, self.pending.len(), deadline));
        (handshake.over_limit, handshake.internal) = (over_limit, internal);
        let state = ConnectionState::Pending(handshake);
        let key = self.table.insert(Connection::new(stream, state, layers, guard, peer, sequence, generation));
        self.pending.push(key);
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
        // The CONNECT has often arrived already; if its home is another shard, the socket never enters this shard's
        // poll.
        if self.peers.len() > 1 {
            self.on_handshake_readable(key);
        }
        self.register(key);
    }

    /// Closes pending connections where the shard or the endpoint is at its limit of them; `false`: there is no room.
    fn make_room(&mut self, accepted: &AcceptedConnection) -> bool {
        let (sequence, endpoint) = (accepted.sequence, accepted.policy.endpoint.id);
        (self.pending.len() < self.max_pending || self.evict_pending(sequence, |_| true))
            && (!accepted.evicts_pending
                || self.evict_pending(sequence, |handshake| handshake.policy.endpoint.id == endpoint))
    }

    /// Registers a connection in the poll, which also reports bytes that arrived before.
    pub(super) fn register(&mut self, key: ConnectionKey) {
        // The handshake may have ended with its first bytes.
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
            tracing::error!(shard = self.id.0, %error, "connection registration failed: closing it");
            self.abort_connection(key);
        }
    }

    /// Closes a random pending connection that `is_candidate`, to make room: idle ones are the majority in an attack.
    fn evict_pending(&mut self, seed: u64, is_candidate: impl Fn(&Handshake) -> bool) -> bool {
        let count = self.pending.len();
        // Fibonacci hashing spreads consecutive numbers.
        let start = (seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize;
        let found = (0..count).map(|step| self.pending[(start + step) % count]).find(|key| {
            let state = self.table.get(*key).map(|connection| &connection.state);
            matches!(state, Some(ConnectionState::Pending(handshake)) if is_candidate(handshake))
        });
        if let Some(key) = found {
            self.refuse(key, CloseReason::PendingLimit, &[]);
        }
        found.is_some()
    }
}
