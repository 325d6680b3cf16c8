//! A shard: one thread, one epoll loop, one broker core.
//!
//! - `table`: the connections; `accept`, `handshake`, `tls_handshake`, `admit`: from accept to admission; `receive`, `partial`, `send`:
//!   reading and writing admitted connections; `reauthenticate`: their AUTH; `close`: closing them; `control`, `drain`: requests of
//!   the control plane; `trace`: tracing of clients; `start`: the start with the stored state.
//! - The shard owns its connections and its core; other threads reach it only through its mailbox.

mod accept;
mod admit;
mod auth_work;
mod close;
mod control;
mod drain;
mod drive;
mod events;
mod handshake;
mod partial;
mod random;
mod reauthenticate;
mod receive;
mod send;
mod start;
mod table;
mod tls_handshake;
mod trace;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32};
use std::time::{Duration, Instant};
use std::{io, thread};

use mio::{Events, Poll, Token};

pub(super) use self::accept::AcceptedConnection;
pub(super) use self::admit::{HandOver, refusal_packet};
pub(super) use self::control::Control;
pub(super) use self::start::start;
pub(super) use self::table::ConnectionKey;
pub(super) use self::tls_handshake::TlsStepResult;

use self::drain::{ActiveDrain, Shutdown};
use self::partial::PartialBytes;
use self::random::ClientIds;
use self::table::{ConnectionState, Table};
use super::acceptor::{Acceptor, Command};
use super::auth_tasks::AuthTasks;
use super::delivery_latency::{DeliveryLatency, ONE_TURN_IN};
use super::drain::PastDrains;
use super::gateway_port::GatewayPort;
use super::mailbox::Mailbox;
use super::policy::ListenerPolicy;
use super::relay::RelayHandle;
use super::stats::AllEndpointMetrics;
use super::tls_handshakes::TlsHandshakes;
use super::trace::ClientTracer;
use super::wake_timer::WakeTimer;
use super::workers::Workers;
use crate::auth::Decision;
use crate::events::EventHub;
use crate::log_value::log_value;
use weir_broker::{
    Batch, ConnId, Core, EndpointCounters, EndpointId, Millis, OfflineSessions, RecordSink, RefusedWill,
    RetainedTotals, Scope, ShardId, Site, StoreAck, StoredRecords, TotalRates, drive,
};

/// Events from other threads.
pub(super) enum ShardEvent {
    /// A command to the acceptor, which runs in the first shard.
    Listeners(Command),
    /// A new connection from the acceptor.
    Accepted(Box<AcceptedConnection>),
    /// A client that another shard authenticated, and whose home is this shard.
    HandOver(Box<HandOver>),
    /// The decision of a worker or an authentication task.
    AuthDecision {
        key: ConnectionKey,
        decision: Decision,
    },
    /// A step of a TLS handshake that another thread has done.
    TlsStep(Box<TlsStepResult>),
    /// Link messages from another shard's core.
    Batch {
        from: ShardId,
        batch: Batch,
    },
    Control(Control),
    /// An acknowledgement of the store.
    StoreAck(StoreAck),
}

const WAKER: Token = Token(usize::MAX);
const WAKE_TIMER: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1024;
/// Maximum of bytes per read.
const READ_BYTES: usize = 64 << 10;
/// Size of the shared read buffer: the beginning of a packet, and one read.
const BUFFER_BYTES: usize = READ_BYTES + receive::PARTIAL_MAX_BYTES;
/// Bytes received since the last flush, above which connections are flushed before more is read.
const EARLY_FLUSH_BYTES: usize = 256 << 10;
/// Interval of the check for expired deadlines of handshakes and closing connections, milliseconds.
const SWEEP_MS: Millis = 100;
/// Maximum of work (packets and deliveries) per turn for messages of other shards; while the bulk queue is written to,
/// less.
const LINK_WORK_PER_TURN: usize = 16_384;
const LINK_WORK_WITH_BULK: usize = 1024;
/// CPU time per turn for reading deferred connections, and for writing to the bulk queue: no other event waits longer
/// than both. Smaller reads would cost throughput, since fan-out is cheaper the more bytes each write has.
const DEFERRED_READ_SLICE: Duration = Duration::from_millis(4);
const BULK_SLICE: Duration = Duration::from_millis(2);
/// Interval at which counters are published to the control plane, milliseconds.
const PUBLISH_MS: Millis = 250;

/// A store: the sink of new records, and the state read at the start.
pub struct DurableStore {
    pub sink: Arc<dyn RecordSink>,
    pub stored: StoredRecords,
}

/// State that all shards share.
pub(super) struct ShardContext {
    pub(super) epoch: Instant,
    pub(super) delivery_latency: Arc<DeliveryLatency>,
    pub(super) endpoint_metrics: Arc<AllEndpointMetrics>,
    pub(super) workers: Workers,
    pub(super) auth_tasks: AuthTasks,
    pub(super) tls_handshakes: TlsHandshakes,
    /// Pending connections of all shards.
    pub(super) pending: AtomicU32,
    pub(super) offline_sessions: OfflineSessions,
    pub(super) total_rates: TotalRates,
    pub(super) retained: RetainedTotals,
    pub(super) events: Arc<EventHub>,
    /// Whether CONNECT is accepted.
    pub(super) accepts_clients: Arc<AtomicBool>,
    /// The way to sessions that other nodes of a cluster have.
    pub(super) relay: Option<RelayHandle>,
}

struct Shard {
    id: ShardId,
    shared: Arc<ShardContext>,
    core: Core,
    sink: Option<Arc<dyn RecordSink>>,
    poll: Poll,
    wake_timer: WakeTimer,
    /// `Some` in the first shard.
    acceptor: Option<Acceptor>,
    /// The shard that gets the next TLS handshake.
    next_shard: usize,
    mailbox: Arc<Mailbox<ShardEvent>>,
    /// The mailboxes of all shards, this one included.
    peers: Vec<Arc<Mailbox<ShardEvent>>>,
    /// The way to the gateway of a cluster, which is one shard more.
    gateway: Option<Arc<dyn GatewayPort>>,
    /// Events for the other shards, sent once per turn.
    outgoing: Vec<Vec<ShardEvent>>,
    table: Table,
    buffer: Vec<u8>,
    /// Scratch buffer for decoded bytes of the layers.
    plain: Vec<u8>,
    /// Start of the turn, by the system's clock and by the core's.
    instant: Instant,
    now: Millis,
    turns: u32,
    /// Connections with unread bytes for which no further event comes.
    ready: Vec<ConnectionKey>,
    /// Deferred connections (whose packets cause much work), in the order in which they are read, and the end of this
    /// turn's slice for them.
    deferred: VecDeque<ConnectionKey>,
    deferred_until: Option<Duration>,
    /// Connections of the bulk queue to write to before deferred connections are read again.
    bulk_ahead: usize,
    /// The outputs of the core that are handled now, and the end of this turn's slice for the bulk queue.
    scope: Scope,
    bulk_until: Option<Duration>,
    bulk_flushes: usize,
    /// Connections before admission, and closing ones with their deadlines.
    pending: Vec<ConnectionKey>,
    closing: Vec<(ConnectionKey, Millis)>,
    max_pending: u32,
    /// Bytes of large incomplete packets, and their maximum.
    partial_bytes: PartialBytes,
    partial_max_bytes: usize,
    next_sweep: Millis,
    unflushed_bytes: usize,
    client_ids: ClientIds,
    /// The latest policy that was applied to open connections.
    policies: HashMap<EndpointId, Arc<ListenerPolicy>>,
    /// Drains that still apply to connections accepted before them.
    past_drains: PastDrains,
    drains: Vec<ActiveDrain>,
    shutdown: Option<Shutdown>,
    /// Active traces, usually none.
    tracers: Vec<ClientTracer>,
    published: HashMap<EndpointId, EndpointCounters>,
    next_publish: Millis,
    stopped: bool,
}

/// CPU time of this thread: on a busy machine less than wall-clock time, so a slice always has the same amount of work.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

impl Shard {
    fn send_to_gateway(&mut self, batch: Batch) {
        match &self.gateway {
            Some(gateway) => gateway.deliver(self.id, batch),
            None => self.core.count_internal_error(Site::ShardOfBatch),
        }
    }

    /// One turn of the event loop: waits for events, handles them, and sends the results, at most once per socket and
    /// shard.
    fn turn(&mut self, events: &mut Events) {
        let done = self.ready.is_empty() && self.deferred.is_empty() && !self.core.has_pending();
        let timeout = if done && self.mailbox.may_sleep() { self.sleep_time() } else { Some(Duration::ZERO) };
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(shard = self.id.0, %error, "event loop poll failed");
            thread::sleep(Duration::from_millis(10));
        }
        self.mailbox.awake();
        self.instant = Instant::now();
        let begun = self.instant - self.shared.epoch;
        self.now = Millis::try_from(begun.as_millis()).unwrap_or(Millis::MAX);
        self.turns = self.turns.wrapping_add(1);
        let sent_before = self.turns.is_multiple_of(ONE_TURN_IN).then(|| self.messages_sent());
        if self.next_publish == Millis::MAX {
            self.next_publish = self.now + PUBLISH_MS;
        }
        let has_bulk = self.core.bulk_flush_len() > 0;
        self.core.begin_turn(if has_bulk { LINK_WORK_WITH_BULK } else { LINK_WORK_PER_TURN }, self.now);
        self.handle_mail();
        for key in std::mem::take(&mut self.ready) {
            self.on_readable(key);
        }
        for event in &*events {
            if !matches!(event.token(), WAKER | WAKE_TIMER) {
                self.on_event(event);
            }
        }
        self.accept();
        if self.core.next_deadline().is_some_and(|at| at <= self.now) {
            self.core.tick(self.now);
        }
        self.read_deferred();
        self.run_drains();
        self.finish_turn();
        if sent_before.is_some_and(|before| self.messages_sent() > before) {
            self.shared.delivery_latency.observe(self.shared.epoch.elapsed().saturating_sub(begun));
        }
        if self.next_sweep <= self.now {
            self.sweep();
        }
        if self.next_publish <= self.now {
            self.publish_counters();
        }
        self.check_shutdown();
        self.publish_events();
    }

    fn messages_sent(&self) -> u64 {
        self.core.counters().map(|(_, counters)| counters.messages_sent).sum()
    }

    fn sleep_time(&mut self) -> Option<Duration> {
        let shutdown = self.shutdown.as_ref().map_or(Millis::MAX, |shutdown| shutdown.deadline);
        let own = self.next_sweep.min(self.next_publish).min(self.next_drain()).min(shutdown);
        let at = self.core.next_deadline().map_or(own, |at| at.min(own));
        if let Some(due) = self.acceptor.as_ref().and_then(|acceptor| acceptor.next_deadline(self.instant)) {
            let accept = due.saturating_duration_since(self.instant);
            return Some(self.wake_timer.sleep_until(at, self.now).map_or(accept, |timer| timer.min(accept)));
        }
        self.wake_timer.sleep_until(at, self.now)
    }

    fn handle_mail(&mut self) {
        let mut mail = Vec::new();
        self.mailbox.take_all(&mut mail);
        for event in mail {
            match event {
                ShardEvent::Listeners(command) => {
                    if let Some(acceptor) = &mut self.acceptor {
                        acceptor.on_command(command);
                    }
                }
                ShardEvent::Accepted(accepted) => self.on_accepted(*accepted),
                ShardEvent::HandOver(hand_over) => self.on_hand_over(*hand_over),
                ShardEvent::AuthDecision { key, decision } => self.on_auth_decision(key, decision),
                ShardEvent::TlsStep(result) => self.on_tls_step(*result),
                ShardEvent::Batch { from, batch } => self.core.deliver_batch(from, batch, self.now),
                ShardEvent::Control(control) => self.on_control(control),
                ShardEvent::StoreAck(ack) => self.core.on_store_ack(ack, self.now),
            }
        }
    }

    fn on_event(&mut self, event: &mio::event::Event) {
        if Acceptor::is_listener(event.token()) {
            if let Some(acceptor) = &mut self.acceptor {
                acceptor.mark_ready(event.token());
            }
            return;
        }
        let key = ConnectionKey::from_token(event.token());
        let Some(connection) = self.table.get_mut(key) else { return };
        if event.is_error() || event.is_write_closed() && event.is_read_closed() {
            // Writes fail from now on, and bytes that the peer sent before a reset are lost too.
            connection.paused = false;
        }
        connection.hung_up |= event.is_read_closed() || event.is_error();
        if event.is_writable() && connection.blocked {
            connection.blocked = false;
            match connection.state {
                ConnectionState::Open(id) => self.core.schedule_bulk_flush(id),
                _ => self.flush_connection(key),
            }
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.on_readable(key);
        }
    }

    /// Handles the outputs of the core at the end of a turn.
    fn finish_turn(&mut self) {
        self.scope = Scope::All;
        self.begin_bulk();
        drive(self);
        self.send_outgoing();
        self.log_refused_wills();
    }

    fn log_refused_wills(&mut self) {
        for RefusedWill { endpoint, client_id, topic, why } in self.core.take_refused_wills() {
            let (client_id, topic) = (log_value(&client_id), log_value(&topic));
            tracing::info!(%endpoint, client_id = &*client_id, topic = &*topic, ?why, "will refused: client not authorized to publish it");
        }
    }

    fn send_outgoing(&mut self) {
        for (peer, events) in self.peers.iter().zip(&mut self.outgoing) {
            if !events.is_empty() {
                peer.send_all(events.drain(..));
            }
        }
    }

    fn resume_connection(&mut self, id: ConnId) {
        let Some(key) = self.table.key_of(id) else { return };
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.paused = false;
        if connection.unread || connection.feeds_again {
            self.ready.push(key);
        }
    }

    /// Publishes the counters that changed.
    fn publish_counters(&mut self) {
        self.next_publish = Millis::MAX;
        for (endpoint, counters) in self.core.counters() {
            if self.published.get(&endpoint) != Some(counters) {
                self.published.insert(endpoint, counters.clone());
                if let Some(metrics) = self.shared.endpoint_metrics.get(endpoint) {
                    metrics.publish(self.id.0, counters);
                }
            }
        }
    }
}
