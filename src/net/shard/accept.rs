//! New connections from the acceptor.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::pki_types::CertificateDer;

use super::handshake::Handshake;
use super::table::{Connection, ConnectionKey, ConnectionState};
use super::{SWEEP_MS, Shard, ShardEvent};
use crate::net::acceptor::claim_pending_source;
use crate::net::layers::Layers;
use crate::net::policy::{ListenerPolicy, Transport};
use crate::net::stats::{CloseReason, ConnectionGuard, PendingGuard};
use crate::net::stream::Stream;
use crate::source_address::SourceAddress;
use weir_broker::Millis;

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
    /// Its source is at the endpoint's limit of pending connections per source: one of them is closed for this one.
    pub(in crate::net) over_source_limit: bool,
    /// The endpoint is at its connection limit: this connection gets a CONNACK with the reason.
    pub(in crate::net) over_limit: bool,
    /// It comes from this process (a bridge).
    pub(in crate::net) internal: bool,
    /// Those of a client whose connection another node relays.
    pub(in crate::net) certificates: Vec<CertificateDer<'static>>,
}

/// Pending connections that are compared to find one of the source that has the most.
const SAMPLED_MAX: usize = 16;
/// Pending connections that are looked at to find candidates.
const SEARCHED_MAX: usize = 256;
/// How long a connection has been pending before a newer one of its source displaces it, milliseconds.
const DISPLACED_AFTER_MS: Millis = 1_000;
/// 2^64 divided by the golden ratio.
const FIBONACCI_64: u64 = 0x9E37_79B9_7F4A_7C15;

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

    pub(super) fn on_accepted(&mut self, mut accepted: AcceptedConnection) {
        if self.shutdown.is_some() {
            return accepted.guard.metrics().count_refused(CloseReason::Shutdown);
        }
        let AcceptedConnection { policy, peer, pending, sequence, over_source_limit, .. } = &mut accepted;
        if *over_source_limit
            && !(self.displace_of_source(policy, *peer, *sequence) && claim_pending_source(pending, policy, *peer))
        {
            return accepted.guard.metrics().count_refused(CloseReason::PendingAddressLimit);
        }
        if !self.make_room(&accepted) {
            return accepted.guard.metrics().count_refused(CloseReason::PendingLimit);
        }
        let AcceptedConnection {
            stream,
            peer,
            policy,
            guard,
            pending,
            sequence,
            over_limit,
            internal,
            certificates,
            ..
        } = accepted;
        let relayed =
            (!certificates.is_empty()).then(|| Box::new(Layers { relayed: certificates, ..Layers::default() }));
        let layers = match &policy.transport {
            Transport::Plain => relayed,
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
        let mut handshake = Box::new(Handshake::new(policy, pending, self.pending.len(), self.now, deadline));
        (handshake.over_limit, handshake.internal) = (over_limit, internal);
        let state = ConnectionState::Pending(handshake);
        let key = self.table.insert(Connection::new(stream, state, layers, guard, peer, sequence, generation));
        self.pending.push(key);
        self.shared.pending.fetch_add(1, Ordering::Relaxed);
        self.next_sweep = self.next_sweep.min(self.now + SWEEP_MS);
        // The CONNECT has often arrived already; if its home is another shard, the socket never enters this shard's
        // poll.
        if self.peers.len() > 1 {
            self.on_handshake_readable(key);
        }
        self.register(key);
    }

    /// Closes pending connections where the node or the endpoint is at its limit of them; `false`: there is no room.
    fn make_room(&mut self, accepted: &AcceptedConnection) -> bool {
        let (pending, sequence) = (&accepted.pending, accepted.sequence);
        let endpoint = accepted.policy.endpoint.id;
        let full = !accepted.internal && self.shared.pending.load(Ordering::Relaxed) >= self.max_pending;
        (!full || self.evict_pending(sequence, pending, |_| true))
            && (!accepted.evicts_pending
                || self.evict_pending(sequence, pending, |handshake| handshake.policy.endpoint.id == endpoint))
    }

    /// Closes a pending connection of a source that is at its limit. The connection must have had its time: otherwise a
    /// burst of clients behind one address would displace each other in the midst of their handshakes. `false`: there is
    /// none.
    pub(super) fn displace_of_source(&mut self, policy: &ListenerPolicy, peer: Option<SocketAddr>, seed: u64) -> bool {
        let Some(peer) = peer else { return true };
        let (source, endpoint, now) = (SourceAddress::new(peer.ip()), policy.endpoint.id, self.now);
        let is_old = |handshake: &Handshake| {
            handshake.pending.source() == Some(source)
                && handshake.policy.endpoint.id == endpoint
                && handshake.accepted_at + DISPLACED_AFTER_MS <= now
        };
        let found = self.sample_pending(seed, is_old).next().map(|(_, key)| key);
        if let Some(key) = found {
            self.refuse(key, CloseReason::PendingAddressLimit, &[]);
        }
        found.is_some()
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

    /// Closes a pending connection that `is_candidate`, to make room for `newcomer`: of some that are chosen at random,
    /// one of the source that has the most. `false`: there is none, or the newcomer's source has the most.
    fn evict_pending(&mut self, seed: u64, newcomer: &PendingGuard, is_candidate: impl Fn(&Handshake) -> bool) -> bool {
        let sample = self.sample_pending(seed, is_candidate).take(SAMPLED_MAX);
        let found = sample.max_by_key(|(handshake, _)| handshake.pending.pending_of_source());
        let Some((handshake, key)) = found else { return false };
        if handshake.pending.pending_of_source() < newcomer.pending_of_source() {
            return false;
        }
        self.refuse(key, CloseReason::PendingLimit, &[]);
        true
    }

    /// Pending connections that are candidates, in a pseudo-random order.
    fn sample_pending(
        &self,
        seed: u64,
        is_candidate: impl Fn(&Handshake) -> bool,
    ) -> impl Iterator<Item = (&Handshake, ConnectionKey)> {
        let count = self.pending.len();
        (0..count.min(SEARCHED_MAX) as u64).filter_map(move |step| {
            // Fibonacci hashing spreads consecutive numbers.
            let hash = (seed.wrapping_mul(FIBONACCI_64) >> 32).wrapping_add(step.wrapping_mul(FIBONACCI_64) >> 32);
            let key = *self.pending.get(hash as usize % count)?;
            match &self.table.get(key)?.state {
                ConnectionState::Pending(handshake) if is_candidate(handshake) => Some((&**handshake, key)),
                _ => None,
            }
        })
    }
}
