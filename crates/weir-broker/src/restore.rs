//! Durable state, taken back from the records of an earlier process.

use std::ops::Range;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};

use super::core::{Core, owner_of};
use super::durable::{DELIVERY_GROUP, DELIVERY_RETAIN, DELIVERY_SENT, received_of};
use super::inflight::{Awaits, Delivery, Inflight, Sent};
use super::journal::{Durable, Waits};
use super::limits::RESTORED_WILL_WAIT_MS;
use super::link::{Item, RANK_LAST};
use super::message::Message;
use super::provenance::Publisher;
use super::record::{Key, Kind, RecordId, Value, append_record};
use super::session::{NEVER_EXPIRES, PendingWill, Queue, Queued, Session, SessionRef};
use super::shared::{GroupKey, Member, Readiness, SharedSubscription};
use super::subscriptions::{SessionId, Subscriber};
use super::timers::Timer;
use super::will::read_principal;
use super::{EndpointId, EndpointLimits, EndpointPolicy, Millis, ProtocolVersions, ShardId, home_shard};
use weir_mqtt::{PacketId, QoS, RetainHandling, SharedFilter, SubscriptionOptions};

/// The item of the record of [`Kind::Node`] that is there while the number of shards changes; those of the shards have
/// their numbers.
const REWRITING: u64 = 1 << 16;

/// A store's records, each key's newest, in the order of the keys.
#[derive(Debug, Default)]
pub struct Stored {
    records: Vec<(Key, Box<[u8]>)>,
}

/// What a core took back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Restored {
    pub sessions: usize,
    pub subscriptions: usize,
    /// Messages owed to sessions.
    pub deliveries: usize,
    pub retained: usize,
}

impl Restored {
    /// Counts another core's part in.
    pub fn add(&mut self, part: Restored) {
        self.sessions += part.sessions;
        self.subscriptions += part.subscriptions;
        self.deliveries += part.deliveries;
        self.retained += part.retained;
    }
}

/// What a record of [`Kind::Session`] says of its session, for whoever looks into a store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession<'a> {
    pub namespace: &'a str,
    pub client_id: &'a str,
    /// Name of the endpoint it was last connected to.
    pub endpoint: &'a str,
    /// `u32::MAX`: never.
    pub expiry_s: u32,
    /// When it ends, by the wall clock, ms since 1970; 0: its client was connected.
    pub ends_at_unix_ms: u64,
}

impl<'a> StoredSession<'a> {
    /// `None`: damaged, or of a newer version.
    pub fn read(value: &'a [u8]) -> Option<Self> {
        Self::take(&mut Value(value))
    }

    fn take(value: &mut Value<'a>) -> Option<Self> {
        Some(Self {
            namespace: value.text()?,
            client_id: value.text()?,
            endpoint: value.text()?,
            expiry_s: value.u32()?,
            ends_at_unix_ms: value.u64()?,
        })
    }
}

/// A record that says nothing this version understands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record {key:?} cannot be understood: it is damaged, or of a newer version")]
pub struct BadRecord {
    pub key: Key,
}

impl Stored {
    /// Takes records in any order; of several with one key the caller gives the newest alone.
    pub fn new(mut records: Vec<(Key, Box<[u8]>)>) -> Self {
        records.sort_unstable_by_key(|(key, _)| *key);
        Self { records }
    }

    /// The records, by key.
    pub fn records(&self) -> &[(Key, Box<[u8]>)] {
        &self.records
    }

    /// Larger than any number that was given to a record.
    pub fn next_id(&self) -> u64 {
        let numbered = |(key, value): &(Key, Box<[u8]>)| match key.kind() {
            // Their items are packet identifiers.
            Some(Kind::Released | Kind::Received) => key.owner().0,
            Some(Kind::Node) => 0,
            Some(Kind::Session) => key.owner().0.max(will_of_session(Value(value)).unwrap_or(0)),
            _ => key.owner().0.max(key.item()),
        };
        self.records.iter().map(numbered).max().unwrap_or(0) + 1
    }

    /// Whether any of it was written by another number of shards.
    fn is_of_other_shards(&self, shards: u16) -> bool {
        self.of(Kind::Node).iter().any(|(_, value)| Value(value).u16() != Some(shards))
    }

    fn has_session(&self, id: RecordId) -> bool {
        self.records.binary_search_by_key(&Key::new(Kind::Session, id, 0), |(key, _)| *key).is_ok()
    }

    fn of(&self, kind: Kind) -> &[(Key, Box<[u8]>)] {
        let bound = |kind: u8| Key::first_of(kind);
        let range: Range<usize> = self.records.partition_point(|(key, _)| *key < bound(kind as u8))
            ..self.records.partition_point(|(key, _)| *key < bound(kind as u8 + 1));
        &self.records[range]
    }
}

/// What is at hand while a core takes its part.
struct Restoring<'a> {
    stored: &'a Stored,
    now: Millis,
    sessions: HashMap<RecordId, SessionId>,
    /// Messages with records of their own, decoded once.
    messages: HashMap<RecordId, Message>,
    /// What names wills, and messages in the outbox.
    named: HashSet<RecordId>,
    /// Sessions were at home elsewhere: shared messages may now be of sessions on several shards.
    moved: bool,
    done: Restored,
}

impl Core {
    /// Takes back this shard's part. To be called after [`Core::keep_records`], on every core before any serves a client;
    /// batches between the cores then carry what each must know of the others.
    ///
    /// # Errors
    /// A record that is not understood; the core is of no use then.
    pub fn restore(&mut self, stored: &Stored, now: Millis) -> Result<Restored, BadRecord> {
        self.now = now;
        self.wills.awaited_until = now + RESTORED_WILL_WAIT_MS;
        let moved = stored.is_of_other_shards(self.config.shards);
        let mut work = Restoring {
            stored,
            now,
            sessions: HashMap::new(),
            messages: HashMap::new(),
            named: HashSet::new(),
            moved,
            done: Restored::default(),
        };
        let mut policies = HashMap::new();
        self.each(&mut work, Kind::Session, |core, work, key, value| {
            core.restore_session(work, &mut policies, key, value)
        })?;
        self.each(&mut work, Kind::Subscription, Self::restore_subscription)?;
        self.each(&mut work, Kind::Released, Self::restore_released)?;
        self.each(&mut work, Kind::Delivery, Self::restore_delivery)?;
        self.each(&mut work, Kind::Outbox, |core, work, key, value| {
            work.named.insert(key.owner());
            core.restore_handover(key.owner(), value)
        })?;
        self.each(&mut work, Kind::Received, Self::restore_received)?;
        self.each(&mut work, Kind::Retained, Self::restore_retained)?;
        self.restore_shards(&work);
        // How their connections ended is part of what is to be known after the next crash.
        let sessions: Vec<SessionId> = work.sessions.values().copied().collect();
        sessions.into_iter().for_each(|id| self.record_session(id));
        Ok(work.done)
    }

    fn each(
        &mut self,
        work: &mut Restoring<'_>,
        kind: Kind,
        mut restore: impl FnMut(&mut Self, &mut Restoring<'_>, Key, Value<'_>) -> Option<()>,
    ) -> Result<(), BadRecord> {
        for (key, value) in work.stored.of(kind) {
            restore(self, work, *key, Value(value)).ok_or(BadRecord { key: *key })?;
        }
        Ok(())
    }

    fn restore_session(
        &mut self,
        work: &mut Restoring<'_>,
        policies: &mut HashMap<(Box<str>, Box<str>), Arc<EndpointPolicy>>,
        key: Key,
        mut value: Value<'_>,
    ) -> Option<()> {
        let StoredSession { namespace, client_id, endpoint, expiry_s, ends_at_unix_ms } =
            StoredSession::take(&mut value)?;
        let was_connected = ends_at_unix_ms == 0;
        let will = match value.u8()? {
            0 => None,
            form => {
                let record = if form == 1 { RecordId::NONE } else { RecordId(value.u64()?) };
                work.named.insert(record);
                let (delay_s, due_at) = (value.u32()?, value.u64()?);
                Some((record, delay_s, due_at, read_principal(form, &mut value)?, read_message(value)?))
            }
        };
        if home_shard(namespace, client_id, self.config.shards) != self.config.shard {
            return Some(());
        }
        let (now, space) = (work.now, self.space(namespace));
        let after_s = |seconds: u32| now.saturating_add(u64::from(seconds) * 1000);
        let ends_at = match (was_connected, expiry_s) {
            (false, _) => self.journal.core_time(ends_at_unix_ms),
            // Its connection ended with the process.
            (true, NEVER_EXPIRES) => Millis::MAX,
            (true, seconds) => after_s(seconds),
        };
        let will = will.map(|(record, delay_s, due_at, principal, message)| {
            let record = if record.is_some() { record } else { self.journal.new_id() };
            let due_at = if was_connected { after_s(delay_s) } else { self.journal.core_time(due_at) };
            Box::new(PendingWill { record, message, delay_s, due_at: Some(due_at), principal })
        });
        let policy = policies.entry((endpoint.into(), namespace.into()));
        let policy = policy.or_insert_with(|| Arc::new(stand_in(endpoint, namespace)));
        let due_at = will.as_ref().and_then(|will| will.due_at);
        let counted_away = self.away.try_add(policy.id, None);
        let session = Session {
            client_id: client_id.into(),
            space,
            connection: None,
            expiry_s,
            ends_at,
            counted_away,
            policy: Arc::clone(policy),
            subscriptions: Vec::new(),
            inflight: Inflight::new(),
            queue: Queue::new(self.queued_bytes.clone()),
            incoming: None,
            will,
            rare: None,
            dropped: 0,
            durable: Some(Box::new(Durable::new(key.owner(), was_connected))),
        };
        let (id, generation) = self.sessions.insert(session);
        self.index_session(space, id);
        let timer = Timer::session(SessionRef { id, generation });
        self.timers.push(ends_at, timer);
        self.timers.push(due_at.unwrap_or(Millis::MAX), timer);
        self.tell_durable();
        work.sessions.insert(key.owner(), id);
        work.done.sessions += 1;
        Some(())
    }

    fn restore_subscription(&mut self, work: &mut Restoring<'_>, key: Key, mut value: Value<'_>) -> Option<()> {
        let (flags, identifier) = (value.u8()?, value.u32()?);
        let filter = std::str::from_utf8(value.0).ok()?;
        let options = SubscriptionOptions {
            qos: QoS::from_bits(flags & 3)?,
            no_local: flags & 1 << 2 != 0,
            retain_as_published: flags & 1 << 3 != 0,
            retain_handling: match flags >> 4 {
                0 => RetainHandling::Always,
                1 => RetainHandling::IfNew,
                _ => RetainHandling::Never,
            },
        };
        let Some(&id) = work.sessions.get(&key.owner()) else { return Some(()) };
        let record = RecordId(key.item());
        work.done.subscriptions += 1;
        if let Some(shared) = SharedFilter::parse(filter).ok()? {
            return self.restore_shared(id, &shared, options, identifier, record);
        }
        let session = self.sessions.get_mut(id)?;
        let (space, position) = (session.space, session.subscriptions.len() as u32);
        let subscriber = Subscriber { session: id, position, identifier, options };
        let added = self.spaces[space as usize].subscriptions.add(filter, subscriber);
        session.subscriptions.push(added.node);
        session.durable.as_mut()?.subscriptions.push(record);
        if added.first {
            self.want(space, filter);
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
        let session = self.sessions.get(id)?;
        let namespace = Arc::clone(&self.spaces[session.space as usize].name);
        let key = Arc::new(GroupKey { namespace, group: shared.group.into(), filter: shared.filter.into() });
        let owner = self.group_owner(&key);
        let readiness = Readiness::Away;
        let subscription =
            SharedSubscription { key: Arc::clone(&key), owner, qos: options.qos, told: readiness, record };
        let reference = SessionRef { id, generation: self.sessions.generation(id) };
        self.sessions.get_mut(id)?.rare.get_or_insert_default().shared.push(subscription);
        let shard = self.config.shard;
        let member = Member { shard, session: reference, options, identifier, readiness };
        if owner == shard {
            self.join(&key, member);
        } else {
            self.links[usize::from(owner.0)].push(Item::Join { group: key, member });
        }
        Some(())
    }

    fn restore_released(&mut self, work: &mut Restoring<'_>, key: Key, _value: Value<'_>) -> Option<()> {
        let packet_id = PacketId::new(u16::try_from(key.item()).ok()?)?;
        let Some(&id) = work.sessions.get(&key.owner()) else { return Some(()) };
        let delivery = Delivery { qos: QoS::ExactlyOnce, record: key.owner(), ..Delivery::default() };
        let sent = Sent { packet_id, awaits: Awaits::Complete, message: None, delivery, unsent: false };
        self.sessions.get_mut(id)?.inflight.restore(sent);
        Some(())
    }

    /// A message owed to a session: sent, where its packet identifier is known, else queued.
    fn restore_delivery(&mut self, work: &mut Restoring<'_>, key: Key, mut value: Value<'_>) -> Option<()> {
        let (flags, packet_id, shared) = (value.u8()?, value.u16()?, RecordId(value.u64()?));
        let count = value.u32()?;
        let identifiers: Vec<u32> = (0..count).map(|_| value.u32()).collect::<Option<_>>()?;
        let group = if flags & DELIVERY_GROUP != 0 { Some((value.text()?, value.text()?)) } else { None };
        let Some(&id) = work.sessions.get(&key.owner()) else { return Some(()) };
        let mut message = if shared.is_some() { work.shared_message(shared)? } else { read_message(value)? };
        message.expires_at = self.journal.core_time(message.expires_at);
        let session = self.sessions.get_mut(id)?;
        let namespace = &self.spaces[session.space as usize].name;
        let group = group.map(|(group, filter)| {
            Arc::new(GroupKey { namespace: Arc::clone(namespace), group: group.into(), filter: filter.into() })
        });
        let mut delivery = Delivery {
            qos: QoS::from_bits(flags & 3)?,
            retain: flags & DELIVERY_RETAIN != 0,
            identifiers: (!identifiers.is_empty()).then(|| identifiers.into()),
            group,
            record: RecordId(key.item()),
            again: session.durable.as_ref().is_some_and(|durable| durable.was_connected),
        };
        let packet_id = PacketId::new(packet_id).filter(|_| flags & DELIVERY_SENT != 0);
        if work.moved && shared.is_some() {
            let owner = key.owner();
            self.record_delivery(owner, &mut delivery, &message, packet_id);
        } else if shared.is_some() {
            *self.journal.shared.entry(shared).or_default() += 1;
        }
        work.done.deliveries += 1;
        let session = self.sessions.get_mut(id)?;
        // A QoS 1 message keeps its identifier only where none without one is before it: else it would overtake that.
        match packet_id.filter(|_| delivery.qos == QoS::ExactlyOnce || session.queue.is_empty()) {
            Some(packet_id) => {
                let awaits = if delivery.qos == QoS::ExactlyOnce { Awaits::Received } else { Awaits::Ack };
                session.inflight.restore(Sent { packet_id, awaits, message: Some(message), delivery, unsent: false });
            }
            None => session.queue.push(Queued { message, delivery, retained: false, sharers: 1 }),
        }
        Some(())
    }

    fn restore_received(&mut self, work: &mut Restoring<'_>, key: Key, _value: Value<'_>) -> Option<()> {
        let (packet_id, part) = received_of(key.item())?;
        if !work.stored.has_session(key.owner()) && !work.named.contains(&key.owner()) {
            if self.config.shard.0 == 0 {
                self.journal.remove(key);
            }
            return Some(());
        }
        self.journal.recovered.insert(((key.owner(), packet_id), part));
        if !self.journal.recovered_shards.contains(&part.shards) {
            self.journal.recovered_shards.push(part.shards);
        }
        let Some(&id) = work.sessions.get(&key.owner()) else { return Some(()) };
        let session = self.sessions.get_mut(id)?;
        session.incoming.get_or_insert_default().insert(packet_id);
        let durable = session.durable.as_mut()?;
        durable.received.insert(packet_id);
        durable.recovered.insert(packet_id);
        Some(())
    }

    fn restore_retained(&mut self, work: &mut Restoring<'_>, key: Key, mut value: Value<'_>) -> Option<()> {
        let (namespace, mut message) = (value.text()?, read_message(value)?);
        if owner_of(&[namespace, message.topic()], self.config.shards) != self.config.shard {
            return Some(());
        }
        message.expires_at = self.journal.core_time(message.expires_at);
        let record = RecordId(key.item());
        if message.is_expired(work.now) {
            self.journal.remove(key);
            return Some(());
        }
        let space = self.space(namespace);
        self.spaces[space as usize].retained.set(&message, record);
        work.done.retained += 1;
        Some(())
    }

    /// Each shard records how many shards there are, in one commit with what it has rewritten for that. Until all have, and
    /// what is of no use any more is removed, it counts as written by another number of shards.
    fn restore_shards(&mut self, work: &Restoring<'_>) {
        let (here, shards) = (self.config.shard.0, self.config.shards);
        self.journal.put(Key::new(Kind::Node, RecordId::NONE, u64::from(here)), |fields| {
            fields.u16(shards);
        });
        if !work.moved || here != 0 {
            return;
        }
        let rewriting = Key::new(Kind::Node, RecordId::NONE, REWRITING);
        self.journal.put(rewriting, |fields| {
            fields.u16(0);
        });
        let gone = work.stored.of(Kind::Node).iter().filter(|(key, _)| key.item() >= u64::from(shards));
        let gone = gone.chain(work.stored.of(Kind::Message)).map(|(key, _)| *key);
        let mut records = Vec::new();
        for key in gone.chain([rewriting]) {
            append_record(&mut records, key, None);
        }
        let own = self.journal.swap_waits(Waits::default());
        for shard in 1..shards {
            self.links[usize::from(shard)].push(Item::Barrier);
            self.depend_on(ShardId(shard), RANK_LAST, true);
        }
        let until = self.journal.swap_waits(own).until;
        self.record_behind(until, records);
    }
}

impl Restoring<'_> {
    fn shared_message(&mut self, record: RecordId) -> Option<Message> {
        if let Some(message) = self.messages.get(&record) {
            return Some(message.clone());
        }
        let key = Key::new(Kind::Message, record, 0);
        let place = self.stored.records.binary_search_by_key(&key, |(key, _)| *key).ok()?;
        let mut message = read_message(Value(&self.stored.records[place].1))?;
        if !self.moved {
            message.record = record;
        }
        self.messages.insert(record, message.clone());
        Some(message)
    }
}

/// The number that names the will of a stored session.
fn will_of_session(mut value: Value<'_>) -> Option<u64> {
    StoredSession::take(&mut value)?;
    if value.u8()? == 2 { value.u64() } else { None }
}

/// What holds for an endpoint's sessions until its declaration is in force again.
fn stand_in(endpoint: &str, namespace: &str) -> EndpointPolicy {
    EndpointPolicy {
        id: EndpointId::RESTORED,
        name: endpoint.into(),
        generation: 0,
        namespace: namespace.into(),
        versions: ProtocolVersions::ALL,
        limits: EndpointLimits { durable: true, ..EndpointLimits::default() },
        acl: None,
        admission: None,
    }
}

/// Reads what `write_message` wrote; its expiry as it was written.
pub(super) fn read_message(mut value: Value<'_>) -> Option<Message> {
    let (flags, expires_at) = (value.u8()?, value.u64()?);
    let publisher = if flags & 1 << 3 != 0 { Some(Arc::new(Publisher::read(&mut value)?)) } else { None };
    let (topic_len, properties_len) = (value.u16()?, value.u32()?);
    let topic = std::str::from_utf8(value.bytes(usize::from(topic_len))?).ok()?;
    let properties = value.bytes(properties_len as usize)?;
    let qos = QoS::from_bits(flags & 3)?;
    let mut message = Message::from_parts(topic, properties, value.0, qos, flags & 1 << 2 != 0);
    (message.expires_at, message.publisher) = (expires_at, publisher);
    Some(message)
}
