//! Slots and relayed connections of a node.

use weir_broker::Millis;
use weir_broker::gateway::{Gateway, SlotSets};

use super::{ClusterNode, RelayEvent};
use crate::Incarnation;
use crate::slots::{Cores, SlotView, SlotsWrite, SlotsWritten, Surroundings};
use crate::wire::RelayFrame;

impl Cores for Gateway {
    fn set_slots(&mut self, per_class: u16, sets: SlotSets) -> u64 {
        Gateway::set_slots(self, per_class, sets)
    }

    fn slots_applied(&self) -> (u64, u128) {
        let (number, occupied) = Gateway::slots_applied(self);
        (number, occupied.0)
    }

    fn slots_pinned(&self) -> u128 {
        Gateway::slots_pinned(self).0
    }
}

impl ClusterNode {
    /// A message of the register of slots: the table of that sequence. They come in order; only the newest is needed.
    /// Call [`ClusterNode::run`] afterwards, as after all of these.
    pub fn on_slots(&mut self, version: u64, bytes: &[u8], _now: Millis) {
        self.slots.on_slots(version, bytes);
    }

    /// The number of the question for the last sequence of the register, while it is not answered: this node has come in, and
    /// does not serve slots before it has read the register up to there.
    pub fn slots_head_wanted(&self) -> Option<u64> {
        self.slots.head_wanted()
    }

    /// The last sequence of the register, 0 if it is empty, which was asked for after [`ClusterNode::slots_head_wanted`] had
    /// answered `request`. An answer to an older question is ignored: the table may have changed while this node was out.
    pub fn on_slots_head(&mut self, request: u64, version: u64) {
        self.slots.on_head(request, version);
    }

    /// The register was created again, and is empty.
    pub fn on_slots_reset(&mut self) {
        self.slots.on_reset();
    }

    /// What to append to the register. The next one follows when [`ClusterNode::on_slots_written`] has answered.
    pub fn next_slots_write(&mut self) -> Option<SlotsWrite> {
        self.slots.next_write()
    }

    /// What became of the append.
    pub fn on_slots_written(&mut self, result: SlotsWritten, _now: Millis) {
        self.slots.on_written(result);
    }

    /// Where the sessions of each slot are served.
    pub fn slot_view(&self) -> &SlotView {
        self.slots.view()
    }

    /// Whether the view has changed since this was asked last.
    pub fn take_slot_view_changed(&mut self) -> bool {
        std::mem::take(&mut self.slot_view_changed)
    }

    /// Whether this node owns slots that another node should own, and may move them, or has a copy of some, which the table may give
    /// it; or its cores still drop what has moved, and give messages of shared groups back. Call [`ClusterNode::run`] first.
    pub fn is_giving_slots(&self) -> bool {
        let may_own = self.slots.is_giving() || self.slots.has_import();
        self.is_in && (may_own || !self.slots.is_applied(&self.gateway))
    }

    /// The nodes that the cluster document removes: they are refused, and their slots on disk are given to other nodes when
    /// they do not run.
    pub fn set_removed(&mut self, nodes: impl IntoIterator<Item = String>) {
        self.members.set_removed(nodes);
        self.slots.on_members();
    }

    /// Whether the cluster document evacuates this node: it should own no slots, and stays a member.
    pub fn set_evacuating(&mut self, evacuating: bool, now: Millis) {
        self.members.set_evacuating(evacuating, now);
        self.slots.on_members();
    }

    /// Slots of each class, where this node founds the cluster: see [`NodeConfig`](super::NodeConfig).
    pub const fn set_slots_per_class(&mut self, slots: u16) {
        self.slots.set_per_class(slots);
    }

    /// Applies what has changed to the slots.
    pub(super) fn step_slots(&mut self, now: Millis) {
        let is_confirmed = self.is_confirmed();
        let mut surroundings = Surroundings {
            members: &mut self.members,
            cores: &mut self.gateway,
            is_confirmed,
            is_ready: self.is_joined,
            now,
        };
        self.slot_view_changed |= self.slots.step(&mut surroundings);
    }

    /// Sends a frame of a relayed connection. It waits for no publisher's frame that was not sent yet, and frames arrive in the
    /// order of these calls. `false`: there is no link to the peer, or the frame is longer than frames may be.
    pub fn send_relay(&mut self, peer: Incarnation, frame: &RelayFrame<'_>) -> bool {
        let is_sent = self.peers.in_link_mut(peer).is_some_and(|link| link.push_relay(frame));
        if is_sent {
            self.relays.on_sent(frame);
        }
        is_sent
    }

    /// The next thing that happened to relayed connections, and the peer.
    pub fn next_relay(&mut self) -> Option<(Incarnation, RelayEvent<'_>)> {
        self.relays.next()
    }

    /// Whether so much is on the way to a peer that its relayed connections should send nothing but credit and ends.
    pub fn relay_congested(&self, peer: Incarnation) -> bool {
        // Publishers wait below that, so they do not keep relayed connections waiting.
        let bound = self.config.link_high_bytes.saturating_mul(2);
        let mut links = self.peers.iter().filter(|known| known.incarnation == peer);
        links.any(|known| known.link.unacknowledged_bytes() > bound)
    }
}
