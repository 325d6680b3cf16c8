//! Compares declared with live: the deletion guard, plans, conditions, and their rendering. Pure: no sockets, no files,
//! no clock; time is an argument.
//!
//! - `guard`, `lock_out`: which deletions and lock-outs wait for confirmation.
//! - `effective`: an endpoint with the documents and files that it refers to.
//! - `action`, `plan`, `bridges`, `guarded_plan`: the actions from live to declared.
//! - `causes`, `action_groups`: the lines that cause changes, and what one line changes in many endpoints. `render`: plans
//!   as text, Markdown and JSON.
//! - `conditions`: the state of an endpoint in Kubernetes' terms.

mod action;
mod action_groups;
mod bridges;
mod causes;
mod cluster;
mod conditions;
mod effective;
mod events;
mod guard;
#[cfg(test)]
mod guard_tests;
mod guarded_plan;
mod lock_out;
mod plan;
pub mod render;
mod render_human;
mod render_json;
mod render_markdown;
mod render_text;
mod timestamp;

pub use action::*;
pub use action_groups::{ActionGroup, action_groups, grouped_diff};
pub use bridges::{BridgeAction, Bridges, EffectiveBridge, bridge_files, effective_bridges};
pub use causes::{ChangeCause, ChangeCauses};
pub use cluster::{ClusterAction, LiveCluster};
pub use conditions::*;
pub use effective::*;
pub use events::EventsAction;
pub use guard::{DeletionGuard, DeletionGuardInput, GuardDecision, Guarded};
pub use guarded_plan::plan_guarded;
pub use lock_out::LockOut;
pub use plan::*;
pub use timestamp::Timestamp;
