//! One level of the tree of retained topics, over all shards.

use std::sync::Arc;

use super::plane::{DataPlane, PlaneError};
use super::shard::Control;
use weir_broker::{LevelEntry, LevelValue};

/// The part of a level to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LevelFilter {
    pub namespace: String,
    /// Empty, or it ends with `/`.
    pub prefix: String,
    /// Only entries with a greater key; `None`: from the first.
    pub after: Option<String>,
    /// The maximum number of entries.
    pub limit: usize,
    /// Bytes of a payload to return.
    pub payload_max: usize,
}

impl DataPlane {
    /// The entries of a level by key, and the key to continue after; `None`: there are no more.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn retained_level(&self, filter: LevelFilter) -> Result<(Vec<LevelEntry>, Option<String>), PlaneError> {
        let filter = Arc::new(filter);
        let parts = self.ask_all(|reply| Control::RetainedLevel { filter: Arc::clone(&filter), reply }).await?;
        Ok(merge(parts, filter.limit))
    }
}

impl DataPlane {
    /// The retained message of a topic, with its whole payload.
    ///
    /// # Errors
    /// The data plane was shut down.
    pub async fn retained_value(&self, namespace: &str, topic: &str) -> Result<Option<LevelValue>, PlaneError> {
        let (namespace, topic): (Arc<str>, Arc<str>) = (namespace.into(), topic.into());
        let asked = self.ask_all(|reply| {
            let (namespace, topic) = (Arc::clone(&namespace), Arc::clone(&topic));
            Control::RetainedValue { namespace, topic, reply }
        });
        Ok(asked.await?.into_iter().flatten().next())
    }
}

/// The shards' parts of a page as one page.
fn merge(parts: Vec<(Vec<LevelEntry>, Option<String>)>, limit: usize) -> (Vec<LevelEntry>, Option<String>) {
    // Behind the end of a part that is not complete, its shard may have more entries.
    let complete_up_to = parts.iter().filter_map(|(_, next)| next.clone()).min();
    let mut entries: Vec<LevelEntry> = parts.into_iter().flat_map(|(entries, _)| entries).collect();
    entries.retain(|entry| complete_up_to.as_ref().is_none_or(|last| entry.key <= *last));
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    // Topics of one branch are on different shards.
    entries.dedup_by(|a, b| a.key == b.key);
    if entries.len() <= limit {
        return (entries, complete_up_to);
    }
    entries.truncate(limit);
    let next = entries.last().map(|entry| entry.key.clone());
    (entries, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(keys: &[&str], next: Option<&str>) -> (Vec<LevelEntry>, Option<String>) {
        let entries = keys.iter().map(|key| LevelEntry { key: (*key).to_owned(), value: None }).collect();
        (entries, next.map(str::to_owned))
    }

    #[test]
    fn parts_are_merged_up_to_where_all_are_complete() {
        let merged = |parts: &[_], limit| {
            let (entries, next) = merge(parts.to_vec(), limit);
            (entries.into_iter().map(|entry| entry.key).collect::<Vec<_>>().join(" "), next)
        };
        let next = |key: &str| Some(key.to_owned());
        let (first, second) = (part(&["a/", "c/", "d/"], Some("d/")), part(&["a/", "b/", "z/"], None));
        assert_eq!(merged(&[first.clone(), second.clone()], 9), ("a/ b/ c/ d/".to_owned(), next("d/")));
        assert_eq!(merged(&[first, second.clone()], 2), ("a/ b/".to_owned(), next("b/")));
        assert_eq!(merged(&[second, part(&[], None)], 3), ("a/ b/ z/".to_owned(), None));
        assert_eq!(merged(&[part(&[], Some("m")), part(&["n"], None)], 3), (String::new(), next("m")));
    }
}
