//! All rows, in the order of the table.

use super::pairs::Load;
use super::{
    Better, Goal, Measure, Outcome, Row, Settings, bridge, churn, control, durable, fanout, filters, growth, idle,
    paced,
};
use super::{residue, retained};
use crate::brokers::{Kind, Spec};
use crate::transport::Listener;
use crate::wire::Version;

fn everyone(spec: &Spec) -> bool {
    spec.supports(Listener::Plain)
}

fn with_tls(spec: &Spec) -> bool {
    spec.supports(Listener::Tls)
}

fn with_websocket(spec: &Spec) -> bool {
    spec.supports(Listener::WebSocket)
}

fn weir_only(spec: &Spec) -> bool {
    matches!(spec.kind, Kind::Weir { .. })
}

fn applies_to(listener: Listener) -> fn(&Spec) -> bool {
    match listener {
        Listener::Plain => everyone,
        Listener::Tls => with_tls,
        Listener::WebSocket => with_websocket,
    }
}

fn higher(key: &'static str, title: &str, unit: &'static str, goal: Option<f64>) -> Measure {
    Measure { key, title: title.to_owned(), unit, better: Better::Higher, goal: goal.map(Goal::Ratio) }
}

fn lower(key: &'static str, title: &str, unit: &'static str, goal: Option<Goal>) -> Measure {
    Measure { key, title: title.to_owned(), unit, better: Better::Lower, goal }
}

/// A row whose one measure is messages delivered per broker CPU second.
fn throughput(id: &'static str, title: &str, goal: Option<f64>, load: Load) -> Row {
    Row {
        id,
        measures: vec![higher("msgs_per_cpu_s", title, "msg per CPU s", goal)],
        applies: applies_to(load.listener),
        run: Box::new(move |settings, spec| load.run(settings, spec)),
    }
}

fn row(
    id: &'static str,
    measures: Vec<Measure>,
    applies: fn(&Spec) -> bool,
    run: impl Fn(&Settings, &Spec) -> anyhow::Result<Outcome> + 'static,
) -> Row {
    Row { id, measures, applies, run: Box::new(run) }
}

/// Every row.
pub fn catalogue() -> Vec<Row> {
    let mut rows = pair_rows();
    rows.extend(match_rows());
    rows.extend(paced_rows());
    rows.extend(footprint_rows());
    rows.extend(growth_rows());
    rows.extend(bridge_rows());
    rows.extend(durable_rows());
    rows.extend(control::rows(weir_only));
    rows
}

fn pair_rows() -> Vec<Row> {
    const KIB: usize = 1024;
    let (v5, tls, websocket) = (Version::V5, Listener::Tls, Listener::WebSocket);
    vec![
        throughput("pairs-q0-64", "50 pairs, QoS 0, 64 B", Some(80.0), Load::new(0, 64)),
        throughput("pairs-q0-1k", "50 pairs, QoS 0, 1 KiB", Some(25.0), Load::new(0, KIB)),
        throughput("pairs-q0-4k", "50 pairs, QoS 0, 4 KiB", Some(1.0), Load::new(0, 4 * KIB)),
        throughput("pairs-q0-16k", "50 pairs, QoS 0, 16 KiB", Some(1.0), Load::new(0, 16 * KIB)),
        throughput("pairs-q0-64k", "50 pairs, QoS 0, 64 KiB", Some(1.0), Load::new(0, 64 * KIB)),
        throughput("pairs-q1-64", "50 pairs, QoS 1, 64 B, window 50", Some(45.0), Load::new(1, 64)),
        throughput("pairs-q1-1k", "50 pairs, QoS 1, 1 KiB, window 50", Some(40.0), Load::new(1, KIB)),
        throughput("pairs-q1-4k", "50 pairs, QoS 1, 4 KiB, window 50", Some(1.0), Load::new(1, 4 * KIB)),
        throughput("pairs-q1-16k", "50 pairs, QoS 1, 16 KiB, window 50", Some(1.0), Load::new(1, 16 * KIB)),
        throughput("pairs-q1-64k", "50 pairs, QoS 1, 64 KiB, window 50", Some(1.0), Load::new(1, 64 * KIB)),
        throughput("pairs-q2-64", "50 pairs, QoS 2, 64 B, window 50", Some(1.0), Load::new(2, 64)),
        throughput(
            "pairs-v5-q0",
            "50 pairs, MQTT 5, QoS 0, 64 B, two properties and an alias",
            Some(1.0),
            Load { version: v5, ..Load::new(0, 64) },
        ),
        throughput(
            "pairs-v5-q1",
            "50 pairs, MQTT 5, QoS 1, 64 B, two properties and an alias",
            Some(1.0),
            Load { version: v5, ..Load::new(1, 64) },
        ),
        throughput("pairs-tls-q0", "50 pairs, TLS, QoS 0, 64 B", Some(1.0), Load { listener: tls, ..Load::new(0, 64) }),
        throughput(
            "pairs-tls-q0-1k",
            "50 pairs, TLS, QoS 0, 1 KiB",
            Some(1.0),
            Load { listener: tls, ..Load::new(0, KIB) },
        ),
        throughput("pairs-tls-q1", "50 pairs, TLS, QoS 1, 64 B", Some(1.0), Load { listener: tls, ..Load::new(1, 64) }),
        throughput(
            "pairs-ws-q0",
            "50 pairs, WebSocket, QoS 0, 64 B",
            Some(1.0),
            Load { listener: websocket, ..Load::new(0, 64) },
        ),
        throughput(
            "pairs-ws-q0-1k",
            "50 pairs, WebSocket, QoS 0, 1 KiB",
            Some(1.0),
            Load { listener: websocket, ..Load::new(0, KIB) },
        ),
        throughput(
            "pairs-ws-q1",
            "50 pairs, WebSocket, QoS 1, 64 B",
            Some(1.0),
            Load { listener: websocket, ..Load::new(1, 64) },
        ),
    ]
}

fn match_rows() -> Vec<Row> {
    let unit = "msg per CPU s";
    vec![
        row(
            "fanout",
            vec![higher("msgs_per_cpu_s", "1 to 500 fan-out, QoS 0, 64 B", unit, Some(32.0))],
            everyone,
            |settings, spec| fanout::run(settings, spec, 500),
        ),
        row(
            "wildcards",
            vec![higher("msgs_per_cpu_s", "publishes into 100k filters, 30% with wildcards", unit, Some(10.0))],
            everyone,
            |settings, spec| {
                let filters = 100_000 / settings.divisor;
                filters::publish(settings, spec, filters, filters)
            },
        ),
        row(
            "retained",
            vec![
                lower("cpu_us_per_msg", "retained delivery on subscribe to 100k topics", "us", Some(Goal::Ratio(1.0))),
                lower("rss_bytes_per_retained", "memory of a retained message of 64 B", "B", None),
            ],
            everyone,
            |settings, spec| retained::run(settings, spec, 100_000),
        ),
    ]
}

fn paced_rows() -> Vec<Row> {
    let better = Some(Goal::Ratio(1.0));
    let percentiles = |what: &str, p999| {
        vec![
            lower("p50_ms", &format!("{what}, p50"), "ms", better),
            lower("p99_ms", &format!("{what}, p99"), "ms", better),
            lower("p999_ms", &format!("{what}, p99.9"), "ms", p999),
        ]
    };
    let latency = paced::Load { pairs: 100, qos: 1, rate: 2_000 };
    let paced = paced::Load { pairs: 50, qos: 0, rate: 20_000 };
    let mut churn_measures =
        vec![lower("cpu_us_per_operation", "(un)subscribe at 10,000/s under traffic, CPU", "us", better)];
    churn_measures.extend(percentiles("the traffic's latency meanwhile", None));
    let mut paced_measures =
        vec![lower("cpu_us_per_msg", "CPU per message paced at 20,000/s", "us", Some(Goal::Ratio(0.8)))];
    paced_measures.extend(percentiles("latency QoS 0 at 20,000/s, 50 pairs", None));
    vec![
        row(
            "single-flight",
            vec![higher("msgs_per_cpu_s", "QoS 0, one in flight per pair", "msg per CPU s", Some(1.4))],
            everyone,
            growth::single_flight,
        ),
        row("paced", paced_measures, everyone, move |settings, spec| paced::run(settings, spec, paced)),
        row("latency", percentiles("latency QoS 1 at 2,000/s, 100 pairs", None), everyone, move |settings, spec| {
            paced::run(settings, spec, latency)
        }),
        row("churn", churn_measures, everyone, churn::run),
    ]
}

fn footprint_rows() -> Vec<Row> {
    let idle_row = |id, listener, what: &str, count, rss: Option<Goal>, cpu| {
        let measures = vec![
            lower("rss_bytes_per_connection", &format!("idle connection, one subscription{what}, RSS"), "B", rss),
            lower("cpu_us_per_connect", &format!("CPU per connect{what}"), "us", cpu),
        ];
        row(id, measures, applies_to(listener), move |settings, spec| idle::run(settings, spec, listener, count))
    };
    vec![
        idle_row("idle", Listener::Plain, "", 10_000, Some(Goal::Value(1300.0)), Some(Goal::Ratio(0.8))),
        idle_row("idle-tls", Listener::Tls, ", TLS", 3_000, None, None),
        idle_row("idle-ws", Listener::WebSocket, ", WebSocket", 10_000, None, None),
        row(
            "filters",
            vec![
                lower("rss_bytes_per_filter", "RSS per filter, of 100k", "B", Some(Goal::Value(300.0))),
                lower("cpu_us_per_subscribe", "CPU per filter subscribed", "us", Some(Goal::Value(2.0))),
            ],
            everyone,
            |settings, spec| filters::cost(settings, spec, 100_000 / settings.divisor),
        ),
        row(
            "burst",
            vec![
                lower("rss_left_kib", "RSS that a burst of 80 MB leaves behind", "KiB", None),
                lower("rss_after_over_before", "RSS after the burst over that before", "times", None),
            ],
            everyone,
            residue::run,
        ),
    ]
}

fn bridge_rows() -> Vec<Row> {
    let forwarding = |id, title: &str, qos| {
        let measures = vec![higher("msgs_per_cpu_s", title, "msg per CPU s", Some(1.0))];
        row(id, measures, bridge::applies, move |settings, spec| bridge::run(settings, spec, qos))
    };
    vec![
        forwarding("bridge-q0", "50 pairs over a bridge, QoS 0, 64 B", 0),
        forwarding("bridge-q1", "50 pairs over a bridge, QoS 1, 64 B, window 50", 1),
        forwarding("bridge-q2", "50 pairs over a bridge, QoS 2, 64 B, window 50", 2),
    ]
}

fn durable_rows() -> Vec<Row> {
    let queues = |id, publishers: usize| {
        let of = |what: &str| format!("{publishers} publishers, QoS 1, {what}");
        let measures = vec![
            higher("fill_per_s", &of("into sessions on disk, clients offline"), "msg/s", None),
            higher("memory_fill_per_s", &of("into sessions in memory, clients offline"), "msg/s", None),
            higher("drain_per_s", &of("out of sessions on disk"), "msg/s", None),
            higher("memory_drain_per_s", &of("out of sessions in memory"), "msg/s", None),
            lower("fill_cpu_us_per_msg", &of("CPU per message stored"), "us", None),
        ];
        row(id, measures, durable::applies, move |settings, spec| durable::queues(settings, spec, publishers))
    };
    let restart = |id, title: &str, (retained, sessions, each)| {
        let measures = vec![lower("restart_s", title, "s", Some(Goal::Value(5.0)))];
        row(id, measures, weir_only, move |settings, spec| durable::restart(settings, spec, retained, sessions, each))
    };
    vec![
        queues("durable-1", 1),
        queues("durable-50", 50),
        queues("durable-500", 500),
        restart("restart-retained", "restart after kill -9, 1M retained of 64 B", (1_000_000, 0, 1)),
        restart("restart-sessions", "restart after kill -9, 100k sessions of 10 messages", (0, 100_000, 10)),
    ]
}

fn growth_rows() -> Vec<Row> {
    let ratio = |title: &str, goal| vec![lower("cost_ratio", title, "times", goal)];
    let about_equal = Some(Goal::Value(1.2));
    vec![
        row(
            "growth-fanout",
            ratio("CPU per delivery, 1,000 subscribers over 500", about_equal),
            everyone,
            growth::fan_out,
        ),
        row("growth-pairs", ratio("CPU per message, 100 pairs over 50", about_equal), everyone, growth::pairs),
        row(
            "growth-filters",
            ratio("CPU per message, 200k filters over 100k", Some(Goal::Value(2.0))),
            everyone,
            growth::filters,
        ),
        row(
            "growth-unrelated",
            ratio("CPU per message, with 99k unrelated filters over without", about_equal),
            everyone,
            growth::unrelated,
        ),
        row("shards-saturated", ratio("two shards over one, QoS 1 pairs", about_equal), weir_only, |settings, spec| {
            growth::shards(settings, spec, growth::saturated)
        }),
        row("shards-single", ratio("two shards over one, one in flight", about_equal), weir_only, |settings, spec| {
            growth::shards(settings, spec, growth::single_flight)
        }),
        row("shards-paced", ratio("two shards over one, paced", about_equal), weir_only, |settings, spec| {
            growth::shards(settings, spec, growth::paced)
        }),
    ]
}
