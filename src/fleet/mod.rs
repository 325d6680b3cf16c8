//! The brokers of one etcd: their records, and whether they have converged.
//!
//! Each broker keeps a record of itself under a lease (`member`). `convergence` and `goal` (for `weir wait`) evaluate
//! the records and are pure. Must never change a declaration.

mod convergence;
mod goal;
#[cfg(feature = "etcd")]
mod member;

pub use convergence::{DuplicateNames, NodeConvergence, node_convergence};
pub use goal::{Goal, GoalError, GoalStatus, RefusalFilter, SourceProgress, check_goal, check_nodes, is_commit_id};
#[cfg(feature = "etcd")]
pub use member::{ClusterMember, MemberHandle, spawn_member};
