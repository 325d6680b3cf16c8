//! One shard's core: its state, and the interface through which it is driven.

mod acknowledgements;
mod auth_packet;
mod charge_publish;
pub(crate) mod client_view;
mod cluster_clients;
mod cluster_groups;
mod commit;
mod connect;
pub(crate) mod deferred;
mod deliver;
mod disconnect;
mod drain;
mod events;
mod flow_control;
mod full_disk;
pub(crate) mod group_delivery;
mod handover;
mod hold;
mod incoming_aliases;
pub(crate) mod inspect;
mod intercept;
mod kept_wills;
mod link_messages;
#[cfg(test)]
mod log_entry_tests;
mod memory;
#[cfg(test)]
mod memory_tests;
mod policy_change;
mod publish;
mod publish_will;
mod reauthorize;
mod receiver_search;
mod resend;
mod restore;
mod retained_read;
mod route;
mod session_queue;
mod slot_copies;
#[cfg(test)]
mod slot_copies_tests;
pub(crate) mod slots;
#[cfg(test)]
mod slots_tests;
pub(crate) mod subscribe;
mod takeover;
#[cfg(test)]
mod tests;
pub(crate) mod topic_level;
mod transit;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::clients::connection::Transit;
use crate::clients::state::Clients;
use crate::clients::timers::Timer;
use crate::clients::wills::Wills;
use crate::core::deferred::{Deferred, WorkBudget};
use crate::core::hold::Moves;
use crate::core::slots::SlotState;
use crate::delivery::fanout_scheduler::FanoutScheduler;
use crate::delivery::held_publishes::HeldPublishes;
use crate::driver::PollState;
use crate::durability::journal::{CommitJournal, Recording, ShardPart};
use crate::gateway::is_of_node;
use crate::hash::HashSeed;
use crate::ids::{ConnId, Millis, NamespaceId, ShardId};
use crate::limits::SHARDS_MAX;
use crate::links::outbox::Outbox;
use crate::links::state::Links;
use crate::observe::Site;
use crate::observe::state::Observe;
use crate::routing::state::Routing;
use crate::values::group::GroupKey;
use crate::values::memory::MemoryPart;
use crate::{EndpointPolicy, OfflineSessions, OutBuf, Principal, RetainedTotals, TotalRates};
use weir_mqtt::{Connect, DecodeContext, DecodeErrorKind, Decoded, Packet, ReasonCode, Side, decode};

/// Bytes read that count as a unit of work.
const BYTES_PER_WORK: usize = 1024;

/// A client to be admitted: its CONNECT is decoded, its credentials were accepted, this is its home shard.
pub struct Admission<'a> {
    /// The policy of the endpoint.
    pub policy: Arc<EndpointPolicy>,
    /// The CONNECT packet.
    pub connect: &'a Connect<'a>,
    /// As sent, or as assigned.
    pub client_id: &'a str,
    /// Whether the server assigned it (5.0: sent in CONNACK).
    pub assigned: bool,
    /// The authenticated client.
    pub principal: Principal,
    /// The last AUTH data of an enhanced authentication, for CONNACK.
    pub authentication_data: Option<&'a [u8]>,
}

/// The result of feeding bytes to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReceiveResult {
    /// Bytes of whole packets taken; the rest is a partial packet, to be kept and fed again with what follows.
    pub consumed: usize,
    /// The whole length of the partial packet that follows, where its header is complete: what to have room for.
    pub needs: Option<usize>,
    /// What the driver does with the connection.
    pub action: ReadAction,
}

/// The next action of the driver on the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadAction {
    /// Read on.
    Continue,
    /// Read no more until [`Core::poll`] names it in a resume: a receiver of its messages is slow, or its rate is used up.
    /// What is left of the bytes may begin with whole packets: it is to be fed again then, before anything that is read.
    Pause,
    /// Write what waits in its [`OutBuf`], close the socket, and call [`Core::connection_closed`].
    Close,
}

/// How the core is set up.
#[derive(Debug, Clone, Copy)]
pub struct CoreConfig {
    /// The shard whose core it is.
    pub shard: ShardId,
    /// At most [`SHARDS_MAX`].
    pub shards: u16,
    /// Seeds the hash tables of client ids, topics and filters: random in a server, so that no client can choose what
    /// collides; fixed in a test, so that it replays.
    pub hash_seed: u64,
    /// How much work is done at once for one client.
    pub work: WorkBudget,
}

/// One shard's broker.
///
/// # The order of calls
///
/// 1. Once: [`Core::new`]; then, as far as they apply, [`Core::share_memory`], [`Core::bound_records`],
///    [`Core::share_counts`], [`Core::start_recording`] and [`Core::restore`]; and [`Core::register_policy`] for each endpoint.
/// 2. In each turn of the driver's loop: [`Core::begin_turn`]; then inputs in any order: [`Core::admit`], [`Core::receive`],
///    [`Core::deliver_batch`], [`Core::on_store_ack`], [`Core::tick`] when [`Core::next_deadline`] is due, and what the
///    control plane asks for ([`Core::set_policy`], [`Core::disconnect`], [`Core::begin_drain`], ...).
/// 3. At the end of the turn: [`Core::poll`] until it answers `None`, by [`drive`](crate::drive). Each [`Output`](crate::Output)
///    says what follows it: [`Core::written`] after a flush, [`Core::connection_closed`] after a close.
/// 4. For each admitted connection exactly one [`Core::connection_closed`], however it ends.
///
/// Every call takes the time, which never goes back.
pub struct Core {
    pub(crate) config: CoreConfig,
    pub(crate) clients: Clients,
    pub(crate) wills: Wills,
    pub(crate) routing: Routing,
    pub(crate) scheduler: FanoutScheduler,
    pub(crate) held_publishes: HeldPublishes,
    pub(crate) links: Links,
    pub(crate) outbox: Outbox,
    /// The shard that is the way to the other nodes, where there are any.
    pub(crate) gateway: Option<ShardId>,
    /// The newest stamp of a connection that this shard knows of, here or on another node.
    pub(crate) stamp: u64,
    /// In a cluster: which sessions this node serves.
    pub(crate) slots: SlotState,
    /// What a move of slots needs of this shard.
    pub(crate) moves: Moves,
    /// Groups owned here whose members have changed in this turn, for the gateway.
    pub(crate) touched_groups: BTreeSet<Arc<GroupKey>>,
    /// Numbers the SUBSCRIBEs that wait for other shards.
    pub(crate) serial: u32,
    /// Positions of disconnected clients' messages in transit over a topic's owner, by [`Core::client_hash`].
    pub(crate) routes_of_disconnected: Vec<(u64, Transit)>,
    /// In a cluster: bytes of an entry of the log of retained messages at most.
    pub(crate) log_entry_max: usize,
    /// The time of the call that is being served.
    pub(crate) now: Millis,
    /// Packets taken, deliveries made and nodes visited since the last [`Core::receive`] began.
    pub(crate) work: usize,
    pub(crate) deferred: Deferred,
    /// A PUBLISH may be put off: it is read from its connection. And one was: nothing more is read.
    pub(crate) may_defer: bool,
    pub(crate) stops_reading: bool,
    pub(crate) journal: CommitJournal,
    pub(crate) observe: Observe,
    pub(crate) memory: MemoryPart,
    pub(crate) poll_state: PollState,
}

impl Core {
    /// A core without clients.
    ///
    /// # Panics
    /// Above [`SHARDS_MAX`] shards: messages for the others would be lost.
    pub fn new(config: CoreConfig) -> Core {
        assert!(config.shards <= SHARDS_MAX, "{} shards, of at most {SHARDS_MAX}", config.shards);
        let seed = HashSeed::new(config.hash_seed);
        Core {
            config,
            clients: Clients::new(seed.clone()),
            wills: Wills::default(),
            routing: Routing::new(config.shards, seed),
            scheduler: FanoutScheduler::new(),
            held_publishes: HeldPublishes::default(),
            links: Links::new(config.shard, config.shards),
            outbox: Outbox::default(),
            gateway: None,
            stamp: 0,
            slots: SlotState::default(),
            moves: Moves::default(),
            touched_groups: BTreeSet::new(),
            serial: 0,
            routes_of_disconnected: Vec::new(),
            log_entry_max: usize::MAX,
            now: 0,
            work: 0,
            deferred: Deferred::default(),
            may_defer: false,
            stops_reading: false,
            journal: CommitJournal::new(ShardPart { shards: config.shards, shard: config.shard.0 }),
            observe: Observe::default(),
            memory: MemoryPart::default(),
            poll_state: PollState::default(),
        }
    }

    /// Counts sessions of offline clients, publishes against endpoints' rates, and what endpoints' publishers have retained,
    /// together with the node's other cores.
    pub fn share_counts(
        &mut self,
        offline_sessions: OfflineSessions,
        total_rates: TotalRates,
        retained: RetainedTotals,
    ) {
        self.clients.share_counts(offline_sessions, total_rates);
        self.routing.share_retained(retained);
    }

    /// Enables the recording of durable state; call it first if there is a store.
    pub fn start_recording(&mut self, recording: Recording) {
        self.journal.start(recording);
    }

    /// The node is one of a cluster: one more shard, behind all others, is its [`Gateway`](crate::gateway::Gateway). To be called
    /// before anything is restored or admitted.
    pub fn join_cluster(&mut self) {
        self.gateway = Some(self.links.add());
        self.journal.wait_for_peers();
    }

    /// The shard that is the next hop of a retained message of a topic: the gateway, from where it comes back in the one
    /// order that all nodes have, or the topic's owner.
    pub(crate) fn retained_route(&self, namespace: NamespaceId, topic: &str) -> ShardId {
        match self.gateway {
            Some(gateway) if !is_of_node(topic) => gateway,
            _ => self.routing.topic_owner(namespace, topic),
        }
    }

    /// Admits a client: takeover, session, will, CONNACK (in its out buffer). The driver keeps its socket
    /// under `ConnId::slot`. A refused one (`Err`: bytes of the CONNACK to write before the close) leaves nothing behind.
    pub fn admit(&mut self, admission: Admission<'_>, now: Millis) -> Result<ConnId, Vec<u8>> {
        self.now = now;
        self.scheduler.refill_priority_budget();
        self.admit_client(&admission, now)
    }

    /// Feeds bytes that were read from `conn`. Decodes and handles every whole packet in them.
    pub fn receive(&mut self, conn: ConnId, bytes: &[u8], now: Millis) -> ReceiveResult {
        self.now = now;
        let closed = ReceiveResult { consumed: bytes.len(), needs: None, action: ReadAction::Close };
        let Some(connection) = self.clients.open(conn) else { return closed };
        let context = DecodeContext {
            version: connection.version,
            max_packet_size: connection.policy.limits.message_max_size,
            from: Side::Client,
        };
        let endpoint = connection.endpoint;
        self.work = bytes.len() / BYTES_PER_WORK;
        self.scheduler.refill_priority_budget();
        self.may_defer = true;
        let mut consumed = 0;
        let mut needs = None;
        while consumed < bytes.len() {
            if self.clients.connection(conn.slot).is_none_or(|c| c.closing) {
                break;
            }
            // Matched by reference: a decoded packet is large, and moving it out costs more than decoding it.
            match &decode(&bytes[consumed..], &context) {
                Ok(Decoded::Packet { packet: Packet::Publish(_), .. }) if self.waits_for_hold(conn) => break,
                Ok(Decoded::Packet { packet, len }) => {
                    self.work += 1;
                    self.on_packet(conn, packet, &bytes[consumed..consumed + len], now);
                    consumed += len;
                    if std::mem::take(&mut self.stops_reading) {
                        break;
                    }
                    if self.work > self.config.work.read && consumed < bytes.len() {
                        self.defer_reading(conn);
                        break;
                    }
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
        self.may_defer = false;
        self.observe.endpoint(endpoint).bytes_received += consumed as u64;
        let Some(connection) = self.clients.connection_mut(conn.slot) else {
            self.observe.count_error(Site::ConnectionOfPacket);
            return closed;
        };
        if consumed > 0 {
            // Packets count, not the bytes of one that never ends [MQTT-3.1.2-22].
            connection.last_received = now;
        }
        let action = match (connection.closing, connection.pauses > 0) {
            (true, _) => ReadAction::Close,
            (false, true) => ReadAction::Pause,
            (false, false) => ReadAction::Continue,
        };
        if connection.receive_maximum == 0 {
            self.clients.push_draining(conn);
        }
        if action == ReadAction::Close { closed } else { ReceiveResult { consumed, needs, action } }
    }

    fn on_packet(&mut self, id: ConnId, packet: &Packet<'_>, raw: &[u8], now: Millis) {
        match packet {
            Packet::Publish(publish) if self.journal.is_full() && self.hold_publish(id, publish, raw) => {}
            Packet::Publish(publish) => self.on_publish(id, publish, raw, now),
            Packet::PubAck(ack) => self.on_puback(id, ack, now),
            Packet::PubRec(ack) => self.on_pubrec(id, ack, now),
            Packet::PubRel(ack) => self.on_pubrel(id, ack),
            Packet::PubComp(ack) => self.on_pubcomp(id, ack, now),
            Packet::Subscribe(subscribe) => self.on_subscribe(id, subscribe, now),
            Packet::Unsubscribe(unsubscribe) => self.on_unsubscribe(id, unsubscribe),
            Packet::PingReq => self.write_past_gates(id.slot, usize::MAX, |out| {
                weir_mqtt::pingresp(out);
                Ok(())
            }),
            Packet::Disconnect(disconnect) => self.on_disconnect(id, disconnect),
            Packet::Auth(auth) => self.on_auth(id, auth),
            // A second CONNECT [MQTT-3.1.0-2], and packets only a server sends.
            _ => self.refuse(id.slot, ReasonCode::ProtocolError),
        }
    }

    /// The socket is gone, or the driver closes it: the will is published or delayed, the session's expiry begins, the slot
    /// is free again. To be called once for every admitted connection, however it ends.
    pub fn connection_closed(&mut self, conn: ConnId, now: Millis) {
        self.now = now;
        self.on_connection_closed(conn, now);
    }

    /// Out buffer of a connection; the driver writes from it and advances it, then calls [`Core::written`].
    #[inline]
    pub fn out(&mut self, conn: ConnId) -> Option<&mut OutBuf> {
        self.clients.open(conn).map(|c| &mut c.outlet.out)
    }

    /// The driver wrote from the out buffer: lets paused publishers and queued messages move on.
    pub fn written(&mut self, conn: ConnId, now: Millis) {
        self.now = now;
        if self.clients.open(conn).is_some() {
            self.on_written(conn.slot, now);
        }
    }

    /// How much work the last [`Core::receive`] was: packets taken, and deliveries that they came to here.
    pub fn work(&self) -> usize {
        self.work
    }

    /// Whether something waits to be taken: a connection to flush, to close or to resume.
    pub fn has_pending(&self) -> bool {
        !self.clients.is_idle() || !self.scheduler.is_idle() || self.links.has_undrained()
    }

    /// The next connection to write to ahead of the bulk queue.
    pub(crate) fn next_flush(&mut self) -> Option<ConnId> {
        let id = self.scheduler.next_flush()?;
        if let Some(connection) = self.clients.open(id) {
            connection.outlet.begin_flush();
        }
        Some(id)
    }

    /// The next connection of the bulk queue: those that got a message because it went to many. Each may be flushed ahead
    /// of its turn in between.
    pub(crate) fn next_bulk_flush(&mut self) -> Option<ConnId> {
        let id = self.scheduler.next_bulk_flush()?;
        if let Some(connection) = self.clients.open(id) {
            connection.outlet.begin_bulk_flush();
        }
        Some(id)
    }

    /// How many connections are in the bulk queue.
    pub fn bulk_flush_len(&self) -> usize {
        self.scheduler.bulk_len()
    }

    /// A connection that could not be written to for a while can be again.
    pub fn schedule_bulk_flush(&mut self, conn: ConnId) {
        if let Some(connection) = self.clients.open(conn) {
            self.scheduler.end_priority();
            self.scheduler.schedule(conn, &mut connection.outlet);
        }
    }

    /// The next connection to close once its out buffer is flushed (takeover, keep-alive, breach, drain).
    pub(crate) fn next_closing(&mut self) -> Option<ConnId> {
        self.finish_drain();
        self.clients.next_closing()
    }

    /// Whatever is due: keep-alives, wills, expiries, pauses' deadlines.
    pub fn tick(&mut self, now: Millis) {
        self.now = now;
        self.send_restored();
        while let Some(timer) = self.clients.pop_due(now) {
            match timer {
                Timer::KeepAlive(id) => self.check_keep_alive(id, now),
                Timer::Session(session) => self.session_is_due(session, now),
                Timer::Pause(id) => self.on_pause_deadline(id, now),
                Timer::Rate(id) => self.check_rate(id, now),
                Timer::Credential(id) => self.check_credential(id, now),
                Timer::DrainDeadline(id) => self.clients.push_draining(id),
            }
        }
        self.expire_retained(now);
        self.run_deferred(now);
        self.expire_hold(now);
        self.answer_moves();
    }

    /// When [`Core::tick`] is next needed.
    pub fn next_deadline(&self) -> Option<Millis> {
        let at_once = (self.outbox.has_restored() || !self.deferred.is_empty()).then_some(0);
        [self.clients.next_timer(), self.routing.next_expiry(), self.moves.deadline(), at_once]
            .into_iter()
            .flatten()
            .min()
    }

    /// A client that was silent for one and a half times its keep-alive is gone [MQTT-3.1.2-22].
    fn check_keep_alive(&mut self, id: ConnId, now: Millis) {
        let Some(connection) = self.clients.open(id) else { return };
        if connection.pauses > 0 {
            // While it is not read, its packets cannot arrive.
            connection.last_received = now;
        }
        let deadline = connection.last_received + u64::from(connection.keep_alive_ms);
        if deadline > now {
            self.clients.set_timer(deadline, Timer::KeepAlive(id));
        } else {
            self.disconnect_with(id.slot, ReasonCode::KeepAliveTimeout);
        }
    }

    fn check_credential(&mut self, id: ConnId, now: Millis) {
        let Some(connection) = self.clients.open(id) else { return };
        match connection.principal.expires_at {
            Some(at) if at <= now => self.disconnect_with(id.slot, ReasonCode::NotAuthorized),
            // It was renewed, and has another timer.
            _ => {}
        }
    }
}
