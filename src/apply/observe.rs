//! What became of it: conditions, the history's record, the published state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::files::{ReadFiles, hex};
use super::history::{HeldBack, Occasion};
use super::plane::Plane;
use super::reconciler::Reconciler;
use super::state::{ControlState, EndpointState, HistoryAction, HistoryEntry, Outcome, SourceState};
use crate::config::{Endpoint, Identity, Kind, Name, Refusal, RefusalReason};
use crate::reconcile::{ActionKind, ConditionType, Conditions, Effective, Reason, Timestamp, render};

/// A judgement of one condition: whether it holds, why, and in words.
type Judged = (bool, Reason, String);

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// What each endpoint runs by.
    pub(super) fn effects(&self) -> BTreeMap<Name, Effective> {
        self.running.iter().map(|(name, running)| (name.clone(), running.effective.clone())).collect()
    }

    /// What is refused, or waits to be confirmed.
    pub(super) fn held_back(&self) -> BTreeSet<HeldBack> {
        let refused = |endpoint: String, why: String| HeldBack { endpoint, action: "refused", why };
        let documents = self.refusals.iter().map(|(identity, refusal)| {
            let name = match identity.kind {
                Kind::Endpoint => identity.name.to_string(),
                kind if kind.is_single() => kind.to_string(),
                kind => format!("{kind} {}", identity.name),
            };
            refused(name, refusal.message.clone())
        });
        // What declares nothing that is known.
        let nameless = self.diagnostics.iter().filter(|error| error.is_error() && error.identity.is_none());
        let nameless = nameless.map(ToString::to_string);
        let nameless = nameless.filter(|why| !self.refusals.values().any(|refusal| refusal.message == *why));
        let kept = self.kept.iter().map(|(name, why)| (name.to_string(), "remove", why.clone()));
        // How many clients it would disconnect changes all the time.
        let waiting = self.plan.actions.iter().filter(|action| action.waits.is_some());
        let waiting = waiting.filter(|action| !self.failures.contains_key(&action.name)).map(|action| {
            let why = "it would disconnect more clients than reconcile.maxDisconnects allows";
            (action.name.to_string(), action.kind.as_str(), why.to_owned())
        });
        let waiting = kept.chain(waiting).map(|(endpoint, action, why)| HeldBack { endpoint, action, why });
        documents.chain(nameless.map(|why| refused(String::new(), why))).chain(waiting).collect()
    }

    /// Writes the history where something was done, failed anew, or was refused anew.
    pub(super) fn record(&mut self, before: &BTreeMap<Name, Effective>, fresh_failures: bool, now: Timestamp) {
        let plan = Arc::clone(&self.plan);
        let mut done: Vec<HistoryAction> = plan
            .due()
            .map(|action| HistoryAction {
                endpoint: action.name.to_string(),
                action: action.kind.as_str().to_owned(),
                error: self.failures.get(&action.name).map(|failure| failure.message.clone()),
            })
            .collect();
        done.extend(plan.due_bridges().filter(|action| !self.bridges.is_failing(&action.name)).map(|action| {
            HistoryAction {
                endpoint: format!("bridge {}", action.name),
                action: action.kind.as_str().to_owned(),
                error: None,
            }
        }));
        let failed = self.failures.iter().filter(|(name, _)| !plan.is_due(name.as_str()));
        let failed: Vec<HistoryAction> = failed
            .map(|(name, failure)| HistoryAction {
                endpoint: name.to_string(),
                action: plan.get(name.as_str()).map_or("none", |action| action.kind.as_str()).to_owned(),
                error: Some(failure.message.clone()),
            })
            .collect();
        let held_back = self.held_back();
        let refused = self.history.news_of(held_back);
        if done.is_empty() && refused.is_empty() && (!fresh_failures || failed.is_empty()) {
            return;
        }
        let after = self.effects();
        let occasion = Occasion {
            revision: self.source.attempted_revision.clone().unwrap_or_default(),
            commit: self.source.commit.clone(),
            at: now,
            before,
            after: &after,
        };
        let refusals = !self.failures.is_empty() || !self.refusals.is_empty() || !self.kept.is_empty();
        let outcome = match (done.is_empty() && failed.is_empty(), refusals) {
            (true, _) => Outcome::Refused,
            (false, true) => Outcome::AppliedWithRefusals,
            (false, false) => Outcome::Applied,
        };
        let summary = match (outcome, refused.len()) {
            (Outcome::Refused, count) => format!("{count} refused"),
            (_, 0) => render::summary(&plan),
            (_, count) => format!("{}, {count} refused", render::summary(&plan)),
        };
        tracing::info!(revision = occasion.revision, "{summary}");
        let diff = occasion.diff();
        self.history.push(HistoryEntry {
            sequence: 0,
            at: occasion.at,
            revision: occasion.revision,
            commit: occasion.commit,
            outcome,
            summary,
            actions: done.into_iter().chain(failed).chain(refused).collect(),
            diff,
            duration_us: self.last_pass_us,
        });
    }

    /// Judges every endpoint's conditions. `unreadable` names files that could not be read.
    pub(super) fn judge(&mut self, unreadable: &BTreeMap<Name, String>, now: Timestamp) {
        let alive: BTreeSet<_> =
            self.plane.listeners().into_iter().filter(|status| status.alive).map(|status| status.key).collect();
        let mut names: BTreeSet<Name> = self.applied.endpoints.keys().cloned().collect();
        names.extend(self.running.keys().cloned());
        names.extend(self.leaving.iter().map(|leaving| leaving.name.clone()));
        let refused = self.refusals.keys().filter(|identity| identity.kind == Kind::Endpoint);
        names.extend(refused.map(|identity| identity.name.clone()));
        self.conditions.retain(|name, _| names.contains(name));
        for name in names {
            let refusal = self.refusals.get(&Identity::new(Kind::Endpoint, name.clone()));
            let listening = self.running.get(&name).is_some_and(|running| alive.contains(&running.key));
            let judged = [
                (ConditionType::Accepted, self.accepted(&name, refusal)),
                (ConditionType::ResolvedRefs, self.resolved(&name, unreadable)),
                (ConditionType::Programmed, self.programmed(&name, listening)),
                (ConditionType::Draining, self.is_asking_to_leave(&name)),
                (ConditionType::Conflicted, self.conflicted(&name, refusal)),
            ];
            let generation = self.generations.get(&name).copied().unwrap_or_default();
            let shown = name.clone();
            let conditions = self.conditions.entry(name).or_insert_with(|| Conditions::unknown(now));
            for (kind, (holds, reason, message)) in judged {
                let told = conditions.iter().any(|known| known.kind == kind && known.message == message);
                if kind == ConditionType::ResolvedRefs && !told && unreadable.get(&shown) == Some(&message) {
                    tracing::error!(endpoint = %shown, "{message}; what was read before stays in force");
                }
                conditions.set(kind, holds, reason, message, generation, now);
            }
        }
    }

    fn accepted(&self, name: &Name, refusal: Option<&Refusal>) -> Judged {
        if let Some(refusal) = refusal {
            let reason = match refusal.reason {
                RefusalReason::Unreadable => Reason::Unreadable,
                RefusalReason::Conflicted { .. } => Reason::PortHeld,
                RefusalReason::StillReferenced | RefusalReason::Invalid | RefusalReason::Unparsable => Reason::Invalid,
            };
            let held = if refusal.held { " (its last good declaration is in force)" } else { "" };
            return (false, reason, format!("{}{held}", refusal.message));
        }
        if let Some(why) = self.kept.get(name) {
            return (false, Reason::DeletionHeld, why.clone());
        }
        if self.applied.endpoints.contains_key(name) {
            return (true, Reason::AsDeclared, String::new());
        }
        (false, Reason::Removed, "its document was deleted".to_owned())
    }

    fn resolved(&self, name: &Name, unreadable: &BTreeMap<Name, String>) -> Judged {
        if let Some(failure) = self.failures.get(name).filter(|failure| failure.reason == Reason::BadFile) {
            return (false, Reason::BadFile, failure.message.clone());
        }
        if let Some(message) = unreadable.get(name) {
            return (false, Reason::BadFile, message.clone());
        }
        match self.applied.endpoints.get(name) {
            Some(endpoint) => self.missing_document(endpoint),
            None => (true, Reason::AsDeclared, String::new()),
        }
    }

    fn missing_document(&self, endpoint: &Endpoint) -> Judged {
        if endpoint.enable_auth && !self.applied.auths.contains_key(endpoint.auth_name()) {
            let message = format!("there is no auth document `{}`: every CONNECT is refused", endpoint.auth_name());
            return (false, Reason::MissingReference, message);
        }
        if endpoint.enable_acl && !self.applied.acls.contains_key(endpoint.acl_name()) {
            let message = format!("there is no acl document `{}`: every topic is refused", endpoint.acl_name());
            return (false, Reason::MissingReference, message);
        }
        (true, Reason::AsDeclared, String::new())
    }

    fn programmed(&self, name: &Name, listening: bool) -> Judged {
        let running = self.running.get(name);
        let former = if listening { "; it runs by its former declaration" } else { "" };
        if let Some(failure) = self.failures.get(name) {
            return (false, failure.reason, format!("{}{former}", failure.message));
        }
        if let Some(action) = self.plan.get(name.as_str()) {
            if let Some(why) = &action.waits {
                return (false, Reason::DisconnectsHeld, format!("{why}{former}"));
            }
            match action.kind {
                ActionKind::Conflicted => {
                    let note = action.note.clone().unwrap_or_default();
                    return (false, Reason::PortHeld, format!("{note}{former}"));
                }
                ActionKind::Drain | ActionKind::None if running.is_none() => {
                    let enabled = self.applied.endpoints.get(name).is_some_and(|endpoint| endpoint.enabled);
                    let reason = if enabled { Reason::NotSelected } else { Reason::Disabled };
                    return (false, reason, action.note.clone().unwrap_or_default());
                }
                _ => {}
            }
        }
        match running {
            Some(running) if listening => (true, Reason::AsDeclared, format!("listening on {}", running.address)),
            Some(running) => (false, Reason::ListenerLost, format!("nothing listens on {}", running.address)),
            None if self.suspended => (false, Reason::Suspended, "reconciliation is suspended".to_owned()),
            None if self.applied.endpoints.contains_key(name) => (false, Reason::Pending, String::new()),
            None => (false, Reason::Removed, "it does not listen".to_owned()),
        }
    }

    fn is_asking_to_leave(&self, name: &Name) -> Judged {
        let left: u32 =
            self.leaving.iter().filter(|gone| gone.name == *name).map(|gone| self.plane.connections(gone.id)).sum();
        if left > 0 {
            return (true, Reason::Removed, format!("{left} clients have yet to leave"));
        }
        if self.draining.contains_key(name) {
            return (true, Reason::AsDeclared, "clients that are no longer admitted are asked to leave".to_owned());
        }
        (false, Reason::AsDeclared, String::new())
    }

    fn conflicted(&self, name: &Name, refusal: Option<&Refusal>) -> Judged {
        if let Some(Refusal { reason: RefusalReason::Conflicted { holder }, message, .. }) = refusal {
            return (true, Reason::PortHeld, format!("endpoint {holder} has the address: {message}"));
        }
        match self.plan.get(name.as_str()).filter(|action| action.kind == ActionKind::Conflicted) {
            Some(action) => (true, Reason::PortHeld, action.note.clone().unwrap_or_default()),
            None => (false, Reason::AsDeclared, String::new()),
        }
    }

    /// Publishes what is known now.
    pub(super) fn observe(&mut self) {
        let endpoints = self.conditions.iter().map(|(name, conditions)| {
            let declared = self.applied.endpoints.get(name).cloned();
            let running = self.running.get(name);
            let live = running.map(|running| Arc::clone(&running.effective.endpoint));
            let origin = declared.as_ref().or(live.as_ref()).map(|endpoint| &endpoint.origin);
            let origin = origin.map(|origin| format!("{}:{}", origin.file, origin.position.line));
            let leaving = self.leaving.iter().rev().find(|leaving| leaving.name == *name).map(|leaving| leaving.id);
            let state = EndpointState {
                id: running.map(|running| running.id).or(leaving),
                generation: self.generations.get(name).copied().unwrap_or_default(),
                origin: origin.unwrap_or_default(),
                declared,
                live,
                conditions: conditions.clone(),
                pending: self.pending(name),
                certificate_expires_at: running.and_then(|running| running.certificate_expires_at),
            };
            (name.to_string(), state)
        });
        let state = ControlState {
            node_name: self.options.node_name.clone(),
            started_at: self.started_at,
            phase: self.phase,
            suspended: self.suspended,
            source: SourceState { incidents: self.incidents.counts(), ..self.source.clone() },
            declaration_digest: self.declaration_digest.clone(),
            live_digest: self.live_digest(),
            declared: Arc::clone(&self.applied),
            diagnostics: Arc::clone(&self.diagnostics),
            endpoints: endpoints.collect(),
            bridges: self.bridges.states(&self.applied),
            plan: Arc::clone(&self.plan),
            history: self.history.entries(),
            passes: self.passes,
            last_pass_us: self.last_pass_us,
            pass_durations: self.pass_durations,
        };
        self.shared.publish(state);
    }

    /// What the plan has for an endpoint that was not done.
    fn pending(&self, name: &Name) -> Option<String> {
        let action = self.plan.get(name.as_str())?;
        let why = action.waits.as_ref().or(action.note.as_ref());
        let open = action.waits.is_some() || action.kind == ActionKind::Conflicted;
        open.then(|| format!("{}: {}", action.kind.as_str(), why.map_or("", |why| why)))
    }

    fn live_digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"weir live v1\n");
        for (name, running) in &self.running {
            hash.update(format!("{name} {} {}\n", running.address, running.digest));
        }
        format!("v1-{}", hex(&hash.finalize()))
    }
}
