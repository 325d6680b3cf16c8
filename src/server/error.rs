//! Why a server could not start, or not stop in order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::traces::TraceOptionsError;
use crate::random::NoRandomness;
use crate::state::NodeNameError;
use crate::store::StoreError;
use crate::store::records::RecordLogError;

/// Why a server could not start, or not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("the directory of the documents does not exist: {}", .0.display())]
    NoSuchDirectory(PathBuf),
    #[error("the data directory {} cannot be used", path.display())]
    DataDirectory { path: PathBuf, source: io::Error },
    #[error("the store cannot be opened")]
    Store(#[source] StoreError),
    #[error("the data plane cannot be started")]
    DataPlane(#[source] io::Error),
    #[error("the runtime of the control plane cannot be started")]
    Runtime(#[source] io::Error),
    #[error("store write failed: what the disk holds is unknown until the next start")]
    StoreFailed(#[source] RecordLogError),
    #[error("a task of the server failed")]
    Task(#[source] tokio::task::JoinError),
    #[error("the documents are not valid:\n{}", .0.join("\n"))]
    Invalid(Vec<String>),
    #[error("not everything that the documents declare is live:\n{}", .0.join("\n"))]
    NotLive(Vec<String>),
    #[error("the server has ended")]
    Ended,
    #[error("{topic:?} {problem}")]
    Topic { topic: String, problem: String },
    #[error("the metrics could not be written")]
    Metrics,
    #[error("the server's documents are not in memory; commit a change to its source")]
    NotInMemory,
    #[error("the status address {address} cannot be bound")]
    StatusAddress { address: SocketAddr, source: io::Error },
    #[error("the status server cannot be started")]
    Status(#[source] io::Error),
    #[error("the thread of the bridges cannot be started")]
    Bridges(#[source] io::Error),
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    #[error("the node name cannot be used: {0}")]
    NodeName(#[from] NodeNameError),
    #[error(transparent)]
    Traces(#[from] TraceOptionsError),
    #[error("NOTIFY_SOCKET is not UTF-8")]
    NotifySocketName,
    #[error("NOTIFY_SOCKET {name}")]
    NotifySocket { name: String, source: io::Error },
    /// The engine of the cluster cannot be used.
    #[cfg(feature = "cluster")]
    #[error("cluster not joined")]
    Cluster(#[from] crate::cluster::ClusterError),
    /// A node of a cluster has one shard less at most.
    #[cfg(feature = "cluster")]
    #[error("a node of a cluster has at most 254 shards: use fewer")]
    ClusterShards,
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_options_and_no_flags_of_the_command_line() {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let errors = [
            ServerError::NoSuchDirectory("a".into()),
            ServerError::DataDirectory { path: "a".into(), source: missing() },
            ServerError::StatusAddress { address: ([127, 0, 0, 1], 8080).into(), source: missing() },
        ];
        let node_name = crate::state::check_node_name("").unwrap_err();
        for text in errors.iter().map(ToString::to_string).chain([ServerError::NodeName(node_name).to_string()]) {
            assert!(!text.is_empty() && !text.contains("--"), "{text}");
        }
    }
}
