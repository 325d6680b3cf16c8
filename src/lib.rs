//! Weir: an MQTT broker whose listeners are declared.
//!
//! ```text
//! control plane   source ──Snapshot──▶ config ──Declared──▶ reconcile ──Plan──▶ apply ──Observation──▶ conditions ──▶ status
//! data plane      socket ─▶ connection ─▶ mqtt codec ─▶ broker core ─▶ subscribers' connections ─▶ sockets
//! ```
//!
//! - [`mqtt`]: bytes to packets and back; topics; reason codes. Pure.
//! - [`broker`]: sessions, subscriptions, retained messages, routing; one core per shard. Pure.
//! - [`bridge`]: a link to another broker: two connections and what passes between them. Pure.
//! - [`net`]: listeners, the shards' event loops, TLS, WebSocket, PROXY protocol.
//! - [`auth`]: who may connect, who may publish and subscribe.
//! - [`config`]: a snapshot of YAML documents to what is declared, or diagnostics. Pure.
//! - [`reconcile`]: declared against live: plans, conditions, their rendering. Pure.
//! - [`source`]: directory, git, etcd: where snapshots come from.
//! - [`apply`]: executes a plan; owns the socket pool. Where the two planes meet.
//! - [`store`]: what outlives the process.
//! - [`telemetry`]: traces of passes, for an OpenTelemetry collector.
//! - [`cluster`]: who else is there, and who has converged.
//! - [`status`]: HTTP, read-only.
//! - [`cli`]: the verbs of the command line.

pub mod apply;
pub mod auth;
pub mod bridge;
pub mod broker;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod mqtt;
pub mod net;
pub mod reconcile;
pub mod source;
pub mod status;
pub mod store;
pub mod telemetry;
