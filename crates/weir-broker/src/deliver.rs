//! Messages to sessions: sent at once, queued, or dropped by a named bound.

use super::connection::Origin;
use super::crowd::{QueueBounds, queue_bounds};
use super::inflight::{Awaits, Delivery, Sent};
use super::limits::{PAUSE_MAX_MS, PENDING_WRITE_LOW_BYTES, SLOW_FOR_MS};
use super::message::Message;
use super::record::RecordId;
use super::session::{Queued, Session};
use super::subscriptions::SessionId;
use super::timers::Timer;
use super::view::View;
use super::{ConnId, Core, Dropped, Millis, QueueOverflow, Subject};
use weir_mqtt::{EncodeError, PacketId, QoS, ReasonCode};

impl Core {
    /// Sends a message to a session, as far as its window, its socket and its queue allow.
    pub(super) fn deliver(&mut self, to: SessionId, delivery: Delivery, view: &mut View<'_>, now: Millis) {
        let Some(session) = self.sessions.get(to) else { return };
        match session.connection {
            Some(slot) if !session.must_queue(delivery.qos) => {
                if delivery.qos == QoS::AtMostOnce {
                    self.send_qos0(slot, &delivery, view, now);
                } else if session.inflight.len() < self.window(slot, session) && self.has_room(slot) {
                    self.send_acknowledged(to, slot, delivery, view, now);
                } else {
                    self.enqueue(to, delivery, view, now);
                }
            }
            None if delivery.qos == QoS::AtMostOnce => {}
            _ => self.enqueue(to, delivery, view, now),
        }
    }

    /// How many messages may be unacknowledged: the client's Receive Maximum [MQTT-4.9.0-1] and the endpoint's bound.
    fn window(&self, slot: u32, session: &Session) -> usize {
        let client = self.connections.get(slot).map_or(0, |c| c.receive_maximum);
        usize::from(client.min(session.policy.limits.max_inflight))
    }

    fn has_room(&self, slot: u32) -> bool {
        self.connections.get(slot).is_some_and(|c| c.out.len() < self.write_bounds().high_bytes)
    }

    fn send_qos0(&mut self, slot: u32, delivery: &Delivery, view: &mut View<'_>, now: Millis) {
        let bounds = self.write_bounds();
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let waiting = connection.out.len();
        if waiting >= bounds.high_bytes {
            if now < connection.slow_until || waiting >= bounds.max_bytes {
                self.drop_message(slot, Dropped::Slow);
                return;
            }
            self.hold_up(slot, view.origin, now);
        }
        self.append(slot, delivery, None, false, view, now);
    }

    /// Writes the PUBLISH into the connection's out buffer. `false`: it is too large for the client.
    fn append(
        &mut self,
        slot: u32,
        delivery: &Delivery,
        packet_id: Option<weir_mqtt::PacketId>,
        dup: bool,
        view: &mut View<'_>,
        now: Millis,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(slot) else { return false };
        if connection.out.is_bare() {
            connection.out.lend(self.pool.take());
        }
        match view.append(connection, delivery, packet_id, dup, now) {
            Some(length) => {
                connection.messages_sent += 1;
                let counters = &mut self.counters[connection.endpoint as usize];
                counters.messages_sent += 1;
                counters.bytes_sent += length as u64;
                let dirty = connection.dirty;
                self.count_buffer(slot);
                if !dirty {
                    self.mark_dirty(slot);
                }
                true
            }
            None => {
                self.drop_message(slot, Dropped::TooLarge);
                false
            }
        }
    }

    fn send_acknowledged(&mut self, to: SessionId, slot: u32, delivery: Delivery, view: &mut View<'_>, now: Millis) {
        let Some(session) = self.sessions.get_mut(to) else { return };
        let packet_id = session.inflight.allocate();
        let keep = session.outlives_connection() || delivery.group.is_some();
        let owner = session.durable.as_ref().map(|durable| durable.id);
        let mut delivery = delivery;
        if let Some(owner) = owner {
            self.record_sent(owner, slot, &mut delivery, packet_id, view);
        }
        if !self.append(slot, &delivery, Some(packet_id), delivery.again, view, now) {
            if let Some(owner) = owner {
                self.forget_delivery(owner, &delivery, Some(&view.store()));
            }
            return;
        }
        let awaits = if delivery.qos == QoS::ExactlyOnce { Awaits::Received } else { Awaits::Ack };
        let message = keep.then(|| view.store());
        if let Some(session) = self.sessions.get_mut(to) {
            session.inflight.push(Sent { packet_id, awaits, message, delivery, unsent: false });
        }
        self.tell_readiness(to);
    }

    /// Records a message that a durable session is about to be sent. Its packet identifier is recorded with it where it
    /// is new; that of a QoS 2 message always, and before the client sees it: the client knows the message by it.
    fn record_sent(
        &mut self,
        owner: RecordId,
        slot: u32,
        delivery: &mut Delivery,
        packet_id: PacketId,
        view: &mut View<'_>,
    ) {
        if !delivery.record.is_some() {
            let message = self.message_for_record(view, delivery.qos);
            self.record_delivery(owner, delivery, &message, Some(packet_id));
        } else if delivery.qos == QoS::ExactlyOnce {
            self.record_delivery(owner, delivery, &view.store(), Some(packet_id));
        }
        if delivery.qos == QoS::ExactlyOnce {
            self.hold(slot);
        }
    }

    fn enqueue(&mut self, to: SessionId, delivery: Delivery, view: &mut View<'_>, now: Millis) {
        let durable = delivery.qos > QoS::AtMostOnce && self.sessions.get(to).is_some_and(|s| s.durable.is_some());
        let message = if durable { self.message_for_record(view, delivery.qos) } else { view.store() };
        let queued = Queued { message, delivery, retained: false, sharers: view.receivers() };
        self.enqueue_message(to, queued, view.origin, now);
    }

    /// Queues a message to its bound; beyond it, what the endpoint declares goes.
    pub(super) fn enqueue_message(&mut self, to: SessionId, mut queued: Queued, origin: Origin, now: Millis) {
        let Some(session) = self.sessions.get_mut(to) else { return };
        let owner = session.durable.as_ref().map(|durable| durable.id);
        let size = queued.message.size() as u64;
        let QueueBounds { messages, bytes } =
            queue_bounds(session, size, self.queued_bytes.get() > self.queued_max_bytes);
        let over = |queue: &super::session::Queue| queue.counted() >= messages || queue.bytes() + size > bytes;
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
        let Some(session) = self.sessions.get_mut(to) else { return };
        session.queue.push(queued);
        let limits = &session.policy.limits;
        let (messages, bytes) = (limits.max_queued_messages, limits.max_queued_bytes);
        let half_full = session.queue.counted() > messages / 2 || session.queue.bytes() > bytes / 2;
        let (id, connection) = (session.policy.id, session.connection);
        self.count_dropped(id, Dropped::QueueFull, dropped);
        if let (true, Some(slot)) = (half_full, connection) {
            self.hold_up(slot, origin, now);
        }
        self.tell_readiness(to);
    }

    /// Queued messages of a durable session that it does not get.
    pub(super) fn forget_queued(&mut self, owner: Option<RecordId>, dropped: &[Queued]) {
        let Some(owner) = owner else { return };
        dropped.iter().for_each(|queued| self.forget_delivery(owner, &queued.delivery, Some(&queued.message)));
    }

    fn count_dropped(&mut self, endpoint: super::EndpointId, why: Dropped, count: u64) {
        let place = self.endpoint_place(endpoint);
        self.counters[place as usize].dropped[why as usize] += count;
    }

    /// Counts a message that a connection did not get.
    pub(super) fn drop_message(&mut self, slot: u32, why: Dropped) {
        if let Some(connection) = self.connections.get(slot) {
            self.counters[connection.endpoint as usize].dropped[why as usize] += 1;
            // The others are the publisher's loss, not this receiver's.
            if !matches!(why, Dropped::NotAuthorized | Dropped::Invalid | Dropped::NoMember)
                && let Some(session) = self.sessions.get_mut(connection.session)
            {
                session.dropped = session.dropped.saturating_add(1);
            }
        }
    }

    /// Counts what an acl refused a connection.
    pub(super) fn count_unauthorized(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get(slot) {
            self.counters[connection.endpoint as usize].authorization_failures += 1;
        }
    }

    /// A receiver is behind: its publisher's reading pauses until it has caught up, or until the pause's deadline; after
    /// that the receiver counts as slow, and nobody pauses for it.
    fn hold_up(&mut self, slot: u32, origin: Origin, now: Millis) {
        let generation = self.connections.generation(slot);
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if now < connection.slow_until || origin == Origin::NOBODY || connection.waiters.contains(&origin) {
            return;
        }
        if origin.shard == self.config.shard && origin.connection.slot == slot {
            // A publisher that is its own slow receiver would wait for itself.
            return;
        }
        if connection.waiters.is_empty() {
            self.timers.push(now + PAUSE_MAX_MS, Timer::Pause(ConnId { slot, generation }));
        }
        connection.waiters.push(origin);
        self.pause(origin);
    }

    /// The pause's deadline: whoever waits goes on.
    pub(super) fn pause_is_over(&mut self, connection: ConnId, now: Millis) {
        if let Some(slow) = self.connections.get_generation(connection.slot, connection.generation)
            && !slow.waiters.is_empty()
        {
            slow.slow_until = now + SLOW_FOR_MS;
            self.let_go(connection.slot);
        }
    }

    /// Lets the publishers go on that wait for a connection.
    pub(super) fn let_go(&mut self, slot: u32) {
        let waiters = self.connections.get_mut(slot).map(|c| std::mem::take(&mut c.waiters)).unwrap_or_default();
        waiters.into_iter().for_each(|origin| self.resume(origin));
    }

    /// See [`Core::written`].
    pub(super) fn was_written(&mut self, slot: u32, now: Millis) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        if let Some(buffer) = connection.out.reclaim() {
            self.pool.give_back(buffer);
        } else {
            connection.out.compact();
        }
        let behind = connection.out.len() > PENDING_WRITE_LOW_BYTES || connection.closing;
        self.count_buffer(slot);
        if behind {
            return;
        }
        let Some(connection) = self.connections.get(slot) else { return };
        let (session, has_waiters) = (connection.session, !connection.waiters.is_empty());
        let queued = self.sessions.get(session).is_some_and(|s| !s.queue.is_empty());
        if queued {
            // It had so much to take that the rest had to line up: others come first.
            self.prompt_deliveries = 0;
            self.pump(session, now);
        }
        if has_waiters {
            self.release_waiters(slot);
        }
    }

    /// Waiters go on when both the socket and the queue are well below their bounds again.
    fn release_waiters(&mut self, slot: u32) {
        let Some(connection) = self.connections.get(slot) else { return };
        let Some(session) = self.sessions.get(connection.session) else { return };
        let limits = &session.policy.limits;
        let low = session.queue.counted() <= limits.max_queued_messages / 4
            && session.queue.bytes() <= limits.max_queued_bytes / 4;
        if low && connection.out.len() <= PENDING_WRITE_LOW_BYTES {
            self.let_go(slot);
        }
    }

    /// Moves what is queued into the window and the out buffer, as far as there is room.
    pub(super) fn pump(&mut self, id: SessionId, now: Millis) {
        loop {
            let Some(session) = self.sessions.get(id) else { return };
            let Some(slot) = session.connection else { return };
            let space = session.space;
            if session.has_pending_subscribe() {
                return;
            }
            let Some(front) = session.queue.front() else { break };
            let qos0 = front.delivery.qos == QoS::AtMostOnce;
            if !self.has_room(slot) || (!qos0 && session.inflight.len() >= self.window(slot, session)) {
                break;
            }
            let Some(queued) = self.sessions.get_mut(id).and_then(|s| s.queue.pop()) else { return };
            if queued.message.is_expired(now) {
                self.drop_message(slot, Dropped::Expired);
                let owner = self.durable_of(slot);
                self.forget_queued(owner, &[queued]);
                continue;
            }
            if !self.may_give_out(space, &queued.message) {
                self.drop_message(slot, Dropped::Revoked);
                let owner = self.durable_of(slot);
                self.forget_queued(owner, &[queued]);
                continue;
            }
            self.send_queued(id, slot, queued, now);
        }
        let Some(session) = self.sessions.get(id) else { return };
        let connection = session.connection;
        self.tell_readiness(id);
        if let Some(slot) = connection
            && self.connections.get(slot).is_some_and(|c| !c.waiters.is_empty())
        {
            self.release_waiters(slot);
        }
    }

    fn send_queued(&mut self, id: SessionId, slot: u32, queued: Queued, now: Millis) {
        let Queued { message, delivery, .. } = queued;
        let publish = message.as_publish();
        let mut view = View::of(&message, &publish, Origin::NOBODY);
        if delivery.qos == QoS::AtMostOnce {
            self.append(slot, &delivery, None, false, &mut view, now);
        } else {
            self.send_acknowledged(id, slot, delivery, &mut view, now);
        }
    }

    /// After a reconnect: what was sent and not acknowledged goes out again, as it was and in order [MQTT-4.4.0-1]
    /// [MQTT-4.6.0-1], then what is queued.
    pub(super) fn resend(&mut self, id: SessionId, slot: u32, now: Millis) {
        let Some(session) = self.sessions.get(id) else { return };
        let window = self.window(slot, session);
        let sent: Vec<Sent> = self.sessions.get_mut(id).map(|s| s.inflight.drain().collect()).unwrap_or_default();
        let mut kept = Vec::with_capacity(sent.len());
        for mut entry in sent {
            entry.unsent = kept.len() >= window;
            if entry.unsent || self.send_again(slot, &entry, now) {
                kept.push(entry);
            } else if let Some(owner) = self.durable_of(slot) {
                self.forget_sent(owner, &entry);
            }
        }
        if let Some(session) = self.sessions.get_mut(id) {
            kept.into_iter().for_each(|entry| session.inflight.push(entry));
        }
        self.pump(id, now);
    }

    /// Whether the client, as whom it is connected now, may be sent what was sent before.
    fn may_receive(&self, slot: u32, topic: &str) -> bool {
        let Some(connection) = self.connections.get(slot) else { return false };
        let Some(session) = self.sessions.get(connection.session) else { return false };
        let principal = &connection.principal;
        let (username, address) = (principal.username.as_deref(), principal.address);
        let subject = Subject { client_id: &session.client_id, username, address };
        let acls = [&connection.policy.acl, &principal.claims_acl];
        acls.into_iter().flatten().all(|acl| acl.may_receive(subject, topic))
    }

    /// Sends a message again, or goes on with its exchange. `false`: it is nothing for this client any more.
    fn send_again(&mut self, slot: u32, sent: &Sent, now: Millis) -> bool {
        let Some(version) = self.connections.get(slot).map(|c| c.version) else { return false };
        if sent.awaits != Awaits::Ack {
            self.hold_durable(slot);
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
        let mut view = View::of(message, &publish, Origin::NOBODY);
        self.append(slot, &sent.delivery, Some(sent.packet_id), true, &mut view, now)
    }

    /// The window moved on: what a resend had to leave goes first, then what is queued.
    pub(super) fn advance(&mut self, id: SessionId, now: Millis) {
        while let Some((slot, next)) = self.next_unsent(id) {
            if !self.send_again(slot, &next, now)
                && let Some(session) = self.sessions.get_mut(id)
            {
                session.inflight.remove(next.packet_id);
                if let Some(owner) = self.durable_of(slot) {
                    self.forget_sent(owner, &next);
                }
            }
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        if session.queue.is_empty() {
            session.inflight.release();
            self.tell_readiness(id);
        } else {
            self.pump(id, now);
        }
    }

    /// The oldest message that a resend had to leave, where the window has room for it now.
    fn next_unsent(&mut self, id: SessionId) -> Option<(u32, Sent)> {
        let session = self.sessions.get(id)?;
        let slot = session.connection?;
        if session.inflight.all_sent() || session.inflight.outstanding() >= self.window(slot, session) {
            return None;
        }
        let next = self.sessions.get_mut(id)?.inflight.next_unsent()?;
        Some((slot, next))
    }

    /// Appends a packet to a connection's out buffer; closes a connection that does not read what it must be told.
    pub(super) fn write(&mut self, slot: u32, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) {
        self.write_packet_to(slot, false, encode);
    }

    /// The same, for what has nothing to do with what is held back there.
    pub(super) fn write_past_holds(&mut self, slot: u32, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) {
        self.write_packet_to(slot, true, encode);
    }

    fn write_packet_to(
        &mut self,
        slot: u32,
        past_holds: bool,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) {
        let Some(connection) = self.connections.get_mut(slot).filter(|c| !c.closing) else { return };
        if connection.out.is_bare() {
            connection.out.lend(self.pool.take());
        }
        let buffer = connection.out.buffer();
        let start = buffer.len();
        // What is larger than the client takes is not sent [MQTT-3.1.2-24]; without it the client cannot go on.
        let unfit = encode(buffer).is_err() || buffer.len() - start > connection.maximum_packet_size as usize;
        if unfit {
            buffer.truncate(start);
            return self.close(slot);
        }
        if past_holds {
            connection.out.pass(start);
        }
        let (dirty, waiting) = (connection.dirty, connection.out.len());
        self.count_buffer(slot);
        if !dirty {
            self.mark_dirty(slot);
        }
        if waiting > self.write_bounds().max_bytes {
            self.close(slot);
        }
    }
}

impl Message {
    /// The message as a PUBLISH to be encoded.
    pub(super) fn as_publish(&self) -> weir_mqtt::Publish<'_> {
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
