//! Clients that keep their side of a session over any number of connections, and note what they see.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::history::{History, Sequence};
use super::roles::{Group, Role, WillPlan};
use crate::broker_sim::rng::Rng;
use crate::wire::{
    Ack, Connect, Packet, Properties, PropertyValue, Publish, Version, Will, decode_server_packet, packet_type,
};

/// Publishes a client may have on the way.
const WINDOW: usize = 8;
/// Session Expiry Interval.
const EXPIRY: u8 = 0x11;
const WILL_DELAY: u8 = 0x18;
const RECEIVE_MAXIMUM: u8 = 0x21;

/// A publish that is not through.
#[derive(Debug, Clone)]
struct Pending {
    id: u16,
    topic: String,
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    sequence: Sequence,
    /// PUBREC has come.
    received: bool,
}

/// What a retained topic may hold, by what its client got acknowledged.
#[derive(Debug, Clone, Default)]
pub struct RetainedState {
    pub acknowledged: Option<Sequence>,
    pub last: Option<Sequence>,
}

pub struct SimClient {
    pub name: String,
    pub role: Role,
    version: Version,
    input: Vec<u8>,
    /// CONNACK has come on this connection.
    pub connected: bool,
    /// Some CONNACK has come: from then on the session must be there.
    had_session: bool,
    subscribing: bool,
    subscribed: bool,
    next_id: u16,
    sequence: Sequence,
    pending: VecDeque<Pending>,
    /// Packet identifiers of QoS 2 messages that were taken and are not released.
    taken: BTreeSet<u16>,
    /// Of a resubscriber: what it knows (`None`: either may be), what is on the way, and the probe it waits for.
    interest: Option<bool>,
    changing: Option<(u16, bool)>,
    probe: Option<(u16, Sequence)>,
    probe_seen: bool,
    probed: bool,
    /// Of a retainer: the newest that was acknowledged; odd ones set, even ones clear.
    pub retained: RetainedState,
    /// Of a will client: the number of its last connection, which its will bears.
    will_number: u64,
    /// The newest of them whose will is owed; and it is, and the client waits for it.
    owed_will_number: u64,
    owes_will: bool,
    /// Of a reader: what it found, and whether that is all.
    pub found: BTreeMap<String, String>,
    pub has_read: bool,
    /// No new publishes.
    pub stops_publishing: bool,
    /// Of a publisher: bytes of its longest payload.
    pub payload_max: usize,
}

impl SimClient {
    pub fn new(name: &str, role: Role, version: Version) -> Self {
        Self {
            name: name.to_owned(),
            role,
            version,
            input: Vec::new(),
            connected: false,
            had_session: false,
            subscribing: false,
            subscribed: false,
            next_id: 0,
            sequence: 0,
            pending: VecDeque::new(),
            taken: BTreeSet::new(),
            interest: Some(false),
            changing: None,
            probe: None,
            probe_seen: false,
            probed: false,
            retained: RetainedState::default(),
            will_number: 0,
            owed_will_number: 0,
            owes_will: false,
            found: BTreeMap::new(),
            has_read: false,
            stops_publishing: false,
            payload_max: 200,
        }
    }

    /// Whether it may connect: a will that is due later would not be, were its client back before.
    pub fn may_open(&self, history: &History) -> bool {
        match self.role {
            Role::WillClient(plan) if plan.delay_s > 0 => {
                !self.owes_will || history.is_delivered(&self.will_topic(), self.will_number)
            }
            _ => true,
        }
    }

    fn will_topic(&self) -> String {
        format!("will/{}", self.name)
    }

    /// The topic of a retained will, and the numbers of the wills that it may hold.
    pub fn retained_will(&self) -> Option<(String, u64, u64)> {
        let retained = matches!(self.role, Role::WillClient(WillPlan { retain: true, .. }));
        retained.then(|| (self.will_topic(), self.owed_will_number, self.will_number))
    }

    /// Whether it has nothing under way.
    pub fn is_idle(&self) -> bool {
        if self.owes_will {
            return true; // Its will is the history's affair.
        }
        let probed = self.role != Role::Resubscriber || self.probed;
        self.connected
            && probed
            && self.pending.is_empty()
            && !self.subscribing
            && self.changing.is_none()
            && self.probe.is_none()
    }

    /// A new connection: what to send first.
    pub fn open(&mut self, history: &mut History) -> Vec<u8> {
        self.input.clear();
        (self.connected, self.subscribing, self.probed) = (false, false, false);
        let clean = self.role == Role::Reader;
        let mut properties = Properties::new();
        if self.version.is_v5() && !clean {
            let expiry_s = if let Role::WillClient(plan) = self.role { plan.expiry_s } else { u32::MAX };
            properties.push((EXPIRY, PropertyValue::Number(expiry_s)));
        }
        if let Role::Member(group) = self.role {
            properties.push((RECEIVE_MAXIMUM, PropertyValue::Number(group.window)));
        }
        let will = if let Role::WillClient(plan) = self.role { Some(self.will(plan, history)) } else { None };
        let connect = Connect {
            version: self.version,
            clean,
            keep_alive_s: 0,
            client_id: self.name.clone(),
            username: None,
            password: None,
            will,
            properties,
        };
        Packet::Connect(connect).encode(self.version)
    }

    fn will(&mut self, plan: WillPlan, history: &mut History) -> Will {
        self.will_number += 1;
        self.owes_will = false;
        history.sent(&self.will_topic(), plan.qos, self.will_number);
        let delay = (WILL_DELAY, PropertyValue::Number(plan.delay_s));
        Will {
            topic: self.will_topic(),
            payload: self.will_number.to_string().into_bytes(),
            qos: plan.qos,
            retain: plan.retain,
            properties: if plan.delay_s > 0 { vec![delay] } else { Vec::new() },
        }
    }

    /// The connection is gone.
    pub fn closed(&mut self, history: &mut History) {
        if let Role::WillClient(plan) = self.role
            && self.connected
        {
            // CONNACK has come: its will is owed.
            history.acknowledged(&self.will_topic(), self.will_number);
            self.owed_will_number = self.will_number;
            self.owes_will = plan.delay_s > 0;
        }
        self.connected = false;
        // What was on the way may have taken effect or not.
        if let Some((_, wanted)) = self.changing.take()
            && self.interest != Some(wanted)
        {
            self.interest = None;
        }
        self.probe = None;
    }

    /// Whether its subscription is in place, or it needs none.
    pub fn is_set_up(&self) -> bool {
        !self.role.subscribes() || self.subscribed
    }

    /// Takes what came; answers with what to send.
    pub fn receive(&mut self, bytes: &[u8], history: &mut History) -> Vec<u8> {
        self.input.extend_from_slice(bytes);
        let mut out = Vec::new();
        loop {
            match decode_server_packet(self.version, &self.input) {
                Ok(Some((packet, length))) => {
                    self.input.drain(..length);
                    self.on_packet(packet, history, &mut out);
                }
                Ok(None) => return out,
                Err(error) => {
                    history.finding(format!("{}: {error:?}", self.name));
                    return out;
                }
            }
        }
    }

    fn send(&self, packet: &Packet, out: &mut Vec<u8>) {
        out.extend(packet.encode(self.version));
    }

    fn ack(&self, packet_type: u8, id: u16, out: &mut Vec<u8>) {
        self.send(&Packet::Ack(Ack { packet_type, id, code: 0, properties: Vec::new() }), out);
    }

    fn on_packet(&mut self, packet: Packet, history: &mut History, out: &mut Vec<u8>) {
        match packet {
            Packet::ConnAck { session_present, code, .. } => self.on_connack(session_present, code, history, out),
            Packet::SubAck { id, .. } | Packet::UnsubAck { id, .. } => {
                if self.role.subscribes() {
                    (self.subscribing, self.subscribed) = (false, true);
                }
                match self.role {
                    Role::Subscriber => history.subscribed(&self.name),
                    Role::Member(Group { name, qos, leaves: false, .. }) => history.group_subscribed(name, qos),
                    _ => {}
                }
                if self.role == Role::Reader {
                    // What is retained comes before the answer to this.
                    self.send(&Packet::PingReq, out);
                }
                if let Some((_, wanted)) = self.changing.take_if(|(changing, _)| *changing == id) {
                    self.interest = Some(wanted);
                }
            }
            Packet::Publish(publish) => self.on_publish(publish, history, out),
            Packet::Ack(ack) => self.on_ack(&ack, history, out),
            Packet::PingResp => self.has_read = true,
            Packet::Disconnect { .. } => {}
            other => history.finding(format!("{} was sent {other:?}", self.name)),
        }
    }

    fn on_connack(&mut self, session_present: bool, code: u8, history: &mut History, out: &mut Vec<u8>) {
        if code != 0 {
            return history.finding(format!("{} was refused with {code}", self.name));
        }
        if self.had_session && !session_present && self.role.keeps_session() {
            history.finding(format!("{}: its session is lost", self.name));
        }
        if !session_present {
            self.subscribed = false;
            self.taken.clear();
        }
        (self.connected, self.had_session) = (true, true);
        let pending: Vec<Pending> = self.pending.iter().cloned().collect();
        for publish in pending {
            if publish.received {
                self.ack(packet_type::PUBREL, publish.id, out);
            } else {
                self.publish(&publish, true, out);
            }
        }
        if self.role == Role::Reader {
            let filters = vec![("r/#".to_owned(), 0), ("will/#".to_owned(), 0)];
            self.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters }, out);
        }
        if self.role.subscribes() && !self.subscribed {
            self.subscribing = true;
            let (share, qos) = match self.role {
                Role::Member(group) => (format!("$share/{}/", group.name), group.qos),
                _ => (String::new(), 2),
            };
            let filters = vec![(format!("{share}t/#"), qos), (format!("{share}will/#"), qos)];
            let id = self.free_id();
            self.send(&Packet::Subscribe { id, properties: Vec::new(), filters }, out);
        }
    }

    fn publish(&self, pending: &Pending, dup: bool, out: &mut Vec<u8>) {
        let publish = Publish {
            dup,
            qos: pending.qos,
            retain: pending.retain,
            topic: pending.topic.clone(),
            id: Some(pending.id),
            properties: Vec::new(),
            payload: pending.payload.clone(),
        };
        self.send(&Packet::Publish(publish), out);
    }

    fn free_id(&mut self) -> u16 {
        loop {
            // Small, so that identifiers are soon used again.
            self.next_id = self.next_id % 40 + 1;
            let id = self.next_id;
            if self.pending.iter().all(|pending| pending.id != id) && self.changing.is_none_or(|(used, _)| used != id) {
                return id;
            }
        }
    }

    fn on_publish(&mut self, publish: Publish, history: &mut History, out: &mut Vec<u8>) {
        if publish.qos == 1 {
            self.ack(packet_type::PUBACK, publish.id.unwrap_or_default(), out);
        }
        if publish.qos == 2 {
            let id = publish.id.unwrap_or_default();
            self.ack(packet_type::PUBREC, id, out);
            if !self.taken.insert(id) {
                return;
            }
        }
        let text = String::from_utf8_lossy(&publish.payload).into_owned();
        if self.role == Role::Reader {
            self.found.insert(publish.topic, text);
            return;
        }
        let sequence: Sequence = text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default();
        match self.role {
            Role::Resubscriber => self.probe_seen |= self.probe.is_some_and(|(_, probe)| probe == sequence),
            Role::Member(group) => history.seen(group.name, &publish.topic, sequence),
            _ => history.seen(&self.name, &publish.topic, sequence),
        }
    }

    fn on_ack(&mut self, ack: &Ack, history: &mut History, out: &mut Vec<u8>) {
        match ack.packet_type {
            packet_type::PUBREL => {
                self.taken.remove(&ack.id);
                self.ack(packet_type::PUBCOMP, ack.id, out);
            }
            packet_type::PUBREC => {
                if let Some(pending) = self.pending.iter_mut().find(|pending| pending.id == ack.id) {
                    pending.received = true;
                    let (topic, sequence) = (pending.topic.clone(), pending.sequence);
                    history.acknowledged(&topic, sequence);
                    self.ack(packet_type::PUBREL, ack.id, out);
                }
            }
            packet_type::PUBACK | packet_type::PUBCOMP => {
                if let Some((_, probe)) = self.probe.take_if(|(id, _)| *id == ack.id) {
                    self.on_probed(probe, history);
                }
                let Some(at) = self.pending.iter().position(|pending| pending.id == ack.id) else { return };
                let Some(done) = self.pending.remove(at) else { return };
                match self.role {
                    Role::Retainer => self.retained.acknowledged = Some(done.sequence),
                    Role::Publisher { .. } => history.acknowledged(&done.topic, done.sequence),
                    _ => {}
                }
            }
            _ => history.finding(format!("{} was sent {ack:?}", self.name)),
        }
    }

    /// The probe came round, or only its acknowledgement did.
    fn on_probed(&mut self, _probe: Sequence, history: &mut History) {
        let seen = std::mem::take(&mut self.probe_seen);
        match self.interest {
            Some(true) if !seen => history.finding(format!("{}: its subscription is lost", self.name)),
            Some(false) if seen => history.finding(format!("{}: its subscription is back", self.name)),
            _ => self.interest = Some(seen),
        }
        self.probed = true;
    }

    /// What the client does of its own accord.
    pub fn act(&mut self, rng: &mut Rng, history: &mut History) -> Vec<u8> {
        let mut out = Vec::new();
        if !self.connected {
            return out;
        }
        match self.role {
            Role::Publisher { qos } if !self.stops_publishing => {
                while self.pending.len() < WINDOW && !rng.one_in(4) {
                    self.sequence += 1;
                    let topic = format!("t/{}", self.name);
                    history.sent(&topic, qos, self.sequence);
                    let payload = format!("{} {}", self.sequence, "x".repeat(rng.below(self.payload_max)));
                    self.begin(topic, payload.into_bytes(), qos, false, &mut out);
                }
            }
            Role::Retainer if self.pending.is_empty() && !self.stops_publishing => {
                self.sequence += 1;
                self.retained.last = Some(self.sequence);
                let payload =
                    if self.sequence.is_multiple_of(2) { Vec::new() } else { self.sequence.to_string().into_bytes() };
                self.begin(format!("r/{}", self.name), payload, 1, true, &mut out);
            }
            Role::Resubscriber => self.change(&mut out),
            Role::Member(group) if group.leaves && !self.stops_publishing && rng.one_in(12) => {
                // The session ends: what it has not acknowledged goes to others of the group.
                let properties = vec![(EXPIRY, PropertyValue::Number(0))];
                self.send(&Packet::Disconnect { code: 0, properties }, &mut out);
            }
            _ => {}
        }
        out
    }

    fn begin(&mut self, topic: String, payload: Vec<u8>, qos: u8, retain: bool, out: &mut Vec<u8>) {
        let (id, sequence) = (self.free_id(), self.sequence);
        let pending = Pending { id, topic, payload, qos, retain, sequence, received: false };
        self.publish(&pending, false, out);
        self.pending.push_back(pending);
    }

    fn change(&mut self, out: &mut Vec<u8>) {
        if self.changing.is_some() || self.probe.is_some() {
            return;
        }
        let filter = format!("c/{}", self.name);
        let id = self.free_id();
        if !self.probed {
            // Its own message comes back before it is acknowledged, if at all.
            self.sequence += 1;
            (self.probe, self.probe_seen) = (Some((id, self.sequence)), false);
            let payload = self.sequence.to_string().into_bytes();
            let sequence = self.sequence;
            let probe = Pending { id, topic: filter, payload, qos: 1, retain: false, sequence, received: false };
            return self.publish(&probe, false, out);
        }
        if self.stops_publishing {
            return;
        }
        let wanted = self.interest != Some(true);
        self.changing = Some((id, wanted));
        let packet = if wanted {
            Packet::Subscribe { id, properties: Vec::new(), filters: vec![(filter, 1)] }
        } else {
            Packet::Unsubscribe { id, properties: Vec::new(), filters: vec![filter] }
        };
        self.send(&packet, out);
    }
}
