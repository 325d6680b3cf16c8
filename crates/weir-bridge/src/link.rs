//! The two connections of a bridge: how they begin, what they agree on, how they end.

use std::sync::Arc;

use super::Millis;
use super::ids::Ids;
use super::outbox::{HIGH_BYTES, Outbox};
use super::rule::Rule;
use super::spec::{Cause, Counters, Failure, Spec};
use super::subscribe::{Filters, Subscriptions};
use weir_mqtt::{
    Connect, ConnectProperties, DecodeContext, DecodeError, Decoded, Disconnect, Packet, PacketId, ProtocolVersion,
    QoS, RetainHandling, Side, SubscriptionOptions, UserProperties, decode, encode,
};

/// How far one of the two connections is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leg {
    Closed,
    /// CONNECT is sent.
    Opening,
    Up,
}

/// Bytes of the largest packet that is taken.
const PACKET_MAX_BYTES: u32 = (16 << 20) + (256 << 10);
/// From the open connection to its being in use, both legs together.
const HANDSHAKE_MS: Millis = 10_000;

/// A link: bytes and time in, bytes out.
#[derive(Debug)]
pub struct Link {
    pub(super) spec: Arc<Spec>,
    pub(super) remote: Leg,
    pub(super) local: Leg,
    pub(super) to_remote: Outbox,
    pub(super) to_local: Outbox,
    pub(super) there: Subscriptions,
    pub(super) here: Subscriptions,
    wanted_there: Filters,
    wanted_here: Filters,
    /// What the other broker allows.
    pub(super) window: u16,
    pub(super) maximum_qos: QoS,
    pub(super) retain_available: bool,
    pub(super) maximum_packet_size: u32,
    pub(super) keep_alive_ms: Millis,
    /// Messages on their way to the other broker.
    pub(super) open: Ids,
    pub(super) last_out: PacketId,
    /// Those that were QoS 2 and go out with less, for the other broker takes no more.
    pub(super) lowered: Ids,
    /// QoS 2 messages that the other broker may know by their identifiers, and those that our session may know.
    pub(super) held_there: Ids,
    pub(super) held_here: Ids,
    /// Those of them that belong to a session which is lost: to be released before anything is carried; see `relay`.
    pub(super) stale_there: Ids,
    pub(super) stale_here: Ids,
    /// 3.1.1: the other broker does not know mosquitto's sign for a bridge.
    pub(super) plain_protocol: bool,
    /// Nothing new is carried out; what is on its way comes to its end.
    pub(super) draining: bool,
    /// The session here was there before this link was made, and what it is subscribed to is not known.
    pub(super) asks_found: bool,
    pub(super) handshake_until: Millis,
    last_sent: Millis,
    last_received: Millis,
    pinged_at: Option<Millis>,
    pub(super) counters: Counters,
    pub(super) name: String,
}

impl Link {
    /// Neither connection is open.
    pub fn new(spec: Arc<Spec>) -> Self {
        let mut link = Self {
            spec,
            remote: Leg::Closed,
            local: Leg::Closed,
            to_remote: Outbox::default(),
            to_local: Outbox::default(),
            there: Subscriptions::default(),
            here: Subscriptions::default(),
            wanted_there: Filters::new(),
            wanted_here: Filters::new(),
            window: 1,
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: u32::MAX,
            keep_alive_ms: 0,
            open: Ids::default(),
            last_out: PacketId::MIN,
            lowered: Ids::default(),
            // What was before this process is not known.
            held_there: Ids::all(),
            held_here: Ids::all(),
            stale_there: Ids::default(),
            stale_here: Ids::default(),
            plain_protocol: false,
            draining: false,
            asks_found: true,
            handshake_until: Millis::MAX,
            last_sent: 0,
            last_received: 0,
            pinged_at: None,
            counters: Counters::default(),
            name: String::new(),
        };
        link.list_filters();
        link
    }

    /// What it is to do from now on. Where the connections are up, only what differs is subscribed and unsubscribed; what
    /// CONNECT says takes effect with the next one.
    ///
    /// # Errors
    /// A filter cannot be written.
    pub fn set_spec(&mut self, spec: Arc<Spec>, now: Millis) -> Result<(), Failure> {
        self.spec = spec;
        self.list_filters();
        self.ask_here()?;
        self.ask_there(now)
    }

    /// A connection to the other broker is open: CONNECT.
    ///
    /// # Errors
    /// CONNECT cannot be written: a name is too long.
    pub fn remote_opened(&mut self, now: Millis) -> Result<(), Failure> {
        let spec = Arc::clone(&self.spec);
        let is_v5 = spec.version == ProtocolVersion::V5;
        let connect = Connect {
            version: spec.version,
            bridge: !is_v5 && !self.plain_protocol,
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
        self.remote = Leg::Opening;
        self.handshake_until = now + HANDSHAKE_MS;
        (self.last_sent, self.last_received, self.pinged_at) = (now, now, None);
        Ok(())
    }

    /// Whether a connection to this broker is to be opened: the other one is there, or something is to be subscribed.
    pub fn wants_local(&self) -> bool {
        self.remote == Leg::Up || self.remote == Leg::Closed && !self.here.is_settled(&self.wanted_here)
    }

    /// A connection to this broker is open: CONNECT.
    ///
    /// # Errors
    /// CONNECT cannot be written.
    pub fn local_opened(&mut self, now: Millis) -> Result<(), Failure> {
        let spec = Arc::clone(&self.spec);
        // While the other broker is away, as little as possible is sent in vain.
        let window = if self.remote == Leg::Up { self.window } else { 1 };
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
        self.local = Leg::Opening;
        self.handshake_until = now + HANDSHAKE_MS;
        Ok(())
    }

    /// The connection to this broker is closed.
    pub fn local_closed(&mut self) {
        self.local = Leg::Closed;
        self.to_local.clear();
    }

    /// Both connections are closed.
    pub fn closed(&mut self) {
        self.local_closed();
        self.remote = Leg::Closed;
        self.to_remote.clear();
        self.lowered = Ids::default();
        self.draining = false;
        self.handshake_until = Millis::MAX;
        self.list_filters();
    }

    /// Whether messages are carried.
    pub fn is_up(&self) -> bool {
        self.remote == Leg::Up && self.local == Leg::Up
    }

    /// Whether the other broker has let the link in.
    pub fn is_remote_up(&self) -> bool {
        self.remote == Leg::Up
    }

    /// Whether CONNACK has come, and this broker lets its bridge in.
    pub fn is_local_up(&self) -> bool {
        self.local == Leg::Up
    }

    /// Whether bytes of the other broker can be taken: none before there is somebody here to acknowledge them, and none
    /// while too many wait.
    pub fn reads_remote(&self) -> bool {
        let ready = self.remote == Leg::Opening || self.is_up() && self.stale_here.is_empty();
        ready && self.to_local.waiting().len() < HIGH_BYTES
    }

    /// Whether bytes of this broker can be taken.
    pub fn reads_local(&self) -> bool {
        let ready = !self.is_up() || self.stale_there.is_empty();
        ready && self.to_remote.waiting().len() < HIGH_BYTES
    }

    /// What waits to be written to the other broker.
    pub fn to_remote(&mut self) -> &mut Outbox {
        &mut self.to_remote
    }

    /// What waits to be written to this broker.
    pub fn to_local(&mut self) -> &mut Outbox {
        &mut self.to_local
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Messages sent to the other broker and not acknowledged.
    pub fn on_the_way(&self) -> u32 {
        self.open.len()
    }

    /// Filters that the other broker refused to subscribe, with the code.
    pub fn refused(&self) -> impl Iterator<Item = (&str, u8)> {
        self.there.refused()
    }

    /// Takes bytes of the other broker; answers how many. The rest is to be given again, with what follows it.
    ///
    /// # Errors
    /// The link cannot go on.
    pub fn from_remote(&mut self, bytes: &[u8], now: Millis) -> Result<usize, Failure> {
        let context =
            DecodeContext { version: self.spec.version, max_packet_size: PACKET_MAX_BYTES, from: Side::Server };
        let mut consumed = 0;
        while self.reads_remote() {
            match decode(&bytes[consumed..], &context).map_err(|error| broken("the other broker", &error))? {
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

    /// Takes bytes of this broker; answers how many.
    ///
    /// # Errors
    /// The link cannot go on.
    pub fn from_local(&mut self, bytes: &[u8], now: Millis) -> Result<usize, Failure> {
        let context = DecodeContext { version: ProtocolVersion::V5, max_packet_size: u32::MAX, from: Side::Server };
        let mut consumed = 0;
        while self.reads_local() {
            match decode(&bytes[consumed..], &context).map_err(|error| broken("this broker", &error))? {
                Decoded::Incomplete { .. } => break,
                Decoded::Packet { packet, len } => {
                    self.on_local(&packet, now)?;
                    consumed += len;
                }
            }
        }
        Ok(consumed)
    }

    /// Whether the session here was there before this link, so that somebody has to look what it is subscribed to, and
    /// tell [`Link::found_here`].
    pub fn asks_found(&self) -> bool {
        self.asks_found && self.local == Leg::Up
    }

    /// What the session here is subscribed to.
    ///
    /// # Errors
    /// A filter cannot be written.
    pub fn found_here(&mut self, filters: impl IntoIterator<Item = String>) -> Result<(), Failure> {
        self.asks_found = false;
        self.here.found(filters);
        self.ask_here()
    }

    pub(super) fn ask_here(&mut self) -> Result<(), Failure> {
        if self.local != Leg::Up || self.asks_found {
            return Ok(());
        }
        Ok(self.here.ask(&self.wanted_here, ProtocolVersion::V5, PacketId::MIN, self.to_local.buffer())?)
    }

    pub(super) fn ask_there(&mut self, now: Millis) -> Result<(), Failure> {
        if self.remote != Leg::Up {
            return Ok(());
        }
        // Half way round from where messages are numbered now: none has come there when the answer is here.
        let opposite = |id: PacketId| PacketId::new(id.get().wrapping_add(1 << 15)).unwrap_or(PacketId::MIN);
        let mut free = opposite(self.last_out);
        while self.open.contains(free) || free == PacketId::MAX || self.open.contains(free.saturating_add(1)) {
            free = free.checked_add(1).unwrap_or(PacketId::MIN);
        }
        self.there.ask(&self.wanted_there, self.spec.version, free, self.to_remote.buffer())?;
        self.last_sent = now;
        Ok(())
    }

    /// What either side is to be subscribed to.
    pub(super) fn list_filters(&mut self) {
        let maximum_qos = self.maximum_qos;
        let is_v5 = self.spec.version == ProtocolVersion::V5;
        let up = self.remote == Leg::Up;
        let list = |rules: &[Rule], maximum_qos: QoS, has_options: bool, retained: RetainHandling| {
            let mut filters = Filters::new();
            for rule in rules {
                let wanted = SubscriptionOptions {
                    qos: rule.qos.min(maximum_qos),
                    // What came over the link is not to go back over it; a shared subscription cannot say so
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
        // What is retained here is asked for once there is somebody to take it: at QoS 0 it does not wait.
        let retained = if up { RetainHandling::Always } else { RetainHandling::Never };
        self.wanted_here = list(&self.spec.out, maximum_qos, true, retained);
        self.wanted_there = list(&self.spec.inward, QoS::ExactlyOnce, is_v5, RetainHandling::IfNew);
    }

    /// Carries nothing new out; what is on its way may still come to its end. See [`Link::is_drained`].
    pub fn drain(&mut self) {
        self.draining = true;
    }

    /// Whether nothing is on its way out.
    pub fn is_drained(&self) -> bool {
        self.open.is_empty() || !self.is_up()
    }

    /// Says goodbye to the other broker. `for_good`: it is to keep nothing for us.
    ///
    /// # Errors
    /// DISCONNECT cannot be written.
    pub fn leave_remote(&mut self, for_good: bool) -> Result<(), Failure> {
        if self.remote != Leg::Up {
            return Ok(());
        }
        let version = self.spec.version;
        if for_good && version != ProtocolVersion::V5 {
            // 3.1.1 has no other word for it.
            self.wanted_there.clear();
            self.ask_there(self.last_sent)?;
        }
        // A session that was to end with its connection cannot be given another expiry [MQTT-3.14.2-2].
        let ends =
            for_good && version == ProtocolVersion::V5 && !self.spec.clean_start && self.spec.session_expiry_s > 0;
        let disconnect = Disconnect {
            session_expiry_s: ends.then_some(0),
            user_properties: UserProperties::default(),
            ..Disconnect::default()
        };
        Ok(weir_mqtt::disconnect(self.to_remote.buffer(), version, &disconnect)?)
    }

    /// Ends the session here, queue and all.
    ///
    /// # Errors
    /// DISCONNECT cannot be written.
    pub fn end_local(&mut self) -> Result<(), Failure> {
        let disconnect = Disconnect { session_expiry_s: Some(0), ..Disconnect::default() };
        Ok(weir_mqtt::disconnect(self.to_local.buffer(), ProtocolVersion::V5, &disconnect)?)
    }

    pub(super) fn note_sent(&mut self, now: Millis) {
        self.last_sent = now;
    }

    /// When [`Link::tick`] is next needed.
    pub fn deadline(&self) -> Millis {
        let silence = match (self.remote == Leg::Up && self.keep_alive_ms > 0, self.pinged_at) {
            (false, _) => Millis::MAX,
            (true, Some(pinged_at)) => pinged_at + self.keep_alive_ms,
            (true, None) => self.last_sent.min(self.last_received) + self.keep_alive_ms,
        };
        silence.min(self.handshake_until)
    }

    /// What is due: the keep-alive's PINGREQ.
    ///
    /// # Errors
    /// The other broker does not answer.
    pub fn tick(&mut self, now: Millis) -> Result<(), Failure> {
        if now < self.deadline() {
            return Ok(());
        }
        if self.handshake_until <= now {
            let message = format!("no CONNACK within {} s", HANDSHAKE_MS / 1000);
            return Err(Failure::new(Cause::TimedOut, message));
        }
        if self.pinged_at.is_some() {
            let message = format!("nothing came for {} s after a PINGREQ", self.keep_alive_ms / 1000);
            return Err(Failure::new(Cause::TimedOut, message));
        }
        weir_mqtt::pingreq(self.to_remote.buffer());
        (self.pinged_at, self.last_sent) = (Some(now), now);
        Ok(())
    }
}

fn broken(who: &str, error: &DecodeError) -> Failure {
    Failure::new(Cause::Protocol, format!("{who} sent what is no MQTT: {error}"))
}
