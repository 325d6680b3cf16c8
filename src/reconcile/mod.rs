//! Declared against live: plans, conditions, their rendering. Pure: no sockets, no files, no clock; time is an argument.

mod conditions;
mod timestamp;

pub use conditions::*;
pub use timestamp::Timestamp;
