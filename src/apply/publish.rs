//! The published state: assembled from the parts after every pass.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bridges::BridgeManager;
use super::cluster_document::ClusterDocument;
use super::conditions::ConditionTable;
use super::declaration::Declaration;
use super::history::History;
use super::listeners::Listeners;
use super::plane::Plane;
use super::source_tracker::SourceTracker;
use crate::net::SocketKey;
use crate::state::{ControlState, EndpointState, PassDurations, Phase, SharedState};
use weir_broker::EndpointId;
use weir_declare::config::{Endpoint, SortedCursor};
use weir_declare::reconcile::{ActionKind, Conditions, EndpointAction, Plan, Timestamp};

/// How many passes there were, and how long they took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct PassStats {
    count: u64,
    last_us: u64,
    durations: PassDurations,
}

impl PassStats {
    /// Counts a pass.
    pub(super) fn record(&mut self, duration: std::time::Duration) {
        self.count += 1;
        self.last_us = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.durations.observe(self.last_us);
    }

    /// The duration of the last pass.
    pub(super) fn last_us(&self) -> u64 {
        self.last_us
    }
}

/// Publishes the state of this node.
pub(super) struct Publisher {
    shared: Arc<SharedState>,
    node_name: String,
    started_at: Timestamp,
    phase: Phase,
}

/// The parts that the state is assembled from.
pub(super) struct PublishInputs<'a, P: Plane> {
    pub(super) source: &'a SourceTracker,
    pub(super) declaration: &'a Declaration,
    pub(super) listeners: &'a Listeners<P>,
    pub(super) bridges: &'a BridgeManager,
    pub(super) cluster: &'a ClusterDocument,
    pub(super) conditions: &'a ConditionTable,
    pub(super) history: &'a History,
    pub(super) plan: &'a Arc<Plan>,
    pub(super) passes: PassStats,
}

impl Publisher {
    /// Publishes that the node starts.
    pub(super) fn new(node_name: String, source: &SourceTracker, now: Timestamp) -> Self {
        let first = ControlState::starting(node_name.clone(), now, source.state().clone());
        Self { shared: Arc::new(SharedState::new(first)), node_name, started_at: now, phase: Phase::Starting }
    }

    /// The published state.
    pub(super) fn shared(&self) -> Arc<SharedState> {
        Arc::clone(&self.shared)
    }

    /// A declaration is applied.
    pub(super) fn set_serving(&mut self) {
        if self.phase == Phase::Starting {
            self.phase = Phase::Serving;
        }
    }

    /// The broker shuts down.
    pub(super) fn set_draining(&mut self) {
        self.phase = Phase::Draining;
    }

    /// Publishes the current state.
    pub(super) fn publish<P: Plane>(&self, parts: &PublishInputs<'_, P>) {
        self.shared.publish(ControlState {
            node_name: self.node_name.clone(),
            started_at: self.started_at,
            phase: self.phase,
            suspended: parts.declaration.is_suspended(),
            source: parts.source.published(),
            declaration_digest: parts.declaration.digest().to_owned(),
            live_digest: parts.listeners.digest(),
            declared: Arc::clone(parts.declaration.applied()),
            diagnostics: Arc::clone(parts.source.diagnostics()),
            endpoints: self.endpoints(parts),
            bridges: parts.bridges.states(parts.declaration.applied()),
            cluster_document: parts.cluster.conditions().cloned(),
            plan: Arc::clone(parts.plan),
            history: parts.history.entries(),
            passes: parts.passes.count,
            last_pass_us: parts.passes.last_us,
            pass_durations: parts.passes.durations,
        });
    }

    /// Every endpoint's state; the published value is reused where nothing differs.
    fn endpoints<P: Plane>(&self, parts: &PublishInputs<'_, P>) -> BTreeMap<Arc<str>, Arc<EndpointState>> {
        let published = self.shared.load();
        let mut before = SortedCursor::over(&published.endpoints);
        let mut declared = SortedCursor::over(&parts.declaration.applied().endpoints);
        let mut running = SortedCursor::over(parts.listeners.running());
        let mut generations = SortedCursor::over(parts.listeners.generations());
        let mut actions = SortedCursor::new(parts.plan.actions.iter().map(|action| (&action.name, action)));
        let drains = parts.listeners.drains();
        let states = parts.conditions.iter().map(|(name, conditions)| {
            let running = running.get(name);
            let closed = || drains.closed().rev().find(|(closed, _)| *closed == name).map(|(_, id)| id);
            let facts = PublishFacts {
                id: running.map(|running| running.id).or_else(closed),
                generation: generations.get(name).copied().unwrap_or_default(),
                declared: declared.get(name),
                live: running.map(|running| &running.effective.endpoint),
                address: running.map(|running| &running.key),
                conditions,
                pending: actions.get(name).and_then(pending),
                certificate_expires_at: running.and_then(|running| running.certificate_expires_at),
            };
            let name = name.to_arc();
            let state = match before.get(&name) {
                Some(known) if facts.are_of(known) => Arc::clone(known),
                known => Arc::new(facts.into_state(known.map(|known| &*known.origin))),
            };
            (name, state)
        });
        states.collect()
    }
}

/// The planned action of an endpoint that was not done.
fn pending(action: &EndpointAction) -> Option<String> {
    let why = action.waits.as_ref().or(action.note.as_ref());
    let open = action.waits.is_some() || action.kind == ActionKind::Conflicted;
    open.then(|| format!("{}: {}", action.kind.as_str(), why.map_or("", |why| why)))
}

/// The inputs of an [`EndpointState`].
struct PublishFacts<'a> {
    id: Option<EndpointId>,
    generation: u64,
    declared: Option<&'a Arc<Endpoint>>,
    live: Option<&'a Arc<Endpoint>>,
    address: Option<&'a SocketKey>,
    conditions: &'a Conditions,
    pending: Option<String>,
    certificate_expires_at: Option<Timestamp>,
}

impl PublishFacts<'_> {
    /// Whether `state` is equal; declarations are compared by address.
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
            && self.address == state.address.as_ref()
            && self.conditions.is_same(&state.conditions)
            && self.pending == state.pending
            && self.certificate_expires_at == state.certificate_expires_at
    }

    /// `former`: where the document was, for an endpoint that was removed.
    fn into_state(self, former: Option<&str>) -> EndpointState {
        let origin = self.declared.or(self.live).map(|endpoint| &endpoint.origin);
        let origin = origin.map(|origin| format!("{}:{}", origin.file, origin.position.line));
        EndpointState {
            id: self.id,
            generation: self.generation,
            origin: origin.or_else(|| former.map(ToOwned::to_owned)).unwrap_or_default(),
            declared: self.declared.cloned(),
            live: self.live.cloned(),
            address: self.address.cloned(),
            conditions: self.conditions.clone(),
            pending: self.pending,
            certificate_expires_at: self.certificate_expires_at,
        }
    }
}
