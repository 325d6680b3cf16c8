//! What can be wrong with a source, as a closed set of words, and how often each was.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// The kinds of trouble; each is the metric's label and the status's word. None of them deletes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum TroubleKind {
    /// A directory or a repository that cannot be read.
    Unreadable,
    /// No server answers at the address.
    Unreachable,
    /// A server that answered is silent: stopped, or behind a connection that is open on one side only.
    TimedOut,
    /// The user may not read what is declared, or not write its own state.
    PermissionDenied,
    /// The user or the password is wrong, or the token has expired.
    Unauthenticated,
    /// The store's servers have no leader among them.
    NoLeader,
    /// The store is full: it answers, and takes no writes.
    NoSpace,
    /// The revision to go on from was compacted: everything was listed anew.
    Compacted,
    /// The store was wiped, or restored from a backup: it is at an older revision, or another store.
    WentBack,
    /// A push has begun and not ended: its documents are not complete.
    HalfPushed,
    /// More than is read of a source.
    TooLarge,
    /// The watch ended, for no other known cause: everything was listed anew.
    WatchEnded,
    /// Anything else; the message tells.
    Other,
}

impl TroubleKind {
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

/// How often a source was in which trouble, since the start; those that ended by themselves at once are counted too.
#[derive(Debug, Default)]
pub struct Incidents([AtomicU64; TroubleKind::ALL.len()]);

impl Incidents {
    /// Counts one.
    pub fn count(&self, kind: TroubleKind) {
        self.0[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted, by word; nought left out.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        let counted = TroubleKind::ALL.into_iter().zip(&self.0);
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
    fn each_kind_has_its_place_and_its_word() {
        let incidents = Incidents::default();
        for (at, kind) in TroubleKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, at);
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            incidents.count(kind);
        }
        assert_eq!(incidents.counts().len(), TroubleKind::ALL.len());
    }
}
