//! The namespaces of a core, and the shared groups that it owns.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::EndpointPolicy;
use crate::hash::HashSeed;
use crate::hash::IdMap;
use crate::ids::{EndpointId, GroupId, Millis, NamespaceId, RecordId, SessionId, ShardId, SlabIndex};
use crate::limits::GROUP_SEARCH_MAX;
use crate::placement::owner_shard;
use crate::routing::filter_tree::Walk;
use crate::routing::match_cache::MatchCache;
use crate::routing::matches::Matches;
use crate::routing::retained::{Retained, memory_bytes as retained_bytes, memory_bytes_of as retained_bytes_of};
use crate::routing::retained_acl::RetainedAcl;
use crate::routing::retained_totals::{RetainedByEndpoint, RetainedTotals};
use crate::routing::shared_groups::{Group, GroupJoin, MemberId};
use crate::routing::subscriptions::Subscriptions;
use crate::slab::Slab;
use crate::values::group::{GroupKey, GroupMember, Readiness};
use crate::values::message::Message;
use crate::values::retained::ReadPosition;
use weir_mqtt::QoS;

/// Bytes of a member of a group, in its list and index.
const MEMBER_BYTES: usize = size_of::<GroupMember>() + 48;

/// A namespace: a mountpoint's own topics.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: Arc<str>,
    subscriptions: Subscriptions,
    /// Bytes of the subscriptions that are in the sum of all namespaces.
    summed_bytes: usize,
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
    /// Members of groups owned here that are sessions of other shards.
    remote_members: IdMap<MemberId, RemoteMember>,
    acl: RetainedAcl,
    retained_by_endpoint: RetainedByEndpoint,
    cache: MatchCache,
    /// Bytes of all namespaces' subscriptions, but for changes of the one that was changed last; of groups; of retained
    /// messages.
    subscription_bytes: usize,
    touched: Option<NamespaceId>,
    group_bytes: usize,
    retained_bytes: usize,
    /// The search of a topic's receivers that is not interrupted; and the one that is, with its namespace.
    walk: Walk,
    suspended: Option<(NamespaceId, Walk)>,
}

/// A session of another shard that is in groups owned here.
#[derive(Debug)]
struct RemoteMember {
    readiness: Readiness,
    groups: Vec<GroupId>,
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
            namespaces: Vec::new(),
            by_name: BTreeMap::new(),
            groups: Slab::new(),
            by_key: BTreeMap::new(),
            remote_members: IdMap::default(),
            acl: RetainedAcl::default(),
            retained_by_endpoint: RetainedByEndpoint::default(),
            cache: MatchCache::new(seed.clone()),
            subscription_bytes: 0,
            touched: None,
            group_bytes: 0,
            retained_bytes: 0,
            walk: Walk::default(),
            suspended: None,
            seed,
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
        let (subscriptions, retained) = (Subscriptions::new(self.seed.clone()), Retained::default());
        let summed_bytes = subscriptions.bytes();
        self.subscription_bytes += summed_bytes;
        self.namespaces.push(Namespace { name, subscriptions, summed_bytes, retained });
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
        self.touch(id);
        &mut self.namespaces[id.index()].subscriptions
    }

    /// A namespace's subscriptions may change.
    fn touch(&mut self, id: NamespaceId) {
        if self.touched != Some(id) {
            self.sum_touched();
            self.touched = Some(id);
        }
    }

    fn sum_touched(&mut self) {
        if let Some(namespace) = self.touched.take().and_then(|id| self.namespaces.get_mut(id.index())) {
            let bytes = namespace.subscriptions.bytes();
            self.subscription_bytes = self.subscription_bytes + bytes - namespace.summed_bytes;
            namespace.summed_bytes = bytes;
        }
    }

    #[inline]
    fn cached(&self, id: NamespaceId, topic: &str) -> Option<Arc<Matches>> {
        let subscriptions = &self.namespaces[id.index()].subscriptions;
        self.cache.get(id, topic, |buckets| subscriptions.stamp(buckets)).cloned()
    }

    /// The subscribers, groups and shards with interest in a topic.
    #[inline]
    pub(crate) fn matches(&mut self, id: NamespaceId, topic: &str) -> Arc<Matches> {
        self.matches_within(id, topic, &mut { usize::MAX }).unwrap_or_default()
    }

    /// The same, if finding them takes no more than `work`, of which it uses a unit for each node visited.
    #[inline]
    pub(crate) fn matches_within(&mut self, id: NamespaceId, topic: &str, work: &mut usize) -> Option<Arc<Matches>> {
        if let Some(known) = self.cached(id, topic) {
            return Some(known);
        }
        let subscriptions = &self.namespaces[id.index()].subscriptions;
        self.walk.begin();
        if !subscriptions.walk(&mut self.walk, topic, work) {
            return None;
        }
        let matches = subscriptions.receivers(&self.walk.found);
        let buckets = subscriptions.buckets(topic);
        self.cache.insert(id, topic, (buckets, subscriptions.stamp(buckets)), &matches);
        Some(matches)
    }

    /// Begins a search for the receivers of a topic that is continued by [`Routing::continue_search`]. One at a time.
    pub(crate) fn begin_search(&mut self, id: NamespaceId) {
        self.end_search();
        let mut walk = Walk::default();
        walk.begin();
        self.subscriptions_mut(id).pin();
        self.suspended = Some((id, walk));
    }

    /// Continues the search. When it has ended, returns the sessions that are subscribed by then.
    pub(crate) fn continue_search(&mut self, topic: &str, work: &mut usize) -> Option<Arc<Matches>> {
        let (id, walk) = self.suspended.as_mut()?;
        let subscriptions = &self.namespaces[id.index()].subscriptions;
        if !subscriptions.walk(walk, topic, work) {
            return None;
        }
        let matches = subscriptions.receivers(&walk.found);
        self.end_search();
        Some(matches)
    }

    /// Ends the search, whether it has found all or not.
    pub(crate) fn end_search(&mut self) {
        if let Some((id, _)) = self.suspended.take() {
            self.subscriptions_mut(id).unpin();
        }
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
        if !message.payload().is_empty() {
            self.retained_by_endpoint.add(message);
            self.retained_bytes += retained_bytes(message);
        }
        if let Some(old) = self.namespaces[id.index()].retained.set(message, record) {
            self.retained_by_endpoint.subtract(&old);
            self.retained_bytes -= retained_bytes(&old);
        }
    }

    /// Counts what endpoints' publishers have retained together with the node's other cores.
    pub(crate) fn share_retained(&mut self, totals: RetainedTotals) {
        self.retained_by_endpoint.share(totals);
    }

    /// Whether a message whose topic, properties and payload have `size` bytes may be retained within the limits of the
    /// endpoint that it came in by.
    pub(crate) fn may_retain(&self, id: NamespaceId, endpoint: &str, topic: &str, size: usize) -> bool {
        let Some(policy) = self.policy(id, endpoint) else { return true };
        let old = self.retained(id).get(topic).map(retained_bytes);
        self.retained_by_endpoint.has_room(endpoint, &policy.limits, retained_bytes_of(size), old)
    }

    /// The retained messages of a namespace.
    pub(crate) fn retained(&self, id: NamespaceId) -> &Retained {
        &self.namespaces[id.index()].retained
    }

    /// Calls `each` for retained messages under a filter that may still be delivered; see [`Retained::read`].
    pub(crate) fn read_retained(
        &self,
        id: NamespaceId,
        filter: (&str, &ReadPosition),
        newest: u64,
        now: Millis,
        work: &mut usize,
        mut each: impl FnMut(&Message) -> bool,
    ) -> Option<ReadPosition> {
        let namespace = &self.namespaces[id.index()];
        namespace
            .retained
            .read(filter, newest, now, work, |message| !self.acl.permits(&namespace.name, message) || each(message))
    }

    /// Removes retained messages that expired; `gone` gets the record each had.
    pub(crate) fn expire_retained(&mut self, now: Millis, mut gone: impl FnMut(RecordId)) {
        let (by_endpoint, bytes) = (&mut self.retained_by_endpoint, &mut self.retained_bytes);
        for namespace in &mut self.namespaces {
            namespace.retained.expire(now, |message, record| {
                by_endpoint.subtract(&message);
                *bytes -= retained_bytes(&message);
                gone(record);
            });
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
    pub(crate) fn join(&mut self, key: &Arc<GroupKey>, member: GroupMember, readiness: Option<Readiness>) -> Joined {
        let (id, new_interest) = match self.group_id(key) {
            Some(id) => (id, None),
            None => self.add_group(key),
        };
        let member_id = member.id();
        let joined = self.groups.get_mut(id).map_or(GroupJoin::Full, |group| group.join(member));
        if let (Some(readiness), false) = (readiness, joined == GroupJoin::Full) {
            let remote = self.remote_members.entry(member_id).or_insert(RemoteMember { readiness, groups: Vec::new() });
            remote.readiness = readiness;
            if joined == GroupJoin::New {
                remote.groups.push(id);
            }
        }
        if joined == GroupJoin::New {
            self.group_bytes += MEMBER_BYTES;
        }
        match new_interest {
            _ if joined == GroupJoin::Full => Joined::Full,
            Some(namespace) => Joined::NewInterest(namespace),
            None => Joined::Member,
        }
    }

    fn add_group(&mut self, key: &Arc<GroupKey>) -> (GroupId, Option<NamespaceId>) {
        self.group_bytes += size_of::<Group>() + key.bytes();
        let (id, _) = self.groups.insert(Group::new(Arc::clone(key)));
        self.by_key.insert(Arc::clone(key), id);
        let namespace = self.namespace(&key.namespace);
        let (position, first) = self.subscriptions_mut(namespace).add_group(&key.filter, id);
        if let Some(group) = self.groups.get_mut(id) {
            group.position = position;
        }
        (id, first.then_some(namespace))
    }

    /// A member leaves a group; an empty group goes. Returns the namespace where this shard has no interest in the
    /// group's filter any more.
    pub(crate) fn leave(&mut self, key: &GroupKey, member: MemberId) -> Option<NamespaceId> {
        let id = self.group_id(key)?;
        let group = self.groups.get_mut(id)?;
        let was_member = group.leave(member);
        if was_member {
            self.group_bytes -= MEMBER_BYTES;
        }
        if was_member && let Some(remote) = self.remote_members.get_mut(&member) {
            remote.groups.retain(|group| *group != id);
            if remote.groups.is_empty() {
                self.remote_members.remove(&member);
            }
        }
        if group.len() > 0 {
            return None;
        }
        let position = self.groups.remove(id)?.position;
        self.group_bytes -= size_of::<Group>() + key.bytes();
        self.by_key.remove(key);
        let namespace = self.namespace(&key.namespace);
        let removed = self.subscriptions_mut(namespace).remove_group(&key.filter, position);
        if let Some(moved) = removed.moved.and_then(|moved| self.groups.get_mut(moved)) {
            moved.position = position;
        }
        removed.gone.then_some(namespace)
    }

    /// Applies another shard's report of a member of groups owned here.
    pub(crate) fn set_readiness(&mut self, member: MemberId, readiness: Readiness) {
        if let Some(remote) = self.remote_members.get_mut(&member) {
            remote.readiness = readiness;
        }
    }

    /// As far as its shard has reported.
    pub(crate) fn remote_readiness(&self, member: MemberId) -> Readiness {
        self.remote_members.get(&member).map_or(Readiness::Offline, |remote| remote.readiness)
    }

    /// The member that gets a group's next message, and how many members there are; `None`: there is no such group. `local`:
    /// the readiness of this shard's sessions, `None` of one that is about to leave. `but`: a shard whose members are not
    /// chosen.
    pub(crate) fn choose(
        &mut self,
        id: GroupId,
        qos: QoS,
        (here, but): (ShardId, Option<ShardId>),
        local: impl Fn(SessionId) -> Option<Readiness>,
    ) -> Option<(Option<GroupMember>, usize)> {
        let remote = &self.remote_members;
        let readiness_of = |member: &GroupMember| {
            if member.shard == here {
                return local(member.session.id);
            }
            if Some(member.shard) == but {
                return None;
            }
            Some(remote.get(&member.id()).map_or(Readiness::Offline, |remote| remote.readiness))
        };
        let group = self.groups.get_mut(id)?;
        let member = group.choose(qos, readiness_of);
        Some((member, group.len()))
    }

    /// How many members a group has without those behind the gateway, and how many of them are ready, as far as looked at.
    pub(crate) fn count_members(
        &self,
        id: GroupId,
        here: ShardId,
        gateway: ShardId,
        local: impl Fn(SessionId) -> Option<Readiness>,
    ) -> (u32, u32) {
        let Some(group) = self.groups.get(id) else { return (0, 0) };
        let is_ready = |member: &GroupMember| {
            let readiness = if member.shard == here {
                local(member.session.id)
            } else {
                self.remote_members.get(&member.id()).map(|remote| remote.readiness)
            };
            readiness == Some(Readiness::Ready)
        };
        let members = || group.members().filter(|member| member.shard != gateway);
        let ready = members().take(GROUP_SEARCH_MAX).filter(|member| is_ready(member)).count();
        (members().count() as u32, ready as u32)
    }

    /// The groups owned here that have a member of another shard.
    pub(crate) fn groups_of(&self, member: MemberId) -> Vec<Arc<GroupKey>> {
        let groups = self.remote_members.get(&member).map_or(&[][..], |remote| &remote.groups);
        groups.iter().filter_map(|&group| self.group_key(group).cloned()).collect()
    }

    /// Bytes of the subscriptions of all namespaces, and of the groups that are owned here.
    pub(crate) fn subscription_bytes(&self) -> usize {
        let touched = self.touched.and_then(|id| self.namespaces.get(id.index()));
        let (more, less) = touched.map_or((0, 0), |touched| (touched.subscriptions.bytes(), touched.summed_bytes));
        self.subscription_bytes + self.group_bytes + more - less
    }

    /// Bytes of all retained messages.
    pub(crate) fn retained_bytes(&self) -> usize {
        self.retained_bytes
    }

    /// The most that is remembered of topics, bytes.
    pub(crate) fn bound_cache(&mut self, bytes: usize) {
        self.cache.bound(bytes);
    }

    /// Bytes of what is remembered of topics that were published to lately.
    pub(crate) fn cache_bytes(&self) -> usize {
        self.cache.bytes()
    }
}
