//! What operators see of a node.

use std::sync::Arc;

use weir_broker::Millis;
use weir_broker::gateway::WillCounts;

use super::{ClusterNode, MoveCounters, RelayCounters};
use crate::link::LinkCounters;
use crate::members::PeerState;
use crate::slots::SlotOwner;
use crate::{Incarnation, members::Suspect};

/// The link to a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkStatus {
    /// Bytes that the peer has not processed.
    pub unacknowledged_bytes: u64,
    /// Bytes that are kept until the peer has received them.
    pub buffered_bytes: u64,
    /// What the link has done.
    pub counters: LinkCounters,
    /// A frame of the peer could not be decoded.
    pub is_failed: bool,
}

/// Another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerStatus {
    /// Its name.
    pub node: String,
    /// The start of its process.
    pub incarnation: Incarnation,
    /// Whether it is in.
    pub state: PeerState,
    /// Its version of Weir.
    pub weir_version: String,
    /// Its addresses.
    pub addresses: Vec<String>,
    /// Its clients, as it said last.
    pub clients: u64,
    /// Its sessions, as it said last.
    pub sessions: u64,
    /// What its control plane said last. Empty: nothing.
    pub report: Arc<[u8]>,
    /// Time since its last heartbeat, milliseconds.
    pub silent_ms: Millis,
    /// The link; `None`: there is none.
    pub link: Option<LinkStatus>,
}

/// Which sessions a slot has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotClass {
    /// Those of endpoints with `durability: memory`.
    Memory,
    /// Those of endpoints with `durability: disk`.
    Disk,
}

/// A slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStatus {
    /// Its number. Those of the second class follow those of the first.
    pub number: u16,
    /// Which sessions it has.
    pub class: SlotClass,
    /// The name of its owner. `None`: it has none.
    pub node: Option<String>,
    /// The owner's incarnation.
    pub incarnation: Incarnation,
    /// The version of the slot table with which the owner got it.
    pub since: u64,
    /// The node that serves it, as this node knows: this one, or its owner, if that is in.
    pub served: SlotOwner,
    /// The node to which this one is moving it. `None`: it is not.
    pub moves_to: Option<String>,
}

/// All slots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SlotsStatus {
    /// The version of the slot table that this node has read. 0: none.
    pub version: u64,
    /// Slots of each class. 0: there is no table.
    pub per_class: u16,
    /// This node has read the table up to its head since it came in.
    pub is_current: bool,
    /// All slots, by number.
    pub slots: Vec<SlotStatus>,
}

/// A node and its peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeStatus {
    /// This node's name.
    pub node: String,
    /// This start of its process.
    pub incarnation: Incarnation,
    /// Whether it is in.
    pub is_in: bool,
    /// Whether it may serve clients.
    pub is_ready: bool,
    /// The other nodes.
    pub peers: Vec<PeerStatus>,
    /// Nodes with trouble.
    pub suspects: Vec<Suspect>,
    /// Up to which sequence this node has applied the log of retained messages, and its entries that wait.
    pub log_applied: u64,
    /// See `log_applied`.
    pub log_waiting: usize,
    /// Bytes of this node's entries that the log has not stored.
    pub log_unstored_bytes: usize,
    /// Which node owns which persistent sessions.
    pub slots: SlotsStatus,
    /// What was sent and received of relayed connections.
    pub relays: RelayCounters,
    /// Moves of slots with sessions.
    pub moves: MoveCounters,
    /// Wills that nodes keep for each other.
    pub wills: WillCounts,
    /// Messages of peers that contradict what this node knows.
    pub errors: u64,
    /// Heartbeats, envelopes, slot tables and entries that could not be decoded.
    pub undecodable: u64,
}

impl ClusterNode {
    /// What operators see.
    pub fn status(&self, now: Millis) -> NodeStatus {
        let link_of = |incarnation| {
            let peer = self.peers.iter().find(|peer| peer.incarnation == incarnation)?;
            let link = &peer.link;
            Some(LinkStatus {
                unacknowledged_bytes: link.unacknowledged_bytes(),
                buffered_bytes: link.buffered_bytes() as u64,
                counters: *link.counters(),
                is_failed: link.failure().is_some(),
            })
        };
        let peers = self.members.peers().map(|member| PeerStatus {
            node: member.heartbeat.node.clone(),
            incarnation: member.heartbeat.incarnation,
            state: member.state,
            weir_version: member.heartbeat.weir_version.clone(),
            addresses: member.heartbeat.addresses.clone(),
            clients: member.heartbeat.load.clients,
            sessions: member.heartbeat.load.sessions,
            report: Arc::clone(&member.heartbeat.report),
            silent_ms: now.saturating_sub(member.moved_at),
            link: link_of(member.heartbeat.incarnation),
        });
        NodeStatus {
            node: self.config.members.node.clone(),
            incarnation: self.incarnation(),
            is_in: self.is_in,
            is_ready: self.is_ready(),
            peers: peers.collect(),
            suspects: self.members.suspects(now),
            log_applied: self.gateway.log_applied(),
            log_waiting: self.log.waiting(),
            log_unstored_bytes: self.unstored_bytes,
            slots: self.slots_status(),
            relays: *self.relays.counters(),
            moves: *self.moves.counters(),
            wills: self.gateway.will_counts(),
            errors: self.gateway.errors(),
            undecodable: self.undecodable + self.log.undecodable() + self.slots.undecodable(),
        }
    }

    fn slots_status(&self) -> SlotsStatus {
        let (view, moving) = (self.slots.view(), self.moves.moving());
        let slots = (0..).zip(&view.slots).map(|(number, place)| SlotStatus {
            number,
            class: if number < view.per_class { SlotClass::Memory } else { SlotClass::Disk },
            node: view.node(number).map(str::to_owned),
            incarnation: place.incarnation,
            since: place.since,
            served: place.owner,
            moves_to: moving.filter(|(slots, _)| slots >> number & 1 != 0).map(|(_, node)| node.to_owned()),
        });
        SlotsStatus {
            version: view.version,
            per_class: view.per_class,
            is_current: self.slots.is_current(),
            slots: slots.collect(),
        }
    }
}
