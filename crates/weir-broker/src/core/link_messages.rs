//! Messages from other shards, in order, and the publishers that wait for a link.

use crate::Core;
use crate::delivery::publish_context::PublishContext;
use crate::durability::journal::Waits;
use crate::ids::{Millis, NamespaceId, Origin, ShardId};
use crate::links::link::{Batch, ForwardedPublish, LinkMessage, Route};
use crate::observe::Site;
use weir_mqtt::{DecodeContext, Decoded, Packet, Side, decode};

impl Core {
    /// Takes another shard's batch.
    pub fn deliver_batch(&mut self, from: ShardId, batch: Batch, now: Millis) {
        self.now = now;
        let waiters = self.links.accept(from, batch);
        waiters.into_iter().for_each(|origin| self.resume(origin));
        self.drain_link(from, now);
        self.drain_links(now);
    }

    /// Processes messages of other shards, up to this turn's budget, so that a large fan-out does not delay local clients.
    /// Never called, there is no budget.
    pub fn begin_turn(&mut self, work: usize, now: Millis) {
        self.begin_pass();
        let was_spent = self.links.begin_turn(work);
        self.scheduler.refill_priority_budget();
        if was_spent {
            self.now = now;
            self.drain_links(now);
        }
    }

    /// A message on one link may be what another link waits for.
    fn drain_links(&mut self, now: Millis) {
        while let Some(other) = self.links.next_deliverable() {
            self.drain_link(other, now);
        }
        self.links.answer_barriers();
        self.settle_epochs();
        self.answer_moves();
    }

    /// Processes what a link brought, as far as it need not wait.
    fn drain_link(&mut self, from: ShardId, now: Millis) {
        while let Some(mut batch) = self.links.next_batch(from) {
            while let Some(message) = self.links.next_message(from, &mut batch) {
                let before = self.work;
                self.on_ranked_message(&mut batch, from, message, now);
                self.links.spend(self.work.saturating_sub(before));
            }
            let unstored = self.journal.unstored();
            if !self.links.end_batch(from, batch, |_| unstored) {
                return;
            }
        }
    }

    /// Copies that are forwarded because of a message delay its sender's acknowledgement, not those of this shard's
    /// clients.
    fn on_ranked_message(&mut self, batch: &mut Batch, from: ShardId, message: LinkMessage, now: Millis) {
        let Some(rank) = message.rank() else { return self.on_link_message(from, message, &batch.bytes, now) };
        let until = std::mem::take(&mut batch.stored_until[rank]);
        let own = self.journal.swap_waits(Waits { until, rank: Some(rank) });
        self.on_link_message(from, message, &batch.bytes, now);
        batch.stored_until[rank] = self.journal.swap_waits(own).until;
    }

    fn on_link_message(&mut self, from: ShardId, message: LinkMessage, bytes: &[u8], now: Millis) {
        match message {
            LinkMessage::Namespace { id, name } => {
                let ours = self.routing.namespace(&name);
                self.links.learn_namespace(from, id, ours);
            }
            LinkMessage::Publish(publish) => self.on_forwarded_publish(from, &publish, bytes, now),
            LinkMessage::AddInterest { namespace, filter } => {
                let namespace = self.namespace_of(from, namespace);
                self.routing.subscriptions_mut(namespace).add_destination(&filter, from);
            }
            LinkMessage::RemoveInterest { namespace, filter } => {
                let namespace = self.namespace_of(from, namespace);
                self.routing.subscriptions_mut(namespace).remove_destination(&filter, from);
            }
            LinkMessage::Barrier { request, reads, room } => {
                let retained = reads.map(|(namespace, filters)| {
                    let namespace = self.namespace_of(from, namespace);
                    self.begin_reads(namespace, &filters, room, now)
                });
                let complete = self.links.begin_barrier(from, request);
                self.links.push(from, LinkMessage::BarrierAck { request, retained, complete });
            }
            LinkMessage::BarrierAck { request, retained, complete } => {
                self.on_barrier_ack((from, request), retained, complete, now);
            }
            LinkMessage::RetainedRead { session, node, namespace, filter, from: position, newest } => {
                let namespace = self.namespace_of(from, namespace);
                self.on_retained_read((from, session, node), namespace, (&filter, &position, newest), now);
            }
            LinkMessage::RetainedPage { session, node, from: position, page } => {
                self.on_retained_page((from, session, node), &position, page, now);
            }
            LinkMessage::Join { group, member, readiness } => {
                self.join(&group, member, Some(readiness));
                self.links.save_join_positions(from);
            }
            LinkMessage::Leave { group, session } => self.leave(&group, from, session),
            LinkMessage::Readiness { session, readiness } => {
                self.routing.set_readiness((from, session), readiness);
                self.touch_groups_of_member((from, session));
            }
            LinkMessage::Assign { session, message, delivery, origin, dedup_key, may_return, .. } => {
                self.on_assigned(session, &message, delivery, (origin, dedup_key), may_return, now);
            }
            LinkMessage::Return { group, message, dedup_key } => self.on_returned(&group, &message, dedup_key, now),
            LinkMessage::GroupPublish { group, message } => self.on_peer_group_publish(&group, &message, now),
            LinkMessage::ClientElsewhere { peer, namespace, client_id, stamp, wins_ties, clean_start } => {
                let namespace = self.namespace_of(from, namespace);
                self.on_client_elsewhere((peer, namespace), &client_id, (stamp, wins_ties, clean_start), now);
            }
            LinkMessage::PublishWill { namespace, client_id, will } => {
                let namespace = self.namespace_of(from, namespace);
                self.publish_kept_will(namespace, &client_id, &will, now);
            }
            LinkMessage::WillPublished { namespace, client_id, stamp } => {
                let namespace = self.namespace_of(from, namespace);
                self.on_will_published(namespace, &client_id, stamp);
            }
            LinkMessage::LogEntryMax(bytes) => self.log_entry_max = bytes,
            LinkMessage::InUntil(until) => {
                self.journal.set_in_until(until);
                self.release_held_wills(now);
            }
            LinkMessage::Slots { number, per_class, sets } => self.set_slots(number, per_class, sets, now),
            LinkMessage::Hold { number, mover, until } => {
                self.forget_clean_starts_of(mover);
                self.begin_hold(number, until);
            }
            LinkMessage::Release { number } => self.end_hold(number, now),
            LinkMessage::Export { number, slots, max_bytes } => self.export_slots(number, slots, max_bytes, now),
            LinkMessage::Import { number, slots, copy } => self.import_slots(number, slots, &copy, now),
            LinkMessage::ListClients { peer, key, from } => self.list_clients(peer, key, from),
            LinkMessage::Stamp(stamp) => self.stamp = self.stamp.max(stamp),
            LinkMessage::RetainedNewest { newest } => self.on_retained_newest(from, newest),
            // The gateway alone is sent these.
            LinkMessage::GroupState { .. }
            | LinkMessage::ClientConnected { .. }
            | LinkMessage::Clients(_)
            | LinkMessage::ClientWill { .. }
            | LinkMessage::SlotsApplied { .. }
            | LinkMessage::Held { .. }
            | LinkMessage::Exported { .. }
            | LinkMessage::Imported { .. } => {
                self.observe.count_error(Site::ShardOfBatch);
            }
            LinkMessage::Pause(id) => self.clients.pause(id),
            LinkMessage::Resume(id) => self.clients.resume(id),
            LinkMessage::HasDurableSessions => self.journal.set_remote_durable(),
            LinkMessage::Released(key) => {
                self.journal.forget_recovered(key);
            }
            LinkMessage::SessionEnded(key) => self.journal.forget_own_part(key),
            LinkMessage::StoreBarrier | LinkMessage::Ack => {}
        }
    }

    fn on_forwarded_publish(&mut self, from: ShardId, forwarded: &ForwardedPublish, bytes: &[u8], now: Millis) {
        let raw = &bytes[forwarded.start as usize..forwarded.end as usize];
        let context = DecodeContext { version: forwarded.version, max_packet_size: u32::MAX, from: Side::Client };
        // It decodes here, since the other shard runs the same code.
        let Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) = decode(raw, &context) else {
            return self.observe.count_error(Site::ForwardedPublish);
        };
        let namespace = self.namespace_of(from, forwarded.namespace);
        let (expires_at, origin) = (forwarded.expires_at, forwarded.origin);
        let mut context = PublishContext::new(publish.topic, &publish, forwarded.version, raw, expires_at, origin);
        context.publisher.clone_from(&forwarded.publisher);
        (context.durable, context.dedup_key) = (forwarded.durable, forwarded.dedup_key);
        (context.is_of_peer, context.is_of_gateway) = (forwarded.is_of_peer, Some(from) == self.gateway);
        context.groups_wait = forwarded.groups_wait;
        let before = self.journal.mark();
        match &forwarded.route {
            Route::Direct { .. } => {
                self.fan_out(namespace, &mut context, None, now);
            }
            Route::ViaOwner { after } => self.route_here(namespace, &mut context, (after, None), now),
        }
        self.journal.record_part(forwarded.dedup_key, before);
        self.pause_if_store_lags(&context);
    }

    /// The local meaning of another shard's number of a namespace.
    fn namespace_of(&mut self, from: ShardId, theirs: NamespaceId) -> NamespaceId {
        match self.links.namespace_of(from, theirs) {
            Some(ours) => ours,
            None => {
                self.observe.count_error(Site::NamespaceOfShard);
                self.routing.namespace("")
            }
        }
    }

    /// Sends another shard the meaning of a namespace's number, before its first use.
    pub(crate) fn define_namespace(&mut self, to: ShardId, id: NamespaceId) {
        self.links.define_namespace(to, id, self.routing.name(id));
    }

    /// Stops reading from a publisher, here or on its shard.
    pub(crate) fn pause(&mut self, origin: Origin) {
        if origin.shard == self.config.shard {
            self.clients.pause(origin.connection);
        } else if origin != Origin::BROKER {
            self.links.push(origin.shard, LinkMessage::Pause(origin.connection));
        }
    }

    pub(crate) fn resume(&mut self, origin: Origin) {
        if origin.shard == self.config.shard {
            self.clients.resume(origin.connection);
        } else if origin != Origin::BROKER {
            self.links.push(origin.shard, LinkMessage::Resume(origin.connection));
        }
    }
}
