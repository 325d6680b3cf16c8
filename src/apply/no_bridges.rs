//! In a build without the feature `bridge`: a declared bridge does not run, and its state says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::files::FileContents;
use super::running::EndpointIds;
use super::spans::PassTrace;
use crate::state::{BridgePlacement, BridgeState};
use weir_declare::config::{Bridge, Declared, Endpoint, Name};
use weir_declare::reconcile::{ActionKind, Bridges, NodeSettings, Plan};

/// Why no bridge runs.
const NOT_BUILT_IN: &str = "this build has no bridges (feature `bridge`)";

/// The bridges of this node: none runs.
#[derive(Default)]
pub struct BridgeManager {
    failing: Vec<Name>,
}

impl BridgeManager {
    pub(super) fn live(&self) -> Bridges {
        Bridges::new()
    }

    pub(super) fn is_failing(&self, name: &Name) -> bool {
        self.failing.contains(name)
    }

    pub(super) fn states(&self, declared: &Declared) -> BTreeMap<String, BridgeState> {
        let state = |(name, bridge): (&Name, &Arc<Bridge>)| {
            let names_it = |endpoint: &&Arc<Endpoint>| endpoint.enable_bridge && endpoint.bridges.contains(name);
            let state = BridgeState {
                origin: format!("{}:{}", bridge.origin.file, bridge.origin.position.line),
                declared: Arc::clone(bridge),
                endpoints: declared.endpoints.values().filter(names_it).map(|e| e.name.to_string()).collect(),
                generation: 0,
                failure: self.failing.contains(name).then(|| NOT_BUILT_IN.to_owned()),
                endpoint: None,
                runner: None,
            };
            (name.to_string(), state)
        };
        declared.bridges.iter().map(state).collect()
    }

    #[cfg(feature = "cluster")]
    pub(super) fn join_cluster(&mut self, _: Arc<str>) {}

    pub(super) fn place(&mut self, _: Arc<BridgePlacement>) -> bool {
        false
    }

    pub(super) async fn pause(&mut self) {}

    pub(super) fn files(_: &Declared, _: &NodeSettings) -> Vec<PathBuf> {
        Vec::new()
    }

    pub(super) fn apply(&mut self, plan: &Plan, _: &str, _: &FileContents, _: &mut EndpointIds, trace: &mut PassTrace) {
        let before = std::mem::take(&mut self.failing);
        for action in plan.bridges.iter().filter(|action| action.kind != ActionKind::Remove) {
            let step = trace.begin_bridge_action(action);
            trace.fail(step, NOT_BUILT_IN);
            trace.end_action(step);
            if !before.contains(&action.name) {
                tracing::error!(bridge = %action.name, "bridge apply failed: {NOT_BUILT_IN}");
            }
            self.failing.push(action.name.clone());
        }
    }
}
