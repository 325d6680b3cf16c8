//! What shards say to each other: batches out, batches in, and who has to wait.

use super::connection::Origin;
use super::limits::{LINK_ACKNOWLEDGE_BYTES, LINK_HIGH_BYTES};
use super::link::{Crossing, Hop, Item, Onward};
use super::view::View;
use super::{Batch, ConnId, Core, Millis, ShardId};
use crate::mqtt::{DecodeContext, Decoded, Packet, Side, decode};

impl Core {
    /// What waits for another shard, if anything.
    pub fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        self.settle(to);
        let link = self.links.get_mut(usize::from(to.0))?;
        if link.batch.items.is_empty() {
            if link.received - link.told < LINK_ACKNOWLEDGE_BYTES && !link.owes_notice {
                return None;
            }
            link.batch.items.push(Item::Taken);
        }
        link.told = link.received;
        link.owes_notice = false;
        let mut batch = std::mem::take(&mut link.batch);
        (batch.end, batch.taken, batch.settled) = (link.sent, link.received, link.their_settled);
        Some(batch)
    }

    /// Finds how far what came from a shard has been taken by those it was sent on to.
    fn settle(&mut self, from: ShardId) {
        while let Some(onward) = self.links.get(usize::from(from.0)).and_then(|link| link.onward.front()) {
            if self.links.iter().zip(&onward.until).any(|(link, until)| link.taken < *until) {
                return;
            }
            let Some(link) = self.links.get_mut(usize::from(from.0)) else { return };
            if let Some(onward) = link.onward.pop_front() {
                link.their_settled = onward.end;
                link.owes_notice |= !onward.until.is_empty();
            }
        }
    }

    /// Takes another shard's batch.
    pub fn deliver_batch(&mut self, from: ShardId, batch: Batch, now: Millis) {
        self.now = now;
        let Batch { items, bytes, end, taken, settled, asks_notice } = batch;
        let mut sends_on = false;
        for item in items {
            sends_on |= matches!(&item, Item::Publish(crossing) if crossing.hop == Hop::Owner);
            self.on_item(from, item, &bytes, now);
        }
        let until = if sends_on { self.links.iter().map(|link| link.sent).collect() } else { Vec::new() };
        let Some(link) = self.links.get_mut(usize::from(from.0)) else { return };
        link.received = end;
        link.onward.push_back(Onward { end, until });
        link.owes_notice |= asks_notice;
        link.taken = link.taken.max(taken);
        link.settled = link.settled.max(settled);
        if link.sent - link.taken <= LINK_HIGH_BYTES / 2 {
            let waiters = std::mem::take(&mut link.waiters);
            waiters.into_iter().for_each(|origin| self.resume(origin));
        }
    }

    fn on_item(&mut self, from: ShardId, item: Item, bytes: &[u8], now: Millis) {
        match item {
            Item::Space { id, name } => self.learn_space(from, id, &name),
            Item::Publish(crossing) => self.on_crossing(from, &crossing, bytes, now),
            Item::Want { space, filter } => {
                let space = self.space_of(from, space);
                self.spaces[space as usize].subscriptions.add_destination(&filter, from.0);
            }
            Item::Unwant { space, filter } => {
                let space = self.space_of(from, space);
                self.spaces[space as usize].subscriptions.remove_destination(&filter, from.0);
            }
            Item::Sync { request, reads } => {
                let reads: Vec<_> = reads.into_iter().map(|(space, f)| (self.space_of(from, space), f)).collect();
                self.sync(from, request, &reads, now);
            }
            Item::Synced { request, retained } => self.synced(request, &retained, now),
            Item::Join { group, member } => {
                self.join(&group, member);
            }
            Item::Leave { group, session } => self.leave(&group, from, session),
            Item::Readiness { group, session, readiness } => self.set_readiness(&group, from, session, readiness),
            Item::Assign { session, message, delivery, origin } => {
                self.assigned(session, &message, delivery, origin, now);
            }
            Item::Return { group, message } => self.redeliver(&group, &message, None, now),
            Item::Pause(id) => self.pause_here(id),
            Item::Resume(id) => self.resume_here(id),
            Item::Taken => {}
        }
    }

    fn on_crossing(&mut self, from: ShardId, crossing: &Crossing, bytes: &[u8], now: Millis) {
        let raw = &bytes[crossing.start as usize..crossing.end as usize];
        let context = DecodeContext { version: crossing.version, max_packet_size: u32::MAX, from: Side::Client };
        // What was decoded there decodes here: it is the same code.
        let Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) = decode(raw, &context) else { return };
        let space = self.space_of(from, crossing.space);
        let (expires_at, origin) = (crossing.expires_at, crossing.origin);
        let mut view = View::new(publish.topic, &publish, crossing.version, raw, expires_at, origin);
        view.publisher.clone_from(&crossing.publisher);
        match crossing.hop {
            Hop::Last => {
                self.fan_out(space, &mut view, now);
            }
            Hop::Owner => self.route_here(space, &mut view, now),
        }
    }

    /// Stops reading from a publisher, here or on its shard.
    pub(super) fn pause(&mut self, origin: Origin) {
        if origin.shard == self.config.shard {
            self.pause_here(origin.connection);
        } else if let Some(link) = self.links.get_mut(usize::from(origin.shard.0)) {
            link.push(Item::Pause(origin.connection));
        }
    }

    pub(super) fn resume(&mut self, origin: Origin) {
        if origin.shard == self.config.shard {
            self.resume_here(origin.connection);
        } else if let Some(link) = self.links.get_mut(usize::from(origin.shard.0)) {
            link.push(Item::Resume(origin.connection));
        }
    }

    fn pause_here(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_generation(id.slot, id.generation) {
            connection.pauses += 1;
        }
    }

    pub(super) fn resume_here(&mut self, id: ConnId) {
        if let Some(connection) = self.connections.get_generation(id.slot, id.generation)
            && connection.pauses > 0
        {
            connection.pauses -= 1;
            if connection.pauses == 0 {
                self.resumed.push(id);
            }
        }
    }
}
