//! Nodes in pages: an index stays valid while its node lives, a growing tree copies nothing, and a page without nodes goes
//! back to the allocator.

use std::collections::BTreeSet;

use crate::ids::{NodeId, SlabIndex};

/// Nodes of a page.
const PAGE: usize = 128;

/// Nodes by index.
#[derive(Debug)]
pub(crate) struct NodePages<T> {
    /// Each is empty, or [`PAGE`] long.
    pages: Vec<Box<[Option<T>]>>,
    /// Nodes of each page.
    used: Vec<usize>,
    /// Pages with a free slot. The first is filled first, so that later ones become empty.
    with_room: BTreeSet<usize>,
    len: usize,
}

impl<T> NodePages<T> {
    pub(crate) fn new() -> Self {
        Self { pages: Vec::new(), used: Vec::new(), with_room: BTreeSet::new(), len: 0 }
    }

    #[inline]
    pub(crate) fn get(&self, id: NodeId) -> Option<&T> {
        self.pages.get(id.index() / PAGE)?.get(id.index() % PAGE)?.as_ref()
    }

    /// The indexes of all nodes.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        let slots = self.pages.iter().enumerate().flat_map(|(at, page)| {
            page.iter().enumerate().filter(|(_, node)| node.is_some()).map(move |(slot, _)| at * PAGE + slot)
        });
        slots.map(|index| NodeId(index as u32))
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: NodeId) -> Option<&mut T> {
        self.pages.get_mut(id.index() / PAGE)?.get_mut(id.index() % PAGE)?.as_mut()
    }

    pub(crate) fn insert(&mut self, node: T) -> NodeId {
        let at = self.with_room.first().copied().unwrap_or(self.pages.len());
        if at == self.pages.len() {
            self.pages.push(Box::default());
            self.used.push(0);
            self.with_room.insert(at);
        }
        let page = &mut self.pages[at];
        if page.is_empty() {
            *page = std::iter::repeat_with(|| None).take(PAGE).collect();
        }
        // A page that is listed has a free slot.
        let slot = page.iter().position(Option::is_none).unwrap_or_default();
        page[slot] = Some(node);
        self.used[at] += 1;
        self.len += 1;
        if self.used[at] == PAGE {
            self.with_room.remove(&at);
        }
        NodeId((at * PAGE + slot) as u32)
    }

    pub(crate) fn remove(&mut self, id: NodeId) -> Option<T> {
        let at = id.index() / PAGE;
        let page = self.pages.get_mut(at)?;
        let node = page.get_mut(id.index() % PAGE)?.take()?;
        self.used[at] -= 1;
        self.len -= 1;
        self.with_room.insert(at);
        if self.used[at] == 0 {
            *page = Box::default();
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
        assert!(nodes.pages[1].is_empty() && nodes.len() == 2 * PAGE);
        assert_eq!(nodes.get(ids[PAGE]), None);
        assert_eq!(nodes.remove(ids[PAGE]), None, "once");
        let again = nodes.insert(7);
        assert_eq!((again.index() / PAGE, nodes.get(again)), (1, Some(&7)));
    }
}
