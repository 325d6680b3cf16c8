//! SUBSCRIBE and UNSUBSCRIBE.

use std::sync::Arc;

use crate::clients::pending_subscribe::PendingSubscribe;
use crate::core::reauthorize::permit_subscription;
use crate::hash::IdSet;
use crate::ids::{
    ConnId, ConnectionSlot, Millis, NamespaceId, NodeId, Origin, RecordId, SessionId, SessionRef, ShardId,
};
use crate::interceptor::Panicked;
use crate::limits::FILTERS_PER_PACKET_MAX;
use crate::links::link::{BarrierId, LinkMessage, RetainedStart};
use crate::observe::Site;
use crate::observe::events::RefusedAction;
use crate::routing::shared_groups::SharedSubscription;
use crate::routing::subscribers::Subscriber;
use crate::values::group::{GroupKey, GroupMember};
use crate::{Core, MemoryKind, Subject, Verdict};
use weir_mqtt::{
    PacketId, ProtocolVersion, QoS, ReasonCode, RetainHandling, SharedFilter, Subscribe, SubscribeFilter, Unsubscribe,
};

/// Units of work that a filter counts as, when it is added or removed.
pub(crate) const FILTER_WORK: usize = 4;
/// Bytes that a subscription takes at most, beside its filter.
const SUBSCRIPTION_MAX_BYTES: usize = 512;

impl Core {
    pub(crate) fn on_subscribe(&mut self, id: ConnId, subscribe: &Subscribe<'_>, now: Millis) {
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
        let Some(connection) = self.clients.connection(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let (session, version) = (connection.session, connection.version);
        self.work += subscribe.count * FILTER_WORK;
        let identifier = subscribe.subscription_identifier.unwrap_or(0);
        let mut reads = Vec::new();
        let codes: Vec<u8> = subscribe
            .filters()
            .map(|filter| match self.subscribe_one(id.slot, session, filter, identifier, &mut reads) {
                Ok(qos) => {
                    self.subscribed_event(session, filter.filter, qos);
                    qos as u8
                }
                Err(reason) => {
                    if reason == ReasonCode::NotAuthorized {
                        self.count_unauthorized(id.slot, RefusedAction::Subscribe, filter.filter);
                    }
                    if version == ProtocolVersion::V5 { reason as u8 } else { 0x80 }
                }
            })
            .collect();
        let granted = codes.iter().any(|&code| code < 0x80);
        if self.links.count() > 1 && granted {
            self.begin_barrier(session, subscribe.packet_id, codes, reads, now);
        } else {
            self.queue_retained(session, &reads, now);
            self.gate_durable(id.slot);
            self.write(id.slot, |out| weir_mqtt::suback(out, version, subscribe.packet_id, &codes));
            self.drain_queue(session, now);
        }
    }

    /// Authorizes and adds one filter; returns the granted QoS.
    fn subscribe_one(
        &mut self,
        slot: ConnectionSlot,
        session_id: SessionId,
        filter: SubscribeFilter<'_>,
        identifier: u32,
        reads: &mut Vec<NodeId>,
    ) -> Result<QoS, ReasonCode> {
        let shared = SharedFilter::parse(filter.filter).map_err(|_| ReasonCode::TopicFilterInvalid)?;
        let plain = shared.as_ref().map_or(filter.filter, |shared| shared.filter);
        let (Some(connection), Some(session)) = (self.clients.connection(slot), self.clients.session(session_id))
        else {
            self.observe.count_error(Site::SessionOfConnection);
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
        if let Some(interceptors) = &connection.policy.interceptors {
            match interceptors.subscribe(subject, plain, qos) {
                Ok(Verdict::Allow) => {}
                Ok(Verdict::Deny(reason)) => return Err(reason.of_subscription()),
                Err(Panicked) => {
                    self.end_after_panic(slot, plain);
                    return Err(ReasonCode::ImplementationSpecificError);
                }
            }
        }
        let acls = [&connection.policy.acl, &connection.principal.claims_acl];
        if !permit_subscription(acls.into_iter().flatten(), subject, plain, qos) {
            return Err(ReasonCode::NotAuthorized);
        }
        let most = limits.max_subscriptions as usize;
        let count = session.filters();
        let bytes = self.routing.subscription_bytes() + self.clients.shared_bytes();
        let has_memory = self.memory.has_room(MemoryKind::Subscriptions, bytes, SUBSCRIPTION_MAX_BYTES + plain.len());
        let full = count >= most || !has_memory;
        let namespace = session.namespace;
        let mut options = filter.options;
        options.qos = qos;
        if connection.is_bridge && shared.is_none() {
            (options.no_local, options.retain_as_published) = (true, true);
        }
        if let Some(shared) = shared {
            let result = self.subscribe_shared(session_id, namespace, &shared, options, identifier, full);
            if result.is_err() && !has_memory {
                self.memory.count_refusal(MemoryKind::Subscriptions);
            }
            return result.map(|()| qos);
        }
        let subscriptions = self.routing.subscriptions_mut(namespace);
        if full && subscriptions.find(plain, session_id).is_none() {
            if !has_memory {
                self.memory.count_refusal(MemoryKind::Subscriptions);
            }
            return Err(ReasonCode::QuotaExceeded);
        }
        let position = session.subscriptions.len() as u32;
        let added = subscriptions.add(plain, Subscriber { session: session_id, position, identifier, options });
        let known = added.replaced.map(|replaced| replaced.position);
        if let Some(session) = self.clients.session_mut(session_id)
            && known.is_none()
        {
            session.subscriptions.push(added.node);
        }
        self.record_plain_subscription(session_id, known, plain, options, identifier);
        if added.first {
            self.add_interest(namespace, plain);
        }
        if added.first_subscriber {
            self.add_gateway_interest(namespace, plain);
        }
        let wanted = match options.retain_handling {
            RetainHandling::Always => true,
            RetainHandling::IfNew => added.replaced.is_none(),
            RetainHandling::Never => false,
        };
        if wanted {
            reads.push(added.node);
        }
        Ok(qos)
    }

    /// Records a session's subscription at position `known`, or its newest, where the session is durable.
    fn record_plain_subscription(
        &mut self,
        id: SessionId,
        known: Option<u32>,
        filter: &str,
        options: weir_mqtt::SubscriptionOptions,
        identifier: u32,
    ) {
        let Some(durable) = self.clients.session(id).and_then(|session| session.durable.as_ref()) else { return };
        let record = known.and_then(|position| durable.subscriptions.get(position as usize).copied());
        let record = self.journal.record_subscription(durable.id, record, (filter, false), options, identifier);
        if known.is_none()
            && let Some(durable) = self.clients.session_mut(id).and_then(|session| session.durable.as_mut())
        {
            durable.subscriptions.push(record);
        }
    }

    fn subscribe_shared(
        &mut self,
        id: SessionId,
        namespace: NamespaceId,
        shared: &SharedFilter<'_>,
        options: weir_mqtt::SubscriptionOptions,
        identifier: u32,
        full: bool,
    ) -> Result<(), ReasonCode> {
        let namespace = Arc::clone(self.routing.name(namespace));
        let key = Arc::new(GroupKey { namespace, group: shared.group.into(), filter: shared.filter.into() });
        let owner = self.routing.group_owner(&key);
        let (reference, shard) = (self.clients.session_ref(id), self.config.shard);
        self.report_readiness(id);
        let readiness = self.clients.readiness(id);
        let charge = self.clients.shared_charge(&key);
        let Some(session) = self.clients.session_mut(id) else {
            self.observe.count_error(Site::SessionOfConnection);
            return Err(ReasonCode::UnspecifiedError);
        };
        let known = session.cold.as_mut().and_then(|cold| cold.shared.get_mut(&key));
        let is_new = known.is_none();
        match known {
            Some(known) => (known.qos, known.options, known.identifier) = (options.qos, options, identifier),
            None if full => return Err(ReasonCode::QuotaExceeded),
            None => {
                session.add_group(
                    &key,
                    SharedSubscription { owner, qos: options.qos, options, identifier, record: RecordId::NONE, charge },
                    shard,
                );
            }
        }
        let member = GroupMember { shard, session: reference, options, identifier };
        if owner != shard {
            session.cold.get_or_insert_default().reported = Some(readiness);
            self.links.push(owner, LinkMessage::Join { group: Arc::clone(&key), member, readiness });
        } else if !self.join(&key, member, None) {
            if let Some(session) = self.clients.session_mut(id).filter(|_| is_new) {
                session.remove_group(&key);
            }
            return Err(ReasonCode::QuotaExceeded);
        }
        self.record_shared_subscription(id, &key, options, identifier);
        Ok(())
    }

    /// Records a shared subscription, where the session is durable.
    fn record_shared_subscription(
        &mut self,
        id: SessionId,
        key: &GroupKey,
        options: weir_mqtt::SubscriptionOptions,
        identifier: u32,
    ) {
        let Some(session) = self.clients.session(id) else { return };
        let Some(durable_id) = session.durable.as_ref().map(|durable| durable.id) else { return };
        let shared = session.cold.as_ref().and_then(|cold| cold.shared.get(key));
        let known = shared.map(|shared| shared.record).filter(|record| record.is_some());
        let filter = format!("$share/{}/{}", key.group, key.filter);
        let record = self.journal.record_subscription(durable_id, known, (&filter, false), options, identifier);
        let cold = self.clients.session_mut(id).and_then(|session| session.cold.as_mut());
        if let Some(shared) = cold.and_then(|cold| cold.shared.get_mut(key)) {
            shared.record = record;
        }
    }

    /// SUBACK means subscribed everywhere on this broker: every other shard has to answer first.
    fn begin_barrier(
        &mut self,
        id: SessionId,
        packet_id: PacketId,
        codes: Vec<u8>,
        mut reads: Vec<NodeId>,
        now: Millis,
    ) {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        let request = BarrierId { session: self.clients.session_ref(id), serial };
        let Some(namespace) = self.clients.session(id).map(|session| session.namespace) else { return };
        let mut seen = IdSet::default();
        reads.retain(|&node| seen.insert(node));
        self.queue_retained(id, &reads, now);
        let room = self.room_for_retained(id);
        let subscriptions = self.routing.subscriptions(namespace);
        let filters: Vec<Box<str>> = reads.iter().map(|&node| subscriptions.filter(node).into()).collect();
        for shard in self.links.others() {
            if !filters.is_empty() {
                self.define_namespace(shard, namespace);
            }
            let reads = (!filters.is_empty()).then(|| (namespace, filters.clone()));
            self.links.push(shard, LinkMessage::Barrier { request, reads, room });
        }
        if let Some(session) = self.clients.session_mut(id) {
            let pending = PendingSubscribe { serial, packet_id, codes, awaits: self.links.count() - 1, reads };
            session.cold.get_or_insert_default().pending.push_back(pending);
        }
    }

    /// A shard has answered the barrier; `complete`: no further answer follows.
    pub(crate) fn on_barrier_ack(
        &mut self,
        (from, request): (ShardId, BarrierId),
        retained: Option<RetainedStart>,
        complete: bool,
        now: Millis,
    ) {
        let id = request.session.id;
        let Some(session) = self.clients.session_by_ref(request.session) else { return };
        let Some(cold) = &mut session.cold else { return };
        let Some(pending) = cold.pending.iter_mut().find(|p| p.serial == request.serial) else { return };
        pending.awaits -= u16::from(complete);
        if let Some(start) = retained {
            let reads = pending.reads.clone();
            self.queue_start(id, from, &reads, start);
        }
        let Some(session) = self.clients.session_by_ref(request.session) else { return };
        let Some(cold) = &mut session.cold else { return };
        let mut done = Vec::new();
        while cold.pending.front().is_some_and(|p| p.awaits == 0) {
            done.extend(cold.pending.pop_front());
        }
        let Some(slot) = session.connection else { return };
        let Some(version) = self.clients.connection(slot).map(|c| c.version) else {
            return self.observe.count_error(Site::ConnectionOfSession);
        };
        self.gate_durable(slot);
        for pending in &done {
            self.write(slot, |out| weir_mqtt::suback(out, version, pending.packet_id, &pending.codes));
        }
        self.drain_queue(id, now);
    }

    pub(crate) fn on_unsubscribe(&mut self, id: ConnId, unsubscribe: &Unsubscribe<'_>) {
        if unsubscribe.count > FILTERS_PER_PACKET_MAX {
            return self.refuse(id.slot, ReasonCode::QuotaExceeded);
        }
        if unsubscribe.filters().any(|filter| SharedFilter::parse(filter).is_err()) {
            return self.refuse(id.slot, ReasonCode::TopicFilterInvalid);
        }
        let Some(connection) = self.clients.connection(id.slot) else {
            return self.observe.count_error(Site::ConnectionOfPacket);
        };
        let (session, version) = (connection.session, connection.version);
        self.work += unsubscribe.count * FILTER_WORK;
        let codes: Vec<u8> = unsubscribe
            .filters()
            .map(|filter| {
                let existed = match SharedFilter::parse(filter) {
                    Ok(Some(shared)) => self.unsubscribe_shared(session, &shared),
                    _ => self.unsubscribe(session, filter),
                };
                if existed {
                    self.unsubscribed_event(session, filter, true);
                }
                if existed { ReasonCode::Success as u8 } else { ReasonCode::NoSubscriptionExisted as u8 }
            })
            .collect();
        self.gate_durable(id.slot);
        self.write(id.slot, |out| weir_mqtt::unsuback(out, version, unsubscribe.packet_id, &codes));
    }

    fn unsubscribe(&mut self, id: SessionId, filter: &str) -> bool {
        let Some(namespace) = self.clients.session(id).map(|s| s.namespace) else { return false };
        let Some(node) = self.routing.subscriptions_mut(namespace).find(filter, id) else { return false };
        self.unsubscribe_node(id, namespace, node);
        true
    }

    /// Removes a session's subscription at a node, on both sides.
    pub(crate) fn unsubscribe_node(&mut self, id: SessionId, namespace: NamespaceId, node: NodeId) {
        let subscriptions = self.routing.subscriptions_mut(namespace);
        let Some(removed) = subscriptions.remove(node, id) else {
            return self.observe.count_error(Site::SubscriptionOfSession);
        };
        let position = removed.position;
        let mut record = None;
        if let Some(session) = self.clients.session_mut(id) {
            if let Some(cold) = &mut session.cold {
                cold.reads.remove_all(node);
            }
            session.subscriptions.swap_remove(position as usize);
            record = session.durable.as_mut().map(|d| (d.id, d.subscriptions.swap_remove(position as usize)));
            if let Some(&moved) = session.subscriptions.get(position as usize) {
                subscriptions.set_position(moved, id, position);
            }
        }
        if removed.gone {
            self.remove_interest(namespace, &removed.filter);
        }
        if removed.last_subscriber {
            self.remove_gateway_interest(namespace, &removed.filter);
        }
        if let Some((durable_id, record)) = record {
            self.journal.forget_subscription(durable_id, record);
        }
    }

    fn unsubscribe_shared(&mut self, id: SessionId, shared: &SharedFilter<'_>) -> bool {
        let generation = self.clients.session_ref(id).generation;
        let Some(session) = self.clients.session_mut(id) else { return false };
        let namespace = Arc::clone(self.routing.name(session.namespace));
        let key = GroupKey { namespace, group: shared.group.into(), filter: shared.filter.into() };
        let Some((key, gone)) = session.remove_group(&key) else { return false };
        self.leave_group(&key, &gone, SessionRef { id, generation });
        true
    }

    /// Takes a session out of a group, here or at its owner.
    pub(crate) fn leave_group(&mut self, key: &Arc<GroupKey>, shared: &SharedSubscription, session: SessionRef) {
        let durable = self.clients.session(session.id).and_then(|session| session.durable.as_ref());
        if let Some(durable_id) = durable.map(|durable| durable.id).filter(|_| shared.record.is_some()) {
            self.journal.forget_subscription(durable_id, shared.record);
        }
        if shared.owner == self.config.shard {
            self.leave(key, shared.owner, session);
        } else {
            let item = LinkMessage::Leave { group: Arc::clone(key), session };
            self.links.push(shared.owner, item);
        }
    }

    /// This shard has interest in `filter`: every other shard learns it.
    pub(crate) fn add_interest(&mut self, namespace: NamespaceId, filter: &str) {
        self.send_to_all_shards(namespace, |namespace| LinkMessage::AddInterest { namespace, filter: filter.into() });
    }

    /// This shard has no interest in `filter` any more.
    pub(crate) fn remove_interest(&mut self, namespace: NamespaceId, filter: &str) {
        self.send_to_all_shards(namespace, |namespace| LinkMessage::RemoveInterest {
            namespace,
            filter: filter.into(),
        });
    }

    fn send_to_all_shards(&mut self, namespace: NamespaceId, item: impl Fn(NamespaceId) -> LinkMessage) {
        let gateway = self.gateway;
        for shard in self.links.others().filter(|shard| Some(*shard) != gateway) {
            self.define_namespace(shard, namespace);
            self.links.push(shard, item(namespace));
        }
    }

    /// Sessions of this shard have subscribed to `filter`: the gateway learns it. It learns groups apart.
    pub(crate) fn add_gateway_interest(&mut self, namespace: NamespaceId, filter: &str) {
        if let Some(gateway) = self.gateway {
            self.define_namespace(gateway, namespace);
            self.links.push(gateway, LinkMessage::AddInterest { namespace, filter: filter.into() });
        }
    }

    /// They no longer have.
    fn remove_gateway_interest(&mut self, namespace: NamespaceId, filter: &str) {
        if let Some(gateway) = self.gateway {
            self.links.push(gateway, LinkMessage::RemoveInterest { namespace, filter: filter.into() });
        }
    }

    /// Publishes for the broker itself: `$SYS`, and what comes in over bridges.
    pub fn publish_internal(&mut self, namespace: &str, publish: &weir_mqtt::Publish<'_>, now: Millis) {
        self.now = now;
        let namespace = self.routing.namespace(namespace);
        let expires_at = crate::values::message::expires_at(publish.properties.message_expiry_s, None, now);
        let mut context = crate::delivery::publish_context::PublishContext::new(
            publish.topic,
            publish,
            ProtocolVersion::V5,
            &[],
            expires_at,
            Origin::BROKER,
        );
        self.route(namespace, &mut context, None, now);
    }
}
