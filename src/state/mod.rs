//! What the control plane publishes of itself: the state after each pass, and the brokers as they are known.
//!
//! `apply` and `cluster` write it; `status` and the command line read it. `control`: one broker's control plane;
//! `node`: what a broker tells the others of itself.

mod control;
mod node;

use std::time::{SystemTime, UNIX_EPOCH};

use weir_declare::reconcile::Timestamp;

pub use control::*;
pub use node::*;

/// Now, by the wall clock.
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
