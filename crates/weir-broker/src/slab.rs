//! Slots with generations: an index that outlived its entry finds nothing, never another entry. The core and the server's
//! event loops keep their connections in one.

use crate::ids::SlabIndex;

/// Generations of a slot, after which they begin anew. The highest bit stays free, for a driver that marks with it what is
/// not a connection.
const GENERATIONS: u32 = 1 << 31;
/// Slots from which on the free ones at the end are given back.
const SHRINKS_FROM: usize = 1024;

#[derive(Debug)]
struct SlabSlot<T> {
    generation: u32,
    entry: Option<T>,
}

/// A vector of slots that are used again, found by `I`.
#[derive(Debug)]
pub struct Slab<I, T> {
    slots: Vec<SlabSlot<T>>,
    free: Vec<I>,
    /// Of slots that are added: above those of slots that were given back.
    first_generation: u32,
    /// Free slots below which none are given back: the last look found one in use near the end.
    shrinks_at: usize,
}

impl<I, T> Default for Slab<I, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), first_generation: 0, shrinks_at: 0 }
    }
}

impl<I: SlabIndex, T> Slab<I, T> {
    /// Without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry; returns its slot and generation.
    pub fn insert(&mut self, entry: T) -> (I, u32) {
        match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index.index()];
                slot.entry = Some(entry);
                (index, slot.generation)
            }
            None => {
                let generation = self.first_generation;
                self.slots.push(SlabSlot { generation, entry: Some(entry) });
                self.shrinks_at = 0;
                (I::from_index((self.slots.len() - 1) as u32), generation)
            }
        }
    }

    /// Removes the entry of a slot, whatever its generation.
    pub fn remove(&mut self, index: I) -> Option<T> {
        let slot = self.slots.get_mut(index.index())?;
        let entry = slot.entry.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(index);
        if self.slots.len() >= SHRINKS_FROM && self.free.len() >= self.shrinks_at.max(self.slots.len() / 8 * 7) {
            self.shrink();
        }
        Some(entry)
    }

    /// Gives back the free slots at the end, if they are at least half of all.
    fn shrink(&mut self) {
        let used = self.slots.iter().rposition(|slot| slot.entry.is_some()).map_or(0, |last| last + 1);
        if used > self.slots.len() / 2 {
            self.shrinks_at = self.free.len() + (self.count() / 2).max(1);
            return;
        }
        let newest = self.slots[used..].iter().map(|slot| slot.generation).max().unwrap_or_default();
        self.first_generation = self.first_generation.max(newest);
        self.slots.truncate(used);
        self.slots.shrink_to(used * 2);
        self.free.retain(|index| index.index() < used);
        self.free.shrink_to(used * 2);
    }

    /// The entry of a slot, whatever its generation.
    #[inline]
    pub fn get(&self, index: I) -> Option<&T> {
        self.slots.get(index.index())?.entry.as_ref()
    }

    /// The entry of a slot, whatever its generation.
    #[inline]
    pub fn get_mut(&mut self, index: I) -> Option<&mut T> {
        self.slots.get_mut(index.index())?.entry.as_mut()
    }

    /// The entry and its generation.
    #[inline]
    pub fn entry_mut(&mut self, index: I) -> Option<(u32, &mut T)> {
        let slot = self.slots.get_mut(index.index())?;
        Some((slot.generation, slot.entry.as_mut()?))
    }

    /// The entry, if it is still the one of that generation.
    #[inline]
    pub fn get_generation(&self, index: I, generation: u32) -> Option<&T> {
        let slot = self.slots.get(index.index())?;
        if slot.generation == generation { slot.entry.as_ref() } else { None }
    }

    /// The entry, if it is still the one of that generation.
    #[inline]
    pub fn get_generation_mut(&mut self, index: I, generation: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut(index.index())?;
        if slot.generation == generation { slot.entry.as_mut() } else { None }
    }

    /// The generation of the entry in a slot.
    #[inline]
    pub fn generation(&self, index: I) -> u32 {
        self.slots.get(index.index()).map_or(0, |slot| slot.generation)
    }

    /// Entries with their slots.
    pub fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((I::from_index(i as u32), slot.entry.as_ref()?)))
    }

    /// No entry has this index, or a higher one.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// How many entries there are.
    pub fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generation_of_a_removed_entry_finds_nothing() {
        let mut slab: Slab<u32, &str> = Slab::new();
        let (slot, generation) = slab.insert("first");
        assert_eq!(slab.remove(slot), Some("first"));
        assert_eq!((slab.count(), slab.get_generation(slot, generation)), (0, None));
        let (again, newer) = slab.insert("second");
        assert_eq!((again, newer), (slot, generation + 1));
        assert_eq!(slab.get_generation(slot, generation), None);
        assert_eq!(slab.get_generation_mut(slot, newer), Some(&mut "second"));
    }

    #[test]
    fn slots_at_the_end_are_given_back_and_their_generations_are_not_used_again() {
        let mut slab: Slab<u32, usize> = Slab::new();
        let entries: Vec<(u32, u32)> = (0..10 * SHRINKS_FROM).map(|n| slab.insert(n)).collect();
        entries[1..].iter().for_each(|&(slot, _)| assert!(slab.remove(slot).is_some()));
        assert_eq!((slab.count(), slab.get(0)), (1, Some(&0)));
        assert!(slab.slots.len() < SHRINKS_FROM && slab.slots.capacity() < 2 * SHRINKS_FROM);
        let again: Vec<(u32, u32)> = (0..10 * SHRINKS_FROM).map(|n| slab.insert(n)).collect();
        assert!(again.iter().all(|entry| !entries.contains(entry)));
        assert!(entries[1..].iter().all(|&(slot, generation)| slab.get_generation(slot, generation).is_none()));
        // One in use near the end keeps them all; the others are used again.
        again[..again.len() - 1].iter().for_each(|&(slot, _)| assert!(slab.remove(slot).is_some()));
        assert_eq!(slab.count(), 2);
        slab.remove(again[again.len() - 1].0);
        assert!(slab.slots.len() < SHRINKS_FROM);
    }

    #[test]
    fn a_generation_never_has_its_highest_bit_set() {
        let mut slab: Slab<u32, ()> = Slab::new();
        let (slot, _) = slab.insert(());
        slab.slots[0].generation = GENERATIONS - 1;
        slab.remove(slot);
        assert_eq!(slab.insert(()), (slot, 0));
    }
}
