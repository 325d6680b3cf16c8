//! Declared against live: plans, conditions, their rendering. Pure: no sockets, no files, no clock; time is an argument.

mod bridges;
mod conditions;
mod effective;
mod guard;
mod plan;
pub mod render;
mod timestamp;

pub use bridges::{BridgeAction, Bridges, EffectiveBridge, bridge_files, bridges};
pub use conditions::*;
pub use effective::*;
pub use guard::{Guard, Judgement, Observed};
pub use plan::*;
pub use timestamp::Timestamp;
