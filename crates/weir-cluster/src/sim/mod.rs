//! Links, members and slots over models of the network and the engine, with faults. `WEIR_SIM_SEEDS=5000 cargo test -p weir-cluster
//! sim::` builds and runs with as many seeds, `WEIR_SIM_SEED=17` plays that one alone.

#![allow(clippy::panic)]

mod links;
mod members;
mod rng;
mod slots;

pub(crate) use rng::Rng;

use self::links::LinkSim;
use self::members::MembersSim;
use self::slots::SlotsSim;

/// A defect that a test plants, to prove that the simulation finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// What was lost is not sent again.
    NoResend,
    /// Frames are acknowledged as processed when they arrive.
    AcknowledgedBeforeTaken,
    /// Envelopes of an older generation are taken.
    NoGenerationCheck,
    /// A peer is out after 3 s without a heartbeat, though the stream did not work.
    ElectionCountsAsAbsence,
    /// The register stores tables that are based on an older one.
    NoFence,
    /// A slot is served before the other nodes have applied the table.
    ServesBeforeApplied,
    /// A node that has come in serves what it owned before, and has not read the table.
    ServesUnread,
    /// A slot is served because of what was known of the members before the table was stored.
    OldMembers,
    /// A core serves although its node is out.
    NoLease,
}

/// The seeds to play. The variables are read at build time, as a pure crate reads no environment.
fn seeds() -> std::ops::Range<u64> {
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok());
    match number(option_env!("WEIR_SIM_SEED")) {
        Some(seed) => seed..seed + 1,
        None => 0..number(option_env!("WEIR_SIM_SEEDS")).unwrap_or(300),
    }
}

fn found(fault: Fault, run: impl Fn(u64, Option<Fault>) -> Result<(), String>) -> usize {
    (0..40).filter(|seed| run(*seed, Some(fault)).is_err()).count()
}

#[test]
fn messages_arrive_once_and_in_order_over_any_network() {
    for seed in seeds() {
        if let Err(error) = LinkSim::new(seed, None).run() {
            panic!("WEIR_SIM_SEED={seed}: {error}");
        }
    }
}

#[test]
fn members_converge_and_elections_take_no_peer_out() {
    for seed in seeds() {
        if let Err(error) = MembersSim::new(seed, None).run() {
            panic!("WEIR_SIM_SEED={seed}: {error}");
        }
    }
}

#[test]
fn planted_faults_of_links_are_found() {
    for fault in [Fault::NoResend, Fault::AcknowledgedBeforeTaken, Fault::NoGenerationCheck] {
        let found = found(fault, |seed, fault| LinkSim::new(seed, fault).run());
        assert!(found > 0, "{fault:?}");
    }
}

#[test]
fn planted_fault_of_members_is_found() {
    let found = found(Fault::ElectionCountsAsAbsence, |seed, fault| MembersSim::new(seed, fault).run());
    assert!(found > 0);
}

#[test]
fn no_slot_is_served_twice_and_every_slot_is_served_again() {
    for seed in seeds() {
        if let Err(error) = SlotsSim::new(seed, None).run() {
            panic!("WEIR_SIM_SEED={seed}: {error}");
        }
    }
}

#[test]
fn planted_faults_of_slots_are_found() {
    let faults = [Fault::NoFence, Fault::ServesBeforeApplied, Fault::ServesUnread, Fault::OldMembers, Fault::NoLease];
    for fault in faults {
        let is_found = |seed| SlotsSim::new(seed, Some(fault)).run().is_err();
        assert!((0..600).any(is_found), "{fault:?}");
    }
}
