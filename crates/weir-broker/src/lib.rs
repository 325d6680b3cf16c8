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
//! - `interceptor`: code of the embedding program that is called before access lists;
//! - `ids`, `placement`, [`limits`], `policy`: identifiers, which shard owns what, the node's bounds, an endpoint's;
//! - `slab`, `shard_set`, `hash`, `token_bucket`: storage, and rates.

#![deny(missing_docs)]
// A link to a bound names it; its value may stay private.
#![allow(rustdoc::private_intra_doc_links)]

mod clients;
mod core;
mod delivery;
mod driver;
mod durability;
#[doc(hidden)]
pub mod gateway;
mod hash;
mod ids;
mod interceptor;
pub mod limits;
mod links;
mod observe;
#[doc(hidden)]
pub mod placement;
mod policy;
mod routing;
mod shard_set;
mod slab;
#[cfg(test)]
mod tests;
mod token_bucket;
mod values;

pub use self::core::client_view::Client;
pub use self::core::deferred::WorkBudget;
pub use self::core::topic_level::{LevelEntry, LevelValue};
pub use self::core::{Admission, Core, CoreConfig, ReadAction, ReceiveResult};
pub use clients::offline_sessions::OfflineSessions;
pub use clients::rate_limit::TotalRates;
pub use clients::reauthentication::Reauthentication;
pub use clients::wills::{RefusedWill, WillRefusal};
pub use delivery::out_buffer::OutBuf;
pub use driver::{Driver, Output, Scope, drive};
pub use durability::journal::Recording;
pub use durability::stored::{BadRecord, RestoredCounts, StoredRecords, StoredSession};
pub use ids::{ConnId, ConnectionSlot, EndpointId, Millis, RecordId, ShardId, SlabIndex};
pub use interceptor::{
    DenyReason, Hook, InterceptedPublish, Interceptor, Interceptors, RegisteredInterceptor, Verdict,
};
pub use links::link::Batch;
pub use observe::counters::{
    Backlog, ConnectionDetail, CoreGauges, Dropped, EndpointCounters, EndpointGauges, RetainedPosition, RetainedTopic,
    Waiting,
};
pub use observe::events::{
    CoreEvent, CoreEventDetail, CoreEventKind, CoreEvents, Ended, EventClient, EventMask, MessageTopics, RefusedAction,
};
pub use observe::{InternalErrors, Site};
pub use placement::home_shard;
pub use policy::{
    Authorize, Durability, EndpointLimits, EndpointPolicy, Principal, ProtocolVersions, PublishOverflow, QueueOverflow,
    StillAdmits, Subject,
};
pub use routing::retained_totals::RetainedTotals;
pub use routing::topic_tree::TopicTree;
pub use slab::Slab;
pub use token_bucket::TokenBucket;
pub use values::memory::{MemoryAccount, MemoryKind};
pub use values::record::{RecordBatch, RecordIter, RecordKey, RecordKind, RecordSink, StoreAck, append_record};
