//! The state of the source, and the log lines about it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::source::{SourceError, SourceErrorCounts, SourceReading};
use crate::state::{LastKnownGood, SourceFailure, SourceState, StoreState};
use weir_declare::config::{Diagnostic, Loaded};
use weir_declare::reconcile::Timestamp;

/// What was read of the source, and what was logged about it.
pub(super) struct SourceTracker {
    state: SourceState,
    incidents: Arc<SourceErrorCounts>,
    /// The diagnostics of the last reading.
    diagnostics: Arc<[Diagnostic]>,
    /// Notes that were logged, so that each is logged once.
    logged: BTreeSet<String>,
}

impl SourceTracker {
    /// Nothing is read yet.
    pub(super) fn new(kind: &'static str, location: String, incidents: Arc<SourceErrorCounts>) -> Self {
        let state = SourceState {
            kind,
            location,
            attempted_revision: None,
            applied_revision: None,
            applied_at: None,
            commit: None,
            last_read_at: None,
            reads: 0,
            store: None,
            error: None,
            incidents: Default::default(),
            last_known_good: None,
            ignored: Vec::new(),
        };
        Self { state, incidents, diagnostics: Arc::from([]), logged: BTreeSet::new() }
    }

    /// The state as of the last event.
    pub(super) fn state(&self) -> &SourceState {
        &self.state
    }

    /// The state with the current counts of errors, to be published.
    pub(super) fn published(&self) -> SourceState {
        SourceState { incidents: self.incidents.counts(), ..self.state.clone() }
    }

    pub(super) fn diagnostics(&self) -> &Arc<[Diagnostic]> {
        &self.diagnostics
    }

    /// Errors in the last reading.
    pub(super) fn errors(&self) -> impl Iterator<Item = &Diagnostic> {
        self.diagnostics.iter().filter(|diagnostic| diagnostic.is_error())
    }

    /// Records a reading, and logs what is new about it.
    pub(super) fn record_reading(&mut self, reading: &SourceReading, now: Timestamp) {
        if let Some(error) = self.state.error.take() {
            tracing::info!(source = self.state.location, "source read recovered, after: {}", error.message);
        }
        self.state.attempted_revision = Some(reading.snapshot.revision.to_string());
        self.state.commit.clone_from(&reading.commit);
        self.state.last_read_at = Some(now);
        match &reading.store {
            None => self.state.reads += 1,
            Some(facts) => {
                self.state.reads = facts.reads;
                let applied = self.state.store.take().and_then(|store| store.applied_documents);
                self.state.store = Some(StoreState {
                    cluster_id: format!("{:x}", facts.cluster_id),
                    read_revision: facts.read_revision,
                    attempted_documents: facts.documents_digest.clone(),
                    applied_documents: applied,
                });
            }
        }
        self.state.ignored.clone_from(&reading.ignored);
        for path in &reading.ignored {
            if self.logged.insert(path.clone()) {
                tracing::info!(
                    path,
                    "file ignored: not a visible .yaml, .yml or .json file (documents may still refer to it)"
                );
            }
        }
        for note in reading.notes.iter().chain(&reading.unsettled) {
            if self.logged.insert(note.clone()) {
                tracing::warn!("source warning: {note}");
            }
        }
    }

    /// Takes the diagnostics of a reading, and logs new ones and resolved errors.
    pub(super) fn record_diagnostics(&mut self, loaded: &Loaded) {
        if *self.diagnostics == *loaded.diagnostics {
            return;
        }
        for diagnostic in loaded.diagnostics.iter().filter(|known| !self.diagnostics.contains(known)) {
            if diagnostic.is_error() {
                tracing::error!("config error: {diagnostic}");
            } else {
                tracing::warn!("config warning: {diagnostic}");
            }
        }
        for resolved in self.errors().filter(|known| !loaded.diagnostics.contains(known)) {
            tracing::info!("config error resolved: {resolved}");
        }
        self.diagnostics = Arc::from(loaded.diagnostics.as_slice());
    }

    /// Logs once that the declaration is empty.
    pub(super) fn record_empty(&mut self) {
        if self.logged.insert("empty".to_owned()) {
            tracing::warn!(
                source = self.state.location,
                "declaration is empty: waiting for an endpoint (--allow-empty applies an empty declaration)"
            );
        }
    }

    /// Records that the source cannot be read; `is_serving`: there is a declaration to serve.
    pub(super) fn record_failure(&mut self, error: &SourceError, is_serving: bool, now: Timestamp) {
        let since = match &self.state.error {
            Some(known) if known.message == error.message => known.since,
            _ => {
                let meanwhile = if is_serving { "the last declaration stays applied" } else { "nothing is served yet" };
                tracing::error!(source = self.state.location, "source read failed: {error}; {meanwhile}; retrying");
                now
            }
        };
        self.state.error = Some(SourceFailure { kind: error.kind, message: error.message.clone(), since });
    }

    /// Records that the last known good declaration is served.
    pub(super) fn serve_last_known_good(&mut self, restored: &LastKnownGood) {
        self.state.last_known_good = Some(restored.clone());
    }

    /// Records that a reading is applied.
    pub(super) fn record_applied(&mut self, reading: &SourceReading, now: Timestamp) {
        self.state.applied_revision = Some(reading.snapshot.revision.to_string());
        self.state.applied_at = Some(now);
        if let Some(store) = &mut self.state.store {
            store.applied_documents = Some(store.attempted_documents.clone());
        }
        self.state.last_known_good = None;
    }
}
