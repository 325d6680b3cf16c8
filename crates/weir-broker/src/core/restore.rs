//! Restores sessions from records: those of an earlier process, or of another node whose slots come here.

use std::sync::Arc;

use crate::clients::session::{INCOMING_ID_BYTES, NEVER_EXPIRES, Session};
use crate::clients::timers::Timer;
use crate::core::Core;
use crate::delivery::queue::Queued;
use crate::durability::journal::{DurableSession, Waits};
use crate::durability::recording::{
    DELIVERY_DUPLICATE, DELIVERY_GROUP, DELIVERY_RETAIN, DELIVERY_SENT, REWRITING, SUBSCRIPTION_READ_DUE,
    parse_received_item,
};
use crate::durability::stored::{
    BadRecord, RestoredCounts, StoredRecords, StoredSession, read_message, read_principal,
};
use crate::gateway::is_of_node;
use crate::hash::{IdMap, IdSet};
use crate::ids::{EndpointId, Millis, NamespaceId, NodeId, RecordId, SessionId, SessionRef, ShardId};
use crate::limits::RESTORED_WILL_WAIT_MS;
use crate::links::link::{LinkMessage, RANK_DIRECT};
use crate::links::outbox::OutboxChange;
use crate::placement::{home_shard, owner_shard};
use crate::routing::shared_groups::SharedSubscription;
use crate::routing::subscribers::Subscriber;
use crate::values::delivery::{Awaits, Delivery, Sent};
use crate::values::group::{GroupKey, GroupMember, Readiness};
use crate::values::message::Message;
use crate::values::record::{RecordIter, RecordKey, RecordKind, ValueReader, append_record};
use crate::values::will::PendingWill;
use crate::{Durability, EndpointLimits, EndpointPolicy, ProtocolVersions};
use std::collections::BTreeMap;
use weir_mqtt::{PacketId, QoS, RetainHandling, SharedFilter, SubscriptionOptions};

/// Context of a core's restore.
struct Restoring<'a> {
    stored: &'a StoredRecords,
    now: Millis,
    sessions: BTreeMap<RecordId, SessionId>,
    /// Messages with records of their own, decoded once.
    messages: IdMap<RecordId, Message>,
    /// Names of wills, and of messages in the outbox.
    dedup_ids: IdSet<RecordId>,
    /// Sessions were at home elsewhere: shared messages may now be of sessions on several shards.
    moved: bool,
    /// Subscriptions whose retained messages are still to be read.
    reads: Vec<(SessionId, NodeId)>,
    done: RestoredCounts,
    /// The records are a copy of another node's sessions.
    copy: Option<CopyOrigin>,
}

/// What the records of another node's sessions are of. They get numbers and records of this node.
#[derive(Clone, Copy)]
struct CopyOrigin {
    /// The time of that node when the copy was made.
    taken_at: Millis,
    class: Durability,
}

impl Core {
    /// Takes back this shard's part. To be called after [`Core::start_recording`], on every core before any serves a client;
    /// batches between the cores then carry what each must know of the others.
    ///
    /// # Errors
    /// A record that is not understood; the core is of no use then.
    pub fn restore(&mut self, stored: &StoredRecords, now: Millis) -> Result<RestoredCounts, BadRecord> {
        self.now = now;
        self.wills.wait_for_policies_until(now + RESTORED_WILL_WAIT_MS);
        let moved = stored.is_of_other_shards(self.config.shards);
        let mut work = Restoring::new(stored, moved, None, now);
        self.restore_sessions(&mut work)?;
        self.each(&mut work, RecordKind::Outbox, |core, work, key, value| {
            work.dedup_ids.insert(key.parent());
            core.restore_handover(key.parent(), value)
        })?;
        self.each(&mut work, RecordKind::Received, Self::restore_received)?;
        self.each(&mut work, RecordKind::Retained, Self::restore_retained)?;
        self.restore_shards(&work);
        self.finish_sessions(&mut work);
        Ok(work.done)
    }

    /// Takes this shard's part of a copy of another node's sessions of one class. Returns how many they are.
    pub(crate) fn restore_copy(
        &mut self,
        class: Durability,
        taken_at: Millis,
        records: &[u8],
        now: Millis,
    ) -> Result<usize, BadRecord> {
        let records = RecordIter::new(records).filter_map(|(key, value)| Some((key, value?.into())));
        let stored = StoredRecords::new(records.collect());
        let mut work = Restoring::new(&stored, false, Some(CopyOrigin { taken_at, class }), now);
        self.restore_sessions(&mut work)?;
        self.each(&mut work, RecordKind::Received, Self::restore_received)?;
        self.finish_sessions(&mut work);
        Ok(work.done.sessions)
    }

    fn restore_sessions(&mut self, work: &mut Restoring<'_>) -> Result<(), BadRecord> {
        let mut policies = BTreeMap::new();
        self.each(work, RecordKind::Session, |core, work, key, value| {
            core.restore_session(work, &mut policies, key, value)
        })?;
        self.each(work, RecordKind::Subscription, Self::restore_subscription)?;
        self.each(work, RecordKind::Released, Self::restore_released)?;
        self.each(work, RecordKind::Delivery, Self::restore_delivery)
    }

    fn finish_sessions(&mut self, work: &mut Restoring<'_>) {
        for (id, node) in std::mem::take(&mut work.reads) {
            self.queue_restored_reads(id, node);
            if work.copy.is_some() {
                self.moves.due_reads.push((self.clients.session_ref(id), node));
            }
        }
        // How their connections ended is part of what is to be known after the next crash.
        let sessions: Vec<SessionId> = work.sessions.values().copied().collect();
        sessions.into_iter().for_each(|id| self.record_session(id));
    }

    /// A time in the records, by this core's clock.
    fn restored_time(&self, work: &Restoring<'_>, at: u64) -> Millis {
        match work.copy {
            None => self.journal.core_time(at),
            Some(_) if at == Millis::MAX => at,
            Some(CopyOrigin { taken_at, .. }) => work.now.saturating_add(at.saturating_sub(taken_at)),
        }
    }

    /// The durable side of a restored session, where it has one.
    fn restored_durable(&mut self, work: &Restoring<'_>, id: RecordId, was_connected: bool) -> Option<DurableSession> {
        match work.copy {
            None => Some(DurableSession::new(id, was_connected)),
            Some(copy) => (copy.class == Durability::Disk && self.journal.is_on())
                .then(|| DurableSession::new(self.journal.new_id(), false)),
        }
    }

    /// The policy of a session's endpoint: of a copy the one in effect, if the endpoint is declared here.
    fn restored_policy(&self, work: &Restoring<'_>, endpoint: &str, namespace: NamespaceId) -> Arc<EndpointPolicy> {
        let class = work.copy.map(|copy| copy.class);
        let declared = class.and_then(|_| self.routing.policy(namespace, endpoint)).map(Arc::clone);
        let name = self.routing.name(namespace);
        declared.unwrap_or_else(|| Arc::new(placeholder_policy(endpoint, name, class.unwrap_or(Durability::Disk))))
    }

    fn each(
        &mut self,
        work: &mut Restoring<'_>,
        kind: RecordKind,
        mut restore: impl FnMut(&mut Self, &mut Restoring<'_>, RecordKey, ValueReader<'_>) -> Option<()>,
    ) -> Result<(), BadRecord> {
        for (key, value) in work.stored.of_kind(kind) {
            restore(self, work, *key, ValueReader(value)).ok_or(BadRecord { key: *key })?;
        }
        Ok(())
    }

    fn restore_session(
        &mut self,
        work: &mut Restoring<'_>,
        policies: &mut BTreeMap<(Box<str>, Box<str>), Arc<EndpointPolicy>>,
        key: RecordKey,
        mut value: ValueReader<'_>,
    ) -> Option<()> {
        let StoredSession { namespace, client_id, endpoint, expiry_s, ends_at_unix_ms } =
            StoredSession::read_fields(&mut value)?;
        let was_connected = ends_at_unix_ms == 0;
        let will = match value.u8()? {
            0 => None,
            form => {
                let record = if form == 1 { RecordId::NONE } else { RecordId(value.u64()?) };
                work.dedup_ids.insert(record);
                let (delay_s, due_at) = (value.u32()?, value.u64()?);
                Some((record, delay_s, due_at, read_principal(form, &mut value)?, read_message(value)?))
            }
        };
        if home_shard(namespace, client_id, self.config.shards) != self.config.shard {
            return Some(());
        }
        let (now, namespace_id) = (work.now, self.routing.namespace(namespace));
        if work.copy.is_some() && self.has_clean_start(namespace_id, client_id) {
            return Some(());
        }
        let after_s = |seconds: u32| now.saturating_add(u64::from(seconds) * 1000);
        let ends_at = match (was_connected, expiry_s) {
            (false, _) => self.restored_time(work, ends_at_unix_ms),
            // Its connection ended with the process.
            (true, NEVER_EXPIRES) => Millis::MAX,
            (true, seconds) => after_s(seconds),
        };
        let durable = self.restored_durable(work, key.parent(), was_connected);
        let will = will.map(|(record, delay_s, due_at, principal, message)| {
            let record = match &durable {
                None => RecordId::NONE,
                Some(_) if record.is_some() && work.copy.is_none() => record,
                Some(_) => self.journal.new_id(),
            };
            let due_at = if was_connected { after_s(delay_s) } else { self.restored_time(work, due_at) };
            let charge = self.clients.session_bytes().charge(PendingWill::bytes(&message, &principal));
            Box::new(PendingWill { record, message, delay_s, due_at: Some(due_at), principal, charge })
        });
        let policy = policies.entry((endpoint.into(), namespace.into()));
        let policy = policy.or_insert_with(|| self.restored_policy(work, endpoint, namespace_id));
        let due_at = will.as_ref().and_then(|will| will.due_at);
        let counted_offline = self.clients.count_offline(policy.id, None);
        let session = Session {
            client_id: client_id.into(),
            namespace: namespace_id,
            connection: None,
            expiry_s,
            ends_at,
            counted_offline,
            policy: Arc::clone(policy),
            subscriptions: Vec::new(),
            inflight: self.scheduler.new_inflight(),
            queue: self.scheduler.new_queue(),
            incoming: None,
            will,
            cold: None,
            dropped: 0,
            ending: false,
            slot_class: Some(work.copy.map_or(Durability::Disk, |copy| copy.class)),
            stamp: self.stamp,
            durable: durable.map(Box::new),
        };
        let is_durable = session.durable.is_some();
        let SessionRef { id, generation } = self.clients.add_session(session);
        let timer = Timer::session(SessionRef { id, generation });
        self.clients.set_timer(ends_at, timer);
        self.clients.set_timer(due_at.unwrap_or(Millis::MAX), timer);
        if is_durable {
            self.broadcast_durable();
        }
        work.sessions.insert(key.parent(), id);
        work.done.sessions += 1;
        Some(())
    }

    fn restore_subscription(
        &mut self,
        work: &mut Restoring<'_>,
        key: RecordKey,
        mut value: ValueReader<'_>,
    ) -> Option<()> {
        let (flags, identifier) = (value.u8()?, value.u32()?);
        let filter = std::str::from_utf8(value.0).ok()?;
        let options = SubscriptionOptions {
            qos: QoS::from_bits(flags & 3)?,
            no_local: flags & 1 << 2 != 0,
            retain_as_published: flags & 1 << 3 != 0,
            retain_handling: match flags >> 4 & 3 {
                0 => RetainHandling::Always,
                1 => RetainHandling::IfNew,
                _ => RetainHandling::Never,
            },
        };
        let Some(&id) = work.sessions.get(&key.parent()) else { return Some(()) };
        let is_due = flags & SUBSCRIPTION_READ_DUE != 0;
        let durable_id = self.clients.session(id)?.durable.as_ref().map(|durable| durable.id);
        let record = match (work.copy, durable_id) {
            (None, _) => RecordId(key.item()),
            (Some(_), None) => RecordId::NONE,
            (Some(_), Some(durable)) => {
                self.journal.record_subscription(durable, None, (filter, is_due), options, identifier)
            }
        };
        work.done.subscriptions += 1;
        if let Some(shared) = SharedFilter::parse(filter).ok()? {
            return self.restore_shared(id, &shared, options, identifier, record);
        }
        let session = self.clients.session_mut(id)?;
        let (namespace, position) = (session.namespace, session.subscriptions.len() as u32);
        let subscriber = Subscriber { session: id, position, identifier, options };
        let added = self.routing.subscriptions_mut(namespace).add(filter, subscriber);
        session.subscriptions.push(added.node);
        if let Some(durable) = &mut session.durable {
            durable.subscriptions.push(record);
        }
        if added.first {
            self.add_interest(namespace, filter);
        }
        if added.first_subscriber {
            self.add_gateway_interest(namespace, filter);
        }
        if is_due {
            work.reads.push((id, added.node));
        }
        Some(())
    }

    fn restore_shared(
        &mut self,
        id: SessionId,
        shared: &SharedFilter<'_>,
        options: SubscriptionOptions,
        identifier: u32,
        record: RecordId,
    ) -> Option<()> {
        let session = self.clients.session(id)?;
        let namespace = Arc::clone(self.routing.name(session.namespace));
        let key = Arc::new(GroupKey { namespace, group: shared.group.into(), filter: shared.filter.into() });
        let owner = self.routing.group_owner(&key);
        let readiness = Readiness::Offline;
        let subscription = SharedSubscription {
            owner,
            qos: options.qos,
            options,
            identifier,
            record,
            charge: self.clients.shared_charge(&key),
        };
        let reference = self.clients.session_ref(id);
        let shard = self.config.shard;
        let member = GroupMember { shard, session: reference, options, identifier };
        self.clients.session_mut(id)?.add_group(&key, subscription, shard);
        if owner == shard {
            self.join(&key, member, None);
        } else {
            self.links.push(owner, LinkMessage::Join { group: key, member, readiness });
        }
        Some(())
    }

    fn restore_released(&mut self, work: &mut Restoring<'_>, key: RecordKey, _value: ValueReader<'_>) -> Option<()> {
        let packet_id = PacketId::new(u16::try_from(key.item()).ok()?)?;
        let Some(&id) = work.sessions.get(&key.parent()) else { return Some(()) };
        let durable = self.clients.session(id)?.durable.as_ref().map_or(RecordId::NONE, |durable| durable.id);
        if work.copy.is_some() && durable.is_some() {
            self.journal.put_released(durable, packet_id);
        }
        let is_copied = work.copy.is_some();
        let delivery = Delivery { qos: QoS::ExactlyOnce, record: durable, is_copied, ..Delivery::default() };
        let sent = Sent::new(packet_id, Awaits::PubComp, None, delivery, 1);
        self.clients.session_mut(id)?.inflight.restore(sent);
        Some(())
    }

    /// A message owed to a session: sent, where its packet identifier is known, else queued.
    fn restore_delivery(&mut self, work: &mut Restoring<'_>, key: RecordKey, mut value: ValueReader<'_>) -> Option<()> {
        let (flags, packet_id, shared) = (value.u8()?, value.u16()?, RecordId(value.u64()?));
        let count = value.u32()?;
        let identifiers: Vec<u32> = (0..count).map(|_| value.u32()).collect::<Option<_>>()?;
        let group = if flags & DELIVERY_GROUP != 0 { Some((value.text()?, value.text()?)) } else { None };
        let Some(&id) = work.sessions.get(&key.parent()) else { return Some(()) };
        let is_copied = work.copy.is_some();
        let durable_id = self.clients.session(id)?.durable.as_ref().map(|durable| durable.id);
        let mut message = if shared.is_some() { work.shared_message(shared)? } else { read_message(value)? };
        if is_copied && durable_id.is_some() && shared.is_some() && !message.record.is_some() {
            message.record = self.journal.new_id();
            work.messages.insert(shared, message.clone());
        }
        message.expires_at = self.restored_time(work, message.expires_at);
        let session = self.clients.session(id)?;
        let namespace = self.routing.name(session.namespace);
        let group = group.map(|(group, filter)| {
            Arc::new(GroupKey { namespace: Arc::clone(namespace), group: group.into(), filter: filter.into() })
        });
        let mut delivery = Delivery {
            qos: QoS::from_bits(flags & 3)?,
            retain: flags & DELIVERY_RETAIN != 0,
            identifiers: (!identifiers.is_empty()).then(|| identifiers.into()),
            group,
            record: if is_copied { RecordId::NONE } else { RecordId(key.item()) },
            may_be_duplicate: flags & DELIVERY_DUPLICATE != 0
                || session.durable.as_ref().is_some_and(|durable| durable.was_connected),
            is_copied,
        };
        let packet_id = PacketId::new(packet_id).filter(|_| flags & DELIVERY_SENT != 0);
        if is_copied || (work.moved && shared.is_some()) {
            // The order of records is that of QoS 1; only QoS 2 is stored with its packet identifier.
            let stored_id = packet_id.filter(|_| !is_copied || delivery.qos == QoS::ExactlyOnce);
            if let Some(durable_id) = durable_id {
                self.journal.record_delivery(durable_id, &mut delivery, &message, stored_id);
            }
        } else if shared.is_some() {
            self.journal.restore_shared(shared);
        }
        work.done.deliveries += 1;
        let session = self.clients.session_mut(id)?;
        // A QoS 1 message keeps its identifier only where none without one is before it: else it would overtake that.
        match packet_id.filter(|_| delivery.qos == QoS::ExactlyOnce || session.queue.is_empty()) {
            Some(packet_id) => {
                let awaits = if delivery.qos == QoS::ExactlyOnce { Awaits::PubRec } else { Awaits::PubAck };
                session.inflight.restore(Sent::new(packet_id, awaits, Some(message), delivery, 1));
            }
            None => session.queue.push(Queued { message, delivery, retained: false, sharers: 1 }),
        }
        Some(())
    }

    fn restore_received(&mut self, work: &mut Restoring<'_>, key: RecordKey, _value: ValueReader<'_>) -> Option<()> {
        let (packet_id, part) = parse_received_item(key.item())?;
        if work.copy.is_some() {
            return self.restore_copied_receipt(work, key.parent(), packet_id);
        }
        if !work.stored.has_session(key.parent()) && !work.dedup_ids.contains(&key.parent()) {
            if self.config.shard.0 == 0 {
                self.journal.remove(key);
            }
            return Some(());
        }
        self.journal.restore_received((key.parent(), packet_id), part);
        let Some(&id) = work.sessions.get(&key.parent()) else { return Some(()) };
        let session = self.clients.session_mut(id)?;
        session.incoming.get_or_insert_default().insert(packet_id);
        self.clients.session_bytes().add(INCOMING_ID_BYTES);
        let session = self.clients.session_mut(id)?;
        let durable = session.durable.as_mut()?;
        durable.received.insert(packet_id);
        durable.recovered.insert(packet_id);
        Some(())
    }

    /// A QoS 2 PUBLISH that another node has taken from a client whose session comes here.
    fn restore_copied_receipt(&mut self, work: &Restoring<'_>, session: RecordId, packet_id: PacketId) -> Option<()> {
        let Some(&id) = work.sessions.get(&session) else { return Some(()) };
        self.clients.session_bytes().add(INCOMING_ID_BYTES);
        let session = self.clients.session_mut(id)?;
        session.incoming.get_or_insert_default().insert(packet_id);
        if let Some(durable) = &mut session.durable {
            durable.received.insert(packet_id);
            self.journal.record_received_by_all((durable.id, packet_id));
        }
        Some(())
    }

    fn restore_retained(&mut self, work: &mut Restoring<'_>, key: RecordKey, mut value: ValueReader<'_>) -> Option<()> {
        let (namespace, mut message) = (value.text()?, read_message(value)?);
        if owner_shard(&[namespace, message.topic()], self.config.shards) != self.config.shard {
            return Some(());
        }
        message.expires_at = self.journal.core_time(message.expires_at);
        let record = RecordId(key.item());
        if self.gateway.is_some() && !is_of_node(message.topic()) {
            // The cluster's log has what is retained. The record stays for a later start without a cluster.
            return Some(());
        }
        if message.is_expired(work.now) {
            self.journal.remove(key);
            return Some(());
        }
        let namespace = self.routing.namespace(namespace);
        self.routing.set_retained(namespace, &message, record);
        work.done.retained += 1;
        Some(())
    }

    /// Each shard records how many shards there are, in one commit with what it has rewritten for that. Until all have, and
    /// records that have no use any more are removed, the store counts as written by another number of shards.
    fn restore_shards(&mut self, work: &Restoring<'_>) {
        let (here, shards) = (self.config.shard.0, self.config.shards);
        self.journal.record_shards(u64::from(here), shards);
        if !work.moved || here != 0 {
            return;
        }
        self.journal.record_shards(REWRITING, 0);
        let rewriting = RecordKey::new(RecordKind::Node, RecordId::NONE, REWRITING);
        let gone = work.stored.of_kind(RecordKind::Node).iter().filter(|(key, _)| key.item() >= u64::from(shards));
        let gone = gone.chain(work.stored.of_kind(RecordKind::Message)).map(|(key, _)| *key);
        let mut records = Vec::new();
        for key in gone.chain([rewriting]) {
            append_record(&mut records, key, None);
        }
        let own = self.journal.swap_waits(Waits::default());
        for shard in 1..shards {
            self.links.push(ShardId(shard), LinkMessage::StoreBarrier);
            self.depend_on(ShardId(shard), RANK_DIRECT, true);
        }
        let until = self.journal.swap_waits(own).until;
        self.outbox.defer(until, OutboxChange::Records(records));
    }
}

impl<'a> Restoring<'a> {
    fn new(stored: &'a StoredRecords, moved: bool, copy: Option<CopyOrigin>, now: Millis) -> Self {
        Self {
            stored,
            now,
            sessions: BTreeMap::new(),
            messages: IdMap::default(),
            dedup_ids: IdSet::default(),
            moved,
            reads: Vec::new(),
            done: RestoredCounts::default(),
            copy,
        }
    }

    fn shared_message(&mut self, record: RecordId) -> Option<Message> {
        if let Some(message) = self.messages.get(&record) {
            return Some(message.clone());
        }
        let mut message =
            read_message(ValueReader(self.stored.value(RecordKey::new(RecordKind::Message, record, 0))?))?;
        if !self.moved && self.copy.is_none() {
            message.record = record;
        }
        self.messages.insert(record, message.clone());
        Some(message)
    }
}

/// The placeholder policy of an endpoint's sessions until its declaration is in effect again.
fn placeholder_policy(endpoint: &str, namespace: &str, durability: Durability) -> EndpointPolicy {
    EndpointPolicy {
        id: EndpointId::RESTORED,
        name: endpoint.into(),
        generation: 0,
        namespace: namespace.into(),
        versions: ProtocolVersions::ALL,
        limits: EndpointLimits { durability, ..EndpointLimits::default() },
        acl: None,
        interceptors: None,
        admission: None,
    }
}
