//! Messages to sessions: sent at once, queued, or dropped by a named bound.

use crate::clients::connection::Connection;
use crate::clients::session::Session;
use crate::clients::timers::Timer;
use crate::delivery::fanout_scheduler::{FanoutScheduler, QueueBounds};
use crate::delivery::publish_context::PublishContext;
use crate::delivery::queue::Queued;
use crate::ids::{ConnId, ConnectionSlot, Millis, Origin, RecordId, SessionId};
use crate::limits::{PAUSE_MAX_MS, PENDING_WRITE_LOW_BYTES, SLOW_FOR_MS};
use crate::observe::Site;
use crate::observe::state::Observe;
use crate::values::delivery::{Awaits, Delivery, Sent};
use crate::values::message::Message;
use crate::{Core, Dropped, QueueOverflow, Subject};
use weir_mqtt::{EncodeError, PacketId, QoS, ReasonCode};

/// How a message is sent to one receiver.
struct Packet<'a> {
    delivery: &'a Delivery,
    packet_id: Option<PacketId>,
    dup: bool,
}

/// Writes a PUBLISH into a connection's out buffer. `false`: it is too large for the client.
fn append_to(
    (id, connection): (ConnId, &mut Connection),
    packet: &Packet<'_>,
    context: &mut PublishContext<'_>,
    (scheduler, observe): (&mut FanoutScheduler, &mut Observe),
    now: Millis,
) -> bool {
    scheduler.prepare(&mut connection.outlet);
    let Some(length) = context.append(connection.receiver(), packet.delivery, packet.packet_id, packet.dup, now) else {
        return false;
    };
    connection.messages_sent += 1;
    let counters = observe.endpoint(connection.endpoint);
    counters.messages_sent += 1;
    counters.bytes_sent += length as u64;
    scheduler.appended(id, &mut connection.outlet);
    true
}

impl Core {
    /// Sends a message to a session, as far as its window, its socket and its queue allow.
    pub(crate) fn deliver(&mut self, to: SessionId, delivery: Delivery, context: &mut PublishContext<'_>, now: Millis) {
        let Some(session) = self.clients.session(to) else { return self.observe.note(Site::SessionOfSubscription) };
        match session.connection {
            Some(slot) if !session.must_queue(delivery.qos) => {
                if delivery.qos == QoS::AtMostOnce {
                    self.send_qos0(slot, &delivery, context, now);
                } else if session.inflight.len() < self.window(slot, session) && self.has_room(slot) {
                    self.send_acknowledged(to, slot, delivery, context, now);
                } else {
                    self.enqueue(to, delivery, context, now);
                }
            }
            None if delivery.qos == QoS::AtMostOnce => {}
            _ => self.enqueue(to, delivery, context, now),
        }
    }

    /// How many messages may be unacknowledged: the client's Receive Maximum [MQTT-4.9.0-1] and the endpoint's bound.
    fn window(&self, slot: ConnectionSlot, session: &Session) -> usize {
        let client = self.clients.connection(slot).map_or(0, |c| c.receive_maximum);
        usize::from(client.min(session.policy.limits.max_inflight))
    }

    fn has_room(&self, slot: ConnectionSlot) -> bool {
        self.clients.connection(slot).is_some_and(|c| c.outlet.out.len() < self.scheduler.write_bounds().high_bytes)
    }

    fn send_qos0(&mut self, slot: ConnectionSlot, delivery: &Delivery, context: &mut PublishContext<'_>, now: Millis) {
        let bounds = self.scheduler.write_bounds();
        let Some((generation, connection)) = self.clients.connection_entry(slot) else {
            return self.observe.note(Site::ConnectionOfSession);
        };
        let waiting = connection.outlet.out.len();
        if waiting < bounds.high_bytes {
            let packet = Packet { delivery, packet_id: None, dup: false };
            let to = (ConnId { slot, generation }, connection);
            if !append_to(to, &packet, context, (&mut self.scheduler, &mut self.observe), now) {
                self.drop_message(slot, Dropped::TooLarge);
            }
        } else if now < connection.slow_until || waiting >= bounds.max_bytes {
            self.drop_message(slot, Dropped::Slow);
        } else {
            self.pause_publisher(slot, context.origin, now);
            self.append(slot, &Packet { delivery, packet_id: None, dup: false }, context, now);
        }
    }

    /// Writes the PUBLISH into the connection's out buffer. `false`: it is too large for the client.
    fn append(
        &mut self,
        slot: ConnectionSlot,
        packet: &Packet<'_>,
        context: &mut PublishContext<'_>,
        now: Millis,
    ) -> bool {
        let Some((generation, connection)) = self.clients.connection_entry(slot) else {
            self.observe.note(Site::ConnectionOfSession);
            return false;
        };
        let to = (ConnId { slot, generation }, connection);
        let fits = append_to(to, packet, context, (&mut self.scheduler, &mut self.observe), now);
        if !fits {
            self.drop_message(slot, Dropped::TooLarge);
        }
        fits
    }

    fn send_acknowledged(
        &mut self,
        to: SessionId,
        slot: ConnectionSlot,
        delivery: Delivery,
        context: &mut PublishContext<'_>,
        now: Millis,
    ) {
        let Some(session) = self.clients.session_mut(to) else { return self.observe.note(Site::SessionOfSubscription) };
        let packet_id = session.inflight.allocate();
        let keep = session.outlives_connection() || delivery.group.is_some();
        let owner = session.durable.as_ref().map(|durable| durable.id);
        let mut delivery = delivery;
        if let Some(owner) = owner {
            self.record_sent(owner, slot, &mut delivery, packet_id, context);
        }
        if !self.append(
            slot,
            &Packet { delivery: &delivery, packet_id: Some(packet_id), dup: delivery.again },
            context,
            now,
        ) {
            if let Some(owner) = owner {
                self.journal.forget_delivery(owner, &delivery, Some(&context.store()));
            }
            return;
        }
        let awaits = if delivery.qos == QoS::ExactlyOnce { Awaits::Received } else { Awaits::Ack };
        let message = keep.then(|| context.store());
        if let Some(session) = self.clients.session_mut(to) {
            session.inflight.push(Sent { packet_id, awaits, message, delivery, unsent: false });
        }
        self.report_readiness(to);
    }

    /// Records a message that a durable session is about to be sent. Its packet identifier is recorded with it where it
    /// is new; that of a QoS 2 message always, and before the client sees it: the client knows the message by it.
    fn record_sent(
        &mut self,
        owner: RecordId,
        slot: ConnectionSlot,
        delivery: &mut Delivery,
        packet_id: PacketId,
        context: &mut PublishContext<'_>,
    ) {
        if !delivery.record.is_some() {
            let message = self.message_for_record(context, delivery.qos);
            self.journal.record_delivery(owner, delivery, &message, Some(packet_id));
        } else if delivery.qos == QoS::ExactlyOnce {
            self.journal.record_delivery(owner, delivery, &context.store(), Some(packet_id));
        }
        if delivery.qos == QoS::ExactlyOnce {
            self.gate(slot);
        }
    }

    fn enqueue(&mut self, to: SessionId, delivery: Delivery, context: &mut PublishContext<'_>, now: Millis) {
        let durable = delivery.qos > QoS::AtMostOnce && self.clients.session(to).is_some_and(|s| s.durable.is_some());
        let message = if durable { self.message_for_record(context, delivery.qos) } else { context.store() };
        let queued = Queued { message, delivery, retained: false, sharers: context.receivers() };
        self.enqueue_message(to, queued, context.origin, now);
    }

    /// Queues a message to its bound; beyond it, what the endpoint declares goes.
    pub(crate) fn enqueue_message(&mut self, to: SessionId, mut queued: Queued, origin: Origin, now: Millis) {
        let Some(session) = self.clients.session_mut(to) else { return self.observe.note(Site::SessionOfSubscription) };
        let owner = session.durable.as_ref().map(|durable| durable.id);
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
                self.count_dropped(id, Dropped::QueueFull, dropped.len() as u64 + 1);
                return self.forget_queued(owner, &dropped);
            }
        }
        if owner.is_some() {
            self.forget_queued(owner, &dropped);
            self.record_queued(to, &mut queued);
        }
        let dropped = dropped.len() as u64;
        let Some(session) = self.clients.session_mut(to) else { return self.observe.note(Site::SessionOfSubscription) };
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
    pub(crate) fn forget_queued(&mut self, owner: Option<RecordId>, dropped: &[Queued]) {
        let Some(owner) = owner else { return };
        dropped.iter().for_each(|queued| self.journal.forget_delivery(owner, &queued.delivery, Some(&queued.message)));
    }

    fn count_dropped(&mut self, endpoint: crate::EndpointId, why: Dropped, count: u64) {
        let index = self.observe.index_of(endpoint);
        self.observe.count_dropped(index, why, count);
    }

    /// Counts a message that a connection did not get.
    pub(crate) fn drop_message(&mut self, slot: ConnectionSlot, why: Dropped) {
        if let Some(connection) = self.clients.connection(slot) {
            self.observe.endpoint(connection.endpoint).dropped[why as usize] += 1;
            // The others are the publisher's loss, not this receiver's.
            if !matches!(why, Dropped::NotAuthorized | Dropped::Invalid | Dropped::NoMember)
                && let Some(session) = self.clients.session_mut(connection.session)
            {
                session.dropped = session.dropped.saturating_add(1);
            }
        }
    }

    /// Counts what an acl refused a connection.
    pub(crate) fn count_unauthorized(&mut self, slot: ConnectionSlot) {
        if let Some(connection) = self.clients.connection(slot) {
            self.observe.endpoint(connection.endpoint).authorization_failures += 1;
        }
    }

    /// A receiver is behind: reading from its publisher pauses until it has caught up, or until the pause's deadline; after
    /// that the receiver counts as slow, and no publisher is paused for it.
    fn pause_publisher(&mut self, slot: ConnectionSlot, origin: Origin, now: Millis) {
        let generation = self.clients.generation(slot);
        let Some(connection) = self.clients.connection_mut(slot) else {
            return self.observe.note(Site::ConnectionOfSession);
        };
        if now < connection.slow_until || origin == Origin::BROKER || connection.waiters.contains(&origin) {
            return;
        }
        if origin.shard == self.config.shard && origin.connection.slot == slot {
            // A publisher that is its own slow receiver would wait for itself.
            return;
        }
        connection.waiters.push(origin);
        if connection.waiters.len() == 1 {
            self.clients.set_timer(now + PAUSE_MAX_MS, Timer::Pause(ConnId { slot, generation }));
        }
        self.pause(origin);
    }

    /// The pause's deadline: the publishers that wait go on.
    pub(crate) fn on_pause_deadline(&mut self, connection: ConnId, now: Millis) {
        if let Some(slow) = self.clients.open(connection)
            && !slow.waiters.is_empty()
        {
            slow.slow_until = now + SLOW_FOR_MS;
            self.resume_waiters(connection.slot);
        }
    }

    /// Resumes the publishers that wait for a connection.
    pub(crate) fn resume_waiters(&mut self, slot: ConnectionSlot) {
        let waiters = self.clients.connection_mut(slot).map(|c| std::mem::take(&mut c.waiters)).unwrap_or_default();
        waiters.into_iter().for_each(|origin| self.resume(origin));
    }

    /// See [`Core::written`].
    pub(crate) fn on_written(&mut self, slot: ConnectionSlot, now: Millis) {
        let Some(connection) = self.clients.connection_mut(slot) else {
            return self.observe.note(Site::ConnectionOfSession);
        };
        self.scheduler.written(&mut connection.outlet);
        let behind = connection.outlet.out.len() > PENDING_WRITE_LOW_BYTES || connection.closing;
        if behind {
            return;
        }
        let Some(connection) = self.clients.connection(slot) else {
            return self.observe.note(Site::ConnectionOfSession);
        };
        let (session, has_waiters) = (connection.session, !connection.waiters.is_empty());
        let queued = self.clients.session(session).is_some_and(|s| !s.queue.is_empty());
        if queued {
            // It had so much to write that the rest had to queue: others come first.
            self.scheduler.end_priority();
            self.drain_queue(session, now);
        }
        if has_waiters {
            self.resume_waiters_when_drained(slot);
        }
    }

    /// Waiters go on when both the socket and the queue are well below their bounds again.
    fn resume_waiters_when_drained(&mut self, slot: ConnectionSlot) {
        let Some(connection) = self.clients.connection(slot) else {
            return self.observe.note(Site::ConnectionOfSession);
        };
        let Some(session) = self.clients.session(connection.session) else {
            return self.observe.note(Site::SessionOfConnection);
        };
        let limits = &session.policy.limits;
        let low = session.queue.counted() <= limits.max_queued_messages / 4
            && session.queue.bytes() <= limits.max_queued_bytes / 4;
        if low && connection.outlet.out.len() <= PENDING_WRITE_LOW_BYTES {
            self.resume_waiters(slot);
        }
    }

    /// Moves what is queued into the window and the out buffer, as far as there is room.
    pub(crate) fn drain_queue(&mut self, id: SessionId, now: Millis) {
        loop {
            // Its connection may have been closed by an answer, and the session have ended with it.
            let Some(session) = self.clients.session(id) else { return };
            let Some(slot) = session.connection else { return };
            let namespace = session.namespace;
            if session.has_pending_subscribe() {
                return;
            }
            let Some(front) = session.queue.front() else { break };
            let qos0 = front.delivery.qos == QoS::AtMostOnce;
            if !self.has_room(slot) || (!qos0 && session.inflight.len() >= self.window(slot, session)) {
                break;
            }
            let Some(queued) = self.clients.session_mut(id).and_then(|s| s.queue.pop()) else { return };
            if queued.message.is_expired(now) {
                self.drop_message(slot, Dropped::Expired);
                let owner = self.durable_of(slot);
                self.forget_queued(owner, &[queued]);
                continue;
            }
            if !self.routing.may_deliver(namespace, &queued.message) {
                self.drop_message(slot, Dropped::Revoked);
                let owner = self.durable_of(slot);
                self.forget_queued(owner, &[queued]);
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

    fn send_queued(&mut self, id: SessionId, slot: ConnectionSlot, queued: Queued, now: Millis) {
        let Queued { message, delivery, .. } = queued;
        let publish = message.as_publish();
        let mut context = PublishContext::of(&message, &publish, Origin::BROKER);
        if delivery.qos == QoS::AtMostOnce {
            self.append(slot, &Packet { delivery: &delivery, packet_id: None, dup: false }, &mut context, now);
        } else {
            self.send_acknowledged(id, slot, delivery, &mut context, now);
        }
    }

    /// After a reconnect: what was sent and not acknowledged goes out again, as it was and in order [MQTT-4.4.0-1]
    /// [MQTT-4.6.0-1], then what is queued.
    pub(crate) fn resend(&mut self, id: SessionId, slot: ConnectionSlot, now: Millis) {
        let Some(session) = self.clients.session(id) else { return };
        let window = self.window(slot, session);
        let sent: Vec<Sent> = self.clients.session_mut(id).map(|s| s.inflight.drain().collect()).unwrap_or_default();
        let mut kept = Vec::with_capacity(sent.len());
        for mut entry in sent {
            entry.unsent = kept.len() >= window;
            if entry.unsent || self.send_again(slot, &entry, now) {
                kept.push(entry);
            } else if let Some(owner) = self.durable_of(slot) {
                self.journal.forget_sent(owner, &entry);
            }
        }
        if let Some(session) = self.clients.session_mut(id) {
            kept.into_iter().for_each(|entry| session.inflight.push(entry));
        }
        self.drain_queue(id, now);
    }

    /// Whether the client, as whom it is connected now, may be sent what was sent before.
    fn may_receive(&self, slot: ConnectionSlot, topic: &str) -> bool {
        let Some(connection) = self.clients.connection(slot) else { return false };
        let Some(session) = self.clients.session(connection.session) else { return false };
        let principal = &connection.principal;
        let (username, address) = (principal.username.as_deref(), principal.address);
        let subject = Subject { client_id: &session.client_id, username, address };
        let acls = [&connection.policy.acl, &principal.claims_acl];
        acls.into_iter().flatten().all(|acl| acl.may_receive(subject, topic))
    }

    /// Sends a message again, or goes on with its exchange. `false`: it is nothing for this client any more.
    fn send_again(&mut self, slot: ConnectionSlot, sent: &Sent, now: Millis) -> bool {
        let Some(version) = self.clients.connection(slot).map(|c| c.version) else { return false };
        if sent.awaits != Awaits::Ack {
            self.gate_durable(slot);
        }
        if sent.awaits == Awaits::Complete {
            self.write(slot, |out| {
                weir_mqtt::pubrel(out, version, sent.packet_id, ReasonCode::Success);
                Ok(())
            });
            return true;
        }
        let Some(message) = &sent.message else { return false };
        if !self.may_receive(slot, message.topic()) {
            return false;
        }
        let publish = message.as_publish();
        let mut context = PublishContext::of(message, &publish, Origin::BROKER);
        let packet = Packet { delivery: &sent.delivery, packet_id: Some(sent.packet_id), dup: true };
        self.append(slot, &packet, &mut context, now)
    }

    /// The window moved on: what a resend had to leave goes first, then what is queued.
    pub(crate) fn advance(&mut self, id: SessionId, now: Millis) {
        while let Some((slot, next)) = self.next_unsent(id) {
            if !self.send_again(slot, &next, now)
                && let Some(session) = self.clients.session_mut(id)
            {
                session.inflight.remove(next.packet_id);
                if let Some(owner) = self.durable_of(slot) {
                    self.journal.forget_sent(owner, &next);
                }
            }
        }
        let Some(session) = self.clients.session_mut(id) else { return };
        if session.queue.is_empty() {
            session.inflight.release();
            self.report_readiness(id);
        } else {
            self.drain_queue(id, now);
        }
    }

    /// The oldest message that a resend had to leave, where the window has room for it now.
    fn next_unsent(&mut self, id: SessionId) -> Option<(ConnectionSlot, Sent)> {
        let session = self.clients.session(id)?;
        let slot = session.connection?;
        if session.inflight.all_sent() || session.inflight.outstanding() >= self.window(slot, session) {
            return None;
        }
        let next = self.clients.session_mut(id)?.inflight.next_unsent()?;
        Some((slot, next))
    }

    /// Appends a packet to a connection's out buffer; closes a connection that does not read its acknowledgements.
    pub(crate) fn write(&mut self, slot: ConnectionSlot, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) {
        self.write_out(slot, false, encode);
    }

    /// The same, for what goes out before what is gated there.
    pub(crate) fn write_past_gates(
        &mut self,
        slot: ConnectionSlot,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) {
        self.write_out(slot, true, encode);
    }

    fn write_out(
        &mut self,
        slot: ConnectionSlot,
        past_gates: bool,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) {
        let Some((generation, connection)) = self.clients.connection_entry(slot).filter(|(_, c)| !c.closing) else {
            return;
        };
        self.scheduler.prepare(&mut connection.outlet);
        let buffer = connection.outlet.out.buffer();
        let start = buffer.len();
        // A packet above the client's Maximum Packet Size is not sent [MQTT-3.1.2-24]. The client cannot go on without
        // this one, so the connection is closed.
        let unfit = encode(buffer).is_err() || buffer.len() - start > connection.maximum_packet_size as usize;
        if unfit {
            buffer.truncate(start);
            return self.close(slot);
        }
        if past_gates {
            connection.outlet.out.move_before_gates(start);
        }
        let waiting = connection.outlet.out.len();
        self.scheduler.appended(ConnId { slot, generation }, &mut connection.outlet);
        if waiting > self.scheduler.write_bounds().max_bytes {
            self.close(slot);
        }
    }
}

impl Message {
    /// The message as a PUBLISH to be encoded.
    pub(crate) fn as_publish(&self) -> weir_mqtt::Publish<'_> {
        weir_mqtt::Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic(),
            packet_id: None,
            properties: weir_mqtt::PublishProperties { raw: self.properties(), ..Default::default() },
            payload: self.payload(),
        }
    }
}
