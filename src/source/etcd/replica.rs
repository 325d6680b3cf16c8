//! This broker's copy of the prefix: takes listings and changes, gives readings. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use super::marker::{MARKER_KEY, Marker, MarkerError, PushState, content_hash, document_path, documents_digest};
use crate::source::{SourceError, SourceErrorKind, SourceReading, StoreFacts};
use weir_declare::config::{ReadError, Revision, Snapshot, SourceFile};
use weir_declare::reconcile::Timestamp;

/// A value under the prefix.
#[derive(Debug, Clone)]
pub(super) struct StoredValue {
    pub(super) mod_revision: i64,
    pub(super) bytes: Arc<[u8]>,
    hash: [u8; 32],
    /// `None`: no document.
    path: Option<Arc<str>>,
    /// The whole key.
    shown: Arc<str>,
}

/// Everything below `endpoints/`, at one revision. Keys are relative.
#[derive(Debug, Clone, Default)]
pub(super) struct Listing {
    pub(super) cluster_id: u64,
    pub(super) revision: i64,
    pub(super) keys: BTreeMap<Vec<u8>, StoredValue>,
}

/// A change of one key, as the watch reports it.
#[derive(Debug, Clone)]
pub(super) struct KeyChange {
    pub(super) key: Vec<u8>,
    pub(super) revision: i64,
    /// `None`: deleted.
    pub(super) value: Option<Vec<u8>>,
}

/// The state that an earlier run saved: a store that is behind it has lost documents.
#[derive(Debug, Clone, Default)]
pub struct PriorState {
    pub revision: i64,
    pub saved_at: Timestamp,
    /// Documents' paths below `endpoints/`.
    pub paths: BTreeSet<Arc<str>>,
}

/// The content of the prefix.
#[derive(Debug)]
pub(super) struct Replica {
    /// `/weir/endpoints/`.
    prefix: Arc<str>,
    /// How messages call the whole: `http://127.0.0.1:2379 /weir/`.
    origin: Arc<str>,
    /// The directory that file references of documents are relative to.
    base: Arc<Path>,
    cluster_id: Option<u64>,
    /// The revision of the last change of the content, as far as it is known; brokers and messages show this one.
    revision: i64,
    /// The revision up to which the content is read.
    read_revision: i64,
    /// Events up to this one are in the last listing.
    listed_revision: i64,
    reads: u64,
    keys: BTreeMap<Vec<u8>, StoredValue>,
    /// Documents that the store lost when it went back; they stay until an operator decides.
    lost: BTreeSet<Arc<str>>,
    /// The time of the newest known push.
    last_push: Timestamp,
    known: Option<PriorState>,
}

/// The result of applying a listing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ListingOutcome {
    pub(super) changed: bool,
    pub(super) rolled_back: bool,
}

/// The content as a reading, or the reason why there is none.
#[derive(Debug)]
pub(super) enum ReplicaView {
    Complete(Box<SourceReading>),
    /// A push has not ended: none of it may be applied. `base` is the revision before it.
    PushInProgress {
        error: SourceError,
        base: i64,
    },
}

impl StoredValue {
    pub(super) fn new(prefix: &str, key: &[u8], mod_revision: i64, bytes: &[u8]) -> Self {
        Self {
            mod_revision,
            bytes: Arc::from(bytes),
            hash: content_hash(bytes),
            path: document_path(key),
            shown: Arc::from(format!("{prefix}{}", String::from_utf8_lossy(key))),
        }
    }

    /// The document's path and its hash.
    pub(super) fn document(&self) -> Option<(&Arc<str>, &[u8; 32])> {
        Some((self.path.as_ref()?, &self.hash))
    }
}

impl Listing {
    /// The marker, where there is one that is understood.
    pub(super) fn marker(&self) -> Option<Marker> {
        Marker::parse(&self.keys.get(MARKER_KEY.as_bytes())?.bytes).ok()
    }

    /// The documents, by path.
    pub(super) fn documents(&self) -> impl Iterator<Item = (&Arc<str>, &StoredValue)> {
        self.keys.values().filter_map(|stored| Some((stored.path.as_ref()?, stored)))
    }

    /// The documents' digest.
    pub(super) fn digest(&self) -> String {
        digest(&self.keys)
    }
}

fn digest(keys: &BTreeMap<Vec<u8>, StoredValue>) -> String {
    documents_digest(keys.values().filter_map(StoredValue::document).map(|(path, hash)| (&**path, hash)))
}

impl Replica {
    /// Nothing is read yet.
    pub(super) fn new(prefix: &str, origin: &str, base: &Path, known: Option<PriorState>) -> Self {
        Self {
            prefix: Arc::from(prefix),
            origin: Arc::from(origin),
            base: Arc::from(base),
            cluster_id: None,
            revision: 0,
            read_revision: known.as_ref().map_or(0, |known| known.revision),
            listed_revision: 0,
            reads: 0,
            keys: BTreeMap::new(),
            lost: BTreeSet::new(),
            last_push: known.as_ref().map_or_else(Timestamp::default, |known| known.saved_at),
            known,
        }
    }

    /// The revision that a watch starts from.
    pub(super) fn watch_from(&self) -> i64 {
        self.listed_revision + 1
    }

    /// Whether a header of this cluster and revision belongs to a store that is behind the known state.
    pub(super) fn is_behind(&self, cluster_id: u64, revision: i64) -> bool {
        self.cluster_id.is_some_and(|known| known != cluster_id) || revision < self.read_revision
    }

    /// Documents that were known and are not in the listing, of a store that may be the one that is known: then it
    /// still has them at the revision that is answered, and they were deleted later. A store that was restored and has
    /// grown past that revision has not.
    pub(super) fn revision_to_verify(&self, listing: &Listing) -> Option<i64> {
        let there: BTreeSet<&Arc<str>> = listing.documents().map(|(path, _)| path).collect();
        let is_missing = self.known_paths().any(|path| !there.contains(path));
        let can_tell = self.read_revision > 0 && !self.is_behind(listing.cluster_id, listing.revision);
        (is_missing && can_tell).then_some(self.read_revision)
    }

    /// Whether the store has the known documents at the revision of [`Replica::revision_to_verify`].
    pub(super) fn confirms(&self, past: &Listing) -> bool {
        let there: BTreeMap<&Arc<str>, &StoredValue> = past.documents().collect();
        let same = |stored: &StoredValue| {
            let path = stored.path.as_ref();
            path.is_none_or(|path| there.get(path).is_some_and(|past| past.mod_revision == stored.mod_revision))
        };
        self.keys.values().all(same)
            && self.known.iter().flat_map(|known| &known.paths).all(|path| there.contains_key(path))
    }

    fn known_paths(&self) -> impl Iterator<Item = &Arc<str>> {
        let before = self.known.iter().flat_map(|known| &known.paths);
        self.keys.values().filter_map(|stored| stored.path.as_ref()).chain(before)
    }

    /// Replaces the content by a listing; documents that a store lost when it went back stay. `is_another`: it is not
    /// the known store, whatever its revision.
    pub(super) fn apply_listing(&mut self, listing: Listing, is_another: bool) -> ListingOutcome {
        let first = self.cluster_id.is_none();
        let rolled_back = is_another || self.is_behind(listing.cluster_id, listing.revision);
        if rolled_back {
            let had: Vec<Arc<str>> = self.known_paths().cloned().collect();
            self.lost.extend(had);
        }
        self.known = None;
        let changed = first || rolled_back || !same(&self.keys, &listing.keys);
        if changed {
            self.revision = listing.revision;
        }
        self.cluster_id = Some(listing.cluster_id);
        self.read_revision = listing.revision;
        self.listed_revision = listing.revision;
        self.reads += 1;
        if changed {
            let before = std::mem::replace(&mut self.keys, listing.keys);
            self.share(&before);
        }
        self.resolve_lost();
        ListingOutcome { changed, rolled_back }
    }

    /// Applies changes of the watch, whole revisions. Returns whether the content changed.
    pub(super) fn apply(&mut self, changes: Vec<KeyChange>) -> bool {
        let mut changed = false;
        for change in changes.into_iter().filter(|change| change.revision > self.listed_revision) {
            changed = true;
            self.revision = self.revision.max(change.revision);
            self.read_revision = self.read_revision.max(change.revision);
            // A put, or a deletion after one: an operator has decided.
            if let Some(path) = document_path(&change.key) {
                self.lost.remove(&path);
            }
            match change.value {
                Some(value) => {
                    let stored = StoredValue::new(&self.prefix, &change.key, change.revision, &value);
                    self.keys.insert(change.key, stored);
                }
                None => drop(self.keys.remove(&change.key)),
            }
        }
        self.resolve_lost();
        changed
    }

    /// Unchanged documents keep their allocation: the parser's cache compares pointers first.
    fn share(&mut self, before: &BTreeMap<Vec<u8>, StoredValue>) {
        for (key, stored) in &mut self.keys {
            if let Some(old) = before.get(key).filter(|old| old.hash == stored.hash) {
                stored.bytes = Arc::clone(&old.bytes);
            }
        }
    }

    /// Clears lost documents that exist again, and all of them after a newer push, which has decided about them.
    fn resolve_lost(&mut self) {
        let marker = self.marker().and_then(Result::ok).filter(|marker| marker.state == PushState::Complete);
        if let Some(marker) = marker.filter(|marker| marker.pushed_at > self.last_push) {
            self.last_push = marker.pushed_at;
            self.lost.clear();
        }
        if !self.lost.is_empty() {
            let there: BTreeSet<&Arc<str>> = self.keys.values().filter_map(|stored| stored.path.as_ref()).collect();
            self.lost.retain(|path| !there.contains(path));
        }
    }

    fn marker(&self) -> Option<Result<Marker, MarkerError>> {
        Some(Marker::parse(&self.keys.get(MARKER_KEY.as_bytes())?.bytes))
    }

    /// The reading to be applied, or why there is none.
    pub(super) fn view(&self) -> ReplicaView {
        let digest = digest(&self.keys);
        let mut notes = Vec::new();
        let mut commit = None;
        match self.marker() {
            Some(Ok(marker)) if marker.digest == digest => {
                if let (true, Some(commit)) = (marker.dirty, &marker.commit) {
                    notes.push(format!("pushed from a work tree that differs from commit {}", commit.id));
                }
                commit = marker.commit;
            }
            Some(Ok(marker)) if marker.state == PushState::Begun => return self.push_in_progress(&marker),
            Some(Ok(_)) | None => {}
            Some(Err(why)) => notes.push(format!("{}{MARKER_KEY} is not a push's marker: {why}", self.prefix)),
        }
        if !self.lost.is_empty() {
            notes.push(format!(
                "the store was wiped or restored: it has lost {} documents, which stay in force until they are put again, \
                 put and deleted, or `weir push` decides",
                self.lost.len()
            ));
        }
        ReplicaView::Complete(Box::new(SourceReading {
            snapshot: Snapshot {
                origin: Arc::clone(&self.origin),
                revision: Revision::Etcd { cluster_id: self.cluster_id.unwrap_or_default(), revision: self.revision },
                files: self.files(),
            },
            commit,
            unsettled: None,
            absence_is_deletion: false,
            ignored: self.ignored_keys(),
            notes,
            store: Some(StoreFacts {
                cluster_id: self.cluster_id.unwrap_or_default(),
                read_revision: self.read_revision,
                reads: self.reads,
                documents_digest: digest,
            }),
            read: None,
        }))
    }

    fn push_in_progress(&self, marker: &Marker) -> ReplicaView {
        let message = format!(
            "{}: the push of {} documents begun at {} has not ended: nothing is applied before it has; if it died, `weir \
             push` again",
            self.origin, marker.documents, marker.pushed_at
        );
        ReplicaView::PushInProgress {
            error: SourceError { kind: SourceErrorKind::HalfPushed, message },
            base: marker.base,
        }
    }

    fn files(&self) -> Vec<SourceFile> {
        let there = self.keys.values().filter_map(|stored| {
            let blank = stored.bytes.iter().all(u8::is_ascii_whitespace);
            let empty =
                || ReadError { message: "the value is empty; delete the key to delete what it declared".into() };
            Some(SourceFile {
                free_ports: false,
                path: Arc::clone(stored.path.as_ref()?),
                shown: Arc::clone(&stored.shown),
                base: Arc::clone(&self.base),
                content: if blank { Err(empty()) } else { Ok(Arc::clone(&stored.bytes)) },
            })
        });
        let lost = self.lost.iter().map(|path| SourceFile { free_ports: false,
            path: Arc::clone(path),
            shown: Arc::from(format!("{}{path}", self.prefix)),
            base: Arc::clone(&self.base),
            content: Err(ReadError {
                message: "the store was wiped or restored, and lost this key; put it again, put and delete it, or `weir push`"
                    .into(),
            }),
        });
        there.chain(lost).collect()
    }

    fn ignored_keys(&self) -> Vec<String> {
        let aside = self.keys.iter().filter(|(key, stored)| stored.path.is_none() && *key != MARKER_KEY.as_bytes());
        aside.map(|(_, stored)| stored.shown.to_string()).collect()
    }
}

fn same(a: &BTreeMap<Vec<u8>, StoredValue>, b: &BTreeMap<Vec<u8>, StoredValue>) -> bool {
    a.len() == b.len()
        && a.iter().zip(b).all(|((ak, a), (bk, b))| ak == bk && a.mod_revision == b.mod_revision && a.hash == b.hash)
}

#[cfg(test)]
#[path = "replica_tests.rs"]
mod tests;
