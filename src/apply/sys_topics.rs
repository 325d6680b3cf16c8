//! `$SYS`: the broker's statistics as retained messages in the shared namespace.
//!
//! A tenant with a mountpoint does not see them: they name every endpoint.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use crate::net::{DataPlane, EndpointStats, PlaneError};
use crate::state::{ControlState, SharedState};
use weir_broker::{CoreGauges, EndpointCounters, EndpointId};

/// How often they are published.
const SYS_INTERVAL: Duration = Duration::from_secs(10);

/// Publishes until the data plane stops.
pub async fn publish_sys_topics(control: Arc<SharedState>, plane: DataPlane) -> PlaneError {
    let mut interval = tokio::time::interval(SYS_INTERVAL);
    loop {
        interval.tick().await;
        let gauges = match plane.gauges().await {
            Ok(gauges) => gauges,
            Err(stopped) => return stopped,
        };
        for (topic, value) in sys_topics(&control.load(), &plane.stats(), &gauges, plane.now() / 1000) {
            plane.publish("", &topic, value.into_bytes(), true);
        }
    }
}

/// Topics with their values.
fn sys_topics(
    control: &ControlState,
    stats: &[EndpointStats],
    gauges: &CoreGauges,
    uptime_s: u64,
) -> Vec<(String, String)> {
    let sum = |count: fn(&EndpointCounters) -> u64| stats.iter().map(|s| count(&s.broker)).sum::<u64>().to_string();
    let connected: u64 = stats.iter().map(|s| u64::from(s.connections_current - s.connections_pending)).sum();
    let mut topics: Vec<(String, String)> = [
        ("version", format!("weir {}", env!("CARGO_PKG_VERSION"))),
        ("uptime", format!("{uptime_s} seconds")),
        ("clients/connected", connected.to_string()),
        ("clients/disconnected", (gauges.sessions as u64).saturating_sub(connected).to_string()),
        ("clients/total", gauges.sessions.to_string()),
        ("subscriptions/count", gauges.subscriptions.to_string()),
        ("retained messages/count", gauges.retained_messages.to_string()),
        ("messages/inflight", gauges.inflight.to_string()),
        ("messages/stored", gauges.queued.to_string()),
        ("publish/messages/received", sum(|c| c.messages_received)),
        ("publish/messages/sent", sum(|c| c.messages_sent)),
        ("publish/messages/dropped", sum(|c| c.dropped.iter().sum())),
        ("bytes/received", sum(|c| c.bytes_received)),
        ("bytes/sent", sum(|c| c.bytes_sent)),
    ]
    .into_iter()
    .map(|(topic, value)| (format!("$SYS/broker/{topic}"), value))
    .collect();
    let by_id: HashMap<EndpointId, &EndpointStats> = stats.iter().map(|stats| (stats.endpoint, stats)).collect();
    for (name, endpoint) in &control.endpoints {
        let Some(of) = endpoint.id.and_then(|id| by_id.get(&id)) else { continue };
        let prefix = format!("$SYS/broker/endpoints/{name}");
        topics.push((format!("{prefix}/connections"), of.connections_current.to_string()));
        topics.push((format!("{prefix}/messages/received"), of.broker.messages_received.to_string()));
        topics.push((format!("{prefix}/messages/sent"), of.broker.messages_sent.to_string()));
    }
    topics
}
