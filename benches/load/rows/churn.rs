//! Subscriptions that come and go under traffic.

use std::time::Duration;

use anyhow::Result;

use super::paced::{Load, Paced};
use super::{Meter, Outcome, Settings};
use crate::brokers::Spec;
use crate::engine::Engine;
use crate::pacer::{Lane, write_packet};
use crate::transport::Listener;
use crate::wire::{self, Version};

const CHURNERS: usize = 10;
/// Filters that stay, so that the index being changed is not an empty one.
const STANDING_FILTERS: usize = 10_000;
/// SUBSCRIBEs and UNSUBSCRIBEs a second, half and half.
const OPERATIONS_PER_S: u32 = 10_000;
const LOAD: Load = Load { pairs: 50, qos: 0, rate: 10_000 };

/// What an operation costs beyond the traffic, and what it does to the traffic's latency.
pub fn run(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let broker = settings.start(spec, Listener::Plain)?;
    let mut paced = Paced::begin(settings, LOAD, &broker, &broker)?;
    let first = paced.engine.len();
    let target = settings.target(&broker, Listener::Plain);
    paced.engine.connect(&target, Version::V3_1_1, "churn", CHURNERS)?;
    stand(&mut paced.engine, first)?;
    paced.stretch(settings.stretch / 4, Vec::new())?;

    let meter = Meter::start(&broker)?;
    paced.stretch(settings.stretch, Vec::new())?;
    let quiet = meter.stop()?;

    paced.latencies_ns.clear();
    let sockets = (0..CHURNERS).map(|at| paced.engine.second_handle(first + at)).collect::<Result<Vec<_>>>()?;
    let (mut turn, mut operations) = (0usize, 0u64);
    let send = |_now_ns| {
        // Each churner subscribes, then unsubscribes the same filter, then goes on to the next.
        let (at, step) = (turn % CHURNERS, turn / CHURNERS);
        let filter = format!("churn/{at}/{}/+/state", step / 2 % 500);
        let packet_id = (step % 65_535) as u16 + 1;
        let packet = match step % 2 {
            0 => wire::subscribe(Version::V3_1_1, packet_id, &[filter], 0),
            _ => wire::unsubscribe(packet_id, &filter),
        };
        (turn, operations) = (turn + 1, operations + 1);
        write_packet(&sockets[at], &packet)
    };
    let lane = Lane { interval: Duration::from_secs(1) / OPERATIONS_PER_S, send: Box::new(send) };
    let meter = Meter::start(&broker)?;
    paced.stretch(settings.stretch, vec![lane])?;
    let churning = meter.stop()?;

    let extra_us = (churning.cpu_s - quiet.cpu_s).max(0.0) * 1e6;
    let mut values = vec![("cpu_us_per_operation", extra_us / operations as f64)];
    values.extend(paced.percentiles());
    Ok(Outcome { values, faults: paced.faults, ..Outcome::default() })
}

fn stand(engine: &mut Engine, first: usize) -> Result<()> {
    let mut packets = (0..STANDING_FILTERS / 100).map(|block| {
        let names: Vec<String> = (0..100).map(|at| format!("standing/{block}/{at}/state")).collect();
        (first + block % CHURNERS, wire::subscribe(Version::V3_1_1, block as u16 + 1, &names, 0))
    });
    engine.acknowledged(Version::V3_1_1, &mut packets)
}
