//! Compares declared with live: the deletion guard, plans, conditions, and their rendering. Pure: no sockets, no files,
//! no clock; time is an argument.
//!
//! - `guard`, `lock_out`: which deletions and lock-outs wait for confirmation.
//! - `effective`: an endpoint with the documents and files that it refers to.
//! - `action`, `plan`, `bridges`, `guarded_plan`: the actions from live to declared. `render`: plans as text and JSON.
//! - `conditions`: the state of an endpoint in Kubernetes' terms.

mod action;
mod bridges;
mod conditions;
mod effective;
mod guard;
#[cfg(test)]
mod guard_tests;
mod guarded_plan;
mod lock_out;
mod plan;
pub mod render;
mod timestamp;

pub use action::*;
pub use bridges::{BridgeAction, Bridges, EffectiveBridge, bridge_files, effective_bridges};
pub use conditions::*;
pub use effective::*;
pub use guard::{DeletionGuard, DeletionGuardInput, GuardDecision, Guarded};
pub use guarded_plan::plan_guarded;
pub use lock_out::LockOut;
pub use plan::*;
pub use timestamp::Timestamp;
