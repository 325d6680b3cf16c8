//! PUBLISH from clients, and the routing of messages.

use std::sync::Arc;

use crate::clients::session::INCOMING_ID_BYTES;
use crate::core::events::is_reserved;
use crate::delivery::out_buffer::{ACKNOWLEDGEMENT_BYTES, Acknowledgement};
use crate::delivery::publish_context::PublishContext;
use crate::gateway::is_of_node;
use crate::ids::{ConnId, ConnectionSlot, DedupKey, Millis, NamespaceId, Origin, SessionId};
use crate::limits::INCOMING_QOS2_MAX;
use crate::links::link::{RANK_DIRECT, StorageWait};
use crate::observe::Site;
use crate::observe::events::{Ended, RefusedAction};
use crate::routing::matches::Matches;
use crate::values::message::expires_at;
use crate::{Core, Dropped, Subject};
use weir_mqtt::{PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

/// Bytes of an entry of the log beside the message and its publisher's names, at most.
const LOG_ENTRY_OVERHEAD: usize = 4 << 10;

/// Why a PUBLISH is not accepted.
pub(crate) enum PublishRefusal {
    /// The connection ends with this reason.
    Disconnect(ReasonCode),
    /// The message is dropped; a QoS 1 or 2 publish is acknowledged with this reason.
    Message(ReasonCode, Dropped),
}

impl Core {
    /// A PUBLISH from a client; `raw` is the whole packet.
    pub(crate) fn on_publish(&mut self, id: ConnId, publish: &Publish<'_>, raw: &[u8], now: Millis) {
        let Some(connection) = self.clients.connection_mut(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        connection.messages_received += 1;
        let session = connection.session;
        self.observe.endpoint(connection.endpoint).messages_received += 1;
        // An alias is learned from every PUBLISH, whatever becomes of the message.
        if let Some(alias) = publish.properties.topic_alias
            && let Err(reason) = self.learn_alias(id.slot, alias, publish.topic)
        {
            return self.refuse(id.slot, reason);
        }
        if publish.qos == QoS::ExactlyOnce && self.is_resend(id.slot, publish.packet_id) {
            // The record of its first transmission, on another connection, may not be on disk yet.
            self.wait_while_out(now);
            let epoch = self.journal.unsettled();
            return self.acknowledge(id.slot, publish, ReasonCode::Success, epoch, usize::MAX);
        }
        if !publish.topic.is_empty() {
            return self.intercept_publish((id, session), publish.topic, publish, raw, now);
        }
        // `learn_alias` found the alias: the name is taken out and put back, not copied.
        let Some(name) = self.alias_slot(id.slot, publish).and_then(Option::take) else {
            return self.observe.count_error(Site::TopicOfAlias);
        };
        self.intercept_publish((id, session), &name, publish, raw, now);
        if let Some(slot) = self.alias_slot(id.slot, publish) {
            *slot = Some(name);
        }
    }

    /// Checks and routes a PUBLISH whose alias is resolved to `topic`.
    pub(crate) fn publish_to(
        &mut self,
        (id, session): (ConnId, SessionId),
        topic: &str,
        publish: &Publish<'_>,
        raw: &[u8],
        now: Millis,
    ) {
        if let Err(refusal) = self.check_publish(id, topic, publish, raw.len(), now) {
            return self.refuse_publish(id, topic, publish, refusal);
        }
        if !self.may_defer {
            return self.accept_publish(id, topic, (publish, raw), None, now);
        }
        let Some(namespace) = self.clients.session(session).map(|session| session.namespace) else {
            return self.observe.count_error(Site::SessionOfConnection);
        };
        if publish.retain && self.retained_route(namespace, topic) != self.config.shard {
            return self.accept_publish(id, topic, (publish, raw), None, now);
        }
        match self.receivers_at_once(namespace, topic) {
            Some(receivers) => self.accept_publish(id, topic, (publish, raw), Some(receivers), now),
            None => self.defer_publish(id, namespace, topic, raw),
        }
    }

    pub(crate) fn refuse_publish(&mut self, id: ConnId, topic: &str, publish: &Publish<'_>, refusal: PublishRefusal) {
        match refusal {
            PublishRefusal::Disconnect(reason) => self.refuse(id.slot, reason),
            PublishRefusal::Message(reason, why) => {
                self.drop_message(id.slot, topic, why);
                if reason == ReasonCode::NotAuthorized {
                    self.count_unauthorized(id.slot, RefusedAction::Publish, topic);
                }
                self.acknowledge(id.slot, publish, reason, None, usize::MAX);
            }
        }
    }

    /// A QoS 2 message that was taken already: it is acknowledged again, and goes no further [MQTT-4.3.3-10].
    pub(crate) fn is_resend(&self, slot: ConnectionSlot, packet_id: Option<PacketId>) -> bool {
        let session = self.clients.connection(slot).and_then(|c| self.clients.session(c.session));
        let Some((session, id)) = session.zip(packet_id) else { return false };
        let taken = session.incoming.as_ref().is_some_and(|incoming| incoming.contains(&id));
        taken && !session.durable.as_ref().is_some_and(|durable| durable.recovered.contains(&id))
    }

    fn check_publish(
        &mut self,
        id: ConnId,
        topic: &str,
        publish: &Publish<'_>,
        size: usize,
        now: Millis,
    ) -> Result<(), PublishRefusal> {
        let Some(connection) = self.clients.connection(id.slot) else {
            self.observe.count_error(Site::ConnectionOfPacket);
            return Ok(());
        };
        let limits = &connection.policy.limits;
        if publish.qos > limits.maximum_qos {
            return Err(PublishRefusal::Disconnect(ReasonCode::QoSNotSupported));
        }
        if publish.retain && !limits.retain_available {
            return Err(PublishRefusal::Disconnect(ReasonCode::RetainNotSupported));
        }
        let (levels_max, receive_maximum) = (limits.max_topic_levels, usize::from(limits.receive_maximum));
        let is_v5 = connection.is_v5();
        // A QoS 1 message is acknowledged at once; it breaks the bound where QoS 2 has used it up.
        if publish.qos == QoS::ExactlyOnce || is_v5 && publish.qos == QoS::AtLeastOnce {
            let session = self.clients.session(connection.session);
            let open = session.and_then(|s| s.incoming.as_ref()).map_or(0, |incoming| incoming.len());
            let again =
                session.and_then(|s| s.incoming.as_ref()).zip(publish.packet_id).is_some_and(|(i, p)| i.contains(&p));
            // Beyond what CONNACK allowed [MQTT-3.3.4-7]; 3.x has no such limit but the number of identifiers.
            if !again && open >= if is_v5 { receive_maximum } else { INCOMING_QOS2_MAX } {
                return Err(PublishRefusal::Disconnect(ReasonCode::ReceiveMaximumExceeded));
            }
        }
        if self.charge_publish(id, size, now).is_err() {
            return Err(PublishRefusal::Disconnect(ReasonCode::MessageRateTooHigh));
        }
        // A topic has at most one level more than bytes: most need no count.
        let levels_max = usize::from(levels_max);
        if publish.topic.len() >= levels_max && weir_mqtt::levels(publish.topic) > levels_max {
            return Err(if is_v5 && publish.qos > QoS::AtMostOnce {
                PublishRefusal::Message(ReasonCode::TopicNameInvalid, Dropped::Invalid)
            } else {
                PublishRefusal::Disconnect(ReasonCode::TopicNameInvalid)
            });
        }
        if publish.properties.payload_format_indicator == Some(1) && std::str::from_utf8(publish.payload).is_err() {
            return Err(if publish.qos > QoS::AtMostOnce {
                PublishRefusal::Message(ReasonCode::PayloadFormatInvalid, Dropped::Invalid)
            } else {
                PublishRefusal::Disconnect(ReasonCode::PayloadFormatInvalid)
            });
        }
        self.authorize_publish(id.slot, topic, publish)
    }

    /// The disk is full: 5.0 has a reason code for it, and QoS 0 gets no answer. A 3.x client waits, see
    /// [`Core::hold_publish`].
    fn check_store(
        &mut self,
        slot: ConnectionSlot,
        topic: &str,
        publish: &Publish<'_>,
        receivers: Option<&Arc<Matches>>,
    ) -> Result<(), PublishRefusal> {
        let waits = publish.qos > QoS::AtMostOnce && self.clients.connection(slot).is_none_or(|c| !c.is_v5());
        if !waits && self.needs_room(slot, topic, publish, receivers) {
            return Err(PublishRefusal::Message(ReasonCode::QuotaExceeded, Dropped::StoreFull));
        }
        Ok(())
    }

    /// A further retained message may be too much. 5.0 has a reason code for it, where this shard owns the topic; otherwise
    /// the message goes to the subscribers there are, and is not retained: see [`Core::set_retained`].
    fn check_retained(
        &mut self,
        slot: ConnectionSlot,
        topic: &str,
        publish: &Publish<'_>,
    ) -> Result<(), PublishRefusal> {
        self.check_log_entry(slot, topic, publish)?;
        let Some(connection) = self.clients.connection(slot) else { return Ok(()) };
        if publish.qos == QoS::AtMostOnce || publish.payload.is_empty() || !connection.is_v5() {
            return Ok(());
        }
        let Some(namespace) = self.clients.session(connection.session).map(|session| session.namespace) else {
            return Ok(());
        };
        let properties: usize = publish.properties.forwardable().map(<[u8]>::len).sum();
        let size = topic.len() + properties + publish.payload.len();
        let endpoint = Arc::clone(&connection.policy.name);
        let is_owner = self.routing.topic_owner(namespace, topic) == self.config.shard;
        if is_owner && !self.may_retain(namespace, &endpoint, topic, size) {
            return Err(PublishRefusal::Message(ReasonCode::QuotaExceeded, Dropped::RetainedFull));
        }
        Ok(())
    }

    /// In a cluster, what is retained travels by a log, whose entries are bounded by the engine. 3.x has no answer that says so.
    fn check_log_entry(&self, slot: ConnectionSlot, topic: &str, publish: &Publish<'_>) -> Result<(), PublishRefusal> {
        let Some(connection) = self.clients.connection(slot) else { return Ok(()) };
        let properties: usize = publish.properties.forwardable().map(<[u8]>::len).sum();
        let client_id = self.clients.session(connection.session).map_or(0, |session| session.client_id.len());
        let names = client_id + connection.principal.username.as_ref().map_or(0, |name| name.len());
        let size = topic.len() + properties + publish.payload.len() + names + LOG_ENTRY_OVERHEAD;
        if size <= self.log_entry_max || is_of_node(topic) {
            return Ok(());
        }
        Err(if publish.qos == QoS::AtMostOnce || connection.is_v5() {
            PublishRefusal::Message(ReasonCode::QuotaExceeded, Dropped::TooLarge)
        } else {
            PublishRefusal::Disconnect(ReasonCode::PacketTooLarge)
        })
    }

    pub(crate) fn authorize_publish(
        &mut self,
        slot: ConnectionSlot,
        topic: &str,
        publish: &Publish<'_>,
    ) -> Result<(), PublishRefusal> {
        let refused = Err(PublishRefusal::Message(ReasonCode::NotAuthorized, Dropped::NotAuthorized));
        let Some(connection) = self.clients.connection(slot) else {
            self.observe.count_error(Site::ConnectionOfPacket);
            return refused;
        };
        if connection.was_permitted(topic, publish.qos, publish.retain) {
            return Ok(());
        }
        if is_reserved(topic) {
            return refused;
        }
        if connection.policy.acl.is_none() && connection.principal.claims_acl.is_none() {
            return Ok(());
        }
        let Some((connection, Some(session))) = self.clients.connection_and_session(slot) else {
            self.observe.count_error(Site::SessionOfConnection);
            return refused;
        };
        let subject = Subject {
            client_id: &session.client_id,
            username: connection.principal.username.as_deref(),
            address: connection.principal.address,
        };
        let acls = [&connection.policy.acl, &connection.principal.claims_acl];
        let allowed =
            acls.into_iter().flatten().all(|acl| acl.may_publish(subject, topic, publish.qos, publish.retain));
        if !allowed {
            return refused;
        }
        connection.permit(topic, publish.qos, publish.retain);
        Ok(())
    }

    /// Routes a PUBLISH that was checked, unless it has to be stored and there is no room. `receivers`: those found already.
    pub(crate) fn accept_publish(
        &mut self,
        id: ConnId,
        topic: &str,
        (publish, raw): (&Publish<'_>, &[u8]),
        receivers: Option<Arc<Matches>>,
        now: Millis,
    ) {
        if self.journal.is_full()
            && let Err(refusal) = self.check_store(id.slot, topic, publish, receivers.as_ref())
        {
            return self.refuse_publish(id, topic, publish, refusal);
        }
        if publish.retain
            && let Err(refusal) = self.check_retained(id.slot, topic, publish)
        {
            return self.refuse_publish(id, topic, publish, refusal);
        }
        let Some(connection) = self.clients.connection(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let (version, session_id) = (connection.version, connection.session);
        let (ceiling_s, durable) =
            (connection.policy.limits.message_expiry_max_s, connection.policy.limits.is_durable());
        let expires_at = expires_at(publish.properties.message_expiry_s, ceiling_s, now);
        let publisher = if publish.retain { self.publisher(id.slot) } else { None };
        let Some(session) = self.clients.session_mut(session_id) else {
            return self.observe.count_error(Site::SessionOfConnection);
        };
        let (mut dedup_key, mut is_new_id) = (None, false);
        if let (QoS::ExactlyOnce, Some(packet_id)) = (publish.qos, publish.packet_id) {
            is_new_id = session.incoming.get_or_insert_default().insert(packet_id);
            dedup_key = session.durable.as_ref().map(|durable| (durable.id, packet_id));
        }
        let namespace = session.namespace;
        if is_new_id {
            self.clients.session_bytes().add(INCOMING_ID_BYTES);
        }
        let origin = Origin { shard: self.config.shard, connection: id, session: session_id };
        let mut context = PublishContext::new(topic, publish, version, raw, expires_at, origin);
        (context.publisher, context.durable, context.dedup_key) = (publisher, durable, dedup_key);
        self.published_event(session_id, topic, publish);
        let own_output = self.clients.connection(id.slot).map_or(usize::MAX, |connection| connection.outlet.out.end());
        let mark = self.journal.mark();
        self.route(namespace, &mut context, receivers, now);
        if publish.qos > QoS::AtMostOnce {
            self.wait_while_out(now);
        }
        let mut epoch = None;
        if self.journal.has_dependencies(mark) {
            if let Some(dedup_key) = dedup_key {
                self.record_qos2_receipt(session_id, dedup_key, self.journal.has_recorded(mark));
            }
            epoch = self.journal.unsettled();
            self.pause_if_store_lags(&context);
        }
        self.acknowledge(id.slot, publish, ReasonCode::Success, epoch, own_output);
    }

    /// What is acknowledged waits while the node is out of its cluster: no epoch is settled until it is in again.
    fn wait_while_out(&mut self, now: Millis) {
        if self.journal.is_suspended(now) {
            self.journal.wait_for(StorageWait { shard: self.config.shard.0, rank: RANK_DIRECT, position: 0 });
        }
    }

    /// A QoS 2 publish of a durable session left records, here or on other shards: its packet identifier is to be known
    /// as long as they may be asked for, together with them.
    fn record_qos2_receipt(&mut self, session: SessionId, dedup_key: DedupKey, here: bool) {
        if let Some(durable) = self.clients.session_mut(session).and_then(|s| s.durable.as_mut()) {
            durable.received.insert(dedup_key.1);
            durable.recovered.remove(&dedup_key.1);
        }
        if here {
            self.journal.record_received(dedup_key);
        }
    }

    /// PUBACK or PUBREC, as the QoS asks; once `epoch` is settled, if there is one. A client that subscribes to its own topic
    /// gets PUBREC before its message, as where messages are routed at PUBREL: `own_output` is where in the out buffer the
    /// output that the PUBLISH caused begins.
    fn acknowledge(
        &mut self,
        slot: ConnectionSlot,
        publish: &Publish<'_>,
        reason: ReasonCode,
        epoch: Option<u64>,
        own_output: usize,
    ) {
        let Some(packet_id) = publish.packet_id else { return };
        let Some(connection) = self.clients.connection(slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let (version, maximum_packet_size) = (connection.version, connection.maximum_packet_size);
        let refuses_when_full = self.journal.is_full() && version == ProtocolVersion::V5;
        let epoch = match epoch {
            // Not in the order of the PUBLISHes then, to which 5.0 does not hold a server.
            None if refuses_when_full => None,
            // [MQTT-4.6.0-2]
            None => connection.outlet.out.acknowledges(publish.qos),
            epoch => epoch,
        };
        // 3.x has no reason in its acknowledgements: what is refused is acknowledged all the same [MQTT-3.3.5-2].
        let code = if version == ProtocolVersion::V5 { reason } else { ReasonCode::Success };
        if publish.qos == QoS::ExactlyOnce && version != ProtocolVersion::V5 && reason as u8 >= 0x80 {
            self.remember_incoming(slot, packet_id);
        }
        if let Some(epoch) = epoch {
            if maximum_packet_size < ACKNOWLEDGEMENT_BYTES {
                // It could not be sent when its epoch is settled [MQTT-3.1.2-24].
                return self.close(slot, Ended::ByServer(ReasonCode::PacketTooLarge as u8));
            }
            let acknowledgement = Acknowledgement { epoch, qos: publish.qos, packet_id, code };
            return self.acknowledge_after(slot, acknowledgement, own_output);
        }
        let before = if publish.qos == QoS::ExactlyOnce { own_output } else { usize::MAX };
        self.write_past_gates(slot, before, |out| {
            if publish.qos == QoS::ExactlyOnce {
                weir_mqtt::pubrec(out, version, packet_id, code);
            } else {
                weir_mqtt::puback(out, version, packet_id, code);
            }
            Ok(())
        });
    }

    /// A 3.x client goes on with PUBREL after any PUBREC.
    fn remember_incoming(&mut self, slot: ConnectionSlot, packet_id: PacketId) {
        if let Some(session) =
            self.clients.connection(slot).map(|c| c.session).and_then(|s| self.clients.session_mut(s))
        {
            let is_new = session.incoming.get_or_insert_default().insert(packet_id);
            if is_new {
                self.clients.session_bytes().add(INCOMING_ID_BYTES);
            }
        }
    }

    /// Whether an earlier process had taken part of a QoS 2 publish that its client sends again: the part of the shard
    /// that `names` belonged to then.
    pub(crate) fn already_processed(&self, context: &PublishContext<'_>, names: &[&str]) -> bool {
        self.journal.already_processed(context.dedup_key, names)
    }

    /// The same, of what its topic's owner keeps.
    pub(super) fn already_retained(&self, namespace: NamespaceId, context: &PublishContext<'_>) -> bool {
        self.already_processed(context, &[self.routing.name(namespace), context.topic])
    }

    /// The same, of what a session was to get.
    pub(super) fn session_already_received(&mut self, session: SessionId, context: &PublishContext<'_>) -> bool {
        let Some(session) = self.clients.session(session) else {
            self.observe.count_error(Site::SessionOfSubscription);
            return false;
        };
        self.already_processed(context, &[self.routing.name(session.namespace), &session.client_id])
    }

    /// The slot of a message's publisher, where that is a connection of this shard.
    pub(crate) fn origin_connection(&self, origin: Origin) -> Option<ConnectionSlot> {
        let ConnId { slot, generation } = origin.connection;
        let here = origin.shard == self.config.shard && self.clients.generation(slot) == generation;
        (here && self.clients.connection(slot).is_some()).then_some(slot)
    }
}
