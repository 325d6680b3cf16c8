//! What the status server reads. Plain values: the control plane publishes a [`State`], the data plane counts
//! [`Traffic`]; whoever owns both implements [`StatusView`]. The server never reaches further.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::watch;

/// Milliseconds since the Unix epoch; written to JSON as RFC 3339.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct UnixMillis(pub u64);

/// The one door between the server and the broker. Every call is cheap and never waits for the data plane.
pub trait StatusView: Send + Sync + 'static {
    /// What the control plane last published: one consistent value.
    fn state(&self) -> Arc<State>;
    /// Changes whenever [`StatusView::state`] does. The number only has to differ.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Counters of every endpoint, summed over the shards.
    fn traffic(&self) -> Traffic;
    /// Open connections and sessions kept, at most `query.limit` of them, ordered by (namespace, client id).
    fn clients(&self, query: &ClientQuery) -> ClientPage;
    /// The static tier of the one validator.
    fn validate(&self, request: ValidateRequest) -> Validation;
    /// The wall clock.
    fn now(&self) -> UnixMillis;
}

/// The control plane at one moment.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub node: Node,
    pub source: Source,
    /// Whether a first snapshot has been applied (refusals count as applied: they are reported on their endpoints).
    pub synced: bool,
    /// Over the canonical documents, before this node's own values.
    pub declaration_digest: Option<String>,
    /// Over what runs, held documents and referenced files included.
    pub live_digest: Option<String>,
    /// Of the node as a whole.
    pub conditions: Vec<Condition>,
    /// Ordered by name.
    pub endpoints: Vec<Endpoint>,
    /// All documents as declared, secrets as references.
    pub documents: Vec<Document>,
    /// What the last pass refused or warned of.
    pub diagnostics: Vec<Diagnostic>,
    /// Declared against live, after the last pass.
    pub plan: Plan,
    /// Newest first, bounded by whoever publishes it.
    pub history: Vec<HistoryEntry>,
    /// This node first; the others where there is a cluster.
    pub nodes: Vec<ClusterNode>,
    pub reconcile: ReconcileCounters,
}

/// This broker.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub started_at: UnixMillis,
    pub shards: u16,
}

/// Where declarations come from, and how fresh they are.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    /// `directory`, `git` or `etcd`.
    pub kind: String,
    /// The directory, or the etcd URLs without credentials.
    pub location: String,
    /// The etcd prefix, or the git reference.
    pub scope: Option<String>,
    pub attempted_revision: Option<String>,
    pub applied_revision: Option<String>,
    /// When the source was last read in full.
    pub last_read_at: Option<UnixMillis>,
    /// Why it cannot be read, while it cannot.
    pub error: Option<String>,
}

/// As Kubernetes has them.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: ConditionStatus,
    pub reason: String,
    pub message: String,
    pub observed_generation: u64,
    pub last_transition_time: UnixMillis,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum ConditionStatus {
    True,
    False,
    #[default]
    Unknown,
}

/// One endpoint: declared, live, or both.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    pub name: String,
    /// The file (and line) or the etcd key that declares it: where to change it.
    pub origin: Option<Origin>,
    /// Canonical, defaults applied. Absent once its document is gone (it drains).
    pub declared: Option<Value>,
    /// What the live listener runs by, in the same form. Absent where nothing listens.
    pub live: Option<Value>,
    /// From the live socket: whether it is bound and accepting.
    pub listening: bool,
    pub draining: bool,
    pub listening_since: Option<UnixMillis>,
    /// Of the certificate served, where TLS is.
    pub certificate_expires_at: Option<UnixMillis>,
    pub conditions: Vec<Condition>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Origin {
    /// A path below the directory, or a whole etcd key.
    pub source: String,
    pub line: Option<u32>,
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Document {
    /// `endpoint`, `auth`, `acl`, `bridge`, `ban`, `defaults`, `reconcile`.
    pub kind: String,
    pub name: String,
    pub origin: Option<Origin>,
    /// The body, without the kind.
    pub body: Value,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    pub severity: String,
    /// `file:line:col`'s parts.
    pub source: String,
    pub line: Option<u32>,
    pub column: Option<u32>,
    /// Path of the value within its document, as a JSON pointer.
    pub path: String,
    pub message: String,
    pub help: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    pub actions: Vec<Action>,
    pub clients_affected: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Action {
    /// `create`, `update`, `delete`, ...
    pub verb: String,
    pub endpoint: String,
    /// `cosmetic`, `live`, `new-connections`, `drain`, `rebind`.
    pub class: String,
    pub summary: String,
    pub clients_affected: u64,
}

/// One applied (or refused) revision.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryEntry {
    pub at: UnixMillis,
    pub revision: Option<String>,
    /// `applied`, `appliedWithRefusals`, `refused`, `failed`.
    pub outcome: String,
    pub actions: Vec<Action>,
    pub diagnostics: Vec<Diagnostic>,
    /// Unified, over the canonical documents, secrets as references.
    pub diff: String,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNode {
    pub name: String,
    pub status_url: Option<String>,
    pub applied_revision: Option<String>,
    pub declaration_digest: Option<String>,
    pub converged: bool,
    pub last_seen_at: Option<UnixMillis>,
    pub reason: Option<String>,
}

/// Since start.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ReconcileCounters {
    /// By outcome.
    pub passes: BTreeMap<String, u64>,
    pub duration: Histogram,
    /// By action verb and outcome.
    pub actions: BTreeMap<(String, String), u64>,
}

/// A histogram's counts: not cumulative, one more than `bounds` (the last: beyond them all).
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Histogram {
    /// Upper bounds in seconds, ascending.
    pub bounds: Vec<f64>,
    pub counts: Vec<u64>,
    /// Seconds.
    pub sum: f64,
}

/// The data plane's counters, since start.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// By endpoint name.
    pub endpoints: BTreeMap<String, EndpointTraffic>,
    pub retained_messages: u64,
    pub retained_bytes: u64,
    pub sessions: u64,
    pub subscriptions: u64,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct EndpointTraffic {
    pub connections: u64,
    pub sessions: u64,
    pub accepted: u64,
    /// CONNECTs by outcome: `accepted`, or the reason's name.
    pub connects: BTreeMap<String, u64>,
    pub authentication_failures: u64,
    pub authorization_failures: u64,
    /// `protocol`, `transport`, `tls`, `limit`, `timeout`, ...
    pub errors: BTreeMap<String, u64>,
    pub messages_received: u64,
    pub messages_sent: u64,
    /// By reason.
    pub messages_dropped: BTreeMap<String, u64>,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Messages waiting in sessions' queues.
    pub queued_messages: u64,
    /// Seconds from publish to delivery.
    pub latency: Histogram,
}

/// Which clients to list.
#[derive(Debug, Clone, Default)]
pub struct ClientQuery {
    pub endpoint: Option<String>,
    pub id_prefix: Option<String>,
    /// An address, or a prefix of one as text.
    pub address: Option<String>,
    /// Exactly this client id.
    pub id: Option<String>,
    /// Start behind this (namespace, client id).
    pub after: Option<(String, String)>,
    pub limit: usize,
}

#[derive(Debug, Clone, Default)]
pub struct ClientPage {
    pub clients: Vec<Client>,
    /// Whether there are more behind the last.
    pub more: bool,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    pub client_id: String,
    pub namespace: String,
    pub endpoint: String,
    pub connected: bool,
    pub address: Option<String>,
    pub username: Option<String>,
    pub protocol: String,
    pub clean_start: bool,
    pub keep_alive_s: u16,
    pub session_expiry_s: u32,
    pub connected_at: Option<UnixMillis>,
    pub subscriptions: Vec<Subscription>,
    pub inflight: u64,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    pub messages_received: u64,
    pub messages_sent: u64,
    pub messages_dropped: u64,
}

#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    pub filter: String,
    pub qos: u8,
}

/// What to judge.
#[derive(Debug, Clone)]
pub enum ValidateRequest {
    /// One endpoint, as an upsert into what is declared.
    Endpoint(Value),
    /// A set by itself: the text of one YAML or JSON file.
    Set(String),
}

#[derive(Debug, Clone, Default, Serialize)]
pub struct Validation {
    pub valid: bool,
    pub diagnostics: Vec<Diagnostic>,
}

impl Serialize for UnixMillis {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl std::fmt::Display for UnixMillis {
    /// RFC 3339 in UTC, to the millisecond.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let nanos = i128::from(self.0) * 1_000_000;
        let at = time::OffsetDateTime::from_unix_timestamp_nanos(nanos).map_err(|_| std::fmt::Error)?;
        let (date, clock) = (at.date(), at.time());
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z",
            date.year(),
            u8::from(date.month()),
            date.day(),
            clock.hour(),
            clock.minute(),
            clock.second(),
            clock.millisecond()
        )
    }
}
