//! Log lines about a cluster, each once for what it is about.

use super::engine::{ConnectionChange, EngineConnection};
use super::settings::Role;
use weir_cluster::MemberEvent;
use weir_cluster::members::Refusal;
use weir_cluster::node::{LinkFailure, MoveEvent};

/// Says what changes, and repeats nothing.
#[derive(Debug, Default)]
pub(super) struct Reporter {
    heartbeat_failing: bool,
    append_failing: bool,
    purge_failing: bool,
    /// This node takes part no more.
    is_removed: bool,
    slots_failing: bool,
    /// Connections whose failure is logged, until they are there again.
    connect_failing: Vec<EngineConnection>,
}

impl Reporter {
    pub(super) fn heartbeat_failed(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.heartbeat_failing, true) {
            tracing::warn!(reason, "cluster heartbeat failed: the engine did not store it");
        }
    }

    pub(super) fn append_failed(&mut self, retry: bool, reason: &str) {
        if !retry {
            tracing::error!(reason, "retained message not stored: the engine refuses it");
        } else if !std::mem::replace(&mut self.append_failing, true) {
            tracing::warn!(reason, "retained message not stored yet: the engine is asked again");
        }
    }

    pub(super) fn purged(&mut self, error: Option<&str>) {
        let was_failing = std::mem::replace(&mut self.purge_failing, error.is_some());
        if let Some(reason) = error.filter(|_| !was_failing) {
            tracing::warn!(reason, "retained messages that newer ones replaced not removed: the engine is asked again");
        }
    }

    pub(super) fn members_reset(&mut self) {
        tracing::warn!("cluster stream of members was created anew");
    }

    pub(super) fn log_reset(&mut self) {
        tracing::error!(
            "cluster stream of retained messages was created anew: what it had is gone from the engine; this node keeps \
             what it has in memory"
        );
    }

    pub(super) fn slots_reset(&mut self) {
        tracing::error!("cluster slot table was created anew: the nodes write it again, and may take other sessions");
    }

    pub(super) fn slots_failed(&mut self, reason: &str) {
        if !std::mem::replace(&mut self.slots_failing, true) {
            tracing::warn!(reason, "cluster slot table not written yet: the engine is asked again");
        }
    }

    pub(super) fn slots_written(&mut self) {
        self.slots_failing = false;
    }

    pub(super) fn member_not_removed(&mut self, node: &str, error: &str) {
        tracing::warn!(peer = node, error, "cluster member record not removed");
    }

    pub(super) fn connection(&mut self, connection: EngineConnection, change: &ConnectionChange) {
        let is_known = self.connect_failing.contains(&connection);
        match change {
            ConnectionChange::Connected { .. } => self.connect_failing.retain(|failing| *failing != connection),
            ConnectionChange::Failed { .. } if is_known => return,
            ConnectionChange::Failed { .. } => self.connect_failing.push(connection),
            ConnectionChange::Disconnected => {}
        }
        let connection = connection.as_str();
        match change {
            ConnectionChange::Connected { server, version } => {
                tracing::info!(connection, server, version, "cluster engine connected");
            }
            ConnectionChange::Disconnected => tracing::warn!(connection, "cluster engine disconnected"),
            ConnectionChange::Failed { reason } => tracing::warn!(connection, reason, "cluster engine connect failed"),
        }
    }

    pub(super) fn ready(&mut self, ready: bool) {
        if ready {
            tracing::info!("cluster node ready: clients are accepted");
        } else {
            tracing::warn!("cluster node not ready: new clients are refused with 0x88");
        }
    }

    /// The document `cluster` makes something else of this node.
    pub(super) fn role(&mut self, role: Role) {
        self.is_removed = role == Role::Removed;
        match role {
            Role::Member => {
                tracing::info!("cluster node serves clients again: the cluster document names it no longer")
            }
            Role::Evacuated => tracing::warn!(
                "cluster node evacuated: its clients are disconnected gradually, and new ones are refused"
            ),
            Role::Removed => tracing::error!(
                "cluster node removed: the cluster document names it in `removed`, so it takes part no more and serves no \
                 clients; stop it, or take its name from the list"
            ),
        }
    }

    pub(super) fn link_failed(&mut self, failure: &LinkFailure) {
        tracing::error!(
            peer_incarnation = failure.peer,
            reason = failure.reason,
            "cluster link failed: what the peer sent cannot be decoded; the link begins anew"
        );
    }

    pub(super) fn slot_move(&mut self, event: &MoveEvent) {
        match event {
            MoveEvent::Began { slots, to } => {
                tracing::info!(slots = slots.count_ones(), to, "cluster slot move began");
            }
            MoveEvent::Finished { slots, to, sessions } => {
                tracing::info!(slots = slots.count_ones(), to, sessions, "cluster slot move finished");
            }
            MoveEvent::Abandoned { slots, to, why } => tracing::warn!(
                slots = slots.count_ones(),
                to,
                reason = %why,
                "cluster slot move abandoned: this node goes on serving the sessions"
            ),
            MoveEvent::Received { sessions } => {
                tracing::info!(sessions, "cluster slot copy received: it counts when the slot table says so");
            }
        }
    }

    pub(super) fn member(&mut self, event: &MemberEvent) {
        match event {
            MemberEvent::SelfOut if self.is_removed => {}
            MemberEvent::SelfIn => {
                (self.heartbeat_failing, self.append_failing) = (false, false);
                tracing::info!("cluster member is in: heartbeats are stored");
            }
            MemberEvent::SelfOut => tracing::error!(
                "cluster member is out: no heartbeat was stored for 2 s; QoS 1 and 2 are not acknowledged until one is"
            ),
            MemberEvent::Joined { node, incarnation, .. } => {
                tracing::info!(peer = node, incarnation = format!("{incarnation:016x}"), "cluster peer joined");
            }
            MemberEvent::Restarted { node, incarnation, .. } => {
                tracing::info!(peer = node, incarnation = format!("{incarnation:016x}"), "cluster peer restarted");
            }
            MemberEvent::Out { node, .. } => tracing::warn!(peer = node, "cluster peer is out: no heartbeat for 3 s"),
            MemberEvent::BackIn { node, .. } => tracing::info!(peer = node, "cluster peer is in again"),
            MemberEvent::Leaving { node, .. } => tracing::info!(peer = node, "cluster peer is leaving"),
            MemberEvent::Left { node, .. } => tracing::info!(peer = node, "cluster peer left"),
            MemberEvent::Refused { node, reason: Refusal::Removed, .. } => {
                tracing::info!(peer = node, "cluster peer removed: the cluster document names it in `removed`");
            }
            MemberEvent::Refused { node, reason, .. } => {
                tracing::error!(peer = node, %reason, "cluster peer refused");
            }
            MemberEvent::DuplicateName { node, incarnations } => tracing::error!(
                peer = node,
                incarnations = format!("{:016x} {:016x}", incarnations[0], incarnations[1]),
                "cluster node name is used twice: give each node its own --node-name"
            ),
            MemberEvent::DuplicateNameResolved { node } => {
                tracing::info!(peer = node, "cluster node name is used once again");
            }
        }
    }
}
