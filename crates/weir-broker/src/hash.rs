//! Hashing without randomness of its own: the driver gives the seed, so that a simulation replays byte for byte and no
//! client can prepare keys that collide in a server.

use std::hash::Hasher;
use std::sync::Arc;

use foldhash::SharedSeed;
use foldhash::fast::{FixedState, FoldHasher};

/// A map whose keys are numbers that the core assigned: no client chooses them, so their hash needs no secret.
pub(crate) type IdMap<K, V> = hashbrown::HashMap<K, V, FixedState>;
/// A set of numbers that the core assigned, or of packet identifiers, of which there are 65,535.
pub(crate) type IdSet<K> = hashbrown::HashSet<K, FixedState>;

/// The secret part of the hashes of what clients choose: client ids, topics, filters.
#[derive(Debug, Clone)]
pub(crate) struct HashSeed(Arc<SharedSeed>);

impl HashSeed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Arc::new(SharedSeed::from_u64(seed)))
    }

    /// The hash of `text` under a number (0 where there is none).
    #[inline]
    pub(crate) fn hash(&self, number: u32, text: &str) -> u64 {
        let mut hasher = FoldHasher::with_seed(u64::from(number), &self.0);
        hasher.write(text.as_bytes());
        hasher.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_repeat_with_the_seed_and_differ_without() {
        let [one, same, other] = [1, 1, 2].map(HashSeed::new);
        assert_eq!(one.hash(7, "topic"), same.hash(7, "topic"));
        assert_ne!(one.hash(7, "topic"), other.hash(7, "topic"));
        assert_ne!(one.hash(7, "topic"), one.hash(8, "topic"));
        assert_ne!(one.hash(7, "topic"), one.hash(7, "topics"));
    }
}
