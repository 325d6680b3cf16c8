//! A large deletion that is held, and any sequence of single edits after it that ends in the old declaration.

use std::collections::{BTreeMap, BTreeSet};

use weir_declare::reconcile::ConditionReason;

use super::file::{File, FileFault};
use super::*;

const NAMES: [&str; 9] = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
/// Clients of each endpoint.
const CLIENTS: usize = 2;
/// Edits after the deletion, before everything is put back.
const EDITS: u64 = 20;

struct Held {
    simulation: Simulation,
    /// The declaration that it begins with and ends in.
    old: BTreeMap<&'static str, File>,
    /// Endpoints whose own document was edited or deleted by itself.
    touched: BTreeSet<&'static str>,
}

impl Held {
    async fn begin(mut simulation: Simulation) -> Self {
        let count = 4 + simulation.random.below(6) as usize;
        for (at, name) in NAMES.iter().take(count).enumerate() {
            let (port, host) = (2000 + at as u16, "127.0.0.1");
            let open = File { port, host, limit: 9, enabled: true, websocket: false, v3_only: false, ..plain() };
            simulation.files.insert(name, open);
        }
        let old = simulation.files.clone();
        simulation.pass(true, 1).await;
        let held = Self { simulation, old, touched: BTreeSet::new() };
        held.connect();
        held
    }

    fn connect(&self) {
        for file in self.old.values() {
            (0..CLIENTS).for_each(|_| self.simulation.world.connect(&file.key()));
        }
    }

    /// More than half of the documents go at once, or all of them.
    async fn delete_many(&mut self) {
        let mut names: Vec<&'static str> = self.old.keys().copied().collect();
        let most = names.len() as u64;
        let going = most / 2 + 1 + self.simulation.random.below(most - most / 2);
        for _ in 0..going {
            let at = self.simulation.random.below(names.len() as u64) as usize;
            let name = names.swap_remove(at);
            self.simulation.files.remove(name);
        }
        let left: Vec<_> = self.simulation.files.keys().copied().collect();
        self.simulation.log(format_args!("deleted at once; left: {left:?}"));
    }

    /// A document at a time.
    async fn edit_one(&mut self) {
        let there: Vec<&'static str> = self.simulation.files.keys().copied().collect();
        match self.simulation.random.below(8) {
            0 | 1 => self.put_one_back(),
            2 => {
                if let Some(name) = self.simulation.random.pick(&there).copied() {
                    self.simulation.log(format_args!("delete {name}"));
                    self.simulation.files.remove(name);
                    self.touched.insert(name);
                }
            }
            3 => {
                if let Some(name) = self.simulation.random.pick(&there).copied() {
                    let limit = 2 + self.simulation.random.below(8) as u16;
                    self.simulation.log(format_args!("edit {name}"));
                    self.simulation.files.get_mut(name).unwrap().limit = limit;
                    self.touched.insert(name);
                }
            }
            4 => self.put_back_badly().await,
            5 => {
                self.simulation.restart();
                self.simulation.pass(true, 4).await;
                self.connect();
            }
            6 => {
                let error = SourceError { kind: SourceErrorKind::Unreadable, message: "gone".into() };
                let now = Timestamp::from_unix_ms(self.simulation.now);
                self.simulation.log(format_args!("the source cannot be read"));
                self.simulation.reconciler.source_failed(&error, now).await;
            }
            _ => {
                self.simulation.log(format_args!("a checkout: files are missing for a moment"));
                let all = self.simulation.files.clone();
                let keep = self.simulation.random.next();
                let mut at = 0;
                self.simulation.files.retain(|_, _| {
                    at += 1;
                    keep >> at & 1 == 0
                });
                self.simulation.pass(true, 1).await;
                self.simulation.files = all;
            }
        }
    }

    fn absent(&self) -> Vec<&'static str> {
        self.old.keys().copied().filter(|name| !self.simulation.files.contains_key(name)).collect()
    }

    fn put_one_back(&mut self) {
        let absent = self.absent();
        if let Some(name) = self.simulation.random.pick(&absent).copied() {
            self.simulation.log(format_args!("put {name} back"));
            self.simulation.files.insert(name, self.old[name].clone());
        }
    }

    /// A document is put back with an error in it, and taken away again: it was never declared again.
    async fn put_back_badly(&mut self) {
        let absent = self.absent();
        let Some(name) = self.simulation.random.pick(&absent).copied() else { return };
        let faults = [FileFault::Invalid, FileFault::Unparsable, FileFault::Unreadable];
        let fault = *self.simulation.random.pick(&faults).unwrap();
        self.simulation.log(format_args!("put {name} back, {fault:?}, and take it away again"));
        self.simulation.files.insert(name, File { fault, ..self.old[name].clone() });
        self.simulation.pass(true, 4).await;
        self.simulation.files.remove(name);
    }

    /// An endpoint that was not edited listens and has its clients.
    fn check(&self) {
        let (listening, staying) = (self.simulation.listening(), self.simulation.world.staying());
        for (name, file) in self.old.iter().filter(|(name, _)| !self.touched.contains(*name)) {
            let story = &self.simulation.story;
            assert_eq!(listening.get(*name), Some(&file.key()), "{name} lost its listener\n{story}");
            let clients = staying.iter().filter(|client| client.name == **name).count();
            assert!(clients >= CLIENTS, "{name} has {clients} clients\n{story}");
        }
    }

    async fn settle(&mut self) {
        self.simulation.now += 1000;
        self.simulation.pass(true, 4).await;
        self.check();
    }

    /// What was touched is put back as it was, too: nothing waits any longer.
    async fn end(&mut self) {
        while self.simulation.files != self.old {
            let differs = |name: &&&str| self.simulation.files.get(**name) != self.old.get(**name);
            let differing: Vec<&'static str> = self.old.keys().filter(differs).copied().collect();
            let name = *self.simulation.random.pick(&differing).unwrap();
            self.simulation.log(format_args!("put {name} back as it was"));
            self.simulation.files.insert(name, self.old[name].clone());
            self.settle().await;
        }
        self.touched.clear();
        let (state, story) = (self.simulation.state.load(), &self.simulation.story);
        for name in self.old.keys() {
            let accepted = state.endpoints[*name].conditions.get(ConditionType::Accepted).unwrap();
            assert_eq!(accepted.status, ConditionStatus::True, "{name}: {accepted:?}\n{story}");
            assert!(self.simulation.listening().contains_key(*name), "{name} is not back\n{story}");
        }
    }
}

fn plain() -> File {
    File {
        port: 0,
        host: "127.0.0.1",
        limit: 1,
        enabled: true,
        websocket: false,
        v3_only: false,
        certificate: false,
        restarted_at: 0,
        fault: FileFault::None,
    }
}

#[test]
fn no_sequence_of_single_edits_disconnects_a_client_of_an_untouched_endpoint() {
    for_each_seed(async |simulation| {
        let mut held = Held::begin(simulation).await;
        held.check();
        held.delete_many().await;
        held.settle().await;
        for _ in 0..held.simulation.random.below(EDITS) {
            held.edit_one().await;
            held.settle().await;
        }
        held.end().await;
    });
}

impl Simulation {
    /// Those that listen as declared and whose deletion is held.
    pub(super) fn held(&self) -> BTreeMap<String, SocketKey> {
        let state = self.state.load();
        let mut settled = self.settled();
        settled.retain(|name, _| {
            let accepted = state.endpoints[name.as_str()].conditions.get(ConditionType::Accepted);
            accepted.is_some_and(|accepted| accepted.reason == ConditionReason::DeletionHeld)
        });
        settled
    }

    /// What is in force without a file.
    pub(super) fn held_names(&self) -> BTreeSet<String> {
        let state = self.state.load();
        let names = state.declared.endpoints.keys().map(ToString::to_string);
        names.filter(|name| !self.files.contains_key(name.as_str())).collect()
    }

    /// Whether what was kept without a file is back, and its file wants this address as it did before.
    pub(super) fn is_wanted_back(&self, before: &Before, key: &SocketKey) -> bool {
        let back = self.files.iter().filter(|(name, _)| before.kept.contains(**name));
        back.into_iter().any(|(_, file)| file.key().overlaps(key))
    }

    /// Whose deletion is held keeps its listener and its clients until its file comes back.
    pub(super) fn check_held(&self, before: &Before) {
        let (now, state) = (self.listening(), self.state.load());
        for (name, key) in before.held.iter().filter(|(name, _)| !self.touched.contains_key(name.as_str())) {
            assert_eq!(now.get(name), Some(key), "{name} was held and lost its listener\n{}", self.story);
            let accepted = state.endpoints[name.as_str()].conditions.get(ConditionType::Accepted).unwrap();
            assert_eq!(accepted.reason, ConditionReason::DeletionHeld, "{name}\n{}", self.story);
            let (had, stay) = self.had_and_stay(before, name);
            assert_eq!(stay, had, "{name} was held and lost a client\n{}", self.story);
        }
    }
}
