//! The server as a whole: what `weir run` does, for the command line and for programs that embed a broker.
//!
//! Owns the order in which the parts start and stop: store, data plane, status server, source, reconciler.
//! [`ServerOptions`] go in, [`Server::build`] opens what can fail, [`Server::run`] serves until a signal to stop.
//! [`logging`] writes the log; a program with a log of its own leaves it out.
//! Must never parse a command line, and never decide what a part decides by itself.

mod builder;
mod data_dir;
mod durable_store;
mod error;
pub mod logging;
mod memory_size;
mod memory_watch;
mod options;
mod run;
mod signals;
mod systemd;
mod traces;

pub use builder::Server;
pub use error::ServerError;
pub use memory_size::MemorySize;
pub use options::{ServerOptions, SourceOptions};
pub use traces::{TraceOptions, TraceOptionsError};
