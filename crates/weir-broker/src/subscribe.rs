//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use super::connection::Origin;
use super::inflight::Delivery;
use super::limits::FILTERS_PER_PACKET_MAX;
use super::link::{Item, SyncId};
use super::message::Message;
use super::record::RecordId;
use super::session::{Queued, SessionRef, SpaceId};
use super::shared::{GroupKey, Member, SharedSubscription, standing};
use super::subscriptions::{SessionId, Subscriber};
use super::tree::NodeId;
use super::{ConnId, Core, Millis, ShardId, Subject};
use weir_mqtt::{
    PacketId, ProtocolVersion, QoS, ReasonCode, RetainHandling, SharedFilter, Subscribe, SubscribeFilter, Unsubscribe,
};

/// A SUBSCRIBE whose SUBACK waits until every shard knows of it.
#[derive(Debug)]
pub(super) struct PendingSubscribe {
    serial: u32,
    packet_id: PacketId,
    codes: Vec<u8>,
    /// Shards that have not answered.
    awaits: u16,
    reads: Vec<Read>,
}

/// Retained messages asked for: the filter, and how what it finds is delivered.
#[derive(Debug, Clone)]
struct Read {
    filter: Box<str>,
    qos: QoS,
    /// Subscription identifier; 0: none.
    identifier: u32,
    /// With No Local, whose messages are not wanted [MQTT-3.8.3-3].
    not_of: Option<Box<str>>,
}

impl Read {
    fn wants(&self, message: &Message) -> bool {
        let Some(not_of) = &self.not_of else { return true };
        message.publisher.as_ref().is_none_or(|publisher| publisher.client_id != *not_of)
    }

    fn queued(&self, message: &Message) -> Queued {
        let delivery = Delivery {
            qos: self.qos.min(message.qos),
            retain: true,
            identifiers: (self.identifier != 0).then(|| Box::from([self.identifier])),
            group: None,
            record: RecordId::NONE,
            again: false,
        };
        // The store of retained messages has its bytes.
        Queued { message: message.clone(), delivery, retained: true, sharers: usize::MAX }
    }
}

impl Core {
    pub(super) fn on_subscribe(&mut self, id: ConnId, subscribe: &Subscribe<'_>, now: Millis) {
        if subscribe.count > FILTERS_PER_PACKET_MAX {
            return self.refuse(id.slot, ReasonCode::QuotaExceeded);
        }
        // A filter that is none breaks the protocol: nothing of such a packet takes effect.
        for filter in subscribe.filters() {
            match SharedFilter::parse(filter.filter) {
                Err(_) => return self.refuse(id.slot, ReasonCode::TopicFilterInvalid),
                // [MQTT-3.8.3-4]
                Ok(Some(_)) if filter.options.no_local => return self.refuse(id.slot, ReasonCode::ProtocolError),
                Ok(_) => {}
            }
        }
        let Some(connection) = self.connections.get(id.slot) else { return };
        let (session, version) = (connection.session, connection.version);
        let identifier = subscribe.subscription_identifier.unwrap_or(0);
        let mut reads = Vec::new();
        let codes: Vec<u8> = subscribe
            .filters()
            .map(|filter| match self.subscribe_one(id.slot, session, filter, identifier, &mut reads) {
                Ok(qos) => qos as u8,
                Err(reason) => {
                    if reason == ReasonCode::NotAuthorized {
                        self.count_unauthorized(id.slot);
                    }
                    if version == ProtocolVersion::V5 { reason as u8 } else { 0x80 }
                }
            })
            .collect();
        let granted = codes.iter().any(|&code| code < 0x80);
        if self.config.shards > 1 && granted {
            self.ask_other_shards(session, subscribe.packet_id, codes, reads, now);
        } else {
            self.hold_durable(id.slot);
            self.write(id.slot, |out| weir_mqtt::suback(out, version, subscribe.packet_id, &codes));
            self.queue_retained(session, &reads, now);
            self.pump(session, now);
        }
    }

    /// Judges and installs one filter. Answers with the granted QoS.
    fn subscribe_one(
        &mut self,
        slot: u32,
        session_id: SessionId,
        filter: SubscribeFilter<'_>,
        identifier: u32,
        reads: &mut Vec<Read>,
    ) -> Result<QoS, ReasonCode> {
        let shared = SharedFilter::parse(filter.filter).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        let plain = shared.as_ref().map_or(filter.filter, |shared| shared.filter);
        let (Some(connection), Some(session)) = (self.connections.get(slot), self.sessions.get(session_id)) else {
            return Err(ReasonCode::UnspecifiedError);
        };
        let limits = &connection.policy.limits;
        if weir_mqtt::levels(plain) > usize::from(limits.max_topic_levels) {
            return Err(ReasonCode::TopicFilterInvalid);
        }
        let qos = filter.options.qos.min(limits.maximum_qos);
        let subject = Subject {
            client_id: &session.client_id,
            username: connection.principal.username.as_deref(),
            address: connection.principal.address,
        };
        let acls = [&connection.policy.acl, &connection.principal.claims_acl];
        if !acls.into_iter().flatten().all(|acl| acl.may_subscribe(subject, plain, qos)) {
            return Err(ReasonCode::NotAuthorized);
        }
        let held = session.subscriptions.len() + session.rare.as_ref().map_or(0, |rare| rare.shared.len());
        let full = held >= limits.max_subscriptions as usize;
        let space = session.space;
        let mut options = filter.options;
        options.qos = qos;
        if connection.is_bridge && shared.is_none() {
            (options.no_local, options.retain_as_published) = (true, true);
        }
        if let Some(shared) = shared {
            self.subscribe_shared(session_id, space, &shared, options, identifier, full)?;
            return Ok(qos);
        }
        let subscriptions = &mut self.spaces[space as usize].subscriptions;
        if full && subscriptions.find(plain, session_id).is_none() {
            return Err(ReasonCode::QuotaExceeded);
        }
        let position = session.subscriptions.len() as u32;
        let added = subscriptions.add(plain, Subscriber { session: session_id, position, identifier, options });
        let known = added.replaced.map(|replaced| replaced.position);
        if let Some(session) = self.sessions.get_mut(session_id)
            && known.is_none()
        {
            session.subscriptions.push(added.node);
        }
        self.keep_subscription(session_id, known, plain, options, identifier);
        if added.first {
            self.want(space, plain);
        }
        let wanted = match options.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => added.replaced.is_none(),
            RetainHandling::Never => false,
        };
        if wanted {
            let own_id = || self.sessions.get(session_id).map(|session| session.client_id.clone());
            let not_of = options.no_local.then(own_id).flatten();
            reads.push(Read { filter: plain.into(), qos, identifier, not_of });
        }
        Ok(qos)
    }

    /// Records a session's subscription at position `known`, or its newest, where the session is durable.
    fn keep_subscription(
        &mut self,
        id: SessionId,
        known: Option<u32>,
        filter: &str,
        options: weir_mqtt::SubscriptionOptions,
        identifier: u32,
    ) {
        let Some(durable) = self.sessions.get(id).and_then(|session| session.durable.as_ref()) else { return };
        let record = known.and_then(|position| durable.subscriptions.get(position as usize).copied());
        let record = self.record_subscription(durable.id, record, filter, options, identifier);
        if known.is_none()
            && let Some(durable) = self.sessions.get_mut(id).and_then(|session| session.durable.as_mut())
        {
            durable.subscriptions.push(record);
        }
    }

    fn subscribe_shared(
        &mut self,
        id: SessionId,
        space: SpaceId,
        shared: &SharedFilter<'_>,
        options: weir_mqtt::SubscriptionOptions,
        identifier: u32,
        full: bool,
    ) -> Result<(), ReasonCode> {
        let namespace = Arc::clone(&self.spaces[space as usize].name);
        let key = Arc::new(GroupKey { namespace, group: shared.group.into(), filter: shared.filter.into() });
        let owner = self.group_owner(&key);
        let reference = SessionRef { id, generation: self.sessions.generation(id) };
        let readiness = standing(&self.sessions, &self.connections, id);
        let Some(session) = self.sessions.get_mut(id) else { return Err(ReasonCode::UnspecifiedError) };
        let rare = session.rare.get_or_insert_default();
        match rare.shared.iter_mut().find(|s| s.key == key) {
            Some(known) => (known.told, known.qos) = (readiness, options.qos),
            None if full => return Err(ReasonCode::QuotaExceeded),
            None => {
                let (key, qos, record) = (Arc::clone(&key), options.qos, RecordId::NONE);
                rare.shared.push(SharedSubscription { key, owner, qos, told: readiness, record });
            }
        }
        let shard = self.config.shard;
        let member = Member { shard, session: reference, options, identifier, readiness };
        if owner != shard {
            self.links[usize::from(owner.0)].push(Item::Join { group: Arc::clone(&key), member });
        } else if !self.join(&key, member) {
            if let Some(rare) = self.sessions.get_mut(id).and_then(|s| s.rare.as_mut()) {
                rare.shared.retain(|s| s.key != key);
            }
            return Err(ReasonCode::QuotaExceeded);
        }
        self.keep_shared(id, &key, options, identifier);
        Ok(())
    }

    /// Records a shared subscription, where the session is durable.
    fn keep_shared(&mut self, id: SessionId, key: &GroupKey, options: weir_mqtt::SubscriptionOptions, identifier: u32) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(owner) = session.durable.as_ref().map(|durable| durable.id) else { return };
        let shared = session.rare.iter().flat_map(|rare| &rare.shared).find(|shared| *shared.key == *key);
        let known = shared.map(|shared| shared.record).filter(|record| record.is_some());
        let filter = format!("$share/{}/{}", key.group, key.filter);
        let record = self.record_subscription(owner, known, &filter, options, identifier);
        let shared = self.sessions.get_mut(id).and_then(|session| session.rare.as_mut()).map(|rare| &mut rare.shared);
        if let Some(shared) = shared.and_then(|shared| shared.iter_mut().find(|shared| *shared.key == *key)) {
            shared.record = record;
        }
    }

    /// Queues what is retained here under the filters.
    fn queue_retained(&mut self, id: SessionId, reads: &[Read], now: Millis) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let (space, rules) = (&self.spaces[session.space as usize], &self.rules);
        let mut found = Vec::new();
        for read in reads {
            space.retained.matching(&read.filter, now, |message| {
                if read.wants(message) && rules.permit(&space.name, message) {
                    found.push(read.queued(message));
                }
            });
        }
        self.queue_found(id, found);
    }

    /// Queues retained messages that a subscribe found, whatever their number.
    fn queue_found(&mut self, id: SessionId, found: Vec<Queued>) {
        for mut queued in found {
            self.record_queued(id, &mut queued);
            if let Some(session) = self.sessions.get_mut(id) {
                session.queue.push(queued);
            }
        }
    }

    /// SUBACK means subscribed everywhere on this broker: every other shard has to answer first.
    fn ask_other_shards(&mut self, id: SessionId, packet_id: PacketId, codes: Vec<u8>, reads: Vec<Read>, now: Millis) {
        self.serial = self.serial.wrapping_add(1);
        let (serial, here, shards) = (self.serial, self.config.shard, self.config.shards);
        let session = SessionRef { id, generation: self.sessions.generation(id) };
        let request = SyncId { session, serial };
        let Some(space) = self.sessions.get(id).map(|s| s.space) else { return };
        for shard in (0..shards).map(ShardId).filter(|&shard| shard != here) {
            if !reads.is_empty() {
                self.define_space(shard, space);
            }
            let reads = reads.iter().map(|read| (space, read.filter.clone())).collect();
            self.links[usize::from(shard.0)].push(Item::Sync { request, reads });
        }
        if let Some(session) = self.sessions.get_mut(id) {
            let pending = PendingSubscribe { serial, packet_id, codes, awaits: shards - 1, reads: reads.clone() };
            session.rare.get_or_insert_default().pending.push_back(pending);
        }
        self.queue_retained(id, &reads, now);
    }

    /// What is retained here, by the index of the read that finds it.
    pub(super) fn retained_under(&self, reads: &[(SpaceId, Box<str>)], now: Millis) -> Vec<(u32, Message)> {
        let mut retained = Vec::new();
        for (index, (space, filter)) in reads.iter().enumerate() {
            let space = &self.spaces[*space as usize];
            space.retained.matching(filter, now, |message| {
                if self.rules.permit(&space.name, message) {
                    retained.push((index as u32, message.clone()));
                }
            });
        }
        retained
    }

    /// Another shard answered; `holds`: with its last word.
    pub(super) fn synced(&mut self, request: SyncId, retained: &[(u32, Message)], holds: bool, now: Millis) {
        let SessionRef { id, generation } = request.session;
        let Some(session) = self.sessions.get_generation(id, generation) else { return };
        let Some(rare) = &mut session.rare else { return };
        let Some(pending) = rare.pending.iter_mut().find(|p| p.serial == request.serial) else { return };
        pending.awaits -= u16::from(holds);
        let wanted = retained.iter().filter_map(|(read, message)| {
            let read = pending.reads.get(*read as usize).filter(|read| read.wants(message))?;
            Some(read.queued(message))
        });
        let found: Vec<Queued> = wanted.collect();
        let mut done = Vec::new();
        while rare.pending.front().is_some_and(|p| p.awaits == 0) {
            done.extend(rare.pending.pop_front());
        }
        let connection = session.connection;
        self.queue_found(id, found);
        let Some(slot) = connection else { return };
        let Some(version) = self.connections.get(slot).map(|c| c.version) else { return };
        self.hold_durable(slot);
        for pending in &done {
            self.write(slot, |out| weir_mqtt::suback(out, version, pending.packet_id, &pending.codes));
        }
        self.pump(id, now);
    }

    pub(super) fn on_unsubscribe(&mut self, id: ConnId, unsubscribe: &Unsubscribe<'_>) {
        if unsubscribe.count > FILTERS_PER_PACKET_MAX {
            return self.refuse(id.slot, ReasonCode::QuotaExceeded);
        }
        if unsubscribe.filters().any(|filter| SharedFilter::parse(filter).is_err()) {
            return self.refuse(id.slot, ReasonCode::TopicFilterInvalid);
        }
        let Some(connection) = self.connections.get(id.slot) else { return };
        let (session, version) = (connection.session, connection.version);
        let codes: Vec<u8> = unsubscribe
            .filters()
            .map(|filter| {
                let existed = match SharedFilter::parse(filter) {
                    Ok(Some(shared)) => self.unsubscribe_shared(session, &shared),
                    _ => self.unsubscribe(session, filter),
                };
                if existed { ReasonCode::Success as u8 } else { ReasonCode::NoSubscriptionExisted as u8 }
            })
            .collect();
        self.hold_durable(id.slot);
        self.write(id.slot, |out| weir_mqtt::unsuback(out, version, unsubscribe.packet_id, &codes));
    }

    fn unsubscribe(&mut self, id: SessionId, filter: &str) -> bool {
        let Some(space) = self.sessions.get(id).map(|s| s.space) else { return false };
        let Some(node) = self.spaces[space as usize].subscriptions.find(filter, id) else { return false };
        self.unsubscribe_node(id, space, node);
        true
    }

    /// Removes a session's subscription at a node, on both sides.
    pub(super) fn unsubscribe_node(&mut self, id: SessionId, space: SpaceId, node: NodeId) {
        let subscriptions = &mut self.spaces[space as usize].subscriptions;
        let Some((position, gone)) = subscriptions.remove(node, id) else { return };
        let mut record = None;
        if let Some(session) = self.sessions.get_mut(id) {
            session.subscriptions.swap_remove(position as usize);
            record = session.durable.as_mut().map(|d| (d.id, d.subscriptions.swap_remove(position as usize)));
            if let Some(&moved) = session.subscriptions.get(position as usize) {
                subscriptions.set_position(moved, id, position);
            }
        }
        if let Some(filter) = gone {
            self.unwant(space, &filter);
        }
        if let Some((owner, record)) = record {
            self.forget_subscription(owner, record);
        }
    }

    fn unsubscribe_shared(&mut self, id: SessionId, shared: &SharedFilter<'_>) -> bool {
        let generation = self.sessions.generation(id);
        let Some(rare) = self.sessions.get_mut(id).and_then(|s| s.rare.as_mut()) else { return false };
        let same = |s: &SharedSubscription| *s.key.group == *shared.group && *s.key.filter == *shared.filter;
        let Some(place) = rare.shared.iter().position(same) else { return false };
        let gone = rare.shared.swap_remove(place);
        self.leave_group(&gone, SessionRef { id, generation });
        true
    }

    /// Takes a session out of a group, here or at its owner.
    pub(super) fn leave_group(&mut self, shared: &SharedSubscription, session: SessionRef) {
        let durable = self.sessions.get(session.id).and_then(|session| session.durable.as_ref());
        if let Some(owner) = durable.map(|durable| durable.id).filter(|_| shared.record.is_some()) {
            self.forget_subscription(owner, shared.record);
        }
        if shared.owner == self.config.shard {
            self.leave(&shared.key, shared.owner, session);
        } else {
            let item = Item::Leave { group: Arc::clone(&shared.key), session };
            self.links[usize::from(shared.owner.0)].push(item);
        }
    }

    /// Somebody here wants `filter`: every other shard is told.
    pub(super) fn want(&mut self, space: SpaceId, filter: &str) {
        self.tell_all(space, |space| Item::Want { space, filter: filter.into() });
    }

    /// Nobody here wants `filter` any more.
    pub(super) fn unwant(&mut self, space: SpaceId, filter: &str) {
        self.tell_all(space, |space| Item::Unwant { space, filter: filter.into() });
    }

    fn tell_all(&mut self, space: SpaceId, item: impl Fn(SpaceId) -> Item) {
        let (here, shards) = (self.config.shard, self.config.shards);
        for shard in (0..shards).map(ShardId).filter(|&shard| shard != here) {
            self.define_space(shard, space);
            self.links[usize::from(shard.0)].push(item(space));
        }
    }

    /// Drops what the session was refused since, or may not receive any more; see [`Core::set_policy`]. Its will is judged
    /// when it is due.
    pub(super) fn judge_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(connection) = session.connection.and_then(|slot| self.connections.get(slot)) else { return };
        let acls = [connection.policy.acl.clone(), connection.principal.claims_acl.clone()];
        let acls: Vec<_> = acls.into_iter().flatten().collect();
        if acls.is_empty() {
            return;
        }
        let (slot, space) = (session.connection.unwrap_or_default(), session.space);
        let client_id = session.client_id.clone();
        let principal = connection.principal.clone();
        let address = principal.address;
        let subject = Subject { client_id: &client_id, username: principal.username.as_deref(), address };
        for node in session.subscriptions.clone() {
            let Some((filter, subscriber)) = self.spaces[space as usize].subscriptions.get(node, id) else { continue };
            if !acls.iter().all(|acl| acl.may_subscribe(subject, &filter, subscriber.options.qos)) {
                self.unsubscribe_node(id, space, node);
            }
        }
        let Some(session) = self.sessions.get_mut(id) else { return };
        let mut left = Vec::new();
        if let Some(rare) = &mut session.rare {
            let refused =
                |s: &SharedSubscription| !acls.iter().all(|acl| acl.may_subscribe(subject, &s.key.filter, s.qos));
            left = rare.shared.extract_if(.., |s| refused(s)).collect();
        }
        let may_receive = |topic: &str| acls.iter().all(|acl| acl.may_receive(subject, topic));
        let dropped = session.queue.retain(|q| may_receive(q.message.topic()));
        let owner = session.durable.as_ref().map(|durable| durable.id);
        self.forget_queued(owner, &dropped);
        let generation = self.sessions.generation(id);
        left.iter().for_each(|shared| self.leave_group(shared, SessionRef { id, generation }));
        dropped.iter().for_each(|_| self.drop_message(slot, super::Dropped::Revoked));
    }

    /// Publishes for the broker itself: `$SYS`, and what comes in over bridges.
    pub fn publish_internal(&mut self, namespace: &str, publish: &weir_mqtt::Publish<'_>, now: Millis) {
        self.now = now;
        let space = self.space(namespace);
        let expires_at = super::message::expires_at(publish.properties.message_expiry_s, None, now);
        let mut view =
            super::view::View::new(publish.topic, publish, ProtocolVersion::V5, &[], expires_at, Origin::NOBODY);
        self.route(space, &mut view, now);
    }
}
