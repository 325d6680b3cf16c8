//! The two connections of a bridge: CONNECT, negotiated limits, keep-alive, DISCONNECT.

use std::sync::Arc;

use super::Millis;
use super::ids::PacketIds;
use super::output_buffer::{HIGH_BYTES, OutputBuffer};
use super::rule::TopicRule;
use super::spec::{BridgeCounters, BridgeFailure, BridgeSpec, FailureCause};
use super::subscribe::{Filters, SideSubscriptions};
use weir_mqtt::{
    Connect, ConnectProperties, DecodeContext, DecodeError, Decoded, Disconnect, Packet, PacketId, ProtocolVersion,
    QoS, RetainHandling, Side, SubscriptionOptions, UserProperties, decode, encode,
};

/// The state of one of the two connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SideState {
    Closed,
    /// CONNECT is sent, CONNACK has not arrived.
    Opening,
    Up,
}

/// Maximum size of an incoming packet, bytes.
const PACKET_MAX_BYTES: u32 = (16 << 20) + (256 << 10);
/// Timeout from the open connection to both CONNACKs, milliseconds.
const HANDSHAKE_MS: Millis = 10_000;

/// A link: takes bytes and time, returns bytes.
#[derive(Debug)]
pub struct BridgeLink {
    pub(super) spec: Arc<BridgeSpec>,
    pub(super) remote: SideState,
    pub(super) local: SideState,
    pub(super) to_remote: OutputBuffer,
    pub(super) to_local: OutputBuffer,
    pub(super) remote_subscriptions: SideSubscriptions,
    pub(super) local_subscriptions: SideSubscriptions,
    wanted_remote: Filters,
    wanted_local: Filters,
    /// Limits of the remote broker.
    pub(super) window: u16,
    pub(super) maximum_qos: QoS,
    pub(super) retain_available: bool,
    pub(super) maximum_packet_size: u32,
    pub(super) keep_alive_ms: Millis,
    /// Messages in flight to the remote broker.
    pub(super) open: PacketIds,
    pub(super) last_out: PacketId,
    /// QoS 2 messages that are sent with a lower QoS, since the remote broker supports no more.
    pub(super) downgraded: PacketIds,
    /// Identifiers of QoS 2 messages that the remote broker may hold, and those that the local session may hold.
    pub(super) qos2_remote: PacketIds,
    pub(super) qos2_local: PacketIds,
    /// Identifiers of a lost session, which are released before any message is forwarded; see `relay`.
    pub(super) stale_remote: PacketIds,
    pub(super) stale_local: PacketIds,
    /// 3.1.1: the remote broker refused the bridge flag of mosquitto's CONNECT.
    pub(super) no_bridge_flag: bool,
    /// No new messages are sent to the remote broker; those in flight complete.
    pub(super) draining: bool,
    /// The local session existed before this link, and its subscriptions are unknown.
    pub(super) needs_local_subscriptions: bool,
    pub(super) handshake_until: Millis,
    last_sent: Millis,
    last_received: Millis,
    pinged_at: Option<Millis>,
    pub(super) counters: BridgeCounters,
    pub(super) name: String,
}

impl BridgeLink {
    /// A link without open connections.
    pub fn new(spec: Arc<BridgeSpec>) -> Self {
        let mut link = Self {
            spec,
            remote: SideState::Closed,
            local: SideState::Closed,
            to_remote: OutputBuffer::default(),
            to_local: OutputBuffer::default(),
            remote_subscriptions: SideSubscriptions::default(),
            local_subscriptions: SideSubscriptions::default(),
            wanted_remote: Filters::new(),
            wanted_local: Filters::new(),
            window: 1,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: u32::MAX,
            keep_alive_ms: 0,
            open: PacketIds::default(),
            last_out: PacketId::MIN,
            downgraded: PacketIds::default(),
            // The state before this process is unknown: assume that both sides hold every identifier.
            qos2_remote: PacketIds::all(),
            qos2_local: PacketIds::all(),
            stale_remote: PacketIds::default(),
            stale_local: PacketIds::default(),
            no_bridge_flag: false,
            draining: false,
            needs_local_subscriptions: true,
            handshake_until: Millis::MAX,
            last_sent: 0,
            last_received: 0,
            pinged_at: None,
            counters: BridgeCounters::default(),
            name: String::new(),
        };
        link.update_wanted_filters();
        link
    }

    /// Sets a new specification. On open connections only the differences are subscribed and unsubscribed; changes of
    /// CONNECT apply to the next connection.
    ///
    /// # Errors
    /// A filter cannot be encoded.
    pub fn set_spec(&mut self, spec: Arc<BridgeSpec>, now: Millis) -> Result<(), BridgeFailure> {
        self.spec = spec;
        self.update_wanted_filters();
        self.subscribe_local()?;
        self.subscribe_remote(now)
    }

    /// Call when the connection to the remote broker is open: sends CONNECT.
    ///
    /// CONNECT cannot be encoded: a string is too long.
    pub fn remote_opened(&mut self, now: Millis) -> Result<(), BridgeFailure> {
        let spec = Arc::clone(&self.spec);
        let is_v5 = spec.version == ProtocolVersion::V5;
        let connect = Connect {
            version: spec.version,
            bridge: !is_v5 && !self.no_bridge_flag,
            clean_start: spec.clean_start,
            keep_alive_s: spec.keep_alive_s,
            client_id: &spec.client_id,
            username: spec.username.as_deref(),
            password: spec.password.as_deref(),
            will: None,
            properties: ConnectProperties {
                session_expiry_s: (is_v5 && !spec.clean_start).then_some(spec.session_expiry_s),
                maximum_packet_size: is_v5.then_some(PACKET_MAX_BYTES),
                ..ConnectProperties::default()
            },
        };
        encode(&Packet::Connect(Box::new(connect)), spec.version, self.to_remote.buffer())?;
        self.remote = SideState::Opening;
        self.handshake_until = now + HANDSHAKE_MS;
        (self.last_sent, self.last_received, self.pinged_at) = (now, now, None);
        Ok(())
    }

    /// Whether the local connection is needed: the remote one is up, or subscriptions have to change.
    pub fn wants_local(&self) -> bool {
        self.remote == SideState::Up
            || self.remote == SideState::Closed && !self.local_subscriptions.is_settled(&self.wanted_local)
    }

    /// Call when the connection to this broker is open: sends CONNECT.
    ///
    /// # Errors
    /// CONNECT cannot be encoded.
    pub fn local_opened(&mut self, now: Millis) -> Result<(), BridgeFailure> {
        let spec = Arc::clone(&self.spec);
        // While the remote broker is not connected, as few messages as possible are sent in vain.
        let window = if self.remote == SideState::Up { self.window } else { 1 };
        let connect = Connect {
            version: ProtocolVersion::V5,
            bridge: false,
            clean_start: false,
            keep_alive_s: 0,
            client_id: &spec.local_id,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties {
                session_expiry_s: Some(u32::MAX),
                receive_maximum: PacketId::new(window),
                ..ConnectProperties::default()
            },
        };
        encode(&Packet::Connect(Box::new(connect)), ProtocolVersion::V5, self.to_local.buffer())?;
        self.local = SideState::Opening;
        self.handshake_until = now + HANDSHAKE_MS;
        Ok(())
    }

    /// Call when the local connection is closed.
    pub fn local_closed(&mut self) {
        self.local = SideState::Closed;
        self.to_local.clear();
    }

    /// Call when both connections are closed.
    pub fn closed(&mut self) {
        self.local_closed();
        self.remote = SideState::Closed;
        self.to_remote.clear();
        self.downgraded = PacketIds::default();
        self.draining = false;
        self.handshake_until = Millis::MAX;
        self.update_wanted_filters();
    }

    /// Whether both connections are up.
    pub fn is_up(&self) -> bool {
        self.remote == SideState::Up && self.local == SideState::Up
    }

    /// Whether the remote broker has accepted the connection.
    pub fn is_remote_up(&self) -> bool {
        self.remote == SideState::Up
    }

    /// Whether this broker has accepted the local connection.
    pub fn is_local_up(&self) -> bool {
        self.local == SideState::Up
    }

    /// Whether bytes of the remote broker can be consumed: not before the local session can acknowledge them, and not
    /// while too much output waits.
    pub fn reads_remote(&self) -> bool {
        let ready = self.remote == SideState::Opening || self.is_up() && self.stale_local.is_empty();
        ready && self.to_local.waiting().len() < HIGH_BYTES
    }

    /// Whether bytes of this broker can be consumed.
    pub fn reads_local(&self) -> bool {
        let ready = !self.is_up() || self.stale_remote.is_empty();
        ready && self.to_remote.waiting().len() < HIGH_BYTES
    }

    /// Output for the remote broker.
    pub fn to_remote(&mut self) -> &mut OutputBuffer {
        &mut self.to_remote
    }

    /// Output for this broker.
    pub fn to_local(&mut self) -> &mut OutputBuffer {
        &mut self.to_local
    }

    /// Counters since the link was created.
    pub fn counters(&self) -> BridgeCounters {
        self.counters
    }

    /// Number of messages that the remote broker has not acknowledged.
    pub fn unacknowledged(&self) -> u32 {
        self.open.len()
    }

    /// Filters whose subscription the remote broker refused, with the reason code.
    pub fn refused(&self) -> impl Iterator<Item = (&str, u8)> {
        self.remote_subscriptions.refused()
    }

    /// Handles bytes of the remote broker; returns how many were consumed. Pass the rest again, with the bytes that
    /// follow.
    ///
    /// # Errors
    /// The link must be closed.
    pub fn from_remote(&mut self, bytes: &[u8], now: Millis) -> Result<usize, BridgeFailure> {
        let context =
            DecodeContext { version: self.spec.version, max_packet_size: PACKET_MAX_BYTES, from: Side::Server };
        let mut consumed = 0;
        while self.reads_remote() {
            match decode(&bytes[consumed..], &context).map_err(|error| protocol_error("the remote broker", &error))? {
                Decoded::Incomplete { .. } => break,
                Decoded::Packet { packet, len } => {
                    self.on_remote(&packet, now)?;
                    consumed += len;
                }
            }
        }
        if consumed > 0 {
            self.last_received = now;
            self.pinged_at = None;
        }
        Ok(consumed)
    }

    /// Handles bytes of this broker; returns how many were consumed.
    ///
    /// # Errors
    /// The link must be closed.
    pub fn from_local(&mut self, bytes: &[u8], now: Millis) -> Result<usize, BridgeFailure> {
        let context = DecodeContext { version: ProtocolVersion::V5, max_packet_size: u32::MAX, from: Side::Server };
        let mut consumed = 0;
        while self.reads_local() {
            match decode(&bytes[consumed..], &context).map_err(|error| protocol_error("this broker", &error))? {
                Decoded::Incomplete { .. } => break,
                Decoded::Packet { packet, len } => {
                    self.on_local(&packet, now)?;
                    consumed += len;
                }
            }
        }
        Ok(consumed)
    }

    /// Whether the local session existed before this link: the driver must call [`BridgeLink::set_local_subscriptions`].
    pub fn needs_local_subscriptions(&self) -> bool {
        self.needs_local_subscriptions && self.local == SideState::Up
    }

    /// Sets the subscriptions that the local session has.
    ///
    /// # Errors
    /// A filter cannot be encoded.
    pub fn set_local_subscriptions(&mut self, filters: impl IntoIterator<Item = String>) -> Result<(), BridgeFailure> {
        self.needs_local_subscriptions = false;
        self.local_subscriptions.set_existing(filters);
        self.subscribe_local()
    }

    pub(super) fn subscribe_local(&mut self) -> Result<(), BridgeFailure> {
        if self.local != SideState::Up || self.needs_local_subscriptions {
            return Ok(());
        }
        Ok(self.local_subscriptions.request_changes(
            &self.wanted_local,
            ProtocolVersion::V5,
            PacketId::MIN,
            self.to_local.buffer(),
        )?)
    }

    pub(super) fn subscribe_remote(&mut self, now: Millis) -> Result<(), BridgeFailure> {
        if self.remote != SideState::Up {
            return Ok(());
        }
        // Half the range apart from the identifiers of current messages, so that none of them is reached before the
        // answer arrives.
        let opposite = |id: PacketId| PacketId::new(id.get().wrapping_add(1 << 15)).unwrap_or(PacketId::MIN);
        let mut free = opposite(self.last_out);
        while self.open.contains(free) || free == PacketId::MAX || self.open.contains(free.saturating_add(1)) {
            free = free.checked_add(1).unwrap_or(PacketId::MIN);
        }
        self.remote_subscriptions.request_changes(
            &self.wanted_remote,
            self.spec.version,
            free,
            self.to_remote.buffer(),
        )?;
        self.last_sent = now;
        Ok(())
    }

    /// Computes the subscriptions that each side should have.
    pub(super) fn update_wanted_filters(&mut self) {
        let maximum_qos = self.maximum_qos;
        let is_v5 = self.spec.version == ProtocolVersion::V5;
        let up = self.remote == SideState::Up;
        let list = |rules: &[TopicRule], maximum_qos: QoS, has_options: bool, retained: RetainHandling| {
            let mut filters = Filters::new();
            for rule in rules {
                let wanted = SubscriptionOptions {
                    qos: rule.qos.min(maximum_qos),
                    // Messages from the link must not return over it; a shared subscription cannot have No Local
                    // [MQTT-3.8.3-4].
                    no_local: has_options && rule.share.is_none(),
                    retain_as_published: has_options && rule.retain,
                    retain_handling: if rule.retain { retained } else { RetainHandling::Never },
                };
                let known = filters.entry(rule.subscription()).or_insert(wanted);
                known.qos = known.qos.max(wanted.qos);
            }
            filters
        };
        // Retained messages are requested only while the remote broker is connected: at QoS 0 they are not queued.
        let retained = if up { RetainHandling::Always } else { RetainHandling::Never };
        self.wanted_local = list(&self.spec.out, maximum_qos, true, retained);
        self.wanted_remote = list(&self.spec.inward, QoS::ExactlyOnce, is_v5, RetainHandling::IfNew);
    }

    /// Stops sending new messages; those in flight may complete. See [`BridgeLink::is_drained`].
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether no message is in flight to the remote broker.
    pub fn is_drained(&self) -> bool {
        self.open.is_empty() || !self.is_up()
    }

    /// Sends DISCONNECT to the remote broker. `end_session`: it must discard the session.
    ///
    /// # Errors
    /// DISCONNECT cannot be encoded.
    pub fn disconnect_remote(&mut self, end_session: bool) -> Result<(), BridgeFailure> {
        if self.remote != SideState::Up {
            return Ok(());
        }
        let version = self.spec.version;
        if end_session && version != ProtocolVersion::V5 {
            // 3.1.1 has no session expiry: unsubscribe instead.
            self.wanted_remote.clear();
            self.subscribe_remote(self.last_sent)?;
        }
        // The expiry of a session that ends with its connection cannot be changed [MQTT-3.14.2-2].
        let ends =
            end_session && version == ProtocolVersion::V5 && !self.spec.clean_start && self.spec.session_expiry_s > 0;
        let disconnect = Disconnect {
            session_expiry_s: ends.then_some(0),
            user_properties: UserProperties::default(),
            ..Disconnect::default()
        };
        Ok(weir_mqtt::disconnect(self.to_remote.buffer(), version, &disconnect)?)
    }

    /// Ends the local session and discards its queue.
    ///
    /// # Errors
    /// DISCONNECT cannot be encoded.
    pub fn end_local_session(&mut self) -> Result<(), BridgeFailure> {
        let disconnect = Disconnect { session_expiry_s: Some(0), ..Disconnect::default() };
        Ok(weir_mqtt::disconnect(self.to_local.buffer(), ProtocolVersion::V5, &disconnect)?)
    }

    pub(super) fn note_sent(&mut self, now: Millis) {
        self.last_sent = now;
    }

    /// When [`BridgeLink::tick`] is next needed.
    pub fn deadline(&self) -> Millis {
        let silence = match (self.remote == SideState::Up && self.keep_alive_ms > 0, self.pinged_at) {
            (false, _) => Millis::MAX,
            (true, Some(pinged_at)) => pinged_at + self.keep_alive_ms,
            (true, None) => self.last_sent.min(self.last_received) + self.keep_alive_ms,
        };
        silence.min(self.handshake_until)
    }

    /// Sends PINGREQ when the keep-alive is due, and checks timeouts.
    ///
    /// The remote broker did not answer in time.
    pub fn tick(&mut self, now: Millis) -> Result<(), BridgeFailure> {
        if now < self.deadline() {
            return Ok(());
        }
        if self.handshake_until <= now {
            let message = format!("no CONNACK within {} s", HANDSHAKE_MS / 1000);
            return Err(BridgeFailure::new(FailureCause::TimedOut, message));
        }
        if self.pinged_at.is_some() {
            let message = format!("no packet for {} s after PINGREQ", self.keep_alive_ms / 1000);
            return Err(BridgeFailure::new(FailureCause::TimedOut, message));
        }
        weir_mqtt::pingreq(self.to_remote.buffer());
        (self.pinged_at, self.last_sent) = (Some(now), now);
        Ok(())
    }
}

fn protocol_error(peer: &str, error: &DecodeError) -> BridgeFailure {
    BridgeFailure::new(FailureCause::Protocol, format!("{peer} sent an invalid packet: {error}"))
}
