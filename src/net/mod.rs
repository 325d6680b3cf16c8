//! The data plane's IO: listening sockets, the acceptor, the shards' event loops, TLS, WebSocket, PROXY protocol.
//!
//! ```text
//! listener ─▶ acceptor ─▶ a shard: PROXY header ─▶ TLS ─▶ WebSocket ─▶ CONNECT ─▶ authentication
//!                                                                                       │
//!             sockets ◀─ out buffers ◀─ core of the client's home shard ◀───────────────┘
//! ```
//!
//! A shard is one OS thread with its own epoll loop: there is no scheduler between a readable socket and the core. The
//! acceptor runs in the loop of the first shard.
//! [`DataPlane`] is the handle of the control plane.

mod accept_rate;
mod acceptor;
mod auth_tasks;
#[cfg(feature = "bridge")]
pub mod bridge;
mod delivery_latency;
mod drain;
mod events;
mod find;
mod gateway_port;
mod in_process;
mod layers;
mod mailbox;
#[cfg(test)]
mod mailbox_tests;
mod plane;
mod policy;
#[cfg(any(test, fuzzing))]
pub(crate) mod properties;
mod proxy;
pub mod relay;
mod shard;
mod socket;
mod stats;
mod stream;
mod sync;
mod threads;
mod tls;
mod tls_handshakes;
mod topic_level;
mod trace;
mod wake_timer;
mod websocket;
mod workers;

pub use delivery_latency::DeliverDurations;
pub use drain::{ConnectionFacts, DrainPlan, DrainPredicate, DrainWhich};
pub use find::{ClientFilter, ClientRow, FoundClient, RetainedCursor, RetainedFilter};
pub use gateway_port::GatewayPort;
pub use in_process::{InProcessError, InProcessRights};
pub use plane::{DataPlane, DataPlaneConfig, ListenerChange, PlaneError};
pub use policy::{
    AcceptOverflow, AllowedOrigins, ChildOptions, HandshakeLimits, IpRange, KeepAlive, ListenerPolicy,
    ProxyProtocolPolicy, TlsPolicy, Transport, WebSocketPolicy,
};
pub use shard::DurableStore;
pub use socket::{BoundSocket, ListenerStatus, SocketKey, SocketOptions};
pub use stats::{EndpointStats, RefusalCounts};
pub use tls::{ClientAuth, Identity, RSA_BITS_ADVISED, TlsError, TlsFile, TlsSettings, rsa_key_bits};
pub use topic_level::LevelFilter;
pub use trace::{TraceFilter, TraceStep, TraceSteps, Traced};
