//! The seeded simulation of the broker: random clients against the cores in memory, under injected time.
//!
//! A failing run prints its seed. `WEIR_SIM_SEED=n` plays that one alone; `WEIR_SIM_SEEDS=n` plays so many, from
//! `WEIR_SIM_FROM` on; `WEIR_SIM_SECONDS=n` plays until the time is up.

mod exact;
mod model;
mod races;
pub mod rng;
mod values;

use std::time::{Duration, Instant};

use weir_broker::WorkBudget;

use crate::node::Node;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name}: a number")))
}

/// Plays `simulate` for the seeds that the environment asks for, else for `default` of them.
pub fn for_seeds(default: u64, mut simulate: impl FnMut(u64)) {
    if let Some(seed) = variable("WEIR_SIM_SEED") {
        return simulate(seed);
    }
    let from = variable("WEIR_SIM_FROM").unwrap_or(0);
    if let Some(seconds) = variable("WEIR_SIM_SECONDS") {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut seed = from;
        while Instant::now() < end {
            simulate(seed);
            seed += 1;
        }
        println!("{} seeds from {from}", seed - from);
        return;
    }
    (from..from + variable("WEIR_SIM_SEEDS").unwrap_or(default)).for_each(simulate);
}

/// Says which seed it was when the broker panics.
pub struct Running(pub u64);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was WEIR_SIM_SEED={}", self.0);
        }
    }
}

/// The work that a core does at once must not change what clients see: in one seed of three it is one unit, in another one
/// a few.
fn budget(seed: u64) -> WorkBudget {
    match seed / 4 % 3 {
        0 => WorkBudget::default(),
        1 => WorkBudget::LEAST,
        _ => {
            let mut rng = rng::Rng::new(seed);
            let mut few = || 1 + rng.below(12);
            WorkBudget { match_at_once: few(), at_once: few(), per_turn: few(), read: few() }
        }
    }
}

fn simulate_exactly(seed: u64) {
    let shards = if seed.is_multiple_of(2) { 1 } else { 3 };
    run_exactly(seed, shards, Node::with_budget(shards, budget(seed)));
}

fn run_exactly(seed: u64, shards: u16, node: Node) {
    let _running = Running(seed);
    let work = budget(seed);
    let mut exact = exact::Exact::new(seed, node, work);
    if let Err(error) = exact.run(300) {
        let tail = exact.log.len().saturating_sub(60);
        panic!("{shards} shards, {work:?}: {error}\n{}", exact.log[tail..].join("\n"));
    }
}

#[test]
fn the_broker_does_what_the_model_says() {
    for_seeds(150, simulate_exactly);
}

/// The brokers of a seed: one node, or a cluster of two to four.
fn cluster(seed: u64) -> (u16, Node) {
    let (nodes, shards) = (2 + (seed % 3) as u16, 1 + (seed / 3 % 2) as u16);
    (shards, Node::cluster(nodes, shards, budget(seed)))
}

#[test]
fn a_cluster_does_what_the_model_of_one_broker_says() {
    for_seeds(100, |seed| {
        let (shards, node) = cluster(seed);
        run_exactly(seed, shards, node);
    });
}

#[test]
fn races_between_nodes_lose_duplicate_and_reorder_nothing() {
    for_seeds(60, |seed| {
        let (shards, node) = cluster(seed);
        run_races(seed, shards, node);
    });
}

fn simulate_races(seed: u64) {
    let shards = [1, 2, 3, 4][seed as usize % 4];
    run_races(seed, shards, Node::with_budget(shards, budget(seed)));
}

fn run_races(seed: u64, shards: u16, node: Node) {
    let _running = Running(seed);
    let mut races = races::Races::new(seed, node);
    if let Err(error) = races.run(1500) {
        let tail = races.log.len().saturating_sub(60);
        panic!("{shards} shards: {error}\n{}", races.log[tail..].join("\n"));
    }
}

#[test]
fn races_between_shards_lose_duplicate_and_reorder_nothing() {
    for_seeds(60, simulate_races);
}

#[test]
fn a_seed_replays_byte_for_byte() {
    for seed in 0..8 {
        let [first, second] = [(); 2].map(|()| {
            let node = Node::with_budget([1, 2, 3, 4][seed as usize % 4], budget(seed));
            let mut races = races::Races::new(seed, node);
            races.run(1500).expect("the simulation holds");
            races
        });
        assert!(first.transcript().len() > 100);
        assert!(first.transcript() == second.transcript(), "seed {seed}: two runs differ");
    }
}
