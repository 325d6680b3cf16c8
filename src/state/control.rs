//! The published state of the control plane: replaced as a whole after every pass.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::bridge_placement::BridgeRunner;
use super::node::ClusterView;
use crate::net::SocketKey;
#[cfg(feature = "bridge")]
use crate::net::bridge::BridgeStatusReader;
pub use crate::source::{Commit, SourceErrorKind};
use weir_broker::EndpointId;
use weir_declare::config::{Bridge, Declared, Diagnostic, Endpoint};
use weir_declare::reconcile::{Conditions, Plan, Timestamp};

/// How far this broker is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Phase {
    /// No declaration is applied yet.
    #[default]
    Starting,
    /// A declaration is applied; it may be the last known good one.
    Serving,
    /// The broker shuts down: clients are asked to leave, then the process ends.
    Draining,
}

/// The control plane at one moment.
#[derive(Debug, Clone)]
pub struct ControlState {
    pub node_name: String,
    pub started_at: Timestamp,
    pub phase: Phase,
    /// `reconcile: {suspend: true}`: nothing is applied until it is lifted.
    pub suspended: bool,
    pub source: SourceState,
    /// Over the canonical documents, before any node's own values: the same on every node that serves the same.
    pub declaration_digest: String,
    /// Over what this node serves, including held documents and the contents of referenced files.
    pub live_digest: String,
    /// The declaration in force, including the last good version of held documents.
    pub declared: Arc<Declared>,
    /// The diagnostics of the last pass.
    pub diagnostics: Arc<[Diagnostic]>,
    /// By name: declared, held and draining endpoints. Unchanged values are shared with the former state.
    pub endpoints: BTreeMap<Arc<str>, Arc<EndpointState>>,
    /// By name: every declared bridge, and those that run.
    pub bridges: BTreeMap<String, BridgeState>,
    /// The conditions of the document `cluster`; `None`: there is none.
    pub cluster_document: Option<Conditions>,
    /// The last plan, with the actions that wait.
    pub plan: Arc<Plan>,
    /// Newest last.
    pub history: Arc<VecDeque<HistoryEntry>>,
    /// Passes since the start, and how long the last one took, microseconds.
    pub passes: u64,
    pub last_pass_us: u64,
    pub pass_durations: PassDurations,
}

/// How long the passes took, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PassDurations {
    /// Passes up to each of [`PassDurations::BOUNDS_US`] and above the one before; the last: above them all.
    pub counts: [u64; Self::BOUNDS_US.len() + 1],
    pub sum_us: u64,
}

impl PassDurations {
    /// Microseconds.
    pub const BOUNDS_US: [u64; 7] = [1_000, 5_000, 25_000, 100_000, 500_000, 2_500_000, 10_000_000];

    /// Counts a pass.
    pub fn observe(&mut self, duration_us: u64) {
        let place = Self::BOUNDS_US.iter().position(|&bound| duration_us <= bound).unwrap_or(Self::BOUNDS_US.len());
        self.counts[place] += 1;
        self.sum_us = self.sum_us.saturating_add(duration_us);
    }
}

impl ControlState {
    /// The state before the first pass.
    pub fn starting(node_name: String, now: Timestamp, source: SourceState) -> Self {
        Self {
            node_name,
            started_at: now,
            phase: Phase::Starting,
            suspended: false,
            source,
            declaration_digest: String::new(),
            live_digest: String::new(),
            declared: Arc::default(),
            diagnostics: Arc::from([]),
            endpoints: BTreeMap::new(),
            bridges: BTreeMap::new(),
            cluster_document: None,
            plan: Arc::default(),
            history: Arc::default(),
            passes: 0,
            last_pass_us: 0,
            pass_durations: PassDurations::default(),
        }
    }
}

/// The source of declarations, and how fresh its content is.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceState {
    /// `directory`, `git` or `etcd`.
    pub kind: &'static str,
    /// The directory, or the etcd URLs and prefix (no credentials).
    pub location: String,
    /// The revision read last: a commit (`+dirty` where the work tree differs), an etcd revision, a content hash.
    pub attempted_revision: Option<String>,
    /// The newest revision that is live; refusals may remain (see the conditions).
    pub applied_revision: Option<String>,
    pub applied_at: Option<Timestamp>,
    /// The commit of the attempted revision, where git has it.
    pub commit: Option<Commit>,
    /// When the source was last read whole; staleness counts from here.
    pub last_read_at: Option<Timestamp>,
    /// How often it was read whole.
    pub reads: u64,
    /// Of a store: its identity, and the revision up to which its documents are read.
    pub store: Option<StoreState>,
    /// The current error of the source.
    #[serde(rename = "trouble")]
    pub error: Option<SourceFailure>,
    /// Errors since the start by kind, recovered ones included.
    pub incidents: BTreeMap<&'static str, u64>,
    /// The last known good declaration, where it is served because the source could not be read at the start.
    pub last_known_good: Option<LastKnownGood>,
    /// Ignored paths (hidden files, files that are not YAML), of the last pass.
    pub ignored: Vec<String>,
}

/// A store, as far as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreState {
    /// Hexadecimal, as etcd's own tools show it.
    pub cluster_id: String,
    /// At or after `attemptedRevision`: until then, nothing has changed.
    pub read_revision: i64,
    /// Over the documents as bytes, as they were read last, and as they were applied last: equal on all brokers that
    /// have the same documents, whatever the store's revision.
    pub attempted_documents: String,
    pub applied_documents: Option<String>,
}

/// Why a source cannot be read, and since when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFailure {
    pub kind: SourceErrorKind,
    pub message: String,
    pub since: Timestamp,
}

/// Which persisted state is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LastKnownGood {
    pub revision: String,
    pub saved_at: Timestamp,
    pub since: Timestamp,
}

/// An endpoint, declared and live.
#[derive(Debug, Clone)]
pub struct EndpointState {
    /// `None` until it was first applied.
    pub id: Option<EndpointId>,
    /// Counts the declaration's changes, from 1.
    pub generation: u64,
    /// `path:line` of the document; where it is held, of the one that is held.
    pub origin: String,
    /// `None` once its document is deleted.
    pub declared: Option<Arc<Endpoint>>,
    /// The endpoint as the listener serves it; `None` where nothing listens.
    pub live: Option<Arc<Endpoint>>,
    /// The address of its listener.
    pub address: Option<SocketKey>,
    pub conditions: Conditions,
    /// The planned action that could not be done yet.
    pub pending: Option<String>,
    /// When the first of the certificates it serves stops to hold.
    pub certificate_expires_at: Option<Timestamp>,
}

/// A bridge, declared and live.
#[derive(Debug, Clone)]
pub struct BridgeState {
    /// `path:line` of the document.
    pub origin: String,
    pub declared: Arc<Bridge>,
    /// Endpoints that name it.
    pub endpoints: Vec<String>,
    /// Counts the changes that were applied, from 1; 0: it never ran.
    pub generation: u64,
    /// The error that keeps the bridge or its newest declaration from running: a file that cannot be used.
    pub failure: Option<String>,
    /// The node of the cluster that runs it; `None`: it did not run yet, or this node is in no cluster.
    pub runner: Option<BridgeRunner>,
    /// The id under which its local session is counted; `None`: it never ran.
    pub endpoint: Option<EndpointId>,
    /// `None` where it does not run.
    #[cfg(feature = "bridge")]
    pub live: Option<BridgeStatusReader>,
}

/// One change of the declared or live state, or one refused attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    /// Counts up over restarts.
    pub sequence: u64,
    pub at: Timestamp,
    pub revision: String,
    pub commit: Option<Commit>,
    pub outcome: Outcome,
    /// The plan's summary line.
    pub summary: String,
    pub actions: Vec<HistoryAction>,
    /// Unified diff of the declared documents, in canonical form, since the entry before; bounded.
    pub diff: String,
    pub duration_us: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Everything is live.
    Applied,
    /// Applied, except for the refusals that the actions name.
    AppliedWithRefusals,
    /// Nothing of it was applied.
    Refused,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryAction {
    pub endpoint: String,
    /// `add`, `update`, `rebind`, `drain`, `remove`, `refused` ...
    pub action: String,
    /// The error, where the action failed.
    pub error: Option<String>,
}

/// The published state: readers load it without waiting; followers wait on [`SharedState::subscribe`].
#[derive(Debug)]
pub struct SharedState {
    current: ArcSwap<ControlState>,
    cluster: ArcSwap<ClusterView>,
    version: watch::Sender<u64>,
}

impl SharedState {
    /// Starts with `first`.
    pub fn new(first: ControlState) -> Self {
        Self {
            current: ArcSwap::from_pointee(first),
            cluster: ArcSwap::from_pointee(ClusterView::default()),
            version: watch::Sender::new(0),
        }
    }

    /// The state after the last pass.
    pub fn load(&self) -> Arc<ControlState> {
        self.current.load_full()
    }

    /// Puts a new state in place and wakes the followers.
    pub fn publish(&self, state: ControlState) {
        self.current.store(Arc::new(state));
        self.version.send_modify(|version| *version += 1);
    }

    /// The other brokers, as last read.
    pub fn cluster(&self) -> Arc<ClusterView> {
        self.cluster.load_full()
    }

    /// Publishes the other brokers and wakes the followers.
    pub fn publish_cluster(&self, view: ClusterView) {
        self.cluster.store(Arc::new(view));
        self.version.send_modify(|version| *version += 1);
    }

    /// Changes with every publication.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }
}
