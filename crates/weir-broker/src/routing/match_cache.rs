//! The receivers of topics that were published to lately, of all namespaces of a core.

use std::sync::Arc;

use crate::hash::HashSeed;
use crate::ids::NamespaceId;
use crate::limits::MATCH_CACHE_BYTES;
use crate::routing::matches::Matches;
use crate::routing::subscriptions::StampBuckets;

/// Topics that are remembered. Direct-mapped: two that collide evict each other.
const SLOTS: usize = 4096;

#[derive(Debug)]
struct CachedMatches {
    namespace: NamespaceId,
    topic: Box<str>,
    /// The buckets on which the stamp depends, and the stamp of the namespace's subscriptions at the time of the match.
    buckets: StampBuckets,
    stamp: u64,
    matches: Arc<Matches>,
}

impl CachedMatches {
    fn bytes(&self) -> usize {
        size_of::<Self>() + self.topic.len() + self.matches.bytes()
    }
}

/// Topic to receivers; bounded by [`MATCH_CACHE_BYTES`], above which it starts afresh.
#[derive(Debug)]
pub(crate) struct MatchCache {
    slots: Vec<Option<Box<CachedMatches>>>,
    bytes: usize,
    max_bytes: usize,
    seed: HashSeed,
}

impl MatchCache {
    pub(crate) fn new(seed: HashSeed) -> Self {
        Self { slots: Vec::new(), bytes: 0, max_bytes: MATCH_CACHE_BYTES, seed }
    }

    /// It takes no more than `bytes`.
    pub(crate) fn bound(&mut self, bytes: usize) {
        self.max_bytes = bytes.min(MATCH_CACHE_BYTES);
    }

    #[inline]
    fn slot(&self, namespace: NamespaceId, topic: &str) -> usize {
        (self.seed.hash(namespace.0, topic) % SLOTS as u64) as usize
    }

    /// The cached match of a topic, if the namespace's subscriptions have not changed for it since: `stamp` returns their
    /// stamp for the topic's buckets.
    #[inline]
    pub(crate) fn get(
        &self,
        namespace: NamespaceId,
        topic: &str,
        stamp: impl FnOnce(StampBuckets) -> u64,
    ) -> Option<&Arc<Matches>> {
        let cached = self.slots.get(self.slot(namespace, topic))?.as_ref()?;
        let is_valid =
            cached.namespace == namespace && *cached.topic == *topic && cached.stamp == stamp(cached.buckets);
        is_valid.then_some(&cached.matches)
    }

    pub(crate) fn insert(
        &mut self,
        namespace: NamespaceId,
        topic: &str,
        (buckets, stamp): (StampBuckets, u64),
        matches: &Arc<Matches>,
    ) {
        let cached = CachedMatches { namespace, topic: topic.into(), buckets, stamp, matches: Arc::clone(matches) };
        let bytes = cached.bytes();
        if bytes > self.max_bytes / 2 {
            return;
        }
        if self.bytes + bytes > self.max_bytes {
            (self.slots, self.bytes) = (Vec::new(), 0);
        }
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS, || None);
        }
        let slot = self.slot(namespace, topic);
        if let Some(old) = self.slots[slot].replace(Box::new(cached)) {
            self.bytes -= old.bytes();
        }
        self.bytes += bytes;
    }

    /// Bytes that it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes + self.slots.len() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_topics_evict_others_before_the_bound_is_passed() {
        let mut cache = MatchCache::new(HashSeed::new(1));
        let matches = Arc::new(Matches::default());
        for n in 0..4 * MATCH_CACHE_BYTES / 60_000 {
            cache.insert(NamespaceId(0), &format!("{n}{}", "x".repeat(60_000)), ((0, 0), 1), &matches);
            assert!(cache.bytes <= MATCH_CACHE_BYTES);
        }
        cache.insert(NamespaceId(0), "t", ((0, 0), 1), &matches);
        assert!(cache.get(NamespaceId(0), "t", |_| 1).is_some());
        assert!(cache.get(NamespaceId(0), "t", |_| 2).is_none(), "the subscriptions have changed");
        assert!(cache.get(NamespaceId(1), "t", |_| 1).is_none(), "another namespace");
    }
}
