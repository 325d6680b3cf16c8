//! What a process costs, read from /proc.

use std::collections::HashMap;
use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};

/// The kernel's clock ticks per second in /proc/PID/stat and /proc/stat (`USER_HZ`, fixed by the ABI).
const TICKS_PER_S: f64 = 100.0;

/// CPU time of each thread of a process at one moment, in nanoseconds.
pub struct CpuReading {
    threads_ns: HashMap<String, u64>,
}

impl CpuReading {
    /// Reads `/proc/PID/task/*/schedstat`: exact to the nanosecond while the process sleeps, to a tick while it runs.
    pub fn sample(pid: u32) -> Result<CpuReading> {
        let mut threads_ns = HashMap::new();
        for entry in fs::read_dir(format!("/proc/{pid}/task")).context("the broker is gone")? {
            let entry = entry?;
            // A thread may end between the listing and the reading.
            let Ok(text) = fs::read_to_string(entry.path().join("schedstat")) else { continue };
            let on_cpu = text.split_whitespace().next().and_then(|field| field.parse().ok());
            let name = entry.file_name().to_string_lossy().into_owned();
            threads_ns.insert(name, on_cpu.context("schedstat has no number")?);
        }
        Ok(CpuReading { threads_ns })
    }

    /// Seconds of CPU spent so far.
    pub fn total_s(&self) -> f64 {
        self.threads_ns.values().sum::<u64>() as f64 / 1e9
    }

    /// Seconds of CPU spent since `earlier`, by the threads that are still there.
    pub fn since(&self, earlier: &CpuReading) -> f64 {
        let spent = self.threads_ns.iter().map(|(tid, now)| now - earlier.threads_ns.get(tid).copied().unwrap_or(0));
        spent.sum::<u64>() as f64 / 1e9
    }
}

/// Resident bytes, exact: `Rss` of `/proc/PID/smaps_rollup`.
pub fn rss_bytes(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).context("the broker is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("smaps_rollup has no Rss")?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().context("Rss is no number")?;
    Ok(kib * 1024)
}

/// How many file descriptors this process may open.
pub fn open_files_limit() -> Result<usize> {
    let text = fs::read_to_string("/proc/self/limits").context("/proc/self/limits")?;
    let line = text.lines().find(|line| line.starts_with("Max open files")).context("no limit of open files")?;
    let soft = line.split_whitespace().nth(3).context("no limit of open files")?;
    Ok(soft.parse().unwrap_or(usize::MAX))
}

/// CPU seconds of this process's children that have ended and been waited for.
pub fn children_cpu_s() -> Result<f64> {
    let fields = stat_fields("/proc/self/stat")?;
    // cutime and cstime, fields 16 and 17 of proc(5); the first two are cut off.
    Ok((fields[13] + fields[14]) / TICKS_PER_S)
}

fn own_cpu_s() -> Result<f64> {
    let fields = stat_fields("/proc/self/stat")?;
    Ok((fields[11] + fields[12]) / TICKS_PER_S)
}

fn stat_fields(path: &str) -> Result<Vec<f64>> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let after_name = text.rsplit_once(')').context("a stat without a name")?.1;
    Ok(after_name.split_whitespace().map(|field| field.parse().unwrap_or(0.0)).collect())
}

fn machine_busy_s() -> Result<f64> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, irq, softirq, steal: all but idle and iowait.
    Ok([0, 1, 2, 5, 6, 7].iter().filter_map(|&field| ticks.get(field)).sum::<f64>() / TICKS_PER_S)
}

/// How much of the machine others took while a row ran: CPU-second figures are only worth something on a quiet one.
pub struct NoiseReading {
    at: Instant,
    busy_s: f64,
    ours_s: f64,
}

impl NoiseReading {
    /// Read before a broker is started and after it was waited for: it counts as a child of ours only then.
    pub fn sample() -> Result<NoiseReading> {
        Ok(NoiseReading { at: Instant::now(), busy_s: machine_busy_s()?, ours_s: own_cpu_s()? + children_cpu_s()? })
    }

    /// Cores kept busy by neither the brokers nor the load generator, on average since the reading.
    pub fn cores_of_others(&self) -> Result<f64> {
        let now = NoiseReading::sample()?;
        let others = (now.busy_s - self.busy_s) - (now.ours_s - self.ours_s);
        Ok((others / self.at.elapsed().as_secs_f64()).max(0.0))
    }
}
