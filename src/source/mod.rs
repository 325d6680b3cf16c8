//! Sources of snapshots: a directory, a git ref, etcd, the program itself.
//!
//! A source is a task that owns its connection to the outside. It sends whole [`SourceReading`]s, never deltas; an event, a
//! timer or a request only makes it read again. It must never interpret a document.

mod debounce;
mod directory;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod fingerprint;
mod git;
mod git_ref;
mod memory;
mod rollback;
mod walk;
mod watch;
mod work_tree;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

#[cfg(feature = "etcd")]
pub(crate) use directory::jittered;
pub use directory::{DirectoryOptions, DirectoryReader, spawn_directory};
pub use error::{SourceErrorCounts, SourceErrorKind};
use git::Repository;
pub use git_ref::{GitRefReader, spawn_git_ref};
pub(crate) use memory::MEMORY;
pub use memory::{MemoryFile, memory_snapshot, spawn_memory};
pub use watch::Watch;

use weir_declare::config::Snapshot;
use weir_declare::reconcile::Timestamp;

/// A source, read whole.
#[derive(Debug, Clone)]
pub struct SourceReading {
    pub snapshot: Snapshot,
    /// The revision's commit, where git has one.
    pub commit: Option<Commit>,
    /// `Some`: files were being written during the reading (and the reason for that belief). Its documents may be
    /// applied; a document that is missing in it is not deleted.
    pub unsettled: Option<String>,
    /// All documents are in it: one that is not there any more was deleted on purpose.
    pub absence_is_deletion: bool,
    /// Ignored paths: hidden files, files that are not YAML. As messages show them.
    pub ignored: Vec<String>,
    /// Other notes, logged once: for example that the revision is a content hash because git failed.
    pub notes: Vec<String>,
    /// Of a store; `None` for files.
    pub store: Option<StoreFacts>,
    /// Begin and end of a full reading; `None`: a watch reported the changes.
    pub read: Option<(Instant, Instant)>,
}

/// Facts about a store besides its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    pub cluster_id: u64,
    /// The revision up to which the documents are read; at or after the snapshot's own revision.
    pub read_revision: i64,
    /// How often everything was listed.
    pub reads: u64,
    /// Over the documents as bytes: `etcd::documents_digest`.
    pub documents_digest: String,
}

/// A commit, as git reports it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Commit {
    pub id: String,
    /// `Name <address>`.
    pub author: String,
    pub committed_at: Timestamp,
    /// The message's first line.
    pub subject: String,
}

/// How a commit relates to another, later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitPresence {
    /// It is that commit or one of its ancestors.
    Contained,
    /// It is an ancestor, but every file that it changed has an earlier content again.
    RolledBack,
    /// It is neither.
    Absent,
}

/// Whether `commit` is in the history of the commit `of`, in the repository that `directory` lies in. Both are hexadecimal ids or
/// their beginnings. `None`: there is no repository, it lacks one of the commits, or git fails. It runs git, so it blocks.
pub fn commit_presence(directory: &Path, commit: &str, of: &str) -> Option<CommitPresence> {
    let answer = Repository::discover(directory)?.presence(commit, of);
    answer.unwrap_or_else(|error| {
        tracing::debug!(commit, of, "commit ancestry unknown: {error}");
        None
    })
}

/// Why a source cannot be read at all. Never a deletion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    pub kind: SourceErrorKind,
    /// The error, its place, and what to do.
    pub message: String,
}

impl SourceError {
    fn new(message: impl Into<String>) -> Self {
        Self { kind: SourceErrorKind::Unreadable, message: message.into() }
    }
}

/// An event for the reconciler.
#[derive(Debug)]
pub enum SourceEvent {
    Read(Box<SourceReading>),
    Failed(SourceError),
}

/// The reconciler's end of a source. Dropping it ends the source's task.
#[derive(Debug)]
pub struct SourceHandle {
    /// `directory`, `git`, `etcd` or `memory`.
    pub kind: &'static str,
    /// The directory, or the etcd URLs and prefix (no credentials).
    pub location: String,
    /// One reading may wait; a source that is faster than its reader waits with the next.
    pub events: mpsc::Receiver<SourceEvent>,
    /// Counters of its errors.
    pub incidents: Arc<SourceErrorCounts>,
    resync_requested: Arc<Notify>,
}

impl SourceHandle {
    /// A source that reads when `resync_requested` is notified and sends to `events`.
    pub fn new(
        kind: &'static str,
        location: String,
        events: mpsc::Receiver<SourceEvent>,
        resync_requested: Arc<Notify>,
    ) -> Self {
        Self { kind, location, events, incidents: Arc::default(), resync_requested }
    }

    /// Requests a resync without the source itself.
    pub fn resync_requester(&self) -> Arc<Notify> {
        Arc::clone(&self.resync_requested)
    }

    /// Requests a reading (a periodic pass, SIGHUP, a confirmation of a deletion). Every request is followed by an
    /// event; several may share one.
    pub fn request_resync(&self) {
        self.resync_requested.notify_one();
    }
}
