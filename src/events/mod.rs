//! Events: what happens to clients, sessions, subscriptions, messages, endpoints and the declaration.
//!
//! [`Events`] is a stream of typed [`Event`]s, from [`ServerHandle::events`](crate::ServerHandle::events). It is bounded:
//! what a reader was too slow for is counted, and nothing waits for it. Kinds that no stream selects are not made.
//!
//! - `event`: the events; `filter`: which of them a stream has; `hub`: from the shards to the streams; `of_core`: from the
//!   broker core's events.
//!
//! Owns the streams. It must never block a shard.

mod event;
mod filter;
mod hub;
mod of_core;

pub use event::{Action, DisconnectCause, Event, EventClient, EventReason, ReconcileOutcome};
pub use filter::{EventFilter, InvalidMessageTopic};
pub(crate) use hub::EventHub;
pub use hub::Events;
pub use weir_declare::config::{EventKind, UnknownEventPattern};
