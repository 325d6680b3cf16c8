//! Looks one sorted map's keys up in another, side by side: a step each, where a search would begin at the root.

use std::collections::btree_map;
use std::iter::Peekable;

/// Goes through what is sorted by key, together with someone who asks for keys in ascending order.
pub struct SortedCursor<I: Iterator>(Peekable<I>);

impl<'a, K, V> SortedCursor<btree_map::Iter<'a, K, V>> {
    /// Begins at the map's first key.
    pub fn over(map: &'a btree_map::BTreeMap<K, V>) -> Self {
        Self(map.iter().peekable())
    }
}

impl<'a, K: Ord + 'a, V: 'a, I: Iterator<Item = (&'a K, &'a V)>> SortedCursor<I> {
    /// Begins at the first of `sorted`.
    pub fn new(sorted: I) -> Self {
        Self(sorted.peekable())
    }

    /// The value of `key`, which is no less than the key asked for before; a lesser one is not found.
    pub fn get(&mut self, key: &K) -> Option<&'a V> {
        loop {
            let (next, value) = *self.0.peek()?;
            // Equal keys are mostly the same allocation, which is seen at once.
            if next == key {
                return Some(value);
            }
            if next > key {
                return None;
            }
            self.0.next();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_found_in_ascending_order() {
        let map = [(1, 'a'), (3, 'c'), (5, 'e')].into();
        let mut found = SortedCursor::over(&map);
        let keys = [0, 1, 1, 2, 3, 4, 5, 6];
        let expected = [None, Some('a'), Some('a'), None, Some('c'), None, Some('e'), None];
        assert_eq!(keys.map(|key| found.get(&key).copied()), expected);
    }
}
