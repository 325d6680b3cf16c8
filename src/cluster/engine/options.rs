//! What a node needs to know to reach the engine.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::discovery::Discovery;

/// Called when an event was added after the receiver had found none. It must return at once.
pub type Wake = Arc<dyn Fn() + Send + Sync>;

/// How to reach the engine, and as which node.
#[derive(Clone)]
pub struct EngineOptions {
    /// The cluster's name: 1 to 32 of `A-Z a-z 0-9 _ -`.
    pub cluster: String,
    /// This node's name: 1 to 128 of `A-Z a-z 0-9 . _ -`.
    pub node: String,
    /// A number that no earlier run of any node had.
    pub incarnation: u64,
    pub servers: Discovery,
    pub credentials: Credentials,
    pub tls: TlsFiles,
    /// Copies of each stream: 1, 3 or 5.
    pub replicas: u8,
    /// Bytes of all retained messages at most; `None`: the engine's own limits.
    pub retained_bytes_max: Option<u64>,
    /// How long servers that are still starting or electing are waited for.
    pub ready_within: Duration,
    /// For receivers that do not wait in a future.
    pub wake: Option<Wake>,
}

impl EngineOptions {
    /// The options with their defaults: no credentials, no TLS files, three replicas.
    pub fn new(cluster: &str, node: &str, incarnation: u64, servers: Discovery) -> Self {
        Self {
            cluster: cluster.to_owned(),
            node: node.to_owned(),
            incarnation,
            servers,
            credentials: Credentials::None,
            tls: TlsFiles::default(),
            replicas: 3,
            retained_bytes_max: None,
            ready_within: Duration::from_secs(20),
            wake: None,
        }
    }
}

impl fmt::Debug for EngineOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EngineOptions")
            .field("cluster", &self.cluster)
            .field("node", &self.node)
            .field("incarnation", &self.incarnation)
            .field("servers", &self.servers)
            .field("replicas", &self.replicas)
            .finish_non_exhaustive()
    }
}

/// How the node proves to the engine that it may be there.
#[derive(Clone, Default)]
pub enum Credentials {
    #[default]
    None,
    User {
        user: String,
        password: String,
    },
    Token(String),
    /// A file with the seed of a user's nkey (`SU...`).
    NkeySeedFile(PathBuf),
    /// A file with a JWT and a seed, as `nsc` writes it.
    CredsFile(PathBuf),
}

/// Files in PEM for connections over TLS.
#[derive(Debug, Clone, Default)]
pub struct TlsFiles {
    /// The certificates that sign the servers' certificates; without: those of the system.
    pub ca_file: Option<PathBuf>,
    /// The node's own certificate and key.
    pub identity: Option<(PathBuf, PathBuf)>,
}
