//! The server as a whole: what `weir run` does, for the command line and for programs that embed a broker.
//!
//! Owns the order in which the parts start and stop: store, data plane, status server, source, reconciler.
//! `builder` takes the options, `parts` opens what can fail, `run` serves, `handle` is what a program holds; `process` is
//! what only a server with a process of its own does (signals, systemd, the log).
//! Must never parse a command line, and never decide what a part decides by itself.

mod builder;
mod data_dir;
mod durable_store;
mod error;
mod handle;
#[cfg_attr(not(feature = "status"), path = "no_http_api.rs")]
mod http_api;
#[cfg(feature = "cli")]
pub(crate) mod logging;
mod memory_size;
mod memory_watch;
mod options;
mod parts;
#[cfg(feature = "cli")]
pub(crate) mod process;
mod run;
#[cfg(feature = "cli")]
mod signals;
mod status;
#[cfg(feature = "cli")]
mod systemd;
#[cfg_attr(not(feature = "http"), path = "no_traces.rs")]
mod traces;
mod views;

pub use builder::{Server, ServerBuilder};
pub use error::ServerError;
pub use handle::ServerHandle;
pub use memory_size::MemorySize;
pub(crate) use options::{ServerOptions, SourceOptions};
pub use status::{EndpointStatus, ServerStatus};
#[cfg(feature = "cli")]
pub(crate) use traces::TraceOptions;
#[cfg(feature = "http")]
pub use traces::TraceOptionsError;
pub use views::{ClientInfo, Metrics, Retained, RetainedCursor, RetainedMessage};

pub use crate::random::NoRandomness;
#[cfg(feature = "etcd")]
pub use crate::source::etcd::{EtcdAccess, EtcdOptions, EtcdRoot, EtcdRootError};
pub use crate::state::NodeNameError;
pub use crate::store::StoreError;
pub use crate::store::records::RecordLogError;
#[cfg(feature = "etcd")]
pub use weir_declare::config::SecretRef;
