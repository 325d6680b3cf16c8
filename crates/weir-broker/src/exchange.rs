//! What shards say to each other: batches out, batches in, and who has to wait.

use super::connection::Origin;
use super::journal::Waits;
use super::limits::{LINK_ACKNOWLEDGE_BYTES, LINK_HIGH_BYTES};
use super::link::{Crossing, Hop, Item, LateSync, Onward, Storing};
use super::view::View;
use super::{Batch, ConnId, Core, Millis, ShardId};
use weir_mqtt::{DecodeContext, Decoded, Packet, Side, decode};

impl Core {
    /// What waits for another shard, if anything.
    pub fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        self.settle(to);
        let link = self.links.get_mut(usize::from(to.0))?;
        if link.batch.items.is_empty() {
            if link.received - link.told < LINK_ACKNOWLEDGE_BYTES && !link.owes_notice {
                return None;
            }
            link.batch.items.push_back(Item::Taken);
        }
        link.told = link.received;
        link.owes_notice = false;
        let mut batch = std::mem::take(&mut link.batch);
        (batch.end, batch.taken, batch.settled) = (link.sent, link.received, link.their_settled);
        batch.stored = link.their_stored;
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
        let Some(link) = self.links.get_mut(usize::from(from.0)) else { return };
        link.taken = link.taken.max(batch.taken);
        link.settled = link.settled.max(batch.settled);
        for (stored, told) in link.stored.iter_mut().zip(batch.stored) {
            *stored = told.max(*stored);
        }
        link.held.push_back(batch);
        if link.sent - link.taken <= LINK_HIGH_BYTES / 2 {
            let waiters = std::mem::take(&mut link.waiters);
            waiters.into_iter().for_each(|origin| self.resume(origin));
        }
        self.work_off(from, now);
        // What came may be what another link waits for.
        while let Some(other) = self.next_ripe() {
            self.work_off(other, now);
        }
        self.answer_late_syncs();
        self.settle_turns();
    }

    /// Goes on with what other shards sent, for as much work as this shard's turn has: what goes to thousands is not to
    /// keep its other clients waiting. Never called, there is no such bound.
    pub fn begin_turn(&mut self, work: usize, now: Millis) {
        let was_spent = self.link_budget == 0;
        self.link_budget = work;
        self.begin_prompt();
        if was_spent {
            self.now = now;
            while let Some(other) = self.next_ripe() {
                self.work_off(other, now);
            }
            self.answer_late_syncs();
            self.settle_turns();
        }
    }

    /// A link whose next item may be taken now.
    fn next_ripe(&self) -> Option<ShardId> {
        let is_ripe = |batch: &Batch| self.is_ripe(batch);
        let mut links = self.links.iter().map(|link| link.held.front().is_some_and(is_ripe));
        links.position(|ripe| ripe && self.link_budget > 0).map(|place| ShardId(place as u16))
    }

    /// Whether something is left to be done that only this turn's end held up.
    pub(super) fn has_more_to_take(&self) -> bool {
        self.link_budget == 0 && self.links.iter().any(|link| !link.held.is_empty())
    }

    /// Whether a batch's first item need not wait. A PUBLISH that came over its topic's owner does, until what its
    /// publisher's shard sent here before has been taken: it must not overtake that [MQTT-4.6.0-5]. (It waits for what
    /// was sent before it was, as does whatever that waits for: nothing ever waits for itself.)
    fn is_ripe(&self, batch: &Batch) -> bool {
        let Some(Item::Publish(Crossing { hop: Hop::Last { after }, origin, .. })) = batch.items.front() else {
            return true;
        };
        self.links.get(usize::from(origin.shard.0)).is_none_or(|link| link.received >= *after)
    }

    /// Does what a link brought, as far as it need not wait.
    fn work_off(&mut self, from: ShardId, now: Millis) {
        let place = usize::from(from.0);
        while let Some(mut batch) = self.links[place].held.pop_front() {
            while self.link_budget > 0
                && self.is_ripe(&batch)
                && let Some(item) = batch.items.pop_front()
            {
                let before = self.work;
                self.links[place].received += item.bytes();
                batch.sent_on |= matches!(&item, Item::Publish(Crossing { hop: Hop::Owner { .. }, .. }));
                self.on_item_of(&mut batch, from, item, now);
                self.link_budget = self.link_budget.saturating_sub(self.work.saturating_sub(before));
            }
            if !batch.items.is_empty() {
                return self.links[place].held.push_front(batch);
            }
            let until = if batch.sent_on { self.links.iter().map(|link| link.sent).collect() } else { Vec::new() };
            let link = &mut self.links[place];
            link.received = batch.end;
            link.onward.push_back(Onward { end: batch.end, until });
            link.owes_notice |= batch.asks_notice;
            let (end, unstored) = (batch.end, self.journal.unstored());
            for (rank, until) in batch.stored_until.into_iter().enumerate().filter(|(rank, _)| batch.asks_stored[*rank])
            {
                link.storing[rank].push_back(Storing { end, batch: unstored, until });
            }
        }
    }

    /// What is sent on because of an item is its sender's to wait for, not this shard's clients'.
    fn on_item_of(&mut self, batch: &mut Batch, from: ShardId, item: Item, now: Millis) {
        let Some(rank) = item.rank() else { return self.on_item(from, item, &batch.bytes, now) };
        let until = std::mem::take(&mut batch.stored_until[rank]);
        let own = self.journal.swap_waits(Waits { until, rank: Some(rank) });
        self.on_item(from, item, &batch.bytes, now);
        batch.stored_until[rank] = self.journal.swap_waits(own).until;
    }

    fn on_item(&mut self, from: ShardId, item: Item, bytes: &[u8], now: Millis) {
        match item {
            Item::Space { id, name } => self.learn_space(from, id, &name),
            Item::Publish(crossing) => self.on_crossing(from, &crossing, bytes, now),
            Item::Want { space, filter } => {
                let space = self.space_of(from, space);
                self.spaces[space as usize].subscriptions.add_destination(&filter, from);
            }
            Item::Unwant { space, filter } => {
                let space = self.space_of(from, space);
                self.spaces[space as usize].subscriptions.remove_destination(&filter, from);
            }
            Item::Sync { request, reads } => {
                let reads: Vec<_> = reads.into_iter().map(|(space, f)| (self.space_of(from, space), f)).collect();
                let retained = self.retained_under(&reads, now);
                let until = std::mem::take(&mut self.links[usize::from(from.0)].joined);
                let holds = self.have_taken(from, &until);
                if !holds {
                    self.ask_for_notice(&until);
                    self.late_syncs.push(LateSync { from, request, until });
                }
                self.links[usize::from(from.0)].push(Item::Synced { request, retained, holds });
            }
            Item::Synced { request, retained, holds } => self.synced(request, &retained, holds, now),
            Item::Join { group, member } => {
                self.join(&group, member);
                self.links[usize::from(from.0)].joined = self.links.iter().map(|link| link.sent).collect();
            }
            Item::Leave { group, session } => self.leave(&group, from, session),
            Item::Readiness { group, session, readiness } => self.set_readiness(&group, from, session, readiness),
            Item::Assign { session, message, delivery, origin, once, may_return, .. } => {
                self.assigned(session, &message, delivery, (origin, once), may_return, now);
            }
            Item::Return { group, message, once } => self.returned(&group, &message, once, now),
            Item::Pause(id) => self.pause_here(id),
            Item::Resume(id) => self.resume_here(id),
            Item::Durable => self.journal.somebody = true,
            Item::Released(once) => {
                self.forget_recovered(once);
            }
            Item::Orphaned(once) => self.forget_own_part(once),
            Item::Barrier | Item::Taken => {}
        }
    }

    /// Whether every shard has taken what it was sent up to `until`; `but` is told nothing before it has, so it does not
    /// count.
    fn have_taken(&self, but: ShardId, until: &[u64]) -> bool {
        let links = self.links.iter().zip(until).enumerate();
        links.filter(|(to, _)| *to != usize::from(but.0)).all(|(_, (link, until))| link.taken >= *until)
    }

    /// Asks those who have not taken what they were sent up to `until` to say when they have.
    fn ask_for_notice(&mut self, until: &[u64]) {
        for (link, _) in self.links.iter_mut().zip(until).filter(|(link, until)| link.taken < **until) {
            link.batch.items.push_back(Item::Taken);
            link.batch.asks_notice = true;
        }
    }

    fn answer_late_syncs(&mut self) {
        while let Some(place) = self.late_syncs.iter().position(|late| self.have_taken(late.from, &late.until)) {
            let LateSync { from, request, .. } = self.late_syncs.swap_remove(place);
            let answer = Item::Synced { request, retained: Vec::new(), holds: true };
            self.links[usize::from(from.0)].push(answer);
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
        (view.durable, view.once) = (crossing.durable, crossing.once);
        let before = self.journal.recorded;
        match &crossing.hop {
            Hop::Last { .. } => {
                self.fan_out(space, &mut view, now);
            }
            Hop::Owner { after } => self.route_here(space, &mut view, after, now),
        }
        self.record_part(crossing.once, before);
        self.await_disk(&view);
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
