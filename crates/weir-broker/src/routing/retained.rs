//! Retained messages of one namespace: this core's part of them, by topic.
//!
//! They are ordered by topic, so a read stops anywhere and goes on from a topic, whatever changed in between, and a filter
//! skips what it cannot match.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use crate::ids::{Millis, RecordId};
use crate::routing::retained_filter::{Step, step};
use crate::values::message::Message;
use crate::values::retained::ReadPosition;

/// Bytes that an entry takes beside its message's: its part of the tree, and of what names the publisher.
const ENTRY_BYTES: usize = 160;

/// A message, its record where it has one, and its number among all that were set.
#[derive(Debug)]
struct Entry {
    message: Message,
    record: RecordId,
    sequence: u64,
}

impl Borrow<[u8]> for Entry {
    fn borrow(&self) -> &[u8] {
        self.message.topic_bytes()
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.message.topic_bytes() == other.message.topic_bytes()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.message.topic_bytes().cmp(other.message.topic_bytes())
    }
}

/// Topic to message.
#[derive(Debug, Default)]
pub(crate) struct Retained {
    entries: BTreeSet<Entry>,
    /// The topics of those that expire, soonest first, by when and by sequence number.
    expiring: BTreeMap<(Millis, u64), Message>,
    /// Of the newest entry.
    sequence: u64,
    bytes: usize,
}

impl Retained {
    /// The record of what a topic has.
    pub(crate) fn record(&self, topic: &str) -> RecordId {
        self.entries.get(topic.as_bytes()).map_or(RecordId::NONE, |entry| entry.record)
    }

    /// The retained message of a topic.
    pub(crate) fn get(&self, topic: &str) -> Option<&Message> {
        self.entries.get(topic.as_bytes()).map(|entry| &entry.message)
    }

    /// Keeps `message` in place of what its topic had; an empty payload removes [MQTT-3.3.1-6] [MQTT-3.3.1-7].
    /// Returns what the topic had.
    pub(crate) fn set(&mut self, message: &Message, record: RecordId) -> Option<Message> {
        if message.payload().is_empty() {
            return self.remove(message.topic()).map(|(old, _)| old);
        }
        self.sequence += 1;
        let (message, sequence) = (message.clone().unrecorded(), self.sequence);
        self.bytes += memory_bytes(&message);
        if message.expires_at != Millis::MAX {
            self.expiring.insert((message.expires_at, sequence), message.clone());
        }
        let old = self.entries.replace(Entry { message, record, sequence })?;
        self.forget(&old);
        Some(old.message)
    }

    /// Removes what a topic has; returns it with its record.
    pub(crate) fn remove(&mut self, topic: &str) -> Option<(Message, RecordId)> {
        let old = self.entries.take(topic.as_bytes())?;
        self.forget(&old);
        Some((old.message, old.record))
    }

    fn forget(&mut self, old: &Entry) {
        self.bytes -= memory_bytes(&old.message);
        if old.message.expires_at != Millis::MAX {
            self.expiring.remove(&(old.message.expires_at, old.sequence));
        }
    }

    /// Messages kept.
    pub(crate) fn count(&self) -> usize {
        self.entries.len()
    }

    /// The bytes that they take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The number of the newest message; see [`Retained::read`].
    pub(crate) fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Calls `each` for living messages whose topic `filter` matches, in the order of their topics, until it answers `false`
    /// or `work` is used up: one unit for each topic looked at. Those set after number `newest` are passed over. Returns where
    /// to go on; `None`: there are no more.
    pub(crate) fn read(
        &self,
        (filter, from): (&str, &ReadPosition),
        newest: u64,
        now: Millis,
        work: &mut usize,
        mut each: impl FnMut(&Message) -> bool,
    ) -> Option<ReadPosition> {
        let mut offer = |entry: &Entry| {
            let passed_over = entry.sequence > newest || entry.message.is_expired(now);
            passed_over || each(&entry.message)
        };
        if filter.bytes().all(|b| b != b'+' && b != b'#') {
            *work = work.saturating_sub(1);
            if from.as_str() <= filter
                && let Some(entry) = self.entries.get(filter.as_bytes())
            {
                offer(entry);
            }
            return None;
        }
        let mut rest = self.range(from.as_str());
        while let Some(entry) = rest.next() {
            let topic = entry.message.topic();
            if *work == 0 {
                return Some(ReadPosition::at(topic));
            }
            *work -= 1;
            match step(filter, topic) {
                Step::Matches => {
                    if !offer(entry) {
                        return Some(ReadPosition::after(topic));
                    }
                }
                Step::Next => {}
                Step::Seek(to) => rest = self.range(&to),
                Step::End => return None,
            }
        }
        None
    }

    /// All messages whose topics follow a topic, in order.
    pub(crate) fn after<'a>(&'a self, topic: &str) -> impl Iterator<Item = &'a Message> + use<'a> {
        let bounds = (Bound::Excluded(topic.as_bytes()), Bound::Unbounded);
        self.entries.range::<[u8], _>(bounds).map(|entry| &entry.message)
    }

    /// All messages from a topic on, in order.
    pub(crate) fn starting_at<'a>(&'a self, topic: &str) -> impl Iterator<Item = &'a Message> + use<'a> {
        self.range(topic).map(|entry| &entry.message)
    }

    fn range(&self, from: &str) -> std::collections::btree_set::Range<'_, Entry> {
        self.entries.range::<[u8], _>((Bound::Included(from.as_bytes()), Bound::Unbounded))
    }

    /// Removes what expired; `gone` gets each with its record.
    pub(crate) fn expire(&mut self, now: Millis, mut gone: impl FnMut(Message, RecordId)) {
        while let Some(entry) = self.expiring.first_entry()
            && entry.key().0 <= now
        {
            let message = entry.remove();
            if let Some((message, record)) = self.remove(message.topic()) {
                gone(message, record);
            }
        }
    }

    /// When the next message expires.
    pub(crate) fn next_expiry(&self) -> Option<Millis> {
        self.expiring.first_key_value().map(|(&(at, _), _)| at)
    }
}

/// Bytes that a retained message takes.
pub(crate) fn memory_bytes(message: &Message) -> usize {
    memory_bytes_of(message.size())
}

/// The same, of a message whose topic, properties and payload have `size` bytes.
pub(crate) fn memory_bytes_of(size: usize) -> usize {
    size + ENTRY_BYTES
}
