//! A set of shards: where else a message has to go. Of a fixed size, so that a route is copied and never allocated.

use super::ShardId;
use super::limits::SHARDS_MAX;

const BITS: u16 = u64::BITS as u16;
const WORDS: usize = 4;

const _: () = assert!(SHARDS_MAX as usize <= WORDS * BITS as usize, "every shard has its bit");

/// Shards below [`SHARDS_MAX`], a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ShardSet([u64; WORDS]);

impl ShardSet {
    pub(super) fn insert(&mut self, shard: ShardId) {
        self.0[usize::from(shard.0 / BITS)] |= 1 << (shard.0 % BITS);
    }

    pub(super) fn remove(&mut self, shard: ShardId) {
        self.0[usize::from(shard.0 / BITS)] &= !(1 << (shard.0 % BITS));
    }

    /// Inserts every shard of `other`.
    pub(super) fn extend(&mut self, other: &Self) {
        for (word, more) in self.0.iter_mut().zip(other.0) {
            *word |= more;
        }
    }

    /// The shards from one number on, to below another.
    pub(super) fn range(from: u16, to: u16) -> Self {
        let below = |limit: u16| {
            std::array::from_fn(|word| {
                let bits = limit.saturating_sub(word as u16 * BITS).min(BITS);
                u64::MAX.checked_shr(u32::from(BITS - bits)).unwrap_or(0)
            })
        };
        let (skipped, mut set): ([u64; WORDS], _) = (below(from), Self(below(to.min(SHARDS_MAX))));
        set.0.iter_mut().zip(skipped).for_each(|(word, skipped)| *word &= !skipped);
        set
    }

    /// The shards that are in both.
    pub(super) fn and(&self, other: &Self) -> Self {
        let mut both = *self;
        for (word, mask) in both.0.iter_mut().zip(other.0) {
            *word &= mask;
        }
        both
    }

    /// Whether any shard is in both.
    pub(super) fn meets(&self, other: &Self) -> bool {
        !self.and(other).is_empty()
    }

    pub(super) fn contains(&self, shard: ShardId) -> bool {
        self.0[usize::from(shard.0 / BITS)] & (1 << (shard.0 % BITS)) != 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().fold(0, |all, word| all | word) == 0
    }
}

impl IntoIterator for ShardSet {
    type Item = ShardId;
    type IntoIter = Shards;

    /// In ascending order.
    fn into_iter(self) -> Shards {
        Shards { rest: self.0, word_index: 0 }
    }
}

/// The shards of a set that are still to come.
pub(super) struct Shards {
    rest: [u64; WORDS],
    /// The word that is looked at.
    word_index: usize,
}

impl Iterator for Shards {
    type Item = ShardId;

    fn next(&mut self) -> Option<ShardId> {
        loop {
            let word = self.rest.get_mut(self.word_index)?;
            if *word != 0 {
                let bit = word.trailing_zeros() as u16;
                *word &= *word - 1;
                return Some(ShardId(self.word_index as u16 * BITS + bit));
            }
            self.word_index += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(shards: &[u16]) -> ShardSet {
        let mut set = ShardSet::default();
        shards.iter().for_each(|shard| set.insert(ShardId(*shard)));
        set
    }

    fn shards(set: ShardSet) -> Vec<u16> {
        set.into_iter().map(|shard| shard.0).collect()
    }

    #[test]
    fn a_set_holds_what_was_inserted_in_ascending_order() {
        let cases: [&[u16]; 5] =
            [&[], &[0], &[63, 64], &[0, 1, 62, 63, 64, 65, 127, 128, 191, 192, 254], &[SHARDS_MAX - 1]];
        for case in cases {
            assert_eq!(shards(set(case)), case);
            assert_eq!(set(case).is_empty(), case.is_empty());
        }
        let all: Vec<u16> = (0..SHARDS_MAX).collect();
        assert_eq!(shards(set(&all)), all);
    }

    #[test]
    fn a_removed_shard_leaves_every_other_one() {
        for removed in 0..SHARDS_MAX {
            let mut all = set(&(0..SHARDS_MAX).collect::<Vec<_>>());
            all.remove(ShardId(removed));
            assert_eq!(shards(all), (0..SHARDS_MAX).filter(|shard| *shard != removed).collect::<Vec<_>>());
            all.insert(ShardId(removed));
            assert_eq!(shards(all).len(), usize::from(SHARDS_MAX));
        }
    }

    #[test]
    fn a_range_holds_every_shard_from_its_start_to_below_its_end() {
        for from in [0, 1, 63, 64, 65, 200, 254, SHARDS_MAX] {
            for to in [0, 1, 63, 64, 128, 129, SHARDS_MAX, SHARDS_MAX + 9] {
                let expected: Vec<u16> = (from..to.min(SHARDS_MAX)).collect();
                assert_eq!(shards(ShardSet::range(from, to)), expected, "{from}..{to}");
            }
        }
    }

    #[test]
    fn an_extended_set_holds_the_shards_of_both() {
        let mut both = set(&[1, 64, 200]);
        both.extend(&set(&[1, 63, 128]));
        assert_eq!(shards(both), [1, 63, 64, 128, 200]);
    }
}
