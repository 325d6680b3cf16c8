//! The entry of the history for a pass.

use std::collections::{BTreeMap, BTreeSet};

use super::bridges::BridgeManager;
use super::declaration::{Declaration, is_edit};
use super::history::{BlockedChange, History};
use super::running::ActionFailure;
use super::source_tracker::SourceTracker;
use crate::state::{HistoryAction, HistoryEntry, Outcome};
use weir_declare::config::{DocumentIdentity, Kind, Name};
use weir_declare::reconcile::{Plan, Timestamp, render};

/// A pass, as far as the history is concerned.
pub(super) struct PassRecord<'a> {
    pub(super) plan: &'a Plan,
    pub(super) failures: &'a BTreeMap<Name, ActionFailure>,
    pub(super) declaration: &'a Declaration,
    pub(super) source: &'a SourceTracker,
    pub(super) bridges: &'a BridgeManager,
    /// There are failures that the last pass did not have.
    pub(super) fresh_failures: bool,
    pub(super) duration_us: u64,
    pub(super) now: Timestamp,
}

impl PassRecord<'_> {
    /// Changes that are refused, or that wait for a confirmation.
    pub(super) fn blocked_changes(&self) -> BTreeSet<BlockedChange> {
        let refused = |endpoint: String, why: String| BlockedChange { endpoint, action: "refused", why };
        let refusals = self.declaration.refusals();
        let documents =
            refusals.iter().map(|(identity, refusal)| refused(subject_of(identity), refusal.message.clone()));
        // Errors of documents whose identity is unknown.
        let nameless = self.source.errors().filter(|error| error.identity.is_none());
        let nameless = nameless.map(ToString::to_string);
        let nameless = nameless.filter(|why| !refusals.values().any(|refusal| refusal.message == *why));
        let held = self.declaration.held().iter().map(|(identity, held)| {
            (subject_of(identity), if is_edit(identity, held) { "update" } else { "remove" }, held.why.clone())
        });
        // The message leaves out the number of clients, which changes all the time.
        let waiting = self.plan.actions.iter().filter(|action| action.waits.is_some());
        let waiting = waiting.filter(|action| !self.failures.contains_key(&action.name)).map(|action| {
            let why = "it would disconnect more clients than reconcile.maxDisconnects allows";
            (action.name.to_string(), action.kind.as_str(), why.to_owned())
        });
        let waiting = held.chain(waiting).map(|(endpoint, action, why)| BlockedChange { endpoint, action, why });
        documents.chain(nameless.map(|why| refused(String::new(), why))).chain(waiting).collect()
    }

    /// Adds an entry to the history where documents changed, an action was done, or a failure or a refusal is new.
    pub(super) fn add_to(&self, history: &mut History) {
        let plan = self.plan;
        let done = self.done();
        let failed = self.failed_before_plan();
        let refused = history.newly_blocked(self.blocked_changes());
        let diff = history.diff_to(self.declaration.applied());
        if done.is_empty() && diff.is_empty() && refused.is_empty() && (!self.fresh_failures || failed.is_empty()) {
            return;
        }
        let refusals =
            !self.failures.is_empty() || !self.declaration.refusals().is_empty() || !self.declaration.held().is_empty();
        let outcome = match (done.is_empty() && diff.is_empty() && failed.is_empty(), refusals) {
            (true, _) => Outcome::Refused,
            (false, true) => Outcome::AppliedWithRefusals,
            (false, false) => Outcome::Applied,
        };
        let summary = match (outcome, refused.len()) {
            (Outcome::Refused, count) => format!("{count} refused"),
            (_, 0) if plan.is_empty() && failed.is_empty() => "documents changed; nothing to do".to_owned(),
            (_, 0) => render::summary(plan),
            (_, count) => format!("{}, {count} refused", render::summary(plan)),
        };
        // Before the first reading, the last known good declaration is served.
        let source = self.source.state();
        let known = source.attempted_revision.as_ref().or(self.declaration.restored_revision());
        let revision = known.cloned().unwrap_or_default();
        tracing::info!(revision, "reconcile pass: {summary}");
        history.push(HistoryEntry {
            sequence: 0,
            at: self.now,
            revision,
            commit: source.commit.clone(),
            outcome,
            summary,
            actions: done.into_iter().chain(failed).chain(refused).collect(),
            diff,
            duration_us: self.duration_us,
        });
    }

    /// The actions of the plan, with their errors.
    fn done(&self) -> Vec<HistoryAction> {
        let endpoints = self.plan.due().map(|action| HistoryAction {
            endpoint: action.name.to_string(),
            action: action.kind.as_str().to_owned(),
            error: self.failures.get(&action.name).map(|failure| failure.message.clone()),
        });
        let bridges = self.plan.due_bridges().filter(|action| !self.bridges.is_failing(&action.name));
        let bridges = bridges.map(|action| HistoryAction {
            endpoint: format!("bridge {}", action.name),
            action: action.kind.as_str().to_owned(),
            error: None,
        });
        let events = self.plan.events.iter().map(|action| HistoryAction {
            endpoint: "events".to_owned(),
            action: action.kind.as_str().to_owned(),
            error: None,
        });
        let cluster = self.plan.cluster.iter().map(|action| HistoryAction {
            endpoint: "cluster".to_owned(),
            action: action.kind.as_str().to_owned(),
            error: None,
        });
        endpoints.chain(bridges).chain(events).chain(cluster).collect()
    }

    /// Actions that failed in their preparation and so are not due in the final plan.
    fn failed_before_plan(&self) -> Vec<HistoryAction> {
        let failed = self.failures.iter().filter(|(name, _)| !self.plan.is_due(name.as_str()));
        let action = |name: &Name| self.plan.get(name.as_str()).map_or("none", |action| action.kind.as_str());
        failed
            .map(|(name, failure)| HistoryAction {
                endpoint: name.to_string(),
                action: action(name).to_owned(),
                error: Some(failure.message.clone()),
            })
            .collect()
    }
}

/// The name of a document in the history: an endpoint by its name alone.
fn subject_of(identity: &DocumentIdentity) -> String {
    match identity.kind {
        Kind::Endpoint => identity.name.to_string(),
        kind if kind.is_single() => kind.to_string(),
        kind => format!("{kind} {}", identity.name),
    }
}
