//! The body of the control plane's loop: one reading, one pass, one published state. Sequences the parts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::bridges::BridgeManager;
use super::cluster_document::{ClusterDocument, ClusterRequest};
use super::conditions::{ConditionInputs, ConditionTable};
use super::converge::{ConvergePass, Converged};
use super::declaration::Declaration;
use super::draining::DrainReport;
use super::event_topics::EventPublisher;
use super::files::ReadFiles;
use super::history::History;
use super::interceptors::InterceptorRegistry;
use super::listeners::Listeners;
use super::plane::Plane;
use super::publish::{PassStats, PublishInputs, Publisher};
use super::record::PassRecord;
use super::running::{ActionFailure, EndpointIds};
use super::source_tracker::SourceTracker;
use super::spans::{PassOutcome, PassTrace};
use crate::auth::Authenticators;
#[cfg(feature = "bridge")]
use crate::net::bridge::BridgeHost;
use crate::source::{SourceError, SourceErrorCounts, SourceReading};
use crate::state::SharedState;
use crate::store::StoreError;
use crate::telemetry::SpanRecorder;
use weir_declare::config::{EventTopics, LastGood, Loaded, Name, NodeContext};
use weir_declare::reconcile::{GuardDecision, LiveCluster, NodeSettings, Plan, Timestamp};

/// How this node reconciles.
#[derive(Debug, Clone)]
pub struct ReconcilerOptions {
    pub node_name: String,
    pub node: NodeSettings,
    /// The context that declarations are validated in.
    pub context: NodeContext,
    /// A snapshot with any error in it is refused whole.
    pub atomic: bool,
    /// Apply an empty declaration at the start.
    pub allow_empty: bool,
    /// There is a store: endpoints may be `durability: disk`.
    pub has_store: bool,
}

/// What the loop does after a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Wait for a hint.
    Wait,
    /// Documents are missing: read again soon, before they are deleted.
    Recheck,
    /// Something failed that may succeed later: try again.
    Retry,
}

/// Declared, live, and the way from one to the other.
pub struct Reconciler<P: Plane, F: ReadFiles> {
    options: ReconcilerOptions,
    files: F,
    source: SourceTracker,
    declaration: Declaration,
    listeners: Listeners<P>,
    bridges: BridgeManager,
    events: Option<EventPublisher>,
    cluster: ClusterDocument,
    ids: EndpointIds,
    conditions: ConditionTable,
    history: History,
    publisher: Publisher,
    trace: PassTrace,
    passes: PassStats,
    /// The last plan, and why its actions failed.
    plan: Arc<Plan>,
    failures: BTreeMap<Name, ActionFailure>,
    /// Whether a pass was ever made.
    begun: bool,
}

/// The start values of a reconciler.
pub struct Start {
    pub options: ReconcilerOptions,
    /// `directory`, `git` or `etcd`, and where.
    pub source_kind: &'static str,
    pub source_location: String,
    /// The counters of the source.
    pub incidents: Arc<SourceErrorCounts>,
    /// The last known good declarations of an earlier run: revision, time of the save, documents.
    pub last_known_good: Option<(String, Timestamp, LastGood)>,
    pub history: History,
    pub now: Timestamp,
}

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// Creates a reconciler; nothing listens yet. The receiver yields the drains that ended, for
    /// [`Reconciler::drain_ended`].
    pub fn new(start: Start, plane: P, files: F) -> (Self, mpsc::UnboundedReceiver<DrainReport>) {
        let source = SourceTracker::new(start.source_kind, start.source_location, start.incidents);
        let declaration = Declaration::resume(start.last_known_good, start.now);
        let mut history = start.history;
        history.start_from(declaration.applied());
        let (listeners, ended) = Listeners::new(Arc::new(plane), files.variables());
        let reconciler = Self {
            publisher: Publisher::new(start.options.node_name.clone(), &source, start.now),
            options: start.options,
            files,
            source,
            declaration,
            listeners,
            bridges: BridgeManager::default(),
            events: None,
            cluster: ClusterDocument::default(),
            ids: EndpointIds::default(),
            conditions: ConditionTable::default(),
            history,
            trace: PassTrace::default(),
            passes: PassStats::default(),
            plan: Arc::default(),
            failures: BTreeMap::new(),
            begun: false,
        };
        (reconciler, ended)
    }

    /// Documents may name these authenticators and interceptors.
    pub(crate) fn register(&mut self, authenticators: Authenticators, interceptors: InterceptorRegistry) {
        self.listeners.register(authenticators, interceptors);
    }

    /// Has declared bridges run by `host`. Without one they are only declared.
    #[cfg(feature = "bridge")]
    pub fn run_bridges_on(&mut self, host: BridgeHost) {
        self.bridges.run_on(host);
    }

    /// Has declared events published by `publisher`. Without one they are only declared.
    pub fn publish_events_with(&mut self, publisher: EventPublisher) {
        self.events = Some(publisher);
    }

    /// Has the document `cluster` hold in this cluster, which runs each bridge on one of its nodes. Without one, the document has
    /// no effect, and all bridges run here.
    #[cfg(feature = "cluster")]
    pub fn control_cluster(&mut self, control: crate::cluster::ClusterControl) {
        self.bridges.join_cluster(Arc::clone(control.name()));
        self.cluster.control(control);
    }

    /// Drains and disconnects every bridge; their sessions stay.
    pub async fn pause_bridges(&mut self) {
        self.bridges.pause().await;
    }

    /// Traces the next passes with `tracer`.
    pub fn trace_with(&mut self, tracer: SpanRecorder) {
        self.trace.set_tracer(tracer);
    }

    /// The published state.
    pub fn state(&self) -> Arc<SharedState> {
        self.publisher.shared()
    }

    /// Whether the state to be saved has changed since the last call.
    pub fn take_unsaved(&mut self) -> bool {
        self.declaration.take_unsaved()
    }

    /// Whether something is newly held since the last call. It must be saved before the next reading: a restart would apply
    /// the rest of the deletion otherwise.
    pub fn take_newly_held(&mut self) -> bool {
        self.declaration.take_newly_held()
    }

    /// The state to be saved: the revision and the documents.
    pub fn last_known_good(&self) -> Option<(String, LastGood)> {
        let revision = self.source.state().applied_revision.as_ref().or(self.declaration.restored_revision())?;
        Some((revision.clone(), self.declaration.last_good().clone()))
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

    /// Validates a reading of the source, applies it, publishes the result.
    pub async fn read(&mut self, reading: SourceReading, now: Timestamp) -> Next {
        self.trace.begin("reading", Some(&reading), self.source.state());
        let next = self.apply_reading(reading, now).await;
        self.end_pass(next);
        next
    }

    async fn apply_reading(&mut self, reading: SourceReading, now: Timestamp) -> Next {
        self.source.record_reading(&reading, now);
        let validating = self.trace.begin_validation();
        let loaded = self.declaration.validate(&reading.snapshot, &self.options.context);
        self.trace.end_validation(validating, reading.snapshot.files.len(), &loaded);
        self.source.record_diagnostics(&loaded);
        if self.options.atomic && !loaded.is_valid() {
            self.refuse_whole(&reading, &loaded, now);
            return self.reconcile_once(None, now).await;
        }
        match self.declaration.guard(&loaded, &reading, self.options.allow_empty, now) {
            GuardDecision::ReadAgain { missing } => {
                let names: Vec<String> = missing.iter().map(ToString::to_string).collect();
                tracing::debug!(
                    missing = names.join(", "),
                    "documents missing: the source is read again before they are deleted"
                );
                if self.begun {
                    self.reconcile_once(None, now).await; // restores listeners that were lost meanwhile
                }
                Next::Recheck
            }
            GuardDecision::Proceed(guarded) => {
                let empty_is_meant = self.options.allow_empty || reading.absence_is_deletion;
                if self.declaration.is_empty_start(&guarded.declared) && !empty_is_meant {
                    self.source.record_empty();
                    return self.reconcile_once(None, now).await;
                }
                self.declaration.accept(loaded, guarded);
                self.reconcile_once(Some(&reading), now).await
            }
        }
    }

    /// Records that the source cannot be read, and keeps the live endpoints.
    pub async fn source_failed(&mut self, error: &SourceError, now: Timestamp) -> Next {
        self.trace.begin("trouble", None, self.source.state());
        self.trace.set_source_error(error.kind.as_str());
        self.source.record_failure(error, self.declaration.has_any(), now);
        if !self.begun
            && let Some(restored) = self.declaration.serve_restored(now)
        {
            self.source.serve_last_known_good(restored);
            self.publisher.set_serving();
        }
        let next = self.reconcile_once(None, now).await;
        self.end_pass(next);
        next
    }

    /// Plans and applies the last declaration once more, without a reading.
    pub async fn tick(&mut self, now: Timestamp) -> Next {
        self.trace.begin("retry", None, self.source.state());
        let next = self.reconcile_once(None, now).await;
        self.end_pass(next);
        next
    }

    /// Publishes that the broker shuts down.
    pub fn begin_shutdown(&mut self) {
        self.publisher.set_draining();
        self.publish();
    }

    /// Records that a drain has ended.
    pub fn drain_ended(&mut self, report: &DrainReport) {
        if let Some((cause, clients)) = self.listeners.drains_mut().ended(report) {
            self.cluster.count_disconnects(cause, clients);
        }
        self.publish();
    }

    /// Yields what the cluster wants next.
    pub(super) async fn next_cluster_request(&mut self) -> ClusterRequest {
        self.cluster.next_request().await
    }

    /// Does what the cluster wants.
    pub(super) fn on_cluster_request(&mut self, request: ClusterRequest) {
        match request {
            // So that they connect to other nodes.
            ClusterRequest::Disconnect(cause) => self.listeners.disconnect_all(cause),
            ClusterRequest::PlaceBridges(placement) if !self.bridges.place(Arc::clone(&placement)) => return,
            ClusterRequest::PlaceBridges(_) => {}
        }
        self.publish();
    }

    /// Whether clients are still being asked to leave.
    pub fn is_draining(&self) -> bool {
        self.listeners.drains().is_draining()
    }

    fn refuse_whole(&mut self, reading: &SourceReading, loaded: &Loaded, now: Timestamp) {
        self.declaration.refuse(loaded);
        let errors = loaded.diagnostics.iter().filter(|diagnostic| diagnostic.is_error()).count();
        let summary = format!("snapshot refused (--atomic): {errors} errors");
        if self.history.record_refusal(reading, &summary, self.source.diagnostics(), now) {
            tracing::error!(
                revision = %reading.snapshot.revision, errors, "snapshot refused: it has errors, and --atomic is set"
            );
        }
        // The entry of the snapshot stands for each of its refusals.
        let blocked = self.pass_record(false, now).blocked_changes();
        self.history.newly_blocked(blocked);
    }

    /// Plans, applies, records, publishes. `reading`: the reading that is applied; `None` where there is none.
    async fn reconcile_once(&mut self, reading: Option<&SourceReading>, now: Timestamp) -> Next {
        let begun = Instant::now();
        let is_frozen = self.declaration.is_suspended() && self.begun;
        self.begun = true;
        let Converged { plan, failures, unreadable } = if is_frozen {
            self.listeners.refresh();
            Converged::default()
        } else {
            let declared = &self.declaration.applied().events;
            // Before the endpoints change: their events are among those that are published.
            let live_events = match &mut self.events {
                Some(publisher) => publisher.apply(declared.as_ref()),
                None => declared.clone(),
            };
            let live_cluster = self.cluster.apply(self.declaration.applied().cluster.as_ref());
            self.converge(live_events, live_cluster).await
        };
        self.plan = Arc::new(plan);
        let is_fresh = self.take_failures(failures);
        self.passes.record(begun.elapsed());
        if let Some(reading) = reading.filter(|_| !self.declaration.is_suspended()) {
            self.source.record_applied(reading, now);
            self.publisher.set_serving();
        }
        let mut history = std::mem::take(&mut self.history);
        self.pass_record(is_fresh, now).add_to(&mut history);
        self.history = history;
        let inputs = ConditionInputs {
            declaration: &self.declaration,
            listeners: &self.listeners,
            failures: &self.failures,
            plan: &self.plan,
            node: &self.options.node,
            unreadable: &unreadable,
        };
        self.conditions.update(&inputs, now);
        self.cluster.update_conditions(&self.declaration, now);
        self.publish();
        if self.failures.is_empty() { Next::Wait } else { Next::Retry }
    }

    async fn converge(&mut self, live_events: Option<Arc<EventTopics>>, live_cluster: LiveCluster) -> Converged {
        let pass = ConvergePass {
            declared: self.declaration.applied(),
            node: &self.options.node,
            node_name: &self.options.node_name,
            has_store: self.options.has_store,
            listeners: &mut self.listeners,
            bridges: &mut self.bridges,
            live_events,
            live_cluster,
            ids: &mut self.ids,
            trace: &mut self.trace,
        };
        pass.run(&mut self.files).await
    }

    /// Logs new failures; whether the failures differ from those of the last pass.
    fn take_failures(&mut self, failures: BTreeMap<Name, ActionFailure>) -> bool {
        for (name, failure) in failures.iter().filter(|(name, failure)| self.failures.get(*name) != Some(failure)) {
            tracing::error!(endpoint = %name, "{}: {}", failure.headline(), failure.message);
        }
        let is_fresh = failures != self.failures;
        self.failures = failures;
        is_fresh
    }

    fn pass_record(&self, fresh_failures: bool, now: Timestamp) -> PassRecord<'_> {
        PassRecord {
            plan: &self.plan,
            failures: &self.failures,
            declaration: &self.declaration,
            source: &self.source,
            bridges: &self.bridges,
            fresh_failures,
            duration_us: self.passes.last_us(),
            now,
        }
    }

    fn publish(&self) {
        self.publisher.publish(&PublishInputs {
            source: &self.source,
            declaration: &self.declaration,
            listeners: &self.listeners,
            bridges: &self.bridges,
            cluster: &self.cluster,
            conditions: &self.conditions,
            history: &self.history,
            plan: &self.plan,
            passes: self.passes,
        });
    }

    fn end_pass(&mut self, next: Next) {
        let Self { trace, source, declaration, failures, plan, options, .. } = self;
        let outcome = || outcome(next, options.atomic, source, declaration, failures, plan);
        trace.end(source.state(), declaration.digest(), outcome);
    }
}

/// The outcome of a pass, in the words of the history where it has them, and the first error.
fn outcome(
    next: Next,
    atomic: bool,
    source: &SourceTracker,
    declaration: &Declaration,
    failures: &BTreeMap<Name, ActionFailure>,
    plan: &Plan,
) -> PassOutcome {
    let outcome = |word, error| PassOutcome { word, error };
    if let Some(error) = &source.state().error {
        return outcome("sourceTrouble", Some(error.message.clone()));
    }
    if next == Next::Recheck {
        return outcome("lookAgain", None);
    }
    let errors = source.errors().count();
    if atomic && errors > 0 {
        return outcome("refused", Some(format!("refused whole: {errors} errors")));
    }
    let failures = failures.values().map(|failure| failure.message.clone());
    let refusals = declaration.refusals().values().map(|refusal| refusal.message.clone());
    let held = declaration.held().iter().map(|(identity, held)| format!("{identity}: {}", held.why));
    let wrong: Vec<String> = failures.chain(refusals).chain(held).collect();
    if let Some(first) = wrong.first() {
        let more = if wrong.len() > 1 { format!(" (and {} more)", wrong.len() - 1) } else { String::new() };
        return outcome("appliedWithRefusals", Some(format!("{first}{more}")));
    }
    let acted = plan.due().next().is_some() || plan.due_bridges().next().is_some();
    let acted = acted || plan.events.is_some() || plan.cluster.is_some();
    match (declaration.is_suspended(), acted) {
        (true, _) => outcome("suspended", None),
        (false, true) => outcome("applied", None),
        (false, false) => outcome("unchanged", None),
    }
}
