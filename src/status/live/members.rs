//! The node of a cluster as the status shows it.

use std::collections::BTreeMap;

use crate::cluster::{ClusterView, DisconnectCause, Role};
use crate::state::MemberReport;
use crate::status::{
    ClusterAppliedView, ClusterEngineView, ClusterLinkView, ClusterLogView, ClusterMembersView, ClusterMovesView,
    ClusterNodeView, ClusterPeerView, ClusterRelaysView, ClusterSlotView, ClusterSuspectView, ClusterWillsView,
};
use weir_cluster::members::{PeerState, Suspect};
use weir_cluster::node::{LinkStatus, NodeStatus, PeerStatus, SlotClass, SlotStatus};
use weir_cluster::slots::SlotOwner;

/// The node, its peers, and its connections to the engine.
///
/// `nodes`: what their control planes have told, this node first.
pub(super) fn members(view: &ClusterView, name: &str, nodes: &[ClusterNodeView]) -> ClusterMembersView {
    let engine = engine(view);
    let not_ready = not_ready(view);
    let Some(node) = &view.node else {
        let role = role(Role::Member);
        return ClusterMembersView {
            node: name.to_owned(),
            not_ready,
            role,
            engine,
            applied: applied(nodes.first()),
            ..ClusterMembersView::default()
        };
    };
    let mut peers: Vec<ClusterPeerView> = node.peers.iter().map(|member| peer(member, nodes)).collect();
    peers.sort_by(|a, b| a.node.cmp(&b.node));
    ClusterMembersView {
        node: node.node.clone(),
        incarnation: format!("{:016x}", node.incarnation),
        is_in: node.is_in,
        ready: view.is_ready(),
        not_ready,
        role: role(view.settings.role),
        isolated: view.settings.is_isolated,
        clients: view.settings.clients,
        applied: applied(nodes.first()),
        slots_per_class: view.founded_slots,
        removed: view.settings.removed.iter().map(ToString::to_string).collect(),
        disconnects: DisconnectCause::ALL
            .into_iter()
            .map(DisconnectCause::as_str)
            .zip(view.settings.disconnects)
            .collect(),
        peers,
        suspects: suspects(node),
        slots: node.slots.slots.iter().map(slot).collect(),
        moves: ClusterMovesView {
            finished: node.moves.finished,
            abandoned: node.moves.abandoned,
            sessions_sent: node.moves.sessions_sent,
            sessions_received: node.moves.sessions_received,
        },
        relays: ClusterRelaysView {
            opened: node.relays.opened,
            accepted: node.relays.accepted,
            bytes_sent: node.relays.bytes_sent,
            bytes_received: node.relays.bytes_received,
            resets: node.relays.resets,
        },
        wills: ClusterWillsView {
            entrusted: node.wills.entrusted as u64,
            entrusted_bytes: node.wills.entrusted_bytes as u64,
            kept: node.wills.kept as u64,
            refused: node.wills.refused,
            published: node.wills.published,
        },
        log: ClusterLogView {
            applied: node.log_applied,
            waiting: node.log_waiting as u64,
            unstored_bytes: node.log_unstored_bytes as u64,
        },
        engine,
        errors: node.errors,
        undecodable: node.undecodable,
    }
}

fn slot(slot: &SlotStatus) -> ClusterSlotView {
    ClusterSlotView {
        slot: slot.number,
        durability: match slot.class {
            SlotClass::Memory => "memory",
            SlotClass::Disk => "disk",
        },
        node: slot.node.clone(),
        served: slot.served != SlotOwner::Unknown,
        moves_to: slot.moves_to.clone(),
    }
}

/// Why clients may not be served; `None`: they may.
fn not_ready(view: &ClusterView) -> Option<String> {
    let Some(node) = &view.node else { return Some("the node joins its cluster".to_owned()) };
    match view.settings.role {
        Role::Removed => return Some("the cluster document removes this node".to_owned()),
        Role::Evacuated => return Some("the cluster document evacuates this node".to_owned()),
        Role::Member if node.is_ready => return None,
        Role::Member => {}
    }
    let disconnected = view.servers.links.is_none() || view.servers.streams.is_none();
    let mut reason = match (node.is_in, disconnected) {
        (false, true) => "the node is out, because it is not connected to a nats-server".to_owned(),
        (false, false) => "the node is out, because no nats-server stores its heartbeats".to_owned(),
        (true, _) => {
            let waiting = node.log_waiting;
            format!("the node waits for the other nodes and for the log of retained messages ({waiting} entries wait)")
        }
    };
    for suspect in suspects(node).into_iter().filter(|suspect| suspect.node != node.node) {
        reason.push_str(&format!("; {}: {}", suspect.node, suspect.reason));
    }
    Some(reason)
}

const fn role(role: Role) -> &'static str {
    match role {
        Role::Member => "member",
        Role::Evacuated => "evacuated",
        Role::Removed => "removed",
    }
}

fn suspects(node: &NodeStatus) -> Vec<ClusterSuspectView> {
    let view =
        |suspect: &Suspect| ClusterSuspectView { node: suspect.node.clone(), reason: suspect.reason.to_string() };
    node.suspects.iter().map(view).collect()
}

fn applied(node: Option<&ClusterNodeView>) -> ClusterAppliedView {
    let Some(ClusterNodeView { record, converged, reason, .. }) = node else { return ClusterAppliedView::default() };
    ClusterAppliedView {
        revision: record.applied_revision.clone(),
        digest: Some(record.declaration_digest.clone()).filter(|digest| !digest.is_empty()),
        converged: *converged,
        not_converged: reason.clone(),
    }
}

fn peer(peer: &PeerStatus, nodes: &[ClusterNodeView]) -> ClusterPeerView {
    // One that cannot be read is logged where the records of nodes are read.
    let report = MemberReport::parse(&peer.report).ok();
    ClusterPeerView {
        node: peer.node.clone(),
        incarnation: format!("{:016x}", peer.incarnation),
        state: match peer.state {
            PeerState::Unconfirmed => "unconfirmed",
            PeerState::In => "in",
            PeerState::Evacuating => "evacuating",
            PeerState::Leaving => "leaving",
            PeerState::Out => "out",
            PeerState::Left => "left",
            PeerState::Refused(_) => "refused",
        },
        version: peer.weir_version.clone(),
        clients: peer.clients,
        applied: applied(nodes.iter().skip(1).find(|node| node.record.name == peer.node)),
        unlisted_clients: report.as_ref().map_or(0, |report| report.unlisted_clients),
        endpoints: report.map(|report| report.endpoints),
        silent_ms: peer.silent_ms,
        link: peer.link.as_ref().map(link),
    }
}

fn link(link: &LinkStatus) -> ClusterLinkView {
    let counters = &link.counters;
    ClusterLinkView {
        unacknowledged_bytes: link.unacknowledged_bytes,
        buffered_bytes: link.buffered_bytes,
        envelopes_sent: counters.envelopes_sent,
        bytes_sent: counters.bytes_sent,
        envelopes_received: counters.envelopes_received,
        resends: counters.resends,
        gaps: counters.gaps,
        duplicates: counters.duplicates,
        overflows: counters.overflows,
        failed: link.is_failed,
    }
}

fn engine(view: &ClusterView) -> ClusterEngineView {
    let counts = &view.engine;
    let seconds = |us: u64| us as f64 / 1e6;
    ClusterEngineView {
        servers: BTreeMap::from([("links", view.servers.links.clone()), ("streams", view.servers.streams.clone())]),
        connects: counts.connections,
        disconnects: counts.disconnections,
        envelopes_refused: counts.envelopes_refused,
        slow_consumer_drops: counts.slow_consumer_drops,
        heartbeats_stored: counts.heartbeats_acked,
        heartbeats_failed: counts.heartbeats_failed,
        heartbeat_seconds: seconds(counts.heartbeat_us_sum),
        retained_stored: counts.retained_acked,
        retained_failed: counts.retained_failed,
        retained_retries: counts.retained_retries,
        retained_seconds: seconds(counts.retained_us_sum),
    }
}
