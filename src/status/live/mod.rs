//! The broker itself as a [`StatusProvider`]: the published control state and the data plane's counters.

#[cfg_attr(not(feature = "bridge"), path = "no_bridges.rs")]
mod bridges;
mod clients;
mod endpoints;
#[cfg(feature = "cluster")]
mod members;
mod topic_tree;
mod trace;
mod traffic;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use socket2::{Domain, Socket, Type};
use tokio::sync::{Notify, mpsc, watch};

use self::clients::{backlog, clients, topics};
use self::endpoints::{documents, endpoint};
use self::traffic::{endpoint_traffic, session_gauges};
use super::validator;
use super::{
    BacklogView, BindError, BridgeView, ClientPage, ClientQuery, ClusterNodeView, Gauges, Histogram, NodeView,
    ReconcileCounters, ShardAnswer, StateView, StatusProvider, TopicLevelPage, TopicLevelQuery, TopicPage, TopicQuery,
    TraceEvent, TraceQuery, Traffic, ValidateRequest, Validation,
};
use crate::auth::AuthCounts;
#[cfg(feature = "cluster")]
use crate::cluster;
use crate::fleet::node_convergence;
use crate::net::{DataPlane, DeliverDurations};
use crate::source::{self, CommitPresence};
use crate::state::{ClusterView, ControlState, NodeFacts, NodeRecord, PassDurations, SharedState};
use crate::store::records::StoreStats;
use crate::telemetry::TelemetryStats;
use weir_broker::MemoryAccount;
use weir_broker::{EndpointGauges, EndpointId};
use weir_declare::config::NodeContext;
use weir_declare::reconcile::{Conditions, Timestamp};

/// A commit, and the revision that may have it in its history.
type Ancestry = (String, String);
/// The last such question that was answered.
type KnownAncestry = Option<(Ancestry, Option<CommitPresence>)>;

/// Shows a running broker.
pub struct LiveStatus {
    control: Arc<SharedState>,
    plane: DataPlane,
    context: NodeContext,
    shards: u16,
    facts: NodeFacts,
    resync_requested: Arc<Notify>,
    store: Option<Arc<StoreStats>>,
    telemetry: Option<Arc<TelemetryStats>>,
    #[cfg(feature = "cluster")]
    cluster: Option<watch::Receiver<cluster::ClusterView>>,
    /// The directory of the source, which may lie in a git repository.
    directory: Option<PathBuf>,
    /// The last question about an ancestor, and the answer. Its lock also keeps git to one run at a time.
    ancestry: Arc<tokio::sync::Mutex<KnownAncestry>>,
    /// Follows the published versions.
    version: watch::Receiver<u64>,
    /// The state made of the version beside it.
    made: Mutex<Option<(u64, Arc<StateView>)>>,
}

impl LiveStatus {
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
            #[cfg(feature = "cluster")]
            cluster: None,
            directory: None,
            ancestry: Arc::default(),
            version,
            made: Mutex::new(None),
        }
    }

    /// Counts the store, too.
    #[must_use]
    pub fn with_store(self, store: Option<Arc<StoreStats>>) -> Self {
        Self { store, ..self }
    }

    /// Answers questions about commits from the git repository that `directory` lies in.
    #[must_use]
    pub fn with_directory(self, directory: Option<PathBuf>) -> Self {
        Self { directory, ..self }
    }

    /// Shows the cluster that this broker is a node of.
    #[cfg(feature = "cluster")]
    #[must_use]
    pub fn with_cluster(self, cluster: Option<watch::Receiver<cluster::ClusterView>>) -> Self {
        Self { cluster, ..self }
    }

    /// Adds the counters of traces.
    #[must_use]
    pub fn with_telemetry(self, telemetry: Option<Arc<TelemetryStats>>) -> Self {
        Self { telemetry, ..self }
    }
}

impl StatusProvider for LiveStatus {
    fn state(&self) -> Arc<StateView> {
        // The version is read before the state: a state published in between is converted again, never missed.
        let version = *self.version.borrow();
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        match &*made {
            Some((of, state)) if *of == version => state.clone(),
            _ => {
                let connections = connections(&self.plane);
                let nodes = nodes(&self.control.load(), &self.control.cluster(), &self.facts, connections);
                let error = self.control.cluster().error.clone();
                let state = state(&self.control.load(), &self.context, self.shards);
                let state = Arc::new(StateView { nodes, membership_error: error, ..state });
                *made = Some((version, state.clone()));
                state
            }
        }
    }

    fn store(&self) -> Option<Arc<StoreStats>> {
        self.store.clone()
    }

    fn events_missed(&self) -> u64 {
        self.plane.events_missed()
    }

    fn auth_counts(&self) -> AuthCounts {
        self.plane.auth_counters().read()
    }

    fn memory(&self) -> Option<MemoryAccount> {
        Some(self.plane.memory().clone())
    }

    fn telemetry(&self) -> Option<Arc<TelemetryStats>> {
        self.telemetry.clone()
    }

    #[cfg(feature = "cluster")]
    fn cluster_members(&self) -> Option<super::ClusterMembersView> {
        let view = self.cluster.as_ref()?.borrow().clone();
        Some(members::members(&view, &self.control.load().node_name, &self.state().nodes))
    }

    fn cluster_document(&self) -> Option<Conditions> {
        self.control.load().cluster_document.clone()
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
        bridges::bridges(&self.control.load(), &self.plane, self.now())
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

    fn backlogs(&self, limit: usize) -> ShardAnswer<Option<Vec<BacklogView>>> {
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

    fn topic_level(&self, query: TopicLevelQuery) -> ShardAnswer<Option<TopicLevelPage>> {
        let plane = self.plane.clone();
        Box::pin(async move { topic_tree::level(&plane, query).await })
    }

    fn trace(&self, query: TraceQuery) -> ShardAnswer<Option<mpsc::Receiver<TraceEvent>>> {
        let (control, plane) = (self.control.load(), self.plane.clone());
        Box::pin(async move { trace::begin(&control, plane, query).await })
    }

    fn ping_shards(&self) -> ShardAnswer<bool> {
        let plane = self.plane.clone();
        Box::pin(async move { plane.ping_shards().await.is_ok() })
    }

    fn presence(&self, commit: String, applied: String) -> ShardAnswer<Option<CommitPresence>> {
        let Some(directory) = self.directory.clone() else { return Box::pin(std::future::ready(None)) };
        let ancestry = Arc::clone(&self.ancestry);
        Box::pin(async move {
            let question = (commit, applied);
            let mut last = ancestry.lock_owned().await;
            if let Some((_, answer)) = last.as_ref().filter(|(known, _)| *known == question) {
                return *answer;
            }
            // The lock moves along: git runs once at a time, even where the caller gives up.
            let work = tokio::task::spawn_blocking(move || {
                let answer = source::commit_presence(&directory, &question.0, &question.1);
                *last = answer.map(|_| (question, answer));
                answer
            });
            work.await.ok().flatten()
        })
    }

    fn bind_error(&self, port: u16, hosts: &[IpAddr]) -> Option<BindError> {
        let addresses = std::iter::once(&self.context.default_host).chain(hosts);
        addresses.map(|host| SocketAddr::new(*host, port)).find_map(bind_error)
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

/// Binds without listening, so that a listener of this broker is not kept from the address meanwhile.
fn bind_error(address: SocketAddr) -> Option<BindError> {
    let bound = Socket::new(Domain::for_address(address), Type::STREAM, None).and_then(|socket| {
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    });
    let error = bound.err()?;
    Some(BindError { address, in_use: error.kind() == ErrorKind::AddrInUse, message: error.to_string() })
}

fn state(control: &ControlState, context: &NodeContext, shards: u16) -> StateView {
    StateView {
        node: NodeView {
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
        membership_error: None,
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
fn nodes(control: &ControlState, cluster: &ClusterView, facts: &NodeFacts, connections: u64) -> Vec<ClusterNodeView> {
    let this = NodeRecord::new(control, facts, connections);
    let records: Vec<NodeRecord> = std::iter::once(this).chain(cluster.others.iter().cloned()).collect();
    let convergences = node_convergence(&records);
    let nodes = records.into_iter().zip(convergences).enumerate();
    nodes
        .map(|(at, (record, convergence))| ClusterNodeView {
            this: at == 0,
            converged: convergence.converged,
            reason: convergence.reason,
            duplicate_name: cluster.duplicates.contains(&record.name),
            record,
        })
        .collect()
}

/// Open connections of all endpoints.
fn connections(plane: &DataPlane) -> u64 {
    plane.stats().iter().map(|stats| u64::from(stats.connections_current)).sum()
}

fn seconds(us: u64) -> f64 {
    us as f64 / 1e6
}

pub(super) fn names(control: &ControlState) -> BTreeMap<EndpointId, &Arc<str>> {
    control.endpoints.iter().filter_map(|(name, endpoint)| Some((endpoint.id?, name))).collect()
}

pub(super) fn endpoint_name(names: &BTreeMap<EndpointId, &Arc<str>>, id: EndpointId) -> String {
    names.get(&id).map_or_else(String::new, |name| name.to_string())
}
