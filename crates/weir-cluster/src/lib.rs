//! The protocol between the nodes of a cluster. Pure: no sockets, no clock, no threads, no randomness. Time is an argument
//! in milliseconds of the node's monotonic clock.
//!
//! - [`wire`]: bytes of envelopes, frames, heartbeats and entries of the log of retained messages;
//! - [`link`]: [`PeerLink`], a reliable and ordered stream of messages in each direction between two nodes;
//! - [`members`]: [`Members`], which nodes are in;
//! - [`node`]: [`ClusterNode`](node::ClusterNode), all of it as one state machine;
//! - [`slots`]: which node serves which persistent sessions;
//! - [`placement`]: which slot a client id has, and which member should own a slot.

pub mod link;
pub mod members;
pub mod node;
pub mod placement;
#[cfg(test)]
mod sim;
pub mod slots;
pub mod wire;

pub use link::{LinkConfig, LinkCounters, LinkEvent, PeerLink};
pub use members::{MemberEvent, Members, MembersConfig};
pub use weir_broker::Millis;

/// The number of one start of a node's process. It is chosen at random, and never used again.
pub type Incarnation = u64;
