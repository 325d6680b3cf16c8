//! The data of the status server, as plain values: the control plane publishes a [`StateView`], the data plane counts
//! [`Traffic`], and the owner of both implements [`StatusProvider`]. The server reads nothing else.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use super::{BridgeView, ClusterMembersView, TopicLevelPage, TopicLevelQuery};
use crate::auth::AuthCounts;
use crate::source::CommitPresence;
use crate::state::NodeRecord;
use crate::state::{HistoryEntry, Phase, SourceState};
use crate::store::records::StoreStats;
use crate::telemetry::TelemetryStats;
use weir_broker::MemoryAccount;
use weir_declare::config::Diagnostic;
use weir_declare::reconcile::{Conditions, Plan, Timestamp};

/// The one door between the server and the broker. Every call is cheap and never waits for the data plane.
pub trait StatusProvider: Send + Sync + 'static {
    /// The state that the control plane last published: one consistent value.
    fn state(&self) -> Arc<StateView>;
    /// Changes whenever [`StatusProvider::state`] does. The number only has to differ.
    fn changes(&self) -> watch::Receiver<u64>;
    /// Counters of every endpoint, summed over the shards.
    fn traffic(&self) -> Traffic;
    /// Every bridge, by name.
    fn bridges(&self) -> Vec<BridgeView>;
    /// Gauges of the shards, counted on request. `None`: the data plane does not answer.
    fn gauges(&self) -> ShardAnswer<Option<Gauges>>;
    /// Connected clients in the order of their connects, at most `query.limit`. `None`: the data plane does not answer.
    fn clients(&self, query: ClientQuery) -> ShardAnswer<Option<ClientPage>>;
    /// Sessions with messages that wait for them, worst first, at most `limit`. `None`: the data plane does not answer.
    fn backlogs(&self, limit: usize) -> ShardAnswer<Option<Vec<BacklogView>>>;
    /// Retained messages. `None`: the data plane does not answer.
    fn topics(&self, query: TopicQuery) -> ShardAnswer<Option<TopicPage>>;
    /// One level of the retained topics. `None`: the data plane does not answer.
    fn topic_level(&self, query: TopicLevelQuery) -> ShardAnswer<Option<TopicLevelPage>>;
    /// Events of a client from now on, until the receiver is dropped. `None`: the data plane does not answer.
    fn trace(&self, query: TraceQuery) -> ShardAnswer<Option<mpsc::Receiver<TraceEvent>>>;
    /// Whether every shard has answered since the call. It may take as long as a shard hangs.
    fn ping_shards(&self) -> ShardAnswer<bool>;
    /// Statistics of the store. `None`: there is none.
    fn store(&self) -> Option<Arc<StoreStats>> {
        None
    }
    /// What memory is used for. `None`: it is not known.
    fn memory(&self) -> Option<MemoryAccount> {
        None
    }
    /// The cluster that this broker is a node of. `None`: it is alone.
    fn cluster_members(&self) -> Option<ClusterMembersView> {
        None
    }
    /// The conditions of the document `cluster`. `None`: there is none.
    fn cluster_document(&self) -> Option<Conditions> {
        None
    }
    /// Statistics of the traces. `None`: there is no collector.
    fn telemetry(&self) -> Option<Arc<TelemetryStats>> {
        None
    }
    /// Events that streams missed because they were not read fast enough.
    fn events_missed(&self) -> u64 {
        0
    }
    /// Counters of dropped authentications.
    fn auth_counts(&self) -> AuthCounts {
        AuthCounts::default()
    }
    /// Whether `commit` is in the history of the applied revision. `None`: that is not known.
    fn presence(&self, _commit: String, _applied: String) -> ShardAnswer<Option<CommitPresence>> {
        Box::pin(std::future::ready(None))
    }
    /// Tries to bind `port` for a moment: on the node's default host, and on `hosts`. The first address that cannot be bound, with
    /// the reason. `None`: all can be bound, or it was not tried.
    fn bind_error(&self, _port: u16, _hosts: &[IpAddr]) -> Option<BindError> {
        None
    }
    /// The static tier of the one validator.
    fn validate(&self, request: ValidateRequest) -> Validation;
    /// Requests a reading of the source; changes only how fresh the state is.
    fn read_source(&self);
    /// The wall clock.
    fn now(&self) -> Timestamp;
}

/// Why an address cannot be bound.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindError {
    pub address: SocketAddr,
    /// Another socket listens there.
    pub in_use: bool,
    /// The system's message.
    pub message: String,
}

/// An answer that the shards are asked for.
pub type ShardAnswer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The control plane at one moment.
#[derive(Debug, Clone)]
pub struct StateView {
    pub node: NodeView,
    pub phase: Phase,
    /// `reconcile: {suspend: true}`.
    pub suspended: bool,
    pub source: SourceState,
    /// Over the canonical documents, before this node's own values.
    pub declaration_digest: String,
    /// Over the live state, including held documents and referenced files.
    pub live_digest: String,
    /// Ordered by name.
    pub endpoints: Vec<EndpointView>,
    /// All documents as declared, secrets as references.
    pub documents: Vec<DocumentView>,
    /// The diagnostics of the last pass.
    pub diagnostics: Arc<[Diagnostic]>,
    /// Newest last; bounded by its publisher.
    pub history: Arc<VecDeque<HistoryEntry>>,
    /// This node first; the others where there is a cluster.
    pub nodes: Vec<ClusterNodeView>,
    /// Why the list of other brokers may be incomplete.
    pub membership_error: Option<String>,
    /// The last plan, with the actions that wait.
    pub plan: Arc<Plan>,
    pub reconcile: ReconcileCounters,
}

/// This broker.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub version: String,
    pub started_at: Timestamp,
    pub shards: u16,
}

/// One endpoint: declared, live, or both.
#[derive(Debug, Clone)]
pub struct EndpointView {
    pub name: String,
    /// Where it listens or is declared to: `0.0.0.0:1883`, `[::]:1883`, `unix:/run/weir.sock`.
    pub address: String,
    /// Where its document stands: the file (or etcd key) and the line.
    pub origin: OriginView,
    /// Canonical, defaults applied. Absent once its document is deleted (it drains).
    pub declared: Option<Value>,
    /// The document of the live listener, in the same form. Absent where nothing listens.
    pub live: Option<Value>,
    pub conditions: Conditions,
    /// The action that the last pass could not do yet.
    pub pending: Option<String>,
    /// Of the certificate served, where TLS is.
    pub certificate_expires_at: Option<Timestamp>,
}

/// Where a document stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct OriginView {
    /// As the source shows it: a path, or a whole etcd key.
    pub file: String,
    pub line: u32,
}

/// A document as declared.
#[derive(Debug, Clone, Default, Serialize)]
pub struct DocumentView {
    /// `endpoint`, `auth`, `acl`, `bridge`, `ban`, `defaults`, `reconcile`.
    pub kind: &'static str,
    /// `None` for the kinds of which there is one.
    pub name: Option<String>,
    pub origin: OriginView,
    /// The body, without the kind.
    pub body: Value,
}

/// A broker of the cluster, as this one sees it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterNodeView {
    /// The broker's own record.
    #[serde(flatten)]
    pub record: NodeRecord,
    /// The broker that answers.
    pub this: bool,
    /// It has the newest documents that any broker has seen.
    pub converged: bool,
    /// Why it has not converged.
    pub reason: Option<String>,
    /// Another broker has the same name.
    pub duplicate_name: bool,
}

/// Since start.
#[derive(Debug, Clone, Default)]
pub struct ReconcileCounters {
    pub passes: u64,
    pub last_pass_s: f64,
    pub durations: Histogram,
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

/// Counts by one of a closed set of words.
pub type Counts = BTreeMap<&'static str, u64>;

/// The data plane's counters, since start.
#[derive(Debug, Clone, Default)]
pub struct Traffic {
    /// By endpoint name.
    pub endpoints: BTreeMap<String, EndpointTraffic>,
    /// How long messages stayed in the shards, from a sample.
    pub deliver_durations: Histogram,
}

/// Gauges of the shards, over all endpoints.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Of connected clients and of those that are away.
    pub sessions: u64,
    pub subscriptions: u64,
    pub retained_messages: u64,
    pub retained_bytes: u64,
    /// Sent and not yet acknowledged.
    pub inflight_messages: u64,
    /// Waiting in sessions.
    pub queued_messages: u64,
    /// Internal inconsistencies that the shards found, by site.
    pub internal_errors: Vec<(&'static str, u64)>,
    /// By endpoint name.
    pub endpoints: BTreeMap<String, EndpointSessionGauges>,
}

/// Gauges of the sessions of one endpoint: those that are, or were last, connected to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointSessionGauges {
    pub sessions: u64,
    /// Sessions whose client is offline.
    pub sessions_away: u64,
    pub subscriptions: u64,
    pub inflight_messages: u64,
    pub queued_messages: u64,
    pub queued_bytes: u64,
}

impl Traffic {
    /// Of the endpoint called `name`; nought where nothing was counted.
    pub fn endpoint(&self, name: &str) -> &EndpointTraffic {
        static NONE: EndpointTraffic = EndpointTraffic::NONE;
        self.endpoints.get(name).unwrap_or(&NONE)
    }
}

/// One endpoint's counters. Totals count from the process's start.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointTraffic {
    pub connections: u64,
    /// Connections whose CONNECT is not accepted yet.
    pub pending: u64,
    pub accepted: u64,
    /// CONNECTs by outcome: `accepted`, or the reason's name.
    pub connects: Counts,
    pub authentication_failures: u64,
    pub authorization_failures: u64,
    /// `protocol`, `transport`, `tls`, `limit`, `timeout`, ...
    pub errors: Counts,
    pub messages_received: u64,
    pub messages_sent: u64,
    /// By reason.
    pub messages_dropped: Counts,
    pub bytes_received: u64,
    pub bytes_sent: u64,
}

impl EndpointTraffic {
    /// Nothing was counted.
    pub const NONE: Self = Self {
        connections: 0,
        pending: 0,
        accepted: 0,
        connects: Counts::new(),
        authentication_failures: 0,
        authorization_failures: 0,
        errors: Counts::new(),
        messages_received: 0,
        messages_sent: 0,
        messages_dropped: Counts::new(),
        bytes_received: 0,
        bytes_sent: 0,
    };
}

/// Which clients to list: those that meet all of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientQuery {
    /// The endpoint's name.
    pub endpoint: Option<String>,
    /// Exactly this client id.
    pub client_id: Option<String>,
    pub client_id_prefix: Option<String>,
    pub address: Option<IpAddr>,
    /// Only clients after the one of this number.
    pub after: Option<u64>,
    pub limit: usize,
}

/// Some of the clients that were asked for.
#[derive(Debug, Clone, Default)]
pub struct ClientPage {
    pub clients: Vec<ClientView>,
    /// Whether more would follow the last.
    pub more: bool,
}

/// One connected client.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientView {
    pub client_id: String,
    pub endpoint: String,
    /// Counts the process's accepted connections.
    pub sequence: u64,
    pub address: Option<SocketAddr>,
    pub username: Option<String>,
    /// `3.1`, `3.1.1` or `5.0`.
    pub protocol: &'static str,
    /// `tcp`, `tls`, `ws` or `wss`.
    pub transport: &'static str,
    pub connected_at: Timestamp,
    pub shard: u16,
    /// Present where one client id is queried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<ClientDetail>,
}

/// Details of a client's session and connection.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientDetail {
    /// Nought: no keep-alive.
    pub keep_alive_s: u16,
    pub session_expiry_s: u32,
    pub subscriptions: Vec<String>,
    pub inflight_messages: u64,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    /// Written, and not yet taken by the socket.
    pub waiting_bytes: u64,
    /// It did not keep up lately.
    pub slow: bool,
    /// It is not read from, for a slow receiver or for its rate.
    pub paused: bool,
    /// Messages that the session did not get, since it began.
    pub dropped_messages: u64,
    /// PUBLISH packets from the client and to it, since it connected; and how many a second on average.
    pub messages_received: u64,
    pub messages_sent: u64,
    pub messages_received_per_s: f64,
    pub messages_sent_per_s: f64,
}

/// A session with messages that wait for it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BacklogView {
    pub client_id: String,
    /// The endpoint it is, or was last, connected to.
    pub endpoint: String,
    pub connected: bool,
    /// It did not keep up lately.
    pub slow: bool,
    pub inflight_messages: u64,
    pub queued_messages: u64,
    pub queued_bytes: u64,
    /// Written, and not yet taken by the socket.
    pub waiting_bytes: u64,
    /// Messages that the session did not get, since it began.
    pub dropped_messages: u64,
}

/// Which retained messages to list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicQuery {
    /// `None`: of any namespace.
    pub namespace: Option<String>,
    /// A valid topic filter; `None`: all, those of `$SYS` too.
    pub filter: Option<String>,
    /// Where a page before this one ended.
    pub after: TopicCursor,
    pub limit: usize,
}

/// A position among retained messages: shard, namespace, node. Opaque to all but the data plane.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicCursor(pub u16, pub u32, pub String);

/// Some of the retained messages that were asked for.
#[derive(Debug, Clone, Default)]
pub struct TopicPage {
    pub topics: Vec<RetainedTopicView>,
    /// Where the next page begins; `None`: this was the last.
    pub next: Option<TopicCursor>,
}

/// A retained message, without its payload.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetainedTopicView {
    /// Empty: the shared one.
    pub namespace: String,
    pub topic: String,
    pub qos: u8,
    pub payload_bytes: u64,
    /// `None`: it does not expire.
    pub expires_in_s: Option<u64>,
}

/// The client to trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceQuery {
    pub client_id: String,
    /// The endpoint's name; `None`: any.
    pub endpoint: Option<String>,
    /// Include the payloads.
    pub payloads: bool,
}

/// Something that happened to a traced client.
#[derive(Debug, Clone, PartialEq)]
pub struct TraceEvent {
    /// `connected`, `packet`, `ended` or `lost`.
    pub kind: &'static str,
    pub data: Value,
}

/// The documents to validate.
#[derive(Debug, Clone)]
pub enum ValidateRequest {
    /// The text of one endpoint, bare or under its `endpoint:` key, as an upsert into the declaration.
    Endpoint(String),
    /// A set by itself: the text of one YAML or JSON file.
    Set(String),
}

/// The validator's result.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Validation {
    /// No errors; warnings may remain.
    pub valid: bool,
    pub diagnostics: Vec<Diagnostic>,
    /// The digest of the declaration, where it is valid.
    pub declaration_digest: Option<String>,
}
