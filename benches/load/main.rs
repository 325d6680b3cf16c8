//! The load bench: weir and its peers on loopback, in turn, interleaved, several rounds.
//!
//! `cargo bench --bench load -- [ROW...] [--rounds N] [--peers a,b] [--json FILE] [--markdown FILE]`; what is measured
//! and how the ratios are formed stands in `docs/performance.md`.
//!
//! - [`engine`], [`transport`], [`wire`]: the clients, one epoll thread; [`pacer`]: a second one for steady rates.
//! - [`ledger`]: what was lost, doubled or out of order; such a run is void.
//! - [`brokers`], [`config`], [`tls`], [`peers`]: the brokers, alike configured; [`cluster`]: three of them as one; [`process`]: their CPU and memory.
//! - [`rows`]: the workloads; [`report`], [`stats`]: the table.

#![allow(unreachable_pub)] // a program of its own: `pub` says what a module offers the others

mod args;
mod brokers;
mod cluster;
mod config;
mod engine;
mod ledger;
mod pacer;
mod peers;
mod process;
mod report;
mod rows;
mod stats;
mod tls;
mod transport;
mod wire;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use clap::Parser;

use crate::args::Args;
use crate::brokers::{Kind, Spec};
use crate::process::NoiseReading;
use crate::report::{Broker, Report, Run};
use crate::rows::{Row, Settings};
use crate::tls::Certificates;

fn main() -> Result<()> {
    let args = Args::parse();
    let (rows, listeners, cluster) = (rows::catalogue(), [rows::listeners()], rows::cluster());
    if args.list {
        for row in rows.iter().chain(&listeners).chain(&cluster) {
            println!("{:<18} {}", row.id, row.measures[0].title);
        }
        return Ok(());
    }
    let wanted: Vec<&Row> = rows.iter().filter(|row| args.wants(row.id)).collect();
    let listeners: Vec<&Row> = listeners.iter().filter(|row| args.wants(row.id)).collect();
    let cluster: Vec<&Row> = cluster.iter().filter(|row| args.wants(row.id)).collect();
    ensure!(wanted.len() + listeners.len() + cluster.len() > 0, "no row is named or begins so: `--list` shows them");
    let installed = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers");
    if args.install_peers {
        peers::install(&installed)?;
    }
    let specs = args.brokers(&installed)?;
    ensure!(!specs.is_empty(), "no broker to measure");
    let settings = Settings {
        stretch: args.stretch()?,
        divisor: if args.quick { 10 } else { 1 },
        window_bytes: args.window_kib * 1024,
        total_window_bytes: 32 * 1024 * 1024,
        certificates: Certificates::make()?,
    };
    let tables = tables(&args, &settings, specs, [wanted, listeners, cluster])?;
    for (_, report) in &tables {
        println!("\n{}", report.table());
    }
    if let Some(path) = &args.json {
        let json: serde_json::Map<_, _> =
            tables.iter().map(|(name, report)| ((*name).to_owned(), report.json())).collect();
        fs::write(path, serde_json::to_string_pretty(&json)? + "\n")
            .with_context(|| format!("writing {}", path.display()))?;
    }
    if let Some(path) = &args.markdown {
        tables.iter().try_for_each(|(name, report)| report::write_markdown(path, name, &report.markdown()))?;
    }
    Ok(())
}

/// A table for each group of rows that has any: those of brokers, of listeners, of clusters.
fn tables<'a>(
    args: &Args,
    settings: &Settings,
    specs: Vec<Spec>,
    [wanted, listeners, cluster]: [Vec<&'a Row>; 3],
) -> Result<Vec<(&'static str, Report<'a>)>> {
    let clusters: Vec<Spec> = specs.iter().filter(|spec| rows::is_clustered(spec)).cloned().collect();
    let (others, brokers): (Vec<_>, Vec<_>) =
        specs.into_iter().partition(|spec| matches!(spec.kind, Kind::Nginx | Kind::Haproxy | Kind::Nats));
    let mut tables = Vec::new();
    if !wanted.is_empty() {
        tables.push(("bench", measure(args, settings, wanted, &brokers, Some(&args.reference))?));
    }
    if let Some(row) = listeners.first() {
        let specs: Vec<Spec> = brokers.into_iter().chain(others).filter(|spec| (row.applies)(spec)).collect();
        let mut report = measure(args, settings, listeners, &specs, None)?;
        report.settings.retain(|(name, _)| *name != "flow control");
        for (broker, spec) in report.brokers.iter_mut().zip(&specs) {
            broker.configuration = rows::fleet_of(&spec.kind).to_owned();
        }
        tables.push(("listeners", report));
    }
    if !cluster.is_empty() {
        let mut report = measure(args, settings, cluster, &clusters, Some("nats-server"))?;
        for (broker, spec) in report.brokers.iter_mut().zip(&clusters) {
            broker.configuration = rows::cluster_of(&spec.kind);
        }
        tables.push(("cluster", report));
    }
    Ok(tables)
}

/// `reference`: the broker that ratios refer to.
fn measure<'a>(
    args: &Args,
    settings: &Settings,
    rows: Vec<&'a Row>,
    specs: &[Spec],
    reference: Option<&str>,
) -> Result<Report<'a>> {
    let mut runs: Vec<Vec<Vec<Run>>> = rows.iter().map(|_| specs.iter().map(|_| Vec::new()).collect()).collect();
    for round in 1..=args.rounds() {
        for (at, row) in rows.iter().enumerate() {
            for (column, spec) in specs.iter().enumerate().filter(|(_, spec)| (row.applies)(spec)) {
                let run = run_once(row, settings, spec)?;
                announce(round, row, spec, &run);
                runs[at][column].push(run);
            }
        }
    }
    let broker = |spec: &Spec| Broker {
        name: spec.name.clone(),
        version: spec.version(),
        configuration: config::describe(&spec.kind),
    };
    Ok(Report {
        rows,
        brokers: specs.iter().map(broker).collect(),
        reference: specs.iter().position(|spec| Some(spec.name.as_str()) == reference),
        runs,
        settings: describe(args, settings),
    })
}

fn run_once(row: &Row, settings: &Settings, spec: &Spec) -> Result<Run> {
    let noise = NoiseReading::sample()?;
    let outcome = (row.run)(settings, spec).map_err(|error| format!("{error:#}"));
    Ok(Run { outcome, noise_cores: noise.cores_of_others()? })
}

fn announce(round: usize, row: &Row, spec: &Spec, run: &Run) {
    let noisy = if run.noise_cores > report::NOISY_CORES {
        format!("  [disturbed: {:.1} cores busy with other work]", run.noise_cores)
    } else {
        String::new()
    };
    let says = match &run.outcome {
        Err(error) => error.clone(),
        Ok(outcome) if !outcome.faults.none() => format!("void: {}", outcome.faults),
        Ok(outcome) => {
            let values = outcome.values.iter().map(|(key, value)| format!("{key} {value:.3}"));
            let words = outcome.words.iter().map(|(key, words)| format!("{key}: {words}"));
            values.chain(words).collect::<Vec<_>>().join(", ")
        }
    };
    eprintln!("round {round}  {:<16} {:<12} {says}{noisy}", row.id, spec.name);
}

fn describe(args: &Args, settings: &Settings) -> Vec<(&'static str, String)> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown");
    let cores = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let congestion = fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control").unwrap_or_default();
    let model = model.trim_start_matches([' ', '\t', ':']);
    vec![
        ("machine", format!("{cores} × {model}, Linux {}, TCP {}", kernel.trim(), congestion.trim())),
        ("rounds", format!("{}, interleaved; stretches of {} s", args.rounds(), settings.stretch.as_secs_f64())),
        (
            "flow control",
            format!(
                "a publisher is at most {} KiB ahead of each of its subscribers ({} MiB over all), \
                 QoS 1 and 2 also at most 50 messages unacknowledged; the same for every broker",
                settings.window_bytes / 1024,
                settings.total_window_bytes / 1024 / 1024
            ),
        ),
    ]
}
