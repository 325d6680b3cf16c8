//! The broker itself as a [`StatusView`]: the published control state and the data plane's counters.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value};
use tokio::sync::{Notify, mpsc, watch};

use super::validator;
use super::{
    Backlog, BridgeView, Client, ClientDetail, ClientPage, ClientQuery, ClusterNode, Counts, Document, Endpoint,
    EndpointSessionGauges, EndpointTraffic, Gauges, Histogram, Node, Origin, ReconcileCounters, RetainedTopic,
    ShardAnswer, State, StatusView, TopicCursor, TopicPage, TopicQuery, TraceEvent, TraceQuery, Traffic,
    ValidateRequest, Validation, live_trace,
};
use crate::cluster::node_convergence;
use crate::net::{
    ClientFilter, DataPlane, DeliverDurations, EndpointStats, FoundClient, RetainedCursor, RetainedFilter,
};
use crate::state::{ClusterView, NodeFacts, NodeRecord};
use crate::state::{ControlState, EndpointState, PassDurations, SharedState};
use crate::store::records::StoreStats;
use crate::telemetry::TelemetryStats;
use weir_broker::{Dropped, EndpointGauges, EndpointId, RetainedPosition};
use weir_declare::config::{self, BuiltInDefaults, Declared, Diagnostic, NodeContext, canonical, fields_of};
use weir_declare::reconcile::Timestamp;

/// Shows a running broker.
pub struct LiveView {
    control: Arc<SharedState>,
    plane: DataPlane,
    context: NodeContext,
    shards: u16,
    facts: NodeFacts,
    resync_requested: Arc<Notify>,
    store: Option<Arc<StoreStats>>,
    telemetry: Option<Arc<TelemetryStats>>,
    /// Follows the published versions.
    version: watch::Receiver<u64>,
    /// The state made of the version beside it.
    made: Mutex<Option<(u64, Arc<State>)>>,
}

impl LiveView {
    /// `context`: the context for validation requests. `resync_requested` requests a reading of the source; `facts`:
    /// this broker's facts for the others.
    pub fn new(
        control: Arc<SharedState>,
        plane: DataPlane,
        context: NodeContext,
        shards: u16,
        facts: NodeFacts,
        resync_requested: Arc<Notify>,
    ) -> Self {
        let version = control.subscribe();
        Self {
            control,
            plane,
            context,
            shards,
            facts,
            resync_requested,
            store: None,
            telemetry: None,
            version,
            made: Mutex::new(None),
        }
    }

    /// Counts the store, too.
    #[must_use]
    pub fn with_store(self, store: Option<Arc<StoreStats>>) -> Self {
        Self { store, ..self }
    }

    /// Adds the counters of traces.
    #[must_use]
    pub fn with_telemetry(self, telemetry: Option<Arc<TelemetryStats>>) -> Self {
        Self { telemetry, ..self }
    }
}

impl StatusView for LiveView {
    fn state(&self) -> Arc<State> {
        // The version is read before the state: a state published in between is converted again, never missed.
        let version = *self.version.borrow();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((of, state)) if *of == version => state.clone(),
            _ => {
                let connections = connections(&self.plane);
                let nodes = nodes(&self.control.load(), &self.control.cluster(), &self.facts, connections);
                let trouble = self.control.cluster().trouble.clone();
                let state = state(&self.control.load(), &self.context, self.shards);
                let state = Arc::new(State { nodes, membership_trouble: trouble, ..state });
                *made = Some((version, state.clone()));
                state
            }
        }
    }

    fn store(&self) -> Option<Arc<StoreStats>> {
        self.store.clone()
    }

    fn telemetry(&self) -> Option<Arc<TelemetryStats>> {
        self.telemetry.clone()
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.control.subscribe()
    }

    fn traffic(&self) -> Traffic {
        let control = self.control.load();
        let names = names(&control);
        let durations = self.plane.deliver_durations();
        let mut traffic = Traffic {
            endpoints: BTreeMap::new(),
            deliver_durations: Histogram {
                bounds: DeliverDurations::BOUNDS_US.map(seconds).to_vec(),
                counts: durations.counts.to_vec(),
                sum: durations.sum_ns as f64 / 1e9,
            },
        };
        for stats in self.plane.stats() {
            if let Some(name) = names.get(&stats.endpoint) {
                traffic.endpoints.insert(name.to_string(), endpoint_traffic(&stats));
            }
        }
        traffic
    }

    fn bridges(&self) -> Vec<BridgeView> {
        super::live_bridges::bridges(&self.control.load(), &self.plane, self.now())
    }

    fn gauges(&self) -> ShardAnswer<Option<Gauges>> {
        let (control, plane) = (self.control.load(), self.plane.clone());
        Box::pin(async move {
            let held = plane.gauges().await.ok()?;
            let names = names(&control);
            let of_endpoint =
                |(id, held): (&EndpointId, &EndpointGauges)| Some((names.get(id)?.to_string(), session_gauges(held)));
            Some(Gauges {
                sessions: held.sessions as u64,
                subscriptions: held.subscriptions as u64,
                retained_messages: held.retained_messages as u64,
                retained_bytes: held.retained_bytes as u64,
                inflight_messages: held.inflight as u64,
                queued_messages: held.queued as u64,
                internal_errors: held.internal_errors.counts().map(|(site, n)| (site.label(), n)).collect(),
                endpoints: held.endpoints.iter().filter_map(of_endpoint).collect(),
            })
        })
    }

    fn clients(&self, query: ClientQuery) -> ShardAnswer<Option<ClientPage>> {
        let control = self.control.load();
        let (plane, now) = (self.plane.clone(), self.now());
        Box::pin(async move { clients(&control, &plane, query, now).await })
    }

    fn backlogs(&self, limit: usize) -> ShardAnswer<Option<Vec<Backlog>>> {
        let (control, plane) = (self.control.load(), self.plane.clone());
        Box::pin(async move {
            let found = plane.backlogs(limit).await.ok()?;
            let names = names(&control);
            Some(found.into_iter().map(|each| backlog(endpoint_name(&names, each.endpoint), each)).collect())
        })
    }

    fn topics(&self, query: TopicQuery) -> ShardAnswer<Option<TopicPage>> {
        let plane = self.plane.clone();
        Box::pin(async move { topics(&plane, query).await })
    }

    fn trace(&self, query: TraceQuery) -> ShardAnswer<Option<mpsc::Receiver<TraceEvent>>> {
        let (control, plane) = (self.control.load(), self.plane.clone());
        Box::pin(async move { live_trace::begin(&control, plane, query).await })
    }

    fn ping_shards(&self) -> ShardAnswer<bool> {
        let plane = self.plane.clone();
        Box::pin(async move { plane.ping_shards().await.is_ok() })
    }

    fn validate(&self, request: ValidateRequest) -> Validation {
        validator::validate(&request, &self.control.load().declared, &self.context)
    }

    fn read_source(&self) {
        self.resync_requested.notify_one();
    }

    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

fn state(control: &ControlState, context: &NodeContext, shards: u16) -> State {
    State {
        node: Node {
            name: control.node_name.clone(),
            labels: context.labels.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: control.started_at,
            shards,
        },
        phase: control.phase,
        suspended: control.suspended,
        source: control.source.clone(),
        declaration_digest: control.declaration_digest.clone(),
        live_digest: control.live_digest.clone(),
        endpoints: control.endpoints.iter().map(|(name, each)| endpoint(name, each, control, context)).collect(),
        documents: documents(&control.declared),
        diagnostics: control.diagnostics.clone(),
        history: control.history.clone(),
        nodes: Vec::new(),
        membership_trouble: None,
        plan: control.plan.clone(),
        reconcile: ReconcileCounters {
            passes: control.passes,
            last_pass_s: seconds(control.last_pass_us),
            durations: Histogram {
                bounds: PassDurations::BOUNDS_US.map(seconds).to_vec(),
                counts: control.pass_durations.counts.to_vec(),
                sum: seconds(control.pass_durations.sum_us),
            },
        },
    }
}

/// This broker, then the others.
fn nodes(control: &ControlState, cluster: &ClusterView, facts: &NodeFacts, connections: u64) -> Vec<ClusterNode> {
    let this = NodeRecord::new(control, facts, connections);
    let records: Vec<NodeRecord> = std::iter::once(this).chain(cluster.others.iter().cloned()).collect();
    let convergences = node_convergence(&records);
    let nodes = records.into_iter().zip(convergences).enumerate();
    nodes
        .map(|(at, (record, convergence))| ClusterNode {
            this: at == 0,
            converged: convergence.converged,
            reason: convergence.reason,
            duplicate_name: cluster.duplicates.contains(&record.name),
            record,
        })
        .collect()
}

/// Open connections of all endpoints.
pub(crate) fn connections(plane: &DataPlane) -> u64 {
    plane.stats().iter().map(|stats| u64::from(stats.connections_current)).sum()
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

fn endpoint(name: &str, state: &EndpointState, control: &ControlState, context: &NodeContext) -> Endpoint {
    let effective = state.live.as_ref().or(state.declared.as_ref());
    Endpoint {
        name: name.to_owned(),
        address: effective.map(|each| each.listen.bind_address(context.default_host).to_string()).unwrap_or_default(),
        origin: match &state.declared {
            Some(declared) => origin(&declared.origin),
            None if state.origin.is_empty() => complained_of(name, &control.diagnostics),
            None => written_origin(&state.origin),
        },
        declared: state.declared.as_deref().map(body),
        live: state.live.as_deref().map(body),
        conditions: state.conditions.clone(),
        pending: state.pending.clone(),
        certificate_expires_at: state.certificate_expires_at,
    }
}

/// The endpoint's fields without its name, which stands beside them.
fn body(endpoint: &config::Endpoint) -> Value {
    Value::Object(nameless(fields_of(endpoint)))
}

fn nameless(mut fields: Map<String, Value>) -> Map<String, Value> {
    fields.shift_remove("name");
    fields
}

fn origin(origin: &config::Origin) -> Origin {
    Origin { file: origin.file.to_string(), line: origin.position.line }
}

/// A document that was never good stands where its first diagnostic is.
fn complained_of(name: &str, diagnostics: &[Diagnostic]) -> Origin {
    let about = |found: &&Diagnostic| {
        let identity = found.identity.as_ref();
        identity.is_some_and(|each| each.kind == config::Kind::Endpoint && each.name.as_str() == name)
    };
    let found = diagnostics.iter().find(about);
    found.map_or_else(Origin::default, |found| Origin { file: found.file.to_string(), line: found.position.line })
}

/// `path:line`
pub(super) fn written_origin(text: &str) -> Origin {
    let parsed = text.rsplit_once(':').and_then(|(file, line)| Some((file, line.parse().ok()?)));
    let (file, line) = parsed.unwrap_or((text, 1));
    Origin { file: file.to_owned(), line }
}

fn documents(declared: &Declared) -> Vec<Document> {
    let mut documents: Vec<Document> = canonical(declared, BuiltInDefaults::LeftOut)
        .into_iter()
        .map(|document| {
            let name = document.identity.name.as_str();
            let found = match document.identity.kind {
                config::Kind::Endpoint => declared.endpoints.get(name).map(|each| origin(&each.origin)),
                config::Kind::Auth => declared.auths.get(name).map(|each| origin(&each.origin)),
                config::Kind::Acl => declared.acls.get(name).map(|each| origin(&each.origin)),
                config::Kind::Bridge => declared.bridges.get(name).map(|each| origin(&each.origin)),
                config::Kind::Ban => declared.bans.get(name).map(|each| origin(&each.origin)),
                config::Kind::Reconcile | config::Kind::Defaults => None,
            };
            let single = document.identity.kind.is_single();
            Document {
                kind: document.identity.kind.key(),
                name: (!single).then(|| name.to_owned()),
                origin: found.unwrap_or_default(),
                body: Value::Object(nameless(document.body)),
            }
        })
        .collect();
    if let Some(defaults) = &declared.defaults {
        let body = Map::from_iter([("endpoint".to_owned(), Value::Object(defaults.endpoint.clone()))]);
        let kind = config::Kind::Defaults.key();
        documents.push(Document { kind, name: None, origin: origin(&defaults.origin), body: Value::Object(body) });
    }
    documents
}

/// Refusals that are the CONNECT's own outcome; the others are errors of the connection.
const CONNECT_REFUSALS: [&str; 3] = ["authentication", "session", "version"];

fn endpoint_traffic(stats: &EndpointStats) -> EndpointTraffic {
    let (connects, errors): (Counts, Counts) = stats
        .refused
        .iter()
        .filter(|(reason, _)| *reason != "shutdown")
        .partition(|(reason, _)| CONNECT_REFUSALS.contains(reason));
    let mut traffic = EndpointTraffic {
        connections: stats.connections_current.into(),
        pending: stats.connections_pending.into(),
        accepted: stats.accepted_total,
        connects,
        authentication_failures: stats.refused.authentication,
        errors,
        ..EndpointTraffic::NONE
    };
    traffic.connects.insert("success", stats.admitted_total);
    let broker = &stats.broker;
    traffic.authorization_failures = broker.authorization_failures;
    traffic.messages_received = broker.messages_received;
    traffic.messages_sent = broker.messages_sent;
    traffic.bytes_received = broker.bytes_received;
    traffic.bytes_sent = broker.bytes_sent;
    traffic.messages_dropped =
        Dropped::ALL.iter().map(|reason| (reason.label(), broker.dropped[*reason as usize])).collect();
    traffic
}

/// Asks the shards for one more than the limit, which shows whether there are more.
async fn clients(control: &ControlState, plane: &DataPlane, query: ClientQuery, now: Timestamp) -> Option<ClientPage> {
    let endpoint = match &query.endpoint {
        None => None,
        // Without an id, it never had a listener.
        Some(name) => match control.endpoints.get(name.as_str()).and_then(|endpoint| endpoint.id) {
            Some(id) => Some(id),
            None => return Some(ClientPage::default()),
        },
    };
    let filter = ClientFilter {
        endpoint,
        client_id: query.client_id,
        client_id_prefix: query.client_id_prefix,
        address: query.address,
        after: query.after,
        limit: query.limit.saturating_add(1),
    };
    let mut found = plane.find_clients(filter).await.ok()?;
    let more = found.len() > query.limit;
    found.truncate(query.limit);
    let names = names(control);
    let clients = found.into_iter().map(|found| client(endpoint_name(&names, found.endpoint), found, now));
    Some(ClientPage { clients: clients.collect(), more })
}

pub(super) fn endpoint_name(names: &BTreeMap<EndpointId, &Arc<str>>, id: EndpointId) -> String {
    names.get(&id).map_or_else(String::new, |name| name.to_string())
}

fn session_gauges(held: &EndpointGauges) -> EndpointSessionGauges {
    EndpointSessionGauges {
        sessions: held.sessions as u64,
        sessions_away: held.offline as u64,
        subscriptions: held.subscriptions as u64,
        inflight_messages: held.inflight as u64,
        queued_messages: held.queued as u64,
        queued_bytes: held.queued_bytes,
    }
}

fn backlog(endpoint: String, found: weir_broker::Backlog) -> Backlog {
    Backlog {
        client_id: found.client_id,
        endpoint,
        connected: found.connected,
        slow: found.slow,
        inflight_messages: found.inflight as u64,
        queued_messages: found.queued as u64,
        queued_bytes: found.queued_bytes,
        waiting_bytes: found.waiting_bytes,
        dropped_messages: found.dropped.into(),
    }
}

async fn topics(plane: &DataPlane, query: TopicQuery) -> Option<TopicPage> {
    let TopicCursor(shard, namespace, after) = query.after;
    let from = RetainedCursor { shard, place: RetainedPosition { namespace, after } };
    let filter = RetainedFilter { namespace: query.namespace, filter: query.filter };
    let (found, next) = plane.retained(filter, from, query.limit).await.ok()?;
    let topics = found.into_iter().map(|each| RetainedTopic {
        namespace: each.namespace.to_string(),
        topic: each.topic,
        qos: each.qos as u8,
        payload_bytes: each.payload_bytes as u64,
        expires_in_s: each.expires_in_ms.map(|ms| ms / 1000),
    });
    let next = next.map(|RetainedCursor { shard, place }| TopicCursor(shard, place.namespace, place.after));
    Some(TopicPage { topics: topics.collect(), next })
}

pub(super) fn names(control: &ControlState) -> BTreeMap<EndpointId, &Arc<str>> {
    control.endpoints.iter().filter_map(|(name, endpoint)| Some((endpoint.id?, name))).collect()
}

/// As people call a protocol level.
pub(super) fn protocol(level: u8) -> &'static str {
    match level {
        3 => "3.1",
        4 => "3.1.1",
        _ => "5.0",
    }
}

fn client(endpoint: String, found: FoundClient, now: Timestamp) -> Client {
    let row = found.row;
    // At least one second: a rate over less is meaningless.
    let per_s = |count: u64| count as f64 / (row.connected_ms.max(1000) as f64 / 1000.0);
    Client {
        client_id: row.client_id,
        endpoint,
        sequence: row.sequence,
        address: row.peer,
        username: row.username,
        protocol: protocol(row.protocol_level),
        transport: match (row.tls, row.websocket) {
            (false, false) => "tcp",
            (true, false) => "tls",
            (false, true) => "ws",
            (true, true) => "wss",
        },
        connected_at: Timestamp::from_unix_ms(now.unix_ms.saturating_sub(row.connected_ms)),
        shard: row.shard,
        detail: found.detail.map(|detail| ClientDetail {
            keep_alive_s: detail.keep_alive_s,
            session_expiry_s: detail.session_expiry_s,
            subscriptions: detail.subscriptions,
            inflight_messages: detail.inflight as u64,
            queued_messages: detail.queued as u64,
            queued_bytes: detail.queued_bytes,
            waiting_bytes: detail.waiting_bytes as u64,
            slow: detail.slow,
            paused: detail.paused,
            dropped_messages: detail.dropped.into(),
            messages_received: detail.messages_received,
            messages_sent: detail.messages_sent,
            messages_received_per_s: per_s(detail.messages_received),
            messages_sent_per_s: per_s(detail.messages_sent),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_parsed() {
        let parsed = |text| written_origin(text);
        assert_eq!(parsed("a/b.yaml:12"), Origin { file: "a/b.yaml".to_owned(), line: 12 });
        assert_eq!(parsed("C:odd"), Origin { file: "C:odd".to_owned(), line: 1 });
    }
}
