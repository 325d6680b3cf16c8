//! Resends: what a client had not acknowledged when its connection ended, and what an acknowledgement makes room for.

use crate::core::deliver::OutgoingPublish;
use crate::delivery::publish_context::PublishContext;
use crate::ids::{ConnectionSlot, Millis, Origin, SessionId};
use crate::values::delivery::{Awaits, Sent};
use crate::{Core, Subject};
use weir_mqtt::ReasonCode;

impl Core {
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
            } else if let Some(durable_id) = self.durable_id(slot) {
                self.journal.forget_sent(durable_id, &entry);
            }
        }
        if let Some(session) = self.clients.session_mut(id) {
            kept.into_iter().for_each(|entry| session.inflight.push(entry));
        }
        self.drain_queue(id, now);
    }

    /// Whether the client, as whom it is connected now, may be sent what was sent before.
    pub(crate) fn may_receive(&self, slot: ConnectionSlot, topic: &str) -> bool {
        let Some(connection) = self.clients.connection(slot) else { return false };
        let Some(session) = self.clients.session(connection.session) else { return false };
        let principal = &connection.principal;
        let (username, address) = (principal.username.as_deref(), principal.address);
        let subject = Subject { client_id: &session.client_id, username, address };
        let acls = [&connection.policy.acl, &principal.claims_acl];
        acls.into_iter().flatten().all(|acl| acl.may_receive(subject, topic))
    }

    /// Resends a message or its PUBREL. `false`: the client may no longer receive it.
    pub(crate) fn send_again(&mut self, slot: ConnectionSlot, sent: &Sent, now: Millis) -> bool {
        let Some(version) = self.clients.connection(slot).map(|c| c.version) else { return false };
        if sent.awaits != Awaits::PubAck {
            self.gate_durable(slot);
        }
        if sent.awaits == Awaits::PubComp {
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
        let mut context = PublishContext::of_message(message, &publish, Origin::BROKER);
        let packet = OutgoingPublish { delivery: &sent.delivery, packet_id: Some(sent.packet_id), dup: true };
        self.append(slot, &packet, &mut context, now)
    }

    /// The window has room: resends go first, then the queue.
    pub(crate) fn advance(&mut self, id: SessionId, now: Millis) {
        while let Some((slot, next)) = self.next_unsent(id) {
            if !self.send_again(slot, &next, now)
                && let Some(session) = self.clients.session_mut(id)
            {
                session.inflight.remove(next.packet_id);
                if let Some(durable_id) = self.durable_id(slot) {
                    self.journal.forget_sent(durable_id, &next);
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
    pub(crate) fn next_unsent(&mut self, id: SessionId) -> Option<(ConnectionSlot, Sent)> {
        let session = self.clients.session(id)?;
        let slot = session.connection?;
        if session.inflight.all_sent() || session.inflight.outstanding() >= self.window(slot, session) {
            return None;
        }
        let next = self.clients.session_mut(id)?.inflight.next_unsent()?;
        Some((slot, next))
    }
}
