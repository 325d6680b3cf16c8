//! PUBACK, PUBREC, PUBREL, PUBCOMP and DISCONNECT from clients.

use crate::Core;
use crate::clients::session::INCOMING_ID_BYTES;
use crate::clients::session::NEVER_EXPIRES;
use crate::ids::{ConnId, Millis};
use crate::observe::Site;
use crate::observe::events::Ended;
use crate::values::delivery::Awaits;
use weir_mqtt::{Ack, Disconnect, ProtocolVersion, ReasonCode};

impl Core {
    /// The receiver has a QoS 1 message.
    pub(crate) fn on_puback(&mut self, id: ConnId, ack: &Ack<'_>, now: Millis) {
        self.complete(id, ack, Awaits::PubAck, now);
    }

    /// The receiver has released a QoS 2 message.
    pub(crate) fn on_pubcomp(&mut self, id: ConnId, ack: &Ack<'_>, now: Millis) {
        self.complete(id, ack, Awaits::PubComp, now);
    }

    /// Ends an exchange that is at that point; one at another point is answered wrongly. An acknowledgement that nothing waits
    /// for is passed over: after a reconnect with a new session a client may still send some.
    fn complete(&mut self, id: ConnId, ack: &Ack<'_>, awaited: Awaits, now: Millis) {
        let Some(session_id) = self.clients.connection(id.slot).map(|c| c.session) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let Some(session) = self.clients.session_mut(session_id) else {
            return self.observe.count_error(Site::SessionOfConnection);
        };
        match session.inflight.get_mut(ack.packet_id).map(|sent| sent.awaits) {
            Some(awaits) if awaits == awaited => {
                let durable_id = session.durable.as_ref().map(|durable| durable.id);
                if let Some(sent) = session.inflight.remove(ack.packet_id) {
                    if let Some(durable_id) = durable_id {
                        self.journal.forget_sent(durable_id, &sent);
                    }
                    self.acknowledged_event(session_id, sent.message.as_ref(), sent.delivery.qos, ack.code);
                }
                self.advance(session_id, now);
            }
            // [MQTT-4.3.2-4] [MQTT-4.3.3-8]
            Some(_) => self.refuse(id.slot, ReasonCode::ProtocolError),
            None => {}
        }
    }

    /// The receiver has a QoS 2 message, or (5.0, codes from 0x80) will not have it, which ends the exchange
    /// [MQTT-4.3.3-4].
    pub(crate) fn on_pubrec(&mut self, id: ConnId, ack: &Ack<'_>, now: Millis) {
        let Some(connection) = self.clients.connection(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let (session_id, version) = (connection.session, connection.version);
        let Some(session) = self.clients.session_mut(session_id) else {
            return self.observe.count_error(Site::SessionOfConnection);
        };
        let durable_id = session.durable.as_ref().map(|durable| durable.id);
        let sent = session.inflight.get_mut(ack.packet_id);
        let code = match sent {
            // [MQTT-4.3.2-4]
            Some(sent) if sent.awaits == Awaits::PubAck => return self.refuse(id.slot, ReasonCode::ProtocolError),
            Some(sent) => {
                if ack.code >= 0x80 && sent.awaits == Awaits::PubRec {
                    if let Some(sent) = session.inflight.remove(ack.packet_id) {
                        if let Some(durable_id) = durable_id {
                            self.journal.forget_sent(durable_id, &sent);
                        }
                        self.acknowledged_event(session_id, sent.message.as_ref(), sent.delivery.qos, ack.code);
                    }
                    return self.advance(session_id, now);
                }
                let received = (durable_id.is_some() && sent.awaits == Awaits::PubRec).then(|| sent.clone());
                sent.awaits = Awaits::PubComp;
                let (message, qos) = (sent.message.take(), sent.delivery.qos);
                self.acknowledged_event(session_id, message.as_ref(), qos, ack.code);
                if let (Some(received), Some(durable_id)) = (received, durable_id) {
                    self.journal.record_released(durable_id, &received);
                }
                // A client that has seen PUBREL takes what comes by that identifier for a new message.
                self.gate_durable(id.slot);
                ReasonCode::Success
            }
            None if ack.code >= 0x80 => return,
            None => ReasonCode::PacketIdentifierNotFound,
        };
        let code = if version == ProtocolVersion::V5 { code } else { ReasonCode::Success };
        self.write(id.slot, |out| {
            weir_mqtt::pubrel(out, version, ack.packet_id, code);
            Ok(())
        });
    }

    /// The publisher releases a QoS 2 message: its identifier is free again.
    pub(crate) fn on_pubrel(&mut self, id: ConnId, ack: &Ack<'_>) {
        let Some(connection) = self.clients.connection(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let version = connection.version;
        let Some(session) = self.clients.session_mut(connection.session) else {
            return self.observe.count_error(Site::SessionOfConnection);
        };
        let known = session.incoming.as_mut().is_some_and(|incoming| incoming.remove(&ack.packet_id));
        if session.incoming.as_ref().is_some_and(|incoming| incoming.is_empty()) {
            session.incoming = None;
        }
        let released = session.durable.as_mut().and_then(|durable| {
            durable.recovered.remove(&ack.packet_id);
            durable.received.remove(&ack.packet_id).then_some(durable.id)
        });
        if known {
            self.clients.session_bytes().subtract(INCOMING_ID_BYTES);
        }
        if let Some(durable_id) = released {
            self.forget_received(durable_id, ack.packet_id);
        }
        // Once it has seen PUBCOMP, the client uses the identifier for another message.
        self.gate_durable(id.slot);
        let unknown = !known && version == ProtocolVersion::V5;
        let code = if unknown { ReasonCode::PacketIdentifierNotFound } else { ReasonCode::Success };
        self.write(id.slot, |out| {
            weir_mqtt::pubcomp(out, version, ack.packet_id, code);
            Ok(())
        });
    }

    /// Handles DISCONNECT: the will is discarded only with reason code 0x00; 5.0 may set a new session expiry.
    pub(crate) fn on_disconnect(&mut self, id: ConnId, disconnect: &Disconnect<'_>) {
        let Some(session_id) = self.clients.connection(id.slot).map(|c| c.session) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let Some(session) = self.clients.session_mut(session_id) else {
            return self.observe.count_error(Site::SessionOfConnection);
        };
        if let Some(expiry_s) = disconnect.session_expiry_s {
            // A session that was to end with its connection cannot be kept after all [MQTT-3.14.2-2].
            if session.expiry_s == 0 && expiry_s != 0 {
                return self.refuse(id.slot, ReasonCode::ProtocolError);
            }
            session.expiry_s = expiry_s.min(session.policy.limits.session_expiry_max_s.unwrap_or(NEVER_EXPIRES));
        }
        if disconnect.code == ReasonCode::Success as u8 {
            session.will = None;
        }
        self.close(id.slot, Ended::ByClient(disconnect.code));
    }
}
