//! A tree of topic filters, with one node for each run of levels that does not branch.
//!
//! A node's label is one level or several (`sensor/+/temp`). A hash table over (parent, first level) finds children, so a
//! node with a million children costs no more for each than a node with one. A filter costs at most two nodes and its bytes,
//! whatever its levels.

use hashbrown::HashTable;

use crate::hash::HashSeed;
use crate::ids::NodeId;
use crate::routing::filter_label::{LabelMatch, begins_with_level, common_levels, compare, first_level, level_end};
use crate::routing::node_pages::NodePages;

/// The node above the first level. It is never removed.
pub(crate) const ROOT: NodeId = NodeId(0);
/// No node.
pub(crate) const NONE: NodeId = NodeId(u32::MAX);
/// Bytes of a node beside itself and its label: its entry in the table, and the allocation of its label.
const OVERHEAD_BYTES: usize = 24;

#[derive(Debug)]
struct FilterNode<V> {
    label: Box<str>,
    parent: NodeId,
    children: u32,
    /// All children's indexes, combined by XOR: the child's, where there is one.
    children_xor: u32,
    /// The child that begins with `+`, and the one that begins with `#`.
    plus: NodeId,
    hash: NodeId,
    value: V,
}

impl<V: NodeValue> FilterNode<V> {
    fn new(label: &str) -> Self {
        Self {
            label: label.into(),
            parent: NONE,
            children: 0,
            children_xor: 0,
            plus: NONE,
            hash: NONE,
            value: V::default(),
        }
    }
}

/// The content of a node.
pub(crate) trait NodeValue: Default {
    /// Whether the node may go when it has no children.
    fn is_empty(&self) -> bool;
}

/// A tree whose nodes carry a `V`.
#[derive(Debug)]
pub(crate) struct FilterTree<V> {
    nodes: NodePages<FilterNode<V>>,
    children: HashTable<NodeId>,
    seed: HashSeed,
    label_bytes: usize,
    /// A [`Walk`] is suspended: what it may still visit keeps its place.
    pinned: bool,
    /// Nodes to be removed, and to be joined with their only child, when no walk is suspended.
    removed: Vec<NodeId>,
    joinable: Vec<NodeId>,
}

/// A search for the filters that match a topic. It can be interrupted; see [`FilterTree::pin`].
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Nodes whose filters match the topic's beginning, and where its rest begins; behind its end: all of it.
    stack: Vec<(NodeId, u32)>,
    /// Nodes whose filters match the topic.
    pub(crate) found: Vec<NodeId>,
}

impl Walk {
    /// A walk that has not begun.
    pub(crate) fn begin(&mut self) {
        self.found.clear();
        self.stack.clear();
        self.stack.push((ROOT, 0));
    }
}

impl<V: NodeValue> FilterTree<V> {
    pub(crate) fn new(seed: HashSeed) -> Self {
        let mut nodes = NodePages::new();
        nodes.insert(FilterNode::new(""));
        let (removed, joinable) = (Vec::new(), Vec::new());
        Self { nodes, children: HashTable::new(), seed, label_bytes: 0, pinned: false, removed, joinable }
    }

    /// Bytes that the nodes take, without what their values own.
    pub(crate) fn bytes(&self) -> usize {
        self.nodes.len() * (size_of::<FilterNode<V>>() + OVERHEAD_BYTES) + self.label_bytes
    }

    /// Nodes in use, the root not counted.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len() - 1
    }

    /// The nodes in use.
    pub(crate) fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.ids()
    }

    /// The value of a node; `None`: it is no node.
    pub(crate) fn value(&self, id: NodeId) -> Option<&V> {
        self.nodes.get(id).map(|node| &node.value)
    }

    pub(crate) fn value_mut(&mut self, id: NodeId) -> Option<&mut V> {
        self.nodes.get_mut(id).map(|node| &mut node.value)
    }

    #[inline]
    fn child(&self, parent: NodeId, level: &str) -> Option<NodeId> {
        let same = |&id: &NodeId| {
            self.nodes.get(id).is_some_and(|node| node.parent == parent && begins_with_level(&node.label, level))
        };
        self.children.find(self.seed.hash(parent.0, level), same).copied()
    }

    /// The node of a filter.
    pub(crate) fn find(&self, filter: &str) -> Option<NodeId> {
        let (mut at, mut rest) = (ROOT, filter);
        loop {
            at = self.child(at, first_level(rest))?;
            let behind = rest.strip_prefix(&*self.nodes.get(at)?.label)?;
            if behind.is_empty() {
                return Some(at);
            }
            rest = behind.strip_prefix('/')?;
        }
    }

    /// The node of a filter, made where it is missing.
    pub(crate) fn insert(&mut self, filter: &str) -> NodeId {
        let (mut at, mut rest) = (ROOT, filter);
        loop {
            let Some(child) = self.child(at, first_level(rest)) else { return self.add(at, rest) };
            let label = self.nodes.get(child).map_or("", |node| &node.label);
            let common = common_levels(label, rest);
            at = if common == label.len() { child } else { self.split(child, common) };
            if common == rest.len() {
                return at;
            }
            rest = &rest[common + 1..];
        }
    }

    fn add(&mut self, parent: NodeId, label: &str) -> NodeId {
        self.label_bytes += label.len();
        let id = self.nodes.insert(FilterNode::new(label));
        self.attach(parent, id);
        id
    }

    /// Makes a node a child.
    fn attach(&mut self, parent: NodeId, id: NodeId) {
        let Some(node) = self.nodes.get_mut(id) else { return };
        node.parent = parent;
        let level = first_level(&node.label);
        let (hash, is_plus, is_hash) = (self.seed.hash(parent.0, level), level == "+", level == "#");
        let (nodes, seed) = (&self.nodes, &self.seed);
        self.children.insert_unique(hash, id, |&id| {
            nodes.get(id).map_or(0, |node| seed.hash(node.parent.0, first_level(&node.label)))
        });
        let Some(above) = self.nodes.get_mut(parent) else { return };
        above.children += 1;
        above.children_xor ^= id.0;
        if is_plus {
            above.plus = id;
        } else if is_hash {
            above.hash = id;
        }
    }

    /// Takes a node from its parent, which it returns.
    fn detach(&mut self, id: NodeId) -> NodeId {
        let Some(node) = self.nodes.get(id) else { return ROOT };
        let parent = node.parent;
        let hash = self.seed.hash(parent.0, first_level(&node.label));
        if let Ok(found) = self.children.find_entry(hash, |&other| other == id) {
            found.remove();
        }
        if self.children.len() < self.children.capacity() / 4 {
            let (nodes, seed) = (&self.nodes, &self.seed);
            self.children.shrink_to(self.children.len() * 2, |&id| {
                nodes.get(id).map_or(0, |node| seed.hash(node.parent.0, first_level(&node.label)))
            });
        }
        if let Some(above) = self.nodes.get_mut(parent) {
            above.children -= 1;
            above.children_xor ^= id.0;
            if above.plus == id {
                above.plus = NONE;
            } else if above.hash == id {
                above.hash = NONE;
            }
        }
        parent
    }

    /// Puts a node above `id` that has the first `common` bytes of its label; returns it.
    fn split(&mut self, id: NodeId, common: usize) -> NodeId {
        let parent = self.detach(id);
        let Some(node) = self.nodes.get_mut(id) else { return parent };
        let (above, below) = (Box::<str>::from(&node.label[..common]), node.label[common + 1..].into());
        node.label = below;
        self.label_bytes -= common + 1;
        let middle = self.add(parent, &above);
        self.attach(middle, id);
        middle
    }

    /// Joins a node that has no value with its only child, which keeps its index.
    fn join(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(id) else { return };
        if id == ROOT || node.parent == NONE || node.children != 1 || !node.value.is_empty() {
            return;
        }
        let child = NodeId(node.children_xor);
        let Some(label) = self.nodes.get(child).map(|child| [&node.label, "/", &child.label].concat()) else { return };
        self.detach(child);
        let parent = self.detach(id);
        self.label_bytes += label.len();
        self.label_bytes -= self.nodes.get(child).map_or(0, |node| node.label.len());
        if let Some(child) = self.nodes.get_mut(child) {
            child.label = label.into();
        }
        self.remove(id);
        self.attach(parent, child);
    }

    fn remove(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(id) {
            self.label_bytes -= node.label.len();
        }
    }

    /// A node's value has changed: removes it and its ancestors as far as they are empty and have no children.
    pub(crate) fn prune(&mut self, mut id: NodeId) {
        while id != ROOT {
            let Some(node) = self.nodes.get(id) else { return };
            if !node.value.is_empty() || node.parent == NONE {
                return;
            }
            match (node.children, self.pinned) {
                (0, false) => {
                    let parent = self.detach(id);
                    self.remove(id);
                    id = parent;
                }
                (0, true) => {
                    let parent = self.detach(id);
                    if let Some(node) = self.nodes.get_mut(id) {
                        node.parent = NONE;
                    }
                    self.removed.push(id);
                    id = parent;
                }
                (1, false) => return self.join(id),
                (1, true) => return self.joinable.push(id),
                _ => return,
            }
        }
    }

    /// A walk is suspended: indexes of removed nodes are not used again, and nodes are not joined, until
    /// [`FilterTree::unpin`].
    pub(crate) fn pin(&mut self) {
        self.pinned = true;
    }

    /// The suspended walk has ended.
    pub(crate) fn unpin(&mut self) {
        self.pinned = false;
        for id in std::mem::take(&mut self.removed) {
            self.remove(id);
        }
        for id in std::mem::take(&mut self.joinable) {
            self.join(id);
        }
    }

    /// Goes on with a walk for `topic` until it has ended, or has used up `work`: one unit for each node visited and each level
    /// compared. Returns whether it has ended.
    pub(crate) fn walk(&self, walk: &mut Walk, topic: &str, work: &mut usize) -> bool {
        // Wildcards at the first level do not match topics that begin with `$` [MQTT-4.7.2-1].
        let hidden = topic.starts_with('$');
        let mut used = 0;
        while let Some((id, at)) = walk.stack.pop() {
            used += 1;
            let Some(node) = self.nodes.get(id) else { continue };
            let (at, wild) = (at as usize, !(hidden && id == ROOT));
            if node.hash != NONE && wild {
                walk.found.push(node.hash);
            }
            if at > topic.len() {
                if !node.value.is_empty() {
                    walk.found.push(id);
                }
                continue;
            }
            let level = &topic[at..level_end(topic, at)];
            let plus = if wild { node.plus } else { NONE };
            for child in [plus, self.child(id, level).unwrap_or(NONE)] {
                let Some(below) = self.nodes.get(child) else { continue };
                match compare(&below.label, topic, at, &mut used) {
                    LabelMatch::No => {}
                    LabelMatch::Rest(at) => walk.stack.push((child, at as u32)),
                    LabelMatch::All => walk.found.push(child),
                }
            }
            if used >= *work {
                break;
            }
        }
        *work = work.saturating_sub(used);
        walk.stack.is_empty()
    }

    /// The filter of a node.
    pub(crate) fn path(&self, mut id: NodeId) -> String {
        let mut labels = Vec::new();
        while id != ROOT
            && let Some(node) = self.nodes.get(id)
        {
            labels.push(&*node.label);
            id = node.parent;
        }
        labels.reverse();
        labels.join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Used(bool);

    impl NodeValue for Used {
        fn is_empty(&self) -> bool {
            !self.0
        }
    }

    fn tree(filters: &[&str]) -> FilterTree<Used> {
        let mut tree = FilterTree::new(HashSeed::new(1));
        for filter in filters {
            add(&mut tree, filter);
        }
        tree
    }

    fn add(tree: &mut FilterTree<Used>, filter: &str) {
        let node = tree.insert(filter);
        tree.value_mut(node).unwrap().0 = true;
        assert_eq!(tree.path(node), filter);
        assert_eq!(tree.find(filter), Some(node));
    }

    fn remove(tree: &mut FilterTree<Used>, filter: &str) {
        let node = tree.find(filter).unwrap();
        tree.value_mut(node).unwrap().0 = false;
        tree.prune(node);
    }

    fn matches(tree: &FilterTree<Used>, topic: &str) -> Vec<String> {
        let mut walk = Walk::default();
        walk.begin();
        while !tree.walk(&mut walk, topic, &mut 1) {}
        let mut found: Vec<String> = walk.found.iter().map(|&id| tree.path(id)).collect();
        found.sort();
        found
    }

    #[test]
    fn a_filter_without_branches_is_one_node_whatever_its_levels() {
        let mut tree = tree(&["a/b/c/d/e/f", "a/b/c/x/y", "a//", "a/", "/a", "a"]);
        // `a`, `b/c`, `d/e/f`, `x/y`, `` twice, `/a`.
        assert_eq!(tree.len(), 7);
        for filter in ["a/b/c/x/y", "a/", "a"] {
            remove(&mut tree, filter);
        }
        assert_eq!(matches(&tree, "a/b/c/d/e/f"), ["a/b/c/d/e/f"]);
        for filter in ["a/b/c/d/e/f", "a//", "/a"] {
            remove(&mut tree, filter);
        }
        assert_eq!((tree.len(), tree.label_bytes), (0, 0));
    }

    #[test]
    fn a_node_that_no_longer_branches_is_joined_with_its_child() {
        let mut tree = tree(&["a/b/c/d"]);
        for other in ["a/x", "a/b/x", "a/b/c/x"] {
            add(&mut tree, other);
        }
        assert_eq!(tree.len(), 7);
        for other in ["a/b/x", "a/x", "a/b/c/x"] {
            remove(&mut tree, other);
        }
        assert_eq!((tree.len(), tree.label_bytes), (1, "a/b/c/d".len()));
    }

    #[test]
    fn wildcards_match_levels_of_labels() {
        let filters = ["+/b/#", "a/+/c", "a/b/#", "#", "a/b", "$x/#", "+/+"];
        let tree = tree(&filters);
        assert_eq!(matches(&tree, "a/b"), ["#", "+/+", "+/b/#", "a/b", "a/b/#"]);
        assert_eq!(matches(&tree, "a/b/c"), ["#", "+/b/#", "a/+/c", "a/b/#"]);
        assert_eq!(matches(&tree, "$x/b"), ["$x/#"]);
        assert_eq!(matches(&tree, "a"), ["#"]);
    }

    #[test]
    fn a_suspended_walk_finds_what_was_there_when_the_tree_changes_meanwhile() {
        let mut tree = tree(&["+/b/c", "a/+/c", "a/b/c", "a/b/x/y", "a/b/+"]);
        let mut walk = Walk::default();
        walk.begin();
        tree.pin();
        assert!(!tree.walk(&mut walk, "a/b/c", &mut 1));
        // `a/b` has one child less, and `a/+/c` goes; new nodes must not take its index.
        remove(&mut tree, "a/b/x/y");
        remove(&mut tree, "a/b/+");
        remove(&mut tree, "a/+/c");
        for filter in ["n/1", "n/2", "+/b/d"] {
            add(&mut tree, filter);
        }
        while !tree.walk(&mut walk, "a/b/c", &mut 1) {}
        let mut found: Vec<String> = walk
            .found
            .iter()
            .filter(|&&id| tree.value(id).is_some_and(|used| used.0))
            .map(|&id| tree.path(id))
            .collect();
        found.sort();
        assert_eq!(found, ["+/b/c", "a/b/c"]);
        tree.unpin();
        assert_eq!(matches(&tree, "a/b/c"), ["+/b/c", "a/b/c"]);
        assert_eq!(tree.find("a/b/x/y"), None);
    }
}
