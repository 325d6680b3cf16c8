//! An engine with all that it has reported.

use std::collections::{BTreeMap, HashMap, VecDeque};

use bytes::Bytes;
use tokio::runtime::Runtime;
use weirmq::cluster::engine::{
    ConnectionChange, Discovery, Engine, EngineConnection, EngineError, EngineEvent, EngineEvents, EngineOptions,
    RetainedAppend, SubjectHash,
};

use super::nats::Nats;
use crate::support::until;

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Options for servers, with so many replicas.
pub fn options(name: &str, incarnation: u64, servers: &[Nats], replicas: u8) -> EngineOptions {
    let urls = servers.iter().map(Nats::url).collect();
    EngineOptions { replicas, ..EngineOptions::new("test", name, incarnation, Discovery::Servers(urls)) }
}

pub fn topic(number: u64) -> SubjectHash {
    SubjectHash((u128::from(number) + 1).to_be_bytes())
}

/// A message of the log: sequence, topic, payload.
pub type Entry = (u64, SubjectHash, String);

/// An engine, and what it has reported. It appends messages, each topic in order, and appends again what failed.
pub struct Node {
    pub engine: Engine,
    events: EngineEvents,
    name: String,
    /// Messages for each topic in turn.
    topics: u64,
    next: u64,
    heartbeats: u64,
    unanswered: HashMap<u64, usize>,
    failed: BTreeMap<u64, VecDeque<u64>>,
    /// Sequences of acknowledged messages by token.
    pub acked: BTreeMap<u64, u64>,
    pub log: Vec<Entry>,
    /// Slot tables by version.
    pub tables: BTreeMap<u64, String>,
    pub others: Vec<EngineEvent>,
    pub head: Option<u64>,
    pub servers: HashMap<&'static str, String>,
}

impl Node {
    pub fn connect(runtime: &Runtime, options: EngineOptions) -> Self {
        Self::try_connect(runtime, options).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_connect(runtime: &Runtime, options: EngineOptions) -> Result<Self, EngineError> {
        let name = options.node.clone();
        let (engine, events) = runtime.block_on(Engine::connect(options, runtime.handle()))?;
        Ok(Self {
            engine,
            events,
            name,
            topics: 1,
            next: 0,
            heartbeats: 0,
            unanswered: HashMap::new(),
            failed: BTreeMap::new(),
            acked: BTreeMap::new(),
            log: Vec::new(),
            tables: BTreeMap::new(),
            others: Vec::new(),
            head: None,
            servers: HashMap::new(),
        })
    }

    pub fn over(mut self, topics: u64) -> Self {
        self.topics = topics;
        self
    }

    pub fn shut_down(self, runtime: &Runtime) {
        runtime.block_on(self.engine.shutdown());
    }

    /// Takes the events that are there.
    pub fn pump(&mut self) {
        while let Some(event) = self.events.try_next() {
            match event {
                EngineEvent::Retained { sequence, subject, bytes, .. } => {
                    self.log.push((sequence, subject, String::from_utf8(bytes.to_vec()).unwrap()));
                }
                EngineEvent::RetainedAcked { token, sequence } => {
                    self.answered(token);
                    let before = self.acked.insert(token, sequence);
                    assert!(before.is_none() || token >= self.next, "token {token} is acknowledged twice");
                }
                EngineEvent::RetainedFailed { token, retry: true, ref reason, .. } if token < self.next => {
                    eprintln!("{}: append {token} failed: {reason}", self.name);
                    self.answered(token);
                    self.failed.entry(token % self.topics).or_default().push_back(token);
                }
                EngineEvent::Slots { version, bytes } => {
                    self.tables.insert(version, String::from_utf8(bytes.to_vec()).unwrap());
                }
                EngineEvent::RetainedHead { sequence, .. } => self.head = Some(sequence),
                EngineEvent::Connection { connection, ref change } => {
                    eprintln!("{}: {} {change:?}", self.name, connection.as_str());
                    if let ConnectionChange::Connected { server, .. } = change {
                        self.servers.insert(connection.as_str(), server.clone());
                    }
                    self.others.push(event);
                }
                other => self.others.push(other),
            }
        }
    }

    /// Messages that a test appends by itself are not counted.
    fn answered(&mut self, token: u64) {
        if let Some(count) = self.unanswered.get_mut(&(token % self.topics)) {
            *count -= 1;
        }
    }

    /// Appends the next messages until the engine takes no more, or `end` was reached; what failed comes first.
    pub fn append_until(&mut self, end: u64) {
        let ready: Vec<u64> =
            self.failed.keys().copied().filter(|topic| self.unanswered.get(topic) == Some(&0)).collect();
        for topic in ready {
            let mut again = true;
            for token in self.failed.remove(&topic).unwrap_or_default() {
                self.append(token, again).unwrap();
                again = false;
            }
        }
        while self.next < end && !self.failed.contains_key(&(self.next % self.topics)) {
            if self.append(self.next, false).is_err() {
                return;
            }
            self.next += 1;
        }
    }

    fn append(&mut self, token: u64, again: bool) -> Result<(), weirmq::cluster::engine::AppendError> {
        let subject = topic(token % self.topics);
        let payload = Bytes::from(format!("{} {token}", self.name));
        self.engine.append_retained(RetainedAppend { token, subject, payload, ttl: None, again })?;
        *self.unanswered.entry(token % self.topics).or_default() += 1;
        Ok(())
    }

    /// Waits for an event that is not counted elsewhere, and takes it and those before it.
    pub fn expect(&mut self, what: &str, is_it: impl Fn(&EngineEvent) -> bool) -> EngineEvent {
        let mut found = None;
        until(what, String::new, || {
            self.pump();
            found = self.others.iter().position(&is_it);
            found.is_some()
        });
        self.others.drain(..=found.unwrap()).next_back().unwrap()
    }

    /// Stores a heartbeat, and sends it again where the engine did not store it in time. Returns how often that was. Other
    /// events stay.
    pub fn heartbeat(&mut self, text: &'static str) -> u64 {
        let mut failed = 0;
        loop {
            self.heartbeats += 1;
            let number = self.heartbeats;
            self.engine.heartbeat(number, Bytes::from(text)).unwrap();
            let mut answer = None;
            until("the heartbeat is answered", String::new, || {
                self.pump();
                answer = self.others.iter().position(|event| {
                    matches!(event, EngineEvent::HeartbeatAcked { token, .. } | EngineEvent::HeartbeatFailed { token, .. }
                        if *token == number)
                });
                answer.is_some()
            });
            match self.others.remove(answer.unwrap()) {
                EngineEvent::HeartbeatFailed { reason, .. } => eprintln!("{}: heartbeat failed: {reason}", self.name),
                _ => return failed,
            }
            failed += 1;
        }
    }

    /// The server that a connection was made to last.
    pub fn server(&mut self, connection: EngineConnection) -> String {
        until("a connection is reported", String::new, || {
            self.pump();
            self.servers.contains_key(connection.as_str())
        });
        self.servers[connection.as_str()].clone()
    }

    pub fn until_synced(&mut self) {
        until("the log was read to its head", String::new, || {
            self.pump();
            self.head.is_some_and(|head| self.log.last().map_or(0, |(sequence, ..)| *sequence) >= head)
        });
    }

    /// The newest message of each topic, as this node has read it.
    pub fn retained(&self) -> BTreeMap<SubjectHash, (u64, String)> {
        self.log.iter().map(|(sequence, topic, payload)| (*topic, (*sequence, payload.clone()))).collect()
    }
}

/// Appends until each node has so many acknowledged messages; `disturb` sees how many there are.
pub fn append_all(nodes: &mut [Node], each: u64, mut disturb: impl FnMut(usize)) {
    until("every message is acknowledged", String::new, || {
        for node in &mut *nodes {
            node.append_until(each);
            node.pump();
        }
        disturb(nodes.iter().map(|node| node.acked.len()).sum());
        nodes.iter().all(|node| node.acked.len() as u64 == each)
    });
}

/// Waits until each node has read the last acknowledged message of each topic.
pub fn converge(nodes: &mut [Node]) {
    let mut newest: BTreeMap<SubjectHash, u64> = BTreeMap::new();
    for node in &*nodes {
        for (token, sequence) in &node.acked {
            let newest = newest.entry(topic(token % node.topics)).or_default();
            *newest = (*newest).max(*sequence);
        }
    }
    for node in nodes {
        until("every acknowledged message was read", String::new, || {
            node.pump();
            let retained = node.retained();
            newest.iter().all(|(topic, sequence)| retained.get(topic).is_some_and(|(read, _)| read >= sequence))
        });
    }
}

/// Checks what the nodes have read: in the order of the log, each writer's messages of a topic in their order and once,
/// the same messages everywhere, and every acknowledged message that no later one has replaced.
pub fn check(nodes: &[Node]) {
    let mut all: BTreeMap<u64, (SubjectHash, String)> = BTreeMap::new();
    for node in nodes {
        assert!(node.log.windows(2).all(|pair| pair[0].0 < pair[1].0), "the log is not in order");
        let mut last: HashMap<(SubjectHash, String), u64> = HashMap::new();
        for (sequence, topic, payload) in &node.log {
            let (writer, token) = payload.split_once(' ').unwrap();
            let token: u64 = token.parse().unwrap();
            let before = last.insert((*topic, writer.to_owned()), token);
            assert!(before.is_none_or(|before| before < token), "{writer} {token} was read after {before:?}");
            let known = all.entry(*sequence).or_insert_with(|| (*topic, payload.clone()));
            assert_eq!(known, &(*topic, payload.clone()), "two messages have sequence {sequence}");
        }
    }
    let mut newest: BTreeMap<SubjectHash, (u64, String)> = BTreeMap::new();
    for (sequence, (topic, payload)) in &all {
        newest.insert(*topic, (*sequence, payload.clone()));
    }
    for node in nodes {
        assert_eq!(node.retained(), newest, "the nodes have different retained messages");
        for (token, sequence) in &node.acked {
            match all.get(sequence) {
                Some(found) => assert_eq!(found.1, format!("{} {token}", node.name)),
                None => assert!(newest[&topic(token % node.topics)].0 > *sequence, "message {token} is lost"),
            }
        }
    }
}
