//! Forwards messages from one side to the other, and their acknowledgements back.
//!
//! **Identifiers of a lost session.** A QoS 2 receiver remembers a message by its identifier until it is released. If
//! one of the two sessions is lost and the other is not (a restart without a store), the surviving side may hold
//! identifiers that the new session assigns to new messages, and would treat those as duplicates. So all identifiers
//! that it may hold are released first: a PUBREL for each, and no message before every PUBCOMP has arrived.

use super::Millis;
use super::ids::PacketIds;
use super::link::{BridgeLink, SideState};
use super::rule::{TopicRule, find};
use super::spec::BridgeFailure;
use weir_mqtt::{
    Packet, ProtocolVersion, Publish, PublishPropsOut, QoS, ReasonCode, encode_publish_parts, puback, pubcomp,
    publish_len, pubrec, pubrel,
};

impl BridgeLink {
    /// Forwards a message to the remote broker.
    pub(super) fn forward_out(&mut self, publish: &Publish<'_>, now: Millis) -> Result<(), BridgeFailure> {
        if self.remote != SideState::Up || self.draining {
            // The session sends it again on its next connection.
            return Ok(());
        }
        let spec = std::sync::Arc::clone(&self.spec);
        if spec.mark.is_in(&publish.properties) {
            self.counters.dropped_loop += 1;
            self.complete_local(publish);
            return Ok(());
        }
        let mut name = std::mem::take(&mut self.name);
        let rule = find(&spec.out, publish.topic).filter(|rule| rule.rename(publish.topic, &mut name));
        match rule {
            Some(rule) => self.send_out(publish, rule, &name, spec.mark.block(), now)?,
            None => {
                self.counters.dropped_no_rule += 1;
                self.complete_local(publish);
            }
        }
        self.name = name;
        Ok(())
    }

    fn send_out(
        &mut self,
        publish: &Publish<'_>,
        rule: &TopicRule,
        name: &str,
        mark: &[u8],
        now: Millis,
    ) -> Result<(), BridgeFailure> {
        let version = self.spec.version;
        let pieces = [publish.properties.raw, mark];
        let properties = PublishPropsOut { pieces: &pieces, ..PublishPropsOut::default() };
        let qos = publish.qos.min(self.maximum_qos);
        let length = publish_len(version, qos, name.len(), &properties, publish.payload.len());
        if length > self.maximum_packet_size as usize {
            self.counters.dropped_unfit += 1;
            self.complete_local(publish);
            return Ok(());
        }
        let id = publish.packet_id.filter(|_| qos != QoS::AtMostOnce);
        match id {
            Some(id) => {
                self.open.insert(id);
                self.last_out = id;
                match (publish.qos, qos) {
                    (_, QoS::ExactlyOnce) => self.qos2_remote.insert(id),
                    (QoS::ExactlyOnce, _) => self.downgraded.insert(id),
                    _ => {}
                }
            }
            None => self.complete_local(publish),
        }
        let retain = publish.retain && rule.retain && self.retain_available;
        let (dup, payload) = (publish.dup && id.is_some(), publish.payload);
        encode_publish_parts(self.to_remote.buffer(), version, dup, qos, retain, name, id, &properties, payload)?;
        self.counters.sent += 1;
        self.note_sent(now);
        Ok(())
    }

    /// Completes the exchange of a message of this broker that is not forwarded.
    fn complete_local(&mut self, publish: &Publish<'_>) {
        let Some(id) = publish.packet_id else { return };
        let out = self.to_local.buffer();
        match publish.qos {
            // A PUBREC that refuses ends the exchange [MQTT-4.3.3-4].
            QoS::ExactlyOnce => pubrec(out, ProtocolVersion::V5, id, ReasonCode::ImplementationSpecificError),
            _ => puback(out, ProtocolVersion::V5, id, ReasonCode::Success),
        }
    }

    /// Forwards a message of the remote broker.
    pub(super) fn forward_in(&mut self, publish: &Publish<'_>) -> Result<(), BridgeFailure> {
        let spec = std::sync::Arc::clone(&self.spec);
        if spec.mark.is_in(&publish.properties) {
            self.counters.dropped_loop += 1;
            self.complete_remote(publish);
            return Ok(());
        }
        let mut name = std::mem::take(&mut self.name);
        let rule = find(&spec.inward, publish.topic).filter(|rule| rule.rename(publish.topic, &mut name));
        match rule {
            Some(rule) => self.send_in(publish, rule, &name)?,
            None => {
                self.counters.dropped_no_rule += 1;
                self.complete_remote(publish);
            }
        }
        self.name = name;
        Ok(())
    }

    fn send_in(&mut self, publish: &Publish<'_>, rule: &TopicRule, name: &str) -> Result<(), BridgeFailure> {
        let pieces = [publish.properties.raw];
        let properties = PublishPropsOut { pieces: &pieces, ..PublishPropsOut::default() };
        let out = self.to_local.buffer();
        if let Some(id) = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce) {
            self.qos2_local.insert(id);
        }
        let (dup, retain, id) = (publish.dup, publish.retain && rule.retain, publish.packet_id);
        let payload = publish.payload;
        encode_publish_parts(out, ProtocolVersion::V5, dup, publish.qos, retain, name, id, &properties, payload)?;
        self.counters.received += 1;
        Ok(())
    }

    /// Acknowledges a message of the remote broker that is not forwarded. At QoS 2 its PUBREL is forwarded, and this
    /// broker, which does not know it, answers PUBCOMP.
    fn complete_remote(&mut self, publish: &Publish<'_>) {
        let (version, Some(id)) = (self.spec.version, publish.packet_id) else { return };
        let out = self.to_remote.buffer();
        match publish.qos {
            QoS::ExactlyOnce => pubrec(out, version, id, ReasonCode::Success),
            _ => puback(out, version, id, ReasonCode::Success),
        }
    }

    /// Forwards an acknowledgement of the remote broker to the local session.
    pub(super) fn ack_to_local(&mut self, packet: &Packet<'_>) {
        let out = self.to_local.buffer();
        let version = ProtocolVersion::V5;
        match packet {
            Packet::PubAck(ack) => {
                self.open.remove(ack.packet_id);
                self.counters.refused += u64::from(ack.code >= 0x80);
                if self.downgraded.remove(ack.packet_id) {
                    pubrec(out, version, ack.packet_id, ReasonCode::Success);
                } else {
                    puback(out, version, ack.packet_id, ReasonCode::Success);
                }
            }
            Packet::PubRec(ack) if ack.code >= 0x80 => {
                self.open.remove(ack.packet_id);
                self.qos2_remote.remove(ack.packet_id);
                self.counters.refused += 1;
                pubrec(out, version, ack.packet_id, reason(ack.code));
            }
            Packet::PubRec(ack) => pubrec(out, version, ack.packet_id, ReasonCode::Success),
            Packet::PubComp(ack) if self.stale_remote.remove(ack.packet_id) => {}
            Packet::PubComp(ack) => {
                self.open.remove(ack.packet_id);
                self.qos2_remote.remove(ack.packet_id);
                pubcomp(out, version, ack.packet_id, ReasonCode::Success);
            }
            Packet::PubRel(ack) => pubrel(out, version, ack.packet_id, ReasonCode::Success),
            _ => {}
        }
    }

    /// Forwards an acknowledgement of this broker to the remote one.
    pub(super) fn ack_to_remote(&mut self, packet: &Packet<'_>, now: Millis) {
        if self.remote != SideState::Up {
            return;
        }
        let version = self.spec.version;
        let out = self.to_remote.buffer();
        match packet {
            Packet::PubAck(ack) => puback(out, version, ack.packet_id, reason(ack.code)),
            Packet::PubRec(ack) => pubrec(out, version, ack.packet_id, reason(ack.code)),
            Packet::PubComp(ack) if self.stale_local.remove(ack.packet_id) => return,
            Packet::PubComp(ack) => {
                self.qos2_local.remove(ack.packet_id);
                pubcomp(out, version, ack.packet_id, ReasonCode::Success);
            }
            // It was sent with a lower QoS: the remote broker does not know it.
            Packet::PubRel(ack) if self.maximum_qos < QoS::ExactlyOnce => {
                return pubcomp(self.to_local.buffer(), ProtocolVersion::V5, ack.packet_id, ReasonCode::Success);
            }
            Packet::PubRel(ack) => {
                self.open.insert(ack.packet_id);
                self.qos2_remote.insert(ack.packet_id);
                pubrel(out, version, ack.packet_id, ReasonCode::Success);
            }
            _ => return,
        }
        self.note_sent(now);
    }

    /// The remote broker has begun a new session: it holds no identifiers, and those of the former session that the
    /// local one holds are stale.
    pub(super) fn on_new_remote_session(&mut self) {
        self.qos2_remote = PacketIds::default();
        self.stale_remote = PacketIds::default();
        self.stale_local.append(std::mem::take(&mut self.qos2_local));
    }

    /// The local session is new.
    pub(super) fn on_new_local_session(&mut self) {
        self.qos2_local = PacketIds::default();
        self.stale_local = PacketIds::default();
        self.stale_remote.append(std::mem::take(&mut self.qos2_remote));
    }

    /// When both sides are up: releases the identifiers of a lost session. An interrupted release is repeated.
    pub(super) fn release_stale(&mut self, now: Millis) {
        if !self.is_up() {
            return;
        }
        let version = self.spec.version;
        let out = self.to_remote.buffer();
        self.stale_remote.iter().for_each(|id| pubrel(out, version, id, ReasonCode::Success));
        let out = self.to_local.buffer();
        self.stale_local.iter().for_each(|id| pubrel(out, ProtocolVersion::V5, id, ReasonCode::Success));
        self.note_sent(now);
    }
}

/// The reason code of a decoded acknowledgement.
fn reason(code: u8) -> ReasonCode {
    ReasonCode::try_from(code).unwrap_or(ReasonCode::UnspecifiedError)
}
