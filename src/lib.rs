//! Weir: an MQTT broker whose listeners are declared.
//!
//! ```text
//! control plane   source ──Snapshot──▶ config ──Declared──▶ reconcile ──Plan──▶ apply ──Observation──▶ conditions ──▶ status
//! data plane      socket ─▶ connection ─▶ mqtt codec ─▶ broker core ─▶ subscribers' connections ─▶ sockets
//! ```
//!
//! The pure crates beneath this one: [`weir_mqtt`] (bytes to packets and back, topics, reason codes), [`weir_broker`]
//! (sessions, subscriptions, retained messages, routing; one core per shard), [`weir_bridge`] (a link to another broker)
//! and [`weir_declare`] (documents to a declaration, a declaration to a plan). They do no IO and read no clock.
//!
//! - [`net`]: listeners, the shards' event loops, TLS, WebSocket, PROXY protocol.
//! - [`auth`]: authentication and access lists.
//! - [`events`]: what happens, as a stream.
//! - [`source`]: directory, git, etcd: where snapshots come from.
//! - [`apply`]: executes a plan: binds, installs and drains listeners.
//! - [`store`]: what outlives the process.
//! - [`telemetry`]: traces of passes, for an OpenTelemetry collector.
//! - `random`: random bytes from the crypto provider.
//! - `log_value`: values of clients in log lines, bounded.
//! - [`references`]: which files and variables documents may refer to.
//! - `source_address`: the source of a connection, for bounds per source.
//! - [`http_client`]: HTTP requests to others, over kept connections.
//! - [`fleet`]: the brokers that follow one etcd, and which of them have converged.
//! - `cluster`: the nodes of one broker, and NATS, which carries what they send each other; with the feature `cluster`.
//! - [`state`]: what the control plane publishes of itself.
//! - [`client`]: clients, over a byte stream or in this process.
//! - [`status`]: HTTP, read-only.
//! - [`server`]: the broker as a whole, as `weir run` and embedding programs start it.
//! - `fuzzing`: properties that the fuzz targets try; in no build of the server.
//! - [`cli`]: the verbs of the command line.

/// The code of `docs/library.md` compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
pub struct LibraryPage;

pub mod apply;
pub mod auth;
pub mod cli;
pub mod client;
#[cfg(feature = "cluster")]
pub mod cluster;
pub mod events;
pub mod fleet;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod http_client;
mod log_value;
pub mod net;
mod random;
pub mod references;
pub mod server;
pub mod source;
mod source_address;
pub mod state;
pub mod status;
pub mod store;
pub mod telemetry;

pub use auth::{AuthChallenge, AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator};
pub use server::{Server, ServerBuilder, ServerError, ServerHandle};
pub use weir_broker::{DenyReason, Hook, InterceptedPublish, Interceptor, Subject, Verdict};
/// Whether a topic filter matches a topic name; a wildcard at the start does not match `$`.
pub use weir_mqtt::matches as topic_matches;
