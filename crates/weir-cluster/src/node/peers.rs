//! The links to peers, by the slots that the gateway knows them by.

use std::collections::VecDeque;

use weir_broker::Millis;
use weir_broker::gateway::{Gateway, PeerSlot};

use super::failed_links::{LinkFailure, RENEW_EVERY_MS};
use super::moves::Moves;
use super::outputs::Ends;
use super::relays::Relays;
use crate::link::{LinkConfig, PeerLink};
use crate::wire::{Envelope, Frame};
use crate::{Incarnation, MemberEvent};

/// Links that are kept of incarnations that are no members any more.
const RETIRED_MAX: usize = 16;

/// A node with a link.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) incarnation: Incarnation,
    pub(super) link: PeerLink,
    /// Whether the gateway has it.
    pub(super) is_in: bool,
    /// The generation of its stream that the gateway knows of.
    generation: u32,
    /// Its messages wait for the log.
    is_held: bool,
    /// When the link may begin anew because of a frame that cannot be decoded.
    renew_at: Millis,
}

#[derive(Debug)]
pub(super) struct PeerLinks {
    own: Incarnation,
    max_frame: usize,
    receive_limit: usize,
    slots: Vec<Option<Peer>>,
    /// Links of incarnations that are no members any more.
    retired: VecDeque<PeerLink>,
    /// The slot whose envelopes come next.
    next: usize,
}

impl PeerLinks {
    pub(super) fn new(own: Incarnation, max_frame: usize, receive_limit: usize) -> Self {
        Self { own, max_frame, receive_limit, slots: Vec::new(), retired: VecDeque::new(), next: 0 }
    }

    pub(super) fn link_mut(&mut self, slot: PeerSlot) -> Option<&mut PeerLink> {
        self.slots.get_mut(usize::from(slot.0))?.as_mut().map(|peer| &mut peer.link)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Peer> {
        self.slots.iter().flatten()
    }

    /// The link to a peer that is in.
    pub(super) fn in_link_mut(&mut self, incarnation: Incarnation) -> Option<&mut PeerLink> {
        let mut peers = self.slots.iter_mut().flatten();
        peers.find(|peer| peer.incarnation == incarnation && peer.is_in).map(|peer| &mut peer.link)
    }

    /// The peer of an incarnation, while it is in.
    pub(super) fn find_in(&self, incarnation: Incarnation) -> Option<PeerSlot> {
        self.find(incarnation).filter(|slot| self.slots[usize::from(slot.0)].as_ref().is_some_and(|peer| peer.is_in))
    }

    fn find(&self, incarnation: Incarnation) -> Option<PeerSlot> {
        let is_it = |peer: &Option<Peer>| peer.as_ref().is_some_and(|peer| peer.incarnation == incarnation);
        self.slots.iter().position(is_it).map(|slot| PeerSlot(slot as u16))
    }

    fn get_mut(&mut self, slot: PeerSlot) -> Option<&mut Peer> {
        self.slots.get_mut(usize::from(slot.0))?.as_mut()
    }

    /// A change of the members: links come and go.
    pub(super) fn apply(
        event: &MemberEvent,
        gateway: &mut Gateway,
        ends: &mut Ends<'_>,
        relays: &mut Relays,
        now: Millis,
    ) {
        match event {
            MemberEvent::Joined { incarnation, .. } => Self::add(*incarnation, gateway, ends, now),
            MemberEvent::Restarted { old, incarnation, .. } => {
                if let Some(slot) = ends.peers.find(*old) {
                    gateway.publish_wills(slot, now);
                }
                if let Some(link) = ends.peers.remove(*old, gateway, relays) {
                    ends.peers.retire(link);
                }
                Self::add(*incarnation, gateway, ends, now);
            }
            MemberEvent::Out { incarnation, .. } => {
                if let Some(slot) = ends.peers.find(*incarnation) {
                    gateway.publish_wills(slot, now);
                    relays.on_reset(*incarnation);
                    if let Some(peer) = ends.peers.get_mut(slot) {
                        gateway.remove_peer(slot, peer.link.sent());
                        peer.link.drop_unsent();
                        peer.is_in = false;
                    }
                }
            }
            MemberEvent::BackIn { incarnation, .. } => match ends.peers.find(*incarnation) {
                Some(slot) => Self::begin_anew(slot, gateway, ends, now),
                None => Self::add(*incarnation, gateway, ends, now),
            },
            MemberEvent::Left { incarnation, .. } | MemberEvent::Refused { incarnation, .. } => {
                // It may run, and come back with its end of the link: it was silent while it shut down, its record was removed, or it is
                // named in `removed` no longer.
                if let Some(link) = ends.peers.remove(*incarnation, gateway, relays) {
                    ends.peers.retire(link);
                }
            }
            MemberEvent::SelfIn
            | MemberEvent::SelfOut
            | MemberEvent::Leaving { .. }
            | MemberEvent::DuplicateName { .. }
            | MemberEvent::DuplicateNameResolved { .. } => {}
        }
    }

    fn add(incarnation: Incarnation, gateway: &mut Gateway, ends: &mut Ends<'_>, now: Millis) {
        let peers = &mut *ends.peers;
        if peers.find(incarnation).is_some() {
            return;
        }
        let (max_frame, receive_limit) = (peers.max_frame, peers.receive_limit);
        let retired = peers.retired.iter().position(|link| link.config().peer == incarnation);
        let retired = retired.and_then(|at| peers.retired.remove(at));
        let is_known = retired.is_some();
        let link = retired.unwrap_or_else(|| {
            PeerLink::new(LinkConfig { own: peers.own, peer: incarnation, max_frame, receive_limit })
        });
        let generation = link.generation();
        let peer = Peer { incarnation, link, is_in: true, generation: 0, is_held: false, renew_at: 0 };
        let free = peers.slots.iter().position(Option::is_none);
        let index = free.unwrap_or(peers.slots.len());
        if index == peers.slots.len() {
            peers.slots.push(None);
        }
        peers.slots[index] = Some(peer);
        if is_known {
            return Self::begin_anew(PeerSlot(index as u16), gateway, ends, now);
        }
        gateway.add_peer(PeerSlot(index as u16), incarnation, generation, ends);
    }

    /// Keeps the link of an incarnation that is no member any more. When it comes again, its streams go on with the next
    /// generation: it may have gone on with the present one.
    fn retire(&mut self, link: PeerLink) {
        self.retired.push_back(link);
        if self.retired.len() > RETIRED_MAX {
            self.retired.pop_front();
        }
    }

    fn remove(&mut self, incarnation: Incarnation, gateway: &mut Gateway, relays: &mut Relays) -> Option<PeerLink> {
        let slot = self.find(incarnation)?;
        relays.on_reset(incarnation);
        gateway.forget_published_wills(incarnation);
        let link = self.slots[usize::from(slot.0)].take().map(|peer| peer.link);
        gateway.remove_peer(slot, link.as_ref().map_or(0, PeerLink::sent));
        link
    }

    /// Links with a frame that cannot be decoded, of which a new generation may begin.
    pub(super) fn take_failures(&mut self, now: Millis) -> Vec<(PeerSlot, LinkFailure)> {
        let mut failures = Vec::new();
        for (index, peer) in self.slots.iter_mut().enumerate() {
            let Some(peer) = peer.as_mut().filter(|peer| peer.is_in && now >= peer.renew_at) else { continue };
            if let Some(error) = peer.link.failure() {
                let failure = LinkFailure { peer: peer.incarnation, reason: error.to_string() };
                peer.renew_at = now + RENEW_EVERY_MS;
                failures.push((PeerSlot(index as u16), failure));
            }
        }
        failures
    }

    /// This node's stream to a peer begins anew.
    pub(super) fn begin_anew(slot: PeerSlot, gateway: &mut Gateway, ends: &mut Ends<'_>, now: Millis) {
        let Some(peer) = ends.peers.get_mut(slot) else { return };
        gateway.remove_peer(slot, peer.link.sent());
        peer.link.reset(now);
        peer.is_in = true;
        peer.generation = peer.link.peer_generation();
        let (incarnation, generation, theirs) = (peer.incarnation, peer.link.generation(), peer.generation);
        gateway.add_peer(slot, incarnation, generation, ends);
        gateway.reset_peer(slot, theirs);
        gateway.confirm_peer(slot);
    }

    /// An envelope of a peer. One of a node that is no member yet is sent again.
    pub(super) fn receive(
        envelope: &Envelope<'_>,
        gateway: &mut Gateway,
        ends: &mut Ends<'_>,
        relays: &mut Relays,
        now: Millis,
    ) {
        let Some(slot) = ends.peers.find(envelope.sender) else { return };
        let Some(peer) = ends.peers.get_mut(slot) else { return };
        peer.link.receive(envelope, now);
        let theirs = peer.link.peer_generation();
        if theirs == peer.generation || !peer.is_in {
            return;
        }
        peer.generation = theirs;
        if peer.link.generation() < theirs {
            // The peer has taken this node for out, and has forgotten its interest.
            relays.on_reset(envelope.sender);
            Self::begin_anew(slot, gateway, ends, now);
        } else {
            gateway.reset_peer(slot, theirs);
        }
    }

    /// Takes messages of peers, while shards have room. Returns whether there is more to do at once.
    pub(super) fn take_messages(
        &mut self,
        gateway: &mut Gateway,
        (relays, moves): (&mut Relays, &mut Moves),
        max: usize,
        now: Millis,
    ) -> bool {
        let mut more = false;
        for (index, peer) in self.slots.iter_mut().enumerate() {
            let Some(peer) = peer.as_mut().filter(|peer| peer.is_in) else { continue };
            let slot = PeerSlot(index as u16);
            // What a peer sent before it knew that it was out belongs to nothing here.
            let is_of_now = peer.link.peer_generation() >= peer.link.generation();
            let (mut taken, mut messages) = (0, 0);
            peer.is_held = false;
            while taken < max && gateway.has_room() && relays.has_room() {
                if is_of_now && !gateway.may_take(slot) {
                    peer.is_held = true;
                    break;
                }
                let Some((number, frame)) = peer.link.next_frame() else { break };
                taken += 1;
                match frame {
                    Frame::Message(message) if is_of_now => {
                        gateway.take_message(slot, number, &message, now);
                        messages += 1;
                    }
                    Frame::Relay(frame) if is_of_now => relays.on_frame(peer.incarnation, &frame),
                    Frame::Move(frame) if is_of_now => moves.on_frame(peer.incarnation, &frame),
                    Frame::Message(_) | Frame::Relay(_) | Frame::Move(_) | Frame::Unknown { .. } => {}
                }
            }
            more |= taken == max;
            if messages > 0 {
                gateway.end_messages(slot);
            }
        }
        more
    }

    /// Whether messages that waited for the log may be taken now.
    pub(super) fn is_released(&self, gateway: &Gateway) -> bool {
        let is_released = |(slot, peer): (usize, &Option<Peer>)| {
            // Nothing is taken from a peer that is out.
            peer.as_ref().is_some_and(|peer| peer.is_held && peer.is_in) && gateway.may_take(PeerSlot(slot as u16))
        };
        self.slots.iter().enumerate().any(is_released)
    }

    /// Tells the gateway how far peers have come.
    pub(super) fn report_progress(&self, gateway: &mut Gateway) {
        for (index, peer) in self.slots.iter().enumerate() {
            if let Some(peer) = peer {
                gateway.peer_progress(PeerSlot(index as u16), peer.link.peer_processed(), peer.link.peer_stored());
            }
        }
    }

    /// Tells peers how far this node has come.
    pub(super) fn acknowledge(&mut self, gateway: &Gateway, now: Millis) {
        for (index, peer) in self.slots.iter_mut().enumerate() {
            if let Some(peer) = peer.as_mut().filter(|peer| peer.link.peer_generation() >= peer.link.generation()) {
                let (processed, stored) = gateway.progress(PeerSlot(index as u16));
                peer.link.acknowledge(processed, stored, now);
            }
        }
    }

    /// The most that is on the way to one peer.
    pub(super) fn unacknowledged_bytes(&self) -> u64 {
        self.iter().filter(|peer| peer.is_in).map(|peer| peer.link.unacknowledged_bytes()).max().unwrap_or(0)
    }

    /// Whether all that peers are known to have sent has come and was taken.
    pub(super) fn are_taken(&self) -> bool {
        self.iter().filter(|peer| peer.is_in).all(|peer| peer.link.is_taken())
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.iter().filter_map(|peer| peer.link.next_deadline()).min()
    }

    pub(super) fn next_envelope(&mut self, max_bytes: usize, out: &mut Vec<u8>, now: Millis) -> Option<Incarnation> {
        let count = self.slots.len();
        for step in 0..count {
            let at = (self.next + step) % count;
            if let Some(peer) = &mut self.slots[at]
                && peer.link.poll(now, max_bytes, out)
            {
                self.next = at + 1;
                return Some(peer.incarnation);
            }
        }
        None
    }
}
