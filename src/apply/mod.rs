//! Applies plans: binds, installs, drains. Where the control plane and the data plane meet.
//!
//! [`run`] is the loop, [`Reconciler`] its body. The body only sequences the parts, each with its own state: `declaration`
//! (what is accepted and held), `source_tracker`, `listeners` with `draining`, `bridges`, `conditions`, `history`,
//! `publish`, `event_topics`, `cluster_document`. `converge` is a pass over listeners and bridges, `spans` its trace. Must never serve a client itself.

#[cfg_attr(not(feature = "bridge"), path = "no_bridges.rs")]
mod bridges;
mod cluster_document;
mod compile;
mod conditions;
mod control_events;
mod converge;
mod declaration;
mod drain_plan;
mod draining;
#[cfg(feature = "cli")]
mod environment;
mod event_topics;
mod files;
mod history;
mod interceptors;
mod listeners;
mod plane;
mod port_holder;
mod publish;
mod reconciler;
mod record;
mod running;
mod service;
mod source_tracker;
mod spans;
mod sys_topics;
mod tls;

pub use bridges::BridgeManager;
pub use control_events::report_control_events;
pub use draining::DrainReport;
#[cfg(feature = "cli")]
pub use environment::{EnvironmentProblem, environment_problems};
pub use event_topics::EventPublisher;
pub use files::{FileError, FileSystem, ReadFiles};
pub use history::{HISTORY_MAX, History};
pub(crate) use interceptors::InterceptorRegistry;
pub use plane::{Plane, SocketChange};
pub use reconciler::{Next, Reconciler, ReconcilerOptions, Start};
pub use service::{LastGoodStore, Signal, run};
pub use sys_topics::publish_sys_topics;
