//! The connections and sessions of a core.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::HashTable;

use crate::clients::connection::Connection;
use crate::clients::rate_limit::{RateLimits, TotalRates};
use crate::clients::reauthentication::Reauthentication;
use crate::clients::session::{NEVER_EXPIRES, Session};
use crate::clients::timers::{Timer, Timers};
use crate::hash::HashSeed;
use crate::ids::{ConnId, ConnectionSlot, EndpointId, Millis, NamespaceId, SessionId, SessionRef};
use crate::limits::PENDING_WRITE_HIGH_BYTES;
use crate::routing::shared_groups::SharedSubscription;
use crate::slab::Slab;
use crate::values::group::{GroupKey, Readiness};
use crate::values::memory::{ByteCount, Charge};
use crate::values::will::PendingWill;
use crate::{EndpointPolicy, OfflineSessions};
use weir_mqtt::QoS;

/// Client identifiers that their table has room for, from which on it shrinks.
const SHRINKS_FROM: usize = 4096;
/// Timers from which on those without a reason are removed.
const TIMERS_CHECKED_FROM: usize = 4096;

/// Connections, sessions, and what is due for them.
#[derive(Debug)]
pub(crate) struct Clients {
    connections: Slab<ConnectionSlot, Connection>,
    sessions: Slab<SessionId, Session>,
    by_client_id: HashTable<SessionId>,
    seed: HashSeed,
    timers: Timers,
    /// From how many on those without a reason are removed.
    timers_max: usize,
    offline: OfflineSessions,
    rates: RateLimits,
    /// Bytes of connections, sessions and wills; of their shared subscriptions; of topic aliases.
    session_bytes: ByteCount,
    shared_bytes: ByteCount,
    table_bytes: ByteCount,
    /// Connections to close, to read again, and to disconnect once nothing is in flight.
    closing: VecDeque<ConnId>,
    resumed: VecDeque<ConnId>,
    draining: Vec<ConnId>,
    reauthentications: VecDeque<Reauthentication>,
}

impl Clients {
    pub(crate) fn new(seed: HashSeed) -> Self {
        Self {
            connections: Slab::new(),
            sessions: Slab::new(),
            by_client_id: HashTable::new(),
            seed,
            timers: Timers::default(),
            timers_max: TIMERS_CHECKED_FROM,
            offline: OfflineSessions::default(),
            rates: RateLimits::default(),
            session_bytes: ByteCount::default(),
            shared_bytes: ByteCount::default(),
            table_bytes: ByteCount::default(),
            closing: VecDeque::new(),
            resumed: VecDeque::new(),
            draining: Vec::new(),
            reauthentications: VecDeque::new(),
        }
    }

    /// Counts together with the node's other cores.
    pub(crate) fn share_counts(&mut self, offline: OfflineSessions, total_rates: TotalRates) {
        self.offline = offline;
        self.rates.share(total_rates);
    }

    /// Bytes of connections, sessions and their wills.
    pub(crate) fn session_bytes(&self) -> &ByteCount {
        &self.session_bytes
    }

    /// Bytes of topic aliases.
    pub(crate) fn table_bytes(&self) -> &ByteCount {
        &self.table_bytes
    }

    /// Bytes of sessions' shared subscriptions.
    pub(crate) fn shared_bytes(&self) -> usize {
        self.shared_bytes.get()
    }

    /// Counts a shared subscription of a session while it lasts.
    pub(crate) fn shared_charge(&self, key: &GroupKey) -> Charge {
        self.shared_bytes.charge(key.bytes() + size_of::<SharedSubscription>())
    }

    /// Bytes of the timers.
    pub(crate) fn timer_bytes(&self) -> usize {
        self.timers.bytes()
    }

    pub(crate) fn seed(&self) -> HashSeed {
        self.seed.clone()
    }

    // Connections.

    #[inline]
    pub(crate) fn connection(&self, slot: ConnectionSlot) -> Option<&Connection> {
        self.connections.get(slot)
    }

    #[inline]
    pub(crate) fn connection_mut(&mut self, slot: ConnectionSlot) -> Option<&mut Connection> {
        self.connections.get_mut(slot)
    }

    /// A connection and its generation.
    #[inline]
    pub(crate) fn connection_entry(&mut self, slot: ConnectionSlot) -> Option<(u32, &mut Connection)> {
        self.connections.entry_mut(slot)
    }

    /// A connection, if it has not ended.
    #[inline]
    pub(crate) fn open(&mut self, id: ConnId) -> Option<&mut Connection> {
        self.connections.get_generation_mut(id.slot, id.generation)
    }

    /// A connection and its session.
    #[inline]
    pub(crate) fn connection_and_session(
        &mut self,
        slot: ConnectionSlot,
    ) -> Option<(&mut Connection, Option<&mut Session>)> {
        let connection = self.connections.get_mut(slot)?;
        let session = self.sessions.get_mut(connection.session);
        Some((connection, session))
    }

    /// A connection, and the publish rates that it counts against.
    pub(crate) fn connection_and_rates(&mut self, slot: ConnectionSlot) -> Option<(&mut Connection, &mut RateLimits)> {
        Some((self.connections.get_mut(slot)?, &mut self.rates))
    }

    pub(crate) fn generation(&self, slot: ConnectionSlot) -> u32 {
        self.connections.generation(slot)
    }

    /// Connections from a slot on, in the order of their slots.
    pub(crate) fn connections_from(&self, from: ConnectionSlot) -> impl Iterator<Item = (ConnectionSlot, &Connection)> {
        let slots = (from.0..self.connections.slots() as u32).map(ConnectionSlot);
        slots.filter_map(|slot| Some((slot, self.connections.get(slot)?)))
    }

    pub(crate) fn connections(&self) -> impl Iterator<Item = (ConnectionSlot, &Connection)> {
        self.connections.iter()
    }

    pub(crate) fn connection_count(&self) -> usize {
        self.connections.count()
    }

    pub(crate) fn add_connection(&mut self, mut connection: Connection) -> ConnId {
        connection.counted_bytes = connection.bytes() as u32;
        self.session_bytes.add(connection.counted_bytes as usize);
        let (slot, generation) = self.connections.insert(connection);
        ConnId { slot, generation }
    }

    pub(crate) fn remove_connection(&mut self, slot: ConnectionSlot) -> Option<Connection> {
        let connection = self.connections.remove(slot)?;
        self.session_bytes.subtract(connection.counted_bytes as usize);
        Some(connection)
    }

    // Sessions.

    #[inline]
    pub(crate) fn session(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(id)
    }

    #[inline]
    pub(crate) fn session_mut(&mut self, id: SessionId) -> Option<&mut Session> {
        self.sessions.get_mut(id)
    }

    /// A session, if it has not ended.
    pub(crate) fn session_by_ref(&mut self, session: SessionRef) -> Option<&mut Session> {
        self.sessions.get_generation_mut(session.id, session.generation)
    }

    pub(crate) fn session_ref(&self, id: SessionId) -> SessionRef {
        SessionRef { id, generation: self.sessions.generation(id) }
    }

    pub(crate) fn sessions(&self) -> impl Iterator<Item = (SessionId, &Session)> {
        self.sessions.iter()
    }

    pub(crate) fn session_count(&self) -> usize {
        self.sessions.count()
    }

    /// No session has this number, or a higher one.
    pub(crate) fn session_slots(&self) -> usize {
        self.sessions.slots()
    }

    /// Begins a session, to be found by its client identifier.
    pub(crate) fn add_session(&mut self, session: Session) -> SessionRef {
        let hash = self.seed.hash(session.namespace.0, &session.client_id);
        self.session_bytes.add(session.bytes());
        let (id, generation) = self.sessions.insert(session);
        let (sessions, seed) = (&self.sessions, &self.seed);
        self.by_client_id.insert_unique(hash, id, |&id| {
            sessions.get(id).map_or(0, |session| seed.hash(session.namespace.0, &session.client_id))
        });
        SessionRef { id, generation }
    }

    /// A session ends: its client identifier leads to it no more. `None`: it did not.
    pub(crate) fn unlist_session(&mut self, id: SessionId) -> Option<()> {
        let session = self.sessions.get_mut(id)?;
        session.ending = true;
        let hash = self.seed.hash(session.namespace.0, &session.client_id);
        self.by_client_id.find_entry(hash, |&other| other == id).ok()?.remove();
        if self.by_client_id.capacity() > SHRINKS_FROM.max(self.by_client_id.len() * 8) {
            let (sessions, seed) = (&self.sessions, &self.seed);
            self.by_client_id.shrink_to(self.by_client_id.len() * 2, |&id| {
                sessions.get(id).map_or(0, |session| seed.hash(session.namespace.0, &session.client_id))
            });
        }
        Some(())
    }

    /// Removes a session that was unlisted.
    pub(crate) fn remove_session(&mut self, id: SessionId) -> Option<Session> {
        let session = self.sessions.remove(id)?;
        self.session_bytes.subtract(session.bytes());
        Some(session)
    }

    pub(crate) fn find_session(&self, namespace: NamespaceId, client_id: &str) -> Option<SessionId> {
        let same = |&id: &SessionId| {
            self.sessions.get(id).is_some_and(|s| s.namespace == namespace && *s.client_id == *client_id)
        };
        self.by_client_id.find(self.seed.hash(namespace.0, client_id), same).copied()
    }

    /// The readiness of a member of a shared group; `None`: its session has ended.
    pub(crate) fn member_readiness(&self, id: SessionId) -> Option<Readiness> {
        self.sessions.get(id).filter(|session| !session.ending).map(|_| self.readiness(id))
    }

    /// Whether a session can take further messages.
    pub(crate) fn readiness(&self, id: SessionId) -> Readiness {
        let Some(session) = self.sessions.get(id) else { return Readiness::Offline };
        let Some(connection) = session.connection.and_then(|slot| self.connections.get(slot)) else {
            return Readiness::Offline;
        };
        let window = connection.receive_maximum.min(session.policy.limits.max_inflight);
        let room = session.inflight.len() < usize::from(window)
            && session.queue.is_empty()
            && connection.outlet.out.len() < PENDING_WRITE_HIGH_BYTES;
        if room { Readiness::Ready } else { Readiness::Busy }
    }

    /// Counts a session among its endpoint's offline ones, unless that would be more than `most`.
    pub(crate) fn count_offline(&self, endpoint: EndpointId, most: Option<u32>) -> bool {
        self.offline.try_add(endpoint, most)
    }

    /// A connection serves a session from now on.
    pub(crate) fn attach(
        &mut self,
        id: SessionId,
        slot: ConnectionSlot,
        policy: Arc<EndpointPolicy>,
        will: Option<Box<PendingWill>>,
        expiry_s: u32,
    ) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        if std::mem::take(&mut session.counted_offline) {
            self.offline.subtract(session.policy.id);
        }
        session.connection = Some(slot);
        session.expiry_s = expiry_s;
        session.ends_at = Millis::MAX;
        session.will = will;
        session.policy = policy;
    }

    /// Keeps a session without a connection until it expires, and its will until it is due. `false`: it ends with its
    /// connection, or its endpoint keeps as many as it may.
    pub(crate) fn keep_offline(&mut self, id: SessionId, now: Millis) -> bool {
        let reference = self.session_ref(id);
        let Some(session) = self.sessions.get_mut(id) else { return false };
        if session.expiry_s == 0 || !self.offline.try_add(session.policy.id, session.policy.limits.max_session_size) {
            return false;
        }
        session.counted_offline = true;
        session.queue.retain(|queued| queued.delivery.qos > QoS::AtMostOnce);
        session.ends_at = match session.expiry_s {
            NEVER_EXPIRES => Millis::MAX,
            seconds => now + u64::from(seconds) * 1000,
        };
        let ends_at = session.ends_at;
        let due_at = session.will.as_mut().map(|will| {
            let due_at = now + u64::from(will.delay_s) * 1000;
            *will.due_at.insert(due_at)
        });
        self.set_timer(ends_at, Timer::session(reference));
        if let Some(due_at) = due_at {
            self.set_timer(due_at, Timer::session(reference));
        }
        true
    }

    /// Gives restored sessions of an endpoint its policy, now that it is declared. Returns those that have a will.
    pub(crate) fn adopt_restored(&mut self, policy: &Arc<EndpointPolicy>) -> Vec<SessionRef> {
        let waits_for = |session: &Session| {
            let old = &session.policy;
            old.id == EndpointId::RESTORED && old.name == policy.name && old.namespace == policy.namespace
        };
        let mut have_wills = Vec::new();
        let waiting = self.sessions.iter().filter(|(_, session)| waits_for(session));
        for id in waiting.map(|(id, _)| id).collect::<Vec<SessionId>>() {
            let reference = self.session_ref(id);
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if session.counted_offline {
                self.offline.subtract(session.policy.id);
                session.counted_offline = self.offline.try_add(policy.id, None);
            }
            session.policy = Arc::clone(policy);
            if session.will.is_some() {
                have_wills.push(reference);
            }
        }
        have_wills
    }

    pub(crate) fn uncount_offline(&self, endpoint: EndpointId) {
        self.offline.subtract(endpoint);
    }

    // Timers.

    pub(crate) fn set_timer(&mut self, at: Millis, timer: Timer) {
        if self.timers.len() >= self.timers_max {
            self.drop_needless_timers();
        }
        self.timers.push(at, timer);
    }

    /// Removes timers of connections and sessions that are no more, and of earlier absences: a client that connects again and
    /// again would leave them until they are due.
    fn drop_needless_timers(&mut self) {
        let (connections, sessions) = (&self.connections, &self.sessions);
        self.timers.retain(|at, timer| match timer {
            Timer::Session(session) => sessions
                .get_generation(session.id, session.generation)
                .is_some_and(|session| session.connection.is_none() && session.is_due_at(at)),
            Timer::Credential(id) => connections
                .get_generation(id.slot, id.generation)
                .is_some_and(|connection| connection.principal.expires_at == Some(at)),
            Timer::KeepAlive(id) | Timer::Pause(id) | Timer::Rate(id) | Timer::DrainDeadline(id) => {
                connections.get_generation(id.slot, id.generation).is_some()
            }
        });
        self.timers_max = TIMERS_CHECKED_FROM.max(self.timers.len() * 2);
    }

    pub(crate) fn pop_due(&mut self, now: Millis) -> Option<Timer> {
        self.timers.pop_due(now)
    }

    pub(crate) fn next_timer(&self) -> Option<Millis> {
        self.timers.next()
    }

    // Requests to the driver.

    pub(crate) fn push_closing(&mut self, id: ConnId) {
        self.closing.push_back(id);
    }

    pub(crate) fn next_closing(&mut self) -> Option<ConnId> {
        self.closing.pop_front()
    }

    /// A connection that drains may have nothing in flight any more.
    pub(crate) fn push_draining(&mut self, id: ConnId) {
        self.draining.push(id);
    }

    pub(crate) fn take_draining(&mut self) -> Vec<ConnId> {
        std::mem::take(&mut self.draining)
    }

    pub(crate) fn push_reauthentication(&mut self, request: Reauthentication) {
        self.reauthentications.push_back(request);
    }

    pub(crate) fn next_reauthentication(&mut self) -> Option<Reauthentication> {
        self.reauthentications.pop_front()
    }

    /// One more slow receiver, link, store or rate holds up the reading from a connection.
    pub(crate) fn pause(&mut self, id: ConnId) {
        if let Some(connection) = self.open(id) {
            connection.pauses += 1;
        }
    }

    /// One less does.
    pub(crate) fn resume(&mut self, id: ConnId) {
        if let Some(connection) = self.open(id)
            && connection.pauses > 0
        {
            connection.pauses -= 1;
            if connection.pauses == 0 {
                self.resumed.push_back(id);
            }
        }
    }

    pub(crate) fn next_resumed(&mut self) -> Option<ConnId> {
        self.resumed.pop_front()
    }

    /// Whether the driver has nothing to close, to resume or to disconnect.
    pub(crate) fn is_idle(&self) -> bool {
        self.closing.is_empty() && self.resumed.is_empty() && self.draining.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn clear_sessions(&mut self) {
        self.sessions = Slab::new();
    }
}
