//! The cluster, its clients, and what goes wrong.

mod checks;
mod clients;
mod planned;
mod troubles;

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy, WorkBudget};
use weir_cluster::wire::decode_retained_entry;
use weir_mqtt::{DecodeContext, Decoded, Packet as Decode, Side, decode};

use self::troubles::Troubles;
use super::client::{Client, Role};
use super::engine::Engine;
use super::history::History;
use super::host::{Host, Process};
use super::planted::{Fault, Planted};
use crate::broker_sim::rng::Rng;
use crate::node::policy;

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
}
