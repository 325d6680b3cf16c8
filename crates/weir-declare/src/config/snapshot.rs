//! What a source hands over.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Everything a source holds, at one revision. Pure data: reading is the source's part.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where it is from, for people: `endpoints.d`, `etcd http://127.0.0.1:2379 /weir/`.
    pub origin: Arc<str>,
    pub revision: Revision,
    /// In any order; [`super::load`] sorts them by path.
    pub files: Vec<SourceFile>,
}

/// One file, or one etcd key.
#[derive(Debug, Clone)]
pub struct SourceFile {
    /// Below the source's root, `/` between segments: `eu/tenant-a.yaml`. In etcd the key below `<prefix>endpoints/`.
    /// Names are made of it.
    pub path: Arc<str>,
    /// As messages show it: `endpoints.d/eu/tenant-a.yaml`.
    pub shown: Arc<str>,
    /// The directory that `certFile: tls/server.pem` is relative to: the file's own, in etcd the node's `--files`.
    pub base: Arc<Path>,
    pub content: Result<Arc<[u8]>, ReadError>,
}

/// A file that is there and could not be read. What it declared is held, never deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadError {
    /// What is wrong, as a phrase: `permission denied`.
    pub message: String,
}

/// What identifies the state of a source.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Revision {
    /// A work tree at a commit; `dirty` where files differ from it (then `content` tells apart).
    #[serde(rename_all = "camelCase")]
    Git { commit: String, dirty: bool, content: Option<String> },
    /// A hash of all files' contents, hexadecimal.
    Content { hash: String },
    /// An etcd store's revision.
    #[serde(rename_all = "camelCase")]
    Etcd { cluster_id: u64, revision: i64 },
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

/// What a node itself knows, that declarations are judged against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeContext {
    /// The status listener's address; `None`: there is none. No endpoint may want it.
    pub status_addr: Option<std::net::SocketAddr>,
    /// `--host`: where endpoints without a `host` bind.
    pub default_host: std::net::IpAddr,
    /// `--node-label`: what `nodes:` selectors are matched against.
    pub labels: std::collections::BTreeMap<String, String>,
}

impl Default for NodeContext {
    /// A node as it starts without flags.
    fn default() -> Self {
        Self {
            status_addr: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 8080))),
            default_host: std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
            labels: std::collections::BTreeMap::new(),
        }
    }
}
