//! Messages to sessions: sent at once, queued, or dropped by a named bound.

use crate::clients::connection::Connection;
use crate::clients::session::Session;
use crate::delivery::fanout_scheduler::FanoutScheduler;
use crate::delivery::publish_context::PublishContext;
use crate::ids::{ConnId, ConnectionSlot, Millis, RecordId, SessionId};
use crate::limits::CONGESTED_QUEUED_BYTES;
use crate::observe::Site;
use crate::observe::events::{CoreEventDetail, CoreEventKind, Ended, RefusedAction};
use crate::observe::state::Observe;
use crate::values::delivery::{Awaits, Delivery, Sent};
use crate::{Core, Dropped, MemoryKind};
use weir_mqtt::{EncodeError, PacketId, QoS, ReasonCode};

/// How a message is sent to one receiver.
pub(super) struct OutgoingPublish<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) packet_id: Option<PacketId>,
    pub(super) dup: bool,
}

/// Writes a PUBLISH into a connection's out buffer.
///
/// # Errors
/// It is too large for the client.
fn append_to(
    (id, connection): (ConnId, &mut Connection),
    packet: &OutgoingPublish<'_>,
    context: &mut PublishContext<'_>,
    (scheduler, observe): (&mut FanoutScheduler, &mut Observe),
    now: Millis,
) -> Result<(), Dropped> {
    scheduler.prepare(&mut connection.outlet);
    let receiver = connection.receiver();
    let length = context.append(receiver, packet.delivery, packet.packet_id, packet.dup, now);
    let length = length.ok_or(Dropped::TooLarge)?;
    connection.messages_sent += 1;
    let counters = observe.endpoint(connection.endpoint);
    counters.messages_sent += 1;
    counters.bytes_sent += length as u64;
    scheduler.appended(id, &mut connection.outlet);
    Ok(())
}

impl Core {
    /// Sends a message to a session, as far as its window, its socket and its queue allow.
    pub(crate) fn deliver(&mut self, to: SessionId, delivery: Delivery, context: &mut PublishContext<'_>, now: Millis) {
        let Some(session) = self.clients.session(to) else {
            return self.observe.count_error(Site::SessionOfSubscription);
        };
        match session.connection {
            _ if session.ending => {}
            Some(slot) if !session.must_queue(delivery.qos) => {
                if context.publish.qos == QoS::ExactlyOnce && context.origin.is_session(self.config.shard, to) {
                    self.gate_behind_pubrec(slot);
                }
                let Some(session) = self.clients.session(to) else { return };
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
    pub(super) fn window(&self, slot: ConnectionSlot, session: &Session) -> usize {
        let client = self.clients.connection(slot).map_or(0, |c| c.receive_maximum);
        let most = usize::from(client.min(session.policy.limits.max_inflight));
        // What is sent is kept until it is acknowledged: no more of it where all together hold too much.
        let is_congested =
            self.scheduler.queues_are_full() && session.inflight.memory_bytes() as u64 >= CONGESTED_QUEUED_BYTES;
        if is_congested { most.min(1) } else { most }
    }

    pub(super) fn has_room(&self, slot: ConnectionSlot) -> bool {
        self.clients.connection(slot).is_some_and(|c| c.outlet.out.len() < self.scheduler.write_bounds().high_bytes)
    }

    fn send_qos0(&mut self, slot: ConnectionSlot, delivery: &Delivery, context: &mut PublishContext<'_>, now: Millis) {
        let bounds = self.scheduler.write_bounds();
        let Some((generation, connection)) = self.clients.connection_entry(slot) else {
            return self.observe.count_error(Site::ConnectionOfSession);
        };
        let waiting = connection.outlet.out.len();
        if waiting < bounds.high_bytes {
            let packet = OutgoingPublish { delivery, packet_id: None, dup: false };
            let appended = if connection.intercepts_deliveries {
                self.append_intercepted(slot, &packet, context, now)
            } else {
                let to = (ConnId { slot, generation }, connection);
                let appended = append_to(to, &packet, context, (&mut self.scheduler, &mut self.observe), now);
                if appended.is_ok() {
                    self.delivered_event(slot, context, delivery);
                }
                appended
            };
            if let Err(why) = appended {
                self.drop_message(slot, context.topic, why);
            }
        } else if now < connection.slow_until || waiting >= bounds.max_bytes {
            if self.scheduler.buffers_are_full() {
                self.memory.count_refusal(MemoryKind::OutBuffers);
            }
            self.drop_message(slot, context.topic, Dropped::Slow);
        } else {
            self.pause_publisher(slot, context.origin, now);
            self.append(slot, &OutgoingPublish { delivery, packet_id: None, dup: false }, context, now);
        }
    }

    /// Writes the PUBLISH into the connection's out buffer. `false`: it is too large for the client, or dropped by an
    /// interceptor.
    pub(super) fn append(
        &mut self,
        slot: ConnectionSlot,
        packet: &OutgoingPublish<'_>,
        context: &mut PublishContext<'_>,
        now: Millis,
    ) -> bool {
        let appended = if self.clients.connection(slot).is_some_and(|connection| connection.intercepts_deliveries) {
            self.append_intercepted(slot, packet, context, now)
        } else {
            self.append_as_it_is(slot, packet, context, now)
        };
        if let Err(why) = appended {
            self.drop_message(slot, context.topic, why);
        }
        appended.is_ok()
    }

    /// The same, past the interceptors.
    pub(super) fn append_as_it_is(
        &mut self,
        slot: ConnectionSlot,
        packet: &OutgoingPublish<'_>,
        context: &mut PublishContext<'_>,
        now: Millis,
    ) -> Result<(), Dropped> {
        let Some((generation, connection)) = self.clients.connection_entry(slot) else {
            self.observe.count_error(Site::ConnectionOfSession);
            return Err(Dropped::TooLarge);
        };
        let to = (ConnId { slot, generation }, connection);
        append_to(to, packet, context, (&mut self.scheduler, &mut self.observe), now)?;
        self.delivered_event(slot, context, packet.delivery);
        Ok(())
    }

    pub(super) fn send_acknowledged(
        &mut self,
        to: SessionId,
        slot: ConnectionSlot,
        delivery: Delivery,
        context: &mut PublishContext<'_>,
        now: Millis,
    ) {
        let Some(session) = self.clients.session_mut(to) else {
            return self.observe.count_error(Site::SessionOfSubscription);
        };
        let packet_id = session.inflight.allocate();
        let keep = session.outlives_connection() || delivery.group.is_some();
        let durable_id = session.durable.as_ref().map(|durable| durable.id);
        let mut delivery = delivery;
        if let Some(durable_id) = durable_id {
            self.record_sent(durable_id, slot, &mut delivery, packet_id, context);
        }
        if !self.append(
            slot,
            &OutgoingPublish { delivery: &delivery, packet_id: Some(packet_id), dup: delivery.may_be_duplicate },
            context,
            now,
        ) {
            if let Some(durable_id) = durable_id {
                self.journal.forget_delivery(durable_id, &delivery, Some(&context.store()));
            }
            return;
        }
        let awaits = if delivery.qos == QoS::ExactlyOnce { Awaits::PubRec } else { Awaits::PubAck };
        // An event of its acknowledgement names its topic.
        let keep = keep || self.wants_message(CoreEventKind::MessageAcknowledged, context.topic);
        let message = keep.then(|| context.store());
        if let Some(session) = self.clients.session_mut(to) {
            session.inflight.push(Sent::new(packet_id, awaits, message, delivery, context.sharers()));
        }
        self.report_readiness(to);
    }

    /// Records a message that a durable session is about to be sent. Its packet identifier is recorded with it where it
    /// is new; that of a QoS 2 message always, and before the client sees it: the client knows the message by it.
    fn record_sent(
        &mut self,
        durable_id: RecordId,
        slot: ConnectionSlot,
        delivery: &mut Delivery,
        packet_id: PacketId,
        context: &mut PublishContext<'_>,
    ) {
        if !delivery.record.is_some() {
            let message = self.message_for_record(context, delivery.qos);
            self.journal.record_delivery(durable_id, delivery, &message, Some(packet_id));
        } else if delivery.qos == QoS::ExactlyOnce {
            self.journal.record_delivery(durable_id, delivery, &context.store(), Some(packet_id));
        }
        if delivery.qos == QoS::ExactlyOnce {
            self.gate(slot);
        }
    }

    pub(super) fn count_dropped(&mut self, endpoint: crate::EndpointId, why: Dropped, count: u64) {
        let index = self.observe.index_of(endpoint);
        self.observe.count_dropped(index, why, count);
    }

    /// Counts a message that a connection did not get.
    pub(crate) fn drop_message(&mut self, slot: ConnectionSlot, topic: &str, why: Dropped) {
        if let Some(connection) = self.clients.connection(slot) {
            let id = connection.session;
            self.observe.endpoint(connection.endpoint).dropped[why as usize] += 1;
            // The others are the publisher's loss, not this receiver's.
            let is_publishers = matches!(
                why,
                Dropped::NotAuthorized
                    | Dropped::Invalid
                    | Dropped::NoMember
                    | Dropped::RetainedFull
                    | Dropped::Intercepted
                    | Dropped::InterceptorPanic
            );
            if !is_publishers && let Some(session) = self.clients.session_mut(id) {
                session.dropped = session.dropped.saturating_add(1);
            }
            self.dropped_event(id, topic, why);
        }
    }

    /// Counts what an acl refused a connection. `topic`: or a filter.
    pub(crate) fn count_unauthorized(&mut self, slot: ConnectionSlot, action: RefusedAction, topic: &str) {
        if let Some(connection) = self.clients.connection(slot) {
            self.observe.endpoint(connection.endpoint).authorization_failures += 1;
        }
        self.connection_event(CoreEventKind::AuthorizationRefused, slot, || CoreEventDetail::AuthorizationRefused {
            action,
            topic: topic.into(),
        });
    }

    /// Appends a packet to a connection's out buffer; closes a connection that does not read its acknowledgements.
    pub(crate) fn write(&mut self, slot: ConnectionSlot, encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>) {
        self.write_out(slot, None, encode);
    }

    /// The same, for what goes out before what is gated there, and before what was appended from `before` on.
    pub(crate) fn write_past_gates(
        &mut self,
        slot: ConnectionSlot,
        before: usize,
        encode: impl FnOnce(&mut Vec<u8>) -> Result<(), EncodeError>,
    ) {
        self.write_out(slot, Some(before), encode);
    }

    fn write_out(
        &mut self,
        slot: ConnectionSlot,
        past_gates_before: Option<usize>,
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
            return self.close(slot, Ended::ByServer(ReasonCode::PacketTooLarge as u8));
        }
        if let Some(before) = past_gates_before {
            connection.outlet.out.move_before_gates(start, before);
        }
        let waiting = connection.outlet.out.len();
        self.scheduler.appended(ConnId { slot, generation }, &mut connection.outlet);
        if waiting > self.scheduler.write_bounds().max_bytes {
            self.close(slot, Ended::ByServer(ReasonCode::QuotaExceeded as u8));
        }
    }
}
