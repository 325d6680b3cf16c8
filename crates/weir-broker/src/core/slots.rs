//! The slots of a cluster: a persistent session is served by the node that owns its slot, and by no other one.

use std::collections::BTreeMap;

use crate::clients::session::Session;
use crate::core::deferred::Task;
use crate::core::subscribe::FILTER_WORK;
use crate::ids::{ConnId, ConnectionSlot, Millis, NamespaceId, PeerSlot, SessionId};
use crate::limits::CLEAN_STARTS_MAX;
use crate::links::link::LinkMessage;
use crate::observe::events::Ended;
use crate::placement::{OF_NODE_PREFIX, SlotSets, Slots, needs_owner, session_slot};
use crate::{Admission, Core, Durability};
use weir_mqtt::ReasonCode;

/// How long the clients of a slot that is given to another node have to finish what is in flight.
const FREEZE_DRAIN_MS: Millis = 300;

/// What this shard knows of the node's slots.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// Of the last change.
    number: u64,
    per_class: u16,
    sets: SlotSets,
    /// Clients that began anew since their slots are importing, by slot: an older session of theirs may be in the copy.
    clean_starts: BTreeMap<(u16, NamespaceId, Box<str>), CleanStart>,
    /// Served again, or for the first time, after a move: what became due meanwhile is done.
    resumed: Slots,
    /// The pass over all sessions that the last change began.
    sweep: Option<Sweep>,
}

#[derive(Debug)]
struct CleanStart {
    /// Of its connection, and the peer that has it; `None`: this node.
    stamp: u64,
    peer: Option<PeerSlot>,
    /// The peer is the old owner, and served the slot at that time: what it has copied is what began then.
    is_copied: bool,
}

#[derive(Debug, Default)]
struct Sweep {
    /// The session that is looked at next.
    next: u32,
    /// Slots that are not served, or released, in which sessions were found.
    occupied: Slots,
    /// Of these, those of bridges.
    pinned: Slots,
}

impl SlotState {
    fn serves(&self, slot: u16) -> bool {
        self.sets.owned.without(self.sets.frozen).contains(slot)
    }

    pub(crate) fn frozen(&self) -> Slots {
        self.sets.frozen
    }

    /// Whether its sessions are kept.
    fn keeps(&self, slot: u16) -> bool {
        self.sets.owned.union(self.sets.importing).contains(slot)
    }
}

/// The class of the slot to which a CONNECT belongs; `None`: it is served where its socket is.
pub(crate) fn slot_class(admission: &Admission<'_>) -> Option<Durability> {
    needs_owner(admission.connect, admission.client_id).then_some(admission.policy.limits.durability)
}

impl Core {
    /// Whether a CONNECT has to be served by another node; or by this one, but not now: it is out of its cluster, or gives the
    /// slot away.
    pub(crate) fn must_be_served_elsewhere(&self, admission: &Admission<'_>, now: Millis) -> bool {
        let Some(durability) = self.gateway.and(slot_class(admission)) else { return false };
        let namespace = &admission.policy.namespace;
        let slot = session_slot(durability, namespace, admission.client_id, self.slots.per_class);
        let resumes = || {
            let namespace = self.routing.find_namespace(namespace);
            let session = namespace.and_then(|id| self.clients.find_session(id, admission.client_id));
            session.is_some() && !admission.connect.clean_start
        };
        // The lease may be over although its end was not processed yet: then another node may own the slot.
        self.journal.is_suspended(now)
            || !self.slots.serves(slot)
            || (self.slots.sets.releasing.contains(slot) && !resumes())
    }

    /// The slot of a session that belongs to its owner.
    pub(crate) fn slot_of_session(&self, session: &Session) -> Option<u16> {
        let durability = session.slot_class?;
        let namespace = self.routing.name(session.namespace);
        Some(session_slot(durability, namespace, &session.client_id, self.slots.per_class))
    }

    /// The slot of a bridge's session. The control plane begins and ends such sessions, so the cores close none of them.
    fn slot_of_bridge(&self, session: &Session) -> Option<u16> {
        if !session.client_id.starts_with(OF_NODE_PREFIX) {
            return None;
        }
        let durability = if session.durable.is_some() { Durability::Disk } else { Durability::Memory };
        let namespace = self.routing.name(session.namespace);
        Some(session_slot(durability, namespace, &session.client_id, self.slots.per_class))
    }

    /// Whether a session on disk is kept, although this node does not own its slot: its client cannot reach it.
    pub(crate) fn is_unowned(&self, session: &Session) -> bool {
        self.gateway.is_some()
            && session.durable.is_some()
            && self.slot_of_session(session).is_some_and(|slot| !self.slots.keeps(slot))
    }

    /// The slots in which a client may have a session, by class.
    fn slots_of_client(&self, namespace: NamespaceId, client_id: &str) -> [u16; 2] {
        let namespace = self.routing.name(namespace);
        [Durability::Memory, Durability::Disk]
            .map(|class| session_slot(class, namespace, client_id, self.slots.per_class))
    }

    /// A client began anew, here or on a peer [MQTT-3.1.2-4]. A copy of its session that comes later is not taken.
    pub(crate) fn remember_clean_start(
        &mut self,
        (namespace, client_id): (NamespaceId, &str),
        peer: Option<PeerSlot>,
        stamp: u64,
    ) {
        if self.slots.sets.importing.is_empty() || self.has_too_many_clean_starts() {
            return;
        }
        for slot in self.slots_of_client(namespace, client_id) {
            let known = self.slots.clean_starts.get(&(slot, namespace, Box::from(client_id)));
            if self.slots.sets.importing.contains(slot) && known.is_none_or(|known| known.stamp < stamp) {
                let clean_start = CleanStart { stamp, peer, is_copied: false };
                self.slots.clean_starts.insert((slot, namespace, client_id.into()), clean_start);
            }
        }
    }

    /// The owner of importing slots serves them no more. A session that it had begun there is in its copy.
    pub(crate) fn forget_clean_starts_of(&mut self, mover: Option<PeerSlot>) {
        let of_mover = self.slots.clean_starts.values_mut().filter(|known| known.peer.is_some() && known.peer == mover);
        of_mover.for_each(|known| known.is_copied = true);
    }

    /// Whether the copy of a client's session is older than a new beginning of that client.
    pub(crate) fn has_clean_start(&self, namespace: NamespaceId, client_id: &str) -> bool {
        !self.slots.clean_starts.is_empty()
            && self.slots_of_client(namespace, client_id).into_iter().any(|slot| {
                let known = self.slots.clean_starts.get(&(slot, namespace, Box::from(client_id)));
                known.is_some_and(|known| !known.is_copied)
            })
    }

    /// Whether so many clients began anew that not all are remembered.
    pub(crate) fn has_too_many_clean_starts(&self) -> bool {
        self.slots.clean_starts.len() > CLEAN_STARTS_MAX
    }

    /// A client begins anew: its session ends. Of two copies, that of the old owner has the will.
    pub(crate) fn discard_session(&mut self, id: SessionId, now: Millis) {
        let slot = self.clients.session(id).and_then(|session| self.slot_of_session(session));
        match slot.filter(|slot| self.slots.sets.importing.contains(*slot)) {
            Some(_) => self.drop_copy(id, now),
            None => self.end_session(id, now),
        }
    }

    /// Whether a session has two copies at the moment: nothing becomes due.
    pub(crate) fn is_in_move(&self, id: SessionId) -> bool {
        let in_move = self.slots.sets.in_move();
        !in_move.is_empty()
            && self
                .clients
                .session(id)
                .and_then(|session| self.slot_of_session(session))
                .is_some_and(|slot| in_move.contains(slot))
    }

    /// The node serves other slots from now on. Connections of slots that it does not own are closed at once, without what
    /// was not sent yet; their sessions end in this turn and later ones, but for those on disk. Those of frozen slots are
    /// disconnected when nothing is in flight.
    pub(crate) fn set_slots(&mut self, number: u64, per_class: u16, mut sets: SlotSets, now: Millis) {
        if number <= self.slots.number {
            return;
        }
        let before = std::mem::take(&mut self.slots);
        let (is_swept, served) = (before.sweep.is_some(), sets.owned.without(sets.frozen));
        let unfinished = |slots: Slots| if is_swept { slots } else { Slots::NONE };
        sets.moved = sets.moved.union(unfinished(before.sets.moved)).without(sets.owned.union(sets.importing));
        let resumed = unfinished(before.resumed).union(before.sets.in_move()).and(served);
        let mut clean_starts = before.clean_starts;
        clean_starts.retain(|(slot, ..), _| sets.importing.contains(*slot));
        self.slots = SlotState { number, per_class, sets, clean_starts, resumed, sweep: Some(Sweep::default()) };
        let open = self.clients.connections().filter(|(_, connection)| !connection.closing);
        let of_slots = open.filter_map(|(slot, connection)| {
            let of = self.slot_of_session(self.clients.session(connection.session)?)?;
            (!served.contains(of)).then_some((slot, sets.frozen.contains(of)))
        });
        for (slot, is_frozen) in of_slots.collect::<Vec<_>>() {
            if is_frozen {
                let conn = ConnId { slot, generation: self.clients.generation(slot) };
                self.begin_drain(conn, ReasonCode::UseAnotherServer as u8, None, now + FREEZE_DRAIN_MS, now);
            } else {
                self.close_unsent(slot);
            }
        }
        if !is_swept {
            self.sweep_slots(&mut self.config.work.at_once.clone(), now);
        }
    }

    /// Closes a connection without what was not sent yet: another node may serve its session.
    fn close_unsent(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.clients.connection_mut(slot) {
            connection.outlet.out.discard();
        }
        self.close(slot, Ended::ByServer(ReasonCode::UseAnotherServer as u8));
    }

    /// Looks at further sessions: ends those in memory whose slots are not served. At the end, the gateway gets its answer.
    pub(crate) fn sweep_slots(&mut self, work: &mut usize, now: Millis) {
        while *work > 0 {
            let Some(sweep) = &mut self.slots.sweep else { return };
            if sweep.next as usize >= self.clients.session_slots() {
                let (number, occupied, pinned) = (self.slots.number, sweep.occupied, sweep.pinned);
                self.slots.sweep = None;
                if let Some(gateway) = self.gateway {
                    self.links.push(gateway, LinkMessage::SlotsApplied { number, occupied, pinned });
                }
                return;
            }
            let id = SessionId(sweep.next);
            sweep.next += 1;
            *work -= 1;
            self.sweep_session(id, work, now);
        }
        self.deferred.push(Task::SweepSlots);
    }

    fn sweep_session(&mut self, id: SessionId, work: &mut usize, now: Millis) {
        let Some(session) = self.clients.session(id).filter(|session| !session.ending) else { return };
        let Some(slot) = self.slot_of_session(session) else {
            // A bridge runs where its slot is served: its queue keeps the slot here.
            if let Some(slot) = self.slot_of_bridge(session)
                && self.slots.sets.releasing.contains(slot)
                && let Some(sweep) = &mut self.slots.sweep
            {
                sweep.occupied.insert(slot);
                sweep.pinned.insert(slot);
            }
            return;
        };
        let (is_lost, is_durable) = (!self.slots.keeps(slot), session.durable.is_some());
        let is_moved = self.slots.sets.moved.contains(slot);
        if is_lost && (is_moved || !is_durable) {
            *work = work.saturating_sub(session.filters() * FILTER_WORK);
            return if is_moved { self.drop_copy(id, now) } else { self.end_session(id, now) };
        }
        if self.slots.resumed.contains(slot) {
            let session = self.clients.session_ref(id);
            self.session_is_due(session, now);
        }
        if (is_lost || self.slots.sets.releasing.contains(slot))
            && let Some(sweep) = &mut self.slots.sweep
        {
            sweep.occupied.insert(slot);
        }
    }
}
