//! PUBLISH from clients, and the routing of messages.

use std::num::NonZeroU16;

use super::connection::Origin;
use super::inflight::Delivery;
use super::journal::{Once, Part};
use super::limits::{INCOMING_QOS2_MAX, LINK_HIGH_BYTES};
use super::link::{Crossing, Hop, Item, RANK_LAST, RANK_OWNER};
use super::message::expires_at;
use super::out::{ACKNOWLEDGEMENT_BYTES, Acknowledgement};
use super::record::RecordId;
use super::session::SpaceId;
use super::shard_set::ShardSet;
use super::subscriptions::SessionId;
use super::view::View;
use super::{ConnId, Core, Dropped, Millis, ShardId, Subject, owner_of};
use weir_mqtt::{PacketId, ProtocolVersion, Publish, QoS, ReasonCode};

/// What stops a PUBLISH.
enum Refused {
    /// The connection ends with this reason.
    Disconnect(ReasonCode),
    /// The message goes no further; where it is acknowledged, with this reason.
    Message(ReasonCode, Dropped),
}

impl Core {
    /// A PUBLISH from a client; `raw` is the whole packet.
    pub(super) fn on_publish(&mut self, id: ConnId, publish: &Publish<'_>, raw: &[u8], now: Millis) {
        let Some(connection) = self.connections.get_mut(id.slot) else { return };
        connection.messages_received += 1;
        self.counters[connection.endpoint as usize].messages_received += 1;
        // An alias is learned from every PUBLISH, whatever becomes of the message.
        if let Some(alias) = publish.properties.topic_alias
            && let Err(reason) = self.learn_alias(id.slot, alias, publish.topic)
        {
            return self.refuse(id.slot, reason);
        }
        if publish.qos == QoS::ExactlyOnce && self.is_resend(id.slot, publish.packet_id) {
            // What it waits for may not be on disk yet, and was promised on another connection.
            let turn = self.journal.unsettled();
            self.acknowledge(id.slot, publish, ReasonCode::Success, turn);
            return;
        }
        if let Err(refused) = self.check_publish(id, publish, raw.len(), now) {
            match refused {
                Refused::Disconnect(reason) => self.refuse(id.slot, reason),
                Refused::Message(reason, why) => {
                    self.drop_message(id.slot, why);
                    if reason == ReasonCode::NotAuthorized {
                        self.count_unauthorized(id.slot);
                    }
                    self.acknowledge(id.slot, publish, reason, None);
                }
            }
            return;
        }
        if publish.topic.is_empty() {
            // `learn_alias` found the alias: the name is taken out and put back, not copied.
            let Some(name) = self.alias_slot(id.slot, publish).and_then(Option::take) else { return };
            self.publish_on(id, &name, publish, raw, now);
            if let Some(slot) = self.alias_slot(id.slot, publish) {
                *slot = Some(name);
            }
        } else {
            self.publish_on(id, publish.topic, publish, raw, now);
        }
    }

    /// Notes what topic an alias stands for from now on, or finds that it stands for one [section 3.3.2.3.4].
    fn learn_alias(&mut self, slot: u32, alias: NonZeroU16, topic: &str) -> Result<(), ReasonCode> {
        let Some(connection) = self.connections.get_mut(slot) else { return Ok(()) };
        if alias.get() > connection.policy.limits.topic_alias_maximum {
            return Err(ReasonCode::TopicAliasInvalid);
        }
        let place = usize::from(alias.get()) - 1;
        let aliases = &mut connection.aside().incoming_aliases;
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

    fn alias_slot(&mut self, slot: u32, publish: &Publish<'_>) -> Option<&mut Option<Box<str>>> {
        let alias = publish.properties.topic_alias?;
        let aside = self.connections.get_mut(slot)?.rare.as_mut()?;
        aside.incoming_aliases.get_mut(usize::from(alias.get()) - 1)
    }

    /// A QoS 2 message that was taken already: it is acknowledged again, and goes no further [MQTT-4.3.3-10].
    pub(super) fn is_resend(&self, slot: u32, packet_id: Option<PacketId>) -> bool {
        let session = self.connections.get(slot).and_then(|c| self.sessions.get(c.session));
        let Some((session, id)) = session.zip(packet_id) else { return false };
        let taken = session.incoming.as_ref().is_some_and(|incoming| incoming.contains(&id));
        taken && !session.durable.as_ref().is_some_and(|durable| durable.recovered.contains(&id))
    }

    fn check_publish(&mut self, id: ConnId, publish: &Publish<'_>, size: usize, now: Millis) -> Result<(), Refused> {
        let Some(connection) = self.connections.get(id.slot) else { return Ok(()) };
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
            let session = self.sessions.get(connection.session);
            let open = session.and_then(|s| s.incoming.as_ref()).map_or(0, |incoming| incoming.len());
            let again =
                session.and_then(|s| s.incoming.as_ref()).zip(publish.packet_id).is_some_and(|(i, p)| i.contains(&p));
            // Beyond what CONNACK allowed [MQTT-3.3.4-7]; 3.x was told nothing, and has the identifiers' own bound.
            if !again && open >= if is_v5 { receive_maximum } else { INCOMING_QOS2_MAX } {
                return Err(Refused::Disconnect(ReasonCode::ReceiveMaximumExceeded));
            }
        }
        if self.take_rate(id, size, now).is_err() {
            return Err(Refused::Disconnect(ReasonCode::MessageRateTooHigh));
        }
        if self.journal.full {
            self.check_store(id.slot, publish)?;
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
        self.authorize_publish(id.slot, publish)
    }

    /// The disk is full: 5.0 can be told so, and QoS 0 is told nothing. A 3.x client waits, see [`Core::hold_publish`].
    fn check_store(&mut self, slot: u32, publish: &Publish<'_>) -> Result<(), Refused> {
        let waits = publish.qos > QoS::AtMostOnce && self.connections.get(slot).is_none_or(|c| !c.is_v5());
        if !waits && self.needs_room(slot, publish) {
            return Err(Refused::Message(ReasonCode::QuotaExceeded, Dropped::StoreFull));
        }
        Ok(())
    }

    fn authorize_publish(&mut self, slot: u32, publish: &Publish<'_>) -> Result<(), Refused> {
        let Some(connection) = self.connections.get_mut(slot) else { return Ok(()) };
        if connection.was_permitted(publish.topic, publish.qos, publish.retain) {
            return Ok(());
        }
        let topic = match publish.properties.topic_alias {
            Some(alias) if publish.topic.is_empty() => connection
                .rare
                .as_ref()
                .and_then(|aside| aside.incoming_aliases.get(usize::from(alias.get()) - 1)?.as_deref())
                .unwrap_or_default(),
            _ => publish.topic,
        };
        let refused = Err(Refused::Message(ReasonCode::NotAuthorized, Dropped::NotAuthorized));
        // $SYS is the broker's own to write.
        if topic.starts_with("$SYS/") {
            return refused;
        }
        if connection.policy.acl.is_none() && connection.principal.claims_acl.is_none() {
            return Ok(());
        }
        let Some(session) = self.sessions.get(connection.session) else { return Ok(()) };
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
        if !publish.topic.is_empty() {
            connection.permit(publish.topic, publish.qos, publish.retain);
        }
        Ok(())
    }

    fn publish_on(&mut self, id: ConnId, topic: &str, publish: &Publish<'_>, raw: &[u8], now: Millis) {
        let Some(connection) = self.connections.get(id.slot) else { return };
        let (version, session_id) = (connection.version, connection.session);
        let (ceiling_s, durable) = (connection.policy.limits.message_expiry_max_s, connection.policy.limits.durable);
        let expires_at = expires_at(publish.properties.message_expiry_s, ceiling_s, now);
        let publisher = if publish.retain { self.publisher(id.slot) } else { None };
        let Some(session) = self.sessions.get_mut(session_id) else { return };
        let mut once = None;
        if let (QoS::ExactlyOnce, Some(packet_id)) = (publish.qos, publish.packet_id) {
            session.incoming.get_or_insert_default().insert(packet_id);
            once = session.durable.as_ref().map(|durable| (durable.id, packet_id));
        }
        let space = session.space;
        let origin = Origin { shard: self.config.shard, connection: id, session: session_id };
        let mut view = View::new(topic, publish, version, raw, expires_at, origin);
        (view.publisher, view.durable, view.once) = (publisher, durable, once);
        // Who subscribes to what it publishes sees PUBREC before its own message, as it would where messages go on at PUBREL.
        // What may have to wait for the disk comes after.
        let acknowledges_first = publish.qos == QoS::ExactlyOnce && !self.journal.on;
        if acknowledges_first {
            self.acknowledge(id.slot, publish, ReasonCode::Success, None);
        }
        let (recorded, dependencies) = (self.journal.recorded, self.journal.dependencies);
        self.route(space, &mut view, now);
        let mut turn = None;
        if self.journal.dependencies != dependencies {
            if let Some(once) = once {
                self.take_once(session_id, once, self.journal.recorded != recorded);
            }
            turn = self.journal.unsettled();
            self.await_disk(&view);
        }
        if !acknowledges_first {
            self.acknowledge(id.slot, publish, ReasonCode::Success, turn);
        }
    }

    /// A QoS 2 publish of a durable session left records, here or on other shards: its packet identifier is to be known
    /// as long as they may be asked for, together with them.
    fn take_once(&mut self, session: SessionId, once: Once, here: bool) {
        if let Some(durable) = self.sessions.get_mut(session).and_then(|s| s.durable.as_mut()) {
            durable.received.insert(once.1);
            durable.recovered.remove(&once.1);
        }
        if here {
            self.record_received(once);
        }
    }

    /// PUBACK or PUBREC, as the QoS asks; once `turn` is settled, if there is one.
    fn acknowledge(&mut self, slot: u32, publish: &Publish<'_>, reason: ReasonCode, turn: Option<u64>) {
        let Some(packet_id) = publish.packet_id else { return };
        let Some(connection) = self.connections.get(slot) else { return };
        let (version, maximum_packet_size) = (connection.version, connection.maximum_packet_size);
        let told_of_full = self.journal.full && version == ProtocolVersion::V5;
        let (reason, turn) = match turn {
            // Not in the order of the PUBLISHes then, to which 5.0 does not hold a server.
            None if told_of_full => (reason, None),
            // [MQTT-4.6.0-2]
            None => (reason, connection.out.acknowledges(publish.qos)),
            turn => (reason, turn),
        };
        // 3.x has no reason in its acknowledgements: what is refused is acknowledged all the same [MQTT-3.3.5-2].
        let code = if version == ProtocolVersion::V5 { reason } else { ReasonCode::Success };
        if publish.qos == QoS::ExactlyOnce && version != ProtocolVersion::V5 && reason as u8 >= 0x80 {
            self.remember_incoming(slot, packet_id);
        }
        if let Some(turn) = turn {
            if maximum_packet_size < ACKNOWLEDGEMENT_BYTES {
                // It could not be sent when its time comes [MQTT-3.1.2-24].
                return self.close(slot);
            }
            return self.acknowledge_after(slot, Acknowledgement { turn, qos: publish.qos, packet_id, code });
        }
        self.write_past_holds(slot, |out| {
            if publish.qos == QoS::ExactlyOnce {
                weir_mqtt::pubrec(out, version, packet_id, code);
            } else {
                weir_mqtt::puback(out, version, packet_id, code);
            }
            Ok(())
        });
    }

    /// A 3.x client goes on with PUBREL after any PUBREC.
    fn remember_incoming(&mut self, slot: u32, packet_id: PacketId) {
        if let Some(session) = self.connections.get(slot).map(|c| c.session).and_then(|s| self.sessions.get_mut(s)) {
            session.incoming.get_or_insert_default().insert(packet_id);
        }
    }

    /// Routes a message that came in here: over its topic's owner where it is retained (so that what a subscriber is sent
    /// of it, kept and live, is one sequence), or where an earlier one of its publisher still is on that way.
    pub(super) fn route(&mut self, space: SpaceId, view: &mut View<'_>, now: Millis) {
        if self.config.shards > 1 {
            let owner = self.topic_owner(space, view.topic);
            if owner != self.config.shard && (view.publish.retain || self.is_on_the_way(view.origin, owner)) {
                let after = self.links.iter().map(|link| link.sent).collect();
                self.send_over(owner, space, Hop::Owner { after }, view);
                self.remember_way(view.origin, owner);
                return;
            }
        }
        self.route_here(space, view, &[], now);
    }

    /// Keeps and fans out a message as its topic's owner, or one that is not retained. `after`: see [`Hop::Owner`].
    pub(super) fn route_here(&mut self, space: SpaceId, view: &mut View<'_>, after: &[u64], now: Millis) {
        if view.publish.retain && !self.was_kept(space, view) {
            let message = view.store();
            self.set_retained(space, &message, view.durable);
        }
        for to in self.fan_out(space, view, now) {
            // The publisher's own shard has done with what came before.
            let is_home = to == view.origin.shard;
            let after = after.get(usize::from(to.0)).copied().filter(|_| !is_home).unwrap_or(0);
            self.send_over(to, space, Hop::Last { after }, view);
        }
    }

    /// Delivers to who wants it on this shard; answers which other shards do.
    pub(super) fn fan_out(&mut self, space: SpaceId, view: &mut View<'_>, now: Millis) -> ShardSet {
        let matches = self.spaces[space as usize].subscriptions.matches(view.topic);
        view.set_receivers(matches.subscribers.len());
        self.work += matches.subscribers.len();
        self.prompt_deliveries = self.prompt_deliveries.saturating_sub(matches.subscribers.len());
        for matched in &matches.subscribers {
            let own = view.origin.session == matched.session && view.origin.shard == self.config.shard;
            if !matched.audience.takes(own) || (view.once.is_some() && self.had_taken(matched.session, view)) {
                continue;
            }
            let (first, more) = matches.identifiers(matched);
            let identifiers = first.map(|first| std::iter::once(first).chain(more.iter().copied()).collect());
            let delivery = Delivery {
                qos: matched.qos.min(view.publish.qos),
                retain: matched.retain_as_published && view.publish.retain,
                identifiers,
                group: None,
                record: RecordId::NONE,
                again: false,
            };
            self.deliver(matched.session, delivery, view, now);
        }
        for &group in &matches.groups {
            if view.once.is_some() && self.group_had_taken(group, view) {
                continue;
            }
            self.deliver_shared(group, view, now);
        }
        matches.destinations
    }

    fn send_over(&mut self, to: ShardId, space: SpaceId, hop: Hop, view: &View<'_>) {
        self.define_space(to, space);
        let link = &mut self.links[usize::from(to.0)];
        let mut form = Ok(view.version);
        let (start, end) = link.append(|bytes| form = view.encode_for_link(bytes));
        // It was decoded from a packet as large: it can be encoded again.
        let Ok(version) = form else { return };
        let (origin, publisher, expires_at) = (view.origin, view.publisher.clone(), view.expires_at);
        let (durable, once) = (view.durable, view.once);
        let is_last = matches!(hop, Hop::Last { .. });
        let asks_notice = is_last && origin.shard != self.config.shard && origin != Origin::NOBODY;
        let crossing = Crossing { space, hop, version, origin, publisher, expires_at, durable, once, start, end };
        link.push(Item::Publish(crossing));
        // Sent on for another shard, whose publisher waits to know that it may take the short way again.
        link.batch.asks_notice |= asks_notice;
        if link.sent - link.taken > LINK_HIGH_BYTES && origin != Origin::NOBODY && !link.waiters.contains(&origin) {
            link.waiters.push(origin);
            self.pause(origin);
        }
        let kept = !is_last && durable;
        if view.publish.qos > QoS::AtMostOnce || (kept && view.publish.retain) {
            self.depend_on(to, if is_last { RANK_LAST } else { RANK_OWNER }, kept);
        }
    }

    /// Whether an earlier process had taken part of a QoS 2 publish that its client sends again: the part of the shard
    /// that `names` belonged to then.
    pub(super) fn was_taken(&self, view: &View<'_>, names: &[&str]) -> bool {
        let Some(once) = view.once.filter(|_| !self.journal.recovered.is_empty()) else { return false };
        self.journal.recovered_shards.iter().any(|&shards| {
            let part = Part { shards, shard: owner_of(names, shards).0 };
            self.journal.recovered.contains(&(once, part))
        })
    }

    /// The same, of what its topic's owner keeps.
    fn was_kept(&self, space: SpaceId, view: &View<'_>) -> bool {
        self.was_taken(view, &[&self.spaces[space as usize].name, view.topic])
    }

    /// The same, of what a session was to get.
    fn had_taken(&self, session: SessionId, view: &View<'_>) -> bool {
        let Some(session) = self.sessions.get(session) else { return false };
        self.was_taken(view, &[&self.spaces[session.space as usize].name, &session.client_id])
    }

    fn topic_owner(&self, space: SpaceId, topic: &str) -> ShardId {
        owner_of(&[&self.spaces[space as usize].name, topic], self.config.shards)
    }

    fn is_on_the_way(&mut self, origin: Origin, owner: ShardId) -> bool {
        let settled = self.links[usize::from(owner.0)].settled;
        let Some(aside) = self
            .origin_connection(origin)
            .and_then(|slot| self.connections.get_mut(slot))
            .and_then(|connection| connection.rare.as_mut())
        else {
            return false;
        };
        aside.via_owner.retain(|&(shard, place)| shard != owner || place > settled);
        aside.via_owner.iter().any(|&(shard, _)| shard == owner)
    }

    fn remember_way(&mut self, origin: Origin, owner: ShardId) {
        let place = self.links[usize::from(owner.0)].sent;
        let Some(slot) = self.origin_connection(origin) else { return };
        if let Some(connection) = self.connections.get_mut(slot) {
            let via_owner = &mut connection.aside().via_owner;
            via_owner.retain(|&(shard, _)| shard != owner);
            via_owner.push((owner, place));
        }
    }

    /// A client went: should it come back at once, what it publishes then must not overtake what it published before
    /// [MQTT-4.6.0-5].
    pub(super) fn leave_on_the_way(&mut self, slot: u32, session: SessionId) {
        let aside = self.connections.get_mut(slot).and_then(|connection| connection.rare.as_mut());
        let ways = aside.map(|aside| std::mem::take(&mut aside.via_owner)).unwrap_or_default();
        if !ways.is_empty() {
            let client = self.client_hash(session);
            self.forget_what_arrived();
            self.left_on_the_way.extend(ways.into_iter().map(|(owner, place)| (client, owner, place)));
        }
    }

    /// What a client that came back had left on the way.
    pub(super) fn found_on_the_way(&mut self, session: SessionId) -> Vec<(ShardId, u64)> {
        if self.left_on_the_way.is_empty() {
            return Vec::new();
        }
        self.forget_what_arrived();
        let client = self.client_hash(session);
        self.left_on_the_way
            .extract_if(.., |(left, ..)| *left == client)
            .map(|(_, owner, place)| (owner, place))
            .collect()
    }

    fn forget_what_arrived(&mut self) {
        let links = &self.links;
        self.left_on_the_way.retain(|&(_, owner, place)| place > links[usize::from(owner.0)].settled);
    }

    /// The slot of a message's publisher, where that is a connection of this shard.
    pub(super) fn origin_connection(&self, origin: Origin) -> Option<u32> {
        let ConnId { slot, generation } = origin.connection;
        let here = origin.shard == self.config.shard && self.connections.generation(slot) == generation;
        (here && self.connections.get(slot).is_some()).then_some(slot)
    }
}
