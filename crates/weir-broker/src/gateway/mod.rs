//! The gateway of a node to the other nodes of its cluster: a shard without clients.

mod message;

pub use message::{PeerMessage, PeerPublish, RetainedEntry, RetainedPublisher};
