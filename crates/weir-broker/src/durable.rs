//! What a core does for durability: it tells changes as records, and holds back what a client may only be told once they
//! are on disk.

use std::collections::VecDeque;

use super::core::Core;
use super::inflight::{Awaits, Delivery, Sent};
use super::journal::{Once, Part};
use super::link::{Item, RANKS, Wait};
use super::message::Message;
use super::out::{Acknowledgement, REFUSAL_BYTES};
use super::record::{Fields, Key, Kind, RecordBatch, RecordId};
use super::session::{Queued, SpaceId};
use super::subscriptions::SessionId;
use super::view::View;
use super::will::{WILL_FORM, write_principal};
use super::{ConnId, Kept, Millis, OutBuf, ShardId};
use weir_mqtt::{PacketId, QoS, ReasonCode, SubscriptionOptions};

impl Core {
    /// Ends a turn: what it changed of durable state, for the store.
    pub fn take_records(&mut self) -> Option<RecordBatch> {
        let batch = self.journal.end_turn();
        self.settle_turns();
        batch
    }

    /// The store has come further, or its disk is full, or no longer is.
    pub fn on_kept(&mut self, kept: Kept, now: Millis) {
        self.now = now;
        match kept {
            Kept::UpTo(number) => self.journal.stored(number),
            Kept::Full(full) => self.journal.full = full,
        }
        self.settle_turns();
        self.release_publishes(now);
        if kept == Kept::Full(true) {
            self.refuse_waiting();
        }
    }

    /// The disk is full, and may stay so: clients that can be told are not left waiting. What they published may come to
    /// be stored and delivered all the same; a QoS 2 message can only be refused before it is taken, or it could come
    /// twice.
    fn refuse_waiting(&mut self) {
        let holding: Vec<ConnId> = self.journal.holding.iter().map(|(_, id)| *id).collect();
        for id in holding {
            if let Some(connection) = self.connections.get_generation(id.slot, id.generation)
                && connection.is_v5()
                && connection.maximum_packet_size >= REFUSAL_BYTES
            {
                connection.out.refuse(ReasonCode::QuotaExceeded);
                self.count_buffer(id.slot);
                self.mark_dirty(id.slot);
            }
        }
        // What they publish from now on is refused as it comes: it need not wait to be read.
        self.resume_disk_waiters();
    }

    fn resume_disk_waiters(&mut self) {
        let waiters = std::mem::take(&mut self.journal.waiters);
        waiters.into_iter().for_each(|origin| self.resume(origin));
    }

    /// Lets go what waited for turns that are settled now.
    pub(super) fn settle_turns(&mut self) {
        self.settle_links();
        self.work_outbox();
        let links = &self.links;
        let is_there = |wait: &Wait| links[usize::from(wait.shard)].stored[wait.rank] >= wait.place;
        let Some(settled) = self.journal.settle(is_there) else { return };
        while let Some(&(number, id)) = self.journal.holding.front()
            && number <= settled
        {
            self.journal.holding.pop_front();
            if let Some(connection) = self.connections.get_generation(id.slot, id.generation) {
                connection.out.release(settled, connection.version);
                self.count_buffer(id.slot);
                self.mark_dirty(id.slot);
            }
        }
        if self.journal.backlog_bytes() <= self.held.records_high_bytes() / 2 {
            self.resume_disk_waiters();
        }
    }

    /// Finds how far what other shards sent is durable.
    fn settle_links(&mut self) {
        if self.links.iter().flat_map(|link| &link.storing).all(VecDeque::is_empty) {
            return;
        }
        let stored: Vec<[u64; RANKS]> = self.links.iter().map(|link| link.stored).collect();
        let is_there = |wait: &Wait| stored[usize::from(wait.shard)][wait.rank] >= wait.place;
        for link in &mut self.links {
            for (storing, their_stored) in link.storing.iter_mut().zip(&mut link.their_stored) {
                while let Some(first) = storing.front()
                    && self.journal.is_stored(first.batch)
                    && first.until.iter().all(is_there)
                {
                    *their_stored = first.end;
                    link.owes_notice = true;
                    storing.pop_front();
                }
            }
        }
    }

    /// What is written to a connection from now on waits until all that was changed so far is durable.
    pub(super) fn hold(&mut self, slot: u32) {
        if let Some(turn) = self.journal.unsettled() {
            self.wait_for(slot, turn, |out| out.hold(turn, false));
        }
    }

    /// The same for CONNACK, before which nothing may go out.
    pub(super) fn hold_connack(&mut self, slot: u32) {
        if let Some(turn) = self.journal.unsettled() {
            self.wait_for(slot, turn, |out| out.hold(turn, true));
        }
    }

    /// Acknowledges a PUBLISH once its turn is settled.
    pub(super) fn acknowledge_after(&mut self, slot: u32, acknowledgement: Acknowledgement) {
        self.wait_for(slot, acknowledgement.turn, |out| out.acknowledge(acknowledgement));
    }

    fn wait_for(&mut self, slot: u32, turn: u64, hold: impl FnOnce(&mut OutBuf) -> bool) {
        let generation = self.connections.generation(slot);
        if let Some(connection) = self.connections.get_mut(slot)
            && hold(&mut connection.out)
        {
            self.journal.holding.push_back((turn, ConnId { slot, generation }));
        }
    }

    /// The same, where the session is durable: for answers that speak of it.
    pub(super) fn hold_durable(&mut self, slot: u32) {
        if self.journal.on && self.durable_of(slot).is_some() {
            self.hold(slot);
        }
    }

    /// The number of a connection's session, where it is durable.
    pub(super) fn durable_of(&self, slot: u32) -> Option<RecordId> {
        let session = self.connections.get(slot)?.session;
        self.sessions.get(session)?.durable.as_ref().map(|durable| durable.id)
    }

    /// A publisher that outruns the disk pauses.
    pub(super) fn await_disk(&mut self, view: &View<'_>) {
        let origin = view.origin;
        if self.journal.backlog_bytes() > self.held.records_high_bytes()
            && origin != super::connection::Origin::NOBODY
            && !self.journal.waiters.contains(&origin)
        {
            self.journal.waiters.push(origin);
            self.pause(origin);
        }
    }

    /// A message for another shard, just put on its link with `rank`, may be recorded there, or farther on: this turn waits
    /// for it. A message that is returned a second time, because two members left at once, goes into the outbox instead.
    pub(super) fn depend_on(&mut self, to: ShardId, rank: usize, kept: bool) {
        if self.journal.on && (self.journal.somebody || kept) && self.journal.may_wait_for(rank) {
            let link = &mut self.links[usize::from(to.0)];
            link.batch.asks_stored[rank] = true;
            self.journal.wait_for(Wait { shard: to.0, rank, place: link.sent });
        }
    }

    /// Tells a session as it is now.
    pub(super) fn record_session(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(id) else { return };
        let Some(durable) = &session.durable else { return };
        let name = &self.spaces[session.space as usize].name;
        let (journal, away) = (&mut self.journal, session.connection.is_none());
        let ends_at = if away { journal.to_unix_ms(session.ends_at) } else { 0 };
        let due_at = |at: Option<Millis>, journal: &super::journal::Journal| at.map_or(0, |at| journal.to_unix_ms(at));
        let due_at = due_at(session.will.as_ref().and_then(|will| will.due_at), journal);
        journal.put(Key::new(Kind::Session, durable.id, 0), |fields| {
            fields.sized(name.as_bytes()).sized(session.client_id.as_bytes()).sized(session.policy.name.as_bytes());
            fields.u32(session.expiry_s).u64(ends_at);
            match &session.will {
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

    /// Tells that a session has ended, with all that it had. `false`: it was not durable.
    pub(super) fn forget_session(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.get_mut(id) else { return false };
        let Some(durable) = session.durable.take() else { return false };
        let owner = durable.id;
        let queued: Vec<(Delivery, Message)> =
            session.queue.iter().map(|q| (q.delivery.clone(), q.message.clone())).collect();
        let sent: Vec<Sent> = session.inflight.iter().cloned().collect();
        let shared = session.rare.iter_mut().flat_map(|rare| &mut rare.shared);
        let shared: Vec<RecordId> = shared.map(|shared| std::mem::take(&mut shared.record)).collect();
        queued.iter().for_each(|(delivery, message)| self.forget_delivery(owner, delivery, Some(message)));
        sent.iter().for_each(|sent| self.forget_sent(owner, sent));
        for record in durable.subscriptions.into_iter().chain(shared) {
            self.journal.remove(Key::new(Kind::Subscription, owner, record.0));
        }
        let here = usize::from(self.config.shard.0);
        for packet_id in durable.received {
            self.forget_received(owner, packet_id);
            // Those that are still to take their parts would record them after this.
            for (_, link) in self.links.iter_mut().enumerate().filter(|(shard, _)| *shard != here) {
                link.push(Item::Orphaned((owner, packet_id)));
            }
        }
        self.journal.remove(Key::new(Kind::Session, owner, 0));
        true
    }

    /// Tells a subscription; `filter` with its `$share`. Answers with its number.
    pub(super) fn record_subscription(
        &mut self,
        owner: RecordId,
        known: Option<RecordId>,
        filter: &str,
        options: SubscriptionOptions,
        identifier: u32,
    ) -> RecordId {
        let record = known.unwrap_or_else(|| self.journal.new_id());
        self.journal.put(Key::new(Kind::Subscription, owner, record.0), |fields| {
            let flags = options.qos as u8
                | u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4;
            fields.u8(flags).u32(identifier).bytes(filter.as_bytes());
        });
        record
    }

    pub(super) fn forget_subscription(&mut self, owner: RecordId, record: RecordId) {
        self.journal.remove(Key::new(Kind::Subscription, owner, record.0));
    }

    /// The message in a form that a durable session can keep: with a record of its own, where several may share it, or
    /// where its delivery is told more than once.
    pub(super) fn message_for_record(&mut self, view: &mut View<'_>, qos: QoS) -> Message {
        let mut message = view.store();
        if !message.record.is_some() && (view.has_several_receivers() || qos == QoS::ExactlyOnce) {
            message.record = self.journal.new_id();
            view.set_stored(&message);
        }
        message
    }

    /// Tells what a session is to get, or (of QoS 2) by what packet identifier it gets it.
    pub(super) fn record_delivery(
        &mut self,
        owner: RecordId,
        delivery: &mut Delivery,
        message: &Message,
        packet_id: Option<PacketId>,
    ) {
        let expires_at = self.journal.to_unix_ms(message.expires_at);
        if !delivery.record.is_some() {
            delivery.record = self.journal.new_id();
            if message.record.is_some() {
                let deliveries = self.journal.shared.entry(message.record).or_default();
                *deliveries += 1;
                if *deliveries == 1 {
                    self.journal.put(Key::new(Kind::Message, message.record, 0), |fields| {
                        write_message(fields, message, expires_at);
                    });
                }
            }
        }
        self.journal.put(Key::new(Kind::Delivery, owner, delivery.record.0), |fields| {
            write_delivery(fields, delivery, packet_id, message.record);
            if !message.record.is_some() {
                write_message(fields, message, expires_at);
            }
        });
    }

    /// A queued message of a durable session, before it is queued.
    pub(super) fn record_queued(&mut self, to: SessionId, queued: &mut Queued) {
        if queued.delivery.qos == QoS::AtMostOnce || queued.delivery.record.is_some() {
            return;
        }
        if let Some(owner) = self.sessions.get(to).and_then(|s| s.durable.as_ref()).map(|durable| durable.id) {
            self.record_delivery(owner, &mut queued.delivery, &queued.message, None);
        }
    }

    /// A message is not owed any more. `message`: as it was queued or sent.
    pub(super) fn forget_delivery(&mut self, owner: RecordId, delivery: &Delivery, message: Option<&Message>) {
        if !delivery.record.is_some() {
            return;
        }
        self.journal.remove(Key::new(Kind::Delivery, owner, delivery.record.0));
        let Some(shared) = message.map(|message| message.record).filter(|record| record.is_some()) else { return };
        if let Some(left) = self.journal.shared.get_mut(&shared) {
            *left -= 1;
            if *left == 0 {
                self.journal.shared.remove(&shared);
                self.journal.remove(Key::new(Kind::Message, shared, 0));
            }
        }
    }

    /// A sent message is done with, wherever its exchange stands.
    pub(super) fn forget_sent(&mut self, owner: RecordId, sent: &Sent) {
        if !sent.delivery.record.is_some() {
            return;
        }
        if sent.awaits == Awaits::Complete {
            self.journal.remove(Key::new(Kind::Released, owner, u64::from(sent.packet_id.get())));
        } else {
            self.forget_delivery(owner, &sent.delivery, sent.message.as_ref());
        }
    }

    /// The receiver has a QoS 2 message: all that is left of it is its packet identifier.
    pub(super) fn record_released(&mut self, owner: RecordId, sent: &Sent) {
        if sent.delivery.record.is_some() {
            self.forget_delivery(owner, &sent.delivery, sent.message.as_ref());
            self.journal.put(Key::new(Kind::Released, owner, u64::from(sent.packet_id.get())), |_| {});
        }
    }

    /// This shard has recorded its part of a QoS 2 publish.
    pub(super) fn record_received(&mut self, (owner, packet_id): Once) {
        let item = received_item(packet_id, Part { shards: self.config.shards, shard: self.config.shard.0 });
        self.journal.put(Key::new(Kind::Received, owner, item), |_| {});
    }

    /// The same, where anything was recorded since `recorded`.
    pub(super) fn record_part(&mut self, once: Option<Once>, recorded: u64) {
        if let Some(once) = once.filter(|_| self.journal.recorded != recorded) {
            self.record_received(once);
        }
    }

    /// Takes back what [`Core::record_received`] told.
    pub(super) fn forget_own_part(&mut self, (owner, packet_id): Once) {
        let item = received_item(packet_id, Part { shards: self.config.shards, shard: self.config.shard.0 });
        self.journal.remove(Key::new(Kind::Received, owner, item));
    }

    /// The publisher has released a packet identifier: no shard has to know it any more.
    pub(super) fn forget_received(&mut self, owner: RecordId, packet_id: PacketId) {
        let (now, before) = (self.config.shards, self.journal.recovered_shards.clone());
        for shards in before.into_iter().filter(|before| *before != now).chain([now]) {
            for shard in 0..shards {
                let item = received_item(packet_id, Part { shards, shard });
                self.journal.remove(Key::new(Kind::Received, owner, item));
            }
        }
        if self.forget_recovered((owner, packet_id)) {
            let here = usize::from(self.config.shard.0);
            for (_, link) in self.links.iter_mut().enumerate().filter(|(shard, _)| *shard != here) {
                link.push(Item::Released((owner, packet_id)));
            }
        }
    }

    /// The identifier may name another message from now on. Answers whether an earlier process knew it.
    pub(super) fn forget_recovered(&mut self, once: Once) -> bool {
        let before = self.journal.recovered.len();
        if before > 0 {
            self.journal.recovered.retain(|(known, _)| *known != once);
        }
        self.journal.recovered.len() < before
    }

    /// The first durable session begins on this shard: the others are to know, so that they wait for what they send.
    pub(super) fn tell_durable(&mut self) {
        self.journal.somebody = true;
        if std::mem::replace(&mut self.journal.told, true) {
            return;
        }
        let here = usize::from(self.config.shard.0);
        for (_, link) in self.links.iter_mut().enumerate().filter(|(shard, _)| *shard != here) {
            link.push(Item::Durable);
        }
    }

    /// Keeps a retained message, or removes what its topic had; on disk where `durable`.
    pub(super) fn set_retained(&mut self, space: SpaceId, message: &Message, durable: bool) {
        let Some(space_state) = self.spaces.get_mut(space as usize) else { return };
        let retained = &mut space_state.retained;
        let before = if self.journal.on { retained.record(message.topic()) } else { RecordId::NONE };
        if durable && self.journal.on && !message.payload().is_empty() {
            let record = if before.is_some() { before } else { self.journal.new_id() };
            let expires_at = self.journal.to_unix_ms(message.expires_at);
            let name = &space_state.name;
            self.journal.put(Key::new(Kind::Retained, RecordId::NONE, record.0), |fields| {
                fields.sized(name.as_bytes());
                write_message(fields, message, expires_at);
            });
            retained.set(message, record);
        } else {
            if before.is_some() {
                self.journal.remove(Key::new(Kind::Retained, RecordId::NONE, before.0));
            }
            retained.set(message, RecordId::NONE);
        }
    }

    /// Removes retained messages that expired.
    pub(super) fn expire_retained(&mut self, now: Millis) {
        for space in &mut self.spaces {
            let journal = &mut self.journal;
            space.retained.expire(now, |record| {
                if record.is_some() {
                    journal.remove(Key::new(Kind::Retained, RecordId::NONE, record.0));
                }
            });
        }
    }

    /// Whether a message would have to be recorded somewhere.
    pub(super) fn wants_record(&mut self, space: SpaceId, topic: &str, kept: bool) -> bool {
        if kept {
            return true;
        }
        let matches = self.spaces[space as usize].subscriptions.matches(topic);
        let durable = |id: SessionId| self.sessions.get(id).is_some_and(|session| session.durable.is_some());
        matches.subscribers.iter().any(|matched| matched.qos > QoS::AtMostOnce && durable(matched.session))
            || (self.journal.somebody && (!matches.destinations.is_empty() || !matches.groups.is_empty()))
    }
}

/// The item of a received packet identifier's key: a shard has its own record of it.
fn received_item(packet_id: PacketId, part: Part) -> u64 {
    u64::from(packet_id.get()) << 32 | u64::from(part.shards) << 16 | u64::from(part.shard)
}

/// The other way.
pub(super) fn received_of(item: u64) -> Option<(PacketId, Part)> {
    let packet_id = PacketId::new(u16::try_from(item >> 32).ok()?)?;
    Some((packet_id, Part { shards: (item >> 16) as u16, shard: item as u16 }))
}

/// Flags of a delivery.
pub(super) const DELIVERY_RETAIN: u8 = 1 << 2;
pub(super) const DELIVERY_SENT: u8 = 1 << 3;
pub(super) const DELIVERY_GROUP: u8 = 1 << 4;

fn write_delivery(fields: &mut Fields<'_>, delivery: &Delivery, packet_id: Option<PacketId>, message: RecordId) {
    let flag = |set: bool, bit: u8| if set { bit } else { 0 };
    let flags = delivery.qos as u8
        | flag(delivery.retain, DELIVERY_RETAIN)
        | flag(packet_id.is_some(), DELIVERY_SENT)
        | flag(delivery.group.is_some(), DELIVERY_GROUP);
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
    fields: &'b mut Fields<'a>,
    message: &Message,
    expires_at: u64,
) -> &'b mut Fields<'a> {
    let publisher = message.publisher.as_deref();
    let flags = message.qos as u8 | u8::from(message.retain) << 2 | u8::from(publisher.is_some()) << 3;
    fields.u8(flags).u64(expires_at);
    if let Some(publisher) = publisher {
        publisher.write(fields);
    }
    fields.u16(message.topic().len() as u16).u32(message.properties().len() as u32);
    fields.bytes(message.topic().as_bytes()).bytes(message.properties()).bytes(message.payload())
}
