//! The broker's core: `(input, now) -> outputs`. Pure: no sockets, no clock, no threads.
//!
//! A [`Core`] is one shard's: it owns its connections, sessions, subscriptions and its part of the retained messages
//! outright. Whoever drives it (the event loop in `net`, a test, the simulation) feeds it bytes and time and takes away
//! what it wrote into the connections' [`OutBuf`]s and into the [`Batch`]es for other shards.
//!
//! - `core`: the state and the interface; `lifecycle`: connections and sessions; `will`: wills; `publish`, `subscribe`,
//!   `acks`, `authentication`: packets from clients; `pace`: how fast they may; `farewell`: how they are asked to
//!   leave; `deliver`, `crowd`: messages to clients; `shared`: shared subscriptions; `link`, `exchange`: other
//!   shards; `names`: namespaces and client ids; `provenance`: who published what is retained; `inspect`: what the
//!   status is told; `durable`, `restore`: what outlives the process, told as records and taken back from them;
//!   `outbox`: what is kept here until another shard has it.
//! - `tree`, `subscriptions`, `shard_set`, `retained`, `session`, `connection`, `inflight`, `message`, `view`, `out`,
//!   `journal`, `record`: what they hold.
//! - `policy`, `limits`: the bounds, an endpoint's and the node's.

mod acks;
mod authentication;
mod away;
mod client;
mod connection;
mod core;
mod crowd;
mod deliver;
mod durable;
mod exchange;
mod farewell;
mod full_disk;
mod inflight;
mod inspect;
mod journal;
mod lifecycle;
pub mod limits;
mod link;
mod message;
mod names;
mod out;
mod outbox;
mod pace;
mod policy;
mod pool;
mod provenance;
mod publish;
mod rate;
mod record;
mod restore;
mod retained;
mod session;
mod shard_set;
mod shared;
mod slab;
mod stats;
mod subscribe;
mod subscriptions;
#[cfg(test)]
mod tests;
mod timers;
mod tree;
mod view;
mod will;

pub use self::core::*;
pub use authentication::Reauthentication;
pub use away::AwaySessions;
pub use client::Client;
pub use inspect::RETAINED_LOOK_MAX;
pub use journal::Recording;
pub use link::Batch;
pub use out::OutBuf;
pub use policy::*;
pub use rate::TotalRates;
pub use record::{Kept, Key, Kind, RecordBatch, RecordId, RecordSink, Records, append_record};
pub use restore::{Restored, Stored, StoredSession};
pub use stats::*;
pub use will::{RefusedWill, WillRefusal};
