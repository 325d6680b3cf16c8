//! What a server is started with.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use super::http_api;
use super::memory_size::MemorySize;
use super::traces::TraceOptions;
use crate::apply::{FileSystem, InterceptorRegistry};
use crate::auth::Authenticators;
#[cfg(feature = "cluster")]
use crate::cluster::ClusterOptions;
use crate::references::{AllowedFiles, AllowedVariables};
#[cfg(feature = "etcd")]
use crate::source::etcd::EtcdOptions;
use crate::source::{DirectoryOptions, MEMORY, MemoryFile};
#[cfg(feature = "status")]
use crate::status::AccessOptions;
#[cfg(feature = "etcd")]
use weir_declare::config::SecretRef;

/// Everything that a server is started with.
#[derive(Debug, Clone)]
pub(crate) struct ServerOptions {
    pub source: SourceOptions,
    /// Address of the read-only HTTP API; `None`: there is none.
    pub status_addr: Option<SocketAddr>,
    #[cfg(feature = "status")]
    pub status_access: AccessOptions,
    /// Directories whose files documents may refer to, beside their own and [`crate::references::DIRECTORIES`].
    pub allow_files: Vec<PathBuf>,
    /// Environment variables that documents may refer to; see [`crate::references::AllowedVariables`].
    pub allow_env: Vec<String>,
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
    /// The authenticators that documents may name.
    pub authenticators: Authenticators,
    /// The interceptors that documents may name.
    pub interceptors: InterceptorRegistry,
    /// The cluster that the broker is a node of; `None`: it is alone.
    #[cfg(feature = "cluster")]
    pub cluster: Option<ClusterOptions>,
    /// The process is this server's: OpenTelemetry's variables of its environment count, and its limit of file descriptors
    /// is raised.
    pub owns_process: bool,
}

/// A server without declarations and without a status address, as a program embeds it.
impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            source: SourceOptions::Memory(Vec::new()),
            status_addr: None,
            #[cfg(feature = "status")]
            status_access: AccessOptions::default(),
            allow_files: Vec::new(),
            allow_env: Vec::new(),
            data_dir: None,
            node_name: None,
            node_labels: BTreeMap::new(),
            default_host: Ipv4Addr::LOCALHOST.into(),
            shards: None,
            memory: None,
            atomic: false,
            allow_empty: false,
            traces: TraceOptions::default(),
            authenticators: Authenticators::default(),
            interceptors: InterceptorRegistry::default(),
            #[cfg(feature = "cluster")]
            cluster: None,
            owns_process: false,
        }
    }
}

/// Where the declarations are.
#[derive(Debug, Clone)]
pub(crate) enum SourceOptions {
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
    /// Documents that the program holds.
    Memory(Vec<MemoryFile>),
}

impl ServerOptions {
    /// What documents may refer to.
    pub(super) fn file_system(&self) -> FileSystem {
        #[cfg_attr(not(feature = "etcd"), expect(unused_mut))]
        let (mut own, mut own_variables) = http_api::secrets(self);
        own.extend(self.data_dir.clone());
        let documents = match &self.source {
            SourceOptions::Directory(options) => Some(options.root.clone()),
            SourceOptions::GitRef { directory, .. } => Some(directory.clone()),
            SourceOptions::Memory(_) => None,
            #[cfg(feature = "etcd")]
            SourceOptions::Etcd(options) => {
                own.extend(options.access.identity.as_ref().map(|(_, key)| key.clone()));
                match options.access.user.as_ref().map(|(_, password)| password) {
                    Some(SecretRef::File(file)) => own.push(PathBuf::from(&*file.0)),
                    Some(SecretRef::Env(name)) => own_variables.push(name.to_string()),
                    None => {}
                }
                Some(options.files.clone())
            }
        };
        FileSystem {
            files: AllowedFiles::new(documents.as_slice(), &self.allow_files, own),
            variables: AllowedVariables::new(self.allow_env.clone(), own_variables),
        }
    }
}

impl SourceOptions {
    /// The directory of documents; with etcd and in memory there is none.
    pub(super) fn directory(&self) -> Option<PathBuf> {
        match self {
            Self::Directory(options) => Some(options.root.clone()),
            Self::GitRef { directory, .. } => Some(directory.clone()),
            Self::Memory(_) => None,
            #[cfg(feature = "etcd")]
            Self::Etcd(_) => None,
        }
    }

    /// Whether the brokers that follow the source know each other by it.
    #[cfg(feature = "cluster")]
    pub(super) fn joins_nodes(&self) -> bool {
        #[cfg(feature = "etcd")]
        if let Self::Etcd(_) = self {
            return true;
        }
        false
    }

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
            Self::Memory(_) => MEMORY.to_owned(),
            #[cfg(feature = "etcd")]
            Self::Etcd(options) => format!("etcd {}", options.location()),
        }
    }
}
