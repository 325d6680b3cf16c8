//! The kinds of source errors, and how often each occurred.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// The kind of a source error: the metric's label and the status's word. No error deletes a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum SourceErrorKind {
    /// A directory or a repository that cannot be read.
    Unreadable,
    /// No server answers at the address.
    Unreachable,
    /// A server that answered is silent: stopped, or behind a connection that is open on one side only.
    TimedOut,
    /// The user may not read the declarations, or not write its own state.
    PermissionDenied,
    /// The user or the password is wrong, or the token has expired.
    Unauthenticated,
    /// The store's servers have no leader among them.
    NoLeader,
    /// The store is full: it answers, and takes no writes.
    NoSpace,
    /// The revision to continue from was compacted: everything is listed again.
    Compacted,
    /// The store was wiped, or restored from a backup: it is at an older revision, or another store.
    WentBack,
    /// A push has begun and not ended: its documents are not complete.
    HalfPushed,
    /// More than is read of a source.
    TooLarge,
    /// The watch ended for no other known cause: everything is listed again.
    WatchEnded,
    /// Any other error; see its message.
    Other,
}

impl SourceErrorKind {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Unreadable,
        Self::Unreachable,
        Self::TimedOut,
        Self::PermissionDenied,
        Self::Unauthenticated,
        Self::NoLeader,
        Self::NoSpace,
        Self::Compacted,
        Self::WentBack,
        Self::HalfPushed,
        Self::TooLarge,
        Self::WatchEnded,
        Self::Other,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timedOut",
            Self::PermissionDenied => "permissionDenied",
            Self::Unauthenticated => "unauthenticated",
            Self::NoLeader => "noLeader",
            Self::NoSpace => "noSpace",
            Self::Compacted => "compacted",
            Self::WentBack => "wentBack",
            Self::HalfPushed => "halfPushed",
            Self::TooLarge => "tooLarge",
            Self::WatchEnded => "watchEnded",
            Self::Other => "other",
        }
    }
}

/// How often each kind of error occurred since the start, including errors that were gone at the next attempt.
#[derive(Debug, Default)]
pub struct SourceErrorCounts([AtomicU64; SourceErrorKind::ALL.len()]);

impl SourceErrorCounts {
    /// Counts one.
    pub fn count(&self, kind: SourceErrorKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts by kind, without zeros.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counted = SourceErrorKind::ALL.into_iter().zip(&self.0);
        counted
            .map(|(kind, count)| (kind.as_str(), count.load(Ordering::Relaxed)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_index_and_its_name() {
        let incidents = SourceErrorCounts::default();
        for (at, kind) in SourceErrorKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            incidents.count(kind);
        }
        assert_eq!(incidents.counts().len(), SourceErrorKind::ALL.len());
    }
}
