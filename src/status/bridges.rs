//! Bridges: `/api/bridges`, and their metrics.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use serde::Serialize;
use serde_json::json;

use super::http::{Problem, Reply};
use super::query::Query;
use super::router::App;
use super::{Counts, OriginView};
use weir_declare::reconcile::{ConditionStatus, Timestamp};

/// One bridge: its declaration and the state of its link.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeView {
    pub name: String,
    pub origin: OriginView,
    /// Endpoints that name it.
    pub endpoints: Vec<String>,
    /// As declared, in the order in which they are tried.
    pub addresses: Vec<String>,
    pub conditions: Vec<BridgeCondition>,
    /// `None` where it does not run.
    pub link: Option<BridgeLink>,
}

/// One condition of a bridge; its shape is that of an endpoint's.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeCondition {
    /// `ResolvedRefs` or `Connected`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub status: ConditionStatus,
    pub reason: &'static str,
    pub message: String,
    pub observed_generation: u64,
    pub last_transition_time: Option<Timestamp>,
}

/// The state of a link. Totals count from the process's start.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeLink {
    pub connected: bool,
    /// Connected to, or tried last.
    pub address: Option<String>,
    pub connects: u64,
    pub failures: u64,
    pub last_error: Option<String>,
    pub messages_sent: u64,
    pub messages_received: u64,
    /// By reason.
    pub messages_dropped: Counts,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub inflight_messages: u64,
    /// For how long something has been waiting or on its way without a break.
    pub lag_s: f64,
    /// Filters that the other broker does not let it subscribe to.
    pub refused_filters: Vec<RefusedFilter>,
}

/// A filter that the other broker refused.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedFilter {
    pub filter: String,
    pub reason_code: u8,
}

/// `GET /api/bridges?name=`
pub(super) fn list(app: &App, query: &Query) -> Reply {
    let all = app.view.bridges();
    let wanted = query.get("name");
    let known = all.len();
    let bridges: Vec<BridgeView> =
        all.into_iter().filter(|bridge| wanted.is_none_or(|name| bridge.name == name)).collect();
    match wanted {
        Some(name) if bridges.is_empty() => {
            Err(Problem::not_found(format!("no bridge is named {name:?}; there are {known}")))
        }
        _ => Ok(json!({"total": bridges.len(), "bridges": bridges})),
    }
}

/// Name, help, unit and value of a family.
type Gauge = (&'static str, &'static str, Option<Unit>, fn(&BridgeLink) -> f64);
/// Name, help and value.
type Counter = (&'static str, &'static str, fn(&BridgeLink) -> u64);

/// The bridges' families.
pub(super) fn encode(out: &mut DescriptorEncoder, bridges: &[BridgeView]) -> fmt::Result {
    let linked = || bridges.iter().filter_map(|bridge| Some((&bridge.name, bridge.link.as_ref()?)));
    let label = |name: &String| vec![("bridge", name.clone())];
    let gauges: [Gauge; 5] = [
        ("weir_bridge_connected", "1 while the link is up.", None, |link| f64::from(u8::from(link.connected))),
        ("weir_bridge_queued_messages", "Messages queued for the other broker.", None, |link| {
            link.queued_messages as f64
        }),
        ("weir_bridge_queued", "Bytes of the queued messages.", Some(Unit::Bytes), |link| link.queued_bytes as f64),
        ("weir_bridge_inflight_messages", "Messages sent that the other broker has not acknowledged.", None, |link| {
            link.inflight_messages as f64
        }),
        (
            "weir_bridge_lag",
            "Time since messages have been queued or in flight without a break.",
            Some(Unit::Seconds),
            |link| link.lag_s,
        ),
    ];
    for (name, help, unit, value) in gauges {
        let mut family = out.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (bridge, link) in linked() {
            family.encode_family(&label(bridge))?.encode_gauge(&value(link))?;
        }
    }
    let counters: [Counter; 4] = [
        ("weir_bridge_connects", "Times that the link was established.", |link| link.connects),
        ("weir_bridge_failures", "Attempts that failed, and links that were lost.", |link| link.failures),
        ("weir_bridge_messages_sent", "Messages sent to the other broker, repeats included.", |link| {
            link.messages_sent
        }),
        ("weir_bridge_messages_received", "Messages received from the other broker.", |link| link.messages_received),
    ];
    for (name, help, value) in counters {
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (bridge, link) in linked() {
            family.encode_family(&label(bridge))?.encode_counter::<NoLabelSet, u64, f64>(&value(link), None)?;
        }
    }
    let help = "Messages that were not forwarded, by reason.";
    let mut family = out.encode_descriptor("weir_bridge_messages_dropped", help, None, MetricType::Counter)?;
    for (bridge, link) in linked() {
        for (reason, count) in &link.messages_dropped {
            let mut labels = label(bridge);
            labels.push(("reason", (*reason).to_owned()));
            family.encode_family(&labels)?.encode_counter::<NoLabelSet, u64, f64>(count, None)?;
        }
    }
    Ok(())
}
