//! The read-only HTTP server: FluxMQ's paths and envelope, probes, metrics, events, and a page for a person.
//!
//! [`serve`] runs it; what it shows comes through [`StatusView`] alone. A request goes `server` (connections, bounds)
//! -> `router` (paths, methods, conditional requests) -> a handler, which is a pure function of the view and the query.

mod access;
mod bridges;
mod clients;
mod control;
mod endpoints;
mod events;
mod http;
mod judge;
mod live;
mod live_bridges;
mod live_trace;
mod metrics;
mod packets;
mod page;
mod probes;
mod query;
mod router;
mod sampler;
mod secret;
mod server;
mod system;
mod topics;
mod trace;
mod traffic;
mod validate;
mod view;
mod writes;

pub use access::{AccessError, AccessOptions, TlsFiles};
pub use bridges::{BridgeCondition, BridgeLink, BridgeView, RefusedFilter};
pub use live::LiveView;
#[cfg(feature = "etcd")]
pub(crate) use live::connections;
pub use router::paths;
pub use secret::{Secret, SecretError};
pub use server::{StatusOptions, StatusServer, serve};
pub use system::{memory_limit_bytes, resident_bytes};
pub use view::*;
