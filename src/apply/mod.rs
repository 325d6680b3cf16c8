//! Executes plans: binds, installs, drains. Where the control plane and the data plane meet.

mod state;

pub use state::*;
