//! PUBLISH from clients, and the routing of messages.

use std::num::NonZeroU16;

use crate::clients::session::Session;
use crate::delivery::out_buffer::{ACKNOWLEDGEMENT_BYTES, Acknowledgement};
use crate::delivery::publish_context::PublishContext;
use crate::ids::{
    ConnId, ConnectionSlot, Millis, NamespaceId, Origin, Qos2Key, RecordId, SessionId, ShardId, stable_hash,
};
use crate::limits::INCOMING_QOS2_MAX;
use crate::links::link::{ForwardedPublish, RANK_DIRECT, RANK_OWNER, Route};
use crate::observe::Site;
use crate::shard_set::ShardSet;
use crate::values::delivery::Delivery;
use crate::values::message::expires_at;
use crate::{Core, Dropped, Subject};
use weir_mqtt::{PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

/// Why a PUBLISH is not accepted.
enum Refused {
    /// The connection ends with this reason.
    Disconnect(ReasonCode),
    /// The message goes no further; where it is acknowledged, with this reason.
    Message(ReasonCode, Dropped),
}

impl Core {
    /// A PUBLISH from a client; `raw` is the whole packet.
    pub(crate) fn on_publish(&mut self, id: ConnId, publish: &Publish<'_>, raw: &[u8], now: Millis) {
        let Some(connection) = self.clients.connection_mut(id.slot) else {
            return self.observe.note(Site::ConnectionOfPacket);
        };
        connection.messages_received += 1;
        self.observe.endpoint(connection.endpoint).messages_received += 1;
        // An alias is learned from every PUBLISH, whatever becomes of the message.
        if let Some(alias) = publish.properties.topic_alias
            && let Err(reason) = self.learn_alias(id.slot, alias, publish.topic)
        {
            return self.refuse(id.slot, reason);
        }
        if publish.qos == QoS::ExactlyOnce && self.is_resend(id.slot, publish.packet_id) {
            // The record of its first transmission, on another connection, may not be on disk yet.
            let epoch = self.journal.unsettled();
            return self.acknowledge(id.slot, publish, ReasonCode::Success, epoch);
        }
        if !publish.topic.is_empty() {
            return self.publish_to(id, publish.topic, publish, raw, now);
        }
        // `learn_alias` found the alias: the name is taken out and put back, not copied.
        let Some(name) = self.alias_slot(id.slot, publish).and_then(Option::take) else {
            return self.observe.note(Site::TopicOfAlias);
        };
        self.publish_to(id, &name, publish, raw, now);
        if let Some(slot) = self.alias_slot(id.slot, publish) {
            *slot = Some(name);
        }
    }

    /// Checks and routes a PUBLISH whose alias is resolved to `topic`.
    fn publish_to(&mut self, id: ConnId, topic: &str, publish: &Publish<'_>, raw: &[u8], now: Millis) {
        match self.check_publish(id, topic, publish, raw.len(), now) {
            Ok(()) => self.publish_on(id, topic, publish, raw, now),
            Err(Refused::Disconnect(reason)) => self.refuse(id.slot, reason),
            Err(Refused::Message(reason, why)) => {
                self.drop_message(id.slot, why);
                if reason == ReasonCode::NotAuthorized {
                    self.count_unauthorized(id.slot);
                }
                self.acknowledge(id.slot, publish, reason, None);
            }
        }
    }

    /// Notes what topic an alias stands for from now on, or finds that it stands for one [section 3.3.2.3.4].
    fn learn_alias(&mut self, slot: ConnectionSlot, alias: NonZeroU16, topic: &str) -> Result<(), ReasonCode> {
        let Some(connection) = self.clients.connection_mut(slot) else {
            self.observe.note(Site::ConnectionOfPacket);
            return Ok(());
        };
        if alias.get() > connection.policy.limits.topic_alias_maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let place = usize::from(alias.get()) - 1;
        let aliases = &mut connection.cold_mut().incoming_aliases;
        if topic.is_empty() {
            // One that was never set, perhaps in an earlier connection [MQTT-3.3.2-7].
            return if aliases.get(place).is_some_and(Option::is_some) {
                Ok(())
            } else {
                Err(ReasonCode::ProtocolError)
            };
        }
        if aliases.len() <= place {
            aliases.resize(place + 1, None);
        }
        aliases[place] = Some(topic.into());
        Ok(())
    }

    fn alias_slot(&mut self, slot: ConnectionSlot, publish: &Publish<'_>) -> Option<&mut Option<Box<str>>> {
        let alias = publish.properties.topic_alias?;
        let cold = self.clients.connection_mut(slot)?.cold.as_mut()?;
        cold.incoming_aliases.get_mut(usize::from(alias.get()) - 1)
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
    ) -> Result<(), Refused> {
        let Some(connection) = self.clients.connection(id.slot) else {
            self.observe.note(Site::ConnectionOfPacket);
            return Ok(());
        };
        let limits = &connection.policy.limits;
        if publish.qos > limits.maximum_qos {
            return Err(Refused::Disconnect(ReasonCode::QoSNotSupported));
        }
        if publish.retain && !limits.retain_available {
            return Err(Refused::Disconnect(ReasonCode::RetainNotSupported));
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
                return Err(Refused::Disconnect(ReasonCode::ReceiveMaximumExceeded));
            }
        }
        if self.charge_publish(id, size, now).is_err() {
            return Err(Refused::Disconnect(ReasonCode::MessageRateTooHigh));
        }
        if self.journal.is_full() {
            self.check_store(id.slot, topic, publish)?;
        }
        // A topic has at most one level more than bytes: most need no count.
        let levels_max = usize::from(levels_max);
        if publish.topic.len() >= levels_max && weir_mqtt::levels(publish.topic) > levels_max {
            return Err(if is_v5 && publish.qos > QoS::AtMostOnce {
                Refused::Message(ReasonCode::TopicNameInvalid, Dropped::Invalid)
            } else {
                Refused::Disconnect(ReasonCode::TopicNameInvalid)
            });
        }
        if publish.properties.payload_format_indicator == Some(1) && std::str::from_utf8(publish.payload).is_err() {
            return Err(if publish.qos > QoS::AtMostOnce {
                Refused::Message(ReasonCode::PayloadFormatInvalid, Dropped::Invalid)
            } else {
                Refused::Disconnect(ReasonCode::PayloadFormatInvalid)
            });
        }
        self.authorize_publish(id.slot, topic, publish)
    }

    /// The disk is full: 5.0 has a reason code for it, and QoS 0 gets no answer. A 3.x client waits, see
    /// [`Core::hold_publish`].
    fn check_store(&mut self, slot: ConnectionSlot, topic: &str, publish: &Publish<'_>) -> Result<(), Refused> {
        let waits = publish.qos > QoS::AtMostOnce && self.clients.connection(slot).is_none_or(|c| !c.is_v5());
        if !waits && self.needs_room(slot, topic, publish) {
            return Err(Refused::Message(ReasonCode::QuotaExceeded, Dropped::StoreFull));
        }
        Ok(())
    }

    fn authorize_publish(&mut self, slot: ConnectionSlot, topic: &str, publish: &Publish<'_>) -> Result<(), Refused> {
        let refused = Err(Refused::Message(ReasonCode::NotAuthorized, Dropped::NotAuthorized));
        let Some(connection) = self.clients.connection(slot) else {
            self.observe.note(Site::ConnectionOfPacket);
            return refused;
        };
        if connection.was_permitted(topic, publish.qos, publish.retain) {
            return Ok(());
        }
        // $SYS is the broker's own to write.
        if topic.starts_with("$SYS/") {
            return refused;
        }
        if connection.policy.acl.is_none() && connection.principal.claims_acl.is_none() {
            return Ok(());
        }
        let Some((connection, Some(session))) = self.clients.connection_and_session(slot) else {
            self.observe.note(Site::SessionOfConnection);
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

    fn publish_on(&mut self, id: ConnId, topic: &str, publish: &Publish<'_>, raw: &[u8], now: Millis) {
        let Some(connection) = self.clients.connection(id.slot) else {
            return self.observe.note(Site::ConnectionOfPacket);
        };
        let (version, session_id) = (connection.version, connection.session);
        let (ceiling_s, durable) =
            (connection.policy.limits.message_expiry_max_s, connection.policy.limits.is_durable());
        let expires_at = expires_at(publish.properties.message_expiry_s, ceiling_s, now);
        let publisher = if publish.retain { self.publisher(id.slot) } else { None };
        let Some(session) = self.clients.session_mut(session_id) else {
            return self.observe.note(Site::SessionOfConnection);
        };
        let mut qos2_key = None;
        if let (QoS::ExactlyOnce, Some(packet_id)) = (publish.qos, publish.packet_id) {
            session.incoming.get_or_insert_default().insert(packet_id);
            qos2_key = session.durable.as_ref().map(|durable| (durable.id, packet_id));
        }
        let namespace = session.namespace;
        let origin = Origin { shard: self.config.shard, connection: id, session: session_id };
        let mut context = PublishContext::new(topic, publish, version, raw, expires_at, origin);
        (context.publisher, context.durable, context.qos2_key) = (publisher, durable, qos2_key);
        // A client that subscribes to its own topic sees PUBREC before its message, as where messages are routed at PUBREL.
        // What may have to wait for the disk comes after.
        let acknowledges_first = publish.qos == QoS::ExactlyOnce && !self.journal.is_on();
        if acknowledges_first {
            self.acknowledge(id.slot, publish, ReasonCode::Success, None);
        }
        let mark = self.journal.mark();
        self.route(namespace, &mut context, now);
        let mut epoch = None;
        if self.journal.has_dependencies(mark) {
            if let Some(qos2_key) = qos2_key {
                self.record_qos2_receipt(session_id, qos2_key, self.journal.has_recorded(mark));
            }
            epoch = self.journal.unsettled();
            self.pause_if_store_lags(&context);
        }
        if !acknowledges_first {
            self.acknowledge(id.slot, publish, ReasonCode::Success, epoch);
        }
    }

    /// A QoS 2 publish of a durable session left records, here or on other shards: its packet identifier is to be known
    /// as long as they may be asked for, together with them.
    fn record_qos2_receipt(&mut self, session: SessionId, qos2_key: Qos2Key, here: bool) {
        if let Some(durable) = self.clients.session_mut(session).and_then(|s| s.durable.as_mut()) {
            durable.received.insert(qos2_key.1);
            durable.recovered.remove(&qos2_key.1);
        }
        if here {
            self.journal.record_received(qos2_key);
        }
    }

    /// PUBACK or PUBREC, as the QoS asks; once `epoch` is settled, if there is one.
    fn acknowledge(&mut self, slot: ConnectionSlot, publish: &Publish<'_>, reason: ReasonCode, epoch: Option<u64>) {
        let Some(packet_id) = publish.packet_id else { return };
        let Some(connection) = self.clients.connection(slot) else {
            return self.observe.note(Site::ConnectionOfPacket);
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
                return self.close(slot);
            }
            return self.acknowledge_after(slot, Acknowledgement { epoch, qos: publish.qos, packet_id, code });
        }
        self.write_past_gates(slot, |out| {
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
            session.incoming.get_or_insert_default().insert(packet_id);
        }
    }

    /// Routes a message that came in here: over its topic's owner where it is retained (so that what a subscriber is sent
    /// of it, kept and live, is one sequence), or where an earlier one of its publisher still is on that way.
    pub(crate) fn route(&mut self, namespace: NamespaceId, context: &mut PublishContext<'_>, now: Millis) {
        if self.config.shards > 1 {
            let owner = self.routing.topic_owner(namespace, context.topic);
            if owner != self.config.shard && (context.publish.retain || self.is_in_transit(context.origin, owner)) {
                let after = self.links.positions().into();
                self.forward_publish(owner, namespace, Route::ViaOwner { after }, context);
                self.remember_transit(context.origin, owner);
                return;
            }
        }
        self.route_here(namespace, context, &[], now);
    }

    /// Keeps and fans out a message as its topic's owner, or one that is not retained. `after`: see [`Route::ViaOwner`].
    pub(crate) fn route_here(
        &mut self,
        namespace: NamespaceId,
        context: &mut PublishContext<'_>,
        after: &[u64],
        now: Millis,
    ) {
        if context.publish.retain && !self.already_retained(namespace, context) {
            let message = context.store();
            self.set_retained(namespace, &message, context.durable);
        }
        let destinations = self.fan_out(namespace, context, now);
        for to in destinations {
            // The publisher's own shard has done with what came before.
            let is_home = to == context.origin.shard;
            let after = after.get(to.place()).copied().filter(|_| !is_home).unwrap_or(0);
            self.forward_publish(to, namespace, Route::Direct { after }, context);
        }
    }

    /// Delivers to this shard's subscribers; answers with the other shards that have interest.
    pub(crate) fn fan_out(
        &mut self,
        namespace: NamespaceId,
        context: &mut PublishContext<'_>,
        now: Millis,
    ) -> ShardSet {
        let matches = self.routing.matches(namespace, context.topic);
        context.set_receivers(matches.subscribers.len());
        self.work += matches.subscribers.len();
        self.scheduler.spend_priority(matches.subscribers.len());
        for matched in &matches.subscribers {
            let own = context.origin.session == matched.session && context.origin.shard == self.config.shard;
            if !matched.audience.takes(own)
                || (context.qos2_key.is_some() && self.session_already_got(matched.session, context))
            {
                continue;
            }
            let (first, more) = matches.identifiers(matched);
            let identifiers = first.map(|first| std::iter::once(first).chain(more.iter().copied()).collect());
            let delivery = Delivery {
                qos: matched.qos.min(context.publish.qos),
                retain: matched.retain_as_published && context.publish.retain,
                identifiers,
                group: None,
                record: RecordId::NONE,
                again: false,
            };
            self.deliver(matched.session, delivery, context, now);
        }
        for &group in &matches.groups {
            if context.qos2_key.is_some() && self.group_already_got(group, context) {
                continue;
            }
            self.deliver_shared(group, context, now);
        }
        matches.destinations
    }

    fn forward_publish(&mut self, to: ShardId, namespace: NamespaceId, route: Route, context: &PublishContext<'_>) {
        self.define_namespace(to, namespace);
        let origin = context.origin;
        let is_direct = matches!(route, Route::Direct { .. });
        let encoded = self.links.forward(to, |bytes| {
            let version = context.encode_for_link(bytes).ok()?;
            let (publisher, expires_at) = (context.publisher.clone(), context.expires_at);
            let (durable, qos2_key) = (context.durable, context.qos2_key);
            let (start, end) = (0, 0);
            let forwarded = ForwardedPublish {
                namespace,
                route,
                version,
                origin,
                publisher,
                expires_at,
                durable,
                qos2_key,
                start,
                end,
            };
            Some(forwarded)
        });
        if !encoded {
            // It was decoded from a packet as large: it can be encoded again.
            return self.observe.note(Site::ForwardedPublish);
        }
        if self.links.must_pause(to, origin) {
            self.pause(origin);
        }
        let kept = !is_direct && context.durable;
        if context.publish.qos > QoS::AtMostOnce || (kept && context.publish.retain) {
            self.depend_on(to, if is_direct { RANK_DIRECT } else { RANK_OWNER }, kept);
        }
    }

    /// Whether an earlier process had taken part of a QoS 2 publish that its client sends again: the part of the shard
    /// that `names` belonged to then.
    pub(crate) fn already_processed(&self, context: &PublishContext<'_>, names: &[&str]) -> bool {
        self.journal.already_processed(context.qos2_key, names)
    }

    /// The same, of what its topic's owner keeps.
    fn already_retained(&self, namespace: NamespaceId, context: &PublishContext<'_>) -> bool {
        self.already_processed(context, &[self.routing.name(namespace), context.topic])
    }

    /// The same, of what a session was to get.
    fn session_already_got(&mut self, session: SessionId, context: &PublishContext<'_>) -> bool {
        let Some(session) = self.clients.session(session) else {
            self.observe.note(Site::SessionOfSubscription);
            return false;
        };
        self.already_processed(context, &[self.routing.name(session.namespace), &session.client_id])
    }

    fn is_in_transit(&mut self, origin: Origin, owner: ShardId) -> bool {
        let settled = self.links.settled(owner);
        let Some(cold) = self
            .origin_connection(origin)
            .and_then(|slot| self.clients.connection_mut(slot))
            .and_then(|connection| connection.cold.as_mut())
        else {
            return false;
        };
        cold.via_owner.retain(|&(shard, place)| shard != owner || place > settled);
        cold.via_owner.iter().any(|&(shard, _)| shard == owner)
    }

    fn remember_transit(&mut self, origin: Origin, owner: ShardId) {
        let place = self.links.position(owner);
        let Some(slot) = self.origin_connection(origin) else { return };
        if let Some(connection) = self.clients.connection_mut(slot) {
            let via_owner = &mut connection.cold_mut().via_owner;
            via_owner.retain(|&(shard, _)| shard != owner);
            via_owner.push((owner, place));
        }
    }

    /// A client went: should it come back at once, what it publishes then must not overtake what it published before
    /// [MQTT-4.6.0-5].
    pub(crate) fn keep_departed_routes(&mut self, slot: ConnectionSlot, session: SessionId) {
        let cold = self.clients.connection_mut(slot).and_then(|connection| connection.cold.as_mut());
        let ways = cold.map(|cold| std::mem::take(&mut cold.via_owner)).unwrap_or_default();
        if !ways.is_empty() {
            let client = self.client_hash(session);
            self.drop_settled_routes();
            self.departed_routes.extend(ways.into_iter().map(|(owner, place)| (client, owner, place)));
        }
    }

    /// Takes the routes of a returning client whose earlier messages are in transit.
    pub(crate) fn take_departed_routes(&mut self, session: SessionId) -> Vec<(ShardId, u64)> {
        if self.departed_routes.is_empty() {
            return Vec::new();
        }
        self.drop_settled_routes();
        let client = self.client_hash(session);
        self.departed_routes
            .extract_if(.., |(left, ..)| *left == client)
            .map(|(_, owner, place)| (owner, place))
            .collect()
    }

    /// The hash that identifies a session's client while its messages are in transit.
    fn client_hash(&self, id: SessionId) -> u64 {
        let hash = |session: &Session| stable_hash(&[self.routing.name(session.namespace), &session.client_id]);
        self.clients.session(id).map_or(0, hash)
    }

    fn drop_settled_routes(&mut self) {
        let links = &self.links;
        self.departed_routes.retain(|&(_, owner, place)| place > links.settled(owner));
    }

    /// The slot of a message's publisher, where that is a connection of this shard.
    pub(crate) fn origin_connection(&self, origin: Origin) -> Option<ConnectionSlot> {
        let ConnId { slot, generation } = origin.connection;
        let here = origin.shard == self.config.shard && self.clients.generation(slot) == generation;
        (here && self.clients.connection(slot).is_some()).then_some(slot)
    }
}
