//! The filter tree as a collection of its own, for programs.

use crate::hash::HashSeed;
use crate::routing::filter_tree::{FilterTree, NodeValue, Walk};
use weir_mqtt::{TopicError, validate_topic_filter};

impl<V> NodeValue for Option<V> {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

/// Topic filters with a value each, and the search for those that match a topic name: what the broker's routing uses. The
/// cost of a search depends on the topic's levels and on what matches, not on the number of filters.
///
/// ```
/// use weir_broker::TopicTree;
///
/// let mut handlers = TopicTree::new();
/// handlers.insert("sensor/+/temp", "temperatures")?;
/// handlers.insert("sensor/#", "all sensors")?;
/// handlers.insert("alarm/#", "alarms")?;
/// let mut found: Vec<&str> = handlers.matches("sensor/room1/temp").copied().collect();
/// found.sort();
/// assert_eq!(found, ["all sensors", "temperatures"]);
/// assert_eq!(handlers.remove("sensor/#"), Some("all sensors"));
/// assert_eq!(handlers.matches("sensor/room1/hum").count(), 0);
/// # Ok::<(), weir_mqtt::TopicError>(())
/// ```
#[derive(Debug)]
pub struct TopicTree<V> {
    tree: FilterTree<Option<V>>,
    len: usize,
}

impl<V> Default for TopicTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

impl<V> TopicTree<V> {
    /// An empty tree. Where strangers choose the filters, use [`TopicTree::with_seed`].
    pub fn new() -> Self {
        Self::with_seed(0)
    }

    /// An empty tree whose hash table has this seed: a random one keeps strangers from choosing filters that collide.
    pub fn with_seed(seed: u64) -> Self {
        Self { tree: FilterTree::new(HashSeed::new(seed)), len: 0 }
    }

    /// The number of filters.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no filter.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a filter, or replaces its value; returns the value that it had.
    ///
    /// # Errors
    /// It is not a topic filter.
    pub fn insert(&mut self, filter: &str, value: V) -> Result<Option<V>, TopicError> {
        validate_topic_filter(filter)?;
        let node = self.tree.insert(filter);
        let before = self.tree.value_mut(node).and_then(|place| place.replace(value));
        self.len += usize::from(before.is_none());
        Ok(before)
    }

    /// The value of a filter.
    pub fn get(&self, filter: &str) -> Option<&V> {
        self.tree.value(self.tree.find(filter)?)?.as_ref()
    }

    /// The value of a filter, to change it.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        let node = self.tree.find(filter)?;
        self.tree.value_mut(node)?.as_mut()
    }

    /// Removes a filter; returns its value.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        let node = self.tree.find(filter)?;
        let value = self.tree.value_mut(node)?.take()?;
        self.tree.prune(node);
        self.len -= 1;
        Some(value)
    }

    /// The values of the filters that match a topic name, in no particular order. Wildcards at the first level do not match
    /// topics that begin with `$` [MQTT-4.7.2-1].
    pub fn matches(&self, topic: &str) -> impl Iterator<Item = &V> {
        let (mut walk, mut unbounded) = (Walk::default(), usize::MAX);
        walk.begin();
        self.tree.walk(&mut walk, topic, &mut unbounded);
        walk.found.into_iter().filter_map(|node| self.tree.value(node)?.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_tree_finds_what_a_comparison_with_each_filter_finds(
            filters in prop::collection::btree_set("(\\+|[ab$]?)(/(\\+|[ab]?)){0,3}(/#)?", 0..12),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            topic in "[ab$]?(/[ab]?){0,4}",
        ) {
            let mut filters: Vec<String> = filters.into_iter().filter(|text| validate_topic_filter(text).is_ok()).collect();
            let mut tree = TopicTree::new();
            for filter in &filters {
                prop_assert_eq!(tree.insert(filter, filter.clone()), Ok(None));
            }
            for index in removed {
                if !filters.is_empty() {
                    let filter = filters.remove(index.index(filters.len()));
                    prop_assert_eq!(tree.remove(&filter), Some(filter.clone()));
                    prop_assert_eq!(tree.remove(&filter), None);
                }
            }
            prop_assert_eq!(tree.len(), filters.len());
            prop_assert!(filters.iter().all(|filter| tree.get(filter) == Some(filter)));
            let mut found: Vec<&String> = tree.matches(&topic).collect();
            found.sort();
            let expected: Vec<&String> = filters.iter().filter(|filter| weir_mqtt::matches(filter, &topic)).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_text_that_is_no_filter_is_an_error() {
        let mut tree = TopicTree::new();
        assert!(tree.insert("a/#/b", ()).is_err());
        assert!(tree.is_empty());
    }
}
