//! The control plane's end of a cluster: the declared settings go to its thread; what it wants disconnected, and which node runs
//! which bridge, come back.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::driver::ClusterView;
use super::inbox::Inbox;
use super::settings::{DisconnectCause, DisconnectCounts};
use crate::state::{BridgeMember, BridgePlacement, MemberReport, PlacedSlot, SlotServed};
use weir_cluster::node::{NodeStatus, PeerStatus, SlotStatus};
use weir_cluster::slots::SlotOwner;
use weir_declare::config::ClusterSpec;

/// The control plane's end of a cluster.
#[derive(Debug)]
pub struct ClusterControl {
    pub(super) inbox: Arc<Inbox>,
    pub(super) requests: mpsc::UnboundedReceiver<DisconnectCause>,
    pub(super) counts: Arc<DisconnectCounts>,
    pub(super) view: watch::Receiver<ClusterView>,
    pub(super) replicas: u8,
    pub(super) name: Arc<str>,
    /// What was told last.
    pub(super) placement: Arc<BridgePlacement>,
}

/// What the cluster wants of the control plane.
#[derive(Debug, Clone)]
pub enum ClusterRequest {
    /// Disconnect all clients.
    Disconnect(DisconnectCause),
    /// Run the bridges where this says.
    PlaceBridges(Arc<BridgePlacement>),
}

impl ClusterControl {
    /// The settings that hold from now on; `None`: the defaults.
    pub fn set_spec(&self, spec: Option<Arc<ClusterSpec>>) {
        self.inbox.set_spec(spec);
    }

    /// Yields the next request. May be dropped before it does.
    pub async fn next_request(&mut self) -> ClusterRequest {
        loop {
            tokio::select! {
                Some(cause) = self.requests.recv() => return ClusterRequest::Disconnect(cause),
                Ok(()) = self.view.changed() => {
                    let placement = placement(&self.view.borrow_and_update(), &self.placement);
                    if placement != *self.placement {
                        self.placement = Arc::new(placement);
                        return ClusterRequest::PlaceBridges(Arc::clone(&self.placement));
                    }
                }
                // The thread has ended.
                else => return std::future::pending().await,
            }
        }
    }

    /// Clients were disconnected.
    pub fn count_disconnects(&self, cause: DisconnectCause, clients: u32) {
        self.counts.add(cause, u64::from(clients));
    }

    /// The cluster's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Copies that the nats-servers keep, as the node was started.
    pub fn replicas(&self) -> u8 {
        self.replicas
    }

    /// The slots with which the cluster was founded; `None`: not known yet.
    pub fn founded_slots(&self) -> Option<u16> {
        self.view.borrow().founded_slots
    }
}

/// `before`: what was told last.
fn placement(view: &ClusterView, before: &BridgePlacement) -> BridgePlacement {
    let Some(node) = &view.node else { return BridgePlacement::default() };
    let NodeStatus { node: name, is_in, peers, slots, .. } = node;
    BridgePlacement {
        node: name.as_str().into(),
        is_in: *is_in,
        per_class: slots.per_class,
        slots: slots
            .slots
            .iter()
            .map(|slot| {
                let placed = placed(slot);
                // A slot that this node offers to others, and still owns, is served by no other node.
                let was_here =
                    before.slots.get(usize::from(slot.number)).is_some_and(|it| it.served == SlotServed::Here);
                let is_own = *is_in && *placed.node == **name && slot.incarnation == node.incarnation;
                let served = if is_own && was_here { SlotServed::Here } else { placed.served };
                PlacedSlot { served, ..placed }
            })
            .collect(),
        members: peers.iter().map(member).collect(),
    }
}

fn placed(slot: &SlotStatus) -> PlacedSlot {
    let served = match slot.served {
        SlotOwner::Here => SlotServed::Here,
        SlotOwner::Peer(_) => SlotServed::Peer,
        SlotOwner::Unknown => SlotServed::No,
    };
    PlacedSlot { node: slot.node.as_deref().unwrap_or_default().into(), served }
}

fn member(peer: &PeerStatus) -> BridgeMember {
    // One that cannot be read is logged where the records of nodes are read.
    let report = MemberReport::parse(&peer.report).ok();
    BridgeMember {
        node: peer.node.as_str().into(),
        is_in: super::reports::is_member(peer),
        more_bridges: report.as_ref().is_some_and(|report| report.more_bridges),
        // Of one that has applied nothing yet, what it can run is not known.
        bridges: report.filter(|report| report.node.applied_revision.is_some()).map(|report| report.bridges),
    }
}
