//! Filters, and the subscribers, shared groups and other shards with interest in them.

use std::sync::Arc;

use crate::hash::HashSeed;
use crate::ids::{GroupId, NodeId, SessionId, ShardId};
use crate::routing::filter_tree::{FilterTree, NodeValue, Walk};
use crate::routing::matches::Matches;
use crate::routing::subscribers::{Subscriber, Subscribers};
use crate::shard_set::ShardSet;

/// Counters of changes, by the first one or two levels of the changed filter.
const STAMP_BUCKETS: usize = 1024;
/// Indexes into the counters of changes.
pub(crate) type StampBuckets = (u16, u16);

/// Bytes of a subscription beside its node: its entries there and in its session's list.
const SUBSCRIPTION_BYTES: usize = size_of::<Subscriber>() + 24;
/// Bytes of what nodes with groups or other shards' interest have besides.
const COLD_BYTES: usize = size_of::<InterestCold>() + 16;

/// The subscribers at the node of a filter.
#[derive(Debug, Default)]
struct Interest {
    subscribers: Subscribers,
    rest: Option<Box<InterestCold>>,
}

/// The rarer part of an [`Interest`].
#[derive(Debug, Default)]
struct InterestCold {
    /// Other shards with interest in the filter.
    destinations: ShardSet,
    groups: Vec<GroupId>,
}

impl Interest {
    fn is_local(&self) -> bool {
        !matches!(self.subscribers, Subscribers::None) || self.rest.as_ref().is_some_and(|r| !r.groups.is_empty())
    }
}

impl NodeValue for Interest {
    fn is_empty(&self) -> bool {
        !self.is_local() && self.rest.is_none()
    }
}

/// The result of adding a subscriber.
pub(crate) struct Added {
    pub(crate) node: NodeId,
    /// The subscription it replaces, if the session had one on this filter.
    pub(crate) replaced: Option<Subscriber>,
    /// This shard had no interest in the filter before: other shards have to learn it.
    pub(crate) first: bool,
    /// It had no subscribers, but perhaps groups: the gateway, which knows groups apart, has to learn it.
    pub(crate) first_subscriber: bool,
}

/// The result of removing a subscriber.
pub(crate) struct Removed {
    /// The position of the subscription in its session's list.
    pub(crate) position: u32,
    pub(crate) filter: String,
    /// This shard has no interest in the filter any more.
    pub(crate) gone: bool,
    /// It has no subscribers any more, but perhaps groups.
    pub(crate) last_subscriber: bool,
}

/// The result of removing a group from a filter.
pub(crate) struct GroupRemoved {
    /// This shard has no interest in the filter any more.
    pub(crate) gone: bool,
    /// The group that has the removed one's position now.
    pub(crate) moved: Option<GroupId>,
}

/// The subscriptions of one namespace in one core.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    tree: FilterTree<Interest>,
    /// Subscriptions and groups; and nodes with a cold part.
    entries: usize,
    cold: usize,
    seed: HashSeed,
    /// Changes by bucket of the filter's literal beginning; a cached match is valid while its sum does not change.
    stamps: Box<[u64; STAMP_BUCKETS]>,
    /// Changes of filters whose first level is a wildcard.
    wild_stamp: u64,
}

impl Subscriptions {
    pub(crate) fn new(seed: HashSeed) -> Self {
        Self {
            tree: FilterTree::new(seed.clone()),
            entries: 0,
            cold: 0,
            seed,
            stamps: Box::new([0; STAMP_BUCKETS]),
            wild_stamp: 0,
        }
    }

    /// Bytes that the subscriptions take.
    pub(crate) fn bytes(&self) -> usize {
        self.tree.bytes() + self.entries * SUBSCRIPTION_BYTES + self.cold * COLD_BYTES
    }

    fn bucket(&self, text: &str) -> u16 {
        (self.seed.hash(0, text) % STAMP_BUCKETS as u64) as u16
    }

    /// Records that matches under `filter`'s literal beginning (up to two levels) may have changed.
    fn touch(&mut self, filter: &str) {
        let literal = |level: &str| level != "+" && level != "#";
        let mut levels = filter.split('/');
        let first = levels.next().unwrap_or_default();
        if !literal(first) {
            self.wild_stamp += 1;
            return;
        }
        let bucket = match levels.next() {
            Some(second) if literal(second) => self.bucket(&filter[..first.len() + 1 + second.len()]),
            _ => self.bucket(first),
        };
        self.stamps[usize::from(bucket)] += 1;
    }

    /// The buckets of a topic: of its first level, and of its first two.
    pub(crate) fn buckets(&self, topic: &str) -> StampBuckets {
        let first = topic.find('/').unwrap_or(topic.len());
        let second = topic[first..].bytes().skip(1).position(|b| b == b'/').map_or(topic.len(), |p| first + 1 + p);
        (self.bucket(&topic[..first]), self.bucket(&topic[..second]))
    }

    /// Changes with every change of a filter that may match a topic of these buckets: one with its first level, its first two,
    /// or a wildcard there.
    #[inline]
    pub(crate) fn stamp(&self, (one, two): StampBuckets) -> u64 {
        self.wild_stamp + self.stamps[usize::from(one)] + self.stamps[usize::from(two)]
    }

    /// Goes on with a search for the filters that match a topic; see [`FilterTree::walk`].
    pub(crate) fn walk(&self, walk: &mut Walk, topic: &str, work: &mut usize) -> bool {
        self.tree.walk(walk, topic, work)
    }

    /// A search is suspended: see [`FilterTree::pin`].
    pub(crate) fn pin(&mut self) {
        self.tree.pin();
    }

    /// The suspended search has ended.
    pub(crate) fn unpin(&mut self) {
        self.tree.unpin();
    }

    /// The receivers at the nodes that a search has found.
    pub(crate) fn receivers(&self, found: &[NodeId]) -> Arc<Matches> {
        let mut matches = Matches::default();
        for interest in found.iter().filter_map(|&node| self.tree.value(node)) {
            matches.add_subscribers(interest.subscribers.as_slice());
            if let Some(rest) = &interest.rest {
                matches.destinations.extend(&rest.destinations);
                matches.groups.extend_from_slice(&rest.groups);
            }
        }
        if found.len() > 1 && matches.subscribers.len() > 1 {
            matches.merge();
        }
        Arc::new(matches)
    }

    /// Adds or replaces a session's subscription. On a replacement the position stays what it was.
    pub(crate) fn add(&mut self, filter: &str, mut subscriber: Subscriber) -> Added {
        self.touch(filter);
        let node = self.tree.insert(filter);
        let Some(interest) = self.tree.value_mut(node) else {
            return Added { node, replaced: None, first: false, first_subscriber: false };
        };
        let first = !interest.is_local();
        let first_subscriber = matches!(interest.subscribers, Subscribers::None);
        if let Some(old) = interest.subscribers.get_mut(subscriber.session) {
            subscriber.position = old.position;
            let replaced = std::mem::replace(old, subscriber);
            return Added { node, replaced: Some(replaced), first, first_subscriber };
        }
        interest.subscribers.push(subscriber);
        self.entries += 1;
        Added { node, replaced: None, first, first_subscriber }
    }

    fn subscriber_mut(&mut self, node: NodeId, session: SessionId) -> Option<&mut Subscriber> {
        self.tree.value_mut(node)?.subscribers.get_mut(session)
    }

    /// The node of `filter`, where `session` is subscribed to it.
    pub(crate) fn find(&mut self, filter: &str, session: SessionId) -> Option<NodeId> {
        let node = self.tree.find(filter)?;
        self.subscriber_mut(node, session).map(|_| node)
    }

    /// The filter of a node.
    pub(crate) fn filter(&self, node: NodeId) -> String {
        self.tree.path(node)
    }

    /// The filter and subscriber of a session at a node.
    pub(crate) fn get(&mut self, node: NodeId, session: SessionId) -> Option<(String, Subscriber)> {
        let subscriber = *self.subscriber_mut(node, session)?;
        Some((self.tree.path(node), subscriber))
    }

    /// Removes a session from a node.
    pub(crate) fn remove(&mut self, node: NodeId, session: SessionId) -> Option<Removed> {
        let filter = self.tree.path(node);
        let interest = self.tree.value_mut(node)?;
        let removed = interest.subscribers.remove(session)?;
        let gone = !interest.is_local();
        let last_subscriber = matches!(interest.subscribers, Subscribers::None);
        self.entries -= 1;
        self.touch(&filter);
        self.tree.prune(node);
        Some(Removed { position: removed.position, filter, gone, last_subscriber })
    }

    /// A session's list of nodes moved: the subscription at `node` is now named at `position`.
    pub(crate) fn set_position(&mut self, node: NodeId, session: SessionId, position: u32) {
        if let Some(subscriber) = self.subscriber_mut(node, session) {
            subscriber.position = position;
        }
    }

    fn rest(&mut self, node: NodeId) -> Option<&mut InterestCold> {
        let interest = self.tree.value_mut(node)?;
        if interest.rest.is_none() {
            self.cold += 1;
        }
        Some(interest.rest.get_or_insert_default())
    }

    fn drop_empty_rest(&mut self, node: NodeId) {
        if let Some(interest) = self.tree.value_mut(node)
            && interest.rest.as_ref().is_some_and(|r| r.destinations.is_empty() && r.groups.is_empty())
        {
            interest.rest = None;
            self.cold -= 1;
        }
        self.tree.prune(node);
    }

    /// Another destination wants `filter`.
    pub(crate) fn add_destination(&mut self, filter: &str, destination: ShardId) {
        self.touch(filter);
        let node = self.tree.insert(filter);
        if let Some(rest) = self.rest(node) {
            rest.destinations.insert(destination);
        }
    }

    /// Another destination no longer wants `filter`.
    pub(crate) fn remove_destination(&mut self, filter: &str, destination: ShardId) {
        self.touch(filter);
        if let Some(node) = self.tree.find(filter) {
            if let Some(rest) = self.rest(node) {
                rest.destinations.remove(destination);
            }
            self.drop_empty_rest(node);
        }
    }

    /// The destinations that want `filter`.
    pub(crate) fn destinations(&self, filter: &str) -> ShardSet {
        self.tree.find(filter).map_or_else(ShardSet::default, |node| self.destinations_at(node))
    }

    fn destinations_at(&self, node: NodeId) -> ShardSet {
        let rest = self.tree.value(node).and_then(|interest| interest.rest.as_ref());
        rest.map_or_else(ShardSet::default, |rest| rest.destinations)
    }

    /// The filters that any of some destinations wants.
    pub(crate) fn filters_of(&self, destinations: &ShardSet) -> Vec<String> {
        let wanted = self.tree.ids().filter(|&node| self.destinations_at(node).meets(destinations));
        wanted.map(|node| self.tree.path(node)).collect()
    }

    /// A shared group is owned here. Returns its position among the filter's groups, and whether this shard had no interest in
    /// the filter before.
    pub(crate) fn add_group(&mut self, filter: &str, group: GroupId) -> (u32, bool) {
        self.touch(filter);
        let node = self.tree.insert(filter);
        let first = self.tree.value(node).is_some_and(|interest| !interest.is_local());
        self.entries += 1;
        let position = self.rest(node).map_or(0, |rest| {
            rest.groups.push(group);
            rest.groups.len() as u32 - 1
        });
        (position, first)
    }

    /// The group at a position is empty.
    pub(crate) fn remove_group(&mut self, filter: &str, position: u32) -> GroupRemoved {
        self.touch(filter);
        let mut removed = GroupRemoved { gone: false, moved: None };
        let Some(node) = self.tree.find(filter) else { return removed };
        if let Some(rest) = self.rest(node)
            && (position as usize) < rest.groups.len()
        {
            rest.groups.swap_remove(position as usize);
            removed.moved = rest.groups.get(position as usize).copied();
            self.entries -= 1;
        }
        removed.gone = self.tree.value(node).is_some_and(|interest| !interest.is_local());
        self.drop_empty_rest(node);
        removed
    }

    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.tree.len()
    }
}
