//! The content of a source, as [`super::load`] takes it.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// All files of a source at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The source, for messages: `endpoints.d`, `etcd http://127.0.0.1:2379 /weir/`.
    pub origin: Arc<str>,
    /// Which state of the source it is.
    pub revision: Revision,
    /// In any order; [`super::load`] sorts them by path.
    pub files: Vec<SourceFile>,
}

/// One file, or one etcd key.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// The path below the source's root, with `/` between segments: `eu/tenant-a.yaml`. In etcd the key below
    /// `<prefix>endpoints/`. Default names derive from it.
    pub path: Arc<str>,
    /// The path as messages show it: `endpoints.d/eu/tenant-a.yaml`.
    pub shown: Arc<str>,
    /// The directory that file references are relative to: the file's own, in etcd the node's `--files`.
    pub base: Arc<Path>,
    /// Its bytes, or why they could not be read.
    pub content: Result<Arc<[u8]>, ReadError>,
    /// Whether an endpoint may have port 0, a free one: in the documents of a program, which asks for the address.
    pub free_ports: bool,
}

/// A file that exists and could not be read. Its declarations are held, never deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    /// The cause, as a phrase: `permission denied`.
    pub message: String,
}

/// The identity of a source's state.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Revision {
    /// A work tree at a commit. `dirty`: files differ from the commit, and `content` is their hash.
    /// A commit; `dirty`: the work tree differs, and `content` is a hash of it.
    #[serde(rename_all = "camelCase")]
    Git {
        /// The commit id.
        commit: String,
        /// Whether the work tree differs from it.
        dirty: bool,
        /// A hash of the files of the work tree.
        content: Option<String>,
    },
    /// A hash of all files' contents, hexadecimal.
    /// A hash of the files.
    Content {
        /// The hash.
        hash: String,
    },
    /// An etcd store's revision.
    /// A revision of an etcd.
    #[serde(rename_all = "camelCase")]
    Etcd {
        /// The id of the cluster.
        cluster_id: u64,
        /// The revision of its store.
        revision: i64,
    },
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Git { commit, dirty: false, .. } => write!(f, "{}", short(commit)),
            Self::Git { commit, dirty: true, .. } => write!(f, "{}+dirty", short(commit)),
            Self::Content { hash } => write!(f, "{}", short(hash)),
            Self::Etcd { revision, .. } => write!(f, "{revision}"),
        }
    }
}

fn short(hash: &str) -> &str {
    hash.get(..12).unwrap_or(hash)
}

/// The node's own settings that declarations are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeContext {
    /// The status listener's address, which no endpoint may use; `None`: there is no status listener.
    pub status_addr: Option<std::net::SocketAddr>,
    /// `--host`: the address of endpoints without `host`.
    pub default_host: std::net::IpAddr,
    /// `--node-label`: the labels for the selectors `nodes`.
    pub labels: std::collections::BTreeMap<String, String>,
}

impl Default for NodeContext {
    /// A node that is started without flags.
    fn default() -> Self {
        Self {
            status_addr: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 8080))),
            default_host: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            labels: std::collections::BTreeMap::new(),
        }
    }
}
