//! Declared against live: plans, conditions, their rendering. Pure: no sockets, no files, no clock; time is an argument.

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
pub use guard::{Guard, GuardDecision, GuardInput, Guarded};
pub use guarded_plan::plan_guarded;
pub use lock_out::LockOut;
pub use plan::*;
pub use timestamp::Timestamp;
