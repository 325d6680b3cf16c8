//! The cluster, its clients, and what goes wrong.

mod checks;
mod planned;
mod troubles;

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy, WorkBudget};
use weir_cluster::slots::SlotOwner;
use weir_cluster::wire::decode_retained_entry;
use weir_mqtt::{DecodeContext, Decoded, Packet as Decode, Side, decode};

use self::troubles::Troubles;
use super::client::{Client, Open, Role, ack};
use super::engine::Engine;
use super::history::{History, Published, retained_of};
use super::host::{Host, Process};
use super::planted::{Fault, Planted};
use crate::broker_sim::rng::Rng;
use crate::node::policy;
use crate::wire::*;

/// How long things go wrong, and when after that everything must have healed, been answered, and ended.
const TROUBLE_MS: u64 = 25_000;
const HEALED_MS: u64 = 12_000;
const PROBES_MS: u64 = 3_000;
const ANSWERED_MS: u64 = 30_000;
/// For how long before and after a client is lost another node's failure may make its will come twice, or not at all.
const KEEPERS_MS: u64 = 10_000;
const GROUP: &str = "$share/g/t/#";
const PUBLISHERS: usize = 3;

pub struct World {
    rng: Rng,
    now: u64,
    shards: u16,
    work: WorkBudget,
    engine: Engine,
    hosts: Vec<Host>,
    clients: Vec<Client>,
    history: History,
    planted: Planted,
    policy: Arc<EndpointPolicy>,
    incarnations: u64,
    troubles: Troubles,
    numbers: BTreeMap<(usize, String), u64>,
    /// Wills that were due, by their place in the history, and whether each must come.
    wills: Vec<(usize, bool)>,
    pub log: Vec<String>,
}

impl World {
    pub fn new(seed: u64, fault: Option<Fault>) -> World {
        let mut rng = Rng::new(seed);
        let nodes = 2 + rng.below(3);
        let shards = 1 + rng.below(2) as u16;
        let mut engine = Engine::new(nodes);
        let mut on = || rng.below(2) == 0;
        let (lossy, delays) = (on(), on());
        let troubles = Troubles {
            link_cuts: on(),
            pauses: on(),
            elections: on(),
            engine_cuts: on(),
            crashes: on(),
            planned: on(),
        };
        engine.network.loss = if lossy { 3 + rng.below(30) } else { 1_000_000 };
        engine.network.delays = delays;
        engine.stores_twice = fault == Some(Fault::StoredTwice);
        let work = if rng.one_in(3) { WorkBudget::LEAST } else { WorkBudget::default() };
        let roles = (0..PUBLISHERS).map(Role::Publisher).chain([
            Role::Subscriber,
            Role::Subscriber,
            Role::Subscriber,
            Role::Member,
            Role::Member,
            Role::Testator,
            Role::Twin,
            Role::Twin,
        ]);
        let clients = roles.enumerate().map(|(number, role)| {
            let name = format!("{role:?}{number}x{}", rng.below(1000)).replace(['(', ')'], "");
            let name = if role == Role::Twin { "twin".to_owned() } else { name };
            Client::new(role, name, rng.below(nodes))
        });
        let clients = clients.collect();
        World {
            rng,
            now: 0,
            shards,
            work,
            engine,
            hosts: (0..nodes).map(Host::new).collect(),
            clients,
            history: History::default(),
            planted: Planted::new(fault),
            policy: policy(1, EndpointLimits::default()),
            incarnations: 0,
            troubles,
            numbers: BTreeMap::new(),
            wills: Vec::new(),
            log: Vec::new(),
        }
    }

    fn note(&mut self, text: impl FnOnce() -> String) {
        let line = format!("{:>6} {}", self.now, text());
        self.log.push(line);
    }

    pub fn run(&mut self) -> Result<(), String> {
        while self.now < TROUBLE_MS {
            if self.rng.one_in(150) {
                self.trouble();
            }
            self.step()?;
        }
        self.heal();
        while self.now < TROUBLE_MS + HEALED_MS {
            self.step()?;
        }
        self.history.healed_at = Some(self.now);
        self.note(|| "all must be well".to_owned());
        while self.now < TROUBLE_MS + HEALED_MS + PROBES_MS || self.waits().is_some() {
            self.step()?;
            if self.now > TROUBLE_MS + ANSWERED_MS
                && let Some(waits) = self.waits()
            {
                let state = self.describe();
                return Err(format!("no answer {}: {waits}; {state}", self.shards));
            }
        }
        self.quiesce()?;
        self.check_twins()?;
        self.wills.iter().for_each(|(will, must_come)| {
            let will = &mut self.history.published[*will];
            // A keeper that fails as well may publish it, and the next one too, or neither.
            let (from, to) = (will.at.saturating_sub(KEEPERS_MS), will.at + KEEPERS_MS);
            let others = self.hosts.iter().filter(|host| host.number != will.host);
            will.is_repeated = others.into_iter().any(|host| !host.was_in(from, to));
            will.acked_at = (*must_come && !will.is_repeated).then_some(u64::MAX - 1);
        });
        self.history.check(&self.clients, &self.hosts, &self.engine)?;
        self.check_retained()
    }

    /// Time for what was acknowledged to arrive.
    fn quiesce(&mut self) -> Result<(), String> {
        let (mut end, latest) = (self.now + 3000, self.now + 60_000);
        let mut received = 0;
        while self.now < end {
            let so_far =
                self.clients.iter().flat_map(|client| &client.sessions).map(|session| session.received.len()).sum();
            if so_far > std::mem::replace(&mut received, so_far) {
                // One with a small window may have much in its queue.
                end = (self.now + 3000).min(latest);
            }
            self.advance_engine();
            for host in 0..self.hosts.len() {
                self.turn(host, false)?;
            }
        }
        Ok(())
    }

    fn describe(&mut self) -> String {
        let now = self.now;
        let hosts = self.hosts.iter_mut().map(|host| {
            let ready = host.is_ready(now);
            let process = host.process.as_mut().map(|process| {
                let status = process.node.gateway().status(0);
                let links: Vec<String> =
                    status.peers.iter().map(|p| format!("{} {:?} {:?}", p.node, p.state, p.link)).collect();
                format!("in {} log {} waiting {} {links:?}", status.is_in, status.log_applied, status.log_waiting)
            });
            format!("n{} ready {ready} {process:?}\n", host.number)
        });
        hosts.collect()
    }

    /// A client that waits for an answer, or for its connection.
    fn waits(&self) -> Option<String> {
        let late = |client: &&Client| client.role != Role::Twin && (!client.is_connected || !client.open.is_empty());
        let client = self.clients.iter().find(late)?;
        let open: Vec<String> =
            client.open.values().map(|open| format!("{:?} since {}", open.packet, open.since)).collect();
        Some(format!("{} on n{}: connected {}, {open:?}", client.name, client.host, client.is_connected))
    }

    fn advance_engine(&mut self) {
        self.now += 1 + self.rng.below(20) as u64;
        self.engine.run(self.now, &mut self.rng);
    }

    fn step(&mut self) -> Result<(), String> {
        self.advance_engine();
        for number in 0..self.hosts.len() {
            let host = &mut self.hosts[number];
            if host.process.is_none() && self.now >= host.restart_at {
                self.incarnations += 1;
                let process = Process::new(number, self.incarnations, self.shards, self.work, self.now);
                host.process = Some(process);
            }
            self.advance_planned(number);
            let acts = self.now < TROUBLE_MS + HEALED_MS + PROBES_MS;
            self.turn(number, acts)?;
        }
        self.check_one_owner()
    }

    /// A node takes what has come, works, and sends.
    fn turn(&mut self, number: usize, acts: bool) -> Result<(), String> {
        self.hosts[number].observe(self.now);
        if !self.hosts[number].runs(self.now) {
            return Ok(());
        }
        let Some(process) = &mut self.hosts[number].process else { return Ok(()) };
        let before = process.is_in(self.now);
        process.node.now = process.local(self.now);
        for client in (0..self.clients.len()).filter(|client| self.clients[*client].host == number).collect::<Vec<_>>()
        {
            self.act(client, acts)?;
        }
        if self.troubles.crashes && self.rng.one_in(20_000) {
            self.crash(number);
        }
        let Self { engine, planted, rng, hosts, now, .. } = self;
        let now = *now;
        let Some(process) = &mut hosts[number].process else { return Ok(()) };
        if rng.one_in(2) {
            // The threads of shards may be faster than that of the gateway.
            process.work(now, rng);
        }
        process.take_answers(number, engine, now);
        process.take_inputs(number, engine, planted, now, rng);
        process.work(now, rng);
        let incarnations: Vec<u64> =
            hosts.iter().map(|host| host.process.as_ref().map_or(0, |process| process.incarnation)).collect();
        let Some(process) = &mut hosts[number].process else { return Ok(()) };
        let events = process.take_outputs(number, (engine, &incarnations), planted, now, rng);
        let after = process.is_in(now);
        for event in events {
            self.note(|| format!("n{number}: {event:?}"));
        }
        self.deliver_directly(number);
        self.hosts[number].observe(now);
        self.read(number, before || after)
    }

    /// The clients of a node read what it has sent them.
    fn read(&mut self, number: usize, is_in: bool) -> Result<(), String> {
        let mut crashes = false;
        let Some(process) = &mut self.hosts[number].process else { return Ok(()) };
        for client in self.clients.iter_mut().filter(|client| client.host == number) {
            let Some(link) = client.link else { continue };
            let bytes = process.node.take_output(link);
            let acknowledges = client.receive(&bytes)?;
            if acknowledges && !is_in {
                return Err(format!("n{number} is out, and acknowledges a publish of {}", client.name));
            }
            crashes |= acknowledges && self.troubles.crashes && self.rng.one_in(150);
        }
        if crashes {
            // Right after an acknowledgement; the client has it.
            for client in 0..self.clients.len() {
                if self.clients[client].host == number {
                    self.answer_all(client)?;
                }
            }
            self.crash(number);
        }
        Ok(())
    }

    /// The planted fault.
    fn deliver_directly(&mut self, number: usize) {
        for append in std::mem::take(&mut self.planted.direct) {
            let Ok(entry) = decode_retained_entry(&append.payload) else { continue };
            let context = DecodeContext { version: entry.version, max_packet_size: u32::MAX, from: Side::Client };
            let Ok(Decoded::Packet { packet: Decode::Publish(mut publish), .. }) = decode(entry.packet, &context)
            else {
                continue;
            };
            publish.retain = false;
            for host in self.hosts.iter_mut().filter(|host| host.number != number) {
                if let Some(process) = &mut host.process {
                    let local = process.node.now;
                    process.node.cores[0].publish_internal("", &publish, local);
                }
            }
        }
    }

    fn answer_all(&mut self, client: usize) -> Result<(), String> {
        while let Some(packet) = self.clients[client].inbox.pop_front() {
            self.answer(client, packet)?;
        }
        Ok(())
    }

    fn send(&mut self, client: usize, packet: &Packet) {
        let client = &mut self.clients[client];
        let Some(link) = client.link else { return };
        let bytes = client.encode(packet);
        if let Some(process) = &mut self.hosts[client.host].process {
            process.node.send(link, &bytes);
        }
    }

    /// A client does something.
    fn act(&mut self, number: usize, acts: bool) -> Result<(), String> {
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

    fn lose_connection(&mut self, number: usize) {
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

    fn connect(&mut self, number: usize) {
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

    fn subscribe(&mut self, number: usize, filters: &[(&str, u8)]) {
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

    /// All nodes retain what the log says.
    fn check_retained(&mut self) -> Result<(), String> {
        let expected: BTreeMap<String, String> = retained_of(&self.engine);
        for number in 0..self.hosts.len() {
            let mut client = Client::new(Role::Subscriber, format!("check{number}"), number);
            let Some(process) = &mut self.hosts[number].process else { return Err(format!("n{number} does not run")) };
            let link = process.node.open(Arc::clone(&self.policy));
            let bytes = client.connect(link);
            process.node.send(link, &bytes);
            client.host = number;
            self.clients.push(client);
            let at = self.clients.len() - 1;
            let end = self.now + 2000;
            while self.now < end {
                self.advance_engine();
                for host in 0..self.hosts.len() {
                    self.turn(host, false)?;
                }
                if self.clients[at].is_connected {
                    self.subscribe(at, &[("r/#", 2)]);
                }
            }
            let received = &self.clients[at].sessions.last().map(|session| &session.received);
            let found: BTreeMap<String, String> = received
                .iter()
                .flat_map(|received| received.iter())
                .map(|received| (received.topic.clone(), received.payload.clone()))
                .collect();
            if found != expected {
                return Err(format!("n{number} retains {found:?}, and the log {expected:?}"));
            }
        }
        Ok(())
    }
}
