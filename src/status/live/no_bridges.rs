//! In a build without the feature `bridge`: declared bridges, none of which runs.

use crate::net::DataPlane;
use crate::state::{BridgeState, ControlState};
use crate::status::{BridgeCondition, BridgeView};
use weir_declare::reconcile::{ConditionStatus, Timestamp};

/// Every bridge, by name.
pub(super) fn bridges(control: &ControlState, _: &DataPlane, _: Timestamp) -> Vec<BridgeView> {
    let view = |(name, state): (&String, &BridgeState)| {
        let condition = |kind, reason| BridgeCondition {
            kind,
            status: ConditionStatus::False,
            reason,
            message: state.failure.clone().unwrap_or_default(),
            observed_generation: state.generation,
            last_transition_time: None,
        };
        BridgeView {
            name: name.clone(),
            origin: super::endpoints::written_origin(&state.origin),
            endpoints: state.endpoints.clone(),
            addresses: state.declared.address.iter().cloned().map(String::from).collect(),
            conditions: vec![condition("ResolvedRefs", "NotBuiltIn"), condition("Connected", "NotRunning")],
            link: None,
        }
    };
    control.bridges.iter().map(view).collect()
}
