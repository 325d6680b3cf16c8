//! The state that the control plane publishes: of this broker after each pass, and of the other brokers.
//!
//! `apply` and `cluster` write it; `status` and the command line read it. `control`: one broker's control plane;
//! `node`: a broker's record for the others; `member_report`, `bridge_placement`: what the nodes of a cluster tell each other.
//! Holds values only.

mod bridge_placement;
mod control;
mod member_report;
mod node;

use std::time::{SystemTime, UNIX_EPOCH};

use weir_declare::reconcile::Timestamp;

pub use bridge_placement::*;
pub use control::*;
pub use member_report::*;
pub use node::*;

/// Now, by the wall clock.
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
