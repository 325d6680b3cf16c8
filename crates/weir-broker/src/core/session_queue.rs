//! The queue of a session: what enters it, what is dropped from it, and what leaves it when the window has room.

use crate::core::deliver::OutgoingPublish;
use crate::core::retained_read::ReadProgress;
use crate::delivery::fanout_scheduler::QueueBounds;
use crate::delivery::publish_context::PublishContext;
use crate::delivery::queue::{Next, Queued};
use crate::ids::{ConnectionSlot, Millis, Origin, RecordId, SessionId};
use crate::observe::Site;
use crate::values::delivery::Delivery;
use crate::{Core, Dropped, MemoryKind, QueueOverflow};
use weir_mqtt::QoS;

impl Core {
    pub(crate) fn enqueue(&mut self, to: SessionId, delivery: Delivery, context: &mut PublishContext<'_>, now: Millis) {
        let durable = delivery.qos > QoS::AtMostOnce && self.clients.session(to).is_some_and(|s| s.durable.is_some());
        let message = if durable { self.message_for_record(context, delivery.qos) } else { context.store() };
        let queued = Queued { message, delivery, retained: false, sharers: context.receivers() };
        self.enqueue_message(to, queued, context.origin, now);
    }

    /// Queues a message up to the limit; beyond it drops messages as `queue_overflow` declares.
    pub(crate) fn enqueue_message(&mut self, to: SessionId, mut queued: Queued, origin: Origin, now: Millis) {
        let Some(session) = self.clients.session_mut(to) else {
            return self.observe.count_error(Site::SessionOfSubscription);
        };
        let durable_id = session.durable.as_ref().map(|durable| durable.id);
        let size = queued.message.size() as u64;
        let bounds = self.scheduler.queue_bounds(&session.policy.limits, &session.queue, size);
        let QueueBounds { messages, bytes } = bounds;
        let over = |queue: &crate::delivery::queue::Queue| queue.counted() >= messages || queue.bytes() + size > bytes;
        let mut dropped = Vec::new();
        if !queued.retained && over(&session.queue) {
            if session.policy.limits.queue_overflow == QueueOverflow::DropOldest {
                while over(&session.queue)
                    && let Some(oldest) = session.queue.drop_oldest()
                {
                    dropped.push(oldest);
                }
            }
            session.dropped = session.dropped.saturating_add(dropped.len() as u32);
            if over(&session.queue) {
                session.dropped = session.dropped.saturating_add(1);
                let id = session.policy.id;
                if self.scheduler.queues_are_full() {
                    self.memory.count_refusal(MemoryKind::Queues);
                }
                self.count_dropped(id, Dropped::QueueFull, dropped.len() as u64 + 1);
                dropped
                    .iter()
                    .chain([&queued])
                    .for_each(|q| self.dropped_event(to, q.message.topic(), Dropped::QueueFull));
                return self.forget_queued(durable_id, &dropped);
            }
        }
        if durable_id.is_some() {
            self.forget_queued(durable_id, &dropped);
            self.record_queued(to, &mut queued);
        }
        dropped.iter().for_each(|oldest| self.dropped_event(to, oldest.message.topic(), Dropped::QueueFull));
        let dropped = dropped.len() as u64;
        let Some(session) = self.clients.session_mut(to) else {
            return self.observe.count_error(Site::SessionOfSubscription);
        };
        session.queue.push(queued);
        let limits = &session.policy.limits;
        let (messages, bytes) = (limits.max_queued_messages, limits.max_queued_bytes);
        let half_full = session.queue.counted() > messages / 2 || session.queue.bytes() > bytes / 2;
        let (id, connection) = (session.policy.id, session.connection);
        self.count_dropped(id, Dropped::QueueFull, dropped);
        if let (true, Some(slot)) = (half_full, connection) {
            self.pause_publisher(slot, origin, now);
        }
        self.report_readiness(to);
    }

    /// Queued messages of a durable session that it does not get.
    pub(crate) fn forget_queued(&mut self, durable_id: Option<RecordId>, dropped: &[Queued]) {
        let Some(durable_id) = durable_id else { return };
        dropped
            .iter()
            .for_each(|queued| self.journal.forget_delivery(durable_id, &queued.delivery, Some(&queued.message)));
    }

    /// Moves what is queued into the window and the out buffer, as far as there is room.
    pub(crate) fn drain_queue(&mut self, id: SessionId, now: Millis) {
        self.drain_queue_within(id, now, &mut { self.config.work.at_once });
    }

    /// The same; what reads of retained messages cost comes off `work`. When that is used up, it goes on in a later turn.
    pub(crate) fn drain_queue_within(&mut self, id: SessionId, now: Millis, work: &mut usize) {
        loop {
            // Its connection may have been closed by an answer, and the session have ended with it.
            let Some(session) = self.clients.session(id) else { return };
            let Some(slot) = session.connection else { return };
            let namespace = session.namespace;
            if session.has_pending_subscribe() {
                return;
            }
            let window_is_full = session.inflight.len() >= self.window(slot, session);
            match session.queue.next() {
                None => break,
                Some(Next::Read(ticket)) => {
                    if !self.has_room(slot) {
                        break;
                    }
                    match self.continue_read(id, ticket, now, work) {
                        ReadProgress::Found => continue,
                        ReadProgress::Waits => break,
                        ReadProgress::OutOfWork => {
                            self.defer_drain(self.clients.session_ref(id));
                            break;
                        }
                    }
                }
                Some(Next::Message(front)) => {
                    let is_qos0 = front.delivery.qos == QoS::AtMostOnce;
                    if !self.has_room(slot) || (!is_qos0 && window_is_full) {
                        break;
                    }
                }
            }
            let Some(queued) = self.clients.session_mut(id).and_then(|s| s.queue.pop()) else { return };
            if queued.message.is_expired(now) {
                self.drop_message(slot, queued.message.topic(), Dropped::Expired);
                let durable_id = self.durable_id(slot);
                self.forget_queued(durable_id, &[queued]);
                continue;
            }
            if !self.routing.may_deliver(namespace, &queued.message) {
                self.drop_message(slot, queued.message.topic(), Dropped::Revoked);
                let durable_id = self.durable_id(slot);
                self.forget_queued(durable_id, &[queued]);
                continue;
            }
            self.send_queued(id, slot, queued, now);
        }
        let Some(session) = self.clients.session(id) else { return };
        let connection = session.connection;
        self.report_readiness(id);
        if let Some(slot) = connection
            && self.clients.connection(slot).is_some_and(|c| !c.waiters.is_empty())
        {
            self.resume_waiters_when_drained(slot);
        }
    }

    pub(crate) fn send_queued(&mut self, id: SessionId, slot: ConnectionSlot, queued: Queued, now: Millis) {
        let Queued { message, delivery, sharers, .. } = queued;
        let publish = message.as_publish();
        let mut context = PublishContext::of_message(&message, &publish, Origin::BROKER);
        context.set_sharers(sharers);
        if delivery.qos == QoS::AtMostOnce {
            self.append(slot, &OutgoingPublish { delivery: &delivery, packet_id: None, dup: false }, &mut context, now);
        } else {
            self.send_acknowledged(id, slot, delivery, &mut context, now);
        }
    }
}
