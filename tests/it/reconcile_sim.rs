//! The reconciler against a model of the world: random declarations, edits and faults, and what must hold after each step.
//!
//! `WEIR_SIM_SEEDS=10000` runs as many seeds; `WEIR_SIM_SEED=17` replays one. A failing seed is printed.

mod checks;
mod file;
mod held;
mod history;
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::mpsc;
use weir_declare::config::{LastGood, LastGoodWriter, NodeContext, Revision, Snapshot, SourceFile};
use weir_declare::reconcile::{ConditionStatus, ConditionType, NodeSettings, Timestamp};
use weirmq::apply::{DrainReport, History, Next, Reconciler, ReconcilerOptions, Start};
use weirmq::net::SocketKey;
use weirmq::source::{SourceError, SourceErrorKind, SourceReading};
use weirmq::state::SharedState;

use crate::seeded_random::SeededRandom;
use checks::Before;
use file::{File, NAMES};
use world::{BOUND, NoFiles, World};

struct Simulation {
    random: SeededRandom,
    world: World,
    files: BTreeMap<&'static str, File>,
    /// What was deleted with many others, to be put back.
    deleted: BTreeMap<&'static str, File>,
    reconciler: Reconciler<World, NoFiles>,
    ended: mpsc::UnboundedReceiver<DrainReport>,
    state: Arc<SharedState>,
    now: u64,
    story: String,
    /// How often each file was changed in this step.
    touched: BTreeMap<&'static str, u32>,
    /// Listeners that died in this step.
    killed: BTreeSet<SocketKey>,
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let world = World::default();
        let (reconciler, ended) =
            Reconciler::new(start(None, History::default(), Timestamp::from_unix_ms(0)), world.clone(), NoFiles);
        let state = reconciler.state();
        Self {
            random: SeededRandom::new(seed),
            world,
            files: BTreeMap::new(),
            deleted: BTreeMap::new(),
            reconciler,
            ended,
            state,
            now: 0,
            story: String::new(),
            touched: BTreeMap::new(),
            killed: BTreeSet::new(),
        }
    }

    /// The broker ends and starts again on what it kept. Its clients are gone.
    fn restart(&mut self) {
        self.log(format_args!("the broker restarts"));
        let now = Timestamp::from_unix_ms(self.now);
        let kept = self.reconciler.last_known_good().map(|(revision, previous)| {
            let mut text = String::new();
            LastGoodWriter::default().write(&previous, &mut text);
            (revision, now, LastGood::from_json(&serde_json::from_str(&text).unwrap()).unwrap())
        });
        let world = World::default();
        world.lock().taken.clone_from(&self.world.lock().taken);
        let (reconciler, ended) = Reconciler::new(start(kept, History::default(), now), world.clone(), NoFiles);
        self.state = reconciler.state();
        (self.reconciler, self.ended, self.world) = (reconciler, ended, world);
    }

    fn reading(&self, settled: bool) -> SourceReading {
        let files = self.files.iter().map(|(name, file)| SourceFile {
            free_ports: false,
            path: Arc::from(format!("{name}.yaml")),
            shown: Arc::from(format!("d/{name}.yaml")),
            base: Arc::from(Path::new("/nowhere")),
            content: file.content(),
        });
        SourceReading {
            snapshot: Snapshot {
                origin: Arc::from("sim"),
                revision: Revision::Content { hash: self.now.to_string() },
                files: files.collect(),
            },
            commit: None,
            unsettled: (!settled).then(|| "writing".to_owned()),
            absence_is_deletion: false,
            ignored: Vec::new(),
            notes: Vec::new(),
            store: None,
            read: None,
        }
    }

    /// Reads until the reconciler has seen enough, `readings` times at most.
    async fn pass(&mut self, settled: bool, readings: u32) {
        for _ in 0..readings {
            self.now += 300;
            let reading = self.reading(settled);
            let next = self.reconciler.read(reading, Timestamp::from_unix_ms(self.now)).await;
            if next != Next::Recheck {
                break;
            }
        }
        self.let_drains_run().await;
    }

    /// Drains run as tasks.
    async fn let_drains_run(&mut self) {
        for _ in 0..3 {
            tokio::task::yield_now().await;
        }
        while let Ok(ended) = self.ended.try_recv() {
            self.reconciler.drain_ended(&ended);
        }
    }

    async fn step(&mut self) {
        if self.random.one_in(2) {
            self.world.end_drains();
            self.let_drains_run().await;
        }
        self.world.lock().slow_drains = self.random.one_in(3);
        self.touched.clear();
        self.killed.clear();
        let before = Before {
            files: self.files.clone(),
            clients: self.world.staying(),
            listened: self.listening(),
            settled: self.settled(),
            in_force: self.in_force(),
            held: self.held(),
            kept: self.held_names(),
            draining: self.draining(),
        };
        self.act().await;
        if self.random.one_in(4) {
            // The next snapshot is there before the first has been seen to its end.
            self.now += 50;
            self.pass(true, 1).await;
            self.act().await;
        }
        self.now += 1000;
        self.pass(true, 4).await;
        self.check_bystanders(&before);
        self.check_held(&before);
        self.check_edits(&before);
        self.check_faulty_files(&before);
        self.check_drains();
        self.check_idle().await;
        self.check_converged();
    }

    /// Makes one random edit, and records the state of the files.
    async fn act(&mut self) {
        let before = self.files.clone();
        self.random_edit().await;
        for name in NAMES.iter().filter(|name| self.files.get(*name) != before.get(*name)) {
            *self.touched.entry(name).or_default() += 1;
        }
    }

    /// One edit or fault of fourteen kinds.
    async fn random_edit(&mut self) {
        let present: Vec<&'static str> = self.files.keys().copied().collect();
        let listening: Vec<SocketKey> = self.world.lock().listeners.keys().cloned().collect();
        match self.random.below(14) {
            0..=2 => {
                let name = NAMES[self.random.below(6) as usize];
                let file = File::random(&mut self.random);
                self.log(format_args!("write {name}: {file:?}"));
                self.files.insert(name, file);
            }
            3..=5 => {
                if let Some(name) = self.random.pick(&present).copied() {
                    let mut file = self.files[name].clone();
                    file.edit(&mut self.random);
                    self.log(format_args!("edit {name}: {file:?}"));
                    self.files.insert(name, file);
                }
            }
            6 => {
                if let Some(name) = self.random.pick(&present).copied() {
                    self.log(format_args!("delete {name}"));
                    self.files.remove(name);
                }
            }
            7 => self.swap(&present),
            8 => {
                let key = File::random(&mut self.random).key();
                let mut world = self.world.lock();
                if !world.taken.remove(&key) && !world.listeners.keys().any(|held| held.overlaps(&key)) {
                    world.taken.insert(key.clone());
                }
                drop(world);
                self.log(format_args!("another program takes or leaves {key}"));
            }
            9 => {
                if let Some(key) = self.random.pick(&listening).cloned() {
                    self.log(format_args!("the listener at {key} dies"));
                    self.world.lock().listeners.get_mut(&key).unwrap().alive = false;
                    self.killed.insert(key);
                }
            }
            10 => {
                self.log(format_args!("the source cannot be read"));
                let error = SourceError { kind: SourceErrorKind::Unreadable, message: "gone".into() };
                self.reconciler.source_failed(&error, Timestamp::from_unix_ms(self.now)).await;
            }
            11 => {
                let keep = self.random.next();
                self.log(format_args!("many are deleted at once"));
                let going = present.iter().enumerate().filter(|(at, _)| keep >> (2 * at) & 3 != 0);
                for (_, name) in going {
                    self.deleted.extend(self.files.remove_entry(name));
                }
            }
            12 => {
                let deleted: Vec<&'static str> = self.deleted.keys().copied().collect();
                if let Some(name) = self.random.pick(&deleted).copied() {
                    self.log(format_args!("put {name} back"));
                    self.files.extend(self.deleted.remove_entry(name));
                }
            }
            _ => self.checkout().await,
        }
        for key in listening.iter().filter(|_| self.random.one_in(2)).cloned().collect::<Vec<_>>() {
            self.world.connect(&key);
        }
    }

    /// Files are missing for a moment, as during a checkout of git.
    async fn checkout(&mut self) {
        let settled = self.random.one_in(2);
        self.log(format_args!("a checkout: files are missing for a moment, at rest {settled}"));
        let all = self.files.clone();
        let keep = self.random.next();
        let mut at = 0;
        self.files.retain(|_, _| {
            at += 1;
            keep >> at & 1 == 0
        });
        // Seen once, or while the directory is known to change, it does not count.
        self.pass(settled, if settled { 1 } else { 4 }).await;
        self.files = all;
    }

    fn swap(&mut self, present: &[&'static str]) {
        let (Some(a), Some(b)) = (self.random.pick(present).copied(), self.random.pick(present).copied()) else {
            return;
        };
        self.log(format_args!("swap {a} and {b}"));
        let (place_a, place_b) = ((self.files[a].host, self.files[a].port), (self.files[b].host, self.files[b].port));
        if let Some(file) = self.files.get_mut(a) {
            (file.host, file.port) = place_b;
        }
        if let Some(file) = self.files.get_mut(b) {
            (file.host, file.port) = place_a;
        }
    }

    fn log(&mut self, what: std::fmt::Arguments<'_>) {
        let _ok = writeln!(self.story, "{what}");
    }

    fn listening(&self) -> BTreeMap<String, SocketKey> {
        let world = self.world.lock();
        let alive = world.listeners.iter().filter(|(_, listener)| listener.alive);
        alive.map(|(key, listener)| (listener.policy.endpoint.name.to_string(), key.clone())).collect()
    }

    fn settled(&self) -> BTreeMap<String, SocketKey> {
        let state = self.state.load();
        let mut listening = self.listening();
        listening.retain(|name, _| state.endpoints.get(name.as_str()).is_some_and(|e| e.live == e.declared));
        listening
    }

    fn in_force(&self) -> BTreeMap<String, SocketKey> {
        let state = self.state.load();
        let mut settled = self.settled();
        settled.retain(|name, _| state.endpoints[name.as_str()].conditions.is_true(ConditionType::Accepted));
        settled
    }

    fn draining(&self) -> BTreeSet<String> {
        let world = self.world.lock();
        let doomed = world.clients.iter().filter(|client| world.doomed.contains(&client.id));
        doomed.map(|client| client.name.clone()).collect()
    }
}

fn start(last_known_good: Option<(String, Timestamp, LastGood)>, history: History, now: Timestamp) -> Start {
    Start {
        options: ReconcilerOptions {
            node_name: "sim".into(),
            node: NodeSettings { default_host: IpAddr::V4(Ipv4Addr::UNSPECIFIED), labels: Some(BTreeMap::new()) },
            context: NodeContext { status_addr: None, ..NodeContext::default() },
            atomic: false,
            allow_empty: false,
            has_store: true,
        },
        source_kind: "directory",
        source_location: "sim".into(),
        incidents: Arc::default(),
        last_known_good,
        history,
        now,
    }
}

fn seeds() -> Vec<u64> {
    let read = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match read("WEIR_SIM_SEED") {
        Some(seed) => vec![seed],
        None => (0..read("WEIR_SIM_SEEDS").unwrap_or(200)).collect(),
    }
}

/// Runs a simulation for every seed; prints the one that fails.
fn for_each_seed(run: impl AsyncFn(Simulation)) {
    for seed in seeds() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            runtime.block_on(run(Simulation::new(seed)));
        }));
        if let Err(panic) = outcome {
            eprintln!("WEIR_SIM_SEED={seed} replays this");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn live_follows_declared_and_other_clients_stay_connected() {
    for_each_seed(async |mut simulation| {
        for _ in 0..25 {
            simulation.step().await;
        }
    });
    assert_eq!(BOUND.load(Ordering::SeqCst), 0, "sockets were bound and forgotten");
}
