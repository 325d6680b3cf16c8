//! The seeded simulation of whole clusters: real cores and real nodes of a cluster over a model of the engine, with clients.
//! Links lose, repeat, reorder and are cut; nodes pause and crash; streams have elections and lose answers. The history of
//! the clients is checked: acknowledged is delivered, QoS 2 once, order, one member, retained messages converge, a node that
//! is out acknowledges nothing, a client identifier has one connection, and all is answered soon after the faults have ended.
//!
//! A failing run prints its seed; for the variables see [`crate::broker_sim`].

mod client;
mod engine;
mod history;
mod host;
mod planted;
mod world;

use self::planted::Fault;
use self::world::World;
use crate::broker_sim::{Running, for_seeds};

fn run(seed: u64, fault: Option<Fault>) -> Result<(), (String, Vec<String>)> {
    let mut world = World::new(seed, fault);
    world.run().map_err(|error| (error, std::mem::take(&mut world.log)))
}

#[test]
fn clusters_with_faults_keep_what_they_acknowledge() {
    for_seeds(12, |seed| {
        let _running = Running(seed);
        if let Err((error, log)) = run(seed, None) {
            if let Ok(path) = std::env::var("WEIR_SIM_LOG") {
                std::fs::write(path, log.join("\n")).expect("the log can be written");
            }
            panic!("{error}\n{}", log[log.len().saturating_sub(40)..].join("\n"));
        }
    });
}

/// Within how many seeds a planted fault is found.
fn found_within(fault: Fault, seeds: u64) {
    let is_found = |seed| run(seed, Some(fault)).is_err();
    assert!((0..seeds).any(is_found), "{fault:?} is not found in {seeds} seeds");
}

#[test]
#[ignore = "takes minutes: tests/run --all"]
fn puback_that_does_not_wait_for_peers_is_found() {
    found_within(Fault::PubackWithoutPeers, 200);
}

#[test]
#[ignore = "takes minutes: tests/run --all"]
fn suback_that_does_not_wait_for_peers_is_found() {
    found_within(Fault::SubackWithoutPeers, 60);
}

#[test]
fn log_entries_without_positions_are_found() {
    found_within(Fault::NoPositions, 10);
}

#[test]
fn link_that_is_not_reset_is_found() {
    found_within(Fault::NoReset, 30);
}

#[test]
fn log_that_stores_an_entry_twice_is_found() {
    found_within(Fault::StoredTwice, 10);
}

#[test]
fn retained_publish_that_is_delivered_directly_too_is_found() {
    found_within(Fault::RetainedDirect, 10);
}

#[test]
fn slot_table_that_is_written_before_the_copy_is_there_is_found() {
    found_within(Fault::TableBeforeCopy, 20);
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..3 {
        let [first, second] = [(); 2].map(|()| {
            let mut world = World::new(seed, None);
            world.run().expect("the simulation holds");
            world.log
        });
        assert!(first.len() > 100);
        assert!(first == second, "seed {seed}: two runs differ");
    }
}
