//! A tree of topic levels: what subscriptions and retained messages are kept in.
//!
//! Nodes lie in one vector and name each other by index; one hash table over (parent, level) finds children, so a node
//! with a million children costs no more per child than a node with one. Siblings are linked for `+` over topic names.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::{BuildHasher, Hasher};

/// Index of a node.
pub(super) type NodeId = u32;
/// The node above the first level. It is never freed.
pub(super) const ROOT: NodeId = 0;
/// No node.
pub(super) const NONE: NodeId = u32::MAX;

#[derive(Debug)]
struct Node<V> {
    level: Box<str>,
    parent: NodeId,
    first_child: NodeId,
    next_sibling: NodeId,
    previous_sibling: NodeId,
    value: V,
}

/// A tree whose nodes carry a `V`; a node without children and with an empty `V` is pruned by [`Tree::prune`].
#[derive(Debug)]
pub(super) struct Tree<V> {
    nodes: Vec<Node<V>>,
    free: Vec<NodeId>,
    children: HashTable<NodeId>,
    hasher: DefaultHashBuilder,
}

/// What a node carries.
pub(super) trait Value: Default {
    /// Whether the node may go when it has no children.
    fn is_empty(&self) -> bool;
    /// The node got a child.
    fn child_added(&mut self, _child: NodeId, _level: &str) {}
    /// The node lost a child.
    fn child_freed(&mut self, _child: NodeId) {}
}

impl<V: Value> Tree<V> {
    pub(super) fn new() -> Self {
        let root = Node {
            level: Box::default(),
            parent: NONE,
            first_child: NONE,
            next_sibling: NONE,
            previous_sibling: NONE,
            value: V::default(),
        };
        Self { nodes: vec![root], free: Vec::new(), children: HashTable::new(), hasher: DefaultHashBuilder::default() }
    }

    fn hash(&self, parent: NodeId, level: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write_u32(parent);
        hasher.write(level.as_bytes());
        hasher.finish()
    }

    /// The child of `parent` at `level`.
    pub(super) fn child(&self, parent: NodeId, level: &str) -> Option<NodeId> {
        let hash = self.hash(parent, level);
        self.children
            .find(hash, |&id| {
                let node = &self.nodes[id as usize];
                node.parent == parent && *node.level == *level
            })
            .copied()
    }

    /// The node at the end of `path`.
    pub(super) fn find(&self, path: &str) -> Option<NodeId> {
        path.split('/').try_fold(ROOT, |node, level| self.child(node, level))
    }

    /// The node at the end of `path`, made where it is missing.
    pub(super) fn insert(&mut self, path: &str) -> NodeId {
        path.split('/').fold(ROOT, |node, level| match self.child(node, level) {
            Some(child) => child,
            None => self.add_child(node, level),
        })
    }

    fn add_child(&mut self, parent: NodeId, level: &str) -> NodeId {
        let next = self.nodes[parent as usize].first_child;
        let node = Node {
            level: level.into(),
            parent,
            first_child: NONE,
            next_sibling: next,
            previous_sibling: NONE,
            value: V::default(),
        };
        let id = match self.free.pop() {
            Some(id) => {
                self.nodes[id as usize] = node;
                id
            }
            None => {
                self.nodes.push(node);
                (self.nodes.len() - 1) as NodeId
            }
        };
        if next != NONE {
            self.nodes[next as usize].previous_sibling = id;
        }
        self.nodes[parent as usize].first_child = id;
        self.nodes[parent as usize].value.child_added(id, level);
        let hash = self.hash(parent, level);
        let (nodes, hasher) = (&self.nodes, &self.hasher);
        self.children.insert_unique(hash, id, |&id| {
            let node = &nodes[id as usize];
            let mut hasher = hasher.build_hasher();
            hasher.write_u32(node.parent);
            hasher.write(node.level.as_bytes());
            hasher.finish()
        });
        id
    }

    /// Frees `node` and its ancestors as far as they are empty and childless.
    pub(super) fn prune(&mut self, mut node: NodeId) {
        while node != ROOT {
            let entry = &self.nodes[node as usize];
            if entry.first_child != NONE || !entry.value.is_empty() {
                return;
            }
            let (parent, next, previous) = (entry.parent, entry.next_sibling, entry.previous_sibling);
            let hash = self.hash(parent, &entry.level);
            if let Ok(found) = self.children.find_entry(hash, |&id| id == node) {
                found.remove();
            }
            if previous == NONE {
                self.nodes[parent as usize].first_child = next;
            } else {
                self.nodes[previous as usize].next_sibling = next;
            }
            if next != NONE {
                self.nodes[next as usize].previous_sibling = previous;
            }
            self.nodes[node as usize].level = Box::default();
            self.nodes[parent as usize].value.child_freed(node);
            self.free.push(node);
            node = parent;
        }
    }

    pub(super) fn value(&self, node: NodeId) -> &V {
        &self.nodes[node as usize].value
    }

    pub(super) fn value_mut(&mut self, node: NodeId) -> &mut V {
        &mut self.nodes[node as usize].value
    }

    /// One more than the highest index in use.
    pub(super) fn end(&self) -> NodeId {
        self.nodes.len() as NodeId
    }

    pub(super) fn parent(&self, node: NodeId) -> NodeId {
        self.nodes[node as usize].parent
    }

    pub(super) fn level(&self, node: NodeId) -> &str {
        &self.nodes[node as usize].level
    }

    /// The children of `node`, in no order.
    pub(super) fn children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let first = self.nodes[node as usize].first_child;
        std::iter::successors((first != NONE).then_some(first), |&id| {
            let next = self.nodes[id as usize].next_sibling;
            (next != NONE).then_some(next)
        })
    }

    /// The path that leads to `node`.
    pub(super) fn path(&self, mut node: NodeId) -> String {
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
    pub(super) fn len(&self) -> usize {
        self.nodes.len() - 1 - self.free.len()
    }
}
