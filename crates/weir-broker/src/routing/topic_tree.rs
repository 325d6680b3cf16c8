//! A tree of topic levels: what subscriptions and retained messages are kept in.
//!
//! Nodes lie in one vector and name each other by index; one hash table over (parent, level) finds children, so a node
//! with a million children costs no more per child than a node with one. Siblings are linked for `+` over topic names.

use crate::ids::{NodeId, SlabIndex};
use hashbrown::HashTable;

use crate::hash::HashSeed;

/// The node above the first level. It is never freed.
pub(crate) const ROOT: NodeId = NodeId(0);
/// No node.
pub(crate) const NONE: NodeId = NodeId(u32::MAX);

#[derive(Debug)]
struct TreeNode<V> {
    level: Box<str>,
    parent: NodeId,
    first_child: NodeId,
    next_sibling: NodeId,
    previous_sibling: NodeId,
    value: V,
}

/// A tree whose nodes carry a `V`; a node without children and with an empty `V` is pruned by [`Tree::prune`].
#[derive(Debug)]
pub(crate) struct Tree<V> {
    nodes: Vec<TreeNode<V>>,
    free: Vec<NodeId>,
    children: HashTable<NodeId>,
    seed: HashSeed,
}

/// The content of a node.
pub(crate) trait NodeValue: Default {
    /// Whether the node may go when it has no children.
    fn is_empty(&self) -> bool;
    /// The node got a child.
    fn child_added(&mut self, _child: NodeId, _level: &str) {}
    /// The node lost a child.
    fn child_freed(&mut self, _child: NodeId) {}
}

impl<V: NodeValue> Tree<V> {
    pub(crate) fn new(seed: HashSeed) -> Self {
        let root = TreeNode {
            level: Box::default(),
            parent: NONE,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            value: V::default(),
        };
        Self { nodes: vec![root], free: Vec::new(), children: HashTable::new(), seed }
    }

    fn hash(&self, parent: NodeId, level: &str) -> u64 {
        self.seed.hash(parent.0, level)
    }

    /// The child of `parent` at `level`.
    pub(crate) fn child(&self, parent: NodeId, level: &str) -> Option<NodeId> {
        let hash = self.hash(parent, level);
        self.children
            .find(hash, |&id| {
                let node = &self.nodes[id.index()];
                node.parent == parent && *node.level == *level
            })
            .copied()
    }

    /// The node at the end of `path`.
    pub(crate) fn find(&self, path: &str) -> Option<NodeId> {
        path.split('/').try_fold(ROOT, |node, level| self.child(node, level))
    }

    /// The node at the end of `path`, made where it is missing.
    pub(crate) fn insert(&mut self, path: &str) -> NodeId {
        path.split('/').fold(ROOT, |node, level| match self.child(node, level) {
            Some(child) => child,
            None => self.add_child(node, level),
        })
    }

    fn add_child(&mut self, parent: NodeId, level: &str) -> NodeId {
        let next = self.nodes[parent.index()].first_child;
        let node = TreeNode {
            level: level.into(),
            parent,
            first_child: NONE,
            next_sibling: next,
            previous_sibling: NONE,
            value: V::default(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id.index()] = node;
                id
            }
            None => {
                self.nodes.push(node);
                NodeId((self.nodes.len() - 1) as u32)
            }
        };
        if next != NONE {
            self.nodes[next.index()].previous_sibling = id;
        }
        self.nodes[parent.index()].first_child = id;
        self.nodes[parent.index()].value.child_added(id, level);
        let hash = self.hash(parent, level);
        let (nodes, seed) = (&self.nodes, &self.seed);
        self.children.insert_unique(hash, id, |&id| {
            let node = &nodes[id.index()];
            seed.hash(node.parent.0, &node.level)
        });
        id
    }

    /// Frees `node` and its ancestors as far as they are empty and childless.
    pub(crate) fn prune(&mut self, mut node: NodeId) {
        while node != ROOT {
            let entry = &self.nodes[node.index()];
            if entry.first_child != NONE || !entry.value.is_empty() {
                return;
            }
            let (parent, next, previous) = (entry.parent, entry.next_sibling, entry.previous_sibling);
            let hash = self.hash(parent, &entry.level);
            if let Ok(found) = self.children.find_entry(hash, |&id| id == node) {
                found.remove();
            }
            if previous == NONE {
                self.nodes[parent.index()].first_child = next;
            } else {
                self.nodes[previous.index()].next_sibling = next;
            }
            if next != NONE {
                self.nodes[next.index()].previous_sibling = previous;
            }
            self.nodes[node.index()].level = Box::default();
            self.nodes[parent.index()].value.child_freed(node);
            self.free.push(node);
            node = parent;
        }
    }

    pub(crate) fn value(&self, node: NodeId) -> &V {
        &self.nodes[node.index()].value
    }

    pub(crate) fn value_mut(&mut self, node: NodeId) -> &mut V {
        &mut self.nodes[node.index()].value
    }

    /// One more than the highest index in use.
    pub(crate) fn end(&self) -> NodeId {
        NodeId(self.nodes.len() as u32)
    }

    pub(crate) fn parent(&self, node: NodeId) -> NodeId {
        self.nodes[node.index()].parent
    }

    pub(crate) fn level(&self, node: NodeId) -> &str {
        &self.nodes[node.index()].level
    }

    /// The children of `node`, in no order.
    pub(crate) fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let first = self.nodes[node.index()].first_child;
        std::iter::successors((first != NONE).then_some(first), |&id| {
            let next = self.nodes[id.index()].next_sibling;
            (next != NONE).then_some(next)
        })
    }

    /// The path that leads to `node`.
    pub(crate) fn path(&self, mut node: NodeId) -> String {
        let mut levels = Vec::new();
        while node != ROOT {
            levels.push(self.level(node));
            node = self.parent(node);
        }
        levels.reverse();
        levels.join("/")
    }

    /// Nodes in use, the root not counted.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - 1 - self.free.len()
    }
}
