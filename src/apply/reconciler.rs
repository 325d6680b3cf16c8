//! The control plane's one loop body: a reading comes in, what can be brought to it is, and what came of it is published.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::bridges::Bridging;
use super::converge::{Converged, Failure};
use super::files::ReadFiles;
use super::held::tell_held;
use super::history::History;
use super::leave::{Drained, Leaving};
use super::plane::Plane;
use crate::auth::AuthCompiler;
use crate::net::{ListenerPolicy, SocketKey, SocketOptions};
use crate::source::{Incidents, Reading, SourceError};
use crate::state::PassDurations;
use crate::state::{ControlState, LastKnownGood, Phase, SharedState, SourceState, StoreState, Trouble};
use crate::store::StoreError;
use crate::telemetry::{PASS, Tracer};
use weir_broker::EndpointId;
use weir_declare::config::{
    self, BindAddress, DeclarationDigest, Declared, Diagnostic, Held, Identity, Kind, LastGood, Loaded, Name,
    NodeContext, Refusal,
};
use weir_declare::reconcile::{
    Conditions, EffectiveEndpoint, Guard, GuardDecision, GuardInput, Guarded, Node, Plan, Timestamp,
};

/// How this node reconciles.
#[derive(Debug, Clone)]
pub struct ReconcilerOptions {
    pub node_name: String,
    pub node: Node,
    /// What declarations are judged against.
    pub context: NodeContext,
    /// A snapshot with any error in it is refused whole.
    pub atomic: bool,
    /// An empty declaration is meant.
    pub allow_empty: bool,
    /// There is a store: endpoints may be `durability: disk`.
    pub has_store: bool,
}

/// What the loop does after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for a hint.
    Rest,
    /// Something is missing that was there: read again soon, before believing it.
    LookAgain,
    /// Something failed that may succeed later: try again.
    Retry,
}

/// An endpoint that listens.
pub(super) struct Running {
    pub(super) id: EndpointId,
    pub(super) effective: EffectiveEndpoint,
    pub(super) address: BindAddress,
    /// As people see it.
    pub(super) shown_address: Arc<str>,
    pub(super) key: SocketKey,
    /// As the socket itself said in this pass.
    pub(super) listening: bool,
    pub(super) options: SocketOptions,
    pub(super) policy: Arc<ListenerPolicy>,
    /// Over all that it runs by.
    pub(super) digest: Arc<str>,
    pub(super) certificate_expires_at: Option<Timestamp>,
}

/// Declared, live, and how the one became the other.
pub struct Reconciler<P: Plane, F: ReadFiles> {
    pub(super) options: ReconcilerOptions,
    pub(super) plane: Arc<P>,
    pub(super) files: F,
    /// The node's memory of who failed and who comes too often, and its compiled auth documents.
    pub(super) auth_compiler: AuthCompiler,
    pub(super) guard: Guard,
    /// What the validator remembers.
    pub(super) previous: LastGood,
    /// What is to run: the last accepted declaration, with what the guard keeps of older ones.
    pub(super) applied: Arc<Declared>,
    /// Whether anything was ever accepted.
    pub(super) accepted_any: bool,
    /// What was known to be good before the start.
    pub(super) restored: Option<LastKnownGood>,
    /// Whether `previous` is not yet kept.
    pub(super) unsaved: bool,
    /// Whether something is held of which `previous` is not yet kept.
    pub(super) newly_held: bool,
    /// Whether anything was ever brought about.
    pub(super) begun: bool,
    /// What the guard leaves as it was although the source has it otherwise.
    pub(super) held: BTreeMap<Identity, Held>,
    pub(super) refusals: BTreeMap<Identity, Refusal>,
    pub(super) diagnostics: Arc<[Diagnostic]>,
    pub(super) running: BTreeMap<Name, Running>,
    pub(super) leaving: Vec<Leaving>,
    pub(super) bridges: Bridging,
    /// Drains under way, by endpoint.
    pub(super) draining: BTreeMap<Name, u32>,
    pub(super) conditions: BTreeMap<Name, Conditions>,
    pub(super) generations: BTreeMap<Name, u64>,
    pub(super) next_id: u32,
    pub(super) plan: Arc<Plan>,
    pub(super) failures: BTreeMap<Name, Failure>,
    pub(super) source: SourceState,
    pub(super) incidents: Arc<Incidents>,
    pub(super) suspended: bool,
    pub(super) phase: Phase,
    pub(super) started_at: Timestamp,
    pub(super) declaration_digest: String,
    digester: DeclarationDigest,
    pub(super) history: History,
    pub(super) passes: u64,
    pub(super) last_pass_us: u64,
    pub(super) pass_durations: PassDurations,
    pub(super) shared: Arc<SharedState>,
    pub(super) drained: mpsc::UnboundedSender<Drained>,
    /// What was said of the source before, so that it is said once.
    pub(super) said: BTreeSet<String>,
    pub(super) tracer: Tracer,
}

/// What a reconciler starts with.
pub struct Start {
    pub options: ReconcilerOptions,
    /// `directory`, `git` or `etcd`, and where.
    pub source_kind: &'static str,
    pub source_location: String,
    /// What the source counts.
    pub incidents: Arc<Incidents>,
    /// The last known good declarations, where there are any: revision, when they were saved, what they are.
    pub last_known_good: Option<(String, Timestamp, LastGood)>,
    pub history: History,
    pub now: Timestamp,
}

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// Nothing listens yet. The second value tells when drains have come to their end: hand what it yields to
    /// [`Reconciler::drain_ended`].
    pub fn new(start: Start, plane: P, files: F) -> (Self, mpsc::UnboundedReceiver<Drained>) {
        let (drained, ended) = mpsc::unbounded_channel();
        let now = start.now;
        let restored = start.last_known_good.as_ref().map(|(revision, saved_at, _)| LastKnownGood {
            revision: revision.clone(),
            saved_at: *saved_at,
            since: now,
        });
        let previous = start.last_known_good.map(|(_, _, previous)| previous).unwrap_or_default();
        let held = previous.held().clone();
        held.iter().for_each(|(identity, held)| tell_held(identity, held));
        let applied = Arc::new(previous.declared());
        let mut history = start.history;
        history.start_from(&applied);
        let source = SourceState {
            kind: start.source_kind,
            location: start.source_location,
            attempted_revision: None,
            applied_revision: None,
            applied_at: None,
            commit: None,
            last_read_at: None,
            reads: 0,
            store: None,
            trouble: None,
            incidents: BTreeMap::new(),
            last_known_good: None,
            ignored: Vec::new(),
        };
        let first = ControlState::starting(start.options.node_name.clone(), now, source.clone());
        let reconciler = Self {
            options: start.options,
            plane: Arc::new(plane),
            files,
            auth_compiler: AuthCompiler::default(),
            guard: Guard::resume(&held),
            previous,
            accepted_any: restored.is_some(),
            declaration_digest: String::new(),
            digester: DeclarationDigest::default(),
            applied,
            restored,
            begun: false,
            unsaved: false,
            newly_held: false,
            held,
            refusals: BTreeMap::new(),
            diagnostics: Arc::from([]),
            running: BTreeMap::new(),
            leaving: Vec::new(),
            bridges: Bridging::default(),
            draining: BTreeMap::new(),
            conditions: BTreeMap::new(),
            generations: BTreeMap::new(),
            next_id: 1,
            plan: Arc::default(),
            failures: BTreeMap::new(),
            source,
            incidents: start.incidents,
            suspended: false,
            phase: Phase::Starting,
            started_at: now,
            history,
            passes: 0,
            last_pass_us: 0,
            pass_durations: PassDurations::default(),
            shared: Arc::new(SharedState::new(first)),
            drained,
            said: BTreeSet::new(),
            tracer: Tracer::default(),
        };
        (reconciler, ended)
    }

    /// Has declared bridges run by `host`. Without one they are only declared.
    pub fn run_bridges_on(&mut self, host: crate::net::bridge::BridgeHost) {
        self.bridges.run_on(host);
    }

    /// Drains and disconnects every bridge; their sessions stay.
    pub async fn pause_bridges(&mut self) {
        self.bridges.pause().await;
    }

    /// Where what is known is published.
    pub fn state(&self) -> Arc<SharedState> {
        Arc::clone(&self.shared)
    }

    /// Whether what is to survive a restart has changed since the last call.
    pub fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// What is to survive a restart: the revision and the declarations.
    pub fn last_known_good(&self) -> Option<(String, LastGood)> {
        let restored = || self.restored.as_ref().map(|known| known.revision.clone());
        Some((self.source.applied_revision.clone().or_else(restored)?, self.previous.clone()))
    }

    /// History entries that are not on disk, because they could not be written.
    pub fn unsaved_history(&self) -> usize {
        self.history.unsaved()
    }

    /// Writes history entries that could not be written before.
    ///
    /// # Errors
    /// They still cannot be written.
    pub fn save_history(&mut self) -> Result<(), StoreError> {
        self.history.save()
    }

    /// A reading of the source: judge it, apply what can be applied, publish what came of it.
    pub async fn read(&mut self, reading: Reading, now: Timestamp) -> Next {
        self.begin_pass("reading", Some(&reading));
        let next = self.take_in(reading, now).await;
        self.end_pass(next);
        next
    }

    async fn take_in(&mut self, reading: Reading, now: Timestamp) -> Next {
        self.note_reading(&reading, now);
        let validating = self.tracer.step(PASS, "validate");
        let loaded = config::load(&reading.snapshot, &self.previous, &self.options.context);
        self.end_validation(validating, reading.snapshot.files.len(), &loaded);
        self.note_diagnostics(&loaded);
        if self.options.atomic && !loaded.is_valid() {
            self.refuse_whole(&reading, &loaded, now);
            return self.bring_about(None, now).await;
        }
        let refused: BTreeSet<Identity> = loaded.refusals.keys().cloned().collect();
        let unreadable = unreadable_places(&reading);
        let observed = GuardInput {
            declared: &loaded.declared,
            refused: &refused,
            unreadable: &unreadable,
            settled: reading.unsettled.is_none(),
            allow_empty: self.options.allow_empty,
        };
        match self.guard.check(&self.applied, &observed, now) {
            GuardDecision::ReadAgain { missing } => {
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                tracing::debug!(missing = names.join(", "), "not there any longer; looking again before believing it");
                if self.begun {
                    self.bring_about(None, now).await; // what listens is kept alive meanwhile
                }
                Next::LookAgain
            }
            GuardDecision::Proceed(guarded) => {
                if self.is_empty_start(&guarded.declared) {
                    return self.wait_for_declarations(now).await;
                }
                self.accept(loaded, guarded);
                self.bring_about(Some(&reading), now).await
            }
        }
    }

    /// The source cannot be read: say so, keep alive what is live.
    pub async fn trouble(&mut self, error: &SourceError, now: Timestamp) -> Next {
        self.begin_pass("trouble", None);
        self.tracer.set(PASS, "weir.source.trouble", error.kind.as_str());
        let next = self.live_without(error, now).await;
        self.end_pass(next);
        next
    }

    async fn live_without(&mut self, error: &SourceError, now: Timestamp) -> Next {
        let since = match &self.source.trouble {
            Some(known) if known.message == error.message => known.since,
            _ => {
                let nothing = !self.accepted_any && self.restored.is_none();
                let meanwhile = if nothing { "nothing is served yet" } else { "what was declared last stays in force" };
                tracing::error!(source = self.source.location, "{error}; {meanwhile}; it is tried again");
                now
            }
        };
        self.source.trouble = Some(Trouble { kind: error.kind, message: error.message.clone(), since });
        if !self.begun
            && let Some(known) = &mut self.restored
        {
            tracing::warn!(
                revision = known.revision, saved_at = %known.saved_at, endpoints = self.applied.endpoints.len(),
                "serving the last known good declaration"
            );
            known.since = now;
            self.source.last_known_good = Some(known.clone());
        }
        self.bring_about(None, now).await
    }

    /// Nothing new was read: plans declared against live once more, for whatever healed or broke.
    pub async fn tick(&mut self, now: Timestamp) -> Next {
        self.begin_pass("retry", None);
        let next = self.bring_about(None, now).await;
        self.end_pass(next);
        next
    }

    /// The broker stops: the status says so from now on.
    pub fn begin_shutdown(&mut self) {
        self.phase = Phase::Draining;
        self.observe();
    }

    fn note_reading(&mut self, reading: &Reading, now: Timestamp) {
        if let Some(trouble) = self.source.trouble.take() {
            tracing::info!(source = self.source.location, "can be read again (it could not: {})", trouble.message);
        }
        self.source.attempted_revision = Some(reading.snapshot.revision.to_string());
        self.source.commit.clone_from(&reading.commit);
        self.source.last_read_at = Some(now);
        match &reading.store {
            None => self.source.reads += 1,
            Some(facts) => {
                self.source.reads = facts.reads;
                let applied = self.source.store.take().and_then(|store| store.applied_documents);
                self.source.store = Some(StoreState {
                    cluster_id: format!("{:x}", facts.cluster_id),
                    read_revision: facts.read_revision,
                    attempted_documents: facts.documents_digest.clone(),
                    applied_documents: applied,
                });
            }
        }
        self.source.ignored.clone_from(&reading.ignored);
        for path in &reading.ignored {
            if self.said.insert(path.clone()) {
                tracing::info!(
                    path,
                    "no document, for it is no visible .yaml, .yml or .json file; documents may still name it"
                );
            }
        }
        for note in reading.notes.iter().chain(&reading.unsettled) {
            if self.said.insert(note.clone()) {
                tracing::warn!("{note}");
            }
        }
    }

    /// Logs what was not found before, and what is mended.
    fn note_diagnostics(&mut self, loaded: &Loaded) {
        if *self.diagnostics == *loaded.diagnostics {
            return;
        }
        for diagnostic in loaded.diagnostics.iter().filter(|known| !self.diagnostics.contains(known)) {
            if diagnostic.is_error() {
                tracing::error!("{diagnostic}");
            } else {
                tracing::warn!("{diagnostic}");
            }
        }
        for mended in self.diagnostics.iter().filter(|known| known.is_error() && !loaded.diagnostics.contains(known)) {
            tracing::info!("no longer so: {mended}");
        }
        self.diagnostics = Arc::from(loaded.diagnostics.as_slice());
    }

    /// At the start, nothing declared: an empty mount more likely than an empty wish.
    fn is_empty_start(&self, declared: &Declared) -> bool {
        !self.accepted_any && declared.endpoints.is_empty() && !self.options.allow_empty
    }

    async fn wait_for_declarations(&mut self, now: Timestamp) -> Next {
        if self.said.insert("empty".to_owned()) {
            tracing::warn!(
                source = self.source.location,
                "declares no endpoint; waiting for one (--allow-empty takes an empty declaration for what is meant)"
            );
        }
        self.bring_about(None, now).await
    }

    fn refuse_whole(&mut self, reading: &Reading, loaded: &Loaded, now: Timestamp) {
        self.refusals.clone_from(&loaded.refusals);
        let errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        let summary = format!("refused whole (--atomic): {errors} errors");
        if self.history.note_refusal(reading, &summary, &self.diagnostics, now) {
            tracing::error!(revision = %reading.snapshot.revision, errors, "refused whole, as --atomic demands");
        }
        let held_back = self.held_back();
        let _told_as_a_whole = self.history.news_of(held_back);
    }

    fn accept(&mut self, loaded: Loaded, Guarded { declared, held }: Guarded) {
        if self.suspended != declared.reconcile.suspend {
            self.suspended = declared.reconcile.suspend;
            if self.suspended {
                tracing::warn!("`reconcile: {{suspend: true}}` is declared: nothing is applied until it is taken out");
            } else {
                tracing::info!("reconciliation goes on");
            }
        }
        self.refusals = loaded.refusals;
        self.note_held(held);
        if self.suspended {
            // The new settings are known, nothing else is taken over.
            if self.applied.reconcile != declared.reconcile {
                let mut applied = (*self.applied).clone();
                applied.reconcile = declared.reconcile;
                self.applied = Arc::new(applied);
                self.previous.copy_entry(&loaded.last_good, &Identity::single(Kind::Reconcile));
                self.unsaved = true;
            }
            self.previous.set_held(&self.held);
            return;
        }
        let mut previous = loaded.last_good;
        for identity in self.held.keys() {
            previous.copy_entry(&self.previous, identity);
        }
        previous.set_held(&self.held);
        self.previous = previous;
        self.accepted_any = true;
        if self.declaration_digest.is_empty() || !same(&self.applied, &declared) {
            self.declaration_digest = self.digester.compute(&declared);
            self.unsaved = true;
            self.applied = Arc::new(declared);
        }
    }

    /// Plans, applies, records, publishes. `reading` is what is being applied, where something new is.
    async fn bring_about(&mut self, reading: Option<&Reading>, now: Timestamp) -> Next {
        let begun = std::time::Instant::now();
        let frozen = self.suspended && self.begun;
        self.begun = true;
        let converged = if frozen {
            let statuses = self.plane.listeners();
            self.note_listeners(&statuses);
            Converged::default()
        } else {
            self.converge(now).await
        };
        let Converged { plan, failures, unreadable } = converged;
        self.plan = Arc::new(plan);
        for (name, failure) in failures.iter().filter(|(name, failure)| self.failures.get(*name) != Some(failure)) {
            tracing::error!(endpoint = %name, "{}", failure.message);
        }
        let fresh_failures = failures != self.failures;
        self.failures = failures;
        self.passes += 1;
        self.last_pass_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.pass_durations.observe(self.last_pass_us);
        if let Some(reading) = reading.filter(|_| !self.suspended) {
            self.source.applied_revision = Some(reading.snapshot.revision.to_string());
            self.source.applied_at = Some(now);
            if let Some(store) = &mut self.source.store {
                store.applied_documents = Some(store.attempted_documents.clone());
            }
            self.source.last_known_good = None;
            self.phase = if self.phase == Phase::Starting { Phase::Serving } else { self.phase };
        }
        self.record(fresh_failures, now);
        self.judge(&unreadable, now);
        self.observe();
        if self.failures.is_empty() { Next::Rest } else { Next::Retry }
    }
}

/// Files and directories (these with a slash at their end) that could not be read, as shown.
fn unreadable_places(reading: &Reading) -> BTreeSet<Arc<str>> {
    let unread = reading.snapshot.files.iter().filter(|file| file.content.is_err());
    unread
        .map(
            |file| {
                if file.path.ends_with('/') { Arc::from(format!("{}/", file.shown)) } else { Arc::clone(&file.shown) }
            },
        )
        .collect()
}

/// Whether two declarations are the same, document by document; those that were not parsed again are known by address.
fn same(a: &Declared, b: &Declared) -> bool {
    fn equal<T: PartialEq>(a: &BTreeMap<Name, Arc<T>>, b: &BTreeMap<Name, Arc<T>>) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|((an, a), (bn, b))| an == bn && (Arc::ptr_eq(a, b) || a == b))
    }
    equal(&a.endpoints, &b.endpoints)
        && equal(&a.auths, &b.auths)
        && equal(&a.acls, &b.acls)
        && equal(&a.bridges, &b.bridges)
        && equal(&a.bans, &b.bans)
        && a.defaults == b.defaults
        && a.reconcile == b.reconcile
}
