//! Retained messages of one namespace: this core's part of them, by topic.

use std::collections::BTreeSet;

use crate::hash::HashSeed;
use crate::ids::{Millis, NodeId, RecordId};
use crate::routing::topic_tree::{NodeValue, ROOT, Tree};
use crate::values::message::Message;

/// A message, and its record where it has one.
type RetainedEntry = Option<(Message, RecordId)>;

impl NodeValue for RetainedEntry {
    fn is_empty(&self) -> bool {
        self.is_none()
    }
}

/// Topic to message.
#[derive(Debug)]
pub(crate) struct Retained {
    tree: Tree<RetainedEntry>,
    /// Those that expire, soonest first.
    expiring: BTreeSet<(Millis, NodeId)>,
    count: usize,
    bytes: usize,
}

impl Retained {
    pub(crate) fn new(seed: HashSeed) -> Self {
        Self { tree: Tree::new(seed), expiring: BTreeSet::new(), count: 0, bytes: 0 }
    }

    /// The record of what a topic has.
    pub(crate) fn record(&self, topic: &str) -> RecordId {
        let entry = self.tree.find(topic).and_then(|node| self.tree.value(node).as_ref());
        entry.map_or(RecordId::NONE, |(_, record)| *record)
    }

    /// Keeps `message` in place of what its topic had; an empty payload removes [MQTT-3.3.1-6] [MQTT-3.3.1-7].
    pub(crate) fn set(&mut self, message: &Message, record: RecordId) {
        if message.payload().is_empty() {
            self.remove(message.topic());
            return;
        }
        let node = self.tree.insert(message.topic());
        self.bytes += message.size();
        match self.tree.value_mut(node).replace((message.clone().unrecorded(), record)) {
            Some((old, _)) => self.forget(node, &old),
            None => self.count += 1,
        }
        if message.expires_at != Millis::MAX {
            self.expiring.insert((message.expires_at, node));
        }
    }

    /// Removes what a topic has.
    pub(crate) fn remove(&mut self, topic: &str) {
        if let Some(node) = self.tree.find(topic) {
            self.clear(node);
        }
    }

    fn clear(&mut self, node: NodeId) {
        if let Some((old, _)) = self.tree.value_mut(node).take() {
            self.count -= 1;
            self.forget(node, &old);
            self.tree.prune(node);
        }
    }

    fn forget(&mut self, node: NodeId, old: &Message) {
        self.bytes -= old.size();
        if old.expires_at != Millis::MAX {
            self.expiring.remove(&(old.expires_at, node));
        }
    }

    /// Messages kept.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Their bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// One more than the highest place that [`Retained::at`] knows.
    pub(crate) fn end(&self) -> NodeId {
        self.tree.end()
    }

    /// The message at a position, if any.
    pub(crate) fn at(&self, place: NodeId) -> Option<&Message> {
        self.tree.value(place).as_ref().map(|(message, _)| message)
    }

    /// Calls `each` for every living message whose topic `filter` matches.
    pub(crate) fn matching(&self, filter: &str, now: Millis, mut each: impl FnMut(&Message)) {
        if filter.bytes().all(|b| b != b'+' && b != b'#') {
            if let Some((message, _)) = self.tree.find(filter).and_then(|node| self.tree.value(node).as_ref())
                && !message.is_expired(now)
            {
                each(message);
            }
            return;
        }
        // (node, what of the filter is left below it); `None`: the node itself is the match.
        let mut stack: Vec<(NodeId, Option<&str>)> = vec![(ROOT, Some(filter))];
        while let Some((node, rest)) = stack.pop() {
            let Some(rest) = rest else {
                self.offer(node, now, &mut each);
                continue;
            };
            let (level, below) = rest.split_once('/').map_or((rest, None), |(level, below)| (level, Some(below)));
            match level {
                "#" => {
                    self.offer(node, now, &mut each);
                    stack.extend(self.wild_children(node).map(|child| (child, Some("#"))));
                }
                // `a/#` matches `a` too: where only `#` is left, the next round offers the node itself.
                "+" => stack.extend(self.wild_children(node).map(|child| (child, below))),
                literal => stack.extend(self.tree.child(node, literal).map(|child| (child, below))),
            }
        }
    }

    fn offer(&self, node: NodeId, now: Millis, each: &mut impl FnMut(&Message)) {
        if let Some((message, _)) = self.tree.value(node)
            && !message.is_expired(now)
        {
            each(message);
        }
    }

    /// Children that a wildcard reaches: at the first level none that begins with `$` [MQTT-4.7.2-1].
    fn wild_children(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        self.tree.children(node).filter(move |&child| node != ROOT || !self.tree.level(child).starts_with('$'))
    }

    /// Removes what expired; `gone` gets the record of each.
    pub(crate) fn expire(&mut self, now: Millis, mut gone: impl FnMut(RecordId)) {
        while let Some(&(at, node)) = self.expiring.first()
            && at <= now
        {
            self.expiring.pop_first();
            if let Some((_, record)) = self.tree.value(node) {
                gone(*record);
            }
            self.clear(node);
        }
    }

    /// When the next message expires.
    pub(crate) fn next_expiry(&self) -> Option<Millis> {
        self.expiring.first().map(|&(at, _)| at)
    }
}
