//! Slots with generations: an index that outlived its entry finds nothing, never another entry.

use crate::ids::Index;

#[derive(Debug)]
struct SlabSlot<T> {
    generation: u32,
    entry: Option<T>,
}

/// A vector of slots that are used again, found by `I`.
#[derive(Debug)]
pub(crate) struct Slab<I, T> {
    slots: Vec<SlabSlot<T>>,
    free: Vec<I>,
}

impl<I: Index, T> Slab<I, T> {
    pub(crate) fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }

    /// Puts an entry in; returns its slot and generation.
    pub(crate) fn insert(&mut self, entry: T) -> (I, u32) {
        match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index.place()];
                slot.entry = Some(entry);
                (index, slot.generation)
            }
            None => {
                self.slots.push(SlabSlot { generation: 0, entry: Some(entry) });
                (I::from_place((self.slots.len() - 1) as u32), 0)
            }
        }
    }

    pub(crate) fn remove(&mut self, index: I) -> Option<T> {
        let slot = self.slots.get_mut(index.place())?;
        let entry = slot.entry.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        Some(entry)
    }

    #[inline]
    pub(crate) fn get(&self, index: I) -> Option<&T> {
        self.slots.get(index.place())?.entry.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: I) -> Option<&mut T> {
        self.slots.get_mut(index.place())?.entry.as_mut()
    }

    /// The entry and its generation.
    #[inline]
    pub(crate) fn entry_mut(&mut self, index: I) -> Option<(u32, &mut T)> {
        let slot = self.slots.get_mut(index.place())?;
        Some((slot.generation, slot.entry.as_mut()?))
    }

    /// The entry, if it is still the one of that generation.
    #[inline]
    pub(crate) fn get_generation(&mut self, index: I, generation: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut(index.place())?;
        if slot.generation == generation { slot.entry.as_mut() } else { None }
    }

    /// The generation of the entry in a slot.
    pub(crate) fn generation(&self, index: I) -> u32 {
        self.slots.get(index.place()).map_or(0, |slot| slot.generation)
    }

    /// Entries with their slots.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (I, &T)> {
        self.slots.iter().enumerate().filter_map(|(i, slot)| Some((I::from_place(i as u32), slot.entry.as_ref()?)))
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
