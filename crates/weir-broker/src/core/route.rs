//! Routing: to local subscribers, to a topic's owner, and to the shards with interest.

use std::sync::Arc;

use crate::Core;
use crate::delivery::publish_context::PublishContext;
use crate::ids::{Millis, NamespaceId, RecordId, ShardId};
use crate::links::link::{ForwardedPublish, RANK_DIRECT, RANK_OWNER, Route};
use crate::observe::Site;
use crate::routing::matches::Matches;
use crate::shard_set::ShardSet;
use crate::values::delivery::Delivery;
use weir_mqtt::QoS;

impl Core {
    /// Routes a message that came in here: over its topic's owner where it is retained (so that what a subscriber is sent
    /// of it, kept and live, is one sequence), or where an earlier one of its publisher still is on that way.
    pub(crate) fn route(
        &mut self,
        namespace: NamespaceId,
        context: &mut PublishContext<'_>,
        known: Option<Arc<Matches>>,
        now: Millis,
    ) {
        if self.links.count() > 1 {
            let owner = self.retained_route(namespace, context.topic);
            if owner != self.config.shard
                && (context.publish.retain || self.is_in_transit(context.origin, owner, context.topic))
            {
                let after = self.links.positions().into();
                self.forward_publish(owner, namespace, Route::ViaOwner { after }, context);
                self.remember_transit(context.origin, owner, context.topic);
                return;
            }
        }
        self.route_here(namespace, context, (&[], known), now);
    }

    /// Keeps and fans out a message as its topic's owner, or one that is not retained. `after`: see [`Route::ViaOwner`].
    pub(crate) fn route_here(
        &mut self,
        namespace: NamespaceId,
        context: &mut PublishContext<'_>,
        (after, known): (&[u64], Option<Arc<Matches>>),
        now: Millis,
    ) {
        if context.publish.retain && !self.already_retained(namespace, context) {
            let message = context.store();
            self.set_retained(namespace, &message, context.durable);
        }
        // Interest of peers, and their members of groups, may be missing while the node is out. The gateway routes what is to be
        // acknowledged when it has all of them.
        let is_acknowledged = context.publish.qos > QoS::AtMostOnce && !context.is_of_gateway;
        let waits_at = self.gateway.filter(|_| is_acknowledged && self.journal.is_suspended(now));
        context.groups_wait = waits_at.is_some();
        let mut destinations = self.fan_out(namespace, context, known, now);
        waits_at.into_iter().for_each(|gateway| destinations.insert(gateway));
        for to in destinations {
            if context.is_of_gateway && Some(to) == self.gateway {
                continue;
            }
            // The publisher's own shard has done with what came before.
            let is_home = to == context.origin.shard;
            let after = after.get(to.index()).copied().filter(|_| !is_home).unwrap_or(0);
            self.forward_publish(to, namespace, Route::Direct { after }, context);
        }
    }

    /// Delivers to this shard's subscribers; returns the other shards that have interest.
    pub(crate) fn fan_out(
        &mut self,
        namespace: NamespaceId,
        context: &mut PublishContext<'_>,
        known: Option<Arc<Matches>>,
        now: Millis,
    ) -> ShardSet {
        let matches = known.unwrap_or_else(|| self.routing.matches(namespace, context.topic));
        context.set_receivers(matches.subscribers.len());
        self.work += matches.subscribers.len() + matches.groups.len();
        self.scheduler.spend_priority(matches.subscribers.len());
        for matched in &matches.subscribers {
            let own = context.origin.is_session(self.config.shard, matched.session);
            if !matched.audience.takes(own)
                || (context.dedup_key.is_some() && self.session_already_received(matched.session, context))
            {
                continue;
            }
            let (first, more) = matches.identifiers(matched);
            let identifiers = first.map(|first| std::iter::once(first).chain(more.iter().copied()).collect());
            let delivery = Delivery {
                qos: matched.qos.min(context.publish.qos),
                retain: matched.retain_as_published && context.publish.retain,
                identifiers,
                group: None,
                record: RecordId::NONE,
                may_be_duplicate: false,
                is_copied: false,
            };
            self.deliver(matched.session, delivery, context, now);
        }
        let groups = if context.is_of_peer || context.groups_wait { &[][..] } else { &matches.groups };
        for &group in groups {
            if context.dedup_key.is_some() && self.group_already_received(group, context) {
                continue;
            }
            self.deliver_shared(group, context, now);
        }
        matches.destinations
    }

    pub(crate) fn forward_publish(
        &mut self,
        to: ShardId,
        namespace: NamespaceId,
        route: Route,
        context: &PublishContext<'_>,
    ) {
        self.define_namespace(to, namespace);
        let origin = context.origin;
        let is_direct = matches!(route, Route::Direct { .. });
        let encoded = self.links.forward(to, |bytes| {
            let version = context.encode_for_link(bytes).ok()?;
            let (publisher, expires_at) = (context.publisher.clone(), context.expires_at);
            let (durable, dedup_key) = (context.durable, context.dedup_key);
            let (start, end) = (0, 0);
            let forwarded = ForwardedPublish {
                namespace,
                route,
                version,
                origin,
                publisher,
                expires_at,
                durable,
                dedup_key,
                is_of_peer: context.is_of_peer,
                groups_wait: context.groups_wait,
                start,
                end,
            };
            Some(forwarded)
        });
        if !encoded {
            // It was decoded from a packet as large: it can be encoded again.
            return self.observe.count_error(Site::ForwardedPublish);
        }
        if self.links.must_pause(to, origin) {
            self.pause(origin);
        }
        let retained_on_disk = !is_direct && context.durable;
        if context.publish.qos > QoS::AtMostOnce || (retained_on_disk && context.publish.retain) {
            self.depend_on(to, if is_direct { RANK_DIRECT } else { RANK_OWNER }, retained_on_disk);
        }
    }
}
