//! Plays the steps of a script against a broker.

mod exchanges;

use std::collections::{HashMap, VecDeque};

use serde_json::{Map, Value};

use super::fields::Fields;
use super::step::{Action, Step};
use super::transport::{Names, Patience, Transport, TransportEvent};
use super::{bytes, expect, packets};
use crate::wire::{Observer, Packet, PropertyValue, Version, decode_server_packet, packet_type as t};

/// Plays `steps` in `version` with connections to `endpoint`. The error says which step failed and how.
pub fn play(
    steps: &[Step],
    version: Version,
    endpoint: &str,
    names: &Names,
    transport: &mut dyn Transport,
) -> Result<(), String> {
    let mut player = Player { version, endpoint, names, transport, peers: HashMap::new(), order: Vec::new() };
    let result = player.steps(steps).and_then(|()| player.finish());
    for peer in player.peers.into_values() {
        player.transport.close(peer.link);
    }
    result
}

struct Peer {
    link: usize,
    version: Version,
    observer: Observer,
    received: Vec<u8>,
    /// Decoded and not yet expected.
    queue: VecDeque<Packet>,
    closed: bool,
    connected: bool,
    next_id: u16,
    /// As sent, or as assigned.
    client_id: String,
}

struct Player<'a> {
    version: Version,
    endpoint: &'a str,
    names: &'a Names,
    transport: &'a mut dyn Transport,
    peers: HashMap<String, Peer>,
    order: Vec<String>,
}

impl Player<'_> {
    fn steps(&mut self, steps: &[Step]) -> Result<(), String> {
        for (index, step) in steps.iter().enumerate() {
            if step.only.is_empty() || step.only.contains(&self.version) {
                self.action(&step.action)
                    .map_err(|error| format!("step {}: {error}\n    {:?}", index + 1, step.action))?;
            }
        }
        Ok(())
    }

    /// Nothing may be left that no step expected.
    fn finish(&mut self) -> Result<(), String> {
        let open: Vec<String> = self.order.iter().filter(|name| !self.peers[*name].closed).cloned().collect();
        for name in open {
            if self.transport.is_synchronous() {
                self.pump(&name, Patience::Moment)?;
            }
            if let Some(packet) = self.peers[&name].queue.front() {
                return Err(format!("{name} was left with {packet:?}"));
            }
        }
        Ok(())
    }

    fn action(&mut self, action: &Action) -> Result<(), String> {
        match action {
            Action::Open { client } => self.open(client, self.version, self.endpoint),
            Action::Connect { client, fields } => self.connect(client, fields.clone()),
            Action::Send { client, packets } => self.send(client, packets),
            Action::Raw { client, bytes } => {
                let peer = self.peer(client)?;
                let (version, link) = (peer.version, peer.link);
                peer.observer.sent_raw();
                let bytes = bytes::evaluate(bytes, version, self.names)?;
                self.transport.send(link, &bytes);
                Ok(())
            }
            Action::Expect { client, kind, expected } => {
                let packet = self.take(client, packets::server_packet_type(kind)?)?;
                let version = self.peer(client)?.version;
                expect::matches(&packet, expected, version, self.names)
                    .map_err(|error| format!("{error}; it was {packet:?}"))
            }
            Action::ExpectAll { client, publishes, acknowledge } => {
                self.expect_all(client, publishes.clone(), *acknowledge)
            }
            Action::Broken { client } => self.broken(client),
            Action::FilterRefused { client, id } => self.filter_refused(client, *id),
            Action::Matches { client, yes, no } => self.matches(client, yes, no),
            Action::Shares { clients, messages, each } => self.shares(clients, *messages, *each),
            Action::Publish { client, fields } => self.publish(client, fields.clone()),
            Action::Receive { client, fields } => self.receive(client, fields),
            Action::Subscribe { client, fields } => self.subscribe(client, fields.clone()),
            Action::Unsubscribe { client, fields } => self.unsubscribe(client, fields.clone()),
            Action::Ping { client } => self.ping(client),
            Action::Silence { clients } => clients.iter().try_for_each(|client| self.silence(client)),
            Action::Closed { client } => self.closed(client),
            Action::Refused { client, codes } => self.refused(client, codes),
            Action::Rejected { client, codes, return_code } => self.rejected(client, codes, *return_code),
            Action::Disconnect { client, fields } => {
                self.send(client, &[("disconnect".to_owned(), Value::Object(fields.clone()))])?;
                self.closed(client)
            }
            Action::Close { client } => {
                let peer = self.peer(client)?;
                peer.closed = true;
                peer.queue.clear();
                let link = peer.link;
                self.transport.close(link);
                Ok(())
            }
            Action::Advance { millis } => {
                self.transport.advance(*millis);
                Ok(())
            }
            Action::Settle => self.settle(),
            Action::Repeat { times, name, steps } => self.repeat(*times, name, steps),
        }
    }

    fn repeat(&mut self, times: u64, name: &str, steps: &[Value]) -> Result<(), String> {
        let parse = |count: u64| -> Result<Vec<Step>, String> {
            let variables: Map<String, Value> = [(name.to_owned(), Value::from(count))].into_iter().collect();
            steps.iter().map(|step| Step::parse(super::substitute(step, &variables))).collect()
        };
        let mut parsed = parse(1)?;
        let differs = steps.iter().any(|step| step.to_string().contains(&format!("${{{name}}}")));
        for count in 1..=times {
            if differs && count > 1 {
                parsed = parse(count)?;
            }
            self.steps(&parsed).map_err(|error| format!("round {count}: {error}"))?;
        }
        Ok(())
    }

    fn peer(&mut self, client: &str) -> Result<&mut Peer, String> {
        self.peers.get_mut(client).ok_or_else(|| format!("no client is called {client:?} yet"))
    }

    fn open(&mut self, client: &str, version: Version, endpoint: &str) -> Result<(), String> {
        let link = self.transport.open(endpoint)?;
        let peer = Peer {
            link,
            version,
            observer: Observer::new(version),
            received: Vec::new(),
            queue: VecDeque::new(),
            closed: false,
            connected: false,
            next_id: 1000,
            client_id: String::new(),
        };
        if let Some(old) = self.peers.insert(client.to_owned(), peer)
            && !old.closed
        {
            return Err(format!("{client} is still connected; close it first or use another name"));
        }
        self.order.retain(|name| name != client);
        self.order.push(client.to_owned());
        Ok(())
    }

    fn connect(&mut self, client: &str, fields: Map<String, Value>) -> Result<(), String> {
        let mut fields = Fields::new("connect", Value::Object(fields))?;
        let version = match fields.optional::<String>("version")? {
            Some(name) => super::version(&name)?,
            None => self.version,
        };
        let session: Option<bool> = fields.optional("session")?;
        let expected: Option<Value> = fields.optional("connack")?;
        let answered = fields.optional::<bool>("answered")?.unwrap_or(true);
        let endpoint: Option<String> = fields.optional("endpoint")?;
        let id_of: Option<String> = fields.optional("id_of")?;
        let expiry: Option<u32> = fields.optional("expiry")?;
        let mut connect = packets::connect(&mut fields, client, version, self.names)?;
        fields.finish()?;
        if let (true, Some(expiry)) = (version.is_v5(), expiry) {
            connect.properties.push((0x11, PropertyValue::Number(expiry)));
        }
        if let Some(other) = id_of {
            connect.client_id = self.peer(&other)?.client_id.clone();
        } else if !connect.client_id.is_empty() {
            connect.client_id = self.transport.client_id(&connect.client_id);
        }
        if self.peers.get(client).is_none_or(|peer| peer.closed || peer.connected) {
            self.open(client, version, endpoint.as_deref().unwrap_or(self.endpoint))?;
        }
        let peer = self.peer(client)?;
        peer.version = version;
        peer.client_id = connect.client_id.clone();
        self.send_packet(client, &Packet::Connect(connect))?;
        if !answered {
            return Ok(());
        }
        let connack = self.take(client, t::CONNACK)?;
        let expected = expected.unwrap_or(Value::Null);
        expect::matches(&connack, &expected, version, self.names)
            .map_err(|error| format!("{error}; it was {connack:?}"))?;
        let Packet::ConnAck { session_present, properties, .. } = connack else { return Err("no CONNACK".to_owned()) };
        if let Some((_, PropertyValue::String(assigned))) = properties.into_iter().find(|(id, _)| *id == 0x12) {
            self.peer(client)?.client_id = assigned;
        }
        if session.is_some_and(|session| session != session_present && version != Version::V3_1) {
            return Err(format!("session present is {session_present}"));
        }
        self.peer(client)?.connected = true;
        Ok(())
    }

    fn send_packet(&mut self, client: &str, packet: &Packet) -> Result<(), String> {
        let peer = self.peer(client)?;
        peer.observer.sent(packet);
        let (link, bytes) = (peer.link, packet.encode(peer.version));
        self.transport.send(link, &bytes);
        Ok(())
    }

    fn send(&mut self, client: &str, packets: &[(String, Value)]) -> Result<(), String> {
        let names = self.names;
        let peer = self.peer(client)?;
        let mut bytes = Vec::new();
        for (kind, value) in packets {
            let packet = packets::to_send(kind, value.clone(), peer.version, names)?;
            peer.observer.sent(&packet);
            bytes.extend_from_slice(&packet.encode(peer.version));
        }
        let link = peer.link;
        self.transport.send(link, &bytes);
        Ok(())
    }

    /// Takes in what came; whether anything did.
    fn pump(&mut self, client: &str, patience: Patience) -> Result<bool, String> {
        let peer = self.peers.get_mut(client).ok_or_else(|| format!("no client is called {client:?} yet"))?;
        if peer.closed {
            return Ok(false);
        }
        match self.transport.poll(peer.link, patience) {
            TransportEvent::Nothing => return Ok(false),
            TransportEvent::Closed if !peer.received.is_empty() => {
                return Err(format!("{client} was closed within a packet: {:02x?}", peer.received));
            }
            TransportEvent::Closed => peer.closed = true,
            TransportEvent::Bytes(bytes) => peer.received.extend_from_slice(&bytes),
        }
        loop {
            let decoded = decode_server_packet(peer.version, &peer.received);
            let Some((mut packet, size)) = decoded.map_err(|error| format!("{client} received: {error}"))? else {
                return Ok(true);
            };
            peer.observer.received(&mut packet, size).map_err(|error| format!("{client} received {error}"))?;
            peer.received.drain(..size);
            peer.queue.push_back(packet);
        }
    }

    /// The next packet of a type, waiting for it. The order between types is the server's choice; a DISCONNECT or the
    /// close ends the waiting.
    fn take(&mut self, client: &str, packet_type: u8) -> Result<Packet, String> {
        loop {
            let peer = self.peer(client)?;
            if let Some(index) = peer.queue.iter().position(|packet| packets::type_of(packet) == packet_type) {
                return peer.queue.remove(index).ok_or_else(|| "gone".to_owned());
            }
            let over = peer.closed || peer.queue.iter().any(|packet| matches!(packet, Packet::Disconnect { .. }));
            if over || !self.pump(client, Patience::Guard)? {
                let peer = self.peer(client)?;
                let state = if peer.closed { "was closed" } else { "received nothing" };
                return Err(format!("{client} {state}; packet type {packet_type} expected, waiting: {:?}", peer.queue));
            }
        }
    }

    fn closed(&mut self, client: &str) -> Result<(), String> {
        while !self.peer(client)?.closed {
            if !self.pump(client, Patience::Guard)? {
                return Err(format!("{client} is still open; waiting: {:?}", self.peer(client)?.queue));
            }
        }
        match self.peer(client)?.queue.pop_front() {
            None => Ok(()),
            Some(packet) => Err(format!("{client} was sent {packet:?} before the close")),
        }
    }

    fn refused(&mut self, client: &str, codes: &[u8]) -> Result<(), String> {
        if self.peer(client)?.version.is_v5() {
            let packet = self.take(client, t::DISCONNECT)?;
            let Packet::Disconnect { code, .. } = packet else { return Err("no DISCONNECT".to_owned()) };
            if !codes.contains(&code) {
                return Err(format!("DISCONNECT {code:#04x}, not {codes:#04x?}"));
            }
        }
        self.closed(client)
    }

    fn rejected(&mut self, client: &str, codes: &[u8], return_code: Option<u8>) -> Result<(), String> {
        let return_code: Vec<u8> = return_code.into_iter().collect();
        let codes = if self.peer(client)?.version.is_v5() { codes } else { &return_code };
        if !codes.is_empty() {
            let packet = self.take(client, t::CONNACK)?;
            let Packet::ConnAck { code, .. } = packet else { return Err("no CONNACK".to_owned()) };
            if !codes.contains(&code) {
                return Err(format!("CONNACK {code:#04x}, not {codes:#04x?}"));
            }
        }
        self.closed(client)
    }

    /// Closed before it was connected: with a CONNACK of whichever version, or without.
    fn broken(&mut self, client: &str) -> Result<(), String> {
        let link = self.peer(client)?.link;
        let mut bytes = Vec::new();
        loop {
            match self.transport.poll(link, Patience::Guard) {
                TransportEvent::Bytes(more) => bytes.extend_from_slice(&more),
                TransportEvent::Closed => break,
                TransportEvent::Nothing => return Err(format!("{client} is still open; it received {bytes:02x?}")),
            }
        }
        self.peer(client)?.closed = true;
        let is_refusal = |version| {
            let decoded = decode_server_packet(version, &bytes);
            matches!(decoded, Ok(Some((Packet::ConnAck { code: 1.., .. }, size))) if size == bytes.len())
        };
        if bytes.is_empty() || is_refusal(Version::V5) || is_refusal(Version::V3_1_1) {
            Ok(())
        } else {
            Err(format!("{client} was sent {bytes:02x?} before it was connected"))
        }
    }

    /// SUBACK or UNSUBACK with a failure for the one filter, or the close.
    fn filter_refused(&mut self, client: &str, id: u16) -> Result<(), String> {
        while self.peer(client)?.queue.is_empty() && !self.peer(client)?.closed {
            if !self.pump(client, Patience::Guard)? {
                return Err(format!("{client} received nothing"));
            }
        }
        let is_v5 = self.peer(client)?.version.is_v5();
        match self.peer(client)?.queue.pop_front() {
            None | Some(Packet::Disconnect { code: 0x81 | 0x82 | 0x8F, .. }) => self.closed(client),
            Some(Packet::SubAck { id: found, codes, .. })
                if found == id && codes == [if is_v5 { 0x8F } else { 0x80 }] =>
            {
                Ok(())
            }
            Some(Packet::UnsubAck { id: found, codes, .. })
                if found == id && (!is_v5 || codes == [0x11] || codes == [0x8F]) =>
            {
                Ok(())
            }
            Some(other) => Err(format!("{client} was sent {other:?}")),
        }
    }

    fn silence(&mut self, client: &str) -> Result<(), String> {
        if !self.transport.is_synchronous() && self.peer(client)?.connected && !self.peer(client)?.closed {
            self.transport.settle();
            self.ping(client)?;
        }
        self.pump(client, Patience::Moment)?;
        let peer = self.peer(client)?;
        match peer.queue.front() {
            None if peer.closed => Err(format!("{client} was closed")),
            None => Ok(()),
            Some(packet) => Err(format!("{client} was sent {packet:?}")),
        }
    }

    fn settle(&mut self) -> Result<(), String> {
        if self.transport.is_synchronous() {
            return Ok(());
        }
        for _ in 0..2 {
            let open = |name: &&String| self.peers[*name].connected && !self.peers[*name].closed;
            let clients: Vec<String> = self.order.iter().filter(open).cloned().collect();
            clients.iter().try_for_each(|client| self.ping(client))?;
            self.transport.settle();
        }
        Ok(())
    }
}
