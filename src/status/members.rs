//! The nodes of the cluster that is one broker: `/api/cluster/members`, and their metrics.

use std::collections::BTreeMap;
use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Unit;
use serde::Serialize;
use serde_json::json;

use super::http::Reply;
use super::query::Query;
use super::router::App;

/// A node of a cluster, its peers, and what carries messages between them.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMembersView {
    /// This node's name.
    pub node: String,
    /// This start of its process, hexadecimal.
    pub incarnation: String,
    /// The engine stores this node's heartbeats.
    #[serde(rename = "in")]
    pub is_in: bool,
    /// Clients may be served.
    pub ready: bool,
    /// Why clients may not be served.
    pub not_ready: Option<String>,
    /// What the document `cluster` makes of this node: `member`, `evacuated` or `removed`.
    pub role: &'static str,
    /// It has disconnected its clients because it is out.
    pub isolated: bool,
    /// Connected clients.
    pub clients: u64,
    #[serde(flatten)]
    pub applied: ClusterAppliedView,
    /// The slots of each class with which the cluster was founded; `None`: not known.
    pub slots_per_class: Option<u16>,
    /// The nodes that the document `cluster` removes.
    pub removed: Vec<String>,
    /// Clients that were disconnected to connect to other nodes, by reason.
    pub disconnects: BTreeMap<&'static str, u64>,
    /// The other nodes, by name.
    pub peers: Vec<ClusterPeerView>,
    /// Nodes with a problem, this one included.
    pub suspects: Vec<ClusterSuspectView>,
    /// Which node has which persistent sessions, by slot.
    pub slots: Vec<ClusterSlotView>,
    /// Moves of slots.
    pub moves: ClusterMovesView,
    /// Connections that nodes relay to the node that has their session.
    pub relays: ClusterRelaysView,
    /// Wills that nodes keep for each other.
    pub wills: ClusterWillsView,
    /// The log of retained messages.
    pub log: ClusterLogView,
    /// The connections to the nats-servers.
    pub engine: ClusterEngineView,
    /// Messages of peers that contradict what this node knows.
    pub errors: u64,
    /// Heartbeats, envelopes and entries of the log that could not be decoded.
    pub undecodable: u64,
}

/// What a node has applied of its declarations.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterAppliedView {
    /// `None`: nothing, or it has not told.
    pub revision: Option<String>,
    /// Of the declaration; equal on all nodes that serve the same. `None`: it has not told.
    pub digest: Option<String>,
    /// It has applied the newest documents that its source has.
    pub converged: bool,
    /// Why it has not.
    pub not_converged: Option<String>,
}

/// Another node.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPeerView {
    pub node: String,
    pub incarnation: String,
    /// One of [`PEER_STATES`].
    pub state: &'static str,
    pub version: String,
    /// Its connected clients, by its last heartbeat.
    pub clients: u64,
    #[serde(flatten)]
    pub applied: ClusterAppliedView,
    /// Its clients by endpoint, of the endpoints with the most clients; `None`: it has not told.
    pub endpoints: Option<BTreeMap<String, u64>>,
    /// Its clients of all endpoints that it has no room to list.
    pub unlisted_clients: u64,
    /// Time since its last heartbeat.
    pub silent_ms: u64,
    /// `None`: there is none.
    pub link: Option<ClusterLinkView>,
}

/// The states of a peer.
pub const PEER_STATES: [&str; 7] = ["in", "evacuating", "leaving", "left", "out", "refused", "unconfirmed"];

/// The link to another node. Totals count from its start.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterLinkView {
    /// Sent, or waiting to be sent, and not processed by the peer.
    pub unacknowledged_bytes: u64,
    /// Kept until the peer has received them.
    pub buffered_bytes: u64,
    pub envelopes_sent: u64,
    pub bytes_sent: u64,
    pub envelopes_received: u64,
    /// How often the link was sent again from an earlier offset.
    pub resends: u64,
    /// Envelopes that arrived before an earlier one.
    pub gaps: u64,
    /// Envelopes whose payload had arrived before.
    pub duplicates: u64,
    /// Envelopes that did not fit, because the node took messages too slowly.
    pub overflows: u64,
    /// A frame of the peer could not be decoded: the link waits until the peer restarts.
    pub failed: bool,
}

/// A node with a problem.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSuspectView {
    pub node: String,
    pub reason: String,
}

/// A slot: a part of the persistent sessions.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSlotView {
    pub slot: u16,
    /// The durability of its sessions' endpoints: `memory` or `disk`.
    pub durability: &'static str,
    /// The node that owns it; `None`: none does.
    pub node: Option<String>,
    /// Whether that node serves it, as far as this one knows.
    pub served: bool,
    /// The node to which this one is moving it with its sessions; `None`: it is not.
    pub moves_to: Option<String>,
}

/// Moves of slots with their sessions, since the process's start.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterMovesView {
    /// Moves from this node that were finished, and that were abandoned.
    pub finished: u64,
    pub abandoned: u64,
    /// Sessions that went to other nodes, and that were copied to this one.
    pub sessions_sent: u64,
    pub sessions_received: u64,
}

/// Relayed connections. Totals count from the process's start.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterRelaysView {
    /// Connections of this node's sockets that it asked other nodes to serve.
    pub opened: u64,
    /// Connections that other nodes asked this one to serve.
    pub accepted: u64,
    pub bytes_sent: u64,
    pub bytes_received: u64,
    /// How often all connections of a peer were lost.
    pub resets: u64,
}

/// Wills that are published by another node where a client's node dies.
#[derive(Debug, Clone, Copy, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterWillsView {
    /// Wills of this node's clients that another node has, and their bytes.
    pub entrusted: u64,
    pub entrusted_bytes: u64,
    /// Wills of other nodes' clients that this one has.
    pub kept: u64,
    /// Since the process's start, wills that no other node has, because there was no room.
    pub refused: u64,
    /// Since the process's start, wills that this node published for one that died.
    pub published: u64,
}

/// The log of retained messages, as this node has applied it.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterLogView {
    /// The last sequence that this node has applied.
    pub applied: u64,
    /// Entries read, and not applied yet.
    pub waiting: u64,
    /// Bytes of this node's entries that the engine has not stored yet.
    pub unstored_bytes: u64,
}

/// The connections to the nats-servers. Totals count from the process's start.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterEngineView {
    /// The server of each connection, `links` and `streams`; `None`: it is not connected.
    pub servers: BTreeMap<&'static str, Option<String>>,
    pub connects: u64,
    pub disconnects: u64,
    pub envelopes_refused: u64,
    pub slow_consumer_drops: u64,
    pub heartbeats_stored: u64,
    pub heartbeats_failed: u64,
    /// From sending to the acknowledgement, summed.
    pub heartbeat_seconds: f64,
    pub retained_stored: u64,
    pub retained_failed: u64,
    pub retained_retries: u64,
    /// From sending to the acknowledgement, summed.
    pub retained_seconds: f64,
}

/// `GET /api/cluster/members`
pub(super) fn list(app: &App, _: &Query) -> Reply {
    let document = app.view.cluster_document().map(|conditions| json!({ "conditions": conditions }));
    Ok(json!({ "cluster": app.view.cluster_members(), "document": document }))
}

type Value<T> = fn(&T) -> f64;
/// Name, help, unit, value.
type LinkCounter = (&'static str, &'static str, Option<Unit>, fn(&ClusterLinkView) -> u64);

pub(super) fn encode(out: &mut DescriptorEncoder, view: &ClusterMembersView) -> fmt::Result {
    let help = "1 while the engine stores this node's heartbeats. A node that is out acknowledges no QoS 1 and 2.";
    super::metrics::gauge(out, "weir_cluster_member_in", help, view.is_in)?;
    let help = "1 while this node serves clients: it is in, and knows what the other nodes want and have retained.";
    super::metrics::gauge(out, "weir_cluster_member_ready", help, view.ready)?;
    let mut family =
        out.encode_descriptor("weir_cluster_peers", "Other nodes of the cluster, by state.", None, MetricType::Gauge)?;
    for state in PEER_STATES {
        let count = view.peers.iter().filter(|peer| peer.state == state).count();
        family.encode_family(&[("state", state)])?.encode_gauge(&(count as u64))?;
    }
    let help = "Clients that were disconnected so that they connect to other nodes, by reason.";
    let mut family = out.encode_descriptor("weir_cluster_disconnects", help, None, MetricType::Counter)?;
    for (reason, count) in &view.disconnects {
        family.encode_family(&[("reason", *reason)])?.encode_counter::<NoLabelSet, u64, f64>(count, None)?;
    }
    slots(out, view)?;
    links(out, &view.peers)?;
    log(out, &view.log)?;
    engine(out, &view.engine)?;
    let help = "Messages of other nodes that contradict what this node knows: defects, to be reported.";
    super::metrics::counter(out, "weir_cluster_errors", help, view.errors)?;
    let help = "Heartbeats, envelopes and entries of the log that could not be decoded.";
    super::metrics::counter(out, "weir_cluster_undecodable", help, view.undecodable)
}

fn links(out: &mut DescriptorEncoder, peers: &[ClusterPeerView]) -> fmt::Result {
    let linked = || peers.iter().filter_map(|peer| Some(([("peer", peer.node.as_str())], peer.link.as_ref()?)));
    let help = "Bytes for another node that it has not processed.";
    let mut family =
        out.encode_descriptor("weir_cluster_link_unacknowledged", help, Some(&Unit::Bytes), MetricType::Gauge)?;
    for (peer, link) in linked() {
        family.encode_family(&peer)?.encode_gauge(&link.unacknowledged_bytes)?;
    }
    let counters: [LinkCounter; 6] = [
        ("weir_cluster_link_envelopes_sent", "Envelopes sent to another node.", None, |link| link.envelopes_sent),
        ("weir_cluster_link_sent", "Bytes of envelopes sent to another node.", Some(Unit::Bytes), |link| {
            link.bytes_sent
        }),
        ("weir_cluster_link_envelopes_received", "Envelopes accepted from another node.", None, |link| {
            link.envelopes_received
        }),
        ("weir_cluster_link_resends", "Times that a link was sent again from an earlier offset.", None, |link| {
            link.resends
        }),
        ("weir_cluster_link_gaps", "Envelopes of another node that arrived before an earlier one.", None, |link| {
            link.gaps
        }),
        (
            "weir_cluster_link_overflows",
            "Envelopes of another node refused because this node took messages too slowly.",
            None,
            |link| link.overflows,
        ),
    ];
    for (name, help, unit, value) in counters {
        let mut family = out.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (peer, link) in linked() {
            family.encode_family(&peer)?.encode_counter::<NoLabelSet, u64, f64>(&value(link), None)?;
        }
    }
    Ok(())
}

fn slots(out: &mut DescriptorEncoder, view: &ClusterMembersView) -> fmt::Result {
    let help = "Slots of persistent sessions, by the node that owns them; without a name: no node does.";
    let mut family = out.encode_descriptor("weir_cluster_slots", help, None, MetricType::Gauge)?;
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for slot in &view.slots {
        *counts.entry((slot.node.as_deref().unwrap_or_default(), slot.durability)).or_default() += 1;
    }
    for ((node, durability), count) in counts {
        family.encode_family(&[("node", node), ("durability", durability)])?.encode_gauge(&count)?;
    }
    let help = "Slots of persistent sessions that no node serves, as far as this one knows: their clients get 0x88.";
    let unserved = view.slots.iter().filter(|slot| !slot.served).count() as u64;
    super::metrics::gauge(out, "weir_cluster_slots_unserved", help, unserved)?;
    moves(out, &view.moves)?;
    let help = "Clients whose connection was relayed to the node with their session.";
    let mut family = out.encode_descriptor("weir_cluster_relays", help, None, MetricType::Counter)?;
    for (role, count) in [("socket", view.relays.opened), ("session", view.relays.accepted)] {
        family.encode_family(&[("role", role)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
    }
    let help = "Bytes of relayed connections to and from other nodes.";
    let mut family = out.encode_descriptor("weir_cluster_relay", help, Some(&Unit::Bytes), MetricType::Counter)?;
    for (direction, count) in [("sent", view.relays.bytes_sent), ("received", view.relays.bytes_received)] {
        family.encode_family(&[("direction", direction)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
    }
    let help = "Times that all connections relayed to and from another node were lost.";
    super::metrics::counter(out, "weir_cluster_relay_resets", help, view.relays.resets)?;
    let help = "Wills of other nodes' clients that this node publishes where their node dies.";
    super::metrics::gauge(out, "weir_cluster_wills_kept", help, view.wills.kept)?;
    let help = "Wills of this node's clients that no other node has, because there was no room for them.";
    super::metrics::counter(out, "weir_cluster_wills_refused", help, view.wills.refused)?;
    let help = "Wills that this node published for a node that died.";
    super::metrics::counter(out, "weir_cluster_wills_published", help, view.wills.published)
}

fn moves(out: &mut DescriptorEncoder, moves: &ClusterMovesView) -> fmt::Result {
    let help = "Moves of slots with their sessions to other nodes. After an abandoned one, this node serves on.";
    let mut family = out.encode_descriptor("weir_cluster_slot_moves", help, None, MetricType::Counter)?;
    for (result, count) in [("finished", moves.finished), ("abandoned", moves.abandoned)] {
        family.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
    }
    let help = "Persistent sessions that were moved to other nodes, and copied from them.";
    let mut family = out.encode_descriptor("weir_cluster_moved_sessions", help, None, MetricType::Counter)?;
    for (direction, count) in [("sent", moves.sessions_sent), ("received", moves.sessions_received)] {
        family.encode_family(&[("direction", direction)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
    }
    Ok(())
}

fn log(out: &mut DescriptorEncoder, log: &ClusterLogView) -> fmt::Result {
    let help = "The last entry of the log of retained messages that this node has applied.";
    super::metrics::gauge(out, "weir_cluster_log_applied_sequence", help, log.applied)?;
    let help = "Entries of the log of retained messages that this node has read and not applied.";
    super::metrics::gauge(out, "weir_cluster_log_waiting_entries", help, log.waiting)?;
    let help = "Bytes of this node's retained messages that the engine has not stored.";
    let mut family = out.encode_descriptor("weir_cluster_log_unstored", help, Some(&Unit::Bytes), MetricType::Gauge)?;
    family.encode_gauge(&log.unstored_bytes)
}

fn engine(out: &mut DescriptorEncoder, engine: &ClusterEngineView) -> fmt::Result {
    let help = "1 while the connection to a nats-server is established.";
    let mut family = out.encode_descriptor("weir_cluster_engine_connected", help, None, MetricType::Gauge)?;
    for (connection, server) in &engine.servers {
        family.encode_family(&[("connection", *connection)])?.encode_gauge(&u64::from(server.is_some()))?;
    }
    let results: [(&str, &str, u64, u64); 2] = [
        ("weir_cluster_heartbeats", "This node's heartbeats.", engine.heartbeats_stored, engine.heartbeats_failed),
        (
            "weir_cluster_retained_appends",
            "This node's entries of the log of retained messages.",
            engine.retained_stored,
            engine.retained_failed,
        ),
    ];
    for (name, help, stored, failed) in results {
        let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (result, count) in [("stored", stored), ("failed", failed)] {
            family.encode_family(&[("result", result)])?.encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
        }
    }
    let seconds: [(&str, &str, Value<ClusterEngineView>); 2] = [
        ("weir_cluster_heartbeat_latency", "Time until heartbeats were stored, summed.", |engine| {
            engine.heartbeat_seconds
        }),
        ("weir_cluster_retained_append_latency", "Time until entries of the log were stored, summed.", |engine| {
            engine.retained_seconds
        }),
    ];
    for (name, help, value) in seconds {
        out.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Counter)?
            .encode_counter::<NoLabelSet, f64, f64>(&value(engine), None)?;
    }
    let counters = [
        ("weir_cluster_retained_append_retries", "Appends to the log that were tried again.", engine.retained_retries),
        ("weir_cluster_engine_connects", "Connections to nats-servers, the first ones included.", engine.connects),
        ("weir_cluster_engine_disconnects", "Connections to nats-servers that were lost.", engine.disconnects),
        (
            "weir_cluster_engine_envelopes_refused",
            "Envelopes not sent at once, without a connection or with a full buffer; links send them again.",
            engine.envelopes_refused,
        ),
        (
            "weir_cluster_engine_slow_consumer_drops",
            "Messages that the NATS client dropped because this node read too slowly; links send them again.",
            engine.slow_consumer_drops,
        ),
    ];
    for (name, help, value) in counters {
        super::metrics::counter(out, name, help, value)?;
    }
    Ok(())
}
