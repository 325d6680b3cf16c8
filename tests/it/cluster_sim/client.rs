//! A client: what it sends, what it was sent, and what it waits for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::node::LinkId;
use crate::wire::*;

/// A retained or live message, as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    pub topic: String,
    pub payload: String,
    /// It was sent because of a SUBSCRIBE.
    pub is_retained: bool,
    pub is_dup: bool,
    pub qos: u8,
    pub at: u64,
}

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Publisher(usize),
    Subscriber,
    Member,
    /// Loses its connection now and then; then its will is published.
    Testator,
    /// One of two with one client identifier, at two nodes.
    Twin,
}

/// A session of a subscriber, from its first CONNECT until its node died.
#[derive(Debug, Default)]
pub struct Session {
    pub received: Vec<Received>,
    /// When the first SUBACK came.
    pub subscribed_at: Option<u64>,
    /// The nodes that served it.
    pub hosts: Vec<usize>,
}

/// A packet that waits for its answer.
pub struct Open {
    pub packet: Packet,
    /// The number of the publish in the history.
    pub publish: Option<usize>,
    pub since: u64,
}

pub struct Client {
    pub role: Role,
    pub name: String,
    pub host: usize,
    pub link: Option<LinkId>,
    pub is_connected: bool,
    observer: Observer,
    bytes: Vec<u8>,
    /// Packets that came and were not answered, and when they came.
    pub inbox: VecDeque<Packet>,
    incoming: BTreeSet<u16>,
    pub open: BTreeMap<u16, Open>,
    next_id: u16,
    pub subscribe_sent: bool,
    pub sessions: Vec<Session>,
    pub receive_maximum: u32,
    pub wills: u64,
    /// When it was last connected.
    pub last_connected: u64,
}

impl Client {
    pub fn new(role: Role, name: String, host: usize) -> Self {
        Self {
            role,
            name,
            host,
            link: None,
            is_connected: false,
            observer: Observer::new(Version::V5),
            bytes: Vec::new(),
            inbox: VecDeque::new(),
            incoming: BTreeSet::new(),
            open: BTreeMap::new(),
            next_id: 0,
            subscribe_sent: false,
            sessions: vec![Session::default()],
            receive_maximum: 100,
            wills: 0,
            last_connected: 0,
        }
    }

    pub fn session(&mut self) -> &mut Session {
        self.sessions.last_mut().expect("a client has a session")
    }

    pub fn new_id(&mut self) -> u16 {
        self.next_id = self.next_id % 60_000 + 1;
        self.next_id
    }

    /// The connection is lost.
    pub fn disconnected(&mut self) {
        (self.link, self.is_connected) = (None, false);
        self.bytes.clear();
        self.inbox.clear();
    }

    /// The node of the session has died. Answers with the publishes of which nothing will be known.
    pub fn session_lost(&mut self) -> Vec<usize> {
        self.incoming.clear();
        self.subscribe_sent = false;
        self.sessions.push(Session::default());
        std::mem::take(&mut self.open).into_values().filter_map(|open| open.publish).collect()
    }

    /// Whether its session ends with its connection: then any node serves it.
    pub fn is_clean(&self) -> bool {
        matches!(self.role, Role::Testator | Role::Twin) || self.name.starts_with("check")
    }

    pub fn connect(&mut self, link: LinkId) -> Vec<u8> {
        self.link = Some(link);
        self.observer = Observer::new(Version::V5);
        let is_testator = self.role == Role::Testator;
        let will = is_testator.then(|| {
            self.wills += 1;
            let (topic, payload) = (format!("t/{}", self.name), format!("{}:{}", self.name, self.wills));
            Will { topic, payload: payload.into_bytes(), qos: 1, retain: false, properties: Properties::new() }
        });
        let is_clean = self.is_clean();
        let expiry = if is_clean { 0 } else { u32::MAX };
        self.encode(&Packet::Connect(Connect {
            version: Version::V5,
            clean: is_clean,
            keep_alive_s: 0,
            client_id: self.name.clone(),
            username: None,
            password: None,
            will,
            properties: vec![
                (0x11, PropertyValue::Number(expiry)),
                (0x21, PropertyValue::Number(self.receive_maximum)),
            ],
        }))
    }

    pub fn encode(&mut self, packet: &Packet) -> Vec<u8> {
        self.observer.sent(packet);
        packet.encode(Version::V5)
    }

    /// Bytes of the node. Returns whether one of the packets acknowledges a publish of QoS 1 or 2.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<bool, String> {
        self.bytes.extend_from_slice(bytes);
        let mut acknowledges = false;
        while let Some((mut packet, size)) = decode_server_packet(Version::V5, &self.bytes)? {
            self.bytes.drain(..size);
            self.observer.received(&mut packet, size).map_err(|error| format!("{}: {error}", self.name))?;
            let of_publish = [packet_type::PUBACK, packet_type::PUBREC];
            acknowledges |= matches!(&packet, Packet::Ack(ack) if of_publish.contains(&ack.packet_type));
            self.inbox.push_back(packet);
        }
        Ok(acknowledges)
    }

    /// A publish for the subscriber; the answer to send.
    pub fn on_publish(&mut self, publish: &Publish, at: u64) -> Option<Packet> {
        let is_fresh = publish.qos < 2 || publish.id.is_some_and(|id| self.incoming.insert(id));
        if is_fresh {
            let received = Received {
                topic: publish.topic.clone(),
                payload: String::from_utf8_lossy(&publish.payload).into_owned(),
                is_retained: publish.retain,
                is_dup: publish.dup,
                qos: publish.qos,
                at,
            };
            self.session().received.push(received);
        }
        let packet_type = if publish.qos == 1 { packet_type::PUBACK } else { packet_type::PUBREC };
        Some(ack(packet_type, publish.id?))
    }

    pub fn on_pubrel(&mut self, id: u16) -> Packet {
        self.incoming.remove(&id);
        ack(packet_type::PUBCOMP, id)
    }
}

pub fn ack(packet_type: u8, id: u16) -> Packet {
    Packet::Ack(Ack { packet_type, id, code: 0, properties: Properties::new() })
}
