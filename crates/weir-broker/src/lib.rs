//! The broker core of one shard: `(input, now) -> outputs`. Pure: no sockets, no clock, no threads, no randomness.
//!
//! A [`Core`] owns its connections, sessions, subscriptions and its part of the retained messages. Its driver (the event
//! loop of the server, a test, the simulation) feeds it bytes and time, and carries out what it asks for.
//!
//! - [`core`](Core): the interface, and the order in which the parts work;
//! - `driver`: what the core asks for, and the loop that carries it out;
//! - `clients`: connections, sessions, admission and how they end;
//! - `routing`: namespaces, subscriptions, shared subscriptions, retained messages;
//! - `delivery`: messages to clients: windows, queues, out buffers, flow control;
//! - `links`: messages between shards;
//! - `durability`: records of what outlives the process, their commit and their restore;
//! - `observe`: counters, and what the status shows;
//! - `values`: plain values that the parts pass to each other;
//! - `ids`, [`limits`], `policy`, `slab`, `shard_set`, `hash`: identifiers, the node's bounds, an endpoint's
//!   bounds, storage.

mod clients;
mod core;
mod delivery;
mod driver;
mod durability;
mod hash;
mod ids;
pub mod limits;
mod links;
mod observe;
mod policy;
mod routing;
mod shard_set;
mod slab;
#[cfg(test)]
mod tests;
mod values;

pub use self::core::client::Client;
pub use self::core::inspect::RETAINED_LOOK_MAX;
pub use self::core::*;
pub use clients::offline_sessions::OfflineSessions;
pub use clients::rate_limit::TotalRates;
pub use clients::reauthentication::Reauthentication;
pub use clients::wills::{RefusedWill, WillRefusal};
pub use delivery::out_buffer::OutBuf;
pub use driver::{Driver, Output, Scope, drive};
pub use durability::journal::Recording;
pub use durability::stored::{BadRecord, Restored, Stored, StoredSession};
pub use ids::{ConnId, ConnectionSlot, EndpointId, Millis, RecordId, ShardId, home_shard};
pub use links::link::Batch;
pub use observe::counters::*;
pub use observe::{InternalErrors, Site};
pub use policy::*;
pub use values::record::{Key, Kind, RecordBatch, RecordSink, Records, StoreAck, append_record};
