//! How often something happened lately, per key, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weir_broker::Millis;

/// Counts per key within a window. Two generations of at most `capacity` keys each: when the younger is full it becomes
/// the older, and what was the older is forgotten. So a flood of keys costs no memory and no scan; at worst it makes
/// the table forget.
#[derive(Debug)]
pub(super) struct Recent<K> {
    capacity: usize,
    generations: Mutex<Generations<K>>,
}

#[derive(Debug)]
struct Generations<K> {
    young: HashMap<K, Window>,
    old: HashMap<K, Window>,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    since: Millis,
    count: u32,
}

impl<K: Eq + Hash> Recent<K> {
    pub(super) fn new(capacity: usize) -> Self {
        let generations = Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() });
        Self { capacity: capacity.max(1), generations }
    }

    /// How often `key` was counted in the window that is under way.
    pub(super) fn count(&self, key: &K, now: Millis, window_ms: Millis) -> u32 {
        let generations = self.lock();
        let window = generations.young.get(key).or_else(|| generations.old.get(key));
        window.filter(|window| now.saturating_sub(window.since) < window_ms).map_or(0, |window| window.count)
    }

    /// Counts once more, and says how often that is now.
    pub(super) fn add(&self, key: K, now: Millis, window_ms: Millis) -> u32 {
        let mut generations = self.lock();
        let known = generations.young.get(&key).copied().or_else(|| generations.old.remove(&key));
        let window = match known.filter(|window| now.saturating_sub(window.since) < window_ms) {
            Some(window) => Window { count: window.count.saturating_add(1), ..window },
            None => Window { since: now, count: 1 },
        };
        if generations.young.len() >= self.capacity && !generations.young.contains_key(&key) {
            generations.old = std::mem::take(&mut generations.young);
        }
        generations.young.insert(key, window);
        window.count
    }

    /// Nothing in here can be half done, so a panic elsewhere while it was locked does not matter.
    fn lock(&self) -> MutexGuard<'_, Generations<K>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_counts_within_a_window_and_starts_again_after_it() {
        let recent = Recent::new(10);
        assert_eq!([recent.add("a", 0, 100), recent.add("a", 50, 100), recent.add("b", 60, 100)], [1, 2, 1]);
        assert_eq!([recent.count(&"a", 99, 100), recent.count(&"a", 100, 100), recent.count(&"c", 0, 100)], [2, 0, 0]);
        assert_eq!(recent.add("a", 100, 100), 1);
    }

    #[test]
    fn a_flood_of_keys_takes_no_more_than_its_bound() {
        let recent = Recent::new(100);
        for key in 0..100_000 {
            recent.add(key, 0, 100);
        }
        let generations = recent.lock();
        assert!(generations.young.len() <= 100 && generations.old.len() <= 100);
    }

    #[test]
    fn who_goes_on_is_remembered_through_a_change_of_generations() {
        let recent = Recent::new(2);
        for (count, other) in (1..).zip(0..20) {
            assert_eq!(recent.add(1000, 0, 100), count);
            recent.add(other, 0, 100);
        }
    }
}
