//! One shard's core: its state, and the interface through which it is driven.

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::connection::{Connection, Origin};
use super::limits::{DESTINATIONS_MAX, LINK_ACKNOWLEDGE_BYTES, LINK_HIGH_BYTES};
use super::link::{Crossing, Hop, Item, Link};
use super::pool::Pool;
use super::retained::Retained;
use super::session::{Session, SessionRef, SpaceId};
use super::shared::{Group, GroupKey};
use super::slab::Slab;
use super::subscriptions::{GroupId, SessionId, Subscriptions};
use super::timers::{Timer, Timers};
use super::view::View;
use super::{Batch, CoreGauges, EndpointCounters, EndpointId, EndpointPolicy, Millis, OutBuf, Principal};
use crate::mqtt::{Connect, DecodeContext, Decoded, Packet, ReasonCode, Side, decode};

/// A connection within one core: a slot and the slot's generation, so that a stale id is never somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub slot: u32,
    pub generation: u32,
}

/// A shard of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// The shard whose core owns the session of (namespace, client id).
pub fn home_shard(namespace: &str, client_id: &str, shards: u16) -> ShardId {
    owner_of(&[namespace, client_id], shards)
}

/// The shard that owns what `names` name. Every shard must find the same one: FNV-1a, which has no seed.
pub(super) fn owner_of(names: &[&str], shards: u16) -> ShardId {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in names {
        // 0xff is no byte of UTF-8: it parts one name from the next.
        for byte in name.bytes().chain(std::iter::once(0xff)) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    // The low bits of FNV depend on the low bits of the input alone.
    let mixed = hash ^ (hash >> 32);
    ShardId((mixed % u64::from(shards.max(1))) as u16)
}

/// A client that may come in: its CONNECT is decoded, its credentials were accepted, this is its home shard.
pub struct Admission<'a> {
    pub policy: Arc<EndpointPolicy>,
    pub connect: &'a Connect<'a>,
    /// As sent, or as assigned.
    pub client_id: &'a str,
    /// Whether the server assigned it (5.0: told in CONNACK).
    pub assigned: bool,
    pub principal: Principal,
    /// The last AUTH data of an enhanced authentication, for CONNACK.
    pub authentication_data: Option<&'a [u8]>,
}

/// What came of feeding bytes to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of whole packets taken; the rest is a partial packet, to be kept and fed again with what follows.
    pub consumed: usize,
    /// The whole length of the partial packet that follows, where its header is complete: what to have room for.
    pub needs: Option<usize>,
    pub then: Then,
}

/// What the driver does next with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Read on.
    Continue,
    /// Read no more until [`Core::take_resumed`] names it: a receiver of its messages is slow, or its rate is used up.
    /// All whole packets among the bytes have been taken; what is left is a partial packet, as ever.
    Pause,
    /// Write what waits in its [`OutBuf`], close the socket, and call [`Core::ended`].
    Close,
}

/// Why a connection ended, seen from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed, or the network failed.
    PeerClosed,
    /// The socket could not be written to.
    WriteFailed,
    /// The driver ends it: drain, shutdown.
    Server,
}

/// How the core is set up.
#[derive(Debug, Clone)]
pub struct CoreConfig {
    pub shard: ShardId,
    /// At most [`DESTINATIONS_MAX`].
    pub shards: u16,
}

/// A namespace: a mountpoint's own topics.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) name: Arc<str>,
    pub(super) subscriptions: Subscriptions,
    pub(super) retained: Retained,
}

/// One shard's broker.
pub struct Core {
    pub(super) config: CoreConfig,
    pub(super) connections: Slab<Connection>,
    pub(super) sessions: Slab<Session>,
    session_index: HashTable<SessionId>,
    hasher: DefaultHashBuilder,
    pub(super) spaces: Vec<Space>,
    space_index: HashMap<Arc<str>, SpaceId>,
    pub(super) groups: Slab<Group>,
    pub(super) group_index: HashMap<Arc<GroupKey>, GroupId>,
    pub(super) links: Vec<Link>,
    pub(super) timers: Timers,
    /// Numbers the SUBSCRIBEs that wait for other shards.
    pub(super) serial: u32,
    endpoint_index: HashMap<EndpointId, u32>,
    pub(super) counters: Vec<EndpointCounters>,
    pub(super) pool: Pool,
    pub(super) dirty: Vec<ConnId>,
    resumed: Vec<ConnId>,
    pub(super) closing: Vec<ConnId>,
    /// The time of the call that is being served.
    pub(super) now: Millis,
}

impl Core {
    pub fn new(config: CoreConfig) -> Core {
        debug_assert!(config.shards <= DESTINATIONS_MAX);
        let links = (0..config.shards).map(|_| Link::default()).collect();
        Core {
            config,
            connections: Slab::new(),
            sessions: Slab::new(),
            session_index: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            spaces: Vec::new(),
            space_index: HashMap::new(),
            groups: Slab::new(),
            group_index: HashMap::new(),
            links,
            timers: Timers::default(),
            serial: 0,
            endpoint_index: HashMap::new(),
            counters: Vec::new(),
            pool: Pool::default(),
            dirty: Vec::new(),
            resumed: Vec::new(),
            closing: Vec::new(),
            now: 0,
        }
    }

    /// Takes an admitted client in: takeover, session, will, CONNACK (in its out buffer). The driver keeps its socket
    /// under `ConnId::slot`. A refused one (`Err`: bytes of the CONNACK to write before the close) leaves nothing behind.
    pub fn admit(&mut self, admission: Admission<'_>, now: Millis) -> Result<ConnId, Vec<u8>> {
        self.now = now;
        self.admit_client(&admission, now)
    }

    /// Feeds bytes that were read from `conn`. Decodes and handles every whole packet in them.
    pub fn receive(&mut self, conn: ConnId, bytes: &[u8], now: Millis) -> Received {
        self.now = now;
        let closed = Received { consumed: bytes.len(), needs: None, then: Then::Close };
        let Some(connection) = self.connections.get_generation(conn.slot, conn.generation) else { return closed };
        connection.last_received = now;
        let context = DecodeContext {
            version: connection.version,
            max_packet_size: connection.policy.limits.message_max_size,
            from: Side::Client,
        };
        let endpoint = connection.endpoint as usize;
        let mut consumed = 0;
        let mut needs = None;
        while consumed < bytes.len() {
            if self.connections.get(conn.slot).is_none_or(|c| c.closing) {
                break;
            }
            // Matched by reference: a decoded packet is large, and moving it out costs more than decoding it.
            match &decode(&bytes[consumed..], &context) {
                Ok(Decoded::Packet { packet, len }) => {
                    self.on_packet(conn, packet, &bytes[consumed..consumed + len], now);
                    consumed += len;
                }
                Ok(Decoded::Incomplete { needs: whole }) => {
                    needs = *whole;
                    break;
                }
                Err(error) => self.refuse(conn.slot, error.reason),
            }
        }
        self.counters[endpoint].bytes_received += consumed as u64;
        let Some(connection) = self.connections.get(conn.slot) else { return closed };
        let then = match (connection.closing, connection.pauses > 0) {
            (true, _) => Then::Close,
            (false, true) => Then::Pause,
            (false, false) => Then::Continue,
        };
        if then == Then::Close { closed } else { Received { consumed, needs, then } }
    }

    fn on_packet(&mut self, id: ConnId, packet: &Packet<'_>, raw: &[u8], now: Millis) {
        match packet {
            Packet::Publish(publish) => self.on_publish(id, publish, raw, now),
            Packet::PubAck(ack) => self.on_puback(id, ack, now),
            Packet::PubRec(ack) => self.on_pubrec(id, ack, now),
            Packet::PubRel(ack) => self.on_pubrel(id, ack),
            Packet::PubComp(ack) => self.on_pubcomp(id, ack, now),
            Packet::Subscribe(subscribe) => self.on_subscribe(id, subscribe, now),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(id, unsubscribe),
            Packet::PingReq => self.write(id.slot, |out| {
                crate::mqtt::pingresp(out);
                Ok(())
            }),
            Packet::Disconnect(disconnect) => self.on_disconnect(id, disconnect),
            Packet::Auth(auth) => self.on_auth(id, auth),
            // A second CONNECT [MQTT-3.1.0-2], and packets only a server sends.
            _ => self.refuse(id.slot, ReasonCode::ProtocolError),
        }
    }

    /// The socket is gone (or the driver ends the connection): will, session expiry. Frees the slot. To be called once
    /// for every admitted connection, however it ends.
    pub fn ended(&mut self, conn: ConnId, why: Ended, now: Millis) {
        self.now = now;
        self.connection_ended(conn, why, now);
    }

    /// Asks a client to leave: 5.0 gets DISCONNECT with `code` (and reference); then its out buffer is to be flushed and
    /// the connection closed: it is named by [`Core::take_closing`].
    pub fn disconnect(&mut self, conn: ConnId, code: u8, server_reference: Option<&str>, now: Millis) {
        self.now = now;
        if self.connections.get_generation(conn.slot, conn.generation).is_some() {
            self.tell_and_close_with(conn.slot, code, server_reference);
        }
    }

    /// Out buffer of a connection; the driver writes from it and advances it, then tells [`Core::written`].
    #[inline]
    pub fn out(&mut self, conn: ConnId) -> Option<&mut OutBuf> {
        self.connections.get_generation(conn.slot, conn.generation).map(|c| &mut c.out)
    }

    /// The driver wrote from the out buffer: lets paused publishers and queued messages move on.
    pub fn written(&mut self, conn: ConnId, now: Millis) {
        self.now = now;
        if self.connections.get_generation(conn.slot, conn.generation).is_some() {
            self.was_written(conn.slot, now);
        }
    }

    /// Connections with something to write since the last call (each once).
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {
        for &id in &self.dirty {
            if let Some(connection) = self.connections.get_generation(id.slot, id.generation) {
                connection.dirty = false;
            }
        }
        into.append(&mut self.dirty);
    }

    /// Connections that may be read again.
    pub fn take_resumed(&mut self, into: &mut Vec<ConnId>) {
        into.append(&mut self.resumed);
    }

    /// Connections the core wants closed once their out buffer is flushed (takeover, keep-alive, breach, drain).
    pub fn take_closing(&mut self, into: &mut Vec<ConnId>) {
        into.append(&mut self.closing);
    }

    /// What waits for another shard, if anything.
    pub fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        let link = self.links.get_mut(usize::from(to.0))?;
        if link.batch.items.is_empty() {
            if link.received - link.told < LINK_ACKNOWLEDGE_BYTES {
                return None;
            }
            link.batch.items.push(Item::Taken);
        }
        link.told = link.received;
        let mut batch = std::mem::take(&mut link.batch);
        (batch.end, batch.taken) = (link.sent, link.received);
        Some(batch)
    }

    /// Takes another shard's batch.
    pub fn deliver_batch(&mut self, from: ShardId, batch: Batch, now: Millis) {
        self.now = now;
        let Batch { items, bytes, end, taken } = batch;
        for item in items {
            self.on_item(from, item, &bytes, now);
        }
        let Some(link) = self.links.get_mut(usize::from(from.0)) else { return };
        link.received = end;
        link.taken = link.taken.max(taken);
        if link.sent - link.taken <= LINK_HIGH_BYTES / 2 {
            let waiters = std::mem::take(&mut link.waiters);
            waiters.into_iter().for_each(|origin| self.resume(origin));
        }
    }

    fn on_item(&mut self, from: ShardId, item: Item, bytes: &[u8], now: Millis) {
        match item {
            Item::Space { id, name } => self.learn_space(from, id, &name),
            Item::Publish(crossing) => self.on_crossing(from, &crossing, bytes, now),
            Item::Want { space, filter } => {
                let space = self.space_of(from, space);
                self.spaces[space as usize].subscriptions.add_destination(&filter, from.0);
            }
            Item::Unwant { space, filter } => {
                let space = self.space_of(from, space);
                self.spaces[space as usize].subscriptions.remove_destination(&filter, from.0);
            }
            Item::Sync { request, reads } => {
                let reads: Vec<_> = reads.into_iter().map(|(space, f)| (self.space_of(from, space), f)).collect();
                self.sync(from, request, &reads, now);
            }
            Item::Synced { request, retained } => self.synced(request, &retained, now),
            Item::Join { group, member } => {
                self.join(&group, member);
            }
            Item::Leave { group, session } => self.leave(&group, from, session),
            Item::Readiness { group, session, readiness } => self.set_readiness(&group, from, session, readiness),
            Item::Assign { session, message, delivery, origin } => {
                self.assigned(session, &message, delivery, origin, now);
            }
            Item::Return { group, message } => self.redeliver(&group, &message, None, now),
            Item::Pause(id) => self.pause_here(id),
            Item::Resume(id) => self.resume_here(id),
            Item::Taken => {}
        }
    }

    fn on_crossing(&mut self, from: ShardId, crossing: &Crossing, bytes: &[u8], now: Millis) {
        let raw = &bytes[crossing.start as usize..crossing.end as usize];
        let context = DecodeContext { version: crossing.version, max_packet_size: u32::MAX, from: Side::Client };
        // What was decoded there decodes here: it is the same code.
        let Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) = decode(raw, &context) else { return };
        let space = self.space_of(from, crossing.space);
        let (expires_at, origin) = (crossing.expires_at, crossing.origin);
        let mut view = View::new(publish.topic, &publish, crossing.version, raw, expires_at, origin);
        match crossing.hop {
            Hop::Last => {
                self.fan_out(space, &mut view, now);
            }
            Hop::Owner => self.route_here(space, &mut view, now),
        }
    }

    /// Whatever is due: keep-alives, wills, expiries, pauses' deadlines.
    pub fn tick(&mut self, now: Millis) {
        self.now = now;
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::KeepAlive(id) => self.check_keep_alive(id, now),
                Timer::Session { id, generation } => self.session_is_due(SessionRef { id, generation }, now),
                Timer::Pause(id) => self.pause_is_over(id, now),
                Timer::Rate(id) => self.resume_here(id),
                Timer::Credential(id) => self.check_credential(id, now),
            }
        }
        for space in &mut self.spaces {
            space.retained.expire(now);
        }
    }

    /// When [`Core::tick`] is next needed.
    pub fn next_deadline(&self) -> Option<Millis> {
        let retained = self.spaces.iter().filter_map(|space| space.retained.next_expiry()).min();
        [self.timers.next(), retained].into_iter().flatten().min()
    }

    /// A client that was silent for one and a half times its keep-alive is gone [MQTT-3.1.2-22].
    fn check_keep_alive(&mut self, id: ConnId, now: Millis) {
        let Some(connection) = self.connections.get_generation(id.slot, id.generation) else { return };
        let deadline = connection.last_received + u64::from(connection.keep_alive_ms);
        if deadline > now {
            self.timers.push(deadline, Timer::KeepAlive(id));
        } else {
            self.tell_and_close(id.slot, ReasonCode::KeepAliveTimeout);
        }
    }

    fn check_credential(&mut self, id: ConnId, now: Millis) {
        let Some(connection) = self.connections.get_generation(id.slot, id.generation) else { return };
        match connection.principal.expires_at {
            Some(at) if at > now => self.timers.push(at, Timer::Credential(id)),
            Some(_) => self.tell_and_close(id.slot, ReasonCode::NotAuthorized),
            None => {}
        }
    }

    /// A new policy for an endpoint's open connections (law 7 of the design): limits change live, subscriptions the new
    /// rules refuse are removed, queued messages they forbid are dropped.
    pub fn set_policy(&mut self, policy: Arc<EndpointPolicy>, now: Millis) {
        self.now = now;
        for id in self.connections(policy.id) {
            let Some(connection) = self.connections.get_mut(id.slot) else { continue };
            connection.policy = Arc::clone(&policy);
            let rates = super::rate::Rates::new(&policy.limits, now);
            if rates.is_some() || connection.rare.is_some() {
                connection.aside().rates = rates;
            }
            let session = connection.session;
            if let Some(session) = self.sessions.get_mut(session) {
                session.policy = Arc::clone(&policy);
            }
            self.judge_session(session, now);
        }
    }

    /// Every connection of an endpoint, oldest first.
    pub fn connections(&self, endpoint: EndpointId) -> Vec<ConnId> {
        let of_endpoint = self.connections.iter().filter(|(_, c)| c.policy.id == endpoint && !c.closing);
        let mut found: Vec<_> = of_endpoint
            .map(|(slot, c)| (c.connected_at, ConnId { slot, generation: self.connections.generation(slot) }))
            .collect();
        found.sort_unstable();
        found.into_iter().map(|(_, id)| id).collect()
    }

    /// Counters of the endpoints this core has seen.
    pub fn counters(&self) -> impl Iterator<Item = (EndpointId, &EndpointCounters)> {
        self.endpoint_index.iter().map(|(&id, &place)| (id, &self.counters[place as usize]))
    }

    /// What the core holds now.
    pub fn gauges(&self) -> CoreGauges {
        CoreGauges {
            connections: self.connections.len(),
            sessions: self.sessions.len(),
            subscriptions: self.sessions.iter().map(|(_, s)| s.subscriptions.len()).sum(),
            retained_messages: self.spaces.iter().map(|s| s.retained.count()).sum(),
            retained_bytes: self.spaces.iter().map(|s| s.retained.bytes()).sum(),
            inflight: self.sessions.iter().map(|(_, s)| s.inflight.len()).sum(),
            queued: self.sessions.iter().map(|(_, s)| s.queue.len()).sum(),
        }
    }

    /// The place of an endpoint's counters.
    pub(super) fn endpoint_place(&mut self, id: EndpointId) -> u32 {
        *self.endpoint_index.entry(id).or_insert_with(|| {
            self.counters.push(EndpointCounters::default());
            (self.counters.len() - 1) as u32
        })
    }

    /// Stops reading from a publisher, here or on its shard.
    pub(super) fn pause(&mut self, origin: Origin) {
        if origin.shard == self.config.shard {
            self.pause_here(origin.connection);
        } else if let Some(link) = self.links.get_mut(usize::from(origin.shard.0)) {
            link.push(Item::Pause(origin.connection));
        }
    }

    pub(super) fn resume(&mut self, origin: Origin) {
        if origin.shard == self.config.shard {
            self.resume_here(origin.connection);
        } else if let Some(link) = self.links.get_mut(usize::from(origin.shard.0)) {
            link.push(Item::Resume(origin.connection));
        }
    }

    fn pause_here(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_generation(id.slot, id.generation) {
            connection.pauses += 1;
        }
    }

    fn resume_here(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_generation(id.slot, id.generation)
            && connection.pauses > 0
        {
            connection.pauses -= 1;
            if connection.pauses == 0 {
                self.resumed.push(id);
            }
        }
    }

    /// The namespace of that name, made where it is new.
    pub(super) fn space(&mut self, name: &str) -> SpaceId {
        if let Some(&id) = self.space_index.get(name) {
            return id;
        }
        let (id, name) = (self.spaces.len() as SpaceId, Arc::<str>::from(name));
        self.space_index.insert(Arc::clone(&name), id);
        self.spaces.push(Space { name, subscriptions: Subscriptions::new(), retained: Retained::new() });
        id
    }

    /// Tells another shard what a namespace's number means, once.
    pub(super) fn define_space(&mut self, to: ShardId, id: SpaceId) {
        let link = &mut self.links[usize::from(to.0)];
        let place = id as usize;
        if link.defined.len() <= place {
            link.defined.resize(place + 1, false);
        }
        if !std::mem::replace(&mut link.defined[place], true) {
            link.push(Item::Space { id, name: Arc::clone(&self.spaces[place].name) });
        }
    }

    fn learn_space(&mut self, from: ShardId, theirs: SpaceId, name: &str) {
        let ours = self.space(name);
        let spaces = &mut self.links[usize::from(from.0)].spaces;
        if spaces.len() <= theirs as usize {
            spaces.resize(theirs as usize + 1, ours);
        }
        spaces[theirs as usize] = ours;
    }

    fn space_of(&mut self, from: ShardId, theirs: SpaceId) -> SpaceId {
        let known = self.links[usize::from(from.0)].spaces.get(theirs as usize).copied();
        debug_assert!(known.is_some(), "a namespace is told before it is used");
        known.unwrap_or_else(|| self.space(""))
    }

    fn session_hash(&self, space: SpaceId, client_id: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(space);
        hasher.write(client_id.as_bytes());
        hasher.finish()
    }

    pub(super) fn find_session(&self, space: SpaceId, client_id: &str) -> Option<SessionId> {
        let same =
            |&id: &SessionId| self.sessions.get(id).is_some_and(|s| s.space == space && *s.client_id == *client_id);
        self.session_index.find(self.session_hash(space, client_id), same).copied()
    }

    pub(super) fn index_session(&mut self, space: SpaceId, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let hash = self.session_hash(space, &session.client_id);
        let (sessions, hasher) = (&self.sessions, &self.hasher);
        self.session_index.insert_unique(hash, id, |&id| {
            let mut hasher = hasher.build_hasher();
            if let Some(session) = sessions.get(id) {
                hasher.write_u32(session.space);
                hasher.write(session.client_id.as_bytes());
            }
            hasher.finish()
        });
    }

    pub(super) fn unindex_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let hash = self.session_hash(session.space, &session.client_id);
        if let Ok(entry) = self.session_index.find_entry(hash, |&other| other == id) {
            entry.remove();
        }
    }
}
