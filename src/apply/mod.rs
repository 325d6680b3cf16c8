//! Executes plans: binds, installs, drains. Where the control plane and the data plane meet.
//!
//! [`Reconciler`] is the loop's body (`reconciler`: a reading comes in; `converge`: plan, prepare, commit; `observe`:
//! conditions and what is published; `held`: what waits to be confirmed; `leave`: clients on their way out; `spans`: its
//! traces); [`run`] is the loop.

mod bridges;
mod compile;
mod converge;
mod drain;
mod environment;
mod files;
mod held;
mod history;
mod leave;
mod observe;
mod plane;
mod port_holder;
mod reconciler;
mod service;
mod spans;
mod sys_topics;
mod tls;

pub use bridges::Bridging;
pub(crate) use bridges::system_authorities;
pub use environment::{Obstacle, obstacles};
pub use files::{FileSystem, ReadFiles};
pub use history::{HISTORY_MAX, History};
pub use leave::Drained;
pub use plane::{Plane, SocketChange};
pub use reconciler::{Next, Reconciler, ReconcilerOptions, Start};
pub use service::{Kept, Signal, run, signals, source_name};
pub use sys_topics::publish_sys_topics;
