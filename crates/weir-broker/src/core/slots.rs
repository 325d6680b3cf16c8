//! The slots of a cluster: a persistent session is served by the node that owns its slot, and by no other one.

use crate::clients::session::Session;
use crate::core::deferred::Task;
use crate::core::subscribe::FILTER_WORK;
use crate::ids::{ConnectionSlot, Millis, SessionId};
use crate::links::link::LinkMessage;
use crate::observe::events::Ended;
use crate::placement::{OF_NODE_PREFIX, Slots, needs_owner, session_slot};
use crate::{Admission, Core, Durability};
use weir_mqtt::ReasonCode;

/// What this shard knows of the node's slots.
#[derive(Debug, Default)]
pub(crate) struct SlotState {
    /// Of the last change.
    number: u64,
    per_class: u16,
    owned: Slots,
    releasing: Slots,
    /// The pass over all sessions that the last change began.
    sweep: Option<Sweep>,
}

#[derive(Debug, Default)]
struct Sweep {
    /// The session that is looked at next.
    next: u32,
    /// Slots that are not served, or released, in which sessions were found.
    occupied: Slots,
}

impl SlotState {
    fn serves(&self, slot: u16) -> bool {
        self.owned.union(self.releasing).contains(slot)
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
            || (self.slots.releasing.contains(slot) && !resumes())
    }

    /// The slot of a session that belongs to its owner.
    fn slot_of_session(&self, session: &Session) -> Option<u16> {
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
            && self.slot_of_session(session).is_some_and(|slot| !self.slots.serves(slot))
    }

    /// The node serves other slots from now on. Connections of slots that it does not serve are closed at once, without what
    /// was not sent yet; their sessions end in this turn and later ones, but for those on disk.
    pub(crate) fn set_slots(&mut self, number: u64, (per_class, owned, releasing): (u16, Slots, Slots), now: Millis) {
        if number <= self.slots.number {
            return;
        }
        let is_swept = self.slots.sweep.is_some();
        self.slots = SlotState { number, per_class, owned, releasing, sweep: Some(Sweep::default()) };
        let lost = |session: &Session| self.slot_of_session(session).is_some_and(|slot| !self.slots.serves(slot));
        let open = self.clients.connections().filter(|(_, connection)| !connection.closing);
        let lost: Vec<ConnectionSlot> = open
            .filter(|(_, connection)| self.clients.session(connection.session).is_some_and(lost))
            .map(|(slot, _)| slot)
            .collect();
        lost.into_iter().for_each(|slot| self.close_unsent(slot));
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
                let (number, occupied) = (self.slots.number, sweep.occupied);
                self.slots.sweep = None;
                if let Some(gateway) = self.gateway {
                    self.links.push(gateway, LinkMessage::SlotsApplied { number, occupied });
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
            // A bridge runs where its slot is served: its queue keeps the slot here, as a client's session does.
            if let Some(slot) = self.slot_of_bridge(session)
                && self.slots.releasing.contains(slot)
                && let Some(sweep) = &mut self.slots.sweep
            {
                sweep.occupied.insert(slot);
            }
            return;
        };
        let is_lost = !self.slots.serves(slot);
        if is_lost && session.durable.is_none() {
            *work = work.saturating_sub(session.filters() * FILTER_WORK);
            return self.end_session(id, now);
        }
        if (is_lost || self.slots.releasing.contains(slot))
            && let Some(sweep) = &mut self.slots.sweep
        {
            sweep.occupied.insert(slot);
        }
    }
}
