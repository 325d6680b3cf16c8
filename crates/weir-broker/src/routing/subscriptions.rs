//! Filters, and the subscribers, shared groups and other shards with interest in them.

use std::sync::Arc;

use crate::hash::{HashSeed, IdMap};
use crate::ids::{GroupId, NodeId, SessionId, ShardId};
use crate::routing::topic_tree::{NONE, NodeValue, ROOT, Tree};
use crate::shard_set::ShardSet;
use weir_mqtt::{QoS, SubscriptionOptions};

/// A list this long gets an index, so that leaving a popular filter costs no search.
const INDEXED_FROM: usize = 32;
/// Topics whose matches are remembered. Direct-mapped: two that collide evict each other.
const CACHE_SLOTS: usize = 4096;
/// Subscribers named by all remembered matches together; above it the cache starts afresh.
const CACHED_SUBSCRIBERS_MAX: usize = 1 << 20;
/// Counters of changes, by the first one or two levels of the changed filter.
const STAMP_BUCKETS: usize = 1024;

/// One session's subscription at a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Subscriber {
    pub(crate) session: SessionId,
    /// The index of the node in the session's list.
    pub(crate) position: u32,
    /// Subscription identifier; 0: none.
    pub(crate) identifier: u32,
    pub(crate) options: SubscriptionOptions,
}

#[derive(Debug, Default)]
enum Subscribers {
    #[default]
    None,
    One(Subscriber),
    Many(Box<Many>),
}

#[derive(Debug, Default)]
struct Many {
    list: Vec<Subscriber>,
    /// Session to place in `list`, from [`INDEXED_FROM`] on.
    index: Option<IdMap<SessionId, u32>>,
}

impl Many {
    fn index_of(&self, session: SessionId) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&session).map(|&place| place as usize),
            None => self.list.iter().position(|s| s.session == session),
        }
    }

    fn push(&mut self, subscriber: Subscriber) {
        self.list.push(subscriber);
        if let Some(index) = &mut self.index {
            index.insert(subscriber.session, (self.list.len() - 1) as u32);
        } else if self.list.len() > INDEXED_FROM {
            self.index = Some(self.list.iter().enumerate().map(|(i, s)| (s.session, i as u32)).collect());
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Subscriber> {
        let place = self.index_of(session)?;
        let removed = self.list.swap_remove(place);
        if let Some(index) = &mut self.index {
            index.remove(&session);
            if let Some(moved) = self.list.get(place) {
                index.insert(moved.session, place as u32);
            }
        }
        Some(removed)
    }
}

impl Subscribers {
    fn as_slice(&self) -> &[Subscriber] {
        match self {
            Subscribers::None => &[],
            Subscribers::One(one) => std::slice::from_ref(one),
            Subscribers::Many(many) => &many.list,
        }
    }

    fn get_mut(&mut self, session: SessionId) -> Option<&mut Subscriber> {
        match self {
            Subscribers::One(one) if one.session == session => Some(one),
            Subscribers::Many(many) => many.index_of(session).and_then(|place| many.list.get_mut(place)),
            _ => None,
        }
    }

    fn push(&mut self, subscriber: Subscriber) {
        match self {
            Subscribers::None => *self = Subscribers::One(subscriber),
            Subscribers::One(one) => {
                *self = Subscribers::Many(Box::new(Many { list: vec![*one, subscriber], index: None }));
            }
            Subscribers::Many(many) => many.push(subscriber),
        }
    }

    fn remove(&mut self, session: SessionId) -> Option<Subscriber> {
        match self {
            Subscribers::One(one) if one.session == session => {
                let one = *one;
                *self = Subscribers::None;
                Some(one)
            }
            Subscribers::Many(many) => {
                let removed = many.remove(session);
                if many.list.is_empty() {
                    *self = Subscribers::None;
                }
                removed
            }
            _ => None,
        }
    }
}

/// The subscribers at the node of a filter.
#[derive(Debug)]
struct Interest {
    plus: NodeId,
    hash: NodeId,
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

impl Default for Interest {
    fn default() -> Self {
        Self { plus: NONE, hash: NONE, subscribers: Subscribers::None, rest: None }
    }
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

    fn child_added(&mut self, child: NodeId, level: &str) {
        match level {
            "+" => self.plus = child,
            "#" => self.hash = child,
            _ => {}
        }
    }

    fn child_freed(&mut self, child: NodeId) {
        if self.plus == child {
            self.plus = NONE;
        } else if self.hash == child {
            self.hash = NONE;
        }
    }
}

/// Whose messages a [`Matched`] is for. A No Local subscription is none for the session's own messages
/// [MQTT-3.8.3-3]; where another one overlaps it without, the session is named once for each case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    Everybody,
    Others,
    Itself,
}

impl Audience {
    /// Whether a message is meant that the session published itself (`own`), or did not.
    pub(crate) fn takes(self, own: bool) -> bool {
        match self {
            Audience::Everybody => true,
            Audience::Others => !own,
            Audience::Itself => own,
        }
    }
}

/// A session that gets a message, its overlapping subscriptions merged into one delivery.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Matched {
    pub(crate) session: SessionId,
    pub(crate) qos: QoS,
    pub(crate) audience: Audience,
    pub(crate) retain_as_published: bool,
    /// The first subscription identifier; 0: none.
    identifier: u32,
    /// Further identifiers: a range of [`Matches::identifiers`].
    more: (u32, u32),
}

/// All receivers of messages of one topic.
#[derive(Debug, Default)]
pub(crate) struct Matches {
    pub(crate) subscribers: Vec<Matched>,
    identifiers: Vec<u32>,
    pub(crate) groups: Vec<GroupId>,
    /// Other shards with interest in the topic.
    pub(crate) destinations: ShardSet,
}

impl Matches {
    /// The subscription identifiers a delivery carries, the first apart.
    pub(crate) fn identifiers(&self, matched: &Matched) -> (Option<u32>, &[u32]) {
        let (start, end) = matched.more;
        ((matched.identifier != 0).then_some(matched.identifier), &self.identifiers[start as usize..end as usize])
    }

    fn collect(&mut self, interest: &Interest) {
        self.subscribers.extend(interest.subscribers.as_slice().iter().map(|s| Matched {
            session: s.session,
            qos: s.options.qos,
            audience: if s.options.no_local { Audience::Others } else { Audience::Everybody },
            retain_as_published: s.options.retain_as_published,
            identifier: s.identifier,
            more: (0, 0),
        }));
        if let Some(rest) = &interest.rest {
            self.destinations.extend(&rest.destinations);
            self.groups.extend_from_slice(&rest.groups);
        }
    }

    /// One delivery per session, at the highest granted QoS, with every identifier [MQTT-3.3.4-2] [MQTT-3.3.4-3].
    fn merge(&mut self) {
        let mut found = std::mem::take(&mut self.subscribers);
        found.sort_by_key(|m| m.session);
        for overlapping in found.chunk_by(|a, b| a.session == b.session) {
            let no_local = overlapping.iter().filter(|m| m.audience == Audience::Others).count();
            self.merge_one(overlapping.iter());
            if no_local > 0
                && no_local < overlapping.len()
                && let Some(all) = self.subscribers.last_mut()
            {
                all.audience = Audience::Others;
                self.merge_one(overlapping.iter().filter(|m| m.audience == Audience::Everybody));
                self.subscribers.last_mut().into_iter().for_each(|own| own.audience = Audience::Itself);
            }
        }
    }

    /// Adds one delivery for overlapping subscriptions of one session.
    fn merge_one<'a>(&mut self, mut overlapping: impl Iterator<Item = &'a Matched>) {
        let Some(mut merged) = overlapping.next().copied() else { return };
        let start = self.identifiers.len() as u32;
        for next in overlapping {
            merged.qos = merged.qos.max(next.qos);
            merged.retain_as_published |= next.retain_as_published;
            if merged.identifier == 0 {
                merged.identifier = next.identifier;
            } else if next.identifier != 0 {
                self.identifiers.push(next.identifier);
            }
        }
        merged.more = (start, self.identifiers.len() as u32);
        self.subscribers.push(merged);
    }
}

#[derive(Debug)]
struct CachedMatches {
    topic: Box<str>,
    stamp: u64,
    buckets: (u16, u16),
    matches: Arc<Matches>,
}

/// The result of adding a subscriber.
pub(crate) struct Added {
    pub(crate) node: NodeId,
    /// The subscription it replaces, if the session had one on this filter.
    pub(crate) replaced: Option<Subscriber>,
    /// This shard had no interest in the filter before: other shards have to learn it.
    pub(crate) first: bool,
}

/// The subscriptions of one namespace in one core.
#[derive(Debug)]
pub(crate) struct Subscriptions {
    tree: Tree<Interest>,
    cache: Vec<Option<Box<CachedMatches>>>,
    cached_subscribers: usize,
    seed: HashSeed,
    /// Changes by bucket of the filter's literal beginning; a remembered match is valid while its sum stands still.
    stamps: Box<[u64; STAMP_BUCKETS]>,
    /// Changes of filters whose first level is a wildcard.
    wild_stamp: u64,
    stack: Vec<(NodeId, usize)>,
}

impl Subscriptions {
    pub(crate) fn new(seed: HashSeed) -> Self {
        Self {
            tree: Tree::new(seed.clone()),
            cache: Vec::new(),
            cached_subscribers: 0,
            seed,
            stamps: Box::new([0; STAMP_BUCKETS]),
            wild_stamp: 0,
            stack: Vec::new(),
        }
    }

    fn hash(&self, text: &str) -> u64 {
        self.seed.hash(0, text)
    }

    fn bucket(&self, text: &str) -> u16 {
        (self.hash(text) % STAMP_BUCKETS as u64) as u16
    }

    /// Notes that matches under `filter`'s literal beginning (up to two levels) may have changed.
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

    /// The buckets a topic depends on: its first level and its first two.
    fn buckets(&self, topic: &str) -> (u16, u16) {
        let first = topic.find('/').unwrap_or(topic.len());
        let second = topic[first..].bytes().skip(1).position(|b| b == b'/').map_or(topic.len(), |p| first + 1 + p);
        (self.bucket(&topic[..first]), self.bucket(&topic[..second]))
    }

    fn stamp(&self, (one, two): (u16, u16)) -> u64 {
        self.wild_stamp + self.stamps[usize::from(one)] + self.stamps[usize::from(two)]
    }

    /// The receivers of messages of `topic`.
    pub(crate) fn matches(&mut self, topic: &str) -> Arc<Matches> {
        let slot = (self.hash(topic) % CACHE_SLOTS as u64) as usize;
        if let Some(Some(remembered)) = self.cache.get(slot)
            && *remembered.topic == *topic
            && remembered.stamp == self.stamp(remembered.buckets)
        {
            return Arc::clone(&remembered.matches);
        }
        let matches = Arc::new(self.walk(topic));
        self.remember(slot, topic, &matches);
        matches
    }

    fn remember(&mut self, slot: usize, topic: &str, matches: &Arc<Matches>) {
        let size = matches.subscribers.len() + 1;
        if self.cached_subscribers + size > CACHED_SUBSCRIBERS_MAX {
            self.cache.clear();
            self.cached_subscribers = 0;
        }
        if self.cache.is_empty() {
            self.cache.resize_with(CACHE_SLOTS, || None);
        }
        let buckets = self.buckets(topic);
        let stamp = self.stamp(buckets);
        if let Some(old) = &self.cache[slot] {
            self.cached_subscribers -= old.matches.subscribers.len() + 1;
        }
        self.cached_subscribers += size;
        self.cache[slot] =
            Some(Box::new(CachedMatches { topic: topic.into(), stamp, buckets, matches: Arc::clone(matches) }));
    }

    fn walk(&mut self, topic: &str) -> Matches {
        let mut found = Matches::default();
        let mut nodes = 0;
        // Wildcards at the first level do not match topics that begin with `$` [MQTT-4.7.2-1].
        let hidden = topic.starts_with('$');
        self.stack.clear();
        self.stack.push((ROOT, 0));
        while let Some((node, offset)) = self.stack.pop() {
            let interest = self.tree.value(node);
            let wild = !(hidden && node == ROOT);
            if interest.hash != NONE && wild {
                nodes += 1;
                found.collect(self.tree.value(interest.hash));
            }
            if offset > topic.len() {
                nodes += 1;
                found.collect(interest);
                continue;
            }
            let rest = &topic[offset..];
            let level = rest.find('/').map_or(rest, |end| &rest[..end]);
            let next = offset + level.len() + 1;
            if interest.plus != NONE && wild {
                self.stack.push((interest.plus, next));
            }
            if let Some(child) = self.tree.child(node, level) {
                self.stack.push((child, next));
            }
        }
        if nodes > 1 && found.subscribers.len() > 1 {
            found.merge();
        }
        found
    }

    /// Adds or replaces a session's subscription. On a replacement the position stays what it was.
    pub(crate) fn add(&mut self, filter: &str, mut subscriber: Subscriber) -> Added {
        self.touch(filter);
        let node = self.tree.insert(filter);
        let interest = self.tree.value_mut(node);
        let first = !interest.is_local();
        if let Some(old) = interest.subscribers.get_mut(subscriber.session) {
            subscriber.position = old.position;
            let replaced = std::mem::replace(old, subscriber);
            return Added { node, replaced: Some(replaced), first };
        }
        interest.subscribers.push(subscriber);
        Added { node, replaced: None, first }
    }

    /// The node of `filter`, where `session` is subscribed to it.
    pub(crate) fn find(&mut self, filter: &str, session: SessionId) -> Option<NodeId> {
        let node = self.tree.find(filter)?;
        self.tree.value_mut(node).subscribers.get_mut(session).map(|_| node)
    }

    /// The filter of a node.
    pub(crate) fn filter(&self, node: NodeId) -> String {
        self.tree.path(node)
    }

    /// The filter and subscriber of a session at a node.
    pub(crate) fn get(&mut self, node: NodeId, session: SessionId) -> Option<(String, Subscriber)> {
        let subscriber = *self.tree.value_mut(node).subscribers.get_mut(session)?;
        Some((self.tree.path(node), subscriber))
    }

    /// Removes a session from a node. Returns its position, and with the filter where this shard has no interest in it any more.
    pub(crate) fn remove(&mut self, node: NodeId, session: SessionId) -> Option<(u32, Option<String>)> {
        let filter = self.tree.path(node);
        let removed = self.tree.value_mut(node).subscribers.remove(session)?;
        self.touch(&filter);
        let gone = !self.tree.value(node).is_local();
        self.tree.prune(node);
        Some((removed.position, gone.then_some(filter)))
    }

    /// A session's list of nodes moved: the subscription at `node` is now named at `position`.
    pub(crate) fn set_position(&mut self, node: NodeId, session: SessionId, position: u32) {
        if let Some(subscriber) = self.tree.value_mut(node).subscribers.get_mut(session) {
            subscriber.position = position;
        }
    }

    fn rest(&mut self, node: NodeId) -> &mut InterestCold {
        self.tree.value_mut(node).rest.get_or_insert_default()
    }

    fn drop_empty_rest(&mut self, node: NodeId) {
        let interest = self.tree.value_mut(node);
        if interest.rest.as_ref().is_some_and(|r| r.destinations.is_empty() && r.groups.is_empty()) {
            interest.rest = None;
        }
        self.tree.prune(node);
    }

    /// Another destination wants `filter`.
    pub(crate) fn add_destination(&mut self, filter: &str, destination: ShardId) {
        self.touch(filter);
        let node = self.tree.insert(filter);
        self.rest(node).destinations.insert(destination);
    }

    /// Another destination no longer wants `filter`.
    pub(crate) fn remove_destination(&mut self, filter: &str, destination: ShardId) {
        self.touch(filter);
        if let Some(node) = self.tree.find(filter) {
            self.rest(node).destinations.remove(destination);
            self.drop_empty_rest(node);
        }
    }

    /// A shared group is owned here. Returns whether this shard had no interest in the filter before.
    pub(crate) fn add_group(&mut self, filter: &str, group: GroupId) -> bool {
        self.touch(filter);
        let node = self.tree.insert(filter);
        let first = !self.tree.value(node).is_local();
        self.rest(node).groups.push(group);
        first
    }

    /// The group is empty. Returns whether this shard has no interest in the filter any more.
    pub(crate) fn remove_group(&mut self, filter: &str, group: GroupId) -> bool {
        self.touch(filter);
        let Some(node) = self.tree.find(filter) else { return false };
        self.rest(node).groups.retain(|&g| g != group);
        let gone = !self.tree.value(node).is_local();
        self.drop_empty_rest(node);
        gone
    }

    #[cfg(test)]
    pub(crate) fn nodes(&self) -> usize {
        self.tree.len()
    }
}
