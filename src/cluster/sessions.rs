//! Where the sessions of clients are: the slot table, and the connections that nodes relay to each other.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::driver::Driver;
use super::engine::SlotsWritten;
use super::inbox::Inbox;
use crate::net::relay::{Owner, RelayEnd, RelayMessage, RelayPort, SlotLookup};
use weir_broker::Durability;
use weir_broker::placement::session_slot;
use weir_cluster::node::RelayEvent;
use weir_cluster::slots::{SlotOwner, SlotView};
use weir_cluster::wire::{RelayClose, RelayFrame};
use weir_cluster::{Incarnation, slots};

/// The slot view, as the data plane asks it for each CONNECT that continues a session.
#[derive(Debug, Default)]
pub(super) struct SharedSlots(RwLock<SlotView>);

impl SharedSlots {
    fn set(&self, view: &SlotView) {
        view.clone_into(&mut self.0.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl SlotLookup for SharedSlots {
    fn owner(&self, durability: Durability, namespace: &str, client_id: &str) -> (u16, Owner) {
        let view = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let slot = session_slot(durability, namespace, client_id, view.per_class);
        // Where no table is known, no node owns a slot.
        let owner = match view.owner(slot) {
            SlotOwner::Here => Owner::Here,
            SlotOwner::Peer(incarnation) => Owner::Peer(incarnation),
            SlotOwner::Unknown => Owner::Unknown,
        };
        (slot, owner)
    }
}

/// What the driver keeps for sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    view: Arc<SharedSlots>,
    /// The question for the head of the slot table that was asked last.
    head_asked: Option<u64>,
    /// Peers with relayed connections, and whether too much is on the way to them.
    congested: HashMap<Incarnation, bool>,
}

impl Sessions {
    pub(super) fn new(view: Arc<SharedSlots>) -> Self {
        Self { view, ..Self::default() }
    }
}

/// Sends what the relay thread has for peers to the thread of the cluster.
#[derive(Debug)]
pub(super) struct RelaySender(pub(super) Arc<Inbox>);

impl RelayPort for RelaySender {
    fn send(&self, peer: u64, message: RelayMessage) {
        self.0.relay(peer, message);
    }
}

fn frame(message: &RelayMessage) -> RelayFrame<'_> {
    match *message {
        RelayMessage::Open { relay, slot, ref admission } => RelayFrame::Open { relay, slot, admission },
        RelayMessage::Data { relay, from_opener, ref bytes } => RelayFrame::Data { relay, from_opener, bytes },
        RelayMessage::Credit { relay, from_opener, bytes } => RelayFrame::Credit { relay, from_opener, bytes },
        RelayMessage::End { relay, code, within_ms, revokes, ref reference } => {
            RelayFrame::End { relay, code, within_ms, revokes, reference: reference.as_bytes() }
        }
        RelayMessage::Close { relay, from_opener, reason } => {
            let reason = match reason {
                RelayEnd::Ended => RelayClose::Ended,
                RelayEnd::NotOwner => RelayClose::NotOwner,
                RelayEnd::Refused => RelayClose::Refused,
                RelayEnd::Full => RelayClose::Full,
            };
            RelayFrame::Close { relay, from_opener, reason }
        }
    }
}

fn message(frame: &RelayFrame<'_>) -> RelayMessage {
    match *frame {
        RelayFrame::Open { relay, slot, admission } => {
            RelayMessage::Open { relay, slot, admission: admission.to_vec() }
        }
        RelayFrame::Data { relay, from_opener, bytes } => {
            RelayMessage::Data { relay, from_opener, bytes: bytes.to_vec() }
        }
        RelayFrame::Credit { relay, from_opener, bytes } => RelayMessage::Credit { relay, from_opener, bytes },
        RelayFrame::End { relay, code, within_ms, revokes, reference } => {
            let reference = String::from_utf8_lossy(reference).into();
            RelayMessage::End { relay, code, within_ms, revokes, reference }
        }
        RelayFrame::Close { relay, from_opener, reason } => {
            let reason = match reason {
                RelayClose::Ended => RelayEnd::Ended,
                RelayClose::NotOwner => RelayEnd::NotOwner,
                RelayClose::Refused => RelayEnd::Refused,
                RelayClose::Full => RelayEnd::Full,
            };
            RelayMessage::Close { relay, from_opener, reason }
        }
    }
}

impl Driver {
    pub(super) fn on_slots_written(&mut self, written: SlotsWritten) {
        use slots::SlotsWritten as Result;
        let result = match written {
            SlotsWritten::Stored { version } => {
                self.reporter.slots_written();
                Result::Stored(version)
            }
            SlotsWritten::Conflict => Result::Conflict,
            SlotsWritten::Failed { reason } => {
                self.reporter.slots_failed(&reason);
                Result::Failed
            }
        };
        self.node.on_slots_written(result, self.now);
    }

    pub(super) fn carry_out_slots(&mut self) {
        let wanted = self.node.slots_head_wanted();
        if let Some(token) = wanted.filter(|_| wanted != self.sessions.head_asked)
            && self.engine.request_slots_head(token).is_ok()
        {
            self.sessions.head_asked = wanted;
        }
        if let Some(write) = self.node.next_slots_write()
            && self.engine.write_slots(write.expected, write.bytes.into()).is_err()
        {
            self.node.on_slots_written(slots::SlotsWritten::Failed, self.now);
        }
        if self.node.take_slot_view_changed() {
            self.sessions.view.set(self.node.slot_view());
            // Bridges run where their slots are served.
            self.publish_soon();
            self.plane.slots_changed();
        }
    }

    /// Sends what the data plane relays to a peer.
    pub(super) fn send_relays(&mut self, messages: Vec<(Incarnation, RelayMessage)>) {
        for (peer, message) in messages {
            let is_end = matches!(message, RelayMessage::Close { .. });
            if self.node.send_relay(peer, &frame(&message)) {
                self.sessions.congested.entry(peer).or_default();
            } else if !is_end {
                self.plane.relay_peer_lost(peer);
            }
        }
    }

    /// Gives the data plane what peers relay to this node.
    pub(super) fn carry_out_relays(&mut self) {
        while let Some((peer, event)) = self.node.next_relay() {
            match event {
                RelayEvent::Frame(frame) => {
                    self.sessions.congested.entry(peer).or_default();
                    self.plane.relay_message(peer, message(&frame));
                }
                RelayEvent::LinkReset => {
                    self.sessions.congested.remove(&peer);
                    self.plane.relay_peer_lost(peer);
                }
            }
        }
        for (peer, known) in &mut self.sessions.congested {
            let congested = self.node.relay_congested(*peer);
            if congested != *known {
                *known = congested;
                self.plane.relay_congested(*peer, congested);
            }
        }
    }
}
