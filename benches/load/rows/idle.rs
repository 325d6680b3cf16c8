//! Connections that do nothing: what each holds, and what it cost to open.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::{Meter, Outcome, Settings};
use crate::brokers::Spec;
use crate::engine::Engine;
use crate::process::{open_files_limit, rss_bytes};
use crate::transport::Listener;
use crate::wire::{self, Version};

/// How long buffers and timers get to be given back.
const SETTLE: Duration = Duration::from_secs(2);
/// Descriptors left for everything else.
const SPARE_FILES: usize = 200;

/// `wanted` connections (or as many as the limit of open files allows) with one subscription each.
pub fn run(settings: &Settings, spec: &Spec, listener: Listener, wanted: usize) -> Result<Outcome> {
    let allowed = open_files_limit()?.saturating_sub(SPARE_FILES);
    let count = (wanted / settings.divisor).min(allowed);
    ensure!(count > 100, "the limit of open files allows only {count} connections: raise it with `ulimit -n`");
    let broker = settings.start(spec, listener)?;
    let target = settings.target(&broker, listener);
    let mut engine = Engine::new()?;
    // What a broker sets up once, at its first client, is not counted against each.
    engine.connect(&target, Version::V3_1_1, "first", 1)?;
    std::thread::sleep(Duration::from_millis(200));
    let rss_before = rss_bytes(broker.pid())?;

    let meter = Meter::start(&broker)?;
    engine.connect(&target, Version::V3_1_1, "idle", count)?;
    let connecting = meter.stop()?;
    let mut packets =
        (1..=count).map(|conn| (conn, wire::subscribe(Version::V3_1_1, 1, &[format!("idle/{conn}/command")], 0)));
    engine.acknowledged(Version::V3_1_1, &mut packets)?;
    std::thread::sleep(SETTLE);
    let grown = rss_bytes(broker.pid())?.saturating_sub(rss_before);
    let values = vec![
        ("rss_bytes_per_connection", grown as f64 / count as f64),
        ("cpu_us_per_connect", connecting.cpu_s * 1e6 / count as f64),
        ("connections", count as f64),
    ];
    // The broker goes first, so that the thousands of closed sockets wait on its side and keep no port of ours.
    drop(broker);
    Ok(Outcome { values, ..Outcome::default() })
}
