//! Topic aliases that the server assigns.

use hashbrown::HashTable;

use crate::hash::HashSeed;
use crate::limits::ALIASED_TOPIC_MAX_BYTES;
use crate::values::memory::{ByteCount, Charge};

/// Bytes of an alias beside its topic.
const ALIAS_BYTES: usize = 40;

/// Aliases the server gave topics, first come, up to the client's Topic Alias Maximum or the endpoint's limit.
#[derive(Debug)]
pub(crate) struct OutgoingAliases {
    maximum: u16,
    topics: Vec<Box<str>>,
    /// Indices in `topics`.
    by_topic: HashTable<u16>,
    seed: HashSeed,
    charge: Charge,
}

impl OutgoingAliases {
    pub(crate) fn new(maximum: u16, seed: HashSeed, tables: &ByteCount) -> Self {
        Self { maximum, topics: Vec::new(), by_topic: HashTable::new(), seed, charge: tables.charge(size_of::<Self>()) }
    }

    /// The alias of `topic` and whether the client knows it already; `None` where all are given, where
    /// the topic is longer than [`ALIASED_TOPIC_MAX_BYTES`], and where
    /// aliases take half of the memory that they may: the other half is for those that clients set.
    pub(crate) fn get(&mut self, topic: &str) -> Option<(u16, bool)> {
        if topic.len() > ALIASED_TOPIC_MAX_BYTES {
            return None;
        }
        let hash = self.seed.hash(0, topic);
        let (topics, seed) = (&mut self.topics, &self.seed);
        if let Some(&index) = self.by_topic.find(hash, |&index| *topics[usize::from(index)] == *topic) {
            return Some((index + 1, true));
        }
        let index = topics.len() as u16;
        if index >= self.maximum || self.charge.is_half_full() {
            return None;
        }
        self.charge.add(topic.len() + ALIAS_BYTES);
        topics.push(topic.into());
        self.by_topic.insert_unique(hash, index, |&index| seed.hash(0, &topics[usize::from(index)]));
        Some((index + 1, false))
    }
}
