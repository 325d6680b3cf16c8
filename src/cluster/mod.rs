//! The nodes of one broker. [`engine`] is NATS, which carries what they send each other; `weir_cluster::ClusterNode` decides
//! everything, and the thread of this module drives it between the engine and the shards.

mod driver;
pub mod engine;
mod inbox;
mod report;
mod sessions;
mod start;

pub use driver::{ClusterView, EngineServers};
pub use start::{Cluster, ClusterError, ClusterOptions, ClusterPort, StartedCluster};
