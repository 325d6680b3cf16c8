//! The nodes of one broker. [`engine`] is NATS, which carries what they send each other; `weir_cluster::ClusterNode` decides
//! everything, and the thread of this module drives it between the engine and the shards.

mod appends;
mod control;
mod driver;
pub mod engine;
mod inbox;
mod name_check;
mod purges;
mod report;
mod reports;
mod sessions;
mod settings;
mod start;

pub use control::{ClusterControl, ClusterRequest};
pub use driver::{ClusterView, EngineServers};
pub use reports::ReportSettings;
pub use settings::{DisconnectCause, Role, SettingsView};
pub use start::{Cluster, ClusterError, ClusterOptions, ClusterPort, StartedCluster};
