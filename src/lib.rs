//! An MQTT broker (3.1, 3.1.1 and 5.0) inside of a program: the engine of [Weir](https://github.com/weirmq/weir), whose
//! binary `weir` starts the same [`Server`] by the same builder.
//!
//! Its listeners are declared in YAML documents: in memory, in a directory, in git or in etcd. A change of them is applied
//! while the server runs, and disconnects only the clients that it concerns.
//!
//! ```
//! use weirmq::client::QoS;
//!
//! #[tokio::main(flavor = "current_thread")]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let mqtt = "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false}";
//!     let server = weirmq::Server::builder().documents([("mqtt.yaml", mqtt)]).start().await?;
//!     println!("clients connect to {:?}", server.address("mqtt"));
//!     let (client, mut messages) = server.client("billing").connect().await?;
//!     client.subscribe("sensor/+/temp", QoS::AtLeastOnce).await?;
//!     client.publish("sensor/room1/temp", "25.5", QoS::AtLeastOnce).await?;
//!     let message = messages.next().await.ok_or("the server has ended")?;
//!     assert_eq!((message.topic(), message.text()), ("sensor/room1/temp", Some("25.5")));
//!     message.ack();
//!     Ok(server.shutdown().await?)
//! }
//! ```
//!
//! - [`Server`], [`ServerBuilder`], [`ServerHandle`]: start, change, query and stop a server.
//! - [`client`]: clients in this process, without a socket.
//! - [`events`]: what happens, as a stream.
//! - [`Authenticator`], [`Interceptor`]: code of the program that documents name.
//! - [`server`]: what the handle's questions return. [`topic_matches`], [`TopicTree`]: topic filters.
//!
//! [The page about the library](https://github.com/weirmq/weir/blob/main/docs/library.md) has more examples, and a table for
//! those who come from rumqttd or flux-mqtt.
//!
//! # Features
//!
//! All are on by default. Without them there is a broker with documents in memory, in a directory or in git, TLS, clients in
//! the process, password files, JWT, SCRAM, certificates, authenticators of the program, interceptors, events and durable
//! sessions. A document that needs what is not built in is not applied, and the error names the feature.
//!
//! | feature | adds |
//! | --- | --- |
//! | `bridge` | bridges to other brokers |
//! | `cli` | the binary `weir`, with all other features but `etcd`, and `weirmq::cli` |
//! | `cluster` | one broker made of many nodes, over NATS; the binary's `--cluster` |
//! | `etcd` | documents in etcd: `ServerBuilder::etcd` |
//! | `http` | the `http` authenticator, and traces for an OpenTelemetry collector (which only the binary configures) |
//! | `status` | the HTTP API with its page and `/metrics`: `ServerBuilder::status_address`, `ServerHandle::prometheus`; with `http` |
//! | `websocket` | MQTT over WebSocket |
//!
//! Everything in `weirmq` that this page does not list is for the binary and for tests, and changes without notice.

// The planes, and the crates below this one:
//
// control plane   source ──Snapshot──▶ config ──Declared──▶ reconcile ──Plan──▶ apply ──Observation──▶ conditions ──▶ status
// data plane      socket ─▶ connection ─▶ mqtt codec ─▶ broker core ─▶ subscribers' connections ─▶ sockets
//
// weir_mqtt (bytes to packets and back, topics, reason codes), weir_broker (sessions, subscriptions, retained messages,
// routing; one core per shard), weir_bridge (a link to another broker) and weir_declare (documents to a declaration, a
// declaration to a plan). They do no IO and read no clock.
#![deny(missing_docs)]
// Without the binary, some of what its verbs use has no caller.
#![cfg_attr(not(feature = "cli"), allow(dead_code, unused_imports, unreachable_pub))]

/// The code of `docs/library.md` compiles.
#[cfg(doctest)]
#[doc = include_str!("../docs/library.md")]
pub struct LibraryPage;

// Executes a plan: binds, installs and drains listeners.
#[doc(hidden)]
pub mod apply;
// Authentication and access lists.
#[doc(hidden)]
pub mod auth;
// The certificate authorities of the system.
#[cfg(any(feature = "bridge", feature = "http"))]
mod authorities;
// The verbs of the command line; their documentation is the help text, as plain text.
#[cfg(feature = "cli")]
#[doc(hidden)]
#[allow(rustdoc::bare_urls)]
pub mod cli;
pub mod client;
// The nodes of one broker, and NATS, which carries what they send each other.
#[cfg(feature = "cluster")]
#[doc(hidden)]
pub mod cluster;
pub mod events;
// The brokers that follow one etcd, and which of them have converged.
#[doc(hidden)]
pub mod fleet;
// Properties that the fuzz targets try; in no build of the server.
#[cfg(fuzzing)]
pub mod fuzzing;
// HTTP requests to others, over kept connections.
#[cfg(feature = "http")]
#[doc(hidden)]
pub mod http_client;
// What the kernel says about the process and the machine.
mod kernel;
// Values of clients in log lines, bounded.
mod log_value;
// Listeners, the shards' event loops, TLS, WebSocket, PROXY protocol.
#[doc(hidden)]
pub mod net;
// Random bytes from the crypto provider.
mod random;
// Which files and variables documents may refer to.
#[doc(hidden)]
pub mod references;
pub mod server;
// Directory, git, etcd, memory: where snapshots come from.
#[doc(hidden)]
pub mod source;
// The source of a connection, for bounds per source.
mod source_address;
// What the control plane publishes of itself.
#[doc(hidden)]
pub mod state;
// The HTTP API, read-only.
#[cfg(feature = "status")]
#[doc(hidden)]
pub mod status;
// What outlives the process.
#[doc(hidden)]
pub mod store;
// Traces of passes, for an OpenTelemetry collector.
#[doc(hidden)]
pub mod telemetry;

pub use auth::{AuthChallenge, AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator};
pub use server::{Server, ServerBuilder, ServerError, ServerHandle};
pub use weir_broker::{DenyReason, Hook, InterceptedPublish, Interceptor, Subject, TopicTree, Verdict};
/// Whether a topic filter matches a topic name; a wildcard at the start does not match `$`.
pub use weir_mqtt::matches as topic_matches;
