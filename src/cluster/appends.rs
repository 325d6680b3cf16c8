//! This node's entries on their way to the log of retained messages.
//!
//! Entries of one topic are stored in their order: when one fails, the later ones of its topic are sent again behind it, once
//! none of them is unanswered.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::engine::{Engine, RetainedAppend, SubjectHash};
use weir_broker::Millis;
use weir_cluster::node::Append;

/// How long an entry that failed waits until it is tried again.
const RETRY_AFTER_MS: Millis = 200;

/// Takes entries for the log.
pub(super) trait Log {
    /// `false`: it has no room.
    fn append(&self, append: RetainedAppend) -> bool;
}

impl Log for Engine {
    fn append(&self, append: RetainedAppend) -> bool {
        self.append_retained(append).is_ok()
    }
}

/// An entry that is not stored.
struct Entry {
    append: Append,
    subject: SubjectHash,
    sent: Millis,
}

#[derive(Default)]
struct Topic {
    /// Entries that the engine has and has not answered.
    unanswered: u32,
    /// Entries that are to be sent, by number.
    waiting: VecDeque<u64>,
}

/// What the engine has stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct StoredEntry {
    /// When it was sent.
    pub(super) sent: Millis,
    /// Bytes of its payload.
    pub(super) bytes: usize,
}

/// Entries that are not stored.
#[derive(Default)]
pub(super) struct Appends {
    entries: HashMap<u64, Entry>,
    topics: HashMap<SubjectHash, Topic>,
    /// Topics with waiting entries, in the order in which they are tried.
    queue: VecDeque<SubjectHash>,
    retry_at: Option<Millis>,
    /// The engine had no room: what comes waits, too.
    is_full: bool,
}

/// The subject of a topic: no client can choose two topics that have the same one.
fn subject(namespace: &str, topic: &str) -> SubjectHash {
    let mut hash = Sha256::new();
    hash.update((namespace.len() as u64).to_le_bytes());
    hash.update(namespace);
    hash.update(topic);
    let digest = hash.finalize();
    let mut subject = [0; 16];
    subject.copy_from_slice(&digest[..16]);
    SubjectHash(subject)
}

impl Appends {
    /// When [`Appends::retry`] has something to do.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.retry_at
    }

    /// Takes a new entry.
    pub(super) fn add(&mut self, append: Append, log: &impl Log, now: Millis) {
        let (number, subject) = (append.number, subject(&append.namespace, &append.topic));
        self.entries.insert(number, Entry { append, subject, sent: now });
        let waits = self.is_full || self.topics.get(&subject).is_some_and(|topic| !topic.waiting.is_empty());
        if waits || !self.send(number, false, log, now) {
            self.wait(number, subject, now);
        }
    }

    /// The engine has stored an entry, or never will. `None`: it is not known.
    pub(super) fn remove(&mut self, number: u64, now: Millis) -> Option<StoredEntry> {
        let Entry { append, subject, sent } = self.entries.remove(&number)?;
        self.answered(subject, now);
        if let Some(topic) = self.topics.get(&subject)
            && topic.unanswered == 0
            && topic.waiting.is_empty()
        {
            self.topics.remove(&subject);
        }
        Some(StoredEntry { sent, bytes: append.payload.len() })
    }

    /// The engine has not stored an entry: it is tried again.
    pub(super) fn failed(&mut self, number: u64, now: Millis) {
        let Some(subject) = self.entries.get(&number).map(|entry| entry.subject) else { return };
        self.answered(subject, now);
        self.wait(number, subject, now);
    }

    fn answered(&mut self, subject: SubjectHash, now: Millis) {
        if let Some(topic) = self.topics.get_mut(&subject) {
            topic.unanswered = topic.unanswered.saturating_sub(1);
        }
        if self.is_full {
            // There is room.
            self.retry_at = Some(now);
        }
    }

    fn wait(&mut self, number: u64, subject: SubjectHash, now: Millis) {
        let topic = self.topics.entry(subject).or_default();
        if topic.waiting.is_empty() {
            self.queue.push_back(subject);
        }
        let at = topic.waiting.partition_point(|known| *known < number);
        topic.waiting.insert(at, number);
        self.retry_at.get_or_insert(now + RETRY_AFTER_MS);
    }

    /// Sends entries again that are due.
    pub(super) fn retry(&mut self, log: &impl Log, now: Millis) {
        if self.retry_at.is_none_or(|at| at > now) {
            return;
        }
        (self.retry_at, self.is_full) = (None, false);
        for _ in 0..self.queue.len() {
            let Some(subject) = self.queue.pop_front() else { break };
            let is_done = self.retry_topic(subject, log, now);
            if self.is_full {
                self.queue.push_front(subject);
                break;
            }
            if !is_done {
                self.queue.push_back(subject);
            }
        }
        if !self.queue.is_empty() {
            self.retry_at = Some(now + RETRY_AFTER_MS);
        }
    }

    /// Returns whether nothing of the topic waits any more.
    fn retry_topic(&mut self, subject: SubjectHash, log: &impl Log, now: Millis) -> bool {
        let mut is_first = true;
        loop {
            let Some(topic) = self.topics.get(&subject) else { return true };
            // While a later one of the topic is unanswered, the first must not be sent.
            if is_first && topic.unanswered > 0 {
                return false;
            }
            let Some(number) = topic.waiting.front().copied() else { return true };
            if !self.send(number, is_first, log, now) {
                return false;
            }
            if let Some(topic) = self.topics.get_mut(&subject) {
                topic.waiting.pop_front();
            }
            is_first = false;
        }
    }

    /// `again`: it is the first of its topic after a failure.
    fn send(&mut self, number: u64, again: bool, log: &impl Log, now: Millis) -> bool {
        let Some(entry) = self.entries.get_mut(&number) else { return true };
        let request = RetainedAppend {
            token: number,
            subject: entry.subject,
            payload: Bytes::copy_from_slice(&entry.append.payload),
            ttl: entry.append.ttl_ms.map(|ms| Duration::from_millis(ms).max(Duration::from_secs(1))),
            again,
        };
        if !log.append(request) {
            self.is_full = true;
            return false;
        }
        entry.sent = now;
        self.topics.entry(entry.subject).or_default().unanswered += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    /// A log with so much room, and what it has taken: number, and whether it is the first after a failure.
    struct Model {
        room: Cell<usize>,
        taken: RefCell<Vec<(u64, bool)>>,
    }

    impl Log for Model {
        fn append(&self, append: RetainedAppend) -> bool {
            let Some(room) = self.room.get().checked_sub(1) else { return false };
            self.room.set(room);
            self.taken.borrow_mut().push((append.token, append.again));
            true
        }
    }

    fn model(room: usize) -> Model {
        Model { room: Cell::new(room), taken: RefCell::new(Vec::new()) }
    }

    fn entry(number: u64, topic: &str) -> Append {
        Append { number, namespace: "".into(), topic: topic.into(), payload: vec![0; 3], ttl_ms: None }
    }

    #[test]
    fn entry_that_failed_is_sent_again_before_the_later_ones_of_its_topic() {
        let (log, mut appends) = (model(100), Appends::default());
        for (number, topic) in [(1, "a"), (2, "a"), (3, "b")] {
            appends.add(entry(number, topic), &log, 0);
        }
        appends.failed(1, 5);
        // The topic waits: 2 is unanswered, and 4 is behind 1.
        appends.add(entry(4, "a"), &log, 6);
        appends.retry(&log, 300);
        assert_eq!(log.taken.take(), [(1, false), (2, false), (3, false)]);
        appends.failed(2, 301);
        assert_eq!(appends.remove(3, 302), Some(StoredEntry { sent: 0, bytes: 3 }));
        appends.retry(&log, 600);
        assert_eq!(log.taken.take(), [(1, true), (2, false), (4, false)]);
        assert_eq!(appends.remove(1, 601), Some(StoredEntry { sent: 600, bytes: 3 }));
        assert_eq!(appends.remove(1, 601), None, "it is answered twice");
    }

    #[test]
    fn burst_of_topics_that_finds_no_room_is_sent_as_there_is_room_without_a_search() {
        let (log, mut appends) = (model(10), Appends::default());
        for number in 0..40_000 {
            appends.add(entry(number, &number.to_string()), &log, 0);
        }
        let (mut stored, mut now) = (0, 0);
        while stored < 40_000 {
            let taken = log.taken.take();
            assert!(taken.iter().all(|(number, _)| *number >= stored), "an entry overtook another one");
            for (number, _) in taken {
                assert!(appends.remove(number, now).is_some());
                stored += 1;
                log.room.set(log.room.get() + 1);
            }
            appends.retry(&log, now);
            now += 1;
        }
        assert!(appends.entries.is_empty() && appends.topics.is_empty() && appends.queue.is_empty());
    }
}
