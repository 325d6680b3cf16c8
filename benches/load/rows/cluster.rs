//! Three nodes that are one broker: the CPU of brokers and nats-servers together.

use std::time::Instant;

use anyhow::Result;

use super::growth::value;
use super::pairs::Load;
use super::{Better, Goal, Measure, Meter, Outcome, Row, Settings, filters, paced};
use crate::brokers::{Kind, Spec};
use crate::cluster::{Cluster, NODES};
use crate::process::rss_bytes;
use crate::transport::Listener;

/// How many stretches an idle cluster is watched.
const IDLE_STRETCHES: u32 = 10;

/// Those that are clusters.
pub fn applies(spec: &Spec) -> bool {
    matches!(spec.kind, Kind::Weir { .. } | Kind::Nats)
}

fn weir_only(spec: &Spec) -> bool {
    matches!(spec.kind, Kind::Weir { .. })
}

/// What the report says about each cluster.
pub fn describe(kind: &Kind) -> String {
    match kind {
        Kind::Nats => "three nats-servers with JetStream and `mqtt`".to_owned(),
        _ => "three nodes of one shard with `durability: memory`, and three nats-servers with JetStream".to_owned(),
    }
}

/// The rows; their table is their own.
pub fn rows() -> Vec<Row> {
    let higher = |key, title: &str, unit, goal: f64| Measure {
        key,
        title: title.to_owned(),
        unit,
        better: Better::Higher,
        goal: Some(Goal::Value(goal)),
    };
    let lower = |key, title: &str, unit, goal: Option<f64>| Measure {
        key,
        title: title.to_owned(),
        unit,
        better: Better::Lower,
        goal: goal.map(Goal::Value),
    };
    let pairs = |id, title: &str, qos, goal| Row {
        id,
        measures: vec![higher("msgs_per_cpu_s", title, "msg per CPU s", goal)],
        applies,
        run: Box::new(move |settings, spec| throughput(settings, spec, qos)),
    };
    let row = |id, measures, applies, run: fn(&Settings, &Spec) -> Result<Outcome>| Row {
        id,
        measures,
        applies,
        run: Box::new(run),
    };
    vec![
        pairs("cluster-q0", "50 pairs on different nodes, QoS 0, 64 B", 0, 1e6),
        pairs("cluster-q1", "50 pairs on different nodes, QoS 1, 64 B, window 50", 1, 3e5),
        row(
            "cluster-latency",
            vec![
                lower("p50_ms", "latency QoS 1 at 2,000/s over two nodes, p50", "ms", None),
                lower("p99_ms", "latency QoS 1 at 2,000/s over two nodes, p99", "ms", None),
                lower("added_ms", "what the second node adds to p50", "ms", Some(1.0)),
            ],
            applies,
            latency,
        ),
        row(
            "cluster-local",
            vec![lower("cost_ratio", "CPU per message that no other node wants, over one node's", "times", Some(1.03))],
            weir_only,
            local,
        ),
        row("cluster-idle", vec![lower("cpu_percent", "an idle node: CPU", "% of a core", Some(1.0))], weir_only, idle),
        row(
            "cluster-filters",
            vec![
                lower("rss_bytes_per_filter", "RSS per filter of another node, of 100k", "B", None),
                lower("cpu_us_per_subscribe", "CPU of all nodes per filter subscribed", "us", None),
                lower("join_s", "until a new node has them and admits clients", "s", None),
            ],
            weir_only,
            many_filters,
        ),
    ]
}

fn throughput(settings: &Settings, spec: &Spec, qos: u8) -> Result<Outcome> {
    let cluster = Cluster::start(settings, spec)?;
    let (near, far) = cluster.neighbours();
    Load::new(qos, 64).measure(settings, &near, &far, &cluster.pids())
}

fn latency(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let cluster = Cluster::start(settings, spec)?;
    let load = paced::Load { pairs: 100, qos: 1, rate: 2_000 };
    let same = paced::measure(settings, load, &cluster.nodes[0], &cluster.nodes[0])?;
    let mut over = paced::measure(settings, load, &cluster.nodes[0], &cluster.nodes[1])?;
    over.values.push(("added_ms", value(&over, "p50_ms")? - value(&same, "p50_ms")?));
    over.faults.add(same.faults);
    Ok(over)
}

/// Pairs on one node, alone and in a cluster.
fn local(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let load = Load::new(1, 64);
    let alone = load.run(settings, spec)?;
    let cluster = Cluster::start(settings, spec)?;
    let node = &cluster.nodes[0];
    let mut within = load.measure(settings, &[node], &[node], &[node.pid()])?;
    let ratio = value(&within, "cpu_us_per_msg")? / value(&alone, "cpu_us_per_msg")?;
    within.faults.add(alone.faults);
    Ok(Outcome { values: vec![("cost_ratio", ratio)], faults: within.faults, ..Outcome::default() })
}

fn idle(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let cluster = Cluster::start(settings, spec)?;
    let pids: Vec<u32> = cluster.nodes.iter().map(|node| node.pid()).collect();
    let meter = Meter::of(&pids)?;
    std::thread::sleep(settings.stretch * IDLE_STRETCHES);
    let cost = meter.stop()?;
    let percent = 100.0 * cost.cpu_s / cost.wall_s / NODES as f64;
    Ok(Outcome { values: vec![("cpu_percent", percent)], ..Outcome::default() })
}

fn many_filters(settings: &Settings, spec: &Spec) -> Result<Outcome> {
    let count = 100_000 / settings.divisor;
    let cluster = Cluster::start(settings, spec)?;
    let mut engine = filters::clients(&settings.target(&cluster.nodes[0], Listener::Plain))?;
    let other = cluster.nodes[1].pid();
    let before = rss_bytes(other)?;
    let meter = Meter::of(&cluster.pids())?;
    filters::subscribe_all(&mut engine, count)?;
    let cost = meter.stop()?;
    let grown = rss_bytes(other)?.saturating_sub(before);
    let started = Instant::now();
    let joined = cluster.join()?;
    let join_s = started.elapsed().as_secs_f64();
    drop(joined);
    let values = vec![
        ("rss_bytes_per_filter", grown as f64 / count as f64),
        ("cpu_us_per_subscribe", cost.cpu_s * 1e6 / count as f64),
        ("join_s", join_s),
    ];
    Ok(Outcome { values, ..Outcome::default() })
}
