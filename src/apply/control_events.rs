//! Events of endpoints and of passes, by comparing each published state with the one before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::events::{Event, EventKind, ReconcileOutcome};
use crate::net::{DataPlane, SocketKey};
use crate::state::{ControlState, EndpointState, HistoryEntry, Outcome, SharedState};
use weir_declare::reconcile::{Condition, ConditionReason, ConditionStatus};

/// Reports events until the task is ended.
pub async fn report_control_events(control: Arc<SharedState>, plane: DataPlane) {
    let mut changes = control.subscribe();
    let mut reported = Reported { sequence: newest(&control.load()), ..Reported::default() };
    loop {
        reported.update(&control.load(), &plane);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// What was reported.
#[derive(Default)]
struct Reported {
    endpoints: BTreeMap<Arc<str>, ReportedEndpoint>,
    /// Of the newest entry of the history; 0: none.
    sequence: u64,
}

#[derive(Default, Clone, PartialEq)]
struct ReportedEndpoint {
    listens_at: Option<SocketKey>,
    rejected: Option<(ConditionReason, String)>,
}

fn newest(state: &ControlState) -> u64 {
    state.history.back().map_or(0, |entry| entry.sequence)
}

impl Reported {
    fn update(&mut self, state: &ControlState, plane: &DataPlane) {
        let at = SystemTime::now();
        let mut before = std::mem::take(&mut self.endpoints);
        for (name, endpoint) in &state.endpoints {
            let was = before.remove(name).unwrap_or_default();
            let is = ReportedEndpoint::of(endpoint);
            report_endpoint(name, &was, &is, at, plane);
            self.endpoints.insert(Arc::clone(name), is);
        }
        for (name, was) in before {
            report_endpoint(&name, &was, &ReportedEndpoint::default(), at, plane);
        }
        for entry in state.history.iter().filter(|entry| entry.sequence > self.sequence) {
            plane.report(EventKind::ReconcileCompleted, || completed(entry));
        }
        self.sequence = newest(state).max(self.sequence);
    }
}

impl ReportedEndpoint {
    fn of(endpoint: &EndpointState) -> Self {
        let rejected = endpoint.conditions.iter().find(|condition| is_rejection(condition));
        Self {
            listens_at: endpoint.live.as_ref().and(endpoint.address.clone()),
            rejected: rejected.map(|condition| (condition.reason, condition.message.clone())),
        }
    }
}

/// Whether a condition says that a declaration cannot be used.
fn is_rejection(condition: &Condition) -> bool {
    let unhealthy = if condition.kind.healthy_when_true() { ConditionStatus::False } else { ConditionStatus::True };
    condition.status == unhealthy
        && matches!(
            condition.reason,
            ConditionReason::Invalid
                | ConditionReason::Unreadable
                | ConditionReason::MissingReference
                | ConditionReason::BadFile
                | ConditionReason::NoStore
                | ConditionReason::AddressInUse
                | ConditionReason::BindFailed
                | ConditionReason::ListenerLost
                | ConditionReason::PortHeld
        )
}

fn report_endpoint(name: &str, was: &ReportedEndpoint, is: &ReportedEndpoint, at: SystemTime, plane: &DataPlane) {
    let endpoint = || name.to_owned();
    match (&was.listens_at, &is.listens_at) {
        (Some(_), None) => {
            plane.report(EventKind::EndpointClosed, || Event::EndpointClosed { at, endpoint: endpoint() })
        }
        (was, Some(key)) if was.as_ref() != Some(key) => plane.report(EventKind::EndpointBound, || {
            let listens_at = match key {
                SocketKey::Tcp(address) => Some(*address),
                SocketKey::Unix(_) => None,
            };
            Event::EndpointBound { at, endpoint: endpoint(), listens_at }
        }),
        _ => {}
    }
    if let Some((reason, message)) = is.rejected.as_ref().filter(|_| was.rejected != is.rejected) {
        plane.report(EventKind::EndpointRejected, || Event::EndpointRejected {
            at,
            endpoint: endpoint(),
            condition: format!("{reason:?}"),
            message: message.clone(),
        });
    }
}

fn completed(entry: &HistoryEntry) -> Event {
    Event::ReconcileCompleted {
        at: UNIX_EPOCH + Duration::from_millis(entry.at.unix_ms),
        revision: entry.revision.clone(),
        outcome: match entry.outcome {
            Outcome::Applied => ReconcileOutcome::Applied,
            Outcome::AppliedWithRefusals => ReconcileOutcome::AppliedWithRefusals,
            Outcome::Refused => ReconcileOutcome::Refused,
        },
        summary: entry.summary.clone(),
    }
}
