//! Looks up ascending keys in a sorted map: one step per key, where a search would start at the root.

use std::collections::btree_map;
use std::iter::Peekable;

/// A cursor over pairs that are sorted by key. The caller asks for keys in ascending order.
pub struct SortedCursor<I: Iterator>(Peekable<I>);

impl<'a, K, V> SortedCursor<btree_map::Iter<'a, K, V>> {
    /// A cursor at the first key of `map`.
    pub fn over(map: &'a btree_map::BTreeMap<K, V>) -> Self {
        Self(map.iter().peekable())
    }
}

impl<'a, K: Ord + 'a, V: 'a, I: Iterator<Item = (&'a K, &'a V)>> SortedCursor<I> {
    /// A cursor at the first pair of `sorted`.
    pub fn new(sorted: I) -> Self {
        Self(sorted.peekable())
    }

    /// The value of `key`. Keys that are less than that of the call before are not found.
    pub fn get(&mut self, key: &K) -> Option<&'a V> {
        loop {
            let (next, value) = *self.0.peek()?;
            // Cheap: equal keys mostly share one allocation.
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
    fn ascending_keys_are_found() {
        let map = [(1, 'a'), (3, 'c'), (5, 'e')].into();
        let mut found = SortedCursor::over(&map);
        let keys = [0, 1, 1, 2, 3, 4, 5, 6];
        let expected = [None, Some('a'), Some('a'), None, Some('c'), None, Some('e'), None];
        assert_eq!(keys.map(|key| found.get(&key).copied()), expected);
    }
}
