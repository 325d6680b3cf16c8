//! The result of a bench, as text and as JSON.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::load::Load;

/// Percentiles, and how they are called in text and JSON.
const PERCENTILES: [(f64, &str); 4] = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9")];

/// The result of a bench.
pub(super) struct Report {
    scenario: &'static str,
    broker: String,
    publishers: u32,
    subscribers: u32,
    qos: u8,
    size: usize,
    sent: u64,
    received: u64,
    lost: u64,
    duplicates: u64,
    refused: u64,
    /// Seconds to the last message that was sent, and to the last that arrived.
    sent_s: f64,
    received_s: f64,
    /// Milliseconds, in the order of [`PERCENTILES`], and the maximum; `None`: nothing arrived.
    latency_ms: Option<Vec<(&'static str, f64)>>,
}

impl Report {
    pub(super) fn new(scenario: &'static str, broker: String, clients: [u32; 2], load: &Load) -> Self {
        let value = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seconds = |counter: &AtomicU64| value(counter) as f64 / 1e9;
        let latencies = load.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        let ms = |ns: u64| ns as f64 / 1e6;
        let latency_ms = (!latencies.is_empty()).then(|| {
            let percentiles = PERCENTILES.map(|(percent, name)| (name, ms(latencies.value_at_percentile(percent))));
            percentiles.into_iter().chain([("max", ms(latencies.max()))]).collect()
        });
        let received = value(&load.received);
        Self {
            scenario,
            broker,
            publishers: clients[0],
            subscribers: clients[1],
            qos: load.qos as u8,
            size: load.size,
            sent: value(&load.sent),
            received,
            lost: value(&load.expected).saturating_sub(received),
            duplicates: value(&load.duplicates),
            refused: value(&load.refused),
            sent_s: seconds(&load.last_sent_ns),
            received_s: seconds(&load.last_received_ns),
            latency_ms,
        }
    }

    /// Whether everything arrived that the QoS promises.
    pub(super) fn is_good(&self) -> bool {
        self.refused == 0 && (self.qos == 0 || self.lost == 0)
    }

    pub(super) fn human(&self) -> String {
        let Self { scenario, broker, publishers, subscribers, qos, size, .. } = self;
        let plural = |n: u32| if n == 1 { "" } else { "s" };
        let mut text = format!(
            "{scenario}: {publishers} publisher{}, {subscribers} subscriber{}, QoS {qos}, {size} bytes, {broker}\n",
            plural(*publishers),
            plural(*subscribers),
        );
        for (name, count, seconds) in [("sent", self.sent, self.sent_s), ("received", self.received, self.received_s)] {
            text.push_str(&format!(
                "{name:<9} {count:>12} messages in {seconds:.1} s  {:>10.0}/s  {:>8.2} MB/s\n",
                per_second(count, seconds),
                per_second(count, seconds) * *size as f64 / 1e6,
            ));
        }
        text.push_str(&format!("lost {}, duplicate {}, refused {}\n", self.lost, self.duplicates, self.refused));
        if let Some(latency) = &self.latency_ms {
            let values: Vec<String> = latency.iter().map(|(name, ms)| format!("{name} {ms:.3} ms")).collect();
            text.push_str(&format!("latency   {}\n", values.join("  ")));
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let latency = self
            .latency_ms
            .as_ref()
            .map(|latency| Value::Object(latency.iter().map(|(name, ms)| ((*name).to_owned(), json!(ms))).collect()));
        json!({
            "scenario": self.scenario,
            "broker": self.broker,
            "publishers": self.publishers,
            "subscribers": self.subscribers,
            "qos": self.qos,
            "payloadBytes": self.size,
            "sent": self.sent,
            "received": self.received,
            "lost": self.lost,
            "duplicates": self.duplicates,
            "refused": self.refused,
            "sentPerSecond": per_second(self.sent, self.sent_s),
            "receivedPerSecond": per_second(self.received, self.received_s),
            "durationSeconds": self.received_s.max(self.sent_s),
            "latencyMs": latency,
        })
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}
