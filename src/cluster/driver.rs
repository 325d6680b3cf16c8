//! The thread that drives a node of a cluster: it feeds it what the engine and the shards report, and carries out what it asks
//! for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::watch;

use super::appends::Appends;
use super::engine::{ConnectionChange, Engine, EngineConnection, EngineCounts, EngineEvent, EngineEvents, SendError};
use super::inbox::{Inbox, Received};
use super::purges::Purges;
use super::report::Reporter;
use super::sessions::Sessions;
use super::settings::{Role, Settings, SettingsView};
use crate::net::DataPlane;
use weir_broker::{Millis, ShardId};
use weir_cluster::Incarnation;
use weir_cluster::node::{ClusterNode, LogMessage, NodeStatus};
use weir_cluster::wire::Load;

/// How often what operators see is published, at most.
const PUBLISH_EVERY_MS: Millis = 500;
/// Engine events that are taken in one turn.
const EVENTS_PER_TURN: usize = 512;
/// Bytes of an envelope at most. Smaller ones than the server allows share its connection better.
const ENVELOPE_BYTES: usize = 256 << 10;
/// Bytes of the headers of an entry of the log, which count in what the server allows.
const HEADERS_BYTES: usize = 1 << 10;
/// How long a node that leaves waits at the end for its peers and the engine.
const END_WITHIN: Duration = Duration::from_secs(1);
/// How long the thread sleeps at most.
const SLEEP_MAX: Duration = Duration::from_millis(250);

/// The nats-server of each connection; `None`: it is not connected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EngineServers {
    pub links: Option<String>,
    pub streams: Option<String>,
}

/// What operators see of a cluster.
#[derive(Debug, Clone, Default)]
pub struct ClusterView {
    /// `None`: nothing is known yet.
    pub node: Option<NodeStatus>,
    /// What the connection to the engine has done.
    pub engine: EngineCounts,
    /// What it is connected to.
    pub servers: EngineServers,
    /// The node has told the others that it leaves.
    pub has_left: bool,
    /// This node leaves, and its sessions are on their way to other nodes.
    pub gives_slots: bool,
    /// What the document `cluster` makes of this node.
    pub settings: SettingsView,
    /// The slots with which the cluster was founded; `None`: not known.
    pub founded_slots: Option<u16>,
}

impl ClusterView {
    /// Whether clients may be served.
    pub fn is_ready(&self) -> bool {
        self.settings.role == Role::Member && self.node.as_ref().is_some_and(|node| node.is_ready)
    }
}

/// The time of the server that stamps the entries of the log. Another stream may have another server, with another clock.
#[derive(Debug, Default)]
struct LogClock {
    /// The last sequence of the log when the time was read.
    head: u64,
    server_time_ms: u64,
    at: Millis,
}

impl LogClock {
    /// How long ago an entry was stored. One that was stored later than the time was read has no age.
    fn age(&self, sequence: u64, stored_at_ms: u64, now: Millis) -> u64 {
        if sequence > self.head {
            return 0;
        }
        (self.server_time_ms + now.saturating_sub(self.at)).saturating_sub(stored_at_ms)
    }
}

pub(super) struct Driver {
    pub(super) node: ClusterNode,
    pub(super) engine: Engine,
    events: EngineEvents,
    pub(super) plane: DataPlane,
    shards: u16,
    publish: watch::Sender<ClusterView>,
    pub(super) reporter: Reporter,
    pub(super) settings: Settings,
    servers: EngineServers,
    epoch: Instant,
    pub(super) now: Millis,
    next_publish: Millis,
    appends: Appends,
    /// The question for the head of the log that was asked last.
    log_head_asked: u64,
    log_clock: LogClock,
    log_entry_max: usize,
    heartbeats: HashMap<u64, Millis>,
    /// The token of the last heartbeat, and of the last one before this node began to leave.
    last_heartbeat: u64,
    last_before_leaving: u64,
    /// An envelope that the engine's client had no room for.
    unsent: Option<(Incarnation, Bytes)>,
    envelope: Vec<u8>,
    purges: Purges,
    pub(super) sessions: Sessions,
    accepts_clients: bool,
    pub(super) leaving: bool,
    pub(super) has_left: bool,
    /// When the node ends at the latest, and whether its last heartbeat is sent.
    end_by: Option<Instant>,
    is_gone: bool,
}

impl Driver {
    pub(super) fn new(
        node: ClusterNode,
        engine: Engine,
        events: EngineEvents,
        plane: DataPlane,
        shards: u16,
        publish: watch::Sender<ClusterView>,
        (settings, sessions): (Settings, Sessions),
    ) -> Self {
        Self {
            node,
            engine,
            events,
            shards,
            publish,
            reporter: Reporter::default(),
            settings,
            servers: EngineServers::default(),
            epoch: plane.epoch(),
            plane,
            now: 0,
            next_publish: 0,
            appends: Appends::default(),
            log_head_asked: 0,
            log_clock: LogClock::default(),
            log_entry_max: 0,
            heartbeats: HashMap::new(),
            last_heartbeat: 0,
            last_before_leaving: 0,
            unsent: None,
            envelope: Vec::new(),
            purges: Purges::default(),
            sessions,
            accepts_clients: false,
            leaving: false,
            has_left: false,
            end_by: None,
            is_gone: false,
        }
    }

    /// Runs until it is stopped.
    pub(super) fn run(&mut self, inbox: &Inbox) {
        let (mut more, mut is_stopped) = (false, false);
        loop {
            let within = if more { Duration::ZERO } else { self.sleep() };
            let Received { batches, relays, leave, stop, spec, report } = inbox.receive(within);
            is_stopped |= stop;
            self.now = Millis::try_from(self.epoch.elapsed().as_millis()).unwrap_or(Millis::MAX);
            if leave && !self.leaving {
                self.leaving = true;
                self.last_before_leaving = self.last_heartbeat;
                self.plane.set_accepts_clients(false);
                self.node.leave(self.now);
                self.has_left |= !self.settings.is_member();
            }
            if let Some(spec) = spec {
                self.apply_spec(spec);
            }
            if let Some(report) = report {
                self.node.members_mut().set_report(report);
            }
            batches.into_iter().for_each(|(from, batch)| self.node.accept_batch(from, batch));
            self.send_relays(relays);
            more = self.take_engine_events();
            more |= self.node.run(self.now);
            self.appends.retry(&self.engine, self.now);
            self.carry_out();
            self.run_settings();
            self.publish();
            if is_stopped && self.may_end() {
                return;
            }
        }
    }

    /// Whether nothing more is to be done at the end. A node that leaves waits until its peers and the log have what its
    /// clients sent, and tells the others that it is gone, so that they do not wait for it.
    fn may_end(&mut self) -> bool {
        if !self.has_left {
            return true;
        }
        let is_late = Instant::now() >= *self.end_by.get_or_insert_with(|| Instant::now() + END_WITHIN);
        if !self.is_gone && (is_late || self.node.is_flushed()) {
            self.is_gone = true;
            self.node.end(self.now);
            self.carry_out();
        }
        self.is_gone && (is_late || self.heartbeats.is_empty())
    }

    /// Closes the connection to the engine.
    pub(super) async fn finish(self) {
        self.engine.shutdown().await;
    }

    /// How long nothing is to be done, unless something comes.
    fn sleep(&self) -> Duration {
        if self.unsent.is_some() {
            return Duration::from_millis(1);
        }
        let now = Millis::try_from(self.epoch.elapsed().as_millis()).unwrap_or(Millis::MAX);
        let deadline = self.appends.deadline().into_iter().chain([self.node.next_deadline(), self.next_publish]).min();
        Duration::from_millis(deadline.unwrap_or(now).saturating_sub(now)).min(SLEEP_MAX)
    }

    /// Takes what the engine reports. Returns whether there is more.
    fn take_engine_events(&mut self) -> bool {
        for _ in 0..EVENTS_PER_TURN {
            let Some(event) = self.events.try_next() else { return false };
            self.on_engine_event(event);
        }
        true
    }

    fn on_engine_event(&mut self, event: EngineEvent) {
        let now = self.now;
        match event {
            EngineEvent::Envelope(bytes) => self.node.on_envelope(&bytes, now),
            EngineEvent::HeartbeatAcked { token, .. } => {
                // Of one that a later one's came before, it is not known when it was sent.
                if let Some(sent) = self.heartbeats.remove(&token) {
                    self.heartbeats.retain(|known, _| *known > token);
                    self.node.members_mut().on_heartbeat_acked(sent, now);
                }
                let says_so = self.leaving && token > self.last_before_leaving;
                if says_so && !std::mem::replace(&mut self.has_left, true) {
                    self.next_publish = 0;
                }
            }
            EngineEvent::HeartbeatFailed { token, reason } => {
                self.heartbeats.remove(&token);
                self.reporter.heartbeat_failed(&reason);
            }
            EngineEvent::Heartbeat { bytes, .. } => self.node.on_heartbeat(&bytes, now),
            EngineEvent::MembersRead { .. } => {
                self.node.members_mut().on_read(now);
                self.node.members_mut().on_caught_up();
            }
            EngineEvent::MembersReset { .. } => self.reporter.members_reset(),
            EngineEvent::MemberPurged { node, error } => match error {
                None => self.on_member_purged(&node),
                Some(error) => self.reporter.member_not_removed(&node, &error),
            },
            EngineEvent::RetainedAcked { token, sequence } => {
                if let Some(entry) = self.appends.remove(token, now) {
                    self.node.members_mut().on_append_acked(entry.sent, now);
                    self.node.on_append_stored(token, Some(sequence), entry.bytes);
                }
            }
            EngineEvent::RetainedFailed { token, retry, reason, .. } => self.on_append_failed(token, retry, &reason),
            EngineEvent::RetainedHead { token, sequence, server_time_ms } => {
                self.log_clock = LogClock { head: sequence, server_time_ms, at: now };
                self.node.on_log_head(token, sequence);
            }
            EngineEvent::RetainedPurged { subject, below, error } => {
                self.purges.answered(subject, below, error.is_none(), now);
                self.reporter.purged(error.as_deref());
            }
            EngineEvent::Retained { sequence, subject, bytes, server_time_ms } => {
                let age_ms = self.log_clock.age(sequence, server_time_ms, now);
                self.node.on_log_message(LogMessage { sequence, subject: subject.0, bytes: bytes.to_vec(), age_ms });
            }
            EngineEvent::RetainedReset { .. } => {
                self.reporter.log_reset();
                self.node.on_log_reset();
            }
            EngineEvent::Slots { version, bytes } => self.node.on_slots(version, &bytes, now),
            EngineEvent::SlotsHead { token, version } => self.node.on_slots_head(token, version),
            EngineEvent::SlotsWritten(written) => self.on_slots_written(written),
            EngineEvent::SlotsReset { .. } => {
                self.reporter.slots_reset();
                self.node.on_slots_reset();
            }
            EngineEvent::Connection { connection, change } => self.on_connection(connection, &change),
        }
    }

    fn on_connection(&mut self, connection: EngineConnection, change: &ConnectionChange) {
        let server = match connection {
            EngineConnection::Links => &mut self.servers.links,
            EngineConnection::Streams => &mut self.servers.streams,
        };
        match change {
            ConnectionChange::Connected { server: name, .. } => *server = Some(name.clone()),
            ConnectionChange::Disconnected => *server = None,
            ConnectionChange::Failed { .. } => {}
        }
        self.reporter.connection(connection, change);
        self.next_publish = 0;
    }

    /// The engine has not stored an entry.
    fn on_append_failed(&mut self, number: u64, retry: bool, reason: &str) {
        self.reporter.append_failed(retry, reason);
        if retry {
            self.appends.failed(number, self.now);
        } else if let Some(entry) = self.appends.remove(number, self.now) {
            // The engine will never take it: it is as if it had been stored and removed. It tells nothing of this node.
            self.node.on_append_stored(number, None, entry.bytes);
        }
    }

    fn carry_out(&mut self) {
        // Before what they release: a PUBACK that waited for a peer comes after the line that it is out.
        while let Some(event) = self.node.next_event() {
            self.reporter.member(&event);
        }
        while let Some(failure) = self.node.next_link_failure() {
            self.reporter.link_failed(&failure);
        }
        while let Some(event) = self.node.next_move_event() {
            self.reporter.slot_move(&event);
            self.next_publish = 0;
        }
        while let Some((token, bytes)) = self.node.next_heartbeat(self.now) {
            self.heartbeats.insert(token, self.now);
            self.last_heartbeat = token;
            if let Err(error) = self.engine.heartbeat(token, bytes.into()) {
                self.heartbeats.remove(&token);
                self.reporter.heartbeat_failed(&error.to_string());
            }
        }
        for shard in (0..self.shards).map(ShardId) {
            while let Some(batch) = self.node.next_batch(shard) {
                self.plane.deliver_from_gateway(shard, batch);
            }
        }
        self.send_envelopes();
        while let Some(append) = self.node.next_append() {
            self.appends.add(append, &self.engine, self.now);
        }
        if let Some(token) = self.node.log_head_wanted().filter(|token| *token != self.log_head_asked) {
            self.log_head_asked = token;
            self.engine.request_retained_head(token);
        }
        while self.purges.has_room(self.now)
            && let Some(purge) = self.purges.next_again().or_else(|| self.node.next_purge(self.now))
        {
            self.purges.send(purge, &self.engine, self.now);
        }
        self.carry_out_slots();
        self.carry_out_relays();
        let accepts = self.node.is_ready() && !self.leaving && self.settings.admits_clients();
        if accepts != self.accepts_clients {
            self.accepts_clients = accepts;
            self.plane.set_accepts_clients(accepts);
            self.reporter.ready(accepts);
            self.next_publish = 0;
        }
    }

    fn send_envelopes(&mut self) {
        if let Some((receiver, envelope)) = self.unsent.take()
            && let Err(SendError::Full) = self.engine.send(receiver, envelope.clone())
        {
            self.unsent = Some((receiver, envelope));
            return;
        }
        let max_bytes = self.engine.envelope_bytes_max().min(ENVELOPE_BYTES);
        while let Some(receiver) = self.node.next_envelope(max_bytes, &mut self.envelope, self.now) {
            let envelope = Bytes::from(std::mem::take(&mut self.envelope));
            // One that is lost is sent again by the link.
            if let Err(SendError::Full) = self.engine.send(receiver, envelope.clone()) {
                self.unsent = Some((receiver, envelope));
                return;
            }
        }
    }

    /// Has what operators see published in this turn.
    pub(super) fn publish_soon(&mut self) {
        self.next_publish = 0;
    }

    fn publish(&mut self) {
        if self.now < self.next_publish {
            return;
        }
        self.next_publish = self.now + PUBLISH_EVERY_MS;
        // Another server may take other sizes.
        let entry_max = self.engine.envelope_bytes_max().saturating_sub(HEADERS_BYTES);
        if std::mem::replace(&mut self.log_entry_max, entry_max) != entry_max {
            self.node.set_log_entry_max(entry_max);
        }
        let clients = self.plane.stats().iter().map(|stats| u64::from(stats.connections_current)).sum();
        self.node.members_mut().set_load(Load { clients, sessions: 0 });
        let view = ClusterView {
            node: Some(self.node.status(self.now)),
            engine: self.engine.counts(),
            servers: self.servers.clone(),
            has_left: self.has_left,
            gives_slots: self.leaving && self.node.is_giving_slots(),
            settings: self.settings.view(clients),
            founded_slots: Some(self.node.slot_view().per_class).filter(|slots| *slots > 0),
        };
        self.publish.send_replace(view);
    }
}
