//! The reference: a broker without shards, sockets or speed, as plain as the specification allows. It is given what clients
//! do and says what each connection must be sent.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

use super::values::{Connecting, Expected, Message, NEVER, Subscription, Will};
use crate::node::LinkId;
use crate::wire::Version;

/// A message on its way to one session.
#[derive(Debug, Clone)]
struct Delivery {
    message: Rc<Message>,
    qos: u8,
    retain: bool,
    identifiers: Vec<u32>,
    /// In answer to a SUBSCRIBE.
    retained: bool,
}

/// A QoS 1 or 2 message that the client has not done with.
#[derive(Debug)]
pub struct Flight {
    serial: u64,
    /// Learned when it is seen.
    pub id: u16,
    delivery: Delivery,
    /// QoS 2: PUBREC came, PUBREL is out.
    pub released: bool,
    /// To be sent again once Receive Maximum allows.
    unsent: bool,
}

impl Flight {
    pub fn qos(&self) -> u8 {
        self.delivery.qos
    }

    /// Whether the client has it: it can be acknowledged.
    pub fn was_seen(&self) -> bool {
        !self.unsent
    }
}

#[derive(Debug)]
struct Connection {
    link: LinkId,
    version: Version,
    receive_maximum: usize,
    keep_alive_ms: u64,
    last_sent: u64,
}

/// A session.
#[derive(Debug, Default)]
pub struct Session {
    pub subscriptions: BTreeMap<String, Subscription>,
    queue: VecDeque<Delivery>,
    pub flights: Vec<Flight>,
    /// QoS 2 packet ids of the client's that wait for PUBREL.
    pub incoming: BTreeSet<u16>,
    pub expiry_s: u32,
    ends_at: Option<u64>,
    will: Option<Will>,
    will_due_at: Option<u64>,
    connection: Option<Connection>,
}

/// The broker.
#[derive(Default)]
pub struct Model {
    pub sessions: BTreeMap<String, Session>,
    pub retained: BTreeMap<String, Rc<Message>>,
    pub now: u64,
    pub expected: BTreeMap<LinkId, Vec<Expected>>,
    serial: u64,
}

impl Model {
    /// An empty broker.
    pub fn new(now: u64) -> Model {
        Model { now, ..Model::default() }
    }

    fn expect(&mut self, link: LinkId, expected: Expected) {
        self.expected.entry(link).or_default().push(expected);
    }

    /// The link of a connected client.
    pub fn link(&self, client: &str) -> Option<LinkId> {
        Some(self.sessions.get(client)?.connection.as_ref()?.link)
    }

    /// The version of a connected client.
    pub fn version(&self, client: &str) -> Version {
        self.sessions[client].connection.as_ref().map_or(Version::V5, |connection| connection.version)
    }

    /// A client sent something.
    pub fn received(&mut self, client: &str) {
        let now = self.now;
        if let Some(connection) = self.sessions.get_mut(client).and_then(|session| session.connection.as_mut()) {
            connection.last_sent = now;
        }
    }

    pub fn connect(&mut self, client: &str, how: Connecting) {
        if self.link(client).is_some() {
            self.close(client, Some(0x8E));
        }
        if how.clean {
            self.end_session(client);
        }
        let present = self.sessions.contains_key(client);
        let now = self.now;
        let session = self.sessions.entry(client.to_owned()).or_default();
        session.will = how.will;
        (session.will_due_at, session.ends_at) = (None, None);
        session.expiry_s = how.expiry_s;
        session.connection = Some(Connection {
            link: how.link,
            version: how.version,
            receive_maximum: how.receive_maximum,
            keep_alive_ms: how.keep_alive_s * 1500,
            last_sent: now,
        });
        self.expect(how.link, Expected::ConnAck { present });
        self.resend(client);
    }

    /// What was sent and not acknowledged goes out again, within Receive Maximum; then what waits.
    fn resend(&mut self, client: &str) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let Some(connection) = &session.connection else { return };
        let (link, window) = (connection.link, connection.receive_maximum);
        let mut again = Vec::new();
        for (index, flight) in session.flights.iter_mut().enumerate() {
            flight.unsent = index >= window;
            if !flight.unsent {
                again.push(flight.serial);
            }
        }
        for serial in again {
            self.send_again(client, link, serial);
        }
        self.pump(client);
    }

    fn send_again(&mut self, client: &str, link: LinkId, serial: u64) {
        let Some(flight) = self.sessions[client].flights.iter().find(|flight| flight.serial == serial) else { return };
        let expected = if flight.released {
            Expected::Ack(crate::wire::packet_type::PUBREL, flight.id, 0)
        } else {
            self.publish_packet(client, &flight.delivery, Some(serial), true)
        };
        self.expect(link, expected);
    }

    fn publish_packet(&self, client: &str, delivery: &Delivery, serial: Option<u64>, dup: bool) -> Expected {
        let is_v5 = self.version(client).is_v5();
        let left = |at: u64| at.saturating_sub(self.now).div_ceil(1000);
        Expected::Publish {
            serial,
            message: Rc::clone(&delivery.message),
            qos: delivery.qos,
            retain: delivery.retain,
            dup,
            identifiers: if is_v5 { delivery.identifiers.clone() } else { Vec::new() },
            expiry_s: delivery.message.expires_at.map(left).filter(|_| is_v5),
        }
    }

    /// A connection ends; with a code where the server ends it.
    pub fn close(&mut self, client: &str, code: Option<u8>) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(client) else { return };
        let Some(connection) = session.connection.take() else { return };
        session.queue.retain(|delivery| delivery.qos > 0);
        let ends_now = session.expiry_s == 0;
        session.ends_at = (session.expiry_s != NEVER).then(|| now + u64::from(session.expiry_s) * 1000);
        session.will_due_at = session.will.as_ref().map(|will| now + will.delay_s * 1000);
        if let Some(code) = code
            && connection.version.is_v5()
        {
            self.expect(connection.link, Expected::Disconnect(code));
        }
        self.expect(connection.link, Expected::Closed);
        if ends_now {
            self.end_session(client);
        } else {
            self.send_due_will(client);
        }
    }

    /// DISCONNECT from the client.
    pub fn disconnect(&mut self, client: &str, code: u8, expiry_s: Option<u32>) {
        if let Some(session) = self.sessions.get_mut(client) {
            if code == 0 {
                session.will = None;
            }
            session.expiry_s = expiry_s.unwrap_or(session.expiry_s);
        }
        self.close(client, None);
    }

    fn send_due_will(&mut self, client: &str) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(client) else { return };
        if session.will_due_at.is_some_and(|due| due <= now) {
            session.will_due_at = None;
            if let Some(will) = session.will.take() {
                self.publish_will(will);
            }
        }
    }

    fn publish_will(&mut self, will: Will) {
        let expires_at = will.expiry_s.map(|seconds| self.now + seconds * 1000);
        self.route(Message { expires_at, ..will.message });
    }

    fn end_session(&mut self, client: &str) {
        if let Some(will) = self.sessions.remove(client).and_then(|session| session.will) {
            self.publish_will(will);
        }
    }

    pub fn subscribe(&mut self, client: &str, id: u16, filter: &str, subscription: Subscription) {
        let Some(link) = self.link(client) else { return };
        let Some(session) = self.sessions.get_mut(client) else { return };
        let existed = session.subscriptions.insert(filter.to_owned(), subscription).is_some();
        self.expect(link, Expected::SubAck(id, vec![subscription.qos]));
        if self.reads_retained(subscription, existed) {
            for message in self.retained_under(client, filter, subscription) {
                let delivery = Delivery {
                    qos: subscription.qos.min(message.qos),
                    message,
                    retain: true,
                    identifiers: subscription.identifier.into_iter().collect(),
                    retained: true,
                };
                if let Some(session) = self.sessions.get_mut(client) {
                    session.queue.push_back(delivery);
                }
            }
            self.pump(client);
        }
    }

    fn reads_retained(&self, subscription: Subscription, existed: bool) -> bool {
        match subscription.retain_handling {
            0 => true,
            1 => !existed,
            _ => false,
        }
    }

    /// Retained messages a new subscription is sent.
    pub fn retained_under(&self, client: &str, filter: &str, subscription: Subscription) -> Vec<Rc<Message>> {
        let wanted = |message: &&Rc<Message>| {
            matches(filter, &message.topic)
                && !(subscription.no_local && message.publisher == client)
                && message.expires_at.is_none_or(|at| at > self.now)
        };
        self.retained.values().filter(wanted).cloned().collect()
    }

    /// Whether so many messages would go out at once.
    pub fn has_room(&self, client: &str, messages: usize) -> bool {
        let session = &self.sessions[client];
        let window = session.connection.as_ref().map_or(0, |connection| connection.receive_maximum);
        session.queue.is_empty() && session.flights.len() + messages <= window
    }

    pub fn unsubscribe(&mut self, client: &str, id: u16, filter: &str) {
        let Some(link) = self.link(client) else { return };
        let Some(session) = self.sessions.get_mut(client) else { return };
        let existed = session.subscriptions.remove(filter).is_some();
        self.expect(link, Expected::UnsubAck(id, vec![if existed { 0 } else { 0x11 }]));
    }

    /// Takes a message: keeps it if it is retained, gives it to every session that wants it.
    pub fn route(&mut self, message: Message) {
        let message = Rc::new(message);
        if message.retain && message.payload.is_empty() {
            self.retained.remove(&message.topic);
        } else if message.retain {
            self.retained.insert(message.topic.clone(), Rc::clone(&message));
        }
        let clients: Vec<String> = self.sessions.keys().cloned().collect();
        for client in clients {
            let subscriptions = self.sessions[&client].subscriptions.iter();
            let wanted: Vec<Subscription> = subscriptions
                .filter(|(filter, subscription)| {
                    matches(filter, &message.topic) && !(subscription.no_local && message.publisher == client)
                })
                .map(|(_, subscription)| *subscription)
                .collect();
            let Some(highest) = wanted.iter().map(|subscription| subscription.qos).max() else { continue };
            let delivery = Delivery {
                message: Rc::clone(&message),
                qos: highest.min(message.qos),
                retain: message.retain && wanted.iter().any(|subscription| subscription.retain_as_published),
                identifiers: wanted.iter().filter_map(|subscription| subscription.identifier).collect(),
                retained: false,
            };
            self.deliver(&client, delivery);
        }
    }

    fn deliver(&mut self, client: &str, delivery: Delivery) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let Some(connection) = &session.connection else {
            if delivery.qos > 0 {
                session.queue.push_back(delivery);
            }
            return;
        };
        let waits = if delivery.qos == 0 {
            session.queue.iter().any(|waiting| waiting.retained || waiting.qos == 0)
        } else {
            !session.queue.is_empty() || session.flights.len() >= connection.receive_maximum
        };
        if waits {
            session.queue.push_back(delivery);
        } else {
            self.send(client, delivery);
        }
    }

    fn send(&mut self, client: &str, delivery: Delivery) {
        let Some(link) = self.link(client) else { return };
        self.serial += 1;
        let serial = (delivery.qos > 0).then_some(self.serial);
        let expected = self.publish_packet(client, &delivery, serial, false);
        self.expect(link, expected);
        if let (Some(serial), Some(session)) = (serial, self.sessions.get_mut(client)) {
            session.flights.push(Flight { serial, id: 0, delivery, released: false, unsent: false });
        }
    }

    fn pump(&mut self, client: &str) {
        loop {
            let now = self.now;
            let Some(session) = self.sessions.get_mut(client) else { return };
            let Some(connection) = &session.connection else { return };
            let Some(front) = session.queue.front() else { return };
            if front.qos > 0 && session.flights.len() >= connection.receive_maximum {
                return;
            }
            let Some(delivery) = session.queue.pop_front() else { return };
            if delivery.message.expires_at.is_none_or(|at| at > now) {
                self.send(client, delivery);
            }
        }
    }

    /// PUBACK, or a PUBREC with an error, or PUBCOMP: the exchange is over.
    pub fn done(&mut self, client: &str, id: u16) {
        let Some(link) = self.link(client) else { return };
        let Some(session) = self.sessions.get_mut(client) else { return };
        session.flights.retain(|flight| flight.id != id);
        let next = session.flights.iter_mut().find(|flight| flight.unsent);
        match next {
            Some(flight) => {
                flight.unsent = false;
                let serial = flight.serial;
                self.send_again(client, link, serial);
            }
            None => self.pump(client),
        }
    }

    /// PUBREC without an error.
    pub fn pubrec(&mut self, client: &str, id: u16) {
        let Some(link) = self.link(client) else { return };
        let Some(session) = self.sessions.get_mut(client) else { return };
        let flight = session.flights.iter_mut().find(|flight| flight.id == id);
        flight.into_iter().for_each(|flight| flight.released = true);
        self.expect(link, Expected::Ack(crate::wire::packet_type::PUBREL, id, 0));
    }

    /// The id with which a QoS 1 or 2 message was seen; wrong where another one has it.
    pub fn learn_id(&mut self, client: &str, serial: u64, id: u16) -> Result<(), String> {
        let Some(session) = self.sessions.get_mut(client) else { return Ok(()) };
        if let Some(other) = session.flights.iter().find(|flight| flight.id == id && flight.serial != serial) {
            return Err(format!("packet id {id} is still in use for {other:?}"));
        }
        if let Some(flight) = session.flights.iter_mut().find(|flight| flight.serial == serial) {
            if flight.id != 0 && flight.id != id {
                return Err(format!("sent again with packet id {id} instead of {}", flight.id));
            }
            flight.id = id;
        }
        Ok(())
    }

    /// Messages that could go out in any order went out in this one.
    pub fn reorder(&mut self, client: &str, serials: &[u64]) {
        let Some(session) = self.sessions.get_mut(client) else { return };
        let places: Vec<usize> =
            (0..session.flights.len()).filter(|place| serials.contains(&session.flights[*place].serial)).collect();
        let mut moved: Vec<Flight> = Vec::new();
        for place in places.iter().rev() {
            moved.push(session.flights.remove(*place));
        }
        moved.sort_by_key(|flight| serials.iter().position(|serial| *serial == flight.serial));
        for (place, flight) in places.into_iter().zip(moved) {
            session.flights.insert(place, flight);
        }
    }

    /// Does what is due until `end`, in order.
    pub fn advance(&mut self, end: u64) {
        loop {
            let due =
                self.sessions.iter().filter_map(|(client, session)| Some((next_due(session)?, client.clone()))).min();
            let Some((at, client)) = due.filter(|(at, _)| *at <= end) else { break };
            self.now = at.max(self.now);
            let session = &self.sessions[&client];
            if session.connection.is_some() {
                self.close(&client, Some(0x8D));
            } else if session.ends_at.is_some_and(|ends_at| ends_at <= at) {
                self.end_session(&client);
            } else {
                self.send_due_will(&client);
            }
        }
        self.now = end;
        self.retained.retain(|_, message| message.expires_at.is_none_or(|at| at > end));
    }

    /// Sessions, subscriptions, retained messages, in flight, waiting.
    pub fn counts(&self) -> [usize; 5] {
        let sum = |count: fn(&Session) -> usize| self.sessions.values().map(count).sum();
        [
            self.sessions.len(),
            sum(|session| session.subscriptions.len()),
            self.retained.len(),
            sum(|session| session.flights.len()),
            sum(|session| session.queue.len()),
        ]
    }
}

fn next_due(session: &Session) -> Option<u64> {
    match &session.connection {
        Some(connection) => (connection.keep_alive_ms > 0).then(|| connection.last_sent + connection.keep_alive_ms),
        None => session.ends_at.into_iter().chain(session.will_due_at).min(),
    }
}

/// Whether a filter matches a topic: the specification's words, level by level.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && (filter.starts_with('+') || filter.starts_with('#')) {
        return false;
    }
    let (filter, topic): (Vec<&str>, Vec<&str>) = (filter.split('/').collect(), topic.split('/').collect());
    for (index, level) in filter.iter().enumerate() {
        match (*level, topic.get(index)) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (literal, Some(found)) if literal == *found => {}
            _ => return false,
        }
    }
    filter.len() == topic.len()
}
