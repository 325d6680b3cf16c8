//! The stand-in record of an unknown user name: a cost drawn from those of the file's users, always the same for a name.
//! So neither time nor a challenge reveals which names exist.

use std::collections::HashMap;
use std::hash::Hash;

use ring::hmac;

/// Kinds of records that names are drawn from; of a file with more, the most frequent ones.
const CLASSES_MAX: usize = 64;

/// Kinds of records, by their number: an unknown name gets one of them with the probability that a known one has it. A
/// change of the file changes the kind of as few unknown names as possible (weighted rendezvous hashing).
pub(super) struct DecoyClasses<C> {
    key: hmac::Key,
    classes: Vec<(C, f64)>,
}

impl<C: Clone + Eq + Hash + Ord + AsBytes> DecoyClasses<C> {
    /// The kinds of a file's records; `secret` is in no answer to a client.
    pub(super) fn new(secret: &[u8], records: impl Iterator<Item = C>) -> Self {
        let mut counts: HashMap<C, usize> = HashMap::new();
        for class in records {
            *counts.entry(class).or_default() += 1;
        }
        let mut classes: Vec<(C, usize)> = counts.into_iter().collect();
        classes.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
        classes.truncate(CLASSES_MAX);
        let classes = classes.into_iter().map(|(class, count)| (class, count as f64)).collect();
        Self { key: hmac::Key::new(hmac::HMAC_SHA256, secret), classes }
    }

    /// The kind for an unknown `name`, and its score: of several files, the one with the highest score decides.
    pub(super) fn choose(&self, name: &str) -> Option<(&C, f64)> {
        let scored = self.classes.iter().map(|(class, weight)| (class, weight / -self.uniform(class, name).ln()));
        scored.max_by(|a, b| a.1.total_cmp(&b.1))
    }

    /// Between 0 and 1, both excluded, and the same for the same class and name.
    fn uniform(&self, class: &C, name: &str) -> f64 {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(&class.as_bytes());
        context.update(name.as_bytes());
        let tag = context.sign();
        let bits = tag.as_ref().iter().take(8).fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
        ((bits >> 12) as f64 + 0.5) / (1_u64 << 52) as f64
    }
}

/// A class as bytes of a fixed length, for hashing.
pub(super) trait AsBytes {
    fn as_bytes(&self) -> Vec<u8>;
}

#[cfg(test)]
mod tests {
    use super::*;

    impl AsBytes for u32 {
        fn as_bytes(&self) -> Vec<u8> {
            self.to_be_bytes().into()
        }
    }

    fn classes(counts: &[(u32, usize)]) -> DecoyClasses<u32> {
        DecoyClasses::new(b"secret", counts.iter().flat_map(|(class, count)| vec![*class; *count].into_iter()))
    }

    #[test]
    fn names_are_drawn_in_proportion_to_the_records_and_stay_the_same() {
        let before = classes(&[(4096, 3), (15_000, 1)]);
        let names: Vec<String> = (0..4000).map(|number| format!("user{number}")).collect();
        let chosen = |classes: &DecoyClasses<u32>| -> Vec<u32> {
            names.iter().map(|name| *classes.choose(name).unwrap().0).collect()
        };
        let first = chosen(&before);
        assert_eq!(first, chosen(&before));
        let cheap = first.iter().filter(|class| **class == 4096).count();
        assert!((2800..3200).contains(&cheap), "{cheap} of 4000, expected 3000");
        // One more user changes the class of few names: a fifth has the new one at most.
        let after = chosen(&classes(&[(4096, 3), (15_000, 2)]));
        let changed = first.iter().zip(&after).filter(|(before, after)| before != after).count();
        assert!((400..800).contains(&changed), "{changed}, expected 600");
        assert!(classes(&[]).choose("user").is_none());
    }

    #[test]
    fn many_classes_are_bounded() {
        let records: Vec<(u32, usize)> = (0..1000).map(|class| (class, 1)).chain([(5000, 2)]).collect();
        let classes = classes(&records);
        assert_eq!((classes.classes.len(), classes.classes[0].0), (CLASSES_MAX, 5000));
    }
}
