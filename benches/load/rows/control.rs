//! The control plane: what many endpoint documents cost.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

use super::{Better, Goal, Measure, Meter, Outcome, Row, Settings};
use crate::brokers::{Kind, Running, Spec, loopback};
use crate::config::weir_arguments;
use crate::process::{children_cpu_s, rss_bytes};

/// Below the ports the kernel gives to clients.
const PORTS: std::ops::Range<u16> = 10_000..32_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// The rows; they apply to weir alone.
pub fn rows(applies: fn(&Spec) -> bool) -> Vec<Row> {
    let measure = |key, title: &str, unit, goal: Option<f64>| Measure {
        key,
        title: title.to_owned(),
        unit,
        better: Better::Lower,
        goal: goal.map(Goal::Value),
    };
    let row =
        |id, measures, run: fn(&Settings, &Spec) -> Result<Outcome>| Row { id, measures, applies, run: Box::new(run) };
    vec![
        row("validate-1k", vec![measure("wall_ms", "weir validate, 1,000 documents", "ms", Some(500.0))], |_, spec| {
            validate(spec, 1_000)
        }),
        row(
            "validate-10k",
            vec![measure("wall_ms", "weir validate, 10,000 documents", "ms", Some(5_000.0))],
            |_, spec| validate(spec, 10_000),
        ),
        row(
            "plan-1k",
            vec![measure("wall_ms", "weir plan, 1,000 documents, one changed", "ms", Some(1_000.0))],
            |_, spec| plan(spec, 1_000),
        ),
        row("plan-10k", vec![measure("wall_ms", "weir plan, 10,000 documents, one changed", "ms", None)], |_, spec| {
            plan(spec, 10_000)
        }),
        row(
            "endpoints-1k",
            vec![
                measure("startup_ms", "start-up to 1,000 bound listeners", "ms", None),
                measure("startup_cpu_ms", "start-up to 1,000 bound listeners, CPU", "ms", None),
                measure("change_ms", "one file added among 1,000, from rename to accepting", "ms", None),
                measure("change_cpu_ms", "one file added among 1,000, CPU", "ms", Some(16.0)),
                measure("idle_cpu_ms_per_s", "1,000 endpoints at rest, CPU per second", "ms", None),
                measure("rss_bytes_per_endpoint", "memory of an endpoint", "B", None),
            ],
            |_, spec| endpoints(spec, 1_000),
        ),
    ]
}

fn document(name: usize, port: u16) -> String {
    format!(
        "endpoint:\n  name: tenant-{name}\n  port: {port}\n  host: 127.0.0.1\n  messageMaxSize: 65536\n  \
         maxConnectionSize: 500\n  maxSessionSize: 200\n  labels: {{tenant: \"{name}\"}}\n"
    )
}

/// Documents, a file each, with the auth and ACL they refer to; in a directory of their own below a quiet one, since
/// what happens beside them may be watched too.
struct Documents {
    path: PathBuf,
    _parent: TempDir,
}

fn documents(ports: impl Iterator<Item = u16>) -> Result<Documents> {
    let parent = TempDir::with_prefix("weir-bench-docs-").context("a directory for documents")?;
    let path = parent.path().join("endpoints.d");
    fs::create_dir(&path)?;
    fs::write(
        path.join("policy.yaml"),
        "auth: {name: default, chain: [{anonymous: {}}]}\n---\n\
         acl: {name: default, noMatch: deny, rules: [{permission: allow, action: all, topics: [\"#\"]}]}\n",
    )?;
    for (name, port) in ports.enumerate() {
        fs::write(path.join(format!("tenant-{name}.yaml")), document(name, port))?;
    }
    // As files mostly are, these are older than the program that reads them.
    std::thread::sleep(Duration::from_millis(100));
    Ok(Documents { path, _parent: parent })
}

fn timed(command: &mut Command) -> Result<Outcome> {
    let (cpu, at) = (children_cpu_s()?, Instant::now());
    let output = command.stdin(Stdio::null()).output().context("running weir")?;
    let wall_ms = at.elapsed().as_secs_f64() * 1e3;
    let says = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, says.trim_end());
    let cpu_ms = (children_cpu_s()? - cpu) * 1e3;
    Ok(Outcome { values: vec![("wall_ms", wall_ms), ("cpu_ms", cpu_ms)], ..Outcome::default() })
}

fn validate(spec: &Spec, count: u16) -> Result<Outcome> {
    let documents = documents(20_000..20_000 + count)?;
    timed(Command::new(&spec.program).arg("validate").arg(&documents.path))
}

fn plan(spec: &Spec, count: u16) -> Result<Outcome> {
    let (before, after) = (documents(20_000..20_000 + count)?, documents(20_000..20_000 + count)?);
    fs::write(after.path.join("tenant-7.yaml"), document(7, 60_001))?;
    timed(Command::new(&spec.program).arg("plan").arg(&after.path).arg("--against").arg(&before.path))
}

/// `count` ports without a listener.
pub(super) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::new();
    for port in PORTS {
        held.extend(TcpListener::bind(loopback(port)));
        if held.len() == count {
            return held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect();
        }
    }
    bail!("fewer than {count} free ports below {}", PORTS.end)
}

pub(super) fn wait_until_accepting(ports: &[u16], since: Instant) -> Result<f64> {
    for &port in ports {
        while TcpStream::connect(loopback(port)).is_err() {
            ensure!(since.elapsed() < PATIENCE, "port {port} does not accept");
            std::thread::sleep(Duration::from_micros(500));
        }
    }
    Ok(since.elapsed().as_secs_f64() * 1e3)
}

fn start(spec: &Spec, documents: &Path, first_port: u16) -> Result<Running> {
    let Kind::Weir { shards } = spec.kind else { bail!("{} reads no endpoint documents", spec.name) };
    let dir = TempDir::with_prefix("weir-bench-").context("a directory for the broker")?;
    let mut command = Command::new(&spec.program);
    weir_arguments(&mut command, documents, dir.path(), shards)?;
    spec.spawn(&mut command, first_port, dir)
}

/// Start-up, one addition, rest, memory.
fn endpoints(spec: &Spec, count: usize) -> Result<Outcome> {
    let mut ports = free_ports(count + 1)?;
    let added = ports.pop().context("no ports")?;
    let single = documents(ports[..1].iter().copied())?;
    let one = start(spec, &single.path, ports[0])?;
    std::thread::sleep(Duration::from_secs(1));
    let rss_of_one = rss_bytes(one.pid())?;
    drop(one);

    let documents = documents(ports.iter().copied())?;
    let began = Instant::now();
    let broker = start(spec, &documents.path, ports[0])?;
    let startup_ms = wait_until_accepting(&ports, began)?;
    let startup_cpu_ms = crate::process::CpuReading::sample(broker.pid())?.total_s() * 1e3;
    // Start-up's own work and the directory's first quiet period end.
    std::thread::sleep(Duration::from_secs(5));
    let rss = rss_bytes(broker.pid())?;

    let rest = Meter::start(&broker)?;
    std::thread::sleep(Duration::from_secs(2));
    let rest = rest.stop()?;

    let meter = Meter::start(&broker)?;
    fs::write(documents.path.join(".incoming"), document(count, added))?;
    let renamed = Instant::now();
    fs::rename(documents.path.join(".incoming"), documents.path.join("tenant-added.yaml"))?;
    let change_ms = wait_until_accepting(&[added], renamed)?;
    std::thread::sleep(Duration::from_secs(1));
    let change = meter.stop()?;
    let idle_cpu_ms_per_s = rest.cpu_s / rest.wall_s * 1e3;
    let values = vec![
        ("startup_ms", startup_ms),
        ("startup_cpu_ms", startup_cpu_ms),
        ("change_ms", change_ms),
        ("change_cpu_ms", (change.cpu_s * 1e3 - idle_cpu_ms_per_s * change.wall_s).max(0.0)),
        ("idle_cpu_ms_per_s", idle_cpu_ms_per_s),
        ("rss_bytes_per_endpoint", rss.saturating_sub(rss_of_one) as f64 / (count - 1) as f64),
    ];
    Ok(Outcome { values, ..Outcome::default() })
}
