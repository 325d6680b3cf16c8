//! The model of the engine: two streams that are appended to and read, with elections, and core messages that are lost,
//! repeated, reordered and cut.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use weir_cluster::node::{Append, LogMessage, Purge};
use weir_cluster::slots::SlotsWrite;
use weir_cluster::wire::Heartbeat;

use crate::broker_sim::rng::Rng;

/// How long a node waits for the answer to an append before it appends again.
const RETRY_MS: u64 = 700;

/// A stream in which leaders fail.
#[derive(Default)]
pub struct Elections {
    end: u64,
}

impl Elections {
    pub fn begin(&mut self, end: u64) {
        self.end = self.end.max(end);
    }

    fn is_going_on(&self, now: u64) -> bool {
        now < self.end
    }
}

/// An append that is on its way to be stored, and its answer.
struct Attempt<T> {
    node: usize,
    incarnation: u64,
    sent: u64,
    store_at: u64,
    is_answered: bool,
    what: T,
}

/// The answer to an append.
pub struct Answer<T> {
    incarnation: u64,
    pub sent: u64,
    at: u64,
    /// Where it is stored; 0: it was refused.
    pub sequence: u64,
    pub what: T,
}

/// A stream: what is stored, what is on its way to be stored, and answers on their way.
pub struct Stream<T, S> {
    pub elections: Elections,
    /// No answer is lost.
    pub is_calm: bool,
    attempts: Vec<Attempt<T>>,
    answers: Vec<Answer<T>>,
    /// When each was stored.
    pub stored: Vec<(u64, S)>,
    /// Until when appends, answers, and reads of each node are cut.
    pub appends_cut: Vec<u64>,
    pub answers_cut: Vec<u64>,
    pub reads_cut: Vec<u64>,
}

impl<T: Clone, S> Stream<T, S> {
    fn new(nodes: usize) -> Self {
        Self {
            elections: Elections::default(),
            is_calm: false,
            attempts: Vec::new(),
            answers: Vec::new(),
            stored: Vec::new(),
            appends_cut: vec![0; nodes],
            answers_cut: vec![0; nodes],
            reads_cut: vec![0; nodes],
        }
    }

    pub fn head(&self) -> u64 {
        self.stored.len() as u64
    }

    pub fn can_read(&self, node: usize, now: u64) -> bool {
        !self.elections.is_going_on(now) && now >= self.reads_cut[node]
    }

    fn append(&mut self, (node, incarnation): (usize, u64), what: T, now: u64, rng: &mut Rng) {
        if now < self.appends_cut[node] {
            return;
        }
        let mut store_at = now + rng.below(6) as u64;
        let is_answered = if self.elections.is_going_on(now) {
            // Lost, or stored when there is a leader again; then hardly anyone waits for the answer.
            if rng.one_in(2) {
                return;
            }
            store_at = store_at.max(self.elections.end + rng.below(50) as u64);
            rng.one_in(2)
        } else {
            self.is_calm || !rng.one_in(15)
        };
        self.attempts.push(Attempt { node, incarnation, sent: now, store_at, is_answered, what });
    }

    /// Stores what has arrived; `store` answers with the sequence, and what to keep, `None` for a duplicate.
    fn store(&mut self, now: u64, rng: &mut Rng, mut store: impl FnMut(&T, u64, u64) -> (u64, Option<S>)) {
        let mut at = 0;
        while at < self.attempts.len() {
            if self.attempts[at].store_at > now || self.elections.is_going_on(now) {
                at += 1;
                continue;
            }
            let attempt = self.attempts.remove(at);
            let (sequence, kept) = store(&attempt.what, attempt.incarnation, self.head() + 1);
            self.stored.extend(kept.map(|kept| (now, kept)));
            if attempt.is_answered && now >= self.answers_cut[attempt.node] {
                let Attempt { incarnation, sent, what, .. } = attempt;
                self.answers.push(Answer { incarnation, sent, at: now + rng.below(6) as u64, sequence, what });
            }
        }
    }

    /// The answers that have come to a process.
    pub fn take_answers(&mut self, incarnation: u64, now: u64) -> Vec<Answer<T>> {
        self.answers.extract_if(.., |answer| answer.at <= now && answer.incarnation == incarnation).collect()
    }
}

/// An envelope on its way.
struct Flight {
    at: u64,
    from: usize,
    to: u64,
    bytes: Vec<u8>,
}

/// Core messages between nodes.
pub struct Network {
    /// One in so many is lost; 0: none.
    pub loss: usize,
    pub delays: bool,
    /// Until when each direction is cut.
    pub cut: Vec<Vec<u64>>,
    flights: Vec<Flight>,
}

impl Network {
    pub fn send(&mut self, (from, to): (usize, usize), incarnation: u64, bytes: &[u8], now: u64, rng: &mut Rng) {
        let times = match self.loss {
            0 => 1,
            _ if now < self.cut[from][to] || rng.one_in(self.loss) => return,
            loss => 1 + usize::from(rng.one_in(loss)),
        };
        for _ in 0..times {
            let delay = if self.delays && rng.one_in(10) { rng.below(80) } else { rng.below(4) };
            self.flights.push(Flight { at: now + delay as u64, from, to: incarnation, bytes: bytes.to_vec() });
        }
    }

    /// What has arrived for a node.
    pub fn arrive(&mut self, incarnation: u64, now: u64) -> Vec<(usize, Vec<u8>)> {
        let is_it = |flight: &mut Flight| flight.to == incarnation && flight.at <= now;
        self.flights.extract_if(.., is_it).map(|flight| (flight.from, flight.bytes)).collect()
    }

    pub fn forget(&mut self, incarnation: u64) {
        self.flights.retain(|flight| flight.to != incarnation);
    }
}

/// An entry of the log of retained messages.
pub struct LogEntry {
    pub subject: [u8; 16],
    pub bytes: Vec<u8>,
    /// It was removed: no node reads it any more.
    pub is_purged: bool,
}

/// An append of a node that is not acknowledged.
struct Pending {
    append: Append,
    /// When it was sent last; `None`: another one of its topic is before it.
    sent: Option<u64>,
}

/// An append as it travels.
#[derive(Clone)]
pub struct AppendRequest {
    pub number: u64,
    pub topic: String,
    pub bytes: Vec<u8>,
}

/// A heartbeat as it travels.
#[derive(Clone)]
pub struct HeartbeatRequest {
    pub node: String,
    pub bytes: Vec<u8>,
}

/// The engine.
pub struct Engine {
    pub members: Stream<HeartbeatRequest, (String, Vec<u8>)>,
    pub log: Stream<AppendRequest, LogEntry>,
    /// The register of slots.
    pub slots: Stream<SlotsWrite, Vec<u8>>,
    pub network: Network,
    /// The sequences of what is stored, by incarnation and number.
    numbers: BTreeMap<(u64, u64), u64>,
    subjects: BTreeMap<String, [u8; 16]>,
    pending: Vec<VecDeque<Pending>>,
    /// An append is stored as often as it is sent: a planted fault.
    pub stores_twice: bool,
}

impl Engine {
    pub fn new(nodes: usize) -> Self {
        let network = Network { loss: 0, delays: false, cut: vec![vec![0; nodes]; nodes], flights: Vec::new() };
        Self {
            members: Stream::new(nodes),
            log: Stream::new(nodes),
            slots: Stream::new(nodes),
            network,
            numbers: BTreeMap::new(),
            subjects: BTreeMap::new(),
            pending: (0..nodes).map(|_| VecDeque::new()).collect(),
            stores_twice: false,
        }
    }

    /// What a node that has died had to append is lost, but for what is under way.
    pub fn forget(&mut self, node: usize, incarnation: u64) {
        self.pending[node].clear();
        self.network.forget(incarnation);
    }

    pub fn heartbeat(&mut self, from: (usize, u64), bytes: Vec<u8>, now: u64, rng: &mut Rng) {
        let Ok(heartbeat) = Heartbeat::decode(&bytes) else { panic!("a heartbeat that cannot be decoded") };
        let request = HeartbeatRequest { node: heartbeat.node, bytes };
        self.members.append(from, request, now, rng);
    }

    pub fn append(&mut self, node: usize, append: Append) {
        self.pending[node].push_back(Pending { append, sent: None });
    }

    /// Sends what a node has to append: each topic one at a time, and again where no answer came.
    pub fn send_appends(&mut self, node: usize, incarnation: u64, now: u64, rng: &mut Rng) {
        let mut topics = BTreeSet::new();
        for at in 0..self.pending[node].len() {
            let pending = &mut self.pending[node][at];
            let topic = pending.append.topic.to_string();
            let is_due = pending.sent.is_none_or(|sent| now >= sent + RETRY_MS);
            if topics.insert(topic.clone()) && is_due {
                pending.sent = Some(now);
                let bytes = pending.append.payload.clone();
                let request = AppendRequest { number: pending.append.number, topic, bytes };
                self.log.append((node, incarnation), request, now, rng);
            }
        }
    }

    /// A node writes to the register of slots.
    pub fn write_slots(&mut self, from: (usize, u64), write: SlotsWrite, now: u64, rng: &mut Rng) {
        self.slots.append(from, write, now, rng);
    }

    /// The tables of the register from a position on.
    pub fn read_slots(&self, from: u64, before: u64) -> impl Iterator<Item = &[u8]> {
        let stored = self.slots.stored.iter().skip(from as usize);
        stored.take_while(move |(at, _)| *at <= before).map(|(_, bytes)| &bytes[..])
    }

    /// Lets the engine work until `now`.
    pub fn run(&mut self, now: u64, rng: &mut Rng) {
        let heartbeat = |request: &HeartbeatRequest| (request.node.clone(), request.bytes.clone());
        self.members.store(now, rng, |request, _, next| (next, Some(heartbeat(request))));
        self.slots.store(now, rng, |write, _, next| {
            if write.expected + 1 == next { (next, Some(write.bytes.clone())) } else { (0, None) }
        });
        let (numbers, subjects, twice) = (&mut self.numbers, &mut self.subjects, self.stores_twice);
        self.log.store(now, rng, |request, incarnation, next| {
            let sequence = *numbers.entry((incarnation, request.number)).or_insert(next);
            let is_new = sequence == next;
            let mut subject = [0; 16];
            subject[..8].copy_from_slice(&(subjects.len() as u64).to_le_bytes());
            let subject = *subjects.entry(request.topic.clone()).or_insert(subject);
            let entry = LogEntry { subject, bytes: request.bytes.clone(), is_purged: false };
            (sequence, (is_new || twice).then_some(entry))
        });
    }

    /// A node's append is acknowledged. Returns the bytes of its payload where it had waited for that.
    pub fn acknowledged(&mut self, node: usize, number: u64) -> Option<usize> {
        let at = self.pending[node].iter().position(|pending| pending.append.number == number)?;
        self.pending[node].remove(at).map(|pending| pending.append.payload.len())
    }

    /// The heartbeats from a position on: of each node, the newest. They are `delay` old at least.
    pub fn read_members(&self, from: u64, before: u64) -> (u64, Vec<Vec<u8>>) {
        let stored = &self.members.stored;
        let end = stored.iter().rposition(|(at, _)| *at <= before).map_or(0, |at| at as u64 + 1).max(from);
        let mut newest: BTreeMap<&str, usize> = BTreeMap::new();
        for (at, (_, kept)) in stored.iter().enumerate().take(end as usize).skip(from as usize) {
            newest.insert(&kept.0, at);
        }
        let mut sequences: Vec<usize> = newest.into_values().collect();
        sequences.sort_unstable();
        (end, sequences.into_iter().map(|at| stored[at].1.1.clone()).collect())
    }

    /// The entries of the log from a position on.
    pub fn read_log(&self, from: u64, before: u64, now: u64) -> (u64, Vec<LogMessage>) {
        let stored = &self.log.stored;
        let end = stored.iter().rposition(|(at, _)| *at <= before).map_or(0, |at| at as u64 + 1).max(from);
        let messages = (from..end).filter_map(|at| {
            let (stored_at, entry) = &stored[at as usize];
            let (subject, bytes, age_ms) = (entry.subject, entry.bytes.clone(), now - stored_at);
            (!entry.is_purged).then_some(LogMessage { sequence: at + 1, subject, bytes, age_ms })
        });
        (end, messages.collect())
    }

    pub fn purge(&mut self, purge: Purge) {
        for (_, entry) in self.log.stored.iter_mut().take(purge.below as usize - 1) {
            entry.is_purged |= entry.subject == purge.subject;
        }
    }
}
