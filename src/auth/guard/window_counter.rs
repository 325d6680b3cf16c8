//! Counts events per key within a time window, in bounded memory.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::auth::counts::Count;
use weir_broker::Millis;

/// Two generations of at most `capacity` keys each: when the younger is full it replaces the older, which is dropped. A
/// flood of keys costs no more memory; at worst, counts are lost, and `evicted` counts them.
#[derive(Debug)]
pub(super) struct WindowCounter<K> {
    capacity: usize,
    evicted: Count,
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

impl<K: Eq + Hash> WindowCounter<K> {
    pub(super) fn new(capacity: usize, evicted: Count) -> Self {
        let generations = Mutex::new(Generations { young: HashMap::new(), old: HashMap::new() });
        Self { capacity: capacity.max(1), evicted, generations }
    }

    /// The count of `key` in the current window.
    pub(super) fn count(&self, key: &K, now: Millis, window_ms: Millis) -> u32 {
        let generations = self.lock();
        let window = generations.young.get(key).or_else(|| generations.old.get(key));
        window.filter(|window| now.saturating_sub(window.since) < window_ms).map_or(0, |window| window.count)
    }

    /// Counts once and returns the new count.
    pub(super) fn add(&self, key: K, now: Millis, window_ms: Millis) -> u32 {
        let mut generations = self.lock();
        let known = generations.young.get(&key).copied().or_else(|| generations.old.remove(&key));
        let window = match known.filter(|window| now.saturating_sub(window.since) < window_ms) {
            Some(window) => Window { count: window.count.saturating_add(1), ..window },
            None => Window { since: now, count: 1 },
        };
        if generations.young.len() >= self.capacity && !generations.young.contains_key(&key) {
            let full = std::mem::take(&mut generations.young);
            let lost = std::mem::replace(&mut generations.old, full);
            let is_running = |window: &&Window| now.saturating_sub(window.since) < window_ms;
            self.evicted.add(lost.values().filter(is_running).count() as u64);
        }
        generations.young.insert(key, window);
        window.count
    }

    /// No state in here is ever inconsistent, so a poisoned lock is harmless.
    fn lock(&self) -> MutexGuard<'_, Generations<K>> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_within_a_window_and_restarts_after_it() {
        let counter = WindowCounter::new(10, Count::default());
        assert_eq!([counter.add("a", 0, 100), counter.add("a", 50, 100), counter.add("b", 60, 100)], [1, 2, 1]);
        assert_eq!(
            [counter.count(&"a", 99, 100), counter.count(&"a", 100, 100), counter.count(&"c", 0, 100)],
            [2, 0, 0]
        );
        assert_eq!(counter.add("a", 100, 100), 1);
    }

    #[test]
    fn a_flood_of_keys_stays_within_the_bound() {
        let counter = WindowCounter::new(100, Count::default());
        for key in 0..100_000 {
            counter.add(key, 0, 100);
        }
        let generations = counter.lock();
        assert!(generations.young.len() <= 100 && generations.old.len() <= 100);
    }

    #[test]
    fn an_active_key_survives_a_change_of_generations() {
        let counter = WindowCounter::new(2, Count::default());
        for (count, other) in (1..).zip(0..20) {
            assert_eq!(counter.add(1000, 0, 100), count);
            counter.add(other, 0, 100);
        }
    }
}
