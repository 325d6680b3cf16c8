//! What the control planes of the nodes tell each other: this node's report goes with its heartbeats, and the records of the
//! others are published beside this node's state, as those of brokers that follow one etcd are.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::driver::ClusterView;
use super::inbox::Inbox;
use crate::net::DataPlane;
use crate::state::{self, ControlState, MemberReport, NodeFacts, NodeRecord, SharedState};
use weir_cluster::members::PeerState;
use weir_cluster::node::PeerStatus;
use weir_cluster::wire::REPORT_MAX_BYTES;

/// How often numbers of clients are told.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// How often the records of the others are published where only their numbers of clients differ.
const CLIENTS_EVERY: Duration = Duration::from_secs(5);

/// Whose reports are exchanged.
pub struct ReportSettings {
    pub shared: Arc<SharedState>,
    pub facts: NodeFacts,
    pub plane: DataPlane,
    /// The records of the other nodes are published. Not where the brokers know each other by their source.
    pub publishes_nodes: bool,
}

/// Whether a peer takes part.
pub(super) fn is_member(peer: &PeerStatus) -> bool {
    matches!(peer.state, PeerState::In | PeerState::Evacuating | PeerState::Leaving)
}

/// Exchanges reports. Ends with the cluster's thread.
pub(super) fn exchange(
    settings: ReportSettings,
    inbox: Arc<Inbox>,
    mut view: watch::Receiver<ClusterView>,
) -> impl Future<Output = ()> {
    let mut changes = settings.shared.subscribe();
    let mut reports = Reports { settings, inbox, made: None, sent: Vec::new(), others: Others::default() };
    async move {
        let mut every = tokio::time::interval(REPORT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => reports.send(),
                changed = changes.changed() => match changed {
                    Ok(()) => reports.send(),
                    Err(_) => return,
                },
                changed = view.changed() => match changed {
                    Ok(()) if reports.settings.publishes_nodes => {
                        let seen = view.borrow_and_update().clone();
                        reports.others.read(&seen, &reports.settings.shared);
                    }
                    Ok(()) => {}
                    Err(_) => return,
                },
            }
        }
    }
}

struct Reports {
    settings: ReportSettings,
    inbox: Arc<Inbox>,
    /// This node's record, and the state that it is of.
    made: Option<(Arc<ControlState>, NodeRecord)>,
    sent: Vec<u8>,
    others: Others,
}

impl Reports {
    /// Sends this node's report where it has changed.
    fn send(&mut self) {
        let ReportSettings { shared, facts, plane, .. } = &self.settings;
        let control = shared.load();
        let clients: BTreeMap<_, _> =
            plane.stats().iter().map(|stats| (stats.endpoint, u64::from(stats.connections_current))).collect();
        let record = match &self.made {
            Some((of, record)) if Arc::ptr_eq(of, &control) => record.clone(),
            _ => NodeRecord::new(&control, facts, 0),
        };
        let record = NodeRecord { connections: clients.values().sum(), ..record };
        let endpoints = control.endpoints.iter().filter_map(|(name, endpoint)| {
            Some((name.to_string(), clients.get(&endpoint.id?).copied().unwrap_or_default()))
        });
        let bridges = control.bridges.iter().filter(|(_, bridge)| bridge.generation > 0).map(|(name, _)| name.clone());
        let bytes = MemberReport::new(record.clone(), endpoints, bridges).to_bytes(REPORT_MAX_BYTES);
        self.made = Some((control, record));
        if bytes != self.sent {
            self.inbox.set_report(bytes.as_slice().into());
            self.sent = bytes;
        }
    }
}

/// The records of the other nodes.
#[derive(Default)]
struct Others {
    /// By name, with the bytes that they were read from.
    read: BTreeMap<String, (Arc<[u8]>, NodeRecord)>,
    published: Option<(state::ClusterView, Instant)>,
}

impl Others {
    /// Publishes what has changed.
    fn read(&mut self, view: &ClusterView, shared: &SharedState) {
        let peers = view.node.as_ref().map(|node| &node.peers[..]).unwrap_or_default();
        let mut read = BTreeMap::new();
        for peer in peers.iter().filter(|peer| is_member(peer)) {
            let record = match self.read.get(&peer.node) {
                Some((bytes, record)) if Arc::ptr_eq(bytes, &peer.report) || *bytes == peer.report => record.clone(),
                _ => record(peer),
            };
            read.insert(peer.node.clone(), (Arc::clone(&peer.report), record));
        }
        self.read = read;
        let error = match &view.node {
            None => Some("this node has not joined its cluster yet"),
            Some(node) if !node.is_in => Some("this node is out of its cluster"),
            Some(_) => None,
        };
        let others = self.read.values().map(|(_, record)| record.clone()).collect();
        let new = state::ClusterView { others, error: error.map(str::to_owned), ..state::ClusterView::default() };
        if let Some((old, at)) = &self.published {
            let is_same = old.error == new.error
                && old.others.len() == new.others.len()
                && old.others.iter().zip(&new.others).all(|(old, new)| old.is_same(new));
            let counts =
                old.others.iter().map(|node| node.connections).ne(new.others.iter().map(|node| node.connections));
            if is_same && !(counts && at.elapsed() >= CLIENTS_EVERY) {
                return;
            }
        }
        shared.publish_cluster(new.clone());
        self.published = Some((new, Instant::now()));
    }
}

/// A peer's record. Of one that has told none that this build can read, only what its heartbeat says.
fn record(peer: &PeerStatus) -> NodeRecord {
    match MemberReport::parse(&peer.report) {
        Ok(report) => NodeRecord { name: peer.node.clone(), ..report.node },
        Err(error) => {
            if !peer.report.is_empty() {
                tracing::warn!(peer = peer.node, %error, "cluster node's report not understood");
            }
            let version = peer.weir_version.clone();
            NodeRecord { name: peer.node.clone(), version, connections: peer.clients, ..NodeRecord::empty() }
        }
    }
}
