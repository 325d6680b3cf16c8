//! `/metrics`: OpenMetrics, or Prometheus's older text format on request. Labels are endpoints and closed sets of
//! words, never a client id or a topic.

mod endpoints;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::StatusCode;
use hyper::header::{self, HeaderMap};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::counters::StatusCounters;
use super::http::{Answer, Problem};
use super::prometheus_text::prometheus_text;
use super::router::App;
use super::{BridgeView, ClusterMembersView, Gauges, Histogram, StateView, StatusProvider, Traffic};
use crate::auth::AuthCounts;
use crate::kernel::{Process, memory_limit_bytes};
use crate::state::{Phase, SourceErrorKind};
use crate::store::records::StoreStats;
use crate::telemetry::TelemetryStats;
use weir_broker::{MemoryAccount, MemoryKind};
use weir_declare::config::Severity;
use weir_declare::reconcile::Timestamp;

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `GET /metrics`
pub(super) async fn metrics(app: &App, headers: &HeaderMap) -> Answer {
    let gauges = app.gauges().await;
    let text = match openmetrics(&*app.view, gauges, Arc::clone(&app.counters)) {
        Ok(text) => text,
        Err(error) => {
            tracing::error!(%error, "metrics encoding failed");
            return Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be written").into();
        }
    };
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepted.into_iter().any(|value| value.contains("application/openmetrics-text")) {
        Answer::new(StatusCode::OK, OPENMETRICS, text)
    } else {
        Answer::new(StatusCode::OK, PROMETHEUS_TEXT, prometheus_text(&text))
    }
}

/// The metrics of `view`, without those of the HTTP API, in Prometheus's text format.
///
/// # Errors
/// They cannot be encoded.
pub async fn prometheus_metrics(view: &dyn StatusProvider) -> Result<String, fmt::Error> {
    let gauges = view.gauges().await;
    openmetrics(view, gauges, Arc::default()).map(|text| prometheus_text(&text))
}

fn openmetrics(
    view: &dyn StatusProvider,
    gauges: Option<Gauges>,
    refused: Arc<StatusCounters>,
) -> Result<String, fmt::Error> {
    let scrape = Scrape {
        state: view.state(),
        traffic: view.traffic(),
        bridges: view.bridges(),
        members: view.cluster_members(),
        gauges,
        store: view.store(),
        memory: view.memory(),
        telemetry: view.telemetry(),
        auth: view.auth_counts(),
        events_missed: view.events_missed(),
        process: Process::read(),
        refused,
        now: view.now(),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(scrape));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// All that one scrape shows, read at one moment.
#[derive(Debug)]
struct Scrape {
    state: Arc<StateView>,
    traffic: Traffic,
    bridges: Vec<BridgeView>,
    members: Option<ClusterMembersView>,
    gauges: Option<Gauges>,
    store: Option<Arc<StoreStats>>,
    memory: Option<MemoryAccount>,
    telemetry: Option<Arc<TelemetryStats>>,
    auth: AuthCounts,
    events_missed: u64,
    process: Process,
    refused: Arc<StatusCounters>,
    now: Timestamp,
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let out = &mut encoder;
        self.node(out)?;
        self.sessions_and_messages(out)?;
        self.memory(out)?;
        self.store(out)?;
        self.reconcile(out)?;
        self.telemetry(out)?;
        self.authentication(out)?;
        self.endpoint_states(out)?;
        self.endpoint_connections(out)?;
        self.endpoint_messages(out)?;
        super::bridges::encode(out, &self.bridges)?;
        if let Some(members) = &self.members {
            super::members::encode(out, members)?;
        }
        self.refused.encode(out)?;
        self.process(out)
    }
}

impl Scrape {
    fn node(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let state = &self.state;
        out.encode_descriptor("weir_build", "The running version.", None, MetricType::Info)?
            .encode_info(&vec![("version", state.node.version.clone())])?;
        let declaration = vec![
            ("revision", state.source.applied_revision.clone().unwrap_or_default()),
            ("digest", state.declaration_digest.clone()),
        ];
        out.encode_descriptor("weir_declaration", "The declaration that is applied.", None, MetricType::Info)?
            .encode_info(&declaration)?;
        gauge(
            out,
            "weir_ready",
            "1 once a declaration is applied, until the broker drains.",
            state.phase == Phase::Serving,
        )?;
        let converged = state.nodes.iter().filter(|node| node.converged).count() as u64;
        gauge(out, "weir_cluster_nodes", "Brokers known, this one included.", state.nodes.len() as u64)?;
        gauge(out, "weir_cluster_nodes_converged", "Brokers that serve the newest declaration.", converged)
    }

    fn sessions_and_messages(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let Some(held) = &self.gauges else { return Ok(()) };
        gauge(out, "weir_sessions", "Sessions of connected and of offline clients.", held.sessions)?;
        gauge(out, "weir_subscriptions", "Subscriptions of all sessions.", held.subscriptions)?;
        gauge(out, "weir_messages_inflight", "Messages sent and not yet acknowledged.", held.inflight_messages)?;
        gauge(out, "weir_messages_queued", "Messages queued in sessions.", held.queued_messages)?;
        gauge(out, "weir_retained_messages", "Retained messages.", held.retained_messages)?;
        gauge_of(
            out,
            "weir_retained",
            "Retained messages' topics and payloads.",
            Unit::Bytes,
            held.retained_bytes as f64,
        )?;
        self.internal_errors(out, &held.internal_errors)?;
        self.held(out, "weir_endpoint_sessions", "Sessions last connected to it.", |held| held.sessions)?;
        let help = "Sessions of offline clients (maxSessionSize limits them).";
        self.held(out, "weir_endpoint_sessions_away", help, |held| held.sessions_away)?;
        let help = "Subscriptions of its sessions.";
        self.held(out, "weir_endpoint_subscriptions", help, |held| held.subscriptions)?;
        let help = "Messages sent to its sessions and not yet acknowledged.";
        self.held(out, "weir_endpoint_messages_inflight", help, |held| held.inflight_messages)?;
        let help = "Messages queued in its sessions.";
        self.held(out, "weir_endpoint_messages_queued", help, |held| held.queued_messages)?;
        let help = "Bytes of the messages queued in its sessions.";
        self.held(out, "weir_endpoint_queued_bytes", help, |held| held.queued_bytes)
    }

    fn internal_errors(&self, out: &mut DescriptorEncoder, counts: &[(&'static str, u64)]) -> fmt::Result {
        let help = "Internal inconsistencies found: defects of the broker, to be reported.";
        let mut family = out.encode_descriptor("weir_internal_errors", help, None, MetricType::Counter)?;
        for (site, count) in counts {
            let labels = [("site", *site)];
            let mut metric = family.encode_family(&labels)?;
            metric.encode_counter::<NoLabelSet, u64, f64>(count, None)?;
        }
        Ok(())
    }

    /// What memory is used for.
    fn memory(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let Some(memory) = &self.memory else { return Ok(()) };
        let (bytes, kind_of) = (Some(&Unit::Bytes), |kind: MemoryKind| [("kind", kind.label())]);
        let help = "Memory in use, as the broker counts it, by kind.";
        let mut used = out.encode_descriptor("weir_memory", help, bytes, MetricType::Gauge)?;
        for kind in MemoryKind::ALL {
            used.encode_family(&kind_of(kind))?.encode_gauge(&(memory.used(kind) as u64))?;
        }
        let help = "Memory limit of each kind: its share of --memory.";
        let mut limit = out.encode_descriptor("weir_memory_limit", help, bytes, MetricType::Gauge)?;
        for kind in MemoryKind::ALL {
            limit.encode_family(&kind_of(kind))?.encode_gauge(&(memory.limit(kind) as u64))?;
        }
        let help = "Refusals because the memory share of a kind was used up.";
        let mut refusals = out.encode_descriptor("weir_memory_refusals", help, None, MetricType::Counter)?;
        for kind in MemoryKind::ALL {
            refusals
                .encode_family(&kind_of(kind))?
                .encode_counter::<NoLabelSet, u64, f64>(&memory.refusals(kind), None)?;
        }
        Ok(())
    }

    /// Where there is a data directory.
    fn store(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let Some(store) = &self.store else { return Ok(()) };
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        counter(out, "weir_store_commits", "Commits, each with one fsync.", read(&store.commits))?;
        counter(
            out,
            "weir_store_records",
            "Records written, without those that cleaning moved.",
            read(&store.records),
        )?;
        let help = "Batches of records from shards; several share a commit.";
        counter(out, "weir_store_batches", help, read(&store.batches))?;
        let spent = read(&store.commit_ns) as f64 / 1e9;
        out.encode_descriptor(
            "weir_store_commit",
            "Time spent in commits.",
            Some(&Unit::Seconds),
            MetricType::Counter,
        )?
        .encode_counter::<NoLabelSet, f64, f64>(&spent, None)?;
        gauge(out, "weir_store_files", "Files of the log.", read(&store.files))?;
        gauge_of(out, "weir_store_size", "Size of the log.", Unit::Bytes, read(&store.bytes) as f64)?;
        gauge_of(out, "weir_store_live", "Live records.", Unit::Bytes, read(&store.live_bytes) as f64)?;
        gauge(out, "weir_store_live_records", "Live records.", read(&store.live_records))?;
        gauge(out, "weir_store_full", "1 while the store's disk is full.", store.full.load(Ordering::Relaxed))
    }

    fn reconcile(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let (state, source) = (&self.state, &self.state.source);
        let sound = state.endpoints.iter().all(|endpoint| matches!(endpoint.health(), "healthy" | "disabled"));
        gauge(out, "weir_reconcile_converged", "1 while everything declared is live as declared.", sound)?;
        gauge(out, "weir_reconcile_suspended", "1 while `reconcile: {suspend: true}` is declared.", state.suspended)?;
        counter(out, "weir_reconcile_passes", "Reconcile passes since start.", state.reconcile.passes)?;
        gauge_of(
            out,
            "weir_reconcile_last_pass_duration",
            "How long the last pass took.",
            Unit::Seconds,
            state.reconcile.last_pass_s,
        )?;
        let mut pass = out.encode_descriptor(
            "weir_reconcile_pass_duration",
            "How long passes take.",
            Some(&Unit::Seconds),
            MetricType::Histogram,
        )?;
        histogram(&mut pass, &state.reconcile.durations)?;
        let mut found = out.encode_descriptor(
            "weir_reconcile_diagnostics",
            "Diagnostics of the last pass.",
            None,
            MetricType::Gauge,
        )?;
        for (severity, word) in [(Severity::Error, "error"), (Severity::Warning, "warning")] {
            let count = state.diagnostics.iter().filter(|diagnostic| diagnostic.severity == severity).count();
            found.encode_family(&vec![("severity", word)])?.encode_gauge(&(count as u64))?;
        }
        gauge(out, "weir_source_up", "1 while the source can be read.", source.error.is_none())?;
        let mut error = out.encode_descriptor(
            "weir_source_trouble",
            "1 while the source has this kind of error.",
            None,
            MetricType::Gauge,
        )?;
        for kind in SourceErrorKind::ALL {
            let is = source.error.as_ref().is_some_and(|error| error.kind == kind);
            error.encode_family(&vec![("kind", kind.as_str())])?.encode_gauge(&u64::from(is))?;
        }
        let help = "Errors of the source, by kind, including those resolved by the next attempt.";
        let mut incidents = out.encode_descriptor("weir_source_incidents", help, None, MetricType::Counter)?;
        for kind in SourceErrorKind::ALL {
            let count = source.incidents.get(kind.as_str()).copied().unwrap_or_default();
            let labels = vec![("kind", kind.as_str())];
            incidents.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        self.cluster(out)?;
        let stale_s = source.last_read_at.map_or(f64::INFINITY, |at| self.now.since_ms(at) as f64 / 1000.0);
        gauge_of(
            out,
            "weir_source_staleness",
            "Time since the source was last read completely.",
            Unit::Seconds,
            stale_s,
        )
    }

    /// Where traces go to a collector.
    fn telemetry(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let Some(telemetry) = &self.telemetry else { return Ok(()) };
        let taken = !telemetry.failing.load(Ordering::Relaxed);
        gauge(out, "weir_telemetry_up", "1 while the OpenTelemetry collector accepts traces.", taken)?;
        let help = "Spans that the OpenTelemetry collector accepted.";
        counter(out, "weir_telemetry_spans_exported", help, telemetry.exported.load(Ordering::Relaxed))?;
        let help = "Spans that were not exported to the OpenTelemetry collector, by reason.";
        let mut dropped = out.encode_descriptor("weir_telemetry_spans_dropped", help, None, MetricType::Counter)?;
        for (reason, count) in telemetry.dropped() {
            let labels = vec![("reason", reason)];
            dropped.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        Ok(())
    }

    fn authentication(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Authentications dropped before a password was hashed or a service was queried, by reason.";
        let mut family = out.encode_descriptor("weir_auth_attempts_dropped", help, None, MetricType::Counter)?;
        for (reason, count) in self.auth.dropped {
            family.encode_family(&vec![("reason", reason)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        let help = "Entries evicted from full tables of recent attempts before they expired, by table.";
        let mut family = out.encode_descriptor("weir_auth_table_evictions", help, None, MetricType::Counter)?;
        for (table, count) in self.auth.evicted {
            family.encode_family(&vec![("table", table)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        let help = "Calls of authenticators of the embedding program that failed, by reason.";
        let mut family = out.encode_descriptor("weir_auth_custom_failures", help, None, MetricType::Counter)?;
        for (reason, count) in self.auth.custom_failures {
            family.encode_family(&vec![("reason", reason)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
        let help = "Events that a stream or the document `events` missed, because they were not read fast enough.";
        counter(out, "weir_events_missed", help, self.events_missed)
    }

    fn cluster(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let nodes = &self.state.nodes;
        let duplicates = nodes.iter().filter(|node| node.duplicate_name).count();
        gauge(out, "weir_cluster_duplicate_names", "Brokers that share their name with another.", duplicates as u64)?;
        let help = "1 while this broker is a member of its cluster, or has none.";
        gauge(out, "weir_cluster_membership_up", help, self.state.membership_error.is_none())
    }

    fn process(&self, out: &mut DescriptorEncoder) -> fmt::Result {
        let process = &self.process;
        let started = self.state.node.started_at.unix_ms as f64 / 1000.0;
        gauge_of(out, "process_start_time", "When the process started, since the Unix epoch.", Unit::Seconds, started)?;
        if let Some(seconds) = process.cpu_s {
            out.encode_descriptor("process_cpu", "Processor time used.", Some(&Unit::Seconds), MetricType::Counter)?
                .encode_counter::<NoLabelSet, f64, f64>(&seconds, None)?;
        }
        if let Some(bytes) = process.resident_bytes {
            gauge_of(out, "process_resident_memory", "Memory resident.", Unit::Bytes, bytes as f64)?;
        }
        if let Some(bytes) = memory_limit_bytes() {
            let help = "Memory limit of the process: the least of its control groups' limits and the machine's memory.";
            gauge_of(out, "process_memory_limit", help, Unit::Bytes, bytes as f64)?;
        }
        if let (Some(open), Some(most)) = (process.open_fds, process.max_fds) {
            gauge(out, "process_open_fds", "File descriptors open.", open)?;
            gauge(out, "process_max_fds", "File descriptors allowed.", most)?;
        }
        Ok(())
    }
}

pub(super) fn gauge(out: &mut DescriptorEncoder, name: &str, help: &str, value: impl Into<u64>) -> fmt::Result {
    out.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value.into())
}

/// The unit becomes the name's ending.
fn gauge_of(out: &mut DescriptorEncoder, name: &str, help: &str, unit: Unit, value: f64) -> fmt::Result {
    out.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?.encode_gauge(&value)
}

pub(super) fn counter(out: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn histogram(metric: &mut MetricEncoder, histogram: &Histogram) -> fmt::Result {
    let bounds = histogram.bounds.iter().copied().chain([f64::INFINITY]);
    let buckets: Vec<(f64, u64)> = bounds.zip(histogram.counts.iter().copied()).collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    metric.encode_histogram::<NoLabelSet>(histogram.sum, count, &buckets, None)
}
