//! Durability: the core records changes, and gates output that a client may get only when they are on disk.

use std::sync::Arc;

use crate::core::Core;
use crate::delivery::out_buffer::Acknowledgement;
use crate::delivery::publish_context::PublishContext;
use crate::delivery::queue::Queued;
use crate::durability::recording::SessionRecord;
use crate::ids::{ConnectionSlot, Millis, NamespaceId, RecordId, SessionId, ShardId};
use crate::links::link::LinkMessage;
use crate::routing::matches::Matches;
use crate::values::message::Message;
use crate::values::record::RecordBatch;
use crate::{Batch, Dropped, EndpointId, OutBuf, StoreAck};
use weir_mqtt::{PacketId, QoS};

impl Core {
    /// Takes the batch for another shard; `None`: nothing is to be sent.
    pub(crate) fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        if !self.touched_groups.is_empty() && Some(to) == self.gateway {
            self.send_group_states();
        }
        self.links.take_batch(to)
    }

    /// Ends an epoch: what it changed of durable state, for the store.
    pub(crate) fn take_records(&mut self) -> Option<RecordBatch> {
        let batch = self.journal.end_epoch();
        self.settle_epochs();
        self.answer_moves();
        batch
    }

    /// The store reports progress, or that its disk is full, or no longer is.
    pub fn on_store_ack(&mut self, ack: StoreAck, now: Millis) {
        self.now = now;
        self.journal.on_store_ack(ack);
        self.settle_epochs();
        self.answer_moves();
        self.release_publishes(now);
        if ack == StoreAck::Full(true) {
            self.refuse_waiting();
        }
    }

    pub(crate) fn resume_disk_waiters(&mut self) {
        self.journal.take_waiters().into_iter().for_each(|origin| self.resume(origin));
    }

    /// Opens the gates, and resumes the publishers, that waited for epochs that are settled now.
    pub(crate) fn settle_epochs(&mut self) {
        let journal = &self.journal;
        self.links.settle_storage(|_, batch| journal.is_stored(batch));
        self.drain_outbox();
        let links = &self.links;
        let Some(settled) = self.journal.settle(self.now, |wait| links.has_stored(wait)) else { return };
        while let Some(id) = self.journal.next_ungated(settled) {
            if let Some(connection) = self.clients.open(id) {
                connection.outlet.out.release(settled, connection.version);
                self.scheduler.appended(id, &mut connection.outlet);
            }
        }
        if self.journal.has_caught_up() {
            self.resume_disk_waiters();
        }
    }

    /// Gates further output to a connection until all changes so far are durable.
    pub(crate) fn gate(&mut self, slot: ConnectionSlot) {
        if let Some(epoch) = self.journal.unsettled() {
            self.wait_for(slot, epoch, |out| out.gate(epoch, false));
        }
    }

    /// The same for CONNACK, before which nothing may go out.
    pub(crate) fn gate_connack(&mut self, slot: ConnectionSlot) {
        if let Some(epoch) = self.journal.unsettled() {
            self.wait_for(slot, epoch, |out| out.gate(epoch, true));
        }
    }

    /// Acknowledges a PUBLISH once its epoch is settled; with QoS 2, before what the connection gets from `before` on.
    pub(crate) fn acknowledge_after(&mut self, slot: ConnectionSlot, acknowledgement: Acknowledgement, before: usize) {
        self.wait_for(slot, acknowledgement.epoch, |out| {
            let is_new = out.acknowledge(acknowledgement);
            if acknowledgement.qos == QoS::ExactlyOnce {
                out.gate_from(before, acknowledgement.epoch);
            }
            is_new
        });
    }

    /// Gates further output to a connection until the PUBRECs that wait there have gone out.
    pub(crate) fn gate_behind_pubrec(&mut self, slot: ConnectionSlot) {
        let waits = self.clients.connection(slot).and_then(|c| c.outlet.out.acknowledges(QoS::ExactlyOnce));
        if let Some(epoch) = waits {
            self.wait_for(slot, epoch, |out| out.gate(epoch, false));
        }
    }

    fn wait_for(&mut self, slot: ConnectionSlot, epoch: u64, gate: impl FnOnce(&mut OutBuf) -> bool) {
        let generation = self.clients.generation(slot);
        if let Some(connection) = self.clients.connection_mut(slot)
            && gate(&mut connection.outlet.out)
        {
            self.journal.add_gated(epoch, crate::ConnId { slot, generation });
        }
    }

    /// The same, where the session is durable: for answers that speak of it.
    pub(crate) fn gate_durable(&mut self, slot: ConnectionSlot) {
        if self.journal.is_on() && self.durable_id(slot).is_some() {
            self.gate(slot);
        }
    }

    /// The number of a connection's session, where it is durable.
    pub(crate) fn durable_id(&self, slot: ConnectionSlot) -> Option<RecordId> {
        let session = self.clients.connection(slot)?.session;
        self.clients.session(session)?.durable.as_ref().map(|durable| durable.id)
    }

    /// A publisher that outruns the disk pauses.
    pub(crate) fn pause_if_store_lags(&mut self, context: &PublishContext<'_>) {
        if self.journal.must_pause(context.origin) {
            self.pause(context.origin);
        }
    }

    /// A message for another shard, just put on its link with `rank`, may be recorded there, or farther on: this epoch waits
    /// for it. A message that is returned a second time, because two members left at once, goes into the outbox instead.
    pub(crate) fn depend_on(&mut self, to: ShardId, rank: usize, retained_on_disk: bool) {
        if self.journal.depends_on_others(rank, retained_on_disk) {
            self.journal.wait_for(self.links.request_stored(to, rank));
        }
    }

    /// Records a session as it is now, where it is durable.
    pub(crate) fn record_session(&mut self, id: SessionId) {
        let Some(session) = self.clients.session(id) else { return };
        let Some(durable) = &session.durable else { return };
        let record = SessionRecord {
            namespace: self.routing.name(session.namespace),
            client_id: &session.client_id,
            endpoint: &session.policy.name,
            expiry_s: session.expiry_s,
            ends_at: session.connection.is_none().then_some(session.ends_at),
            will: session.will.as_deref(),
        };
        self.journal.record_session(durable.id, &record);
    }

    /// Removes the records of a session that ends. `false`: it was not durable.
    pub(crate) fn forget_session(&mut self, id: SessionId) -> bool {
        let Some(session) = self.clients.session_mut(id) else { return false };
        let Some(durable) = session.durable.take() else { return false };
        let durable_id = durable.id;
        let journal = &mut self.journal;
        session
            .queue
            .iter()
            .for_each(|queued| journal.forget_delivery(durable_id, &queued.delivery, Some(&queued.message)));
        session.inflight.iter().for_each(|sent| journal.forget_sent(durable_id, sent));
        let shared = session.cold.iter_mut().flat_map(|cold| cold.shared.values_mut());
        let shared = shared.map(|shared| std::mem::take(&mut shared.record));
        durable
            .subscriptions
            .into_iter()
            .chain(shared)
            .for_each(|record| journal.forget_subscription(durable_id, record));
        for packet_id in durable.received {
            self.forget_received(durable_id, packet_id);
            // Shards that have not processed their parts yet would record them after this.
            self.links.broadcast(|| LinkMessage::SessionEnded((durable_id, packet_id)));
        }
        self.journal.forget_session(durable_id);
        true
    }

    /// The message in a form that a durable session can keep: with a record of its own, where several may share it, or
    /// where its delivery is recorded more than once.
    pub(crate) fn message_for_record(&mut self, context: &mut PublishContext<'_>, qos: QoS) -> Message {
        let mut message = context.store();
        if !message.record.is_some() && (context.has_several_receivers() || qos == QoS::ExactlyOnce) {
            message.record = self.journal.new_id();
            context.set_stored(&message);
        }
        message
    }

    /// A queued message of a durable session, before it is queued.
    pub(crate) fn record_queued(&mut self, to: SessionId, queued: &mut Queued) {
        if queued.delivery.qos == QoS::AtMostOnce || queued.delivery.record.is_some() {
            return;
        }
        if let Some(durable_id) = self.clients.session(to).and_then(|s| s.durable.as_ref()).map(|durable| durable.id) {
            self.journal.record_delivery(durable_id, &mut queued.delivery, &queued.message, None);
        }
    }

    /// The publisher has released a packet identifier, or its session has ended: no shard has to know it any more.
    pub(crate) fn forget_received(&mut self, durable_id: RecordId, packet_id: PacketId) {
        if self.journal.forget_received(durable_id, packet_id) {
            self.links.broadcast(|| LinkMessage::Released((durable_id, packet_id)));
        }
    }

    /// A durable session begins on this shard: the others learn of the first, so that they wait for what they send here.
    pub(crate) fn broadcast_durable(&mut self) {
        if self.journal.begin_durable() {
            self.links.broadcast(|| LinkMessage::HasDurableSessions);
        }
    }

    /// Keeps a retained message, or removes what its topic had; on disk where `durable`.
    pub(crate) fn set_retained(&mut self, namespace: NamespaceId, message: &Message, durable: bool) {
        if !message.payload().is_empty()
            && let Some(publisher) = &message.publisher
            && !self.may_retain(namespace, &publisher.endpoint, message.topic(), message.size())
        {
            let endpoint = self.routing.policy(namespace, &publisher.endpoint).map(|policy| policy.id);
            self.not_retained_event(namespace, publisher, message.topic());
            return self.count_dropped(endpoint.unwrap_or(EndpointId::RESTORED), Dropped::RetainedFull, 1);
        }
        let routing = &mut self.routing;
        let before =
            if self.journal.is_on() { routing.retained_record(namespace, message.topic()) } else { RecordId::NONE };
        let record = self.journal.record_retained(routing.name(namespace), before, message, durable);
        routing.set_retained(namespace, message, record);
    }

    /// Removes retained messages that expired.
    pub(crate) fn expire_retained(&mut self, now: Millis) {
        let journal = &mut self.journal;
        self.routing.expire_retained(now, |record| journal.forget_retained(record));
    }

    /// Whether a message would have to be recorded somewhere.
    pub(crate) fn wants_record(
        &mut self,
        namespace: NamespaceId,
        topic: &str,
        retained_on_disk: bool,
        known: Option<&Arc<Matches>>,
    ) -> bool {
        if retained_on_disk {
            return true;
        }
        let matches = match known {
            Some(known) => Arc::clone(known),
            None => self.routing.matches(namespace, topic),
        };
        let durable = |id: SessionId| self.clients.session(id).is_some_and(|session| session.durable.is_some());
        matches.subscribers.iter().any(|matched| matched.qos > QoS::AtMostOnce && durable(matched.session))
            || (self.journal.any_durable() && (!matches.destinations.is_empty() || !matches.groups.is_empty()))
    }
}
