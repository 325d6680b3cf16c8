//! The broker's bridges as the status shows them.

use crate::net::DataPlane;
use crate::net::bridge::{BridgePhase, BridgeStatus};
use crate::state::{BridgeRunner, BridgeState, ControlState};
use crate::status::{BridgeCondition, BridgeLink, BridgeView, Counts, RefusedFilter};
use weir_bridge::FailureCause;
use weir_broker::Dropped;
use weir_declare::reconcile::{ConditionStatus, Timestamp};

/// Every bridge, by name.
pub(super) fn bridges(control: &ControlState, plane: &DataPlane, now: Timestamp) -> Vec<BridgeView> {
    let view = |(name, state): (&String, &BridgeState)| {
        let status = state.live.as_ref().map(|live| live.read());
        let dropped = state.endpoint.and_then(|id| plane.endpoint_stats(id)).map(|stats| stats.broker.dropped);
        BridgeView {
            name: name.clone(),
            origin: super::endpoints::written_origin(&state.origin),
            endpoints: state.endpoints.clone(),
            addresses: state.declared.address.iter().cloned().map(String::from).collect(),
            conditions: vec![resolved(state), connected(state, status.as_ref(), now)],
            link: status.map(|status| link(status, dropped.unwrap_or_default())),
        }
    };
    control.bridges.iter().map(view).collect()
}

fn condition(
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
    generation: u64,
) -> BridgeCondition {
    BridgeCondition {
        kind,
        status: if holds { ConditionStatus::True } else { ConditionStatus::False },
        reason,
        message,
        observed_generation: generation,
        last_transition_time: None,
    }
}

fn resolved(state: &BridgeState) -> BridgeCondition {
    match &state.failure {
        None => condition("ResolvedRefs", true, "AsDeclared", String::new(), state.generation),
        Some(failure) => condition("ResolvedRefs", false, "BadFile", failure.clone(), state.generation),
    }
}

fn connected(state: &BridgeState, status: Option<&BridgeStatus>, now: Timestamp) -> BridgeCondition {
    match &state.runner {
        // Neither an error nor known here: that node's condition says.
        Some(BridgeRunner::Elsewhere(node)) => {
            let plain =
                condition("Connected", false, "RunsElsewhere", format!("node {node} runs it"), state.generation);
            return BridgeCondition { status: ConditionStatus::Unknown, ..plain };
        }
        Some(BridgeRunner::Unknown(reason)) => {
            return condition("Connected", false, "NotPlaced", reason.clone(), state.generation);
        }
        Some(BridgeRunner::Here) | None => {}
    }
    let Some(status) = status else {
        let message = match (&state.failure, state.endpoints.is_empty()) {
            (Some(failure), _) => failure.clone(),
            (None, true) => "no endpoint names it in `bridges`".to_owned(),
            (None, false) => "no endpoint that names it is enabled on this node".to_owned(),
        };
        return condition("Connected", false, "NotRunning", message, state.generation);
    };
    let address = status.address.clone().unwrap_or_default();
    let failure = status.last_failure.as_ref();
    let message = failure.map_or_else(String::new, |failure| failure.message.clone());
    let (holds, reason, message) = match status.phase {
        BridgePhase::Connected if status.refused.is_empty() => (true, "AsDeclared", format!("connected to {address}")),
        BridgePhase::Connected => {
            let refused: Vec<String> =
                status.refused.iter().map(|(filter, code)| format!("{filter:?} (0x{code:02x})")).collect();
            let message = format!("connected to {address}, which rejects the subscription to {}", refused.join(", "));
            (true, "SubscriptionRefused", message)
        }
        BridgePhase::Disabled => (false, "Disabled", "`enabled: false`".to_owned()),
        BridgePhase::Stopped => (false, "ShuttingDown", String::new()),
        BridgePhase::Connecting | BridgePhase::Waiting => {
            let reason = failure.map_or("Connecting", |failure| match failure.cause {
                FailureCause::Unreachable => "Unreachable",
                FailureCause::Refused => "Refused",
                FailureCause::Lost => "Lost",
                FailureCause::TimedOut => "TimedOut",
                FailureCause::Protocol => "ProtocolError",
                FailureCause::Local => "LocalError",
            });
            (false, reason, message)
        }
    };
    let since = Timestamp::from_unix_ms(now.unix_ms.saturating_sub(status.since_ms));
    let plain = condition("Connected", holds, reason, message, state.generation);
    BridgeCondition { last_transition_time: Some(since), ..plain }
}

/// `here`: messages for the bridge that this broker dropped, by reason.
fn link(status: BridgeStatus, here: [u64; Dropped::ALL.len()]) -> BridgeLink {
    let counters = status.counters;
    let by_link = [
        ("loop", counters.dropped_loop),
        ("no_rule", counters.dropped_no_rule),
        ("refused", counters.refused),
        ("unfit", counters.dropped_unfit),
    ];
    let dropped = Dropped::ALL.iter().map(|reason| (reason.label(), here[*reason as usize])).chain(by_link);
    BridgeLink {
        connected: status.phase == BridgePhase::Connected,
        address: status.address,
        connects: status.connects_total,
        failures: status.failures_total,
        last_error: status.last_failure.map(|failure| failure.message),
        messages_sent: counters.sent,
        messages_received: counters.received,
        messages_dropped: Counts::from_iter(dropped),
        queued_messages: status.queued,
        queued_bytes: status.queued_bytes,
        inflight_messages: status.inflight,
        lag_s: status.lag_ms as f64 / 1000.0,
        refused_filters: status
            .refused
            .into_iter()
            .map(|(filter, reason_code)| RefusedFilter { filter, reason_code })
            .collect(),
    }
}
