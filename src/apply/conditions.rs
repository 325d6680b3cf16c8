//! The conditions of endpoints.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::declaration::Declaration;
use super::listeners::Listeners;
use super::plane::Plane;
use super::running::{ActionFailure, RunningEndpoint};
use weir_declare::config::{DocumentRefusal, Endpoint, Kind, Name, RefusalReason, SortedCursor};
use weir_declare::reconcile::{
    ActionKind, ConditionReason, ConditionType, Conditions, EndpointAction, NodeSettings, Plan, Timestamp,
};

/// A condition: whether it holds, why, and in words.
type ConditionValue = (bool, ConditionReason, String);

/// What conditions are evaluated from.
pub(super) struct ConditionInputs<'a, P: Plane> {
    pub(super) declaration: &'a Declaration,
    pub(super) listeners: &'a Listeners<P>,
    pub(super) failures: &'a BTreeMap<Name, ActionFailure>,
    pub(super) plan: &'a Plan,
    pub(super) node: &'a NodeSettings,
    /// Errors of files that endpoints refer to.
    pub(super) unreadable: &'a BTreeMap<Name, String>,
}

/// The conditions of every endpoint, declared, running or draining.
#[derive(Default)]
pub(super) struct ConditionTable {
    by_name: BTreeMap<Name, Conditions>,
}

impl ConditionTable {
    /// By endpoint.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Conditions)> {
        self.by_name.iter()
    }

    /// Evaluates every endpoint's conditions.
    pub(super) fn update<P: Plane>(&mut self, inputs: &ConditionInputs<'_, P>, now: Timestamp) {
        let mut updated = Vec::with_capacity(self.by_name.len() + 1);
        let mut before = SortedCursor::over(&self.by_name);
        let mut generations = SortedCursor::over(inputs.listeners.generations());
        inputs.for_each_endpoint(|endpoint| {
            let name = endpoint.name;
            let generation = generations.get(name).copied().unwrap_or_default();
            let mut conditions = before.get(name).cloned().unwrap_or_else(|| Conditions::unknown(now));
            let (holds, reason, message) = inputs.resolved(endpoint);
            let is_logged =
                || conditions.get(ConditionType::ResolvedRefs).is_some_and(|known| known.message == message);
            if inputs.unreadable.get(name).is_some_and(|why| *why == message) && !is_logged() {
                tracing::error!(endpoint = %name, "file read failed: {message}; the former content stays in use");
            }
            conditions.set(ConditionType::ResolvedRefs, holds, reason, message, generation, now);
            for (kind, (holds, reason, message)) in [
                (ConditionType::Accepted, inputs.accepted(endpoint)),
                (ConditionType::Programmed, inputs.programmed(endpoint)),
                (ConditionType::Draining, inputs.draining(name)),
                (ConditionType::Conflicted, conflicted(endpoint)),
            ] {
                conditions.set(kind, holds, reason, message, generation, now);
            }
            updated.push((name.clone(), conditions));
        });
        self.by_name = updated.into_iter().collect();
    }
}

/// An endpoint, and the inputs of its conditions.
struct EndpointInputs<'a> {
    name: &'a Name,
    declared: Option<&'a Arc<Endpoint>>,
    running: Option<&'a RunningEndpoint>,
    action: Option<&'a EndpointAction>,
    refusal: Option<&'a DocumentRefusal>,
}

impl<P: Plane> ConditionInputs<'_, P> {
    /// Calls `evaluate` for every endpoint that has conditions, by name.
    fn for_each_endpoint<'a>(&'a self, mut evaluate: impl FnMut(&EndpointInputs<'a>)) {
        let refused = || self.declaration.refusals().iter().filter(|(identity, _)| identity.kind == Kind::Endpoint);
        let applied = self.declaration.applied();
        let mut names: Vec<&Name> = applied.endpoints.keys().chain(self.listeners.running().keys()).collect();
        names.extend(self.listeners.drains().closed().map(|(name, _)| name));
        names.extend(refused().map(|(identity, _)| &identity.name));
        names.sort();
        names.dedup();
        let mut declared = SortedCursor::over(&applied.endpoints);
        let mut running = SortedCursor::over(self.listeners.running());
        let mut actions = SortedCursor::new(self.plan.actions.iter().map(|action| (&action.name, action)));
        let mut refusals = SortedCursor::new(refused().map(|(identity, refusal)| (&identity.name, refusal)));
        for name in names {
            evaluate(&EndpointInputs {
                name,
                declared: declared.get(name),
                running: running.get(name),
                action: actions.get(name),
                refusal: refusals.get(name),
            });
        }
    }

    fn accepted(&self, endpoint: &EndpointInputs<'_>) -> ConditionValue {
        if let Some(refusal) = endpoint.refusal {
            let reason = match refusal.reason {
                RefusalReason::Unreadable => ConditionReason::Unreadable,
                RefusalReason::Conflicted { .. } => ConditionReason::PortHeld,
                RefusalReason::StillReferenced | RefusalReason::Invalid | RefusalReason::Unparsable => {
                    ConditionReason::Invalid
                }
            };
            let held = if refusal.held { " (its last good declaration stays applied)" } else { "" };
            return (false, reason, format!("{}{held}", refusal.message));
        }
        if let Some((reason, why)) = self.declaration.held_endpoint(endpoint.name) {
            return (false, reason, why);
        }
        if endpoint.declared.is_some() {
            return (true, ConditionReason::AsDeclared, String::new());
        }
        (false, ConditionReason::Removed, "its document was deleted".to_owned())
    }

    fn resolved(&self, endpoint: &EndpointInputs<'_>) -> ConditionValue {
        let is_reference = |reason| matches!(reason, ConditionReason::BadFile | ConditionReason::MissingReference);
        if let Some(failure) = self.failures.get(endpoint.name).filter(|failure| is_reference(failure.reason)) {
            return (false, failure.reason, failure.message.clone());
        }
        if let Some(message) = self.unreadable.get(endpoint.name) {
            return (false, ConditionReason::BadFile, message.clone());
        }
        match endpoint.declared {
            // An endpoint that does not run on this node refuses no client.
            Some(declared) if declared.enabled && self.node.holds(declared) => {
                let held = self.declaration.held_document(declared).map(|(reason, why)| (false, reason, why));
                held.unwrap_or_else(|| self.missing_document(declared))
            }
            Some(_) | None => (true, ConditionReason::AsDeclared, String::new()),
        }
    }

    fn missing_document(&self, endpoint: &Endpoint) -> ConditionValue {
        let applied = self.declaration.applied();
        if endpoint.enable_auth && !applied.auths.contains_key(endpoint.auth_name()) {
            let message = format!("no auth document named `{}`: every CONNECT is refused", endpoint.auth_name());
            return (false, ConditionReason::MissingReference, message);
        }
        if endpoint.enable_acl && !applied.acls.contains_key(endpoint.acl_name()) {
            let message = format!("no acl document named `{}`: every topic is refused", endpoint.acl_name());
            return (false, ConditionReason::MissingReference, message);
        }
        (true, ConditionReason::AsDeclared, String::new())
    }

    fn programmed(&self, endpoint: &EndpointInputs<'_>) -> ConditionValue {
        let running = endpoint.running;
        let listening = running.is_some_and(|running| running.listening);
        let former = if listening { "; the former declaration stays applied" } else { "" };
        if let Some(failure) = self.failures.get(endpoint.name) {
            return (false, failure.reason, format!("{}{former}", failure.message));
        }
        if let Some(action) = endpoint.action {
            if let Some(why) = &action.waits {
                return (false, ConditionReason::DisconnectsHeld, format!("{why}{former}"));
            }
            match action.kind {
                ActionKind::Conflicted => {
                    let note = action.note.clone().unwrap_or_default();
                    return (false, ConditionReason::PortHeld, format!("{note}{former}"));
                }
                ActionKind::Drain | ActionKind::None if running.is_none() => {
                    let enabled = endpoint.declared.is_some_and(|declared| declared.enabled);
                    let reason = if enabled { ConditionReason::NotSelected } else { ConditionReason::Disabled };
                    return (false, reason, action.note.clone().unwrap_or_default());
                }
                _ => {}
            }
        }
        match running {
            Some(running) if listening => {
                (true, ConditionReason::AsDeclared, format!("listening on {}", running.shown_address))
            }
            Some(running) => (false, ConditionReason::ListenerLost, format!("nothing listens on {}", running.address)),
            None if self.declaration.is_suspended() => {
                (false, ConditionReason::Suspended, "reconciliation is suspended".to_owned())
            }
            None if endpoint.declared.is_some() => (false, ConditionReason::Pending, String::new()),
            None => (false, ConditionReason::Removed, "it does not listen".to_owned()),
        }
    }

    fn draining(&self, name: &Name) -> ConditionValue {
        let drains = self.listeners.drains();
        let left = drains.clients_left(name);
        if left > 0 {
            return (true, ConditionReason::Removed, format!("{left} clients are still connected"));
        }
        if drains.is_active(name) {
            return (
                true,
                ConditionReason::AsDeclared,
                "clients that are no longer admitted are being disconnected".to_owned(),
            );
        }
        (false, ConditionReason::AsDeclared, String::new())
    }
}

fn conflicted(endpoint: &EndpointInputs<'_>) -> ConditionValue {
    if let Some(DocumentRefusal { reason: RefusalReason::Conflicted { holder }, message, .. }) = endpoint.refusal {
        return (true, ConditionReason::PortHeld, format!("endpoint {holder} has the address: {message}"));
    }
    match endpoint.action.filter(|action| action.kind == ActionKind::Conflicted) {
        Some(action) => (true, ConditionReason::PortHeld, action.note.clone().unwrap_or_default()),
        None => (false, ConditionReason::AsDeclared, String::new()),
    }
}
