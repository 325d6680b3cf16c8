//! One pass from declared to live: plan, prepare everything, then commit it at once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::bridges::BridgeManager;
use super::files::{FileContents, ReadFiles};
use super::listeners::{Listeners, PreparedActions, needs_preparation};
use super::plane::Plane;
use super::running::{ActionFailure, EndpointIds};
use super::spans::PassTrace;
use crate::net::ListenerStatus;
use crate::telemetry::SpanHandle;
use weir_declare::config::{Declared, EventTopics, Name};
use weir_declare::reconcile::{self, ActionKind, EndpointAction, LiveCluster, LiveState, NodeSettings, Pinned, Plan};

/// The outcome of a pass.
#[derive(Debug, Default)]
pub(super) struct Converged {
    /// The plan, with the actions that wait.
    pub(super) plan: Plan,
    pub(super) failures: BTreeMap<Name, ActionFailure>,
    /// Errors of files that endpoints refer to.
    pub(super) unreadable: BTreeMap<Name, String>,
}

/// The inputs of a pass, and the parts that it changes.
pub(super) struct ConvergePass<'a, P: Plane> {
    pub(super) declared: &'a Declared,
    pub(super) node: &'a NodeSettings,
    pub(super) node_name: &'a str,
    /// There is a store: endpoints may be `durability: disk`.
    pub(super) has_store: bool,
    pub(super) listeners: &'a mut Listeners<P>,
    pub(super) bridges: &'a mut BridgeManager,
    /// The events that are published.
    pub(super) live_events: Option<Arc<EventTopics>>,
    /// The settings of the cluster that held.
    pub(super) live_cluster: LiveCluster,
    pub(super) ids: &'a mut EndpointIds,
    pub(super) trace: &'a mut PassTrace,
}

impl<P: Plane> ConvergePass<'_, P> {
    /// Applies the declaration as far as possible; an action that fails affects its endpoint only.
    pub(super) async fn run(mut self, files: &mut impl ReadFiles) -> Converged {
        self.listeners.drains_mut().remove_drained();
        self.trace.begin_plan();
        let contents = FileContents::read(files, self.referenced().iter());
        self.listeners.apply_revocations(self.declared, &contents).await;
        let statuses = self.listeners.refresh();
        let (plan, failures, prepared) = self.prepare_all(&contents);
        let unreadable = self.unreadable(&contents);
        let mut converged = Converged { plan, failures, unreadable };
        self.commit(&mut converged, prepared, &statuses).await;
        self.listeners.refresh_planned(&converged.plan);
        self.bridges.apply(&converged.plan, self.node_name, &contents, self.ids, self.trace);
        self.trace.end_apply();
        converged
    }

    /// Plans and prepares; an action that cannot be prepared is pinned, and the rest is planned again.
    fn prepare_all(&mut self, contents: &FileContents) -> (Plan, BTreeMap<Name, ActionFailure>, PreparedActions<P>) {
        let live = LiveState {
            endpoints: self.listeners.live().collect(),
            bridges: self.bridges.live(),
            events: self.live_events.clone(),
            cluster: self.live_cluster.clone(),
        };
        let mut pinned = Pinned::new();
        let mut failures = BTreeMap::new();
        let mut prepared = PreparedActions::<P>::new();
        loop {
            let plan = reconcile::plan(self.declared, &live, self.node, &contents.digests, &pinned);
            self.trace.end_plan(&plan);
            prepared.retain(|name, _| plan.is_due(name.as_str()));
            let mut failed = false;
            for action in plan.due().filter(|action| needs_preparation(action)) {
                if prepared.contains_key(&action.name) {
                    continue;
                }
                let step = self.trace.begin_action(action);
                match self.listeners.prepare(action, contents, self.has_store, self.ids, step) {
                    Ok(ready) => drop(prepared.insert(action.name.clone(), ready)),
                    Err(failure) => {
                        self.trace.fail(step, &failure.message);
                        self.trace.end_action(step);
                        failed = true;
                        pinned.insert(action.name.clone(), failure.message.clone());
                        failures.insert(action.name.clone(), failure);
                    }
                }
            }
            if !failed {
                return (plan, failures, prepared);
            }
        }
    }

    /// Files that the declaration refers to.
    fn referenced(&self) -> BTreeSet<PathBuf> {
        let endpoints = self.declared.endpoints.values().filter(|endpoint| self.node.holds(endpoint));
        endpoints
            .flat_map(|endpoint| {
                let auth = endpoint.enable_auth.then(|| self.declared.auths.get(endpoint.auth_name())).flatten();
                reconcile::file_references(endpoint, auth.map(|auth| &**auth))
            })
            .map(|reference| reference.path)
            .chain(self.listeners.references())
            .chain(BridgeManager::files(self.declared, self.node))
            .collect()
    }

    fn unreadable(&self, contents: &FileContents) -> BTreeMap<Name, String> {
        let mut found = BTreeMap::new();
        for (name, endpoint) in self.declared.endpoints.iter().filter(|(_, endpoint)| endpoint.enabled) {
            let auth = endpoint.enable_auth.then(|| self.declared.auths.get(endpoint.auth_name())).flatten();
            for reference in reconcile::file_references(endpoint, auth.map(|auth| &**auth)) {
                if let Some(Err(message)) = contents.digests.get(&reference.path) {
                    found.entry(name.clone()).or_insert_with(|| format!("{}: {message}", reference.path.display()));
                }
            }
        }
        found
    }

    /// Installs all prepared actions between two accepts, then drains connected clients where necessary.
    async fn commit(&mut self, converged: &mut Converged, prepared: PreparedActions<P>, statuses: &[ListenerStatus]) {
        let closes = |action: &&EndpointAction| matches!(action.kind, ActionKind::Remove | ActionKind::Drain);
        let closing: Vec<EndpointAction> = converged.plan.due().filter(closes).cloned().collect();
        let installed = match self.listeners.install(&closing, prepared, statuses).await {
            Ok(installed) => installed,
            Err((failure, refused)) => {
                for (name, new) in refused {
                    self.trace.fail(new.step, &failure.message);
                    converged.failures.insert(name, failure.clone());
                }
                return;
            }
        };
        for action in &closing {
            let step = self.trace.begin_action(action);
            self.listeners.close(action).await;
            self.trace.end_action(step);
        }
        for (name, new) in installed {
            let action = converged.plan.get(name.as_str());
            debug_assert!(action.is_some(), "{name}: installed without an action");
            if let Some(action) = action {
                let step: SpanHandle = new.step;
                self.listeners.activate(action, new).await;
                self.trace.end_action(step);
            }
        }
        for action in converged.plan.due().filter(|action| !needs_preparation(action)) {
            let step = self.trace.begin_action(action);
            self.listeners.note_cosmetic(action);
            self.trace.end_action(step);
        }
    }
}
