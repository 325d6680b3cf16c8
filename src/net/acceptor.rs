//! The acceptor: owns every listening socket, so that limits are exact and a change of policy is atomic.
//!
//! It lives in the first shard's loop. A thread of its own would cost a context switch and a wake per connection.

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
use super::shard::Accepted;
use super::socket::{ListeningSocket, SocketKey, SocketPool};
use super::stats::{AllEndpointMetrics, ConnectionGuard, EndpointMetrics, Reason};
use super::stream::Stream;

/// What the acceptor is told.
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

/// Tokens of listeners have this bit, those of connections do not.
const LISTENER_BIT: usize = 1 << 63;
/// Connections accepted from one listener before the next one has its turn.
const ACCEPT_BURST: usize = 64;
/// Pending connections of an endpoint above which one too many is closed without a word.
const VISITORS_MAX: u32 = 256;
/// How long a socket that gave way to another finishes handshakes: SYN-ACKs that were lost are sent again after 1 s, and
/// once more 2 s later.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(3);
/// How long nothing is accepted after the process or the system ran out of file descriptors or memory.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);

/// What the acceptor works with.
pub(super) struct AcceptorConfig {
    pub(super) pool: Arc<SocketPool>,
    pub(super) endpoint_metrics: Arc<AllEndpointMetrics>,
    /// Number of the last accepted connection.
    pub(super) sequence: Arc<AtomicU64>,
    /// Open connections of the node.
    pub(super) max_connections: u32,
}

struct Listener {
    key: SocketKey,
    socket: Arc<ListeningSocket>,
    policy: Arc<ListenerPolicy>,
    metrics: Arc<EndpointMetrics>,
    rate: Option<AcceptRate>,
    /// Above the accept rate: nothing is accepted before.
    resume_at: Option<Instant>,
}

/// A listener that another one has taken over from, and whose handshakes under way are finished.
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
    /// Listeners in whose queues connections may wait.
    ready: Vec<Token>,
    next_token: usize,
    exhausted_until: Option<Instant>,
    /// Connections that were accepted and not yet taken.
    accepted: Vec<Accepted>,
}

/// Why accepting from a listener stopped.
enum Accepting {
    /// Its queue is empty.
    Drained,
    /// Others have their turn.
    Burst,
    /// Until then: the rate.
    Delayed(Instant),
    /// No file descriptors, or no memory.
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

    /// Whether an event is a listener's.
    pub(super) fn is_listener(token: Token) -> bool {
        token.0 & LISTENER_BIT != 0
    }

    /// Connections wait in a listener's queue.
    pub(super) fn mark_ready(&mut self, token: Token) {
        if !self.ready.contains(&token) {
            self.ready.push(token);
        }
    }

    /// When there is something to accept or to close, as far as is known; `None`: an event will tell.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let due = self.ready.iter().map(|token| self.listeners.get(token).and_then(|listener| listener.resume_at));
        // A ready listener that is not delayed is due now.
        let listener = due.map(|at| at.unwrap_or(now)).min();
        let listener = listener.map(|at| self.exhausted_until.map_or(at, |until| until.max(at)));
        let left = self.draining.iter().map(|draining| draining.until).min();
        listener.into_iter().chain(left).min()
    }

    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Install { changes, reply } => {
                // Who asked may have gone; the change holds all the same.
                let _ = reply.send(self.install(changes));
            }
            Command::Stop { reply } => {
                for (_, listener) in self.listeners.drain() {
                    self.config.pool.remove(&listener.key, &listener.socket);
                }
                for draining in self.draining.drain(..) {
                    self.config.pool.forget_draining(&draining.listener.socket);
                }
                self.by_key.clear();
                let _ = reply.send(());
            }
        }
    }

    /// Accepts what waits and may come in.
    pub(super) fn accept(&mut self, now: Instant) -> Vec<Accepted> {
        if !self.ready.is_empty() {
            self.accept_ready(now);
        }
        if !self.draining.is_empty() {
            self.close_left(now);
        }
        std::mem::take(&mut self.accepted)
    }

    /// All or nothing: what can fail comes first.
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
        self.offer_child_options(&changes)?;
        let first_token = self.next_token;
        for (index, change) in changes.iter().enumerate() {
            let ListenerChange::Add { socket, .. } = change else { continue };
            let fd = socket.socket.socket.as_raw_fd();
            let token = Token(self.next_token);
            if let Err(error) = self.registry.register(&mut SourceFd(&fd), token, Interest::READABLE) {
                // The sockets registered so far leave the poll when they are dropped with `changes`.
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
                    removed.extend(self.take_out(&socket.key));
                    self.add(Token(token), socket.key, socket.socket, policy);
                    token += 1;
                }
                ListenerChange::SetPolicy { key, policy } => self.set_policy(&key, policy),
                ListenerChange::Remove { key } => removed.extend(self.take_out(&key)),
            }
        }
        for (token, listener) in removed {
            self.release_listener(token, listener);
        }
        self.close_left(Instant::now());
        Ok(())
    }

    /// Sets new child options on live listeners. Where one fails, the ones before it get their old ones back.
    fn offer_child_options(&self, changes: &[ListenerChange]) -> Result<(), PlaneError> {
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
                        tracing::error!(listener = %listener.key, %error, "its socket options could not be put back");
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
        let metrics = self.config.endpoint_metrics.of(policy.endpoint.id);
        let rate = policy.max_connections_per_s.map(|per_s| AcceptRate::new(per_s, Instant::now()));
        self.listeners.insert(token, Listener { key, socket, policy, metrics, rate, resume_at: None });
        // Clients may wait since the bind.
        self.ready.push(token);
    }

    fn set_policy(&mut self, key: &SocketKey, policy: Arc<ListenerPolicy>) {
        let Some(listener) = self.by_key.get(key).and_then(|token| self.listeners.get_mut(token)) else { return };
        let per_s = policy.max_connections_per_s;
        if listener.rate.as_ref().map(AcceptRate::per_s) != per_s {
            listener.rate = per_s.map(|per_s| AcceptRate::new(per_s, Instant::now()));
            listener.resume_at = None;
        }
        listener.metrics = self.config.endpoint_metrics.of(policy.endpoint.id);
        listener.policy = policy;
    }

    fn take_out(&mut self, key: &SocketKey) -> Option<(Token, Listener)> {
        let token = self.by_key.remove(key)?;
        let listener = self.listeners.remove(&token)?;
        self.config.pool.remove(key, &listener.socket);
        self.ready.retain(|ready| *ready != token);
        Some((token, listener))
    }

    /// Serves who waits in a removed listener's queue, then closes it; where another listener takes over from it, only
    /// once the handshakes under way have had their time.
    fn release_listener(&mut self, token: Token, mut listener: Listener) {
        // Who waits in the queue came while the listener was there: the rate delays nobody any more.
        listener.rate = None;
        if self.successor(&listener.key).is_some() {
            match listener.socket.yield_port() {
                Ok(()) => {
                    self.empty_queue(&mut listener);
                    self.config.pool.note_leaving(&listener.key, &listener.socket);
                    self.draining.push(DrainingListener { token, listener, until: Instant::now() + HANDSHAKE_GRACE });
                    return;
                }
                Err(error) => {
                    tracing::warn!(
                        listener = %listener.key, %error, "it cannot give way: connections that begin just now may be reset"
                    );
                }
            }
        }
        self.close(listener);
    }

    fn empty_queue(&mut self, listener: &mut Listener) {
        while matches!(self.accept_from(listener, Instant::now()), Accepting::Burst) {}
    }

    fn close(&mut self, mut listener: Listener) {
        self.empty_queue(&mut listener);
        let fd = listener.socket.socket.as_raw_fd();
        if let Err(error) = self.registry.deregister(&mut SourceFd(&fd)) {
            tracing::error!(listener = %listener.key, %error, "a listening socket could not leave the poll");
        }
    }

    /// Who takes over from a listener that is removed: who has its address, or one that covers it or lies within.
    fn successor(&self, key: &SocketKey) -> Option<&Listener> {
        let same = self.by_key.get(key).and_then(|token| self.listeners.get(token));
        same.or_else(|| self.listeners.values().find(|listener| listener.key.overlaps(key)))
    }

    /// Closes what has had its time, and what nobody takes over from any longer.
    fn close_left(&mut self, now: Instant) {
        let mut at = 0;
        while let Some(draining) = self.draining.get(at) {
            if draining.until > now && self.successor(&draining.listener.key).is_some() {
                at += 1;
                continue;
            }
            let mut draining = self.draining.swap_remove(at);
            self.ready.retain(|ready| *ready != draining.token);
            self.inherit(&mut draining.listener);
            self.config.pool.forget_draining(&draining.listener.socket);
            self.close(draining.listener);
        }
    }

    /// Has a draining listener accept as its successor would.
    fn inherit(&self, listener: &mut Listener) {
        let Some(successor) = self.successor(&listener.key) else { return };
        let (policy, metrics) = (Arc::clone(&successor.policy), Arc::clone(&successor.metrics));
        if policy.child != listener.policy.child
            && let Err(error) = listener.socket.set_child_options(&policy.child)
        {
            tracing::error!(listener = %listener.key, %error, "who comes late keeps its former socket options");
        }
        (listener.policy, listener.metrics) = (policy, metrics);
    }

    fn accept_draining(&mut self, token: Token, now: Instant) {
        let Some(at) = self.draining.iter().position(|draining| draining.token == token) else { return };
        let mut draining = self.draining.swap_remove(at);
        self.inherit(&mut draining.listener);
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
            // Out of the map while connections are accepted, so that all else may be borrowed.
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
                        tracing::error!(listener = %listener.key, %error, "cannot accept; trying again shortly");
                        listener.metrics.refused(Reason::NodeLimit);
                        return Accepting::Exhausted;
                    }
                    _ if error.kind() == io::ErrorKind::WouldBlock => return Accepting::Drained,
                    // The connection died in the queue, or a signal came: the next one may be sound.
                    _ => continue,
                },
            };
            if wait.is_some() {
                listener.metrics.refused(Reason::AcceptRate);
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
            return metrics.refused(Reason::NodeLimit);
        }
        let over_limit = policy.max_connections.is_some_and(|max| metrics.connections() >= max);
        // One too many is told so after its CONNECT, where that costs little and there are not many of them.
        let plain = matches!(policy.transport, Transport::Plain);
        if over_limit && (!plain || metrics.pending() >= VISITORS_MAX) {
            return metrics.refused(Reason::ConnectionLimit);
        }
        let displaces = policy.max_pending_connections.is_some_and(|max| metrics.pending() >= max);
        let (mut opened, pending) = if over_limit { metrics.visit() } else { metrics.open() };
        // Behind a proxy the client's address is known later.
        if policy.proxy_protocol.is_none() && !claim_address(&mut opened, policy, peer) {
            return metrics.refused(Reason::AddressLimit);
        }
        let sequence = self.config.sequence.fetch_add(1, Ordering::AcqRel) + 1;
        let policy = Arc::clone(policy);
        self.accepted.push(Accepted {
            stream,
            peer,
            policy,
            opened,
            pending,
            sequence,
            displaces,
            over_limit,
            inside: false,
        });
    }
}

/// Counts a connection to its client's address, where the endpoint bounds that; false: too many.
pub(super) fn claim_address(opened: &mut ConnectionGuard, policy: &ListenerPolicy, peer: Option<SocketAddr>) -> bool {
    match (policy.max_connections_per_address, peer) {
        (Some(max), Some(peer)) => opened.claim_address(peer.ip().to_canonical(), max),
        _ => true,
    }
}

fn set_child_options(socket: &ListeningSocket, policy: &ListenerPolicy, index: usize) -> Result<(), PlaneError> {
    socket.set_child_options(&policy.child).map_err(|error| PlaneError::Install { index, error: error.to_string() })
}
