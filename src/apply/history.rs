//! The history: every change of the declared or live state and every refused attempt; bounded, saved across restarts.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use crate::source::SourceReading;
use crate::state::{HistoryAction, HistoryEntry, Outcome};
use crate::store::{Journal, StoreError};
use weir_declare::config::{self, Declared, Diagnostic};
use weir_declare::reconcile::Timestamp;

/// Entries in memory and on disk.
pub const HISTORY_MAX: usize = 500;
/// Bytes of an entry's diff; a longer one is cut, with a note.
const DIFF_BYTES_MAX: usize = 64 << 10;

/// The history, newest last.
#[derive(Debug, Default)]
pub struct History {
    entries: Arc<VecDeque<HistoryEntry>>,
    journal: Option<Journal<HistoryEntry>>,
    /// The last refusal of a whole snapshot, so that each is recorded once.
    refused: Option<(String, Arc<[Diagnostic]>)>,
    /// The changes that were refused or waiting as of the last entry.
    blocked_changes: BTreeSet<BlockedChange>,
    /// The declared documents as of the last entry: the next entry's diff starts from them.
    declared: Arc<Declared>,
}

/// A change that is not done, and does not fail in the doing: its document is wrong, or it waits to be confirmed.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BlockedChange {
    pub(super) endpoint: String,
    pub(super) action: &'static str,
    pub(super) why: String,
}

impl History {
    /// Goes on where `entries` end; new ones are written to `journal`.
    pub fn resume(journal: Option<Journal<HistoryEntry>>, entries: VecDeque<HistoryEntry>) -> Self {
        Self { entries: Arc::new(entries), journal, ..Self::default() }
    }

    /// Sets the declaration in force at the start, to which the last entries of an earlier run led.
    pub(super) fn start_from(&mut self, declared: &Arc<Declared>) {
        self.declared = Arc::clone(declared);
    }

    /// All entries.
    pub fn entries(&self) -> Arc<VecDeque<HistoryEntry>> {
        Arc::clone(&self.entries)
    }

    /// Records the refusal of a whole snapshot; returns whether it is a new one.
    pub(super) fn record_refusal(
        &mut self,
        reading: &SourceReading,
        summary: &str,
        diagnostics: &Arc<[Diagnostic]>,
        now: Timestamp,
    ) -> bool {
        let revision = reading.snapshot.revision.to_string();
        let refused = Some((revision.clone(), Arc::clone(diagnostics)));
        if self.refused == refused {
            return false;
        }
        self.refused = refused;
        let actions = diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).map(|diagnostic| HistoryAction {
            endpoint: diagnostic.identity.as_ref().map(|identity| identity.name.to_string()).unwrap_or_default(),
            action: "refused".to_owned(),
            error: Some(diagnostic.to_string()),
        });
        self.push(HistoryEntry {
            sequence: 0,
            at: now,
            revision,
            commit: reading.commit.clone(),
            outcome: Outcome::Refused,
            summary: summary.to_owned(),
            actions: actions.collect(),
            diff: String::new(),
            duration_us: 0,
        });
        true
    }

    /// The blocked changes that were not recorded before.
    pub(super) fn newly_blocked(&mut self, blocked_changes: BTreeSet<BlockedChange>) -> Vec<HistoryAction> {
        let news = blocked_changes.difference(&self.blocked_changes).map(|news| HistoryAction {
            endpoint: news.endpoint.clone(),
            action: news.action.to_owned(),
            error: Some(news.why.clone()),
        });
        let news = news.collect();
        self.blocked_changes = blocked_changes;
        news
    }

    /// The unified diff of the declared documents since the last call, document by document. Empty where none changed.
    pub(super) fn diff_to(&mut self, declared: &Arc<Declared>) -> String {
        let before = std::mem::replace(&mut self.declared, Arc::clone(declared));
        let mut diff = config::diff_declared(&before, declared);
        if diff.len() > DIFF_BYTES_MAX {
            let end = (0..=DIFF_BYTES_MAX).rev().find(|at| diff.is_char_boundary(*at)).unwrap_or_default();
            diff.truncate(end);
            diff.push_str("\n... the rest is left out\n");
        }
        diff
    }

    /// Records a change; its sequence number is given here.
    pub(super) fn push(&mut self, mut entry: HistoryEntry) {
        entry.sequence = self.entries.back().map_or(1, |last| last.sequence + 1);
        let entries = Arc::make_mut(&mut self.entries);
        entries.push_back(entry);
        while entries.len() > HISTORY_MAX {
            entries.pop_front();
        }
        if let Some(journal) = &mut self.journal
            && let Err(error) = journal.append(&self.entries)
        {
            tracing::error!(%error, "history write failed: it is retried");
        }
    }

    /// Entries that are not on disk, because they could not be written.
    pub(super) fn unsaved(&self) -> usize {
        self.journal.as_ref().map_or(0, Journal::unsaved)
    }

    /// Writes entries that could not be written before.
    ///
    /// # Errors
    /// They still cannot be written.
    pub(super) fn save(&mut self) -> Result<(), StoreError> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.save(&self.entries))
    }
}
