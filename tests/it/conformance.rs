//! The conformance scripts, played against the core in memory and against the broker over TCP.

use std::collections::HashMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::memory::MemoryTransport;
use crate::process::Broker;
use crate::script::{Names, Script, load_directory, play};
use crate::tcp::TcpTransport;
use crate::wire::Version;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance")
}

/// The scripts, or those whose file or title has WEIR_CONFORMANCE_FILTER in it.
fn scripts() -> Vec<Script> {
    let filter = std::env::var("WEIR_CONFORMANCE_FILTER").unwrap_or_default();
    let mut scripts = load_directory(&directory()).unwrap_or_else(|error| panic!("{error}"));
    scripts.retain(|script| script.file.contains(&filter) || script.title.contains(&filter));
    scripts
}

/// One playing of a script: a version and a case.
struct Run {
    script: Script,
    version: Version,
    case: serde_json::Map<String, serde_json::Value>,
}

impl Run {
    fn name(&self) -> String {
        format!("{} ({})", self.script.case_name(&self.case), self.version.name())
    }
}

fn runs(scripts: Vec<Script>) -> Vec<Run> {
    let mut runs = Vec::new();
    for script in scripts {
        for &version in &script.versions {
            runs.extend(script.cases.iter().map(|case| Run { script: script.clone(), version, case: case.clone() }));
        }
    }
    runs
}

fn report(failures: &[String], played: usize) {
    assert!(failures.is_empty(), "{} of {played} failed:\n\n{}", failures.len(), failures.join("\n\n"));
    println!("{played} played");
}

/// Plays `runs` over TCP, several at a time.
fn play_over_tcp(runs: &[Run], endpoints: &HashMap<String, SocketAddr>, marker: &str) -> Vec<String> {
    let next = Mutex::new(0);
    let failures = Mutex::new(Vec::new());
    let work = || {
        loop {
            let index = {
                let mut next = next.lock().expect("no worker panicked");
                *next += 1;
                *next - 1
            };
            let Some(run) = runs.get(index) else { return };
            if let Err(error) = play_one_over_tcp(run, endpoints, &format!("{marker}{index}x")) {
                failures.lock().expect("no worker panicked").push(format!("{}\n  {error}", run.name()));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(work);
        }
    });
    failures.into_inner().expect("no worker panicked")
}

fn play_one_over_tcp(run: &Run, endpoints: &HashMap<String, SocketAddr>, prefix: &str) -> Result<(), String> {
    let names = Names::new(if run.script.exclusive { None } else { Some(prefix) });
    let mut transport = TcpTransport::new(endpoints.clone(), prefix);
    let steps = run.script.steps(&run.case)?;
    play(&steps, run.version, &run.script.endpoint, &names, &mut transport)
}

fn play_in_memory(broker: impl Fn() -> MemoryTransport) {
    let mut scripts = scripts();
    scripts.retain(|script| script.tcp_only.is_none());
    let runs = runs(scripts);
    let mut failures = Vec::new();
    for run in &runs {
        let mut transport = broker();
        let played = run
            .script
            .steps(&run.case)
            .and_then(|steps| play(&steps, run.version, &run.script.endpoint, &Names::new(None), &mut transport));
        if let Err(error) = played {
            failures.push(format!("{}\n  {error}", run.name()));
        }
    }
    report(&failures, runs.len());
}

#[test]
fn in_memory_on_one_shard() {
    play_in_memory(|| MemoryTransport::new(1));
}

#[test]
fn in_memory_on_three_shards() {
    play_in_memory(|| MemoryTransport::new(3));
}

/// The clients of a script are on different nodes.
#[test]
fn in_memory_over_three_nodes() {
    play_in_memory(|| MemoryTransport::cluster(3));
}

fn play_against_the_broker(shards: u16) {
    let mut scripts = scripts();
    scripts.retain(|script| script.memory_only.is_none());
    let mut broker = Broker::start(shards);
    let (alone, together): (Vec<Run>, Vec<Run>) = runs(scripts).into_iter().partition(|run| run.script.exclusive);
    let mut failures = play_over_tcp(&together, broker.endpoints(), "");
    if broker.has_ended() {
        failures.push(format!("the broker ended:\n{}", broker.log()));
    }
    for run in &alone {
        let broker = Broker::start(shards);
        if let Err(error) = play_one_over_tcp(run, broker.endpoints(), "") {
            failures.push(format!("{}\n  {error}", run.name()));
        }
    }
    report(&failures, together.len() + alone.len());
}

#[test]
fn over_tcp_on_one_shard() {
    play_against_the_broker(1);
}

#[test]
fn over_tcp_on_three_shards() {
    play_against_the_broker(3);
}

/// Any broker: WEIR_CONFORMANCE_ADDR=host:port. Its deviations fail the test; who is right is for the reader to say.
#[test]
fn a_broker_of_your_choice() {
    let Ok(address) = std::env::var("WEIR_CONFORMANCE_ADDR") else { return };
    let address = address.to_socket_addrs().expect("host:port").next().expect("an address");
    let endpoints = HashMap::from([("default".to_owned(), address)]);
    let mut scripts = scripts();
    scripts.retain(|script| script.memory_only.is_none() && script.endpoint == "default");
    let marker = format!("{:x}", std::process::id());
    let (alone, together): (Vec<Run>, Vec<Run>) = runs(scripts).into_iter().partition(|run| run.script.exclusive);
    let mut failures = play_over_tcp(&together, &endpoints, &marker);
    for (index, run) in alone.iter().enumerate() {
        if let Err(error) = play_one_over_tcp(run, &endpoints, &format!("{marker}y{index}")) {
            failures.push(format!("{}\n  {error}", run.name()));
        }
    }
    report(&failures, together.len() + alone.len());
}
