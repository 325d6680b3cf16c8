//! Durable sessions: messages into the queues of offline clients, out again, and the time of a restart.
//!
//! Weir runs with `durability: disk` (and, for comparison, `memory`), mosquitto with `persistence true`: it saves every half
//! hour and when it ends, and loses what lies between.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tempfile::TempDir;

use super::{Meter, Outcome, Settings};
use crate::brokers::{Kind, Running, Spec, free_port};
use crate::config;
use crate::engine::{Clients, Engine, Handler, Target};
use crate::ledger::Faults;
use crate::transport::Listener;
use crate::wire::{self, Frame, PublishTemplate, Version};

/// Unacknowledged publishes of one client.
const UNACKED: u32 = 256;
const PATIENCE: Duration = Duration::from_secs(300);
/// Clients that connect at once to leave a session behind.
const VISITORS: usize = 500;

pub fn applies(spec: &Spec) -> bool {
    matches!(spec.kind, Kind::Weir { .. } | Kind::Mosquitto)
}

/// What keeps a broker's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kept {
    Disk,
    Memory,
}

/// Starts a broker in `dir`, which may hold what an earlier one left.
fn start(spec: &Spec, kept: Kept, port: u16, dir: TempDir) -> Result<Running> {
    let mut command = Command::new(&spec.program);
    match spec.kind {
        Kind::Weir { shards } => {
            let endpoints = dir.path().join("endpoints.d");
            fs::create_dir_all(&endpoints)?;
            let durability = if kept == Kept::Disk { "disk" } else { "memory" };
            let document = format!(
                "endpoint: {{name: bench, host: 127.0.0.1, port: {port}, enableAuth: false, enableAcl: false, \
                 durability: {durability}, maxQueuedMessages: 10000000, maxQueuedBytes: 17179869184}}\n"
            );
            fs::write(endpoints.join("bench.yaml"), document)?;
            config::weir_arguments(&mut command, &endpoints, dir.path(), shards)?;
        }
        _ => {
            let path = dir.path().join("mosquitto.conf");
            fs::write(&path, config::mosquitto_persistent(port, dir.path(), kept == Kept::Disk))?;
            command.arg("-c").arg(&path);
        }
    }
    spec.spawn(&mut command, port, dir)
}

/// `publishers` clients publish QoS 1 of 64 B to as many offline sessions; then their clients connect and receive it.
pub fn queues(settings: &Settings, spec: &Spec, publishers: usize) -> Result<Outcome> {
    let (mut values, mut faults) = (Vec::new(), Faults::default());
    let both =
        [(Kept::Disk, ["fill_per_s", "drain_per_s"]), (Kept::Memory, ["memory_fill_per_s", "memory_drain_per_s"])];
    for (kept, [fill_key, drain_key]) in both {
        let broker = start(spec, kept, free_port()?, TempDir::with_prefix("weir-bench-")?)?;
        leave_sessions(settings, &broker, publishers)?;
        let target = settings.target(&broker, Listener::Plain);
        let mut engine = Engine::new()?;
        engine.connect(&target, Version::V3_1_1, "publisher", publishers)?;
        let meter = Meter::start(&broker)?;
        let mut filling = Filling::new(publishers, u32::MAX, "d");
        engine.turn(Duration::ZERO, &mut filling)?;
        engine.run(&mut filling, Instant::now() + settings.stretch, |_| false)?;
        filling.ends = true;
        let done = |filling: &Filling| filling.is_acknowledged();
        ensure!(engine.run(&mut filling, Instant::now() + PATIENCE, done)?, "not all publishes were acknowledged");
        let cost = meter.stop()?;
        let sent = filling.acknowledged();
        values.push((fill_key, sent as f64 / cost.wall_s));
        if kept == Kept::Disk {
            values.push(("fill_cpu_us_per_msg", cost.cpu_s * 1e6 / sent as f64));
        }
        let mut takers = Engine::new()?;
        let meter = Meter::start(&broker)?;
        (0..publishers).try_for_each(|session| open_session(&mut takers, &target, session))?;
        let mut draining = Draining { wanted: sent, received: 0 };
        takers.run(&mut draining, Instant::now() + PATIENCE, |draining| draining.received >= draining.wanted)?;
        let cost = meter.stop()?;
        values.push((drain_key, draining.received as f64 / cost.wall_s));
        faults.lost += sent.saturating_sub(draining.received);
    }
    Ok(Outcome { values, faults, ..Outcome::default() })
}

/// Sessions `d/0`, `d/1` ... that are subscribed and offline.
fn leave_sessions(settings: &Settings, broker: &Running, sessions: usize) -> Result<()> {
    let target = settings.target(broker, Listener::Plain);
    for first in (0..sessions).step_by(VISITORS) {
        let count = VISITORS.min(sessions - first);
        let mut engine = Engine::new()?;
        for conn in 0..count {
            open_session(&mut engine, &target, first + conn)?;
            let filter = format!("d/{}", first + conn);
            engine.clients.push(conn, &wire::subscribe(Version::V3_1_1, 1, &[filter], 1));
        }
        let mut leaving = Leaving { count, granted: 0 };
        let done = |leaving: &Leaving| leaving.granted == leaving.count;
        ensure!(engine.run(&mut leaving, Instant::now() + PATIENCE, done)?, "only {} sessions begin", leaving.granted);
    }
    Ok(())
}

/// Opens a connection with the CONNECT of a session that outlives it.
fn open_session(engine: &mut Engine, target: &Target, session: usize) -> Result<()> {
    engine.open(target)?;
    let conn = engine.len() - 1;
    engine.clients.push(conn, &wire::connect_durable(&format!("away-{session}")));
    Ok(())
}

/// Clients that subscribe and go.
struct Leaving {
    count: usize,
    granted: usize,
}

impl Handler for Leaving {
    fn frame(&mut self, _conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::CONNACK => ensure!(wire::connack_code(frame)? == 0, "a client is refused"),
            wire::SUBACK => self.granted += 1,
            kind => bail!("a subscriber got a packet of type {kind}"),
        }
        Ok(())
    }
}

/// Fills a broker, kills it, and starts it again: how long until it accepts.
pub fn restart(settings: &Settings, spec: &Spec, retained: usize, sessions: usize, each: u32) -> Result<Outcome> {
    let port = free_port()?;
    let broker = start(spec, Kept::Disk, port, TempDir::with_prefix("weir-bench-")?)?;
    leave_sessions(settings, &broker, sessions / settings.divisor)?;
    let target = settings.target(&broker, Listener::Plain);
    let mut engine = Engine::new()?;
    engine.connect(&target, Version::V3_1_1, "publisher", 1)?;
    let topics = (retained + sessions) / settings.divisor;
    let mut filling = Filling::new(1, topics as u32 * each.max(1), if retained > 0 { "r" } else { "d" });
    (filling.topics, filling.retain) = (topics, retained > 0);
    engine.turn(Duration::ZERO, &mut filling)?;
    ensure!(
        engine.run(&mut filling, Instant::now() + PATIENCE, Filling::is_acknowledged)?,
        "not all were acknowledged"
    );
    drop(engine);
    let dir = broker.kill()?;
    let begun = Instant::now();
    let broker = start(spec, Kept::Disk, port, dir)?;
    let values = vec![("restart_s", begun.elapsed().as_secs_f64())];
    drop(broker);
    Ok(Outcome { values, ..Outcome::default() })
}

/// Publishers of QoS 1.
struct Filling {
    sent: Vec<u32>,
    acknowledged: Vec<u32>,
    each: u32,
    prefix: &'static str,
    /// Of one publisher that goes round: how many topics.
    topics: usize,
    retain: bool,
    ends: bool,
}

impl Filling {
    fn new(publishers: usize, each: u32, prefix: &'static str) -> Self {
        let zero = vec![0; publishers];
        Self { sent: zero.clone(), acknowledged: zero, each, prefix, topics: 0, retain: false, ends: false }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.iter().map(|count| u64::from(*count)).sum()
    }

    fn is_acknowledged(&self) -> bool {
        let ended = self.ends || self.sent.iter().all(|sent| *sent == self.each);
        ended && self.acknowledged == self.sent
    }
}

impl Handler for Filling {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, _clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::PUBACK => self.acknowledged[conn] += 1,
            kind => bail!("a publisher got a packet of type {kind}"),
        }
        Ok(())
    }

    fn end_of_turn(&mut self, clients: &mut Clients) -> Result<()> {
        for conn in 0..self.sent.len() {
            while !self.ends && self.sent[conn] < self.each && self.sent[conn] - self.acknowledged[conn] < UNACKED {
                let sent = self.sent[conn];
                let topic = if self.topics > 0 { sent as usize % self.topics } else { conn };
                let mut template = PublishTemplate::new(&format!("{}/{topic}", self.prefix), 1, self.retain, 64);
                clients.push(conn, template.stamp((sent % 65_535) as u16 + 1, conn as u32, sent, 0));
                self.sent[conn] += 1;
            }
        }
        Ok(())
    }
}

/// Clients that take what waited for them.
struct Draining {
    wanted: u64,
    received: u64,
}

impl Handler for Draining {
    fn frame(&mut self, conn: usize, frame: Frame<'_>, clients: &mut Clients) -> Result<()> {
        match frame.kind() {
            wire::PUBLISH => {
                let delivery = wire::delivery(Version::V3_1_1, frame)?;
                clients.push(conn, &wire::ack(wire::PUBACK, delivery.packet_id));
                self.received += 1;
            }
            wire::CONNACK => ensure!(wire::connack_code(frame)? == 0, "a client is refused"),
            kind => bail!("a subscriber got a packet of type {kind}"),
        }
        Ok(())
    }
}
