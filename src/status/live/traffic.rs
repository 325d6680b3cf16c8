//! Counters and gauges of the data plane.

use crate::net::EndpointStats;
use crate::status::{Counts, EndpointSessionGauges, EndpointTraffic};
use weir_broker::{Dropped, EndpointGauges};

/// Refusals that are the CONNECT's own outcome; the others are errors of the connection.
const CONNECT_REFUSALS: [&str; 5] = ["authentication", "auth_busy", "auth_rate", "session", "version"];

pub(super) fn endpoint_traffic(stats: &EndpointStats) -> EndpointTraffic {
    let (connects, errors): (Counts, Counts) = stats
        .refused
        .iter()
        .filter(|(reason, _)| *reason != "shutdown")
        .partition(|(reason, _)| CONNECT_REFUSALS.contains(reason));
    let mut traffic = EndpointTraffic {
        connections: stats.connections_current.into(),
        pending: stats.connections_pending.into(),
        accepted: stats.accepted_total,
        connects,
        authentication_failures: stats.refused.authentication + stats.refused.auth_busy + stats.refused.auth_rate,
        errors,
        ..EndpointTraffic::NONE
    };
    traffic.connects.insert("success", stats.admitted_total);
    let broker = &stats.broker;
    traffic.authorization_failures = broker.authorization_failures;
    traffic.messages_received = broker.messages_received;
    traffic.messages_sent = broker.messages_sent;
    traffic.bytes_received = broker.bytes_received;
    traffic.bytes_sent = broker.bytes_sent;
    traffic.messages_dropped =
        Dropped::ALL.iter().map(|reason| (reason.label(), broker.dropped[*reason as usize])).collect();
    traffic
}

pub(super) fn session_gauges(held: &EndpointGauges) -> EndpointSessionGauges {
    EndpointSessionGauges {
        sessions: held.sessions as u64,
        sessions_away: held.offline as u64,
        subscriptions: held.subscriptions as u64,
        inflight_messages: held.inflight as u64,
        queued_messages: held.queued as u64,
        queued_bytes: held.queued_bytes,
    }
}
