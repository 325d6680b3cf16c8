//! The records of sessions, subscriptions, messages and QoS 2 packet identifiers.

use crate::Principal;
use crate::durability::journal::{CommitJournal, Mark, ShardPart};
use crate::ids::{DedupKey, Millis, RecordId};
use crate::values::delivery::{Awaits, Delivery, Sent};
use crate::values::message::Message;
use crate::values::publisher::write_identity;
use crate::values::record::{RecordKey, RecordKind, ValueWriter};
use crate::values::will::PendingWill;
use weir_mqtt::{PacketId, SubscriptionOptions};

/// The value of a session's record.
pub(crate) struct SessionRecord<'a> {
    pub(crate) namespace: &'a str,
    pub(crate) client_id: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) expiry_s: u32,
    /// When it ends; `None`: it is connected.
    pub(crate) ends_at: Option<Millis>,
    pub(crate) will: Option<&'a PendingWill>,
}

impl CommitJournal {
    /// Records a session as it is now.
    pub(crate) fn record_session(&mut self, id: RecordId, session: &SessionRecord<'_>) {
        let ends_at = session.ends_at.map_or(0, |at| self.to_unix_ms(at));
        let due_at = session.will.and_then(|will| will.due_at).map_or(0, |at| self.to_unix_ms(at));
        self.put(RecordKey::new(RecordKind::Session, id, 0), |fields| {
            fields.sized(session.namespace.as_bytes()).sized(session.client_id.as_bytes());
            fields.sized(session.endpoint.as_bytes()).u32(session.expiry_s).u64(ends_at);
            match session.will {
                None => fields.u8(0),
                Some(will) => {
                    fields.u8(WILL_FORM).u64(will.record.0).u32(will.delay_s).u64(due_at);
                    write_principal(fields, &will.principal);
                    // The will's expiry is a duration until it is published: no time of any clock.
                    write_message(fields, &will.message, will.message.expires_at)
                }
            };
        });
    }

    /// A session has ended.
    pub(crate) fn forget_session(&mut self, id: RecordId) {
        self.remove(RecordKey::new(RecordKind::Session, id, 0));
    }

    /// The publisher has released a packet identifier, or its session has ended: removes the parts of all shards, also of
    /// earlier processes. Returns whether an earlier process knew it: then other shards have to forget it, too.
    pub(crate) fn forget_received(&mut self, session: RecordId, packet_id: PacketId) -> bool {
        let (now, before) = (self.here.shards, self.recovered_shards.clone());
        for shards in before.into_iter().filter(|before| *before != now).chain([now]) {
            for shard in 0..shards {
                self.remove(RecordKey::new(
                    RecordKind::Received,
                    session,
                    received_item(packet_id, ShardPart { shards, shard }),
                ));
            }
        }
        self.forget_recovered((session, packet_id))
    }

    /// Records a retained message in place of the record `before`, or removes that. Returns its record.
    pub(crate) fn record_retained(
        &mut self,
        namespace: &str,
        before: RecordId,
        message: &Message,
        keep: bool,
    ) -> RecordId {
        if keep && self.on && !message.payload().is_empty() {
            let record = if before.is_some() { before } else { self.new_id() };
            let expires_at = self.to_unix_ms(message.expires_at);
            self.put(RecordKey::new(RecordKind::Retained, RecordId::NONE, record.0), |fields| {
                fields.sized(namespace.as_bytes());
                write_message(fields, message, expires_at);
            });
            return record;
        }
        self.forget_retained(before);
        RecordId::NONE
    }

    /// A retained message expired, or was removed.
    pub(crate) fn forget_retained(&mut self, record: RecordId) {
        if record.is_some() {
            self.remove(RecordKey::new(RecordKind::Retained, RecordId::NONE, record.0));
        }
    }

    /// A delivery that an earlier process recorded names a shared message.
    pub(crate) fn restore_shared(&mut self, message: RecordId) {
        *self.shared.entry(message).or_default() += 1;
    }

    /// Records how many shards there are, in the record of a shard, or of [`REWRITING`].
    pub(crate) fn record_shards(&mut self, item: u64, shards: u16) {
        self.put(RecordKey::new(RecordKind::Node, RecordId::NONE, item), |fields| {
            fields.u16(shards);
        });
    }

    /// Records a message that this shard has given up, until another shard has it.
    pub(crate) fn record_handover(&mut self, record: RecordId, form: u8, names: [&str; 3], message: &Message) {
        let expires_at = self.to_unix_ms(message.expires_at);
        self.put(RecordKey::new(RecordKind::Outbox, record, 0), |fields| {
            fields.u8(form);
            names.iter().for_each(|name| {
                fields.sized(name.as_bytes());
            });
            write_message(fields, message, expires_at);
        });
    }

    /// Another shard has a message of the outbox.
    pub(crate) fn forget_handover(&mut self, record: RecordId) {
        self.remove(RecordKey::new(RecordKind::Outbox, record, 0));
    }

    /// Records a subscription; `filter` with its `$share`, and whether what is retained under it is still to be read. Returns
    /// its record id.
    pub(crate) fn record_subscription(
        &mut self,
        session: RecordId,
        known: Option<RecordId>,
        (filter, read_due): (&str, bool),
        options: SubscriptionOptions,
        identifier: u32,
    ) -> RecordId {
        let record = known.unwrap_or_else(|| self.new_id());
        self.put(RecordKey::new(RecordKind::Subscription, session, record.0), |fields| {
            let flags = options.qos as u8
                | u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4
                | if read_due { SUBSCRIPTION_READ_DUE } else { 0 };
            fields.u8(flags).u32(identifier).bytes(filter.as_bytes());
        });
        record
    }

    pub(crate) fn forget_subscription(&mut self, session: RecordId, record: RecordId) {
        self.remove(RecordKey::new(RecordKind::Subscription, session, record.0));
    }

    /// Records a delivery for a session, with its packet identifier for QoS 2.
    pub(crate) fn record_delivery(
        &mut self,
        session: RecordId,
        delivery: &mut Delivery,
        message: &Message,
        packet_id: Option<PacketId>,
    ) {
        let expires_at = self.to_unix_ms(message.expires_at);
        if !delivery.record.is_some() {
            delivery.record = self.new_id();
            if message.record.is_some() {
                let deliveries = self.shared.entry(message.record).or_default();
                *deliveries += 1;
                if *deliveries == 1 {
                    self.put(RecordKey::new(RecordKind::Message, message.record, 0), |fields| {
                        write_message(fields, message, expires_at);
                    });
                }
            }
        }
        self.put(RecordKey::new(RecordKind::Delivery, session, delivery.record.0), |fields| {
            write_delivery(fields, delivery, packet_id, message.record);
            if !message.record.is_some() {
                write_message(fields, message, expires_at);
            }
        });
    }

    /// A message is not owed any more. `message`: as it was queued or sent.
    pub(crate) fn forget_delivery(&mut self, session: RecordId, delivery: &Delivery, message: Option<&Message>) {
        if !delivery.record.is_some() {
            return;
        }
        self.remove(RecordKey::new(RecordKind::Delivery, session, delivery.record.0));
        let Some(shared) = message.map(|message| message.record).filter(|record| record.is_some()) else { return };
        if let Some(left) = self.shared.get_mut(&shared) {
            *left -= 1;
            if *left == 0 {
                self.shared.remove(&shared);
                self.remove(RecordKey::new(RecordKind::Message, shared, 0));
            }
        }
    }

    /// Removes the records of a sent message, whatever its state.
    pub(crate) fn forget_sent(&mut self, session: RecordId, sent: &Sent) {
        if !sent.delivery.record.is_some() {
            return;
        }
        if sent.awaits == Awaits::PubComp {
            self.remove(RecordKey::new(RecordKind::Released, session, u64::from(sent.packet_id.get())));
        } else {
            self.forget_delivery(session, &sent.delivery, sent.message.as_ref());
        }
    }

    /// The receiver has a QoS 2 message: all that is left of it is its packet identifier.
    pub(crate) fn record_released(&mut self, session: RecordId, sent: &Sent) {
        if sent.delivery.record.is_some() {
            self.forget_delivery(session, &sent.delivery, sent.message.as_ref());
            self.put_released(session, sent.packet_id);
        }
    }

    /// The record of a packet identifier that waits for PUBCOMP.
    pub(crate) fn put_released(&mut self, session: RecordId, packet_id: PacketId) {
        self.put(RecordKey::new(RecordKind::Released, session, u64::from(packet_id.get())), |_| {});
    }

    /// Every shard has done its part of a QoS 2 publish.
    pub(crate) fn record_received_by_all(&mut self, (session, packet_id): DedupKey) {
        let shards = self.here.shards;
        for shard in 0..shards {
            let item = received_item(packet_id, ShardPart { shards, shard });
            self.put(RecordKey::new(RecordKind::Received, session, item), |_| {});
        }
    }

    /// This shard has recorded its part of a QoS 2 publish.
    pub(crate) fn record_received(&mut self, (session, packet_id): DedupKey) {
        let item = received_item(packet_id, self.here);
        self.put(RecordKey::new(RecordKind::Received, session, item), |_| {});
    }

    /// The same, where anything was recorded since `since`.
    pub(crate) fn record_part(&mut self, key: Option<DedupKey>, since: Mark) {
        if let Some(key) = key.filter(|_| self.has_recorded(since)) {
            self.record_received(key);
        }
    }

    /// Removes what [`CommitJournal::record_received`] recorded.
    pub(crate) fn forget_own_part(&mut self, (session, packet_id): DedupKey) {
        let item = received_item(packet_id, self.here);
        self.remove(RecordKey::new(RecordKind::Received, session, item));
    }

    /// The identifier may name another message from now on. Returns whether an earlier process knew it.
    pub(crate) fn forget_recovered(&mut self, dedup_key: DedupKey) -> bool {
        let before = self.recovered.len();
        if before > 0 {
            self.recovered.retain(|(known, _)| *known != dedup_key);
        }
        self.recovered.len() < before
    }
}

/// The item of a received packet identifier's key: a shard has its own record of it.
fn received_item(packet_id: PacketId, part: ShardPart) -> u64 {
    u64::from(packet_id.get()) << 32 | u64::from(part.shards) << 16 | u64::from(part.shard)
}

/// The other way.
pub(crate) fn parse_received_item(item: u64) -> Option<(PacketId, ShardPart)> {
    let packet_id = PacketId::new(u16::try_from(item >> 32).ok()?)?;
    Some((packet_id, ShardPart { shards: (item >> 16) as u16, shard: item as u16 }))
}

/// The item of the record of [`RecordKind::Node`] that is there while the number of shards changes; those of the shards have
/// their numbers.
pub(crate) const REWRITING: u64 = 1 << 16;

/// The form of a session's record that has a will; 1 had no principal.
pub(crate) const WILL_FORM: u8 = 2;

/// Writes into a record as whom a will is published. Rules that a credential carried are not among it: they were applied at
/// CONNECT, and no declaration changes them.
pub(super) fn write_principal(fields: &mut ValueWriter<'_>, principal: &Principal) {
    write_identity(fields, principal.username.as_deref(), principal.address);
    fields.sized(principal.admitted_by.as_bytes());
}

/// Of a subscription: what is retained under it is still to be read.
pub(crate) const SUBSCRIPTION_READ_DUE: u8 = 1 << 6;

/// Flags of a delivery.
pub(crate) const DELIVERY_RETAIN: u8 = 1 << 2;
pub(crate) const DELIVERY_SENT: u8 = 1 << 3;
pub(crate) const DELIVERY_GROUP: u8 = 1 << 4;
pub(crate) const DELIVERY_DUPLICATE: u8 = 1 << 5;

fn write_delivery(fields: &mut ValueWriter<'_>, delivery: &Delivery, packet_id: Option<PacketId>, message: RecordId) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = delivery.qos as u8
        | flag(delivery.retain, DELIVERY_RETAIN)
        | flag(packet_id.is_some(), DELIVERY_SENT)
        | flag(delivery.group.is_some(), DELIVERY_GROUP)
        | flag(delivery.may_be_duplicate, DELIVERY_DUPLICATE);
    fields.u8(flags).u16(packet_id.map_or(0, PacketId::get)).u64(message.0);
    let identifiers = delivery.identifiers.as_deref().unwrap_or_default();
    fields.u32(identifiers.len() as u32);
    identifiers.iter().for_each(|identifier| {
        fields.u32(*identifier);
    });
    if let Some(group) = &delivery.group {
        fields.sized(group.group.as_bytes()).sized(group.filter.as_bytes());
    }
}

/// Writes a message at the end of a value; `expires_at` by the wall clock.
pub(super) fn write_message<'a, 'b>(
    fields: &'b mut ValueWriter<'a>,
    message: &Message,
    expires_at: u64,
) -> &'b mut ValueWriter<'a> {
    let publisher = message.publisher.as_deref();
    let flags = message.qos as u8 | u8::from(message.retain) << 2 | u8::from(publisher.is_some()) << 3;
    fields.u8(flags).u64(expires_at);
    if let Some(publisher) = publisher {
        publisher.write(fields);
    }
    fields.u16(message.topic().len() as u16).u32(message.properties().len() as u32);
    fields.bytes(message.topic().as_bytes()).bytes(message.properties()).bytes(message.payload())
}
