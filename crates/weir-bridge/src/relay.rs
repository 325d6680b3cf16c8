//! Messages from one side to the other, and their acknowledgements back.
//!
//! **Identifiers of a lost session.** A QoS 2 receiver knows a message by its identifier until it is released. Where one
//! of the two sessions is lost and the other is not (a restart that kept nothing), the survivor may hold identifiers that
//! the new session gives to new messages, and would take those for ones it has. So then all that it may hold is released
//! first: PUBREL for each, and no message before every PUBCOMP has come.

use super::Millis;
use super::ids::Ids;
use super::link::{Leg, Link};
use super::rule::{Rule, find};
use super::spec::Failure;
use weir_mqtt::{
    Packet, ProtocolVersion, Publish, PublishPropsOut, QoS, ReasonCode, encode_publish_parts, puback, pubcomp,
    publish_len, pubrec, pubrel,
};

impl Link {
    /// A message for the other broker.
    pub(super) fn carry_out(&mut self, publish: &Publish<'_>, now: Millis) -> Result<(), Failure> {
        if self.remote != Leg::Up || self.draining {
            // The session sends it again on its next connection.
            return Ok(());
        }
        let spec = std::sync::Arc::clone(&self.spec);
        if spec.mark.is_on(&publish.properties) {
            self.counters.dropped_loop += 1;
            self.settle_here(publish);
            return Ok(());
        }
        let mut name = std::mem::take(&mut self.name);
        let rule = find(&spec.out, publish.topic).filter(|rule| rule.rename(publish.topic, &mut name));
        match rule {
            Some(rule) => self.send_out(publish, rule, &name, spec.mark.block(), now)?,
            None => {
                self.counters.dropped_no_rule += 1;
                self.settle_here(publish);
            }
        }
        self.name = name;
        Ok(())
    }

    fn send_out(
        &mut self,
        publish: &Publish<'_>,
        rule: &Rule,
        name: &str,
        mark: &[u8],
        now: Millis,
    ) -> Result<(), Failure> {
        let version = self.spec.version;
        let pieces = [publish.properties.raw, mark];
        let properties = PublishPropsOut { pieces: &pieces, ..PublishPropsOut::default() };
        let qos = publish.qos.min(self.maximum_qos);
        let length = publish_len(version, qos, name.len(), &properties, publish.payload.len());
        if length > self.maximum_packet_size as usize {
            self.counters.dropped_unfit += 1;
            self.settle_here(publish);
            return Ok(());
        }
        let id = publish.packet_id.filter(|_| qos != QoS::AtMostOnce);
        match id {
            Some(id) => {
                self.open.insert(id);
                self.last_out = id;
                match (publish.qos, qos) {
                    (_, QoS::ExactlyOnce) => self.held_there.insert(id),
                    (QoS::ExactlyOnce, _) => self.lowered.insert(id),
                    _ => {}
                }
            }
            None => self.settle_here(publish),
        }
        let retain = publish.retain && rule.retain && self.retain_available;
        let (dup, payload) = (publish.dup && id.is_some(), publish.payload);
        encode_publish_parts(self.to_remote.buffer(), version, dup, qos, retain, name, id, &properties, payload)?;
        self.counters.sent += 1;
        self.note_sent(now);
        Ok(())
    }

    /// Ends the exchange of a message of this broker that goes no further.
    fn settle_here(&mut self, publish: &Publish<'_>) {
        let Some(id) = publish.packet_id else { return };
        let out = self.to_local.buffer();
        match publish.qos {
            // A PUBREC that refuses ends the exchange [MQTT-4.3.3-4].
            QoS::ExactlyOnce => pubrec(out, ProtocolVersion::V5, id, ReasonCode::ImplementationSpecificError),
            _ => puback(out, ProtocolVersion::V5, id, ReasonCode::Success),
        }
    }

    /// A message of the other broker.
    pub(super) fn carry_in(&mut self, publish: &Publish<'_>) -> Result<(), Failure> {
        let spec = std::sync::Arc::clone(&self.spec);
        if spec.mark.is_on(&publish.properties) {
            self.counters.dropped_loop += 1;
            self.settle_there(publish);
            return Ok(());
        }
        let mut name = std::mem::take(&mut self.name);
        let rule = find(&spec.inward, publish.topic).filter(|rule| rule.rename(publish.topic, &mut name));
        match rule {
            Some(rule) => self.send_in(publish, rule, &name)?,
            None => {
                self.counters.dropped_no_rule += 1;
                self.settle_there(publish);
            }
        }
        self.name = name;
        Ok(())
    }

    fn send_in(&mut self, publish: &Publish<'_>, rule: &Rule, name: &str) -> Result<(), Failure> {
        let pieces = [publish.properties.raw];
        let properties = PublishPropsOut { pieces: &pieces, ..PublishPropsOut::default() };
        let out = self.to_local.buffer();
        if let Some(id) = publish.packet_id.filter(|_| publish.qos == QoS::ExactlyOnce) {
            self.held_here.insert(id);
        }
        let (dup, retain, id) = (publish.dup, publish.retain && rule.retain, publish.packet_id);
        let payload = publish.payload;
        encode_publish_parts(out, ProtocolVersion::V5, dup, publish.qos, retain, name, id, &properties, payload)?;
        self.counters.received += 1;
        Ok(())
    }

    /// Acknowledges a message of the other broker that goes no further. At QoS 2 its PUBREL passes, and this broker, which
    /// does not know it, completes.
    fn settle_there(&mut self, publish: &Publish<'_>) {
        let (version, Some(id)) = (self.spec.version, publish.packet_id) else { return };
        let out = self.to_remote.buffer();
        match publish.qos {
            QoS::ExactlyOnce => pubrec(out, version, id, ReasonCode::Success),
            _ => puback(out, version, id, ReasonCode::Success),
        }
    }

    /// An acknowledgement of the other broker goes to the session here.
    pub(super) fn pass_to_local(&mut self, packet: &Packet<'_>) {
        let out = self.to_local.buffer();
        let version = ProtocolVersion::V5;
        match packet {
            Packet::PubAck(ack) => {
                self.open.remove(ack.packet_id);
                self.counters.refused += u64::from(ack.code >= 0x80);
                if self.lowered.remove(ack.packet_id) {
                    pubrec(out, version, ack.packet_id, ReasonCode::Success);
                } else {
                    puback(out, version, ack.packet_id, ReasonCode::Success);
                }
            }
            Packet::PubRec(ack) if ack.code >= 0x80 => {
                self.open.remove(ack.packet_id);
                self.held_there.remove(ack.packet_id);
                self.counters.refused += 1;
                pubrec(out, version, ack.packet_id, reason(ack.code));
            }
            Packet::PubRec(ack) => pubrec(out, version, ack.packet_id, ReasonCode::Success),
            Packet::PubComp(ack) if self.stale_there.remove(ack.packet_id) => {}
            Packet::PubComp(ack) => {
                self.open.remove(ack.packet_id);
                self.held_there.remove(ack.packet_id);
                pubcomp(out, version, ack.packet_id, ReasonCode::Success);
            }
            Packet::PubRel(ack) => pubrel(out, version, ack.packet_id, ReasonCode::Success),
            _ => {}
        }
    }

    /// An acknowledgement of this broker goes to the other one.
    pub(super) fn pass_to_remote(&mut self, packet: &Packet<'_>, now: Millis) {
        if self.remote != Leg::Up {
            return;
        }
        let version = self.spec.version;
        let out = self.to_remote.buffer();
        match packet {
            Packet::PubAck(ack) => puback(out, version, ack.packet_id, reason(ack.code)),
            Packet::PubRec(ack) => pubrec(out, version, ack.packet_id, reason(ack.code)),
            Packet::PubComp(ack) if self.stale_here.remove(ack.packet_id) => return,
            Packet::PubComp(ack) => {
                self.held_here.remove(ack.packet_id);
                pubcomp(out, version, ack.packet_id, ReasonCode::Success);
            }
            // It went out with less than QoS 2: nobody there knows it.
            Packet::PubRel(ack) if self.maximum_qos < QoS::ExactlyOnce => {
                return pubcomp(self.to_local.buffer(), ProtocolVersion::V5, ack.packet_id, ReasonCode::Success);
            }
            Packet::PubRel(ack) => {
                self.open.insert(ack.packet_id);
                self.held_there.insert(ack.packet_id);
                pubrel(out, version, ack.packet_id, ReasonCode::Success);
            }
            _ => return,
        }
        self.note_sent(now);
    }

    /// The other broker begins a new session: it holds nothing, and what ours holds of the former one is stale.
    pub(super) fn remote_is_new(&mut self) {
        self.held_there = Ids::default();
        self.stale_there = Ids::default();
        self.stale_here.append(std::mem::take(&mut self.held_here));
    }

    /// The session here is a new one.
    pub(super) fn local_is_new(&mut self) {
        self.held_here = Ids::default();
        self.stale_here = Ids::default();
        self.stale_there.append(std::mem::take(&mut self.held_there));
    }

    /// Both sides are there: releases what either holds of a lost session. What is cut short is done again.
    pub(super) fn release_stale(&mut self, now: Millis) {
        if !self.is_up() {
            return;
        }
        let version = self.spec.version;
        let out = self.to_remote.buffer();
        self.stale_there.iter().for_each(|id| pubrel(out, version, id, ReasonCode::Success));
        let out = self.to_local.buffer();
        self.stale_here.iter().for_each(|id| pubrel(out, ProtocolVersion::V5, id, ReasonCode::Success));
        self.note_sent(now);
    }
}

/// The code of an acknowledgement that was decoded.
fn reason(code: u8) -> ReasonCode {
    ReasonCode::try_from(code).unwrap_or(ReasonCode::UnspecifiedError)
}
