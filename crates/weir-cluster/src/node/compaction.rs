//! Which entries of the log of retained messages a newer one has replaced. Every node knows; one node removes them.

use std::collections::{BTreeMap, BTreeSet};

use weir_broker::gateway::RetainedEntry;

use super::outputs::{Purge, is_removal};

#[derive(Debug, Default)]
pub(super) struct Compaction {
    /// The sequence of each topic's retained message.
    newest: BTreeMap<[u8; 16], u64>,
    /// Topics whose newest entry has replaced another one, by that entry's sequence.
    replaced: BTreeSet<(u64, [u8; 16])>,
}

impl Compaction {
    pub(super) fn on_entry(&mut self, subject: [u8; 16], sequence: u64, entry: &RetainedEntry<'_>) {
        let Some(is_removal) = is_removal(entry) else { return };
        let before = if is_removal { self.newest.remove(&subject) } else { self.newest.insert(subject, sequence) };
        if let Some(before) = before {
            self.replaced.remove(&(before, subject));
            self.replaced.insert((sequence, subject));
        }
    }

    /// The next entries to remove: `applied` is up to where every node has applied the log.
    pub(super) fn next(&mut self, is_first: bool, applied: u64) -> Option<Purge> {
        let &(below, subject) = self.replaced.first().filter(|(sequence, _)| *sequence <= applied)?;
        self.replaced.pop_first();
        // Another node does it; should it die, the next start of a node finds the rest.
        is_first.then_some(Purge { subject, below })
    }
}
