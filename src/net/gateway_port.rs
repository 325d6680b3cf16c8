//! The data plane's side of the gateway to the other nodes of a cluster.

use std::fmt;

use weir_broker::{Batch, ShardId};

/// Where shards send what is for the gateway. Called by the shards' threads: it must return at once.
pub trait GatewayPort: Send + Sync + fmt::Debug {
    /// Takes a batch of a shard, in order.
    fn deliver(&self, from: ShardId, batch: Batch);
}
