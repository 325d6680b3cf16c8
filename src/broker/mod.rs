//! The broker's core: `(input, now) -> outputs`. Pure: no sockets, no clock, no threads.
//!
//! A [`Core`] is one shard's: it owns its connections, sessions, subscriptions and its part of the retained messages
//! outright. Whoever drives it (the event loop in `net`, a test, the simulation) feeds it bytes and time and takes away
//! what it wrote into the connections' [`OutBuf`]s and into the [`Batch`]es for other shards.

mod core;
mod out;
mod policy;

pub use self::core::*;
pub use out::OutBuf;
pub use policy::*;
