//! The rows of the table: what is done to a broker, and what is measured of it.

mod bridge;
mod catalogue;
mod churn;
mod cluster;
mod control;
mod durable;
mod fanout;
mod filters;
mod growth;
mod idle;
mod listeners;
mod paced;
mod pairs;
mod residue;
mod retained;

use std::time::Duration;

use anyhow::Result;

pub use self::bridge::client;
pub use self::catalogue::catalogue;
pub use self::cluster::{applies as is_clustered, describe as cluster_of, rows as cluster};
pub use self::listeners::fleet::{NGINX_STREAM, describe as fleet_of};
pub use self::listeners::row as listeners;
use crate::brokers::{Running, Spec};
use crate::engine::Target;
use crate::ledger::Faults;
use crate::process::CpuReading;
use crate::tls::Certificates;
use crate::transport::Listener;

/// What all rows share.
pub struct Settings {
    /// How long a measured stretch of publishing lasts.
    pub stretch: Duration,
    /// Divides the sizes of the rows that count things instead of seconds (`--quick`).
    pub divisor: usize,
    /// How many bytes of unreceived messages a publisher may have under way for each subscriber.
    pub window_bytes: usize,
    /// All subscribers together: what the window is cut to where there are many.
    pub total_window_bytes: usize,
    pub certificates: Certificates,
}

impl Settings {
    /// How many messages of `packet_bytes` may be under way to each of `subscribers`; at least one.
    pub fn window(&self, packet_bytes: usize, subscribers: usize) -> u32 {
        let bytes = self.window_bytes.min(self.total_window_bytes / subscribers);
        (bytes / packet_bytes).max(1) as u32
    }

    /// Starts the broker for a row.
    pub fn start(&self, spec: &Spec, listener: Listener) -> Result<Running> {
        spec.start(listener, &self.certificates)
    }

    /// Where the row's clients go.
    pub fn target(&self, broker: &Running, listener: Listener) -> Target {
        Target { address: broker.address(), listener, tls: Some(self.certificates.client.clone()), slow: false }
    }
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Higher,
    Lower,
}

/// What a measure is to reach.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Goal {
    /// Against the reference broker: at least (higher is better) or at most (lower is better) this many times.
    Ratio(f64),
    /// In the measure's own unit.
    Value(f64),
}

/// One line of the table.
#[derive(Debug, Clone)]
pub struct Measure {
    pub key: &'static str,
    pub title: String,
    pub unit: &'static str,
    pub better: Better,
    pub goal: Option<Goal>,
}

/// What one run of a row on one broker gave: a value for each measure, by key, and further figures for the record.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    pub values: Vec<(&'static str, f64)>,
    /// What measures without a unit show.
    pub words: Vec<(&'static str, String)>,
    pub faults: Faults,
}

type Run = Box<dyn Fn(&Settings, &Spec) -> Result<Outcome>>;

/// A row: one workload, one or more measures.
pub struct Row {
    pub id: &'static str,
    pub measures: Vec<Measure>,
    pub applies: fn(&Spec) -> bool,
    pub run: Run,
}

/// CPU time of one or more processes, and wall time, of a stretch of work that ends when they are at rest again.
pub struct Meter {
    cpu: Vec<(u32, CpuReading)>,
    at: std::time::Instant,
}

/// What a [`Meter`] read.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub cpu_s: f64,
    pub wall_s: f64,
}

/// How long a broker gets to do what it does after the last packet (acknowledgements to read, buffers to free).
const REST: Duration = Duration::from_millis(30);

impl Meter {
    pub fn start(broker: &Running) -> Result<Meter> {
        Meter::of(&[broker.pid()])
    }

    /// Of these processes together.
    pub fn of(pids: &[u32]) -> Result<Meter> {
        std::thread::sleep(REST);
        let cpu = pids.iter().map(|&pid| Ok((pid, CpuReading::sample(pid)?))).collect::<Result<_>>()?;
        Ok(Meter { cpu, at: std::time::Instant::now() })
    }

    pub fn stop(self) -> Result<Cost> {
        let wall_s = self.at.elapsed().as_secs_f64();
        std::thread::sleep(REST);
        let mut cpu_s = 0.0;
        for (pid, before) in &self.cpu {
            cpu_s += CpuReading::sample(*pid)?.since(before);
        }
        Ok(Cost { cpu_s, wall_s })
    }
}

impl Cost {
    /// The measures of a row whose work is `messages` delivered.
    pub fn per_message(self, messages: u64) -> Vec<(&'static str, f64)> {
        let messages = messages as f64;
        vec![
            ("msgs_per_cpu_s", messages / self.cpu_s),
            ("cpu_us_per_msg", self.cpu_s * 1e6 / messages),
            ("msgs_per_s", messages / self.wall_s),
            ("broker_cores", self.cpu_s / self.wall_s),
        ]
    }
}
