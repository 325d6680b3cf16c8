//! Where snapshots come from: a directory, a git ref, etcd.
//!
//! A source is a task that owns its connection to the outside. It hands over whole [`Reading`]s, never deltas: what moved
//! it to read again (an event, a timer, a nudge) is a hint and nobody's business but its own.

mod directory;
#[cfg(feature = "etcd")]
pub mod etcd;
mod git;
mod git_ref;
mod quiet;
mod stamp;
mod trouble;
mod walk;
mod watch;
mod work_tree;

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc};

#[cfg(feature = "etcd")]
pub(crate) use directory::jittered;
pub use directory::{DirectoryOptions, DirectoryReader, spawn_directory};
pub use git_ref::{GitRefReader, spawn_git_ref};
pub use trouble::{Incidents, TroubleKind};
pub use watch::Watch;

use weir_declare::config::Snapshot;
use weir_declare::reconcile::Timestamp;

/// A source, read whole.
#[derive(Debug, Clone)]
pub struct Reading {
    pub snapshot: Snapshot,
    /// The revision's commit, where git knows it.
    pub commit: Option<Commit>,
    /// `Some`: something was still writing while this was read (and what tells so). What is there may be applied; that
    /// something is not there proves nothing.
    pub unsettled: Option<String>,
    /// What was seen and left aside: hidden files, files that are not YAML. Paths as messages show them.
    pub ignored: Vec<String>,
    /// What else is worth saying once: the revision is a content hash because git could not be asked.
    pub notes: Vec<String>,
    /// Of a store; `None` for files.
    pub store: Option<StoreFacts>,
    /// From when to when all of it was read; `None`: a watch told what had changed.
    pub read: Option<(Instant, Instant)>,
}

/// What a store tells beside its documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFacts {
    pub cluster_id: u64,
    /// Up to which the documents are known; at or after the snapshot's own revision.
    pub read_revision: i64,
    /// How often everything was listed.
    pub reads: u64,
    /// Over the documents as bytes: `etcd::documents_digest`.
    pub documents_digest: String,
}

/// A commit, as git tells it.
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

/// Why a source cannot be read at all. Never a deletion.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SourceError {
    pub kind: TroubleKind,
    /// What is wrong, where, and what to do.
    pub message: String,
}

impl SourceError {
    fn new(message: impl Into<String>) -> Self {
        Self { kind: TroubleKind::Unreadable, message: message.into() }
    }
}

/// What a source tells the reconciler.
#[derive(Debug)]
pub enum SourceEvent {
    Read(Box<Reading>),
    Trouble(SourceError),
}

/// The reconciler's end of a source. Dropping it ends the source's task.
#[derive(Debug)]
pub struct SourceHandle {
    /// `directory`, `git` or `etcd`.
    pub kind: &'static str,
    /// The directory, or the etcd URLs and prefix (no credentials).
    pub location: String,
    /// One reading may wait; a source that is faster than its reader waits with the next.
    pub events: mpsc::Receiver<SourceEvent>,
    /// What it went through.
    pub incidents: Arc<Incidents>,
    nudge: Arc<Notify>,
}

impl SourceHandle {
    /// A source that is nudged through `nudge` and tells through `events`.
    pub fn new(kind: &'static str, location: String, events: mpsc::Receiver<SourceEvent>, nudge: Arc<Notify>) -> Self {
        Self { kind, location, events, incidents: Arc::default(), nudge }
    }

    /// What asks for a reading, for who does not hold the source.
    pub fn nudger(&self) -> Arc<Notify> {
        Arc::clone(&self.nudge)
    }

    /// Asks for a reading now (the periodic pass, SIGHUP, the second look before a deletion). Every nudge is followed by
    /// an event; several may share one.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }
}
