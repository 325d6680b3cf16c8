//! Topic aliases that the server assigns.

use hashbrown::HashTable;

use crate::hash::HashSeed;

/// Aliases the server gave topics, first come, up to the client's Topic Alias Maximum.
#[derive(Debug)]
pub(crate) struct OutgoingAliases {
    maximum: u16,
    topics: Vec<Box<str>>,
    /// Indices in `topics`.
    by_topic: HashTable<u16>,
    seed: HashSeed,
}

impl OutgoingAliases {
    pub(crate) fn new(maximum: u16, seed: HashSeed) -> Self {
        Self { maximum, topics: Vec::new(), by_topic: HashTable::new(), seed }
    }

    /// The alias of `topic` and whether the client knows it already; `None` where all are given.
    pub(crate) fn get(&mut self, topic: &str) -> Option<(u16, bool)> {
        let hash = self.seed.hash(0, topic);
        let (topics, seed) = (&mut self.topics, &self.seed);
        if let Some(&index) = self.by_topic.find(hash, |&index| *topics[usize::from(index)] == *topic) {
            return Some((index + 1, true));
        }
        let index = topics.len() as u16;
        if index >= self.maximum {
            return None;
        }
        topics.push(topic.into());
        self.by_topic.insert_unique(hash, index, |&index| seed.hash(0, &topics[usize::from(index)]));
        Some((index + 1, false))
    }
}
