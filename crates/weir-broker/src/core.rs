//! One shard's core: its state, and the interface through which it is driven.

use std::collections::VecDeque;
use std::sync::Arc;

use hashbrown::{DefaultHashBuilder, HashMap, HashTable};

use super::connection::Connection;
use super::full_disk::HeldPublishes;
use super::journal::{Journal, Recording};
use super::limits::{PROMPT_DELIVERIES, SHARDS_MAX};
use super::link::{LateSync, Link};
use super::outbox::Outbox;
use super::pool::Pool;
use super::provenance::Rules;
use super::rate::Lease;
use super::retained::Retained;
use super::session::{QueuedBytes, Session, SessionRef, SpaceId};
use super::shared::{Group, GroupKey};
use super::slab::Slab;
use super::subscriptions::{GroupId, SessionId, Subscriptions};
use super::timers::{Timer, Timers};
use super::will::Wills;
use super::{
    AwaySessions, EndpointCounters, EndpointId, EndpointPolicy, Millis, OutBuf, Principal, Reauthentication, TotalRates,
};
use weir_mqtt::{Connect, DecodeContext, DecodeErrorKind, Decoded, Packet, ReasonCode, Side, decode};

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

/// The shard that owns what `names` name. Every shard must find the same one.
pub(super) fn owner_of(names: &[&str], shards: u16) -> ShardId {
    let hash = stable_hash(names);
    // The low bits of FNV depend on the low bits of the input alone.
    let mixed = hash ^ (hash >> 32);
    ShardId((mixed % u64::from(shards.max(1))) as u16)
}

/// FNV-1a, which has no seed: the same in every shard and process.
pub(super) fn stable_hash(names: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in names {
        // 0xff is no byte of UTF-8: it parts one name from the next.
        for byte in name.bytes().chain(std::iter::once(0xff)) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
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
    /// At most [`SHARDS_MAX`].
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
    pub(super) session_index: HashTable<SessionId>,
    pub(super) hasher: DefaultHashBuilder,
    pub(super) spaces: Vec<Space>,
    pub(super) space_index: HashMap<Arc<str>, SpaceId>,
    pub(super) groups: Slab<Group>,
    pub(super) group_index: HashMap<Arc<GroupKey>, GroupId>,
    pub(super) links: Vec<Link>,
    pub(super) timers: Timers,
    /// Numbers the SUBSCRIBEs that wait for other shards.
    pub(super) serial: u32,
    pub(super) late_syncs: Vec<LateSync>,
    pub(super) reauthentications: Vec<Reauthentication>,
    /// Of clients that went: what they still had on the way over a topic's owner, by [`Core::client_hash`].
    pub(super) left_on_the_way: Vec<(u64, ShardId, u64)>,
    pub(super) endpoint_index: HashMap<EndpointId, u32>,
    pub(super) counters: Vec<EndpointCounters>,
    pub(super) pool: Pool,
    pub(super) dirty: Vec<ConnId>,
    pub(super) crowd: VecDeque<ConnId>,
    /// Deliveries whose receivers are still written to ahead of the crowd.
    pub(super) prompt_deliveries: usize,
    pub(super) resumed: Vec<ConnId>,
    pub(super) closing: Vec<ConnId>,
    /// Connections that were asked to leave and may have nothing in flight any more.
    pub(super) leaving: Vec<ConnId>,
    /// The time of the call that is being served.
    pub(super) now: Millis,
    pub(super) away: AwaySessions,
    pub(super) rules: Rules,
    pub(super) wills: Wills,
    /// What the out buffers hold together.
    pub(super) buffered_bytes: usize,
    /// What the queues hold together, and from where on they grow no more.
    pub(super) queued_bytes: QueuedBytes,
    pub(super) queued_max_bytes: usize,
    /// Packets taken and deliveries made since the last [`Core::receive`] began.
    pub(super) work: usize,
    /// Work that links may still come to in this turn.
    pub(super) link_budget: usize,
    pub(super) total_rates: TotalRates,
    /// This core's portions of them, by the place of the endpoint's counters.
    pub(super) leases: Vec<Lease>,
    pub(super) journal: Journal,
    pub(super) held: HeldPublishes,
    pub(super) outbox: Outbox,
}

impl Core {
    /// A core without clients.
    ///
    /// # Panics
    /// Above [`SHARDS_MAX`] shards: messages for the others would be lost.
    pub fn new(config: CoreConfig) -> Core {
        assert!(config.shards <= SHARDS_MAX, "{} shards, of at most {SHARDS_MAX}", config.shards);
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
            late_syncs: Vec::new(),
            reauthentications: Vec::new(),
            left_on_the_way: Vec::new(),
            endpoint_index: HashMap::new(),
            counters: Vec::new(),
            pool: Pool::default(),
            dirty: Vec::new(),
            crowd: VecDeque::new(),
            prompt_deliveries: PROMPT_DELIVERIES,
            resumed: Vec::new(),
            closing: Vec::new(),
            leaving: Vec::new(),
            now: 0,
            away: AwaySessions::default(),
            rules: Rules::default(),
            wills: Wills::default(),
            buffered_bytes: 0,
            queued_bytes: QueuedBytes::default(),
            queued_max_bytes: usize::MAX,
            work: 0,
            link_budget: usize::MAX,
            total_rates: TotalRates::default(),
            leases: Vec::new(),
            journal: Journal::default(),
            held: HeldPublishes::default(),
            outbox: Outbox::default(),
        }
    }

    /// Counts sessions of clients that are away, and publishes against endpoints' rates, together with the node's other
    /// cores.
    pub fn share_counts(&mut self, away: AwaySessions, total_rates: TotalRates) {
        self.away = away;
        self.total_rates = total_rates;
    }

    /// Tells durable state as records from now on: to be called before anything else, where there is a store.
    pub fn keep_records(&mut self, recording: Recording) {
        self.journal.start(recording, self.config.shard.0, self.config.shards);
    }

    /// Takes an admitted client in: takeover, session, will, CONNACK (in its out buffer). The driver keeps its socket
    /// under `ConnId::slot`. A refused one (`Err`: bytes of the CONNACK to write before the close) leaves nothing behind.
    pub fn admit(&mut self, admission: Admission<'_>, now: Millis) -> Result<ConnId, Vec<u8>> {
        self.now = now;
        self.begin_prompt();
        self.admit_client(&admission, now)
    }

    /// Feeds bytes that were read from `conn`. Decodes and handles every whole packet in them.
    pub fn receive(&mut self, conn: ConnId, bytes: &[u8], now: Millis) -> Received {
        self.now = now;
        let closed = Received { consumed: bytes.len(), needs: None, then: Then::Close };
        let Some(connection) = self.connections.get_generation(conn.slot, conn.generation) else { return closed };
        let context = DecodeContext {
            version: connection.version,
            max_packet_size: connection.policy.limits.message_max_size,
            from: Side::Client,
        };
        let endpoint = connection.endpoint as usize;
        self.work = 0;
        self.begin_prompt();
        let mut consumed = 0;
        let mut needs = None;
        while consumed < bytes.len() {
            if self.connections.get(conn.slot).is_none_or(|c| c.closing) {
                break;
            }
            // Matched by reference: a decoded packet is large, and moving it out costs more than decoding it.
            match &decode(&bytes[consumed..], &context) {
                Ok(Decoded::Packet { packet, len }) => {
                    self.work += 1;
                    self.on_packet(conn, packet, &bytes[consumed..consumed + len], now);
                    consumed += len;
                }
                Ok(Decoded::Incomplete { needs: whole }) => {
                    needs = *whole;
                    break;
                }
                Err(error) => {
                    // A second CONNECT may be wrong in a way that DISCONNECT has no code for [MQTT-3.1.0-2].
                    let has_no_code =
                        matches!(error.kind, DecodeErrorKind::UnsupportedVersion | DecodeErrorKind::ClientIdentifier);
                    self.refuse(conn.slot, if has_no_code { ReasonCode::ProtocolError } else { error.reason });
                }
            }
        }
        self.counters[endpoint].bytes_received += consumed as u64;
        let Some(connection) = self.connections.get_mut(conn.slot) else { return closed };
        if consumed > 0 {
            // Packets count, not the bytes of one that never ends [MQTT-3.1.2-22].
            connection.last_received = now;
        }
        let then = match (connection.closing, connection.pauses > 0) {
            (true, _) => Then::Close,
            (false, true) => Then::Pause,
            (false, false) => Then::Continue,
        };
        if connection.receive_maximum == 0 {
            self.leaving.push(conn);
        }
        if then == Then::Close { closed } else { Received { consumed, needs, then } }
    }

    fn on_packet(&mut self, id: ConnId, packet: &Packet<'_>, raw: &[u8], now: Millis) {
        match packet {
            Packet::Publish(publish) if self.journal.full && self.hold_publish(id, publish, raw) => {}
            Packet::Publish(publish) => self.on_publish(id, publish, raw, now),
            Packet::PubAck(ack) => self.on_puback(id, ack, now),
            Packet::PubRec(ack) => self.on_pubrec(id, ack, now),
            Packet::PubRel(ack) => self.on_pubrel(id, ack),
            Packet::PubComp(ack) => self.on_pubcomp(id, ack, now),
            Packet::Subscribe(subscribe) => self.on_subscribe(id, subscribe, now),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(id, unsubscribe),
            Packet::PingReq => self.write_past_holds(id.slot, |out| {
                weir_mqtt::pingresp(out);
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

    /// Connections with something to write since the last call (each once), but for the crowd's.
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

    /// How much work the last [`Core::receive`] was: packets taken, and deliveries that they came to here.
    pub fn work(&self) -> usize {
        self.work
    }

    /// Whether something waits to be taken: a connection to flush, to close or to resume.
    pub fn has_pending(&self) -> bool {
        let nothing =
            self.dirty.is_empty() && self.closing.is_empty() && self.resumed.is_empty() && self.leaving.is_empty();
        !(nothing && self.crowd.is_empty()) || self.has_more_to_take()
    }

    /// Connections the core wants closed once their out buffer is flushed (takeover, keep-alive, breach, drain).
    pub fn take_closing(&mut self, into: &mut Vec<ConnId>) {
        self.say_goodbye();
        into.append(&mut self.closing);
    }

    /// Whatever is due: keep-alives, wills, expiries, pauses' deadlines.
    pub fn tick(&mut self, now: Millis) {
        self.now = now;
        self.send_restored();
        while let Some(timer) = self.timers.pop_due(now) {
            match timer {
                Timer::KeepAlive(id) => self.check_keep_alive(id, now),
                Timer::Session { id, generation } => self.session_is_due(SessionRef { id, generation }, now),
                Timer::Pause(id) => self.pause_is_over(id, now),
                Timer::Rate(id) => self.look_at_rate(id, now),
                Timer::Credential(id) => self.check_credential(id, now),
                Timer::Farewell(id) => self.leaving.push(id),
            }
        }
        self.expire_retained(now);
    }

    /// When [`Core::tick`] is next needed.
    pub fn next_deadline(&self) -> Option<Millis> {
        let retained = self.spaces.iter().filter_map(|space| space.retained.next_expiry()).min();
        let restored = self.outbox.has_restored().then_some(0);
        [self.timers.next(), retained, restored].into_iter().flatten().min()
    }

    /// A client that was silent for one and a half times its keep-alive is gone [MQTT-3.1.2-22].
    fn check_keep_alive(&mut self, id: ConnId, now: Millis) {
        let Some(connection) = self.connections.get_generation(id.slot, id.generation) else { return };
        if connection.pauses > 0 {
            // Who is not read cannot be heard.
            connection.last_received = now;
        }
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
            Some(at) if at <= now => self.tell_and_close(id.slot, ReasonCode::NotAuthorized),
            // It was renewed, and has another timer.
            _ => {}
        }
    }

    /// A new policy for an endpoint's open connections (law 7 of the design): limits change live, subscriptions the new
    /// rules refuse are removed, queued messages they forbid are dropped; what the endpoint's clients had retained is
    /// given out as far as they may still publish it.
    pub fn set_policy(&mut self, policy: Arc<EndpointPolicy>, now: Millis) {
        self.now = now;
        self.learn_policy(&policy);
        for id in self.connections(policy.id) {
            let Some(connection) = self.connections.get_mut(id.slot) else { continue };
            connection.policy = Arc::clone(&policy);
            connection.permitted = None;
            let rates = super::rate::Rates::new(&policy.limits, now);
            if rates.is_some() || connection.rare.is_some() {
                let aside = connection.aside();
                aside.rates = rates;
                // What the old rates had it wait for is forgiven.
                aside.resumes_at = aside.resumes_at.min(now);
            }
            let session = connection.session;
            if let Some(session) = self.sessions.get_mut(session) {
                session.policy = Arc::clone(&policy);
            }
            self.judge_session(session);
            self.pump(session, now);
        }
    }

    /// Restored sessions of an endpoint get its policy as soon as it is declared. Answers with those that have a will.
    pub(super) fn adopt(&mut self, policy: &Arc<EndpointPolicy>) -> Vec<SessionRef> {
        let mut have_wills = Vec::new();
        if !self.journal.on {
            return have_wills;
        }
        let waits_for = |session: &Session| {
            let old = &session.policy;
            old.id == EndpointId::RESTORED && old.name == policy.name && old.namespace == policy.namespace
        };
        let waiting = self.sessions.iter().filter(|(_, session)| waits_for(session));
        for id in waiting.map(|(id, _)| id).collect::<Vec<SessionId>>() {
            let generation = self.sessions.generation(id);
            let Some(session) = self.sessions.get_mut(id) else { continue };
            if session.counted_away {
                self.away.subtract(session.policy.id);
                session.counted_away = self.away.try_add(policy.id, None);
            }
            session.policy = Arc::clone(policy);
            if session.will.is_some() {
                have_wills.push(SessionRef { id, generation });
            }
        }
        have_wills
    }

    /// The place of an endpoint's counters.
    pub(super) fn endpoint_place(&mut self, id: EndpointId) -> u32 {
        *self.endpoint_index.entry(id).or_insert_with(|| {
            self.counters.push(EndpointCounters::default());
            self.leases.push(Lease::NONE);
            (self.counters.len() - 1) as u32
        })
    }
}
