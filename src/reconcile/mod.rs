//! Declared against live: plans, conditions, their rendering. Pure: no sockets, no files, no clock; time is an argument.

mod conditions;
mod effective;
mod guard;
mod plan;
pub mod render;
mod timestamp;

pub use conditions::*;
pub use effective::*;
pub use guard::{Guard, Judgement, Observed};
pub use plan::*;
pub use timestamp::Timestamp;
