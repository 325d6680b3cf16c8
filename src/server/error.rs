//! Why a server could not start, or not stop in order.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

#[cfg(feature = "http")]
use super::traces::TraceOptionsError;
use crate::random::NoRandomness;
use crate::state::NodeNameError;
use crate::store::StoreError;
use crate::store::records::RecordLogError;

/// Why a server could not start, or not stop in order.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The directory of the documents does not exist.
    #[error("the directory of the documents does not exist: {}", .0.display())]
    NoSuchDirectory(PathBuf),
    /// The data directory cannot be created.
    #[error("the data directory {} cannot be used", path.display())]
    DataDirectory {
        /// The directory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The store in the data directory cannot be opened.
    #[error("the store cannot be opened")]
    Store(#[source] StoreError),
    /// Threads or descriptors for connections are refused.
    #[error("the data plane cannot be started")]
    DataPlane(#[source] io::Error),
    /// The binary's runtime cannot be started.
    #[error("the runtime of the control plane cannot be started")]
    Runtime(#[source] io::Error),
    /// The store could not be written: the server has ended.
    #[error("store write failed: what the disk holds is unknown until the next start")]
    StoreFailed(#[source] RecordLogError),
    /// A task of the server panicked.
    #[error("a task of the server failed")]
    Task(#[source] tokio::task::JoinError),
    /// One line for each error of the documents.
    #[error("the documents are not valid:\n{}", .0.join("\n"))]
    Invalid(Vec<String>),
    /// One line for each thing that is declared and not live.
    #[error("not everything that the documents declare is live:\n{}", .0.join("\n"))]
    NotLive(Vec<String>),
    /// The server has ended.
    #[error("the server has ended")]
    Ended,
    /// A text is not a topic name, or not a filter.
    #[error("{topic:?} {problem}")]
    Topic {
        /// The text.
        topic: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The metrics cannot be written as text.
    #[error("the metrics could not be written")]
    Metrics,
    /// The server follows a directory, git or etcd.
    #[error("the server's documents are not in memory; commit a change to its source")]
    NotInMemory,
    /// The status address cannot be bound.
    #[error("the status address {address} cannot be bound")]
    StatusAddress {
        /// The address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The HTTP API cannot be started.
    #[error("the status server cannot be started")]
    Status(#[source] io::Error),
    /// The thread of the bridges is refused.
    #[cfg(feature = "bridge")]
    #[error("the thread of the bridges cannot be started")]
    Bridges(#[source] io::Error),
    /// The binary cannot receive signals.
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
    /// The name of the node is not valid.
    #[error("the node name cannot be used: {0}")]
    NodeName(#[from] NodeNameError),
    /// An option for traces cannot be used.
    #[cfg(feature = "http")]
    #[error(transparent)]
    Traces(#[from] TraceOptionsError),
    /// The binary's variable `NOTIFY_SOCKET` is not UTF-8.
    #[error("NOTIFY_SOCKET is not UTF-8")]
    NotifySocketName,
    /// The binary cannot use its `NOTIFY_SOCKET`.
    #[error("NOTIFY_SOCKET {name}")]
    NotifySocket {
        /// Its value.
        name: String,
        /// The system's error.
        source: io::Error,
    },
    /// The engine of the cluster cannot be used.
    #[cfg(feature = "cluster")]
    #[error("cluster not joined")]
    Cluster(#[from] crate::cluster::ClusterError),
    /// A node of a cluster has one shard less at most.
    #[cfg(feature = "cluster")]
    #[error("a node of a cluster has at most 254 shards: use fewer")]
    ClusterShards,
    /// The system gives no random bytes.
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
