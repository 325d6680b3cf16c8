//! What a server is started with.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::memory_size::MemorySize;
use super::traces::TraceOptions;
use crate::source::DirectoryOptions;
#[cfg(feature = "etcd")]
use crate::source::etcd::EtcdOptions;
use crate::status::AccessOptions;

/// Everything that a server is started with. Nothing is read from the environment but what [`TraceOptions`] names and
/// what systemd leaves there.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    pub source: SourceOptions,
    /// Address of the read-only HTTP API; `None`: there is none.
    pub status_addr: Option<SocketAddr>,
    pub status_access: AccessOptions,
    /// Directory for what outlives a restart: durable sessions, last known good, history. `None`: nothing does.
    pub data_dir: Option<PathBuf>,
    /// This broker's name; `None`: the host's.
    pub node_name: Option<String>,
    /// Labels that `nodes:` selectors are matched against.
    pub node_labels: BTreeMap<String, String>,
    /// Address that endpoints without a `host` bind.
    pub default_host: IpAddr,
    /// Threads that serve connections; `None`: one less than there are cores.
    pub shards: Option<u16>,
    /// The memory that connections, sessions and messages may take together; `None`: a part of what there is.
    pub memory: Option<MemorySize>,
    /// Refuse a whole snapshot for any error in it.
    pub atomic: bool,
    /// Apply a declaration without endpoints at the start.
    pub allow_empty: bool,
    pub traces: TraceOptions,
}

/// Where the declarations are.
#[derive(Debug, Clone)]
pub enum SourceOptions {
    Directory(DirectoryOptions),
    /// What is committed at `revision` of the repository that `directory` lies in.
    GitRef {
        directory: PathBuf,
        revision: String,
        /// About how long without an event until the ref is read all the same.
        resync: Duration,
    },
    #[cfg(feature = "etcd")]
    Etcd(EtcdOptions),
}

impl SourceOptions {
    /// The name that a last known good declaration is saved under: one of another source is not used.
    pub(super) fn name(&self) -> String {
        let absolute = |location: String| {
            std::path::absolute(&location).map_or_else(|_| location.clone(), |path| path.display().to_string())
        };
        match self {
            Self::Directory(options) => format!("directory {}", absolute(options.root.display().to_string())),
            Self::GitRef { directory, revision, .. } => {
                format!("git {}", absolute(format!("{} at {revision}", directory.display())))
            }
            #[cfg(feature = "etcd")]
            Self::Etcd(options) => format!("etcd {}", options.location()),
        }
    }
}
