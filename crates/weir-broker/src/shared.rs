//! Shared subscriptions: a group has one owner shard, which chooses the member that gets a message.

use std::sync::Arc;

use super::connection::{Connection, Origin};
use super::inflight::Delivery;
use super::journal::Once;
use super::limits::{GROUP_MEMBERS_MAX, PENDING_WRITE_HIGH_BYTES};
use super::link::{Item, RANK_ASSIGN, RANK_ASSIGN_AGAIN, RANK_RETURN};
use super::message::Message;
use super::record::RecordId;
use super::session::{Queued, Session, SessionRef};
use super::slab::Slab;
use super::subscriptions::{GroupId, SessionId};
use super::view::View;
use super::{Core, Dropped, Millis, ShardId, owner_of};
use weir_mqtt::{QoS, SubscriptionOptions};

/// What names a group: `$share/{group}/{filter}` in a namespace.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct GroupKey {
    pub(super) namespace: Arc<str>,
    pub(super) group: Box<str>,
    pub(super) filter: Box<str>,
}

/// How a member stands to further messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Readiness {
    /// Connected, with room.
    Ready,
    /// Connected, and behind.
    Busy,
    /// Not connected; its session waits for it.
    Away,
}

/// A member, as the group's owner knows it.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) shard: ShardId,
    pub(super) session: SessionRef,
    pub(super) options: SubscriptionOptions,
    /// Subscription identifier; 0: none.
    pub(super) identifier: u32,
    pub(super) readiness: Readiness,
}

/// A session's side of a shared subscription.
#[derive(Debug)]
pub(super) struct SharedSubscription {
    pub(super) key: Arc<GroupKey>,
    pub(super) owner: ShardId,
    /// As granted: what it is judged by again.
    pub(super) qos: QoS,
    /// What the owner was told last.
    pub(super) told: Readiness,
    /// Its record, where the session is durable.
    pub(super) record: RecordId,
}

#[derive(Debug)]
pub(super) struct Group {
    key: Arc<GroupKey>,
    members: Vec<Member>,
    /// Where the next choice starts.
    turn: usize,
}

impl Group {
    /// The next member in turn, among those that stand best; one away only for what its session can keep.
    fn choose(&mut self, qos: QoS, standing: impl Fn(&Member) -> Readiness) -> Option<Member> {
        let count = self.members.len();
        let mut best: Option<(Readiness, usize)> = None;
        for step in 0..count {
            let place = (self.turn + step) % count;
            let member = &self.members[place];
            let readiness = standing(member);
            let able = readiness != Readiness::Away || qos.min(member.options.qos) > QoS::AtMostOnce;
            if able && best.is_none_or(|(so_far, _)| readiness < so_far) {
                best = Some((readiness, place));
            }
            if readiness == Readiness::Ready {
                break;
            }
        }
        let (_, place) = best?;
        self.turn = place + 1;
        self.members.get(place).cloned()
    }
}

impl Core {
    /// The shard that owns a group.
    pub(super) fn group_owner(&self, key: &GroupKey) -> ShardId {
        owner_of(&[&key.namespace, "$share", &key.group, &key.filter], self.config.shards)
    }

    /// Whether an earlier process had given a group its message, of a QoS 2 publish that is sent again.
    pub(super) fn group_had_taken(&self, id: GroupId, view: &View<'_>) -> bool {
        let Some(key) = self.groups.get(id).map(|group| &group.key) else { return false };
        self.was_taken(view, &[&key.namespace, "$share", &key.group, &key.filter])
    }

    /// A member joins a group owned here, or changes its options. `false`: the group is full.
    pub(super) fn join(&mut self, key: &Arc<GroupKey>, member: Member) -> bool {
        let id = match self.group_index.get(key) {
            Some(&id) => id,
            None => self.add_group(key),
        };
        let Some(group) = self.groups.get_mut(id) else { return false };
        let same = |m: &Member| m.session == member.session && m.shard == member.shard;
        if let Some(known) = group.members.iter_mut().find(|m| same(m)) {
            *known = member;
        } else if group.members.len() >= GROUP_MEMBERS_MAX {
            return false;
        } else {
            group.members.push(member);
        }
        true
    }

    fn add_group(&mut self, key: &Arc<GroupKey>) -> GroupId {
        let (id, _) = self.groups.insert(Group { key: Arc::clone(key), members: Vec::new(), turn: 0 });
        self.group_index.insert(Arc::clone(key), id);
        let space = self.space(&key.namespace);
        if self.spaces[space as usize].subscriptions.add_group(&key.filter, id) {
            self.want(space, &key.filter);
        }
        id
    }

    /// A member leaves a group owned here; an empty group goes.
    pub(super) fn leave(&mut self, key: &GroupKey, shard: ShardId, session: SessionRef) {
        let Some(&id) = self.group_index.get(key) else { return };
        let Some(group) = self.groups.get_mut(id) else { return };
        group.members.retain(|m| !(m.session == session && m.shard == shard));
        if group.members.is_empty() {
            self.groups.remove(id);
            self.group_index.remove(key);
            let space = self.space(&key.namespace);
            if self.spaces[space as usize].subscriptions.remove_group(&key.filter, id) {
                self.unwant(space, &key.filter);
            }
        }
    }

    /// What another shard says of a member.
    pub(super) fn set_readiness(&mut self, key: &GroupKey, shard: ShardId, session: SessionRef, readiness: Readiness) {
        if let Some(&id) = self.group_index.get(key)
            && let Some(group) = self.groups.get_mut(id)
            && let Some(member) = group.members.iter_mut().find(|m| m.session == session && m.shard == shard)
        {
            member.readiness = readiness;
        }
    }

    /// Gives one member of a group the message.
    pub(super) fn deliver_shared(&mut self, id: GroupId, view: &mut View<'_>, now: Millis) {
        self.assign(id, view, false, now);
    }

    /// Chooses a member. `again`: one has returned the message already.
    fn assign(&mut self, id: GroupId, view: &mut View<'_>, again: bool, now: Millis) {
        let here = self.config.shard;
        let (sessions, connections) = (&self.sessions, &self.connections);
        let standing = |member: &Member| {
            if member.shard == here { standing(sessions, connections, member.session.id) } else { member.readiness }
        };
        let Some(group) = self.groups.get_mut(id) else { return };
        let Some(member) = group.choose(view.publish.qos, standing) else {
            if let Some(connection) = self.origin_connection(view.origin) {
                self.drop_message(connection, Dropped::NoMember);
            }
            return;
        };
        let delivery = Delivery {
            qos: view.publish.qos.min(member.options.qos),
            retain: member.options.retain_as_published && view.publish.retain,
            identifiers: (member.identifier != 0).then(|| Box::from([member.identifier])),
            group: Some(Arc::clone(&group.key)),
            record: RecordId::NONE,
            again: false,
        };
        if member.shard == here {
            self.deliver(member.session.id, delivery, view, now);
        } else if view.once.is_some() && !view.in_outbox && view.publish.qos > QoS::AtMostOnce {
            // This shard's record "received" says that the group has the message. So this disk must hold the message, too,
            // until the member's shard has stored it.
            let (key, message) = (Arc::clone(&group.key), view.store());
            self.stage(&key, message, again);
        } else {
            let may_return = !again && member.readiness == Readiness::Ready && group.members.len() > 1;
            let (session, message, origin) = (member.session, view.store().unrecorded(), view.origin);
            let item = Item::Assign { session, message, delivery, origin, once: view.once, may_return, again };
            self.links[usize::from(member.shard.0)].push(item);
            self.depend_on(member.shard, if again { RANK_ASSIGN_AGAIN } else { RANK_ASSIGN }, false);
        }
    }

    /// A message assigned to a session here by a group's owner elsewhere. It goes back where the session can take less than
    /// the owner knew (and `may_return` it, once), or has left the group and gets nothing of it any more [MQTT-3.10.4-2].
    pub(super) fn assigned(
        &mut self,
        session: SessionRef,
        message: &Message,
        delivery: Delivery,
        (origin, once): (Origin, Option<Once>),
        may_return: bool,
        now: Millis,
    ) {
        let recorded = self.journal.recorded;
        let is_member = |s: &mut Session| match (&delivery.group, &s.rare) {
            (Some(group), Some(rare)) => rare.shared.iter().any(|shared| shared.key == *group),
            _ => false,
        };
        let is_member = self.sessions.get_generation(session.id, session.generation).is_some_and(is_member);
        let takes = match standing(&self.sessions, &self.connections, session.id) {
            Readiness::Ready => true,
            Readiness::Busy => !may_return || delivery.qos == QoS::AtMostOnce,
            Readiness::Away => !may_return,
        };
        if is_member && takes {
            let publish = message.as_publish();
            let mut view = View::of(message, &publish, origin);
            self.deliver(session.id, delivery, &mut view, now);
        } else if let Some(group) = delivery.group {
            let publish = message.as_publish();
            let mut view = View::of(message, &publish, Origin::NOBODY);
            view.once = once;
            self.send_to_group(&group, &mut view, true, now);
        }
        self.record_part(once, recorded);
    }

    /// Sends a message to its group, which a member has left or to which it said before that it is not ready: somebody else
    /// is to have it. `again`: a member has returned it.
    pub(super) fn send_to_group(&mut self, key: &Arc<GroupKey>, view: &mut View<'_>, again: bool, now: Millis) {
        let owner = self.group_owner(key);
        if owner == self.config.shard {
            if let Some(&id) = self.group_index.get(key) {
                self.assign(id, view, again, now);
            }
        } else if view.publish.qos > QoS::AtMostOnce && self.journal.somebody && !self.journal.may_wait_for(RANK_RETURN)
        {
            // The owner waits for this shard, which therefore cannot wait for the owner.
            self.stage(key, view.store(), again);
        } else {
            let message = view.store().unrecorded();
            let item = Item::Return { group: Arc::clone(key), message, once: view.once };
            self.links[usize::from(owner.0)].push(item);
            self.depend_on(owner, RANK_RETURN, false);
        }
    }

    /// A returned message goes to another member.
    pub(super) fn returned(&mut self, key: &Arc<GroupKey>, message: &Message, once: Option<Once>, now: Millis) {
        if message.is_expired(now) {
            return;
        }
        let (publish, recorded) = (message.as_publish(), self.journal.recorded);
        let mut view = View::of(message, &publish, Origin::NOBODY);
        view.once = once;
        self.send_to_group(key, &mut view, true, now);
        self.record_part(once, recorded);
    }

    /// A session that ends gives back what it had not acknowledged; not a QoS 2 message that was already sent
    /// [MQTT-4.8.2-5].
    pub(super) fn return_shared(&mut self, session: &mut Session, was_durable: bool, now: Millis) {
        let sent = session.inflight.drain().filter(|s| s.delivery.qos == QoS::AtLeastOnce);
        let sent: Vec<_> = sent.filter_map(|s| Some((s.delivery.group?, s.message?))).collect();
        let queued = session.queue.drain().filter_map(|q: Queued| Some((q.delivery.group?, q.message)));
        for (group, message) in sent.into_iter().chain(queued.collect::<Vec<_>>()) {
            if was_durable {
                self.stage(&group, message, true);
            } else if !message.is_expired(now) {
                let publish = message.as_publish();
                self.send_to_group(&group, &mut View::of(&message, &publish, Origin::NOBODY), true, now);
            }
        }
    }

    /// Tells the owners elsewhere of a session's groups how it stands, where that changed.
    pub(super) fn tell_readiness(&mut self, id: SessionId) {
        let (generation, here) = (self.sessions.generation(id), self.config.shard);
        if self.sessions.get(id).is_none_or(|s| s.rare.as_ref().is_none_or(|rare| rare.shared.is_empty())) {
            return;
        }
        let readiness = standing(&self.sessions, &self.connections, id);
        let Some(rare) = self.sessions.get_mut(id).and_then(|s| s.rare.as_mut()) else { return };
        for shared in rare.shared.iter_mut().filter(|s| s.owner != here && s.told != readiness) {
            shared.told = readiness;
            let session = SessionRef { id, generation };
            self.links[usize::from(shared.owner.0)].push(Item::Readiness {
                group: Arc::clone(&shared.key),
                session,
                readiness,
            });
        }
    }
}

/// How a session of this shard stands to further messages.
pub(super) fn standing(sessions: &Slab<Session>, connections: &Slab<Connection>, id: SessionId) -> Readiness {
    let Some(session) = sessions.get(id) else { return Readiness::Away };
    let Some(connection) = session.connection.and_then(|slot| connections.get(slot)) else { return Readiness::Away };
    let window = connection.receive_maximum.min(session.policy.limits.max_inflight);
    let room = session.inflight.len() < usize::from(window)
        && session.queue.is_empty()
        && connection.out.len() < PENDING_WRITE_HIGH_BYTES;
    if room { Readiness::Ready } else { Readiness::Busy }
}
