//! Shared subscriptions: messages to members, here and on other shards, and what members return.

use std::sync::Arc;

use crate::clients::session::Session;
use crate::delivery::publish_context::PublishContext;
use crate::delivery::queue::Queued;
use crate::ids::{DedupKey, GroupId, Millis, Origin, RecordId, SessionId, SessionRef, ShardId};
use crate::links::link::{LinkMessage, RANK_ASSIGN, RANK_REASSIGN, RANK_RETURN};
use crate::observe::Site;
use crate::routing::state::Joined;
use crate::values::delivery::Delivery;
use crate::values::group::{GroupKey, GroupMember, Readiness};
use crate::values::message::Message;
use crate::{Core, Dropped};
use weir_mqtt::QoS;

impl Core {
    /// Whether an earlier process had given a group its message, of a QoS 2 publish that is sent again.
    pub(crate) fn group_already_received(&mut self, id: GroupId, context: &PublishContext<'_>) -> bool {
        match self.routing.group_key(id) {
            Some(key) => self.journal.already_processed(context.dedup_key, &key.names()),
            None => {
                self.observe.count_error(Site::GroupOfFilter);
                false
            }
        }
    }

    /// A member joins a group owned here, or changes its options; `readiness` is that of a session of another shard. `false`:
    /// the group is full.
    pub(crate) fn join(&mut self, key: &Arc<GroupKey>, member: GroupMember, readiness: Option<Readiness>) -> bool {
        let joined = self.routing.join(key, member, readiness);
        if let Joined::NewInterest(namespace) = joined {
            self.add_interest(namespace, &key.filter);
        }
        // Before the barrier of the SUBSCRIBE, which waits until peers know it.
        self.touch_group(key);
        self.send_group_states();
        joined != Joined::Full
    }

    /// A member leaves a group owned here; an empty group is removed.
    pub(crate) fn leave(&mut self, key: &Arc<GroupKey>, shard: ShardId, session: SessionRef) {
        self.touch_group(key);
        if let Some(namespace) = self.routing.leave(key, (shard, session)) {
            self.remove_interest(namespace, &key.filter);
        }
    }

    /// Gives one member of a group the message.
    pub(crate) fn deliver_shared(&mut self, id: GroupId, context: &mut PublishContext<'_>, now: Millis) {
        self.assign(id, context, false, now);
    }

    /// Chooses a member. `was_returned`: one has returned the message already.
    pub(crate) fn assign(&mut self, id: GroupId, context: &mut PublishContext<'_>, was_returned: bool, now: Millis) {
        let here = self.config.shard;
        let clients = &self.clients;
        let local = |session| clients.member_readiness(session);
        let key = self.routing.group_key(id).cloned();
        // What a peer has sent here goes to a member of this node, if there is one.
        let but = self.gateway.filter(|_| context.is_of_peer);
        let mut chosen = self.routing.choose(id, context.publish.qos, (here, but), local);
        if but.is_some() && chosen.as_ref().is_some_and(|(member, _)| member.is_none()) {
            chosen = self.routing.choose(id, context.publish.qos, (here, None), local);
        }
        let chosen = chosen.zip(key);
        let Some(((member, members), key)) = chosen else {
            return self.observe.count_error(Site::GroupOfFilter);
        };
        let Some(member) = member else {
            if let Some(connection) = self.origin_connection(context.origin) {
                self.drop_message(connection, context.topic, Dropped::NoMember);
            }
            return;
        };
        let delivery = Delivery {
            qos: context.publish.qos.min(member.options.qos),
            retain: member.options.retain_as_published && context.publish.retain,
            identifiers: (member.identifier != 0).then(|| Box::from([member.identifier])),
            group: Some(Arc::clone(&key)),
            record: RecordId::NONE,
            may_be_duplicate: false,
            is_copied: false,
        };
        if member.shard == here {
            self.deliver(member.session.id, delivery, context, now);
        } else if context.dedup_key.is_some() && !context.in_outbox && context.publish.qos > QoS::AtMostOnce {
            // This shard's record "received" states that the group has the message. So this disk must hold the message, too,
            // until the member's shard has stored it.
            let message = context.store();
            self.stage(&key, message, was_returned);
        } else {
            let is_ready = self.routing.remote_readiness(member.id()) == Readiness::Ready;
            let may_return = !was_returned && is_ready && members > 1;
            let (session, message, origin) = (member.session, context.store().unrecorded(), context.origin);
            let dedup_key = context.dedup_key;
            let assign =
                LinkMessage::Assign { session, message, delivery, origin, dedup_key, may_return, was_returned };
            self.links.push(member.shard, assign);
            if context.is_of_peer && Some(member.shard) == self.gateway {
                // The peer that has sent it does not wait for a third node, which could be waiting for it.
                return;
            }
            self.depend_on(member.shard, if was_returned { RANK_REASSIGN } else { RANK_ASSIGN }, false);
        }
    }

    /// A message assigned to a local session by a group's owner. It is returned if the session cannot take it (once, with
    /// `may_return`), or has left the group [MQTT-3.10.4-2].
    pub(crate) fn on_assigned(
        &mut self,
        session: SessionRef,
        message: &Message,
        delivery: Delivery,
        (origin, dedup_key): (Origin, Option<DedupKey>),
        may_return: bool,
        now: Millis,
    ) {
        let mark = self.journal.mark();
        let is_member = |s: &mut Session| match (&delivery.group, &s.cold) {
            (Some(group), Some(cold)) => !s.ending && cold.shared.contains_key(group),
            _ => false,
        };
        let is_member = self.clients.session_by_ref(session).is_some_and(is_member);
        let takes = match self.clients.readiness(session.id) {
            Readiness::Ready => true,
            Readiness::Busy => !may_return || delivery.qos == QoS::AtMostOnce,
            Readiness::Offline => !may_return,
        };
        if is_member && takes {
            let publish = message.as_publish();
            let mut context = PublishContext::of_message(message, &publish, origin);
            self.deliver(session.id, delivery, &mut context, now);
        } else if let Some(group) = delivery.group {
            let publish = message.as_publish();
            let mut context = PublishContext::of_message(message, &publish, Origin::BROKER);
            context.dedup_key = dedup_key;
            self.send_to_group(&group, &mut context, true, now);
        }
        self.journal.record_part(dedup_key, mark);
    }

    /// Sends a message to its group, which a member has left, or for which it is not ready: another member is to have it.
    /// `was_returned`: a member has returned it.
    pub(crate) fn send_to_group(
        &mut self,
        key: &Arc<GroupKey>,
        context: &mut PublishContext<'_>,
        was_returned: bool,
        now: Millis,
    ) {
        let owner = self.routing.group_owner(key);
        if owner == self.config.shard {
            if let Some(id) = self.routing.group_id(key) {
                self.assign(id, context, was_returned, now);
            }
        } else if context.publish.qos > QoS::AtMostOnce
            && self.journal.is_on()
            && self.journal.any_durable()
            && !self.journal.may_wait_for(RANK_RETURN)
        {
            // The owner waits for this shard, which therefore cannot wait for the owner.
            let message = context.store();
            self.stage(key, message, was_returned);
        } else {
            let (message, dedup_key) = (context.store().unrecorded(), context.dedup_key);
            self.links.push(owner, LinkMessage::Return { group: Arc::clone(key), message, dedup_key });
            self.depend_on(owner, RANK_RETURN, false);
        }
    }

    /// A returned message goes to another member.
    pub(crate) fn on_returned(
        &mut self,
        key: &Arc<GroupKey>,
        message: &Message,
        dedup_key: Option<DedupKey>,
        now: Millis,
    ) {
        if message.is_expired(now) {
            return;
        }
        let (publish, mark) = (message.as_publish(), self.journal.mark());
        let mut context = PublishContext::of_message(message, &publish, Origin::BROKER);
        context.dedup_key = dedup_key;
        self.send_to_group(key, &mut context, true, now);
        self.journal.record_part(dedup_key, mark);
    }

    /// A session that ends gives back what it had not acknowledged; not a QoS 2 message that was already sent
    /// [MQTT-4.8.2-5].
    pub(crate) fn return_shared(&mut self, was: SessionRef, was_durable: bool, now: Millis) {
        let Some(session) = self.clients.session_by_ref(was) else { return };
        let sent = session.inflight.drain().filter(|s| s.delivery.qos == QoS::AtLeastOnce);
        let sent: Vec<_> = sent.filter_map(|s| Some((s.delivery.group?, s.message?))).collect();
        let queued = session.queue.drain().filter_map(|q: Queued| Some((q.delivery.group?, q.message)));
        for (group, message) in sent.into_iter().chain(queued.collect::<Vec<_>>()) {
            if was_durable {
                self.stage(&group, message, true);
            } else if !message.is_expired(now) {
                let publish = message.as_publish();
                self.send_to_group(
                    &group,
                    &mut PublishContext::of_message(&message, &publish, Origin::BROKER),
                    true,
                    now,
                );
            }
        }
    }

    /// Reports a session's readiness to the shards that own groups of it, if it changed.
    pub(crate) fn report_readiness(&mut self, id: SessionId) {
        let has_peers = self.gateway.is_some();
        let has_groups = |session: &Session| {
            session
                .cold
                .as_ref()
                .is_some_and(|cold| !cold.remote_groups.is_empty() || (has_peers && !cold.shared.is_empty()))
        };
        if !self.clients.session(id).is_some_and(has_groups) {
            return;
        }
        let (session, readiness) = (self.clients.session_ref(id), self.clients.readiness(id));
        let Some(cold) = self.clients.session_mut(id).and_then(|s| s.cold.as_mut()) else { return };
        if cold.reported.replace(readiness) == Some(readiness) {
            return;
        }
        for &owner in cold.remote_groups.keys() {
            self.links.push(owner, LinkMessage::Readiness { session, readiness });
        }
        self.touch_groups_of(id);
    }
}
