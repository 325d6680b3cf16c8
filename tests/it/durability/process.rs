//! `kill -9` and power cuts at random moments under load, again and again, on a real disk.
//!
//! `WEIR_KILL_CYCLES=n` kills so often; `WEIR_KILL_SEED=n` chooses the moments.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::{Duration, Instant};

use super::actor::{Actor, Role};
use super::cast::{cast, judge_retained};
use super::history::History;
use super::power_cut::PowerCut;
use crate::broker_sim::rng::Rng;
use crate::support::weir::Weir;
use crate::support::{GUARD, ports};
use crate::wire::Version;

/// A broker whose data outlives it.
pub struct Durable {
    weir: Weir,
    pub address: SocketAddr,
    power: Option<PowerCut>,
}

impl Durable {
    /// A broker with one endpoint that is `durability: disk`; `fields` more of it.
    pub fn start(shards: u16, fields: &str) -> Self {
        Self::start_on(shards, None, fields)
    }

    /// The same, on a disk whose power can be cut and whose every fsync takes up to `sync_ms` longer.
    fn start_on(shards: u16, sync_ms: Option<u32>, fields: &str) -> Self {
        let address = ports::free_address();
        let document = format!(
            "endpoint: {{name: main, host: 127.0.0.1, port: {}, enableAuth: false, enableAcl: false, durability: disk, \
             maxQueuedMessages: 1000000{fields}}}\n",
            address.port()
        );
        let weir = Weir::new().with_data().with_shards(shards).with_arguments(&["--log-level", "warn"]);
        let mut weir = weir.with_file("main.yaml", &document);
        let power = sync_ms.map(|sync_ms| PowerCut::prepare(weir.directory(), sync_ms));
        if let Some(power) = &power {
            weir = power.load_into(weir);
        }
        let mut durable = Self { weir, address, power };
        durable.begin();
        durable
    }

    /// Runs it until it listens.
    pub fn begin(&mut self) {
        self.weir.run_until_accepting(&[self.address]);
    }

    /// SIGKILL; on a disk whose power can be cut, that too.
    pub fn kill(&mut self) {
        self.weir.kill();
        if let Some(power) = &self.power {
            power.cut(&self.data().join("store"));
        }
    }

    /// SIGTERM, until it has ended.
    pub fn stop(&mut self) {
        assert!(self.weir.stop().success(), "{}", self.log());
    }
}

impl Deref for Durable {
    type Target = Weir;

    fn deref(&self) -> &Weir {
        &self.weir
    }
}

/// The clients, each on a socket of its own, driven by one thread.
struct Clients {
    rng: Rng,
    actors: Vec<Actor>,
    streams: Vec<Option<TcpStream>>,
    history: History,
}

impl Clients {
    fn new(seed: u64) -> Self {
        let actors = cast(100);
        let streams = actors.iter().map(|_| None).collect();
        Self { rng: Rng::new(seed), actors, streams, history: History::default() }
    }

    fn close(&mut self, at: usize) {
        if self.streams[at].take().is_some() {
            self.actors[at].closed(&mut self.history);
        }
    }

    /// One client does something, or hears something. Answers whether anything happened.
    fn step(&mut self, at: usize, address: SocketAddr) -> bool {
        if self.streams[at].is_none() {
            if !self.actors[at].may_open(&self.history) {
                return false;
            }
            let Ok(stream) = TcpStream::connect(address) else { return false };
            stream.set_nodelay(true).unwrap();
            let hello = self.actors[at].open(&mut self.history);
            self.streams[at] = Some(stream);
            return self.send(at, &hello);
        }
        let Some(heard) = self.read(at) else {
            self.close(at);
            return true;
        };
        let mut out = self.actors[at].receive(&heard, &mut self.history);
        out.extend(self.actors[at].act(&mut self.rng, &mut self.history));
        if out.is_empty() { !heard.is_empty() } else { self.send(at, &out) }
    }

    fn send(&mut self, at: usize, bytes: &[u8]) -> bool {
        let Some(stream) = &mut self.streams[at] else { return false };
        stream.set_nonblocking(false).unwrap();
        stream.set_write_timeout(Some(GUARD)).unwrap();
        if stream.write_all(bytes).is_err() {
            self.close(at);
        }
        true
    }

    /// What came; `None`: the connection is gone.
    fn read(&mut self, at: usize) -> Option<Vec<u8>> {
        let stream = self.streams[at].as_mut()?;
        stream.set_nonblocking(true).unwrap();
        let mut buffer = vec![0; 64 << 10];
        match stream.read(&mut buffer) {
            Ok(0) => None,
            Ok(count) => {
                buffer.truncate(count);
                Some(buffer)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Some(Vec::new()),
            Err(_) => None,
        }
    }

    /// Lets all of them go on until `done`.
    fn run(&mut self, address: SocketAddr, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !done(self) {
            let mut anything = false;
            for at in 0..self.actors.len() {
                anything |= self.step(at, address);
            }
            if !anything {
                std::thread::sleep(Duration::from_micros(200));
            }
            assert!(start.elapsed() < GUARD, "not in time: {what}; {}", self.history.findings().join("\n"));
        }
    }

    /// What was on its way when the broker died is heard, then every connection is gone.
    fn after_kill(&mut self) {
        for at in 0..self.actors.len() {
            while let Some(heard) = self.read(at).filter(|_| self.streams[at].is_some()) {
                if !heard.is_empty() {
                    self.actors[at].receive(&heard, &mut self.history);
                }
            }
            self.close(at);
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

/// One run of kills.
#[derive(Debug, Clone, Copy)]
struct Run {
    cycles: u64,
    seed: u64,
    shards: u16,
    /// `Some`: the power is cut as well, and every fsync takes up to so many milliseconds longer.
    power_cut_sync_ms: Option<u32>,
    /// Bytes of the longest payload.
    payload_max: usize,
}

/// Kills the broker again and again; answers with what was found, and how many messages were acknowledged.
fn kill_cycles(run: Run) -> (Vec<String>, usize) {
    let mut broker = Durable::start_on(run.shards, run.power_cut_sync_ms, "");
    let mut clients = Clients::new(run.seed);
    clients.actors.iter_mut().for_each(|actor| actor.payload_max = run.payload_max);
    let everybody = std::mem::take(&mut clients.actors);
    let (listeners, speakers): (Vec<Actor>, Vec<Actor>) = everybody.into_iter().partition(|actor| actor.role.listens());
    // The subscribers are there before anything is published.
    clients.actors = listeners;
    clients.run(broker.address, "the subscribers are there", |clients| clients.actors.iter().all(Actor::is_set_up));
    clients.actors.extend(speakers);
    for _ in 0..run.cycles {
        let until = clients.history.acknowledged_count() + 20 + clients.rng.below(1_000);
        clients
            .run(broker.address, "messages are acknowledged", |clients| clients.history.acknowledged_count() >= until);
        broker.kill();
        clients.after_kill();
        broker.begin();
        // What a restart does (wills become due, deliveries are sent on) is interrupted as well.
        while clients.rng.one_in(2) {
            std::thread::sleep(Duration::from_millis(clients.rng.below(40) as u64));
            broker.kill();
            broker.begin();
        }
    }
    clients.actors.iter_mut().for_each(|actor| actor.rests = true);
    clients.run(broker.address, "everything is delivered", |clients| {
        clients.actors.iter().all(Actor::is_at_rest) && clients.history.is_complete()
    });
    clients.actors.push(Actor::new("reader", Role::Reader, Version::V3_1_1));
    clients.streams.push(None);
    clients.run(broker.address, "what is retained is read", |clients| {
        clients.actors.last().is_some_and(|reader| reader.has_read)
    });
    let found = clients.actors.pop().map(|reader| reader.found).unwrap_or_default();
    judge_retained(&clients.actors, &found, &mut clients.history);
    (clients.history.findings(), clients.history.acknowledged_count())
}

/// Runs it and says what came of it.
fn assert_nothing_is_lost(run: Run) {
    let (findings, acknowledged) = kill_cycles(run);
    println!("{run:?}: {acknowledged} messages acknowledged, {} findings", findings.len());
    assert!(findings.is_empty(), "WEIR_KILL_SEED={}, {run:?}:\n{}", run.seed, findings.join("\n"));
}

/// Small messages, no power cut.
fn kills(cycles: u64, seed: u64, shards: u16) -> Run {
    let (cycles, seed) = (number("WEIR_KILL_CYCLES", cycles), number("WEIR_KILL_SEED", seed));
    Run { cycles, seed, shards, power_cut_sync_ms: None, payload_max: 200 }
}

#[test]
fn nothing_acknowledged_is_lost_by_kill_9() {
    [1, 3].into_iter().for_each(|shards| assert_nothing_is_lost(kills(3, 1, shards)));
}

#[test]
fn nothing_acknowledged_is_lost_by_a_power_cut() {
    for shards in [1, 3] {
        assert_nothing_is_lost(Run { power_cut_sync_ms: Some(20), ..kills(3, 1, shards) });
    }
}

#[test]
#[ignore = "200 kills take minutes: tests/run --all"]
fn nothing_acknowledged_is_lost_by_200_kills() {
    [1, 3].into_iter().for_each(|shards| assert_nothing_is_lost(kills(100, 7, shards)));
}

/// The log passes the size of a file (32 MiB) many times.
#[test]
#[ignore = "200 power cuts on each number of shards take minutes: tests/run --all"]
fn nothing_acknowledged_is_lost_by_200_power_cuts_in_a_log_of_many_files() {
    for shards in [1, 3] {
        assert_nothing_is_lost(Run { power_cut_sync_ms: Some(20), payload_max: 48 << 10, ..kills(200, 11, shards) });
    }
}
