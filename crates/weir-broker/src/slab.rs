//! Slots with generations: an index that outlived its entry finds nothing, never another entry. The core and the server's
//! event loops keep their connections in one.

use crate::ids::SlabIndex;

/// Generations of a slot, after which they begin anew. The highest bit stays free, for a driver that marks with it what is
/// not a connection.
const GENERATIONS: u32 = 1 << 31;

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
}

impl<I, T> Default for Slab<I, T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
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
                self.slots.push(SlabSlot { generation: 0, entry: Some(entry) });
                (I::from_index((self.slots.len() - 1) as u32), 0)
            }
        }
    }

    /// Removes the entry of a slot, whatever its generation.
    pub fn remove(&mut self, index: I) -> Option<T> {
        let slot = self.slots.get_mut(index.index())?;
        let entry = slot.entry.take()?;
        slot.generation = (slot.generation + 1) % GENERATIONS;
        self.free.push(index);
        Some(entry)
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
    fn a_generation_never_has_its_highest_bit_set() {
        let mut slab: Slab<u32, ()> = Slab::new();
        let (slot, _) = slab.insert(());
        slab.slots[0].generation = GENERATIONS - 1;
        slab.remove(slot);
        assert_eq!(slab.insert(()), (slot, 0));
    }
}
