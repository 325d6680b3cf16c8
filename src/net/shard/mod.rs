//! A shard: one thread, one epoll loop, one broker core.
//!
//! - `table`: the connections; `arrive`, `handshake`, `admit`: from accept to admission; `receive`, `send`: bytes of
//!   admitted ones; `reauthenticate`: their AUTH; `close`: how they end; `control`, `drain`: what the control plane asks;
//!   `trace`: who looks on.

mod accept;
mod admit;
mod close;
mod control;
mod drain;
mod drive;
mod handshake;
mod random;
mod reauthenticate;
mod receive;
mod send;
mod table;
mod trace;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{io, thread};

use mio::{Events, Poll, Token, Waker};

pub(super) use self::accept::Accepted;
pub(super) use self::admit::HandOver;
pub(super) use self::control::Control;
pub(super) use self::table::Key;

use self::drain::{ActiveDrain, Ending, PastDrain};
use self::random::ClientIds;
use self::table::{State, Table};
use super::acceptor::{Acceptor, AcceptorConfig, Command};
use super::auth_tasks::AuthTasks;
use super::delivery_latency::{DeliveryLatency, ONE_TURN_IN};
use super::mailbox::{CloseOnEnd, Mailbox};
use super::plane::DataPlaneConfig;
use super::policy::ListenerPolicy;
use super::stats::AllEndpointMetrics;
use super::trace::Tracer;
use super::wake_timer::WakeTimer;
use super::workers::Workers;
use crate::auth::Decision;
use weir_broker::{
    Batch, ConnId, Core, CoreConfig, EndpointCounters, EndpointId, Millis, OfflineSessions, Output, RecordSink,
    Recording, RefusedWill, Restored, Scope, ShardId, StoreAck, Stored, TotalRates, drive,
};

/// What a shard is told by others.
pub(super) enum Event {
    /// For the acceptor, which is the first shard's.
    Listeners(Command),
    /// The acceptor has a connection for it.
    Accepted(Box<Accepted>),
    /// Another shard has admitted a client whose home is here.
    HandOver(Box<HandOver>),
    /// A worker has decided.
    Decided {
        key: Key,
        decision: Decision,
    },
    /// Another shard's core has work for this one's.
    Batch {
        from: ShardId,
        batch: Batch,
    },
    Control(Control),
    /// The store has come further.
    StoreAck(StoreAck),
}

const WAKER: Token = Token(usize::MAX);
const WAKE_TIMER: Token = Token(usize::MAX - 1);
const EVENTS: usize = 1024;
/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;
/// The shared read buffer: a read, and before it the beginning of a packet.
const BUFFER_BYTES: usize = READ_BYTES + receive::HELD_MAX_BYTES;
/// Bytes received since the last flush after which the connections are flushed before more is read.
const EARLY_FLUSH_BYTES: usize = 256 << 10;
/// How often deadlines of handshakes and of closing connections are looked at.
const SWEEP_MS: Millis = 100;
/// Work (packets and deliveries) that what other shards send may come to in one turn; while the crowd is written to, less.
const LINK_WORK_PER_TURN: usize = 16_384;
const LINK_WORK_WITH_BULK: usize = 1024;
/// How long a turn reads from connections that make much work, and how long it writes to the crowd, in time of this
/// thread's own: whatever else happens waits no longer than for both. Reading less at once would cost throughput: what
/// goes to many is cheaper the more of it each write takes.
const DEFERRED_READ_SLICE: Duration = Duration::from_millis(4);
const BULK_SLICE: Duration = Duration::from_millis(2);
/// How often counters are shown to the control plane.
const PUBLISH_MS: Millis = 250;

/// Where durable state goes, and what of it is there already.
pub struct DurableStore {
    pub sink: Arc<dyn RecordSink>,
    pub stored: Stored,
}

/// What all shards share.
pub(super) struct Shared {
    pub(super) epoch: Instant,
    pub(super) delivery_latency: Arc<DeliveryLatency>,
    pub(super) endpoint_metrics: Arc<AllEndpointMetrics>,
    pub(super) workers: Workers,
    pub(super) auth_tasks: AuthTasks,
    pub(super) away: OfflineSessions,
    pub(super) total_rates: TotalRates,
}

struct Shard {
    id: ShardId,
    shared: Arc<Shared>,
    core: Core,
    sink: Option<Arc<dyn RecordSink>>,
    poll: Poll,
    wake_timer: WakeTimer,
    /// The first shard's.
    acceptor: Option<Acceptor>,
    /// The shard that has the next connection's TLS handshake.
    next_shard: usize,
    mailbox: Arc<Mailbox<Event>>,
    /// Every shard's mailbox, this one's too.
    peers: Vec<Arc<Mailbox<Event>>>,
    /// Mail for them, sent once per turn.
    outgoing: Vec<Vec<Event>>,
    table: Table,
    buffer: Vec<u8>,
    /// What layers make of the buffer.
    plain: Vec<u8>,
    /// When the turn began, by the system's clock and by the core's.
    instant: Instant,
    now: Millis,
    turns: u32,
    /// Connections with bytes that no event will tell of again.
    ready: Vec<Key>,
    /// Those that make much work, in the order in which they are read; and until when this turn reads them.
    deferred: VecDeque<Key>,
    deferred_until: Option<Duration>,
    /// How many of the crowd have to be written to before anything more is read for it.
    bulk_ahead: usize,
    /// Which outputs of the core are carried out now; and until when those of the bulk queue are, in this turn.
    scope: Scope,
    bulk_until: Option<Duration>,
    bulk_flushes: usize,
    /// Connections before admission, and those on their way out.
    pending: Vec<Key>,
    closing: Vec<(Key, Millis)>,
    max_pending: usize,
    next_sweep: Millis,
    unflushed_bytes: usize,
    client_ids: ClientIds,
    /// The newest policy that was put in force for open connections.
    policies: HashMap<EndpointId, Arc<ListenerPolicy>>,
    /// What holds for those who were accepted before a drain, and are not admitted yet.
    past_drains: Vec<PastDrain>,
    drains: Vec<ActiveDrain>,
    ending: Option<Ending>,
    /// Who looks over a client's shoulder: nobody, as a rule.
    tracers: Vec<Tracer>,
    published: HashMap<EndpointId, EndpointCounters>,
    next_publish: Millis,
    stopped: bool,
}

/// How long this thread has run: on a machine that is busy otherwise, less than a clock says, and what a slice of time is
/// good for stays the same.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or_default(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Starts the threads; with a store, what it holds is in place before.
pub(super) fn start(
    config: &DataPlaneConfig,
    shared: &Arc<Shared>,
    acceptor: AcceptorConfig,
    durable_store: Option<(DurableStore, u64)>,
) -> io::Result<Vec<Arc<Mailbox<Event>>>> {
    let polls: Vec<Poll> = (0..config.shards.max(1)).map(|_| Poll::new()).collect::<io::Result<_>>()?;
    let peers: Vec<Arc<Mailbox<Event>>> = polls
        .iter()
        .map(|poll| Ok(Arc::new(Mailbox::new(Waker::new(poll.registry(), WAKER)?))))
        .collect::<io::Result<_>>()?;
    let mut acceptor_config = Some(acceptor);
    let mut shards = Vec::new();
    for (poll, id) in polls.into_iter().zip(0..) {
        let wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER)?;
        let registry = poll.registry().try_clone()?;
        let acceptor = acceptor_config.take().map(|config| Acceptor::new(config, registry));
        shards.push(Shard::new(ShardId(id), config, Arc::clone(shared), poll, wake_timer, acceptor, peers.clone())?);
    }
    if let Some((durable_store, epoch_unix_ms)) = durable_store {
        let mailboxes = peers.clone();
        durable_store.sink.on_ack(Box::new(move |shard, kept| match kept {
            StoreAck::UpTo(_) => {
                if let Some(mailbox) = mailboxes.get(usize::from(shard.0)) {
                    mailbox.send(Event::StoreAck(kept));
                }
            }
            // A shard without records of its own may wait for those of others.
            StoreAck::Full(_) => mailboxes.iter().for_each(|mailbox| mailbox.send(Event::StoreAck(kept))),
        }));
        restore(&mut shards, &durable_store, epoch_unix_ms)?;
    }
    for mut shard in shards {
        thread::Builder::new().name(format!("weir-shard-{}", shard.id.0)).spawn(move || {
            let _closes = CloseOnEnd(Arc::clone(&shard.mailbox));
            let mut events = Events::with_capacity(EVENTS);
            while !shard.stopped {
                shard.turn(&mut events);
            }
        })?;
    }
    Ok(peers)
}

/// Gives every core its part of what is stored, and each what it must know of the others.
fn restore(shards: &mut [Shard], durable_store: &DurableStore, epoch_unix_ms: u64) -> io::Result<()> {
    let mut restored = Restored::default();
    let recording = Recording { next_id: durable_store.stored.next_id(), epoch_unix_ms };
    let backlog_bytes = durable_store.sink.backlog_bytes() / shards.len() as u64;
    for shard in &mut *shards {
        shard.sink = Some(Arc::clone(&durable_store.sink));
        shard.core.start_recording(recording);
        shard.core.bound_records(backlog_bytes);
        let part = shard.core.restore(&durable_store.stored, 0);
        restored.add(part.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
    }
    let mut quiet = false;
    while !std::mem::replace(&mut quiet, true) {
        for from in 0..shards.len() {
            let id = shards[from].id;
            while let Some(output) = shards[from].core.poll(Scope::All) {
                quiet = false;
                match output {
                    Output::Batch(to, batch) => shards[usize::from(to.0)].core.deliver_batch(id, batch, 0),
                    Output::Records(records) => durable_store.sink.append(id, records),
                    // There is no connection yet.
                    _ => {}
                }
            }
        }
    }
    let Restored { sessions, subscriptions, deliveries, retained } = restored;
    tracing::info!(sessions, subscriptions, messages = deliveries, retained, "durable state is back");
    Ok(())
}

impl Shard {
    fn new(
        id: ShardId,
        config: &DataPlaneConfig,
        shared: Arc<Shared>,
        poll: Poll,
        wake_timer: WakeTimer,
        acceptor: Option<Acceptor>,
        peers: Vec<Arc<Mailbox<Event>>>,
    ) -> io::Result<Self> {
        let mut core = Core::new(CoreConfig {
            shard: id,
            shards: peers.len() as u16,
            hash_seed: crate::random::number().map_err(io::Error::other)?,
        });
        core.bound_queues(config.queued_max_bytes / peers.len());
        core.share_counts(shared.away.clone(), shared.total_rates.clone());
        let instant = shared.epoch;
        Ok(Self {
            wake_timer,
            id,
            shared,
            core,
            sink: None,
            poll,
            acceptor,
            next_shard: 0,
            mailbox: Arc::clone(&peers[usize::from(id.0)]),
            outgoing: peers.iter().map(|_| Vec::new()).collect(),
            peers,
            table: Table::default(),
            buffer: vec![0; BUFFER_BYTES],
            plain: Vec::new(),
            instant,
            now: 0,
            turns: 0,
            ready: Vec::new(),
            deferred: VecDeque::new(),
            deferred_until: None,
            bulk_ahead: 0,
            scope: Scope::All,
            bulk_until: None,
            bulk_flushes: 0,
            pending: Vec::new(),
            closing: Vec::new(),
            max_pending: config.max_pending_connections as usize,
            next_sweep: Millis::MAX,
            unflushed_bytes: 0,
            client_ids: ClientIds::default(),
            policies: HashMap::new(),
            past_drains: Vec::new(),
            drains: Vec::new(),
            ending: None,
            tracers: Vec::new(),
            published: HashMap::new(),
            next_publish: Millis::MAX,
            stopped: false,
        })
    }

    /// One round: waits for something to happen, lets it happen, and sends what came of it, each socket and each other
    /// shard at most once.
    fn turn(&mut self, events: &mut Events) {
        let done = self.ready.is_empty() && self.deferred.is_empty() && !self.core.has_pending();
        let timeout = if done && self.mailbox.may_sleep() { self.sleep_time() } else { Some(Duration::ZERO) };
        if let Err(error) = self.poll.poll(events, timeout)
            && error.kind() != io::ErrorKind::Interrupted
        {
            tracing::error!(shard = self.id.0, %error, "a shard cannot poll");
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
        self.take_mail();
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
        self.read_heavy();
        self.run_drains();
        self.settle();
        if sent_before.is_some_and(|before| self.messages_sent() > before) {
            self.shared.delivery_latency.observe(self.shared.epoch.elapsed().saturating_sub(begun));
        }
        if self.next_sweep <= self.now {
            self.sweep();
        }
        if self.next_publish <= self.now {
            self.publish();
        }
        self.check_ending();
    }

    fn messages_sent(&self) -> u64 {
        self.core.counters().map(|(_, counters)| counters.messages_sent).sum()
    }

    fn sleep_time(&mut self) -> Option<Duration> {
        let ending = self.ending.as_ref().map_or(Millis::MAX, |ending| ending.deadline);
        let own = self.next_sweep.min(self.next_publish).min(self.next_drain()).min(ending);
        let at = self.core.next_deadline().map_or(own, |at| at.min(own));
        if let Some(due) = self.acceptor.as_ref().and_then(|acceptor| acceptor.due(self.instant)) {
            let accept = due.saturating_duration_since(self.instant);
            return Some(self.wake_timer.sleep_until(at, self.now).map_or(accept, |timer| timer.min(accept)));
        }
        self.wake_timer.sleep_until(at, self.now)
    }

    fn take_mail(&mut self) {
        let mut mail = Vec::new();
        self.mailbox.take(&mut mail);
        for event in mail {
            match event {
                Event::Listeners(command) => {
                    if let Some(acceptor) = &mut self.acceptor {
                        acceptor.on_command(command);
                    }
                }
                Event::Accepted(accepted) => self.on_accepted(*accepted),
                Event::HandOver(hand_over) => self.on_hand_over(*hand_over),
                Event::Decided { key, decision } => self.on_decided(key, decision),
                Event::Batch { from, batch } => self.core.deliver_batch(from, batch, self.now),
                Event::Control(control) => self.on_control(control),
                Event::StoreAck(kept) => self.core.on_store_ack(kept, self.now),
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
        let key = Key::of(event.token());
        let Some(connection) = self.table.get_mut(key) else { return };
        if event.is_error() || event.is_write_closed() && event.is_read_closed() {
            // Nothing can be written any more, and what the peer sent before a reset is gone, too.
            connection.paused = false;
        }
        connection.hung_up |= event.is_read_closed() || event.is_error();
        if event.is_writable() && connection.blocked {
            connection.blocked = false;
            match connection.state {
                State::Open(id) => self.core.schedule_bulk_flush(id),
                _ => self.flush_connection(key),
            }
        }
        if event.is_readable() || event.is_read_closed() || event.is_error() {
            self.on_readable(key);
        }
    }

    /// Carries out what the core asks for at the end of a turn.
    fn settle(&mut self) {
        self.scope = Scope::All;
        self.begin_bulk();
        drive(self);
        self.send_outgoing();
        self.log_refused_wills();
    }

    fn log_refused_wills(&mut self) {
        for RefusedWill { endpoint, client_id, topic, why } in self.core.take_refused_wills() {
            tracing::info!(%endpoint, %client_id, %topic, ?why, "will refused: its client may not publish it any more");
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
        if connection.unread {
            self.ready.push(key);
        }
    }

    /// Shows the counters that moved.
    fn publish(&mut self) {
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
