//! The namespaces of a core, and the shared groups that it owns.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::EndpointPolicy;
use crate::hash::HashSeed;
use crate::ids::{EndpointId, GroupId, Millis, NamespaceId, RecordId, SessionRef, ShardId, SlabIndex};
use crate::placement::owner_shard;
use crate::routing::retained::Retained;
use crate::routing::retained_acl::RetainedAcl;
use crate::routing::shared_groups::Group;
use crate::routing::subscriptions::{Matches, Subscriptions};
use crate::slab::Slab;
use crate::values::group::{GroupKey, GroupMember, Readiness};
use crate::values::message::Message;
use weir_mqtt::QoS;

/// A namespace: a mountpoint's own topics.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: Arc<str>,
    subscriptions: Subscriptions,
    retained: Retained,
}

impl Namespace {
    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn retained(&self) -> &Retained {
        &self.retained
    }
}

/// Which sessions, groups and shards a message goes to.
#[derive(Debug)]
pub(crate) struct Routing {
    shards: u16,
    seed: HashSeed,
    namespaces: Vec<Namespace>,
    by_name: BTreeMap<Arc<str>, NamespaceId>,
    groups: Slab<GroupId, Group>,
    by_key: BTreeMap<Arc<GroupKey>, GroupId>,
    acl: RetainedAcl,
}

/// The result of adding a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Joined {
    Full,
    Member,
    /// This shard has interest in the group's filter from now on.
    NewInterest(NamespaceId),
}

impl Routing {
    pub(crate) fn new(shards: u16, seed: HashSeed) -> Self {
        Self {
            shards,
            seed,
            namespaces: Vec::new(),
            by_name: BTreeMap::new(),
            groups: Slab::new(),
            by_key: BTreeMap::new(),
            acl: RetainedAcl::default(),
        }
    }

    // Namespaces.

    /// The namespace of that name, made where it is new.
    pub(crate) fn namespace(&mut self, name: &str) -> NamespaceId {
        if let Some(&id) = self.by_name.get(name) {
            return id;
        }
        let (id, name) = (NamespaceId(self.namespaces.len() as u32), Arc::<str>::from(name));
        self.by_name.insert(Arc::clone(&name), id);
        let (subscriptions, retained) = (Subscriptions::new(self.seed.clone()), Retained::new(self.seed.clone()));
        self.namespaces.push(Namespace { name, subscriptions, retained });
        id
    }

    pub(crate) fn find_namespace(&self, name: &str) -> Option<NamespaceId> {
        self.by_name.get(name).copied()
    }

    pub(crate) fn namespaces(&self) -> &[Namespace] {
        &self.namespaces
    }

    /// A namespace that exists: ids are never taken back.
    pub(crate) fn name(&self, id: NamespaceId) -> &Arc<str> {
        &self.namespaces[id.index()].name
    }

    pub(crate) fn subscriptions(&self, id: NamespaceId) -> &Subscriptions {
        &self.namespaces[id.index()].subscriptions
    }

    pub(crate) fn subscriptions_mut(&mut self, id: NamespaceId) -> &mut Subscriptions {
        &mut self.namespaces[id.index()].subscriptions
    }

    /// The subscribers, groups and shards with interest in a topic.
    #[inline]
    pub(crate) fn matches(&mut self, id: NamespaceId, topic: &str) -> Arc<Matches> {
        self.namespaces[id.index()].subscriptions.matches(topic)
    }

    /// The shard that owns a topic.
    pub(crate) fn topic_owner(&self, id: NamespaceId, topic: &str) -> ShardId {
        owner_shard(&[self.name(id), topic], self.shards)
    }

    // Retained messages.

    /// The record of what a topic has.
    pub(crate) fn retained_record(&self, id: NamespaceId, topic: &str) -> RecordId {
        self.namespaces[id.index()].retained.record(topic)
    }

    /// Keeps a message in place of what its topic had; an empty payload removes that.
    pub(crate) fn set_retained(&mut self, id: NamespaceId, message: &Message, record: RecordId) {
        self.namespaces[id.index()].retained.set(message, record);
    }

    /// Calls `each` for every retained message under `filter` that may still be delivered.
    pub(crate) fn retained_under(&self, id: NamespaceId, filter: &str, now: Millis, mut each: impl FnMut(&Message)) {
        let namespace = &self.namespaces[id.index()];
        namespace.retained.matching(filter, now, |message| {
            if self.acl.permits(&namespace.name, message) {
                each(message);
            }
        });
    }

    /// Removes retained messages that expired; `gone` gets the record each had.
    pub(crate) fn expire_retained(&mut self, now: Millis, mut gone: impl FnMut(RecordId)) {
        for namespace in &mut self.namespaces {
            namespace.retained.expire(now, &mut gone);
        }
    }

    /// When the next retained message expires.
    pub(crate) fn next_expiry(&self) -> Option<Millis> {
        self.namespaces.iter().filter_map(|namespace| namespace.retained.next_expiry()).min()
    }

    /// Whether a message that was retained may still be delivered.
    #[inline]
    pub(crate) fn may_deliver(&self, id: NamespaceId, message: &Message) -> bool {
        message.publisher.is_none() || self.acl.permits(self.name(id), message)
    }

    /// See [`RetainedAcl::grants`].
    pub(crate) fn grants(&self, id: NamespaceId, endpoint: &str, may: impl Fn(&EndpointPolicy) -> bool) -> bool {
        self.acl.grants(self.name(id), endpoint, may)
    }

    /// The policy of an endpoint of a namespace.
    pub(crate) fn policy(&self, id: NamespaceId, endpoint: &str) -> Option<&Arc<EndpointPolicy>> {
        self.acl.policy(self.name(id), endpoint)
    }

    pub(crate) fn learn_policy(&mut self, policy: &Arc<EndpointPolicy>) {
        self.acl.insert(policy);
    }

    pub(crate) fn knows_policy(&self, policy: &EndpointPolicy) -> bool {
        self.acl.contains(policy)
    }

    pub(crate) fn forget_policy(&mut self, endpoint: EndpointId) {
        self.acl.remove(endpoint);
    }

    // Shared groups that this shard owns.

    /// The shard that owns a group.
    pub(crate) fn group_owner(&self, key: &GroupKey) -> ShardId {
        owner_shard(&key.names(), self.shards)
    }

    pub(crate) fn group_id(&self, key: &GroupKey) -> Option<GroupId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn group_key(&self, id: GroupId) -> Option<&Arc<GroupKey>> {
        self.groups.get(id).map(Group::key)
    }

    /// A member joins a group, or changes its options.
    pub(crate) fn join(&mut self, key: &Arc<GroupKey>, member: GroupMember) -> Joined {
        let (id, new_interest) = match self.group_id(key) {
            Some(id) => (id, None),
            None => self.add_group(key),
        };
        let is_member = self.groups.get_mut(id).is_some_and(|group| group.join(member));
        match new_interest {
            _ if !is_member => Joined::Full,
            Some(namespace) => Joined::NewInterest(namespace),
            None => Joined::Member,
        }
    }

    fn add_group(&mut self, key: &Arc<GroupKey>) -> (GroupId, Option<NamespaceId>) {
        let (id, _) = self.groups.insert(Group::new(Arc::clone(key)));
        self.by_key.insert(Arc::clone(key), id);
        let namespace = self.namespace(&key.namespace);
        let first = self.subscriptions_mut(namespace).add_group(&key.filter, id);
        (id, first.then_some(namespace))
    }

    /// A member leaves a group; an empty group goes. Returns the namespace where this shard has no interest in the
    /// group's filter any more.
    pub(crate) fn leave(&mut self, key: &GroupKey, shard: ShardId, session: SessionRef) -> Option<NamespaceId> {
        let id = self.group_id(key)?;
        if !self.groups.get_mut(id)?.leave(shard, session) {
            return None;
        }
        self.groups.remove(id);
        self.by_key.remove(key);
        let namespace = self.namespace(&key.namespace);
        self.subscriptions_mut(namespace).remove_group(&key.filter, id).then_some(namespace)
    }

    /// Applies another shard's report of a member.
    pub(crate) fn set_readiness(&mut self, key: &GroupKey, shard: ShardId, session: SessionRef, readiness: Readiness) {
        if let Some(id) = self.group_id(key)
            && let Some(group) = self.groups.get_mut(id)
        {
            group.set_readiness(shard, session, readiness);
        }
    }

    /// The member that gets a group's next message, and how many members there are; `None`: there is no such group.
    pub(crate) fn choose(
        &mut self,
        id: GroupId,
        qos: QoS,
        readiness_of: impl Fn(&GroupMember) -> Readiness,
    ) -> Option<(Option<GroupMember>, usize)> {
        let group = self.groups.get_mut(id)?;
        let member = group.choose(qos, readiness_of);
        Some((member, group.len()))
    }
}
