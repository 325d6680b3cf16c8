//! Nodes in pages: an index stays valid while its node lives, a growing tree copies nothing, and a page without nodes goes
//! back to the allocator.

use std::collections::BTreeSet;

use crate::ids::{NodeId, SlabIndex};

/// Nodes of a page.
const PAGE: usize = 128;

#[derive(Debug)]
struct Page<T> {
    /// Empty, or [`PAGE`] long.
    slots: Vec<Option<T>>,
    used: usize,
}

/// Nodes by index.
#[derive(Debug)]
pub(crate) struct NodePages<T> {
    pages: Vec<Page<T>>,
    /// Pages with a free slot. The first is filled first, so that later ones become empty.
    with_room: BTreeSet<usize>,
    len: usize,
}

impl<T> NodePages<T> {
    pub(crate) fn new() -> Self {
        Self { pages: Vec::new(), with_room: BTreeSet::new(), len: 0 }
    }

    #[inline]
    pub(crate) fn get(&self, id: NodeId) -> Option<&T> {
        self.pages.get(id.index() / PAGE)?.slots.get(id.index() % PAGE)?.as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut T> {
        self.pages.get_mut(id.index() / PAGE)?.slots.get_mut(id.index() % PAGE)?.as_mut()
    }

    pub(crate) fn insert(&mut self, node: T) -> NodeId {
        let at = self.with_room.first().copied().unwrap_or(self.pages.len());
        if at == self.pages.len() {
            self.pages.push(Page { slots: Vec::new(), used: 0 });
            self.with_room.insert(at);
        }
        let page = &mut self.pages[at];
        if page.slots.is_empty() {
            page.slots = std::iter::repeat_with(|| None).take(PAGE).collect();
        }
        // A page that is listed has a free slot.
        let slot = page.slots.iter().position(Option::is_none).unwrap_or_default();
        page.slots[slot] = Some(node);
        page.used += 1;
        self.len += 1;
        if page.used == PAGE {
            self.with_room.remove(&at);
        }
        NodeId((at * PAGE + slot) as u32)
    }

    pub(crate) fn remove(&mut self, id: NodeId) -> Option<T> {
        let at = id.index() / PAGE;
        let page = self.pages.get_mut(at)?;
        let node = page.slots.get_mut(id.index() % PAGE)?.take()?;
        page.used -= 1;
        self.len -= 1;
        self.with_room.insert(at);
        if page.used == 0 {
            page.slots = Vec::new();
        }
        Some(node)
    }

    /// Nodes in use.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_without_nodes_is_given_back_and_used_again() {
        let mut nodes = NodePages::new();
        let ids: Vec<NodeId> = (0..3 * PAGE).map(|n| nodes.insert(n)).collect();
        assert_eq!(nodes.get(ids[PAGE]), Some(&PAGE));
        ids[PAGE..2 * PAGE].iter().for_each(|&id| assert!(nodes.remove(id).is_some()));
        assert!(nodes.pages[1].slots.capacity() == 0 && nodes.len() == 2 * PAGE);
        assert_eq!(nodes.get(ids[PAGE]), None);
        assert_eq!(nodes.remove(ids[PAGE]), None, "once");
        let again = nodes.insert(7);
        assert_eq!((again.index() / PAGE, nodes.get(again)), (1, Some(&7)));
    }
}
