//! What became of it: conditions, the history's record, the published state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::files::{ReadFiles, hex};
use super::held::is_edit;
use super::history::HeldBack;
use super::plane::Plane;
use super::reconciler::{Reconciler, Running};
use crate::state::{ControlState, EndpointState, HistoryAction, HistoryEntry, Outcome, SourceState};
use weir_broker::EndpointId;
use weir_declare::config::{Endpoint, Identity, Kind, Name, Refusal, RefusalReason, SortedCursor};
use weir_declare::reconcile::{Action, ActionKind, ConditionType, Conditions, Reason, Timestamp, render};

/// A judgement of one condition: whether it holds, why, and in words.
type Judged = (bool, Reason, String);

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// What is refused, or waits to be confirmed.
    pub(super) fn held_back(&self) -> BTreeSet<HeldBack> {
        let refused = |endpoint: String, why: String| HeldBack { endpoint, action: "refused", why };
        let documents =
            self.refusals.iter().map(|(identity, refusal)| refused(subject_of(identity), refusal.message.clone()));
        // What declares nothing that is known.
        let nameless = self.diagnostics.iter().filter(|error| error.is_error() && error.identity.is_none());
        let nameless = nameless.map(ToString::to_string);
        let nameless = nameless.filter(|why| !self.refusals.values().any(|refusal| refusal.message == *why));
        let held = self.held.iter().map(|(identity, held)| {
            (subject_of(identity), if is_edit(identity, held) { "update" } else { "remove" }, held.why.clone())
        });
        // How many clients it would disconnect changes all the time.
        let waiting = self.plan.actions.iter().filter(|action| action.waits.is_some());
        let waiting = waiting.filter(|action| !self.failures.contains_key(&action.name)).map(|action| {
            let why = "it would disconnect more clients than reconcile.maxDisconnects allows";
            (action.name.to_string(), action.kind.as_str(), why.to_owned())
        });
        let waiting = held.chain(waiting).map(|(endpoint, action, why)| HeldBack { endpoint, action, why });
        documents.chain(nameless.map(|why| refused(String::new(), why))).chain(waiting).collect()
    }

    /// Writes the history where documents changed, or something was done, failed anew, or was refused anew.
    pub(super) fn record(&mut self, fresh_failures: bool, now: Timestamp) {
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
        let diff = self.history.diff_to(&self.applied);
        if done.is_empty() && diff.is_empty() && refused.is_empty() && (!fresh_failures || failed.is_empty()) {
            return;
        }
        let refusals = !self.failures.is_empty() || !self.refusals.is_empty() || !self.held.is_empty();
        let outcome = match (done.is_empty() && diff.is_empty() && failed.is_empty(), refusals) {
            (true, _) => Outcome::Refused,
            (false, true) => Outcome::AppliedWithRefusals,
            (false, false) => Outcome::Applied,
        };
        let summary = match (outcome, refused.len()) {
            (Outcome::Refused, count) => format!("{count} refused"),
            (_, 0) if plan.is_empty() && failed.is_empty() => "documents changed; nothing to do".to_owned(),
            (_, 0) => render::summary(&plan),
            (_, count) => format!("{}, {count} refused", render::summary(&plan)),
        };
        // Before the source was read, the last known good is what is served.
        let known = self.source.attempted_revision.as_ref().or(self.restored.as_ref().map(|known| &known.revision));
        let revision = known.cloned().unwrap_or_default();
        tracing::info!(revision, "{summary}");
        self.history.push(HistoryEntry {
            sequence: 0,
            at: now,
            revision,
            commit: self.source.commit.clone(),
            outcome,
            summary,
            actions: done.into_iter().chain(failed).chain(refused).collect(),
            diff,
            duration_us: self.last_pass_us,
        });
    }

    /// Judges every endpoint's conditions. `unreadable` names files that could not be read.
    pub(super) fn judge(&mut self, unreadable: &BTreeMap<Name, String>, now: Timestamp) {
        let mut judged = Vec::with_capacity(self.conditions.len() + 1);
        let mut before = SortedCursor::over(&self.conditions);
        let mut generations = SortedCursor::over(&self.generations);
        self.each_subject(|subject| {
            let name = subject.name;
            let generation = generations.get(name).copied().unwrap_or_default();
            let mut conditions = before.get(name).cloned().unwrap_or_else(|| Conditions::unknown(now));
            let (holds, reason, message) = self.resolved(subject, unreadable);
            let told = || conditions.get(ConditionType::ResolvedRefs).is_some_and(|known| known.message == message);
            if unreadable.get(name).is_some_and(|why| *why == message) && !told() {
                tracing::error!(endpoint = %name, "{message}; what was read before stays in force");
            }
            conditions.set(ConditionType::ResolvedRefs, holds, reason, message, generation, now);
            for (kind, (holds, reason, message)) in [
                (ConditionType::Accepted, self.accepted(subject)),
                (ConditionType::Programmed, self.programmed(subject)),
                (ConditionType::Draining, self.is_asking_to_leave(name)),
                (ConditionType::Conflicted, conflicted(subject)),
            ] {
                conditions.set(kind, holds, reason, message, generation, now);
            }
            judged.push((name.clone(), conditions));
        });
        self.conditions = judged.into_iter().collect();
    }

    /// Everything that there is something to say of, by name.
    fn each_subject<'a>(&'a self, mut say: impl FnMut(&Subject<'a>)) {
        let refused = || self.refusals.iter().filter(|(identity, _)| identity.kind == Kind::Endpoint);
        let mut names: Vec<&Name> = self.applied.endpoints.keys().chain(self.running.keys()).collect();
        names.extend(self.leaving.iter().map(|leaving| &leaving.name));
        names.extend(refused().map(|(identity, _)| &identity.name));
        names.sort();
        names.dedup();
        let mut declared = SortedCursor::over(&self.applied.endpoints);
        let mut running = SortedCursor::over(&self.running);
        let mut actions = SortedCursor::new(self.plan.actions.iter().map(|action| (&action.name, action)));
        let mut refusals = SortedCursor::new(refused().map(|(identity, refusal)| (&identity.name, refusal)));
        for name in names {
            say(&Subject {
                name,
                declared: declared.get(name),
                running: running.get(name),
                action: actions.get(name),
                refusal: refusals.get(name),
            });
        }
    }

    fn accepted(&self, subject: &Subject<'_>) -> Judged {
        if let Some(refusal) = subject.refusal {
            let reason = match refusal.reason {
                RefusalReason::Unreadable => Reason::Unreadable,
                RefusalReason::Conflicted { .. } => Reason::PortHeld,
                RefusalReason::StillReferenced | RefusalReason::Invalid | RefusalReason::Unparsable => Reason::Invalid,
            };
            let held = if refusal.held { " (its last good declaration is in force)" } else { "" };
            return (false, reason, format!("{}{held}", refusal.message));
        }
        if let Some((reason, why)) = self.held_endpoint(subject.name) {
            return (false, reason, why);
        }
        if subject.declared.is_some() {
            return (true, Reason::AsDeclared, String::new());
        }
        (false, Reason::Removed, "its document was deleted".to_owned())
    }

    fn resolved(&self, subject: &Subject<'_>, unreadable: &BTreeMap<Name, String>) -> Judged {
        if let Some(failure) = self.failures.get(subject.name).filter(|failure| failure.reason == Reason::BadFile) {
            return (false, Reason::BadFile, failure.message.clone());
        }
        if let Some(message) = unreadable.get(subject.name) {
            return (false, Reason::BadFile, message.clone());
        }
        match subject.declared {
            // What runs nowhere here refuses nobody.
            Some(endpoint) if endpoint.enabled && self.options.node.holds(endpoint) => {
                let held = self.held_document(endpoint).map(|(reason, why)| (false, reason, why));
                held.unwrap_or_else(|| self.missing_document(endpoint))
            }
            Some(_) | None => (true, Reason::AsDeclared, String::new()),
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

    fn programmed(&self, subject: &Subject<'_>) -> Judged {
        let running = subject.running;
        let listening = running.is_some_and(|running| running.listening);
        let former = if listening { "; it runs by its former declaration" } else { "" };
        if let Some(failure) = self.failures.get(subject.name) {
            return (false, failure.reason, format!("{}{former}", failure.message));
        }
        if let Some(action) = subject.action {
            if let Some(why) = &action.waits {
                return (false, Reason::DisconnectsHeld, format!("{why}{former}"));
            }
            match action.kind {
                ActionKind::Conflicted => {
                    let note = action.note.clone().unwrap_or_default();
                    return (false, Reason::PortHeld, format!("{note}{former}"));
                }
                ActionKind::Drain | ActionKind::None if running.is_none() => {
                    let enabled = subject.declared.is_some_and(|endpoint| endpoint.enabled);
                    let reason = if enabled { Reason::NotSelected } else { Reason::Disabled };
                    return (false, reason, action.note.clone().unwrap_or_default());
                }
                _ => {}
            }
        }
        match running {
            Some(running) if listening => (true, Reason::AsDeclared, format!("listening on {}", running.shown_address)),
            Some(running) => (false, Reason::ListenerLost, format!("nothing listens on {}", running.address)),
            None if self.suspended => (false, Reason::Suspended, "reconciliation is suspended".to_owned()),
            None if subject.declared.is_some() => (false, Reason::Pending, String::new()),
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

    /// Publishes what is known now.
    pub(super) fn observe(&mut self) {
        let endpoints = self.endpoint_states();
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
            endpoints,
            bridges: self.bridges.states(&self.applied),
            plan: Arc::clone(&self.plan),
            history: self.history.entries(),
            passes: self.passes,
            last_pass_us: self.last_pass_us,
            pass_durations: self.pass_durations,
        };
        self.shared.publish(state);
    }

    /// Every endpoint's state; what was published before, where nothing differs.
    fn endpoint_states(&self) -> BTreeMap<Arc<str>, Arc<EndpointState>> {
        let published = self.shared.load();
        let mut before = SortedCursor::over(&published.endpoints);
        let mut declared = SortedCursor::over(&self.applied.endpoints);
        let mut running = SortedCursor::over(&self.running);
        let mut generations = SortedCursor::over(&self.generations);
        let mut actions = SortedCursor::new(self.plan.actions.iter().map(|action| (&action.name, action)));
        let states = self.conditions.iter().map(|(name, conditions)| {
            let running = running.get(name);
            let leaving = || self.leaving.iter().rev().find(|leaving| leaving.name == *name).map(|leaving| leaving.id);
            let facts = Facts {
                id: running.map(|running| running.id).or_else(leaving),
                generation: generations.get(name).copied().unwrap_or_default(),
                declared: declared.get(name),
                live: running.map(|running| &running.effective.endpoint),
                conditions,
                pending: actions.get(name).and_then(pending),
                certificate_expires_at: running.and_then(|running| running.certificate_expires_at),
            };
            let name = name.to_arc();
            let state = match before.get(&name) {
                Some(known) if facts.are_of(known) => Arc::clone(known),
                _ => Arc::new(facts.into_state()),
            };
            (name, state)
        });
        states.collect()
    }

    fn live_digest(&self) -> String {
        let mut hash = Sha256::new();
        hash.update(b"weir live v1\n");
        for (name, running) in &self.running {
            for part in [name.as_str(), " ", &running.shown_address, " ", &running.digest, "\n"] {
                hash.update(part);
            }
        }
        format!("v1-{}", hex(&hash.finalize()))
    }
}

/// What the history calls a document: an endpoint by its name alone.
fn subject_of(identity: &Identity) -> String {
    match identity.kind {
        Kind::Endpoint => identity.name.to_string(),
        kind if kind.is_single() => kind.to_string(),
        kind => format!("{kind} {}", identity.name),
    }
}

/// An endpoint, and what its conditions are judged by.
struct Subject<'a> {
    name: &'a Name,
    declared: Option<&'a Arc<Endpoint>>,
    running: Option<&'a Running>,
    action: Option<&'a Action>,
    refusal: Option<&'a Refusal>,
}

fn conflicted(subject: &Subject<'_>) -> Judged {
    if let Some(Refusal { reason: RefusalReason::Conflicted { holder }, message, .. }) = subject.refusal {
        return (true, Reason::PortHeld, format!("endpoint {holder} has the address: {message}"));
    }
    match subject.action.filter(|action| action.kind == ActionKind::Conflicted) {
        Some(action) => (true, Reason::PortHeld, action.note.clone().unwrap_or_default()),
        None => (false, Reason::AsDeclared, String::new()),
    }
}

/// What the plan has for an endpoint that was not done.
fn pending(action: &Action) -> Option<String> {
    let why = action.waits.as_ref().or(action.note.as_ref());
    let open = action.waits.is_some() || action.kind == ActionKind::Conflicted;
    open.then(|| format!("{}: {}", action.kind.as_str(), why.map_or("", |why| why)))
}

/// What an [`EndpointState`] is made of.
struct Facts<'a> {
    id: Option<EndpointId>,
    generation: u64,
    declared: Option<&'a Arc<Endpoint>>,
    live: Option<&'a Arc<Endpoint>>,
    conditions: &'a Conditions,
    pending: Option<String>,
    certificate_expires_at: Option<Timestamp>,
}

impl Facts<'_> {
    /// Whether `state` says the same; declarations are known by address.
    fn are_of(&self, state: &EndpointState) -> bool {
        let is = |fact: Option<&Arc<Endpoint>>, known: &Option<Arc<Endpoint>>| match (fact, known) {
            (Some(fact), Some(known)) => Arc::ptr_eq(fact, known),
            (None, None) => true,
            _ => false,
        };
        self.id == state.id
            && self.generation == state.generation
            && is(self.declared, &state.declared)
            && is(self.live, &state.live)
            && self.conditions.is_same(&state.conditions)
            && self.pending == state.pending
            && self.certificate_expires_at == state.certificate_expires_at
    }

    fn into_state(self) -> EndpointState {
        let origin = self.declared.or(self.live).map(|endpoint| &endpoint.origin);
        EndpointState {
            id: self.id,
            generation: self.generation,
            origin: origin.map(|origin| format!("{}:{}", origin.file, origin.position.line)).unwrap_or_default(),
            declared: self.declared.cloned(),
            live: self.live.cloned(),
            conditions: self.conditions.clone(),
            pending: self.pending,
            certificate_expires_at: self.certificate_expires_at,
        }
    }
}
