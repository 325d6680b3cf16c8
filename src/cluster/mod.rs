//! Who else is there, and who has converged on what.
//!
//! Each broker keeps a record of itself under a lease (`member`); what the records say together is judged purely:
//! `convergence` (who has what), `verdict` (what `weir wait` waits for).

mod convergence;
#[cfg(feature = "etcd")]
mod member;
mod verdict;

pub use convergence::{Coexistence, Standing, standings};
#[cfg(feature = "etcd")]
pub use member::{Member, MemberHandle, spawn_member};
pub use verdict::{Goal, Interest, Known, Verdict, check_goal, judge};
