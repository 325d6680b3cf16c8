//! A set of packet identifiers.

use weir_mqtt::PacketId;

const WORDS: usize = 65_536 / 64;

/// A set of packet identifiers, one bit for each. An empty set allocates no memory.
#[derive(Debug, Default)]
pub(super) struct PacketIds {
    words: Option<Box<[u64; WORDS]>>,
    count: u32,
}

impl PacketIds {
    /// Every identifier.
    pub(super) fn all() -> Self {
        let mut words = Box::new([u64::MAX; WORDS]);
        words[0] -= 1; // 0 is not a packet identifier [MQTT-2.2.1-3]
        Self { words: Some(words), count: 65_535 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn len(&self) -> u32 {
        self.count
    }

    pub(super) fn contains(&self, id: PacketId) -> bool {
        let (word, bit) = word_and_bit(id);
        self.words.as_ref().is_some_and(|words| words[word] & bit != 0)
    }

    pub(super) fn insert(&mut self, id: PacketId) {
        let (word, bit) = word_and_bit(id);
        let words = self.words.get_or_insert_with(|| Box::new([0; WORDS]));
        self.count += u32::from(words[word] & bit == 0);
        words[word] |= bit;
    }

    /// Adds all members of another set.
    pub(super) fn append(&mut self, other: Self) {
        if self.is_empty() {
            *self = other;
        } else {
            other.iter().for_each(|id| self.insert(id));
        }
    }

    /// In rising order.
    pub(super) fn iter(&self) -> impl Iterator<Item = PacketId> + '_ {
        let words = self.words.iter().flat_map(|words| words.iter()).zip(0_u16..);
        words.flat_map(|(&word, index)| {
            (0..64).filter(move |bit| word & 1 << bit != 0).filter_map(move |bit| PacketId::new(index << 6 | bit))
        })
    }

    /// Removes an identifier; returns whether it was in the set.
    pub(super) fn remove(&mut self, id: PacketId) -> bool {
        let (word, bit) = word_and_bit(id);
        let Some(words) = &mut self.words else { return false };
        let was_there = words[word] & bit != 0;
        words[word] &= !bit;
        self.count -= u32::from(was_there);
        was_there
    }
}

fn word_and_bit(id: PacketId) -> (usize, u64) {
    (usize::from(id.get() >> 6), 1 << (id.get() & 63))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    #[test]
    fn inserted_identifiers_are_members_until_removed() {
        let mut ids = PacketIds::default();
        assert!(ids.is_empty() && !ids.contains(id(1)) && !ids.remove(id(1)));
        for number in [1, 63, 64, 65_535] {
            ids.insert(id(number));
            ids.insert(id(number));
            assert!(ids.contains(id(number)));
        }
        assert_eq!(ids.len(), 4);
        assert!(ids.remove(id(64)) && !ids.remove(id(64)) && !ids.contains(id(64)) && ids.contains(id(63)));
        assert_eq!(ids.len(), 3);
        let mut more = PacketIds::default();
        more.insert(id(64));
        more.insert(id(1));
        ids.append(more);
        assert!(ids.iter().map(PacketId::get).eq([1, 63, 64, 65_535]));
    }

    #[test]
    fn the_full_set_has_every_identifier() {
        let mut ids = PacketIds::all();
        assert!(ids.iter().map(PacketId::get).eq(1..=u16::MAX));
        assert!((1..=u16::MAX).all(|number| ids.remove(id(number))));
        assert!(ids.is_empty() && ids.iter().next().is_none());
    }
}
