//! Copies of the sessions of slots, for a move to another node: the old owner exports them, the new one imports them, and the
//! one that does not serve them in the end drops its copy.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::Core;
use crate::Durability;
use crate::clients::session::Session;
use crate::durability::journal::{CommitJournal, Recording, ShardPart};
use crate::durability::recording::SessionRecord;
use crate::ids::{Millis, RecordId, SessionId, ShardId};
use crate::links::link::LinkMessage;
use crate::placement::Slots;
use crate::values::delivery::{Awaits, Delivery};
use crate::values::message::Message;
use crate::values::slot_copy::SlotCopy;
use weir_mqtt::{PacketId, QoS, ReasonCode, SubscriptionOptions};

/// Writes sessions of one class as records. Their numbers are those of no store: other shards' are others.
struct Exporter {
    journal: CommitJournal,
    /// Messages with records of their own, by what tells two messages apart.
    messages: BTreeMap<(usize, Millis, QoS, bool), RecordId>,
    sessions: u32,
}

impl Exporter {
    fn new(here: ShardPart) -> Self {
        let mut journal = CommitJournal::new(here);
        journal.start(Recording { next_id: 1, epoch_unix_ms: 0 });
        Self { journal, messages: BTreeMap::new(), sessions: 0 }
    }

    fn delivery(&mut self, session: RecordId, delivery: &Delivery, message: &Message, packet_id: Option<PacketId>) {
        // All deliveries of a message share its bytes, which live as long as this export.
        let key = (message.topic_bytes().as_ptr() as usize, message.expires_at, message.qos, message.retain);
        let record = *self.messages.entry(key).or_insert_with(|| self.journal.new_id());
        let mut message = message.clone();
        message.record = record;
        let mut delivery = Delivery { record: RecordId::NONE, ..delivery.clone() };
        self.journal.record_delivery(session, &mut delivery, &message, packet_id);
    }

    fn subscription(&mut self, session: RecordId, filter: (&str, bool), options: SubscriptionOptions, identifier: u32) {
        self.journal.record_subscription(session, None, filter, options, identifier);
    }

    /// What was sent and is queued, and what the client has not released.
    fn messages_of(&mut self, id: RecordId, session: &Session) {
        for sent in session.inflight.iter() {
            match &sent.message {
                _ if sent.awaits == Awaits::PubComp => self.journal.put_released(id, sent.packet_id),
                Some(message) => self.delivery(id, &sent.delivery, message, Some(sent.packet_id)),
                None => {}
            }
        }
        // What a read of retained messages has found is read again, if it is not done.
        for queued in session.queue.iter_settled().filter(|queued| queued.delivery.qos > QoS::AtMostOnce) {
            self.delivery(id, &queued.delivery, &queued.message, None);
        }
        let mut incoming: Vec<PacketId> = session.incoming.iter().flat_map(|ids| ids.iter()).copied().collect();
        incoming.sort_unstable();
        incoming.into_iter().for_each(|packet_id| self.journal.record_received((id, packet_id)));
    }
}

impl Core {
    fn sessions_of(&self, slots: Slots) -> Vec<SessionId> {
        let is_of = |session: &Session| {
            !session.ending && self.slot_of_session(session).is_some_and(|slot| slots.contains(slot))
        };
        self.clients.sessions().filter(|(_, session)| is_of(session)).map(|(id, _)| id).collect()
    }

    /// Copies the sessions of frozen slots, for the gateway. Clients that are still connected are disconnected.
    pub(crate) fn export_slots(&mut self, number: u64, slots: Slots, max_bytes: usize, now: Millis) {
        let Some(gateway) = self.gateway else { return };
        self.now = now;
        let slots = slots.and(self.slots.frozen());
        for id in self.sessions_of(slots) {
            if let Some(slot) = self.clients.session(id).and_then(|session| session.connection) {
                self.disconnect_with(slot, ReasonCode::UseAnotherServer);
            }
        }
        let here = ShardPart { shards: self.config.shards, shard: self.config.shard.0 };
        let (mut memory, mut disk) = (Exporter::new(here), Exporter::new(here));
        for id in self.sessions_of(slots) {
            let is_disk = self.clients.session(id).and_then(|session| session.slot_class) == Some(Durability::Disk);
            self.export_session(id, if is_disk { &mut disk } else { &mut memory });
            if memory.journal.backlog_bytes() + disk.journal.backlog_bytes() > max_bytes as u64 {
                return self.links.push(gateway, LinkMessage::Exported { number, copy: None });
            }
        }
        let copy = SlotCopy {
            taken_at: now,
            sessions: memory.sessions + disk.sessions,
            memory: memory.journal.take_bytes(),
            disk: disk.journal.take_bytes(),
        };
        self.links.push(gateway, LinkMessage::Exported { number, copy: Some(Box::new(copy)) });
    }

    fn export_session(&mut self, id: SessionId, exporter: &mut Exporter) {
        let Some(session) = self.clients.session(id) else { return };
        let record = exporter.journal.new_id();
        exporter.sessions += 1;
        let fields = SessionRecord {
            namespace: self.routing.name(session.namespace),
            client_id: &session.client_id,
            endpoint: &session.policy.name,
            expiry_s: session.expiry_s,
            ends_at: Some(session.ends_at),
            will: session.will.as_deref(),
        };
        exporter.journal.record_session(record, &fields);
        let subscriptions = self.routing.subscriptions_mut(session.namespace);
        for &node in &session.subscriptions {
            let Some((filter, subscriber)) = subscriptions.get(node, id) else { continue };
            let is_due = session.cold.as_ref().is_some_and(|cold| cold.reads.has(node));
            exporter.subscription(record, (&filter, is_due), subscriber.options, subscriber.identifier);
        }
        for (key, shared) in session.cold.iter().flat_map(|cold| &cold.shared) {
            let filter = format!("$share/{}/{}", key.group, key.filter);
            let options = SubscriptionOptions { qos: shared.qos, ..shared.options };
            exporter.subscription(record, (&filter, false), options, shared.identifier);
        }
        exporter.messages_of(record, session);
        if let Some(session) = self.clients.session_mut(id) {
            let deliveries = session.queue.deliveries_mut().chain(session.inflight.deliveries_mut());
            deliveries.for_each(|delivery| delivery.is_copied = true);
        }
    }

    /// Puts sessions of another node in the place of what these slots have, and tells the gateway when they are in effect.
    pub(crate) fn import_slots(&mut self, number: u64, slots: Slots, copy: &SlotCopy, now: Millis) {
        let Some(gateway) = self.gateway else { return };
        self.now = now;
        // Left from when this node had the slot before: the owner's are newer.
        self.sessions_of(slots).into_iter().for_each(|id| self.drop_copy(id, now));
        if self.has_too_many_clean_starts() {
            return self.links.push(gateway, LinkMessage::Imported { number, sessions: None });
        }
        let mut sessions = 0;
        for (class, bytes) in [(Durability::Memory, &copy.memory), (Durability::Disk, &copy.disk)] {
            match self.restore_copy(class, copy.taken_at, bytes, now) {
                Ok(count) => sessions += count as u32,
                Err(_) => return self.links.push(gateway, LinkMessage::Imported { number, sessions: None }),
            }
        }
        self.share_newest();
        self.begin_import_wait(number, sessions);
    }

    /// What is retained later comes because of the subscriptions, so the reads that begin anew must not find it, too.
    fn share_newest(&mut self) {
        let namespaces = self.routing.namespaces().iter();
        let newest: Vec<_> = namespaces.map(|known| (Arc::clone(known.name()), known.retained().sequence())).collect();
        for shard in self.links.others().filter(|shard| Some(*shard) != self.gateway) {
            self.links.push(shard, LinkMessage::RetainedNewest { newest: newest.clone() });
        }
        self.on_retained_newest(self.config.shard, newest);
    }

    /// The numbers of a shard's newest retained messages when it imported.
    pub(crate) fn on_retained_newest(&mut self, from: ShardId, newest: Vec<(Arc<str>, u64)>) {
        self.moves.newest.insert(from, newest);
        for (session, node) in &self.moves.due_reads {
            let Some(session) = self.clients.session_by_ref(*session) else { continue };
            let namespace = self.routing.name(session.namespace);
            let Some(cold) = &mut session.cold else { continue };
            for (shard, newest) in &self.moves.newest {
                let newest = newest.iter().find(|(name, _)| name == namespace).map_or(0, |(_, newest)| *newest);
                cold.reads.bound(*node, *shard, newest);
            }
        }
    }

    /// Drops one of the two copies of a session: without its will, and with those messages that the other copy has, too. Messages of
    /// shared groups that came later are given back.
    pub(crate) fn drop_copy(&mut self, id: SessionId, now: Millis) {
        let Some(session) = self.clients.session_mut(id) else { return };
        session.will = None;
        let deliveries = session.queue.deliveries_mut().chain(session.inflight.deliveries_mut());
        deliveries.filter(|delivery| delivery.is_copied).for_each(|delivery| delivery.group = None);
        self.end_session(id, now);
    }
}
