//! Which member should own which slot.

use weir_broker::Millis;

use crate::Incarnation;
use crate::members::{Member, Members, PeerState, Refusal};
use crate::placement::owner_of;
use crate::wire::{SlotRow, SlotTable};

/// A node that has run for less time takes no slots, unless all have: a crash loop must not move slots.
pub(super) const ELIGIBLE_AFTER: Millis = 10_000;

/// A member that may own slots.
#[derive(Debug, Clone, Copy)]
struct Candidate<'a> {
    node: &'a str,
    incarnation: Incarnation,
    uptime: Millis,
    has_data_dir: bool,
}

/// The members that may own slots, as this node sees them.
#[derive(Debug)]
pub(super) struct Candidates<'a> {
    members: &'a Members,
    all: Vec<Candidate<'a>>,
    own: &'a str,
}

impl<'a> Candidates<'a> {
    pub(super) fn new(members: &'a Members, now: Millis) -> Self {
        let own = members.config();
        let mut all = Vec::new();
        if members.is_in(now)
            && !members.is_leaving()
            && !members.is_evacuating()
            && !members.is_superseded(now)
            && !members.is_removed(&own.node)
        {
            let (node, incarnation, has_data_dir) = (own.node.as_str(), own.incarnation, own.has_data_dir);
            all.push(Candidate { node, incarnation, uptime: members.uptime(now), has_data_dir });
        }
        for peer in members.peers().filter(|peer| peer.state == PeerState::In) {
            let heartbeat = peer.heartbeat;
            if let Some(slots) = &heartbeat.slots {
                let (node, incarnation) = (heartbeat.node.as_str(), heartbeat.incarnation);
                all.push(Candidate {
                    node,
                    incarnation,
                    uptime: heartbeat.uptime_ms,
                    has_data_dir: slots.has_data_dir,
                });
            }
        }
        Self { members, all, own: &own.node }
    }

    /// Whether this node may own slots at all.
    pub(super) fn has_own(&self) -> bool {
        self.all.iter().any(|candidate| candidate.node == self.own)
    }

    /// The member that should own a slot. The present owner counts as long as it is in, so that it keeps what it has got.
    pub(super) fn preferred(&self, slot: u16, table: &SlotTable) -> Option<(&'a str, Incarnation)> {
        let is_disk = slot >= table.per_class;
        let row = table.rows.get(usize::from(slot))?;
        let can = |candidate: &&Candidate<'a>| candidate.has_data_dir || !is_disk;
        let is_old = |candidate: &Candidate<'a>| candidate.uptime >= ELIGIBLE_AFTER;
        let some_old = self.all.iter().filter(can).any(is_old);
        let is_owner =
            |candidate: &Candidate<'a>| candidate.node == row.node && candidate.incarnation == row.incarnation;
        let is_eligible = |candidate: &&Candidate<'a>| !some_old || is_old(candidate) || is_owner(candidate);
        let eligible = self.all.iter().filter(can).filter(is_eligible);
        let node = owner_of(slot, eligible.map(|candidate| candidate.node))?;
        let candidate = self.all.iter().find(|candidate| candidate.node == node)?;
        Some((node, candidate.incarnation))
    }

    /// Whether this node should write itself in as the owner.
    pub(super) fn should_claim(&self, slot: u16, table: &SlotTable) -> bool {
        let Some(row) = table.rows.get(usize::from(slot)) else { return false };
        if !self.has_own() {
            return false;
        }
        let own = self.members.config();
        let is_disk = slot >= table.per_class;
        if is_disk && row.node == own.node {
            return row.incarnation != own.incarnation && own.has_data_dir;
        }
        let is_free =
            row.node.is_empty() || !is_live(self.members, row) && (!is_disk || self.members.is_removed(&row.node));
        is_free && self.preferred(slot, table).is_some_and(|(node, _)| node == own.node)
    }
}

/// Whether the owner of a slot may serve it: its incarnation takes part, as far as this node knows.
pub(super) fn is_live(members: &Members, row: &SlotRow) -> bool {
    let own = members.config();
    if row.node == own.node {
        return row.incarnation == own.incarnation;
    }
    let peer = members.peer(&row.node).filter(|peer| peer.heartbeat.incarnation == row.incarnation);
    peer.is_some_and(|peer| may_run(members, &peer))
}

/// Whether a peer may serve slots: it moved so lately that its lease may not have ended.
fn may_run(members: &Members, peer: &Member<'_>) -> bool {
    match peer.state {
        PeerState::In | PeerState::Leaving | PeerState::Evacuating | PeerState::Unconfirmed => true,
        PeerState::Refused(Refusal::WireVersions { .. } | Refusal::Removed) => !members.is_silent(peer),
        PeerState::Out | PeerState::Left => false,
    }
}

/// Whether a slot that this node owns must not be served yet, as the peer may still serve it: the peer may have been the
/// owner, and has not said that it has read the table since.
pub(super) fn blocks(members: &Members, peer: &Member<'_>, row: &SlotRow, founded: Incarnation) -> bool {
    let Some(slots) = &peer.heartbeat.slots else { return false };
    match peer.state {
        PeerState::In | PeerState::Leaving | PeerState::Evacuating | PeerState::Unconfirmed => {
            slots.founded != founded || slots.applied < row.since
        }
        // There is no link to it, and it may never have read the table.
        PeerState::Refused(_) => peer.heartbeat.incarnation == row.from && !members.is_silent(peer),
        PeerState::Out | PeerState::Left => false,
    }
}
