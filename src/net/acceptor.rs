//! The acceptor owns every listening socket, so limits are exact and a policy change is atomic.
//!
//! It runs in the event loop of the first shard. A thread of its own would cost a context switch and a wake-up per
//! connection.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use tokio::sync::oneshot;

use super::accept_rate::AcceptRate;
use super::plane::{ListenerChange, PlaneError};
use super::policy::{AcceptOverflow, ListenerPolicy, Transport};
use super::shard::AcceptedConnection;
use super::socket::{ListeningSocket, SocketKey, SocketPool};
use super::stats::{AllEndpointMetrics, CloseReason, ConnectionGuard, EndpointMetrics, PendingGuard};
use super::stream::Stream;
use crate::source_address::SourceAddress;

/// Commands to the acceptor.
pub(super) enum Command {
    Install {
        changes: Vec<ListenerChange>,
        reply: oneshot::Sender<Result<(), PlaneError>>,
    },
    /// Closes every listening socket.
    Stop {
        reply: oneshot::Sender<()>,
    },
}

/// This bit is set in the tokens of listeners, and clear in those of connections.
const LISTENER_BIT: usize = 1 << 63;
/// Connections accepted from one listener before the next listener is served.
const ACCEPT_BURST: usize = 64;
/// Above this number of pending connections, an endpoint at its connection limit closes a new connection without a
/// CONNACK.
const OVER_LIMIT_PENDING_MAX: u32 = 256;
/// How long a draining listener completes TCP handshakes: lost SYN-ACKs are retransmitted after 1 s, and again 2 s
/// later.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(3);
/// How long accepting pauses after the process or the system ran out of file descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// Configuration of the acceptor.
pub(super) struct AcceptorConfig {
    pub(super) pool: Arc<SocketPool>,
    pub(super) endpoint_metrics: Arc<AllEndpointMetrics>,
    /// Sequence number of the last accepted connection.
    pub(super) sequence: Arc<AtomicU64>,
    /// Maximum of open connections of the node.
    pub(super) max_connections: u32,
}

struct Listener {
    key: SocketKey,
    socket: Arc<ListeningSocket>,
    policy: Arc<ListenerPolicy>,
    metrics: Arc<EndpointMetrics>,
    rate: Option<AcceptRate>,
    /// While the accept rate is exceeded: when accepting resumes.
    resume_at: Option<Instant>,
}

/// A removed listener whose address another listener now serves, and which completes its pending TCP handshakes.
struct DrainingListener {
    token: Token,
    listener: Listener,
    until: Instant,
}

pub(super) struct Acceptor {
    config: AcceptorConfig,
    registry: Registry,
    listeners: HashMap<Token, Listener>,
    by_key: HashMap<SocketKey, Token>,
    draining: Vec<DrainingListener>,
    /// Listeners whose accept queues may hold connections.
    ready: Vec<Token>,
    next_token: usize,
    exhausted_until: Option<Instant>,
    /// Accepted connections that the shard has not collected yet.
    accepted: Vec<AcceptedConnection>,
}

/// Why accepting from a listener stopped.
enum Accepting {
    /// Its queue is empty.
    Drained,
    /// The burst limit was reached; other listeners are served first.
    Burst,
    /// The accept rate is exceeded until then.
    Delayed(Instant),
    /// The process or the system has no file descriptors or no memory left.
    Exhausted,
}

impl Acceptor {
    pub(super) fn new(config: AcceptorConfig, registry: Registry) -> Self {
        Self {
            config,
            registry,
            listeners: HashMap::new(),
            by_key: HashMap::new(),
            draining: Vec::new(),
            ready: Vec::new(),
            next_token: LISTENER_BIT,
            exhausted_until: None,
            accepted: Vec::new(),
        }
    }

    /// Whether a token belongs to a listener.
    pub(super) fn is_listener(token: Token) -> bool {
        token.0 & LISTENER_BIT != 0
    }

    /// A listener's accept queue has become readable.
    pub(super) fn mark_ready(&mut self, token: Token) {
        if !self.ready.contains(&token) {
            self.ready.push(token);
        }
    }

    /// When the acceptor next has to accept or to close; `None`: not before the next event.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let deadlines =
            self.ready.iter().map(|token| self.listeners.get(token).and_then(|listener| listener.resume_at));
        // A ready listener that is not delayed is due now.
        let listener = deadlines.map(|at| at.unwrap_or(now)).min();
        let listener = listener.map(|at| self.exhausted_until.map_or(at, |until| until.max(at)));
        let left = self.draining.iter().map(|draining| draining.until).min();
        listener.into_iter().chain(left).min()
    }

    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Install { changes, reply } => {
                // The caller may have dropped the receiver; the change is applied all the same.
                let _ = reply.send(self.install(changes));
            }
            Command::Stop { reply } => {
                for (_, listener) in self.listeners.drain() {
                    self.config.pool.remove(&listener.key, &listener.socket);
                }
                for draining in self.draining.drain(..) {
                    self.config.pool.remove_draining(&draining.listener.socket);
                }
                self.by_key.clear();
                let _ = reply.send(());
            }
        }
    }

    /// Accepts the connections that wait, within limits and rates, and closes drained listeners.
    pub(super) fn accept(&mut self, now: Instant) -> Vec<AcceptedConnection> {
        if !self.ready.is_empty() {
            self.accept_ready(now);
        }
        if !self.draining.is_empty() {
            self.close_drained(now);
        }
        std::mem::take(&mut self.accepted)
    }

    /// Applies all changes or none: every step that can fail runs first.
    fn install(&mut self, changes: Vec<ListenerChange>) -> Result<(), PlaneError> {
        let mut keys: Vec<&SocketKey> = self.by_key.keys().collect();
        for (index, change) in changes.iter().enumerate() {
            match change {
                ListenerChange::Add { socket, policy } => {
                    keys.push(&socket.key);
                    set_child_options(&socket.socket, policy, index)?;
                }
                ListenerChange::SetPolicy { key, .. } | ListenerChange::Remove { key } if !keys.contains(&key) => {
                    return Err(PlaneError::NoSuchListener { index });
                }
                ListenerChange::SetPolicy { .. } | ListenerChange::Remove { .. } => {}
            }
        }
        self.update_child_options(&changes)?;
        let first_token = self.next_token;
        for (index, change) in changes.iter().enumerate() {
            let ListenerChange::Add { socket, .. } = change else { continue };
            let fd = socket.socket.socket.as_raw_fd();
            let token = Token(self.next_token);
            if let Err(error) = self.registry.register(&mut SourceFd(&fd), token, Interest::READABLE) {
                // Dropping `changes` closes the sockets registered so far, which removes them from the poll.
                self.next_token = first_token;
                return Err(PlaneError::Install { index, error: error.to_string() });
            }
            self.next_token += 1;
        }
        let mut token = first_token;
        let mut removed = Vec::new();
        for change in changes {
            match change {
                ListenerChange::Add { socket, policy } => {
                    removed.extend(self.detach(&socket.key));
                    self.add(Token(token), socket.key, socket.socket, policy);
                    token += 1;
                }
                ListenerChange::SetPolicy { key, policy } => self.set_policy(&key, policy),
                ListenerChange::Remove { key } => removed.extend(self.detach(&key)),
            }
        }
        for (token, listener) in removed {
            self.release_listener(token, listener);
        }
        self.close_drained(Instant::now());
        Ok(())
    }

    /// Sets new child options on live listeners. On an error, the listeners changed before get their previous options
    /// back.
    fn update_child_options(&self, changes: &[ListenerChange]) -> Result<(), PlaneError> {
        let mut set: Vec<&Listener> = Vec::new();
        for (index, change) in changes.iter().enumerate() {
            let ListenerChange::SetPolicy { key, policy } = change else { continue };
            let Some(listener) = self.by_key.get(key).and_then(|token| self.listeners.get(token)) else { continue };
            if listener.policy.child == policy.child {
                continue;
            }
            set.push(listener);
            if let Err(error) = set_child_options(&listener.socket, policy, index) {
                for listener in set {
                    if let Err(error) = listener.socket.set_child_options(&listener.policy.child) {
                        tracing::error!(listener = %listener.key, %error, "listener socket options not restored");
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    fn add(&mut self, token: Token, key: SocketKey, socket: Arc<ListeningSocket>, policy: Arc<ListenerPolicy>) {
        self.config.pool.insert(key.clone(), Arc::clone(&socket));
        self.by_key.insert(key.clone(), token);
        let metrics = self.config.endpoint_metrics.get_or_create(policy.endpoint.id);
        let rate = policy.max_connections_per_s.map(|per_s| AcceptRate::new(per_s, Instant::now()));
        self.listeners.insert(token, Listener { key, socket, policy, metrics, rate, resume_at: None });
        // Clients may have connected since the bind.
        self.ready.push(token);
    }

    fn set_policy(&mut self, key: &SocketKey, policy: Arc<ListenerPolicy>) {
        let Some(listener) = self.by_key.get(key).and_then(|token| self.listeners.get_mut(token)) else { return };
        let per_s = policy.max_connections_per_s;
        if listener.rate.as_ref().map(AcceptRate::per_s) != per_s {
            listener.rate = per_s.map(|per_s| AcceptRate::new(per_s, Instant::now()));
            listener.resume_at = None;
        }
        listener.metrics = self.config.endpoint_metrics.get_or_create(policy.endpoint.id);
        listener.policy = policy;
    }

    fn detach(&mut self, key: &SocketKey) -> Option<(Token, Listener)> {
        let token = self.by_key.remove(key)?;
        let listener = self.listeners.remove(&token)?;
        self.config.pool.remove(key, &listener.socket);
        self.ready.retain(|ready| *ready != token);
        Some((token, listener))
    }

    /// Accepts the connections in a removed listener's queue, then closes the listener. If another listener takes over
    /// its address, it stays open until pending TCP handshakes had their time.
    fn release_listener(&mut self, token: Token, mut listener: Listener) {
        // The connections in the queue arrived while the listener existed: the accept rate delays them no longer.
        listener.rate = None;
        if self.successor(&listener.key).is_some() {
            match listener.socket.yield_port() {
                Ok(()) => {
                    self.drain_accept_queue(&mut listener);
                    self.config.pool.add_draining(&listener.key, &listener.socket);
                    self.draining.push(DrainingListener { token, listener, until: Instant::now() + HANDSHAKE_GRACE });
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        listener = %listener.key, %error,
                        "listener cannot be drained: connections in their TCP handshake may be reset"
                    );
                }
            }
        }
        self.close(listener);
    }

    fn drain_accept_queue(&mut self, listener: &mut Listener) {
        while matches!(self.accept_from(listener, Instant::now()), Accepting::Burst) {}
    }

    fn close(&mut self, mut listener: Listener) {
        self.drain_accept_queue(&mut listener);
        let fd = listener.socket.socket.as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            tracing::error!(listener = %listener.key, %error, "listener deregistration failed");
        }
    }

    /// The listener that takes over from a removed one: the one with the same address, or one whose address overlaps.
    fn successor(&self, key: &SocketKey) -> Option<&Listener> {
        let same = self.by_key.get(key).and_then(|token| self.listeners.get(token));
        same.or_else(|| self.listeners.values().find(|listener| listener.key.overlaps(key)))
    }

    /// Closes draining listeners whose time is over, or that have no successor any more.
    fn close_drained(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(draining) = self.draining.get(at) {
            if draining.until > now && self.successor(&draining.listener.key).is_some() {
                at += 1;
                continue;
            }
            let mut draining = self.draining.swap_remove(at);
            self.ready.retain(|ready| *ready != draining.token);
            self.adopt_successor_policy(&mut draining.listener);
            self.config.pool.remove_draining(&draining.listener.socket);
            self.close(draining.listener);
        }
    }

    /// Gives a draining listener the policy of its successor.
    fn adopt_successor_policy(&self, listener: &mut Listener) {
        let Some(successor) = self.successor(&listener.key) else { return };
        let (policy, metrics) = (Arc::clone(&successor.policy), Arc::clone(&successor.metrics));
        if policy.child != listener.policy.child
            && let Err(error) = listener.socket.set_child_options(&policy.child)
        {
            tracing::error!(listener = %listener.key, %error, "listener socket options not changed: connections accepted from its queue keep the previous ones");
        }
        (listener.policy, listener.metrics) = (policy, metrics);
    }

    fn accept_draining(&mut self, token: Token, now: Instant) {
        let Some(at) = self.draining.iter().position(|draining| draining.token == token) else { return };
        let mut draining = self.draining.swap_remove(at);
        self.adopt_successor_policy(&mut draining.listener);
        if !matches!(self.accept_from(&mut draining.listener, now), Accepting::Drained) {
            self.ready.push(token);
        }
        self.draining.push(draining);
    }

    fn accept_ready(&mut self, now: Instant) {
        if self.exhausted_until.is_some_and(|until| until > now) {
            return;
        }
        self.exhausted_until = None;
        for token in std::mem::take(&mut self.ready) {
            // The listener is taken out of the map so that the rest of the acceptor can be borrowed.
            let Some(mut listener) = self.listeners.remove(&token) else {
                self.accept_draining(token, now);
                continue;
            };
            let accepting = match listener.resume_at {
                Some(at) if at > now => Accepting::Delayed(at),
                _ => self.accept_from(&mut listener, now),
            };
            listener.resume_at = match accepting {
                Accepting::Delayed(at) => Some(at),
                _ => None,
            };
            if !matches!(accepting, Accepting::Drained) {
                self.ready.push(token);
            }
            if matches!(accepting, Accepting::Exhausted) {
                self.exhausted_until = Some(now + EXHAUSTED_PAUSE);
            }
            self.listeners.insert(token, listener);
        }
    }

    fn accept_from(&mut self, listener: &mut Listener, now: Instant) -> Accepting {
        for _ in 0..ACCEPT_BURST {
            let wait = listener.rate.as_mut().and_then(|rate| rate.wait(now));
            if let Some(wait) = wait
                && listener.policy.accept_overflow == AcceptOverflow::Delay
            {
                return Accepting::Delayed(now + wait);
            }
            let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            let (socket, address) = match listener.socket.socket.accept4(flags) {
                Ok(accepted) => accepted,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                        tracing::error!(listener = %listener.key, %error, "accept failed: out of file descriptors or memory; retrying shortly");
                        listener.metrics.count_refused(CloseReason::NodeLimit);
                        return Accepting::Exhausted;
                    }
                    _ if error.kind() == io::ErrorKind::WouldBlock => return Accepting::Drained,
                    // The peer reset the connection in the queue, or a signal interrupted the call: try the next one.
                    _ => continue,
                },
            };
            if wait.is_some() {
                listener.metrics.count_refused(CloseReason::AcceptRate);
                continue;
            }
            if let Some(rate) = &mut listener.rate {
                rate.spend();
            }
            let unix = matches!(listener.key, SocketKey::Unix(_));
            self.on_accepted(listener, Stream::new(socket, unix), address.as_socket());
        }
        Accepting::Burst
    }

    fn on_accepted(&mut self, listener: &Listener, stream: Stream, peer: Option<SocketAddr>) {
        let (policy, metrics) = (&listener.policy, &listener.metrics);
        if self.config.endpoint_metrics.node_connections() >= self.config.max_connections {
            return metrics.count_refused(CloseReason::NodeLimit);
        }
        let over_limit = policy.max_connections.is_some_and(|max| metrics.connections() >= max);
        // A connection above the limit gets a CONNACK with the reason, if it is plain TCP and few such connections are
        // pending.
        let plain = matches!(policy.transport, Transport::Plain);
        if over_limit && (!plain || metrics.pending() >= OVER_LIMIT_PENDING_MAX) {
            return metrics.count_refused(CloseReason::ConnectionLimit);
        }
        let evicts_pending = policy.max_pending_connections.is_some_and(|max| metrics.pending() >= max);
        let (mut guard, mut pending) = if over_limit { metrics.open_over_limit() } else { metrics.open() };
        let mut over_source_limit = false;
        // With PROXY protocol the client's address is known later.
        if policy.proxy_protocol.is_none() {
            if !claim_address(&mut guard, policy, peer) {
                return metrics.count_refused(CloseReason::AddressLimit);
            }
            over_source_limit = !claim_pending_source(&mut pending, policy, peer);
        }
        let sequence = self.config.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        let policy = Arc::clone(policy);
        self.accepted.push(AcceptedConnection {
            stream,
            peer,
            policy,
            guard,
            pending,
            sequence,
            evicts_pending,
            over_source_limit,
            over_limit,
            internal: false,
            certificates: Vec::new(),
        });
    }
}

/// Counts a connection against the limit of its client's address, if the endpoint has one; `false`: the limit is
/// reached.
pub(super) fn claim_address(guard: &mut ConnectionGuard, policy: &ListenerPolicy, peer: Option<SocketAddr>) -> bool {
    match (policy.max_connections_per_address, peer) {
        (Some(max), Some(peer)) => guard.claim_address(peer.ip().to_canonical(), max),
        _ => true,
    }
}

/// Counts a pending connection against the limit of its source; `false`: the limit is reached.
pub(super) fn claim_pending_source(
    pending: &mut PendingGuard,
    policy: &ListenerPolicy,
    peer: Option<SocketAddr>,
) -> bool {
    let max = policy.max_pending_per_address.unwrap_or(u32::MAX);
    peer.is_none_or(|peer| pending.claim_source(SourceAddress::new(peer.ip()), max))
}

fn set_child_options(socket: &ListeningSocket, policy: &ListenerPolicy, index: usize) -> Result<(), PlaneError> {
    socket.set_child_options(&policy.child).map_err(|error| PlaneError::Install { index, error: error.to_string() })
}
