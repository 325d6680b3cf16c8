//! What clients do: they connect, subscribe, publish, and answer what they are sent.

use std::sync::Arc;

use weir_cluster::slots::SlotOwner;

use super::{GROUP, TROUBLE_MS, World};
use crate::cluster_sim::client::{Open, Role, ack};
use crate::cluster_sim::history::Published;
use crate::cluster_sim::host::Host;
use crate::wire::*;

impl World {
    pub(super) fn answer_all(&mut self, client: usize) -> Result<(), String> {
        while let Some(packet) = self.clients[client].inbox.pop_front() {
            self.answer(client, packet)?;
        }
        Ok(())
    }

    pub(super) fn send(&mut self, client: usize, packet: &Packet) {
        let client = &mut self.clients[client];
        let Some(link) = client.link else { return };
        let bytes = client.encode(packet);
        if let Some(process) = &mut self.hosts[client.host].process {
            process.node.send(link, &bytes);
        }
    }

    /// A client does something.
    pub(super) fn act(&mut self, number: usize, acts: bool) -> Result<(), String> {
        let client = &mut self.clients[number];
        let host = &mut self.hosts[client.host];
        if let (Some(link), Some(process)) = (client.link, &mut host.process)
            && process.node.is_closed(link)
        {
            self.will_is_due(number, false);
            self.clients[number].disconnected();
        }
        let client = &mut self.clients[number];
        let host = &mut self.hosts[client.host];
        if client.link.is_none() {
            if client.role == Role::Twin && self.now >= TROUBLE_MS {
                return Ok(());
            }
            if host.is_ready(self.now) && self.rng.one_in(10) {
                self.find_owner(number);
            }
            return Ok(());
        }
        if !self.rng.one_in(4) {
            self.answer_all(number)?;
        }
        if !self.clients[number].is_connected {
            return Ok(());
        }
        self.clients[number].last_connected = self.now;
        let loses = if self.clients[number].role == Role::Testator { 300 } else { 1500 };
        if self.history.healed_at.is_none() && self.rng.one_in(loses) {
            self.lose_connection(number);
            return Ok(());
        }
        match self.clients[number].role {
            Role::Publisher(publisher) if acts && self.rng.one_in(6) => self.publish(number, publisher),
            Role::Subscriber => self.subscribe(number, &[("t/#", 2), ("r/#", 2)]),
            Role::Member => self.subscribe(number, &[(GROUP, 2)]),
            _ => {}
        }
        Ok(())
    }

    pub(super) fn lose_connection(&mut self, number: usize) {
        let Some(link) = self.clients[number].link else { return };
        self.will_is_due(number, true);
        let client = &mut self.clients[number];
        client.disconnected();
        let host = client.host;
        if let Some(process) = &mut self.hosts[host].process {
            process.node.close(link);
        }
        self.note(|| format!("client {number} on n{host} loses its connection"));
    }

    /// Connects a client to the node that serves its session; what a load balancer cannot know, relayed connections do.
    fn find_owner(&mut self, number: usize) {
        let client = &mut self.clients[number];
        let Some(process) = &mut self.hosts[client.host].process else { return };
        let owner = if client.is_clean() { SlotOwner::Here } else { process.owner_of(&client.name) };
        match owner {
            SlotOwner::Here => self.connect(number),
            SlotOwner::Unknown => {}
            SlotOwner::Peer(incarnation) => {
                let is_it =
                    |host: &Host| host.process.as_ref().is_some_and(|process| process.incarnation == incarnation);
                if let Some(host) = self.hosts.iter().position(is_it) {
                    client.host = host;
                }
            }
        }
    }

    pub(super) fn connect(&mut self, number: usize) {
        let receive_maximum = self.rng.pick(&[1, 3, 20, 65_535]);
        let client = &mut self.clients[number];
        let Some(process) = &mut self.hosts[client.host].process else { return };
        client.receive_maximum = receive_maximum;
        let link = process.node.open(Arc::clone(&self.policy));
        let bytes = client.connect(link);
        process.node.send(link, &bytes);
        let (name, host) = (client.name.clone(), client.host);
        self.note(|| format!("{name} connects to n{host}"));
    }

    fn connected(&mut self, number: usize, is_present: bool) -> Result<(), String> {
        if !is_present && !self.clients[number].is_clean() {
            self.check_loss(number)?;
            self.clients[number].session_lost();
        }
        let host = self.clients[number].host;
        if !self.clients[number].session().hosts.contains(&host) {
            self.clients[number].session().hosts.push(host);
        }
        self.clients[number].is_connected = true;
        // A SUBSCRIBE that was not answered is sent as a new one.
        let client = &mut self.clients[number];
        let before = client.open.len();
        client.open.retain(|_, open| !matches!(open.packet, Packet::Subscribe { .. }));
        client.subscribe_sent &= before == client.open.len();
        let again: Vec<(u16, Packet)> = client.open.iter().map(|(id, open)| (*id, open.packet.clone())).collect();
        for (id, packet) in again {
            let packet = match packet {
                Packet::Publish(publish) => {
                    if let Some(at) = self.clients[number].open.get(&id).and_then(|open| open.publish) {
                        self.history.published[at].is_repeated = true;
                    }
                    Packet::Publish(Publish { dup: true, ..publish })
                }
                other => other,
            };
            self.send(number, &packet);
        }
        Ok(())
    }

    pub(super) fn subscribe(&mut self, number: usize, filters: &[(&str, u8)]) {
        // Again now and then: nothing may be lost by it, nor anything old come after it.
        let again = self.clients[number].role == Role::Subscriber && self.rng.one_in(400);
        if self.clients[number].subscribe_sent && !again || !self.clients[number].open.is_empty() {
            return;
        }
        self.clients[number].subscribe_sent = true;
        let id = self.clients[number].new_id();
        let filters = filters.iter().map(|(filter, options)| ((*filter).to_owned(), *options)).collect();
        let packet = Packet::Subscribe { id, properties: Properties::new(), filters };
        let open = Open { packet: packet.clone(), publish: None, since: self.now };
        self.clients[number].open.insert(id, open);
        self.send(number, &packet);
    }

    fn publish(&mut self, number: usize, publisher: usize) {
        if self.clients[number].open.len() > 20 {
            return;
        }
        let (topic, retain) = match self.rng.below(4) {
            // Retained and others on one topic; and one topic of all publishers.
            0 => (format!("r/{publisher}"), self.rng.one_in(3)),
            1 => ("r/all".to_owned(), self.rng.one_in(2)),
            _ => (format!("t/{publisher}/{}", self.rng.below(2)), false),
        };
        let qos = self.rng.below(3) as u8;
        let count = self.numbers.entry((publisher, topic.clone())).or_default();
        *count += 1;
        let payload = if retain && self.rng.one_in(12) { String::new() } else { format!("{publisher}:{count}") };
        let id = (qos > 0).then(|| self.clients[number].new_id());
        let packet = Packet::Publish(Publish {
            dup: false,
            qos,
            retain,
            topic: topic.clone(),
            id,
            properties: Properties::new(),
            payload: payload.clone().into_bytes(),
        });
        let at = self.history.published.len();
        let (now, host) = (self.now, self.clients[number].host);
        self.note(|| format!("n{host}: {topic} {payload:?} qos {qos} retain {retain}"));
        self.history.published.push(Published {
            publisher: number,
            host,
            session: self.clients[number].sessions.len(),
            topic,
            payload,
            qos,
            is_retained: retain,
            at: now,
            acked_at: None,
            is_repeated: false,
        });
        if let Some(id) = id {
            let open = Open { packet: packet.clone(), publish: Some(at), since: now };
            self.clients[number].open.insert(id, open);
        }
        self.send(number, &packet);
    }

    fn answer(&mut self, number: usize, packet: Packet) -> Result<(), String> {
        let now = self.now;
        let client = &mut self.clients[number];
        match packet {
            Packet::Publish(publish) => {
                let answer = client.on_publish(&publish, now);
                let name = client.name.clone();
                let text = String::from_utf8_lossy(&publish.payload).into_owned();
                self.note(|| {
                    format!("{name} has {} {text:?} qos {} retain {}", publish.topic, publish.qos, publish.retain)
                });
                if let Some(answer) = answer {
                    self.send(number, &answer);
                }
            }
            Packet::Ack(answer) => self.on_ack(number, &answer)?,
            Packet::SubAck { id, codes, .. } => {
                if codes.iter().any(|code| *code > 2) {
                    return Err(format!("{} was refused: {codes:?}", client.name));
                }
                client.open.remove(&id);
                client.session().subscribed_at.get_or_insert(now);
                let name = client.name.clone();
                self.note(|| format!("{name} is subscribed"));
            }
            Packet::ConnAck { code: 0, session_present, .. } => self.connected(number, session_present)?,
            // The slot of its session goes to another node.
            Packet::ConnAck { code: 0x88, .. } | Packet::Disconnect { .. } => {}
            other => return Err(format!("{} was sent {other:?}", client.name)),
        }
        Ok(())
    }

    fn on_ack(&mut self, number: usize, answer: &Ack) -> Result<(), String> {
        let client = &mut self.clients[number];
        if answer.code >= 0x80 && answer.code != 0x92 {
            return Err(format!("{} was refused: {answer:?}", client.name));
        }
        match answer.packet_type {
            packet_type::PUBREL => {
                let pubcomp = client.on_pubrel(answer.id);
                self.send(number, &pubcomp);
            }
            packet_type::PUBREC => {
                let pubrel = ack(packet_type::PUBREL, answer.id);
                if let Some(open) = client.open.get_mut(&answer.id) {
                    open.packet = pubrel.clone();
                    self.acknowledged(number, answer.id);
                    self.send(number, &pubrel);
                }
            }
            _ => {
                self.acknowledged(number, answer.id);
                self.clients[number].open.remove(&answer.id);
            }
        }
        Ok(())
    }

    fn acknowledged(&mut self, number: usize, id: u16) {
        let Some(at) = self.clients[number].open.get(&id).and_then(|open| open.publish) else { return };
        let now = self.now;
        let published = &mut self.history.published[at];
        published.acked_at.get_or_insert(now);
        let text = format!("{} {} is acknowledged", published.topic, published.payload);
        self.note(|| text);
    }
}
