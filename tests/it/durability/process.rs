//! `kill -9` and power cuts at random moments under load, again and again, on a real disk.
//!
//! `WEIR_KILL_CYCLES=n` kills so often; `WEIR_KILL_SEED=n` chooses the moments.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Deref;
use std::time::{Duration, Instant};

use super::client_set::{check_retained, client_set};
use super::history::History;
use super::power_cut::PowerCut;
use super::roles::Role;
use super::sim_client::SimClient;
use crate::broker_sim::rng::Rng;
use crate::support::weir::Weir;
use crate::support::{GUARD, ports};
use crate::wire::Version;

/// A broker whose data outlives its process.
pub struct DurableBroker {
    weir: Weir,
    pub address: SocketAddr,
    power: Option<PowerCut>,
}

impl DurableBroker {
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
        let mut broker = Self { weir, address, power };
        broker.run_until_ready();
        broker
    }

    /// Runs it until it listens.
    pub fn run_until_ready(&mut self) {
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

impl Deref for DurableBroker {
    type Target = Weir;

    fn deref(&self) -> &Weir {
        &self.weir
    }
}

/// The clients, each on a socket of its own, driven by one thread.
struct Fleet {
    rng: Rng,
    members: Vec<SimClient>,
    streams: Vec<Option<TcpStream>>,
    history: History,
}

impl Fleet {
    fn new(seed: u64) -> Self {
        let members = client_set(100);
        let streams = members.iter().map(|_| None).collect();
        Self { rng: Rng::new(seed), members, streams, history: History::default() }
    }

    fn close(&mut self, at: usize) {
        if self.streams[at].take().is_some() {
            self.members[at].closed(&mut self.history);
        }
    }

    /// One client sends or receives something. Answers whether anything happened.
    fn step(&mut self, at: usize, address: SocketAddr) -> bool {
        if self.streams[at].is_none() {
            if !self.members[at].may_open(&self.history) {
                return false;
            }
            let Ok(stream) = TcpStream::connect(address) else { return false };
            stream.set_nodelay(true).unwrap();
            let connect = self.members[at].open(&mut self.history);
            self.streams[at] = Some(stream);
            return self.send(at, &connect);
        }
        let Some(received) = self.read(at) else {
            self.close(at);
            return true;
        };
        let mut out = self.members[at].receive(&received, &mut self.history);
        out.extend(self.members[at].act(&mut self.rng, &mut self.history));
        if out.is_empty() { !received.is_empty() } else { self.send(at, &out) }
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
            for at in 0..self.members.len() {
                anything |= self.step(at, address);
            }
            if !anything {
                std::thread::sleep(Duration::from_micros(200));
            }
            assert!(start.elapsed() < GUARD, "not in time: {what}; {}", self.history.findings().join("\n"));
        }
    }

    /// What was on its way when the broker died is read, then every connection is gone.
    fn after_kill(&mut self) {
        for at in 0..self.members.len() {
            while let Some(received) = self.read(at).filter(|_| self.streams[at].is_some()) {
                if !received.is_empty() {
                    self.members[at].receive(&received, &mut self.history);
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
    let mut broker = DurableBroker::start_on(run.shards, run.power_cut_sync_ms, "");
    let mut fleet = Fleet::new(run.seed);
    fleet.members.iter_mut().for_each(|client| client.payload_max = run.payload_max);
    let all = std::mem::take(&mut fleet.members);
    let (subscribers, others): (Vec<SimClient>, Vec<SimClient>) =
        all.into_iter().partition(|client| client.role.subscribes());
    // The subscribers are there before anything is published.
    fleet.members = subscribers;
    fleet.run(broker.address, "the subscribers are there", |fleet| fleet.members.iter().all(SimClient::is_set_up));
    fleet.members.extend(others);
    for _ in 0..run.cycles {
        let until = fleet.history.acknowledged_count() + 20 + fleet.rng.below(1_000);
        fleet.run(broker.address, "messages are acknowledged", |fleet| fleet.history.acknowledged_count() >= until);
        broker.kill();
        fleet.after_kill();
        broker.run_until_ready();
        // What a restart does (wills become due, deliveries are sent on) is interrupted as well.
        while fleet.rng.one_in(2) {
            std::thread::sleep(Duration::from_millis(fleet.rng.below(40) as u64));
            broker.kill();
            broker.run_until_ready();
        }
    }
    fleet.members.iter_mut().for_each(|client| client.stops_publishing = true);
    fleet.run(broker.address, "everything is delivered", |fleet| {
        fleet.members.iter().all(SimClient::is_idle) && fleet.history.is_complete()
    });
    fleet.members.push(SimClient::new("reader", Role::Reader, Version::V3_1_1));
    fleet.streams.push(None);
    fleet.run(broker.address, "what is retained is read", |fleet| {
        fleet.members.last().is_some_and(|reader| reader.has_read)
    });
    let found = fleet.members.pop().map(|reader| reader.found).unwrap_or_default();
    check_retained(&fleet.members, &found, &mut fleet.history);
    (fleet.history.findings(), fleet.history.acknowledged_count())
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
