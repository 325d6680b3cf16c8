//! A thousand listeners and one change: what it costs, and what clients see of it.

pub mod fleet;
mod probe;

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};

use self::fleet::{Fleet, Listener};
use self::probe::{Answer, Attempts, Hammer, Held, Talk, stop_all, until};
use super::control::{free_ports, wait_until_accepting};
use super::{Better, Goal, Measure, Outcome, Row};
use crate::brokers::{Kind, Spec, loopback};
use crate::ledger::Faults;

const LISTENERS: usize = 1_000;
const HELD: usize = 200;
/// What weir waits for after the last write to its directory, so that half a change is not taken for a whole one.
const DEBOUNCE_MS: f64 = 200.0;
const PATIENCE: Duration = Duration::from_secs(30);
/// After a change that may be refused, until it is looked at what came of it.
const SETTLED: Duration = Duration::from_secs(6);
/// For start-up's own work.
const REST: Duration = Duration::from_secs(4);

/// The row; its table is its own.
pub fn row() -> Row {
    let number = |key, title: &str, unit, goal: Option<f64>| Measure {
        key,
        title: title.to_owned(),
        unit,
        better: Better::Lower,
        goal: goal.map(Goal::Value),
    };
    let words =
        |key, title: &str| Measure { key, title: title.to_owned(), unit: "", better: Better::Lower, goal: None };
    Row {
        id: "listeners",
        measures: vec![
            number("start_ms", "cold start, 1,000 ports", "ms", None),
            number("start_cpu_ms", "cold start, 1,000 ports, CPU", "ms", None),
            number("add_ms", "add one, until it answers, beyond a declared debounce", "ms", Some(20.0)),
            number("add_cpu_ms", "add one, CPU", "ms", Some(16.0)),
            number("add_refused", "meanwhile refused on two unaffected ports", "connections", Some(0.0)),
            number("add_dropped", "meanwhile dropped, of 200 held", "connections", Some(0.0)),
            number("swap_refused", "two ports swapped: refused", "connections", Some(0.0)),
            number("swap_stale", "two ports swapped: stale answers after the first new one", "answers", Some(0.0)),
            words("invalid", "one invalid listener beside a new one"),
            words("taken", "one port in use by another process, beside a new one"),
        ],
        applies: |spec| matches!(spec.kind, Kind::Weir { .. } | Kind::Nginx | Kind::Haproxy | Kind::Mosquitto),
        run: Box::new(|_, spec| run(spec)),
    }
}

/// What a run goes on with from change to change.
struct Trial<'a> {
    fleet: Fleet<'a>,
    talk: Talk,
    /// What is declared now.
    declared: Vec<Listener>,
    /// Ports that nothing has yet.
    spare: Vec<u16>,
    added: usize,
    /// Two whose declaration never changes.
    unaffected: [u16; 2],
}

fn run(spec: &Spec) -> Result<Outcome> {
    let mut ports = free_ports(LISTENERS + 10)?;
    let spare = ports.split_off(LISTENERS);
    let (held_port, spare) = spare.split_first().context("no ports")?;
    let talk = Talk::with(&spec.kind);
    let mut declared: Vec<Listener> = ports[2..]
        .iter()
        .enumerate()
        .map(|(at, &port)| Listener::new(format!("tenant-{at:03}"), port, Answer::First))
        .collect();
    declared.push(Listener::new("pair-a", ports[0], Answer::First));
    declared.push(Listener::new("pair-b", ports[1], Answer::Second));

    let sink = TcpListener::bind(loopback(0))?;
    let fleet = Fleet::start(spec, &declared, *held_port, sink.local_addr()?.port())?;
    let start_ms = wait_until_accepting(&ports, fleet.started_at())?;
    let start_cpu_ms = fleet.cpu()?.total_ms();
    std::thread::sleep(REST);

    let unaffected = [ports[10], ports[LISTENERS - 10]];
    let mut trial = Trial { fleet, talk, declared, spare: spare.to_vec(), added: 0, unaffected };
    let held_at = if talk == Talk::Mqtt { unaffected[0] } else { *held_port };
    let held = Held::connect(talk, held_at, HELD)?;
    let _sunk: Vec<_> = if talk == Talk::Mqtt { Vec::new() } else { accept_all(&sink)? };
    let mut values = vec![("start_ms", start_ms), ("start_cpu_ms", start_cpu_ms)];
    values.extend(trial.add(is_weir(spec))?);
    values.extend(trial.add_under_load(held)?);
    values.extend(trial.swap()?);
    let words = vec![("invalid", trial.invalid()?), ("taken", trial.taken()?)];
    Ok(Outcome { values, words, faults: Faults::default() })
}

fn is_weir(spec: &Spec) -> bool {
    matches!(spec.kind, Kind::Weir { .. })
}

/// Takes what is held through a proxy.
fn accept_all(sink: &TcpListener) -> Result<Vec<std::net::TcpStream>> {
    (0..HELD).map(|_| Ok(sink.accept()?.0)).collect()
}

impl Trial<'_> {
    /// One more, on a port that was free.
    fn another(&mut self) -> Result<Listener> {
        let port = self.spare.pop().context("no spare port")?;
        self.added += 1;
        Ok(Listener::new(format!("added-{}", self.added), port, Answer::First))
    }

    fn change(&mut self, to: Vec<Listener>) -> Result<()> {
        self.fleet.change(&self.declared, &to)?;
        self.declared = to;
        Ok(())
    }

    fn with(&self, more: &[&Listener]) -> Vec<Listener> {
        self.declared.iter().chain(more.iter().copied()).cloned().collect()
    }

    /// One more, with no other change: time and CPU.
    fn add(&mut self, debounced: bool) -> Result<Vec<(&'static str, f64)>> {
        const IDLE: Duration = Duration::from_secs(2);
        let resting = self.fleet.cpu()?;
        std::thread::sleep(IDLE);
        let before = self.fleet.cpu()?;
        let idle_ms_per_s = before.ms_since(&resting) / IDLE.as_secs_f64();
        let added = self.another()?;
        let began = Instant::now();
        self.change(self.with(&[&added]))?;
        let port = port_of(&added)?;
        let answers_ms = until_accepting(port, began).context("what was added does not answer")?;
        // What is done after it: records, workers that end.
        std::thread::sleep(Duration::from_secs(1));
        let spent = self.fleet.cpu()?.ms_since(&before);
        let idle = idle_ms_per_s * began.elapsed().as_secs_f64();
        ensure!(self.talk.probe(port) == Some(Answer::First), "what was added answers something else");
        let debounce = if debounced { DEBOUNCE_MS } else { 0.0 };
        Ok(vec![("add_ms", answers_ms - debounce), ("add_cpu_ms", (spent - idle).max(0.0))])
    }

    /// One more, while clients come to others and stay.
    fn add_under_load(&mut self, mut held: Held) -> Result<Vec<(&'static str, f64)>> {
        let hammers = self.unaffected.map(Hammer::on).into();
        let added = self.another()?;
        let began = Instant::now();
        self.change(self.with(&[&added]))?;
        until(self.talk, port_of(&added)?, Answer::First, began, PATIENCE).context("what was added does not answer")?;
        std::thread::sleep(Duration::from_secs(1));
        let seen = stop_all(hammers)?;
        Ok(vec![("add_refused", seen.refused as f64), ("add_dropped", held.dropped() as f64)])
    }

    /// Two exchange their ports.
    fn swap(&mut self) -> Result<Vec<(&'static str, f64)>> {
        let mut swapped = self.declared.clone();
        let at = |name| self.declared.iter().position(|listener| listener.name == name).context("no pair");
        let (a, b) = (at("pair-a")?, at("pair-b")?);
        let (port_a, port_b) = (port_of(&swapped[a])?, port_of(&swapped[b])?);
        (swapped[a].port, swapped[b].port) = (swapped[b].port, swapped[a].port);
        let watched = [Watched::on(self.talk, port_a, Answer::Second), Watched::on(self.talk, port_b, Answer::First)];
        std::thread::sleep(Duration::from_millis(300));
        let began = Instant::now();
        self.change(swapped)?;
        until(self.talk, port_a, Answer::Second, began, PATIENCE).context("the first port does not change")?;
        until(self.talk, port_b, Answer::First, began, PATIENCE).context("the second port does not change")?;
        std::thread::sleep(Duration::from_secs(1));
        let seen: Vec<(Answer, Vec<Asked>)> =
            watched.into_iter().map(|watched| Ok((watched.new, watched.stop()?))).collect::<Result<_>>()?;
        let refused = seen.iter().flat_map(|(_, asked)| asked).filter(|asked| asked.answer.is_none()).count();
        let first_new = seen
            .iter()
            .flat_map(|(new, asked)| asked.iter().filter(|asked| asked.answer == Some(*new)))
            .map(|asked| asked.answered_at)
            .min()
            .context("no probe saw the new answer")?;
        let is_stale =
            |new: Answer, asked: &Asked| asked.asked_at > first_new && asked.answer.is_some_and(|answer| answer != new);
        let stale: usize =
            seen.iter().map(|(new, asked)| asked.iter().filter(|asked| is_stale(*new, asked)).count()).sum();
        Ok(vec![("swap_refused", refused as f64), ("swap_stale", stale as f64)])
    }

    /// One that cannot be, beside one that can.
    fn invalid(&mut self) -> Result<String> {
        let before = self.declared.clone();
        let good = self.another()?;
        let bad = Listener { name: "bad".into(), port: 70_007, answers: Answer::First };
        let logged = self.fleet.log().len();
        self.change(self.with(&[&bad, &good]))?;
        std::thread::sleep(SETTLED);
        let place = self.fleet.place_of(&bad)?;
        let log = self.fleet.log().split_off(logged);
        let names_it = names_line(&log, &place);
        let outcome = self.outcome(port_of(&good)?)?;
        self.change(before)?;
        until(self.talk, self.unaffected[0], Answer::First, Instant::now(), PATIENCE).context("it does not recover")?;
        std::thread::sleep(SETTLED);
        Ok(format!("{outcome}; {}", if names_it { "its line is named" } else { "no line is named" }))
    }

    /// One whose port another process has, beside one that can be; then the port comes free.
    fn taken(&mut self) -> Result<String> {
        let (bad, good) = (self.another()?, self.another()?);
        let taken = TcpListener::bind(loopback(port_of(&bad)?))?;
        let hammers = self.unaffected.map(Hammer::on).into();
        let logged = self.fleet.log().len();
        self.change(self.with(&[&bad, &good]))?;
        std::thread::sleep(SETTLED);
        let Attempts { refused, longest_gap } = stop_all(hammers)?;
        let log = self.fleet.log().split_off(logged);
        let named = if log.contains(&bad.port.to_string()) { "the port is named" } else { "no port is named" };
        let outage = match refused {
            0 => String::new(),
            _ => format!("; others refuse for {:.1} s", longest_gap.as_secs_f64()),
        };
        let outcome = self.outcome(port_of(&good)?)?;
        drop(taken);
        let healed = match until(self.talk, port_of(&bad)?, Answer::First, Instant::now(), PATIENCE) {
            Some(ms) => format!("healed {:.1} s after it came free", ms / 1e3),
            None => format!("not healed within {} s", PATIENCE.as_secs()),
        };
        Ok(format!("{outcome}; {named}{outage}; {healed}"))
    }

    /// What became of a change of which one part is wrong.
    fn outcome(&mut self, good: u16) -> Result<&'static str> {
        if !self.fleet.is_running()? {
            return Ok("the process exited");
        }
        let rest = self.talk.probe(self.unaffected[0]).is_some();
        Ok(match (self.talk.probe(good).is_some(), rest) {
            (true, true) => "the rest is applied",
            (false, true) => "the whole change is refused",
            (_, false) => "the others do not answer",
        })
    }
}

fn port_of(listener: &Listener) -> Result<u16> {
    u16::try_from(listener.port).context("no port")
}

fn until_accepting(port: u16, since: Instant) -> Result<f64> {
    wait_until_accepting(&[port], since)
}

/// Whether a log names the file and the line, however it writes them: `file:12`, `file 12`, `[file:12]`, `line 12`.
fn names_line(log: &str, place: &str) -> bool {
    let Some((file, line)) = place.rsplit_once(':') else { return false };
    let is_it = |text: &str| {
        let mut rest = text;
        while let Some(at) = rest.find(line) {
            let before = rest[..at].chars().next_back();
            let after = rest[at + line.len()..].chars().next();
            if !before.is_some_and(|c| c.is_ascii_digit()) && !after.is_some_and(|c| c.is_ascii_digit()) {
                return true;
            }
            rest = &rest[at + line.len()..];
        }
        false
    };
    log.lines().any(|text| text.contains(file) && text.split(file).skip(1).any(is_it))
}

/// One question and what came of it.
struct Asked {
    asked_at: Instant,
    answered_at: Instant,
    answer: Option<Answer>,
}

/// A port that is asked again and again.
struct Watched {
    /// What it is to answer in the end.
    new: Answer,
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Asked>>,
}

impl Watched {
    fn on(talk: Talk, port: u16, new: Answer) -> Watched {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let asked_at = Instant::now();
                let answer = talk.probe(port);
                seen.push(Asked { asked_at, answered_at: Instant::now(), answer });
                std::thread::sleep(Duration::from_micros(300));
            }
            seen
        });
        Watched { new, stop, thread }
    }

    fn stop(self) -> Result<Vec<Asked>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("a client panicked"))
    }
}
