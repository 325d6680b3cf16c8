//! How much the publishers of each endpoint have retained: one count over all shards, which each shard changes only for what
//! it keeps itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::EndpointLimits;
use crate::routing::retained::memory_bytes;
use crate::values::message::Message;

/// A replacement that is larger may take one part in so many of the endpoint's bytes beyond them: values change, and an old
/// value in place of a new one would mislead subscribers.
const REPLACEMENT_PART: u64 = 4;

/// Messages and their bytes, of one endpoint's publishers.
#[derive(Debug, Default)]
struct RetainedTotal {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// The counts of a node, by name of the endpoint; shared by its cores.
#[derive(Debug, Clone, Default)]
pub struct RetainedTotals {
    endpoints: Arc<Mutex<BTreeMap<Arc<str>, Arc<RetainedTotal>>>>,
}

impl RetainedTotals {
    /// Messages, and their bytes, that an endpoint's publishers have retained.
    pub fn count(&self, endpoint: &str) -> (u64, u64) {
        let endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        let total = endpoints.get(endpoint);
        total.map_or((0, 0), |t| (t.messages.load(Ordering::Acquire), t.bytes.load(Ordering::Acquire)))
    }

    fn of(&self, endpoint: &Arc<str>) -> Arc<RetainedTotal> {
        let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(endpoints.entry(Arc::clone(endpoint)).or_default())
    }
}

/// This core's part of an endpoint's count.
#[derive(Debug)]
struct Part {
    total: Arc<RetainedTotal>,
    messages: u64,
    bytes: u64,
}

/// A core's part in the node's counts.
#[derive(Debug, Default)]
pub(crate) struct RetainedByEndpoint {
    totals: RetainedTotals,
    here: BTreeMap<Arc<str>, Part>,
}

impl RetainedByEndpoint {
    /// Counts together with the node's other cores; before anything is counted.
    pub(crate) fn share(&mut self, totals: RetainedTotals) {
        self.totals = totals;
    }

    /// Whether an endpoint's publishers may retain one more of `bytes` bytes, or replace one of `old` bytes by it.
    pub(crate) fn has_room(&self, endpoint: &str, limits: &EndpointLimits, bytes: usize, old: Option<usize>) -> bool {
        let (messages, taken) = match self.here.get(endpoint) {
            Some(part) => (part.total.messages.load(Ordering::Acquire), part.total.bytes.load(Ordering::Acquire)),
            None => self.totals.count(endpoint),
        };
        has_room((messages, taken), (limits.max_retained_messages.into(), limits.max_retained_bytes), bytes, old)
    }

    pub(crate) fn add(&mut self, message: &Message) {
        let Some(publisher) = &message.publisher else { return };
        if !self.here.contains_key(&publisher.endpoint) {
            let part = Part { total: self.totals.of(&publisher.endpoint), messages: 0, bytes: 0 };
            self.here.insert(Arc::clone(&publisher.endpoint), part);
        }
        if let Some(part) = self.here.get_mut(&publisher.endpoint) {
            let bytes = memory_bytes(message) as u64;
            (part.messages, part.bytes) = (part.messages + 1, part.bytes + bytes);
            part.total.messages.fetch_add(1, Ordering::AcqRel);
            part.total.bytes.fetch_add(bytes, Ordering::AcqRel);
        }
    }

    pub(crate) fn subtract(&mut self, message: &Message) {
        let Some(publisher) = &message.publisher else { return };
        let Some(part) = self.here.get_mut(&publisher.endpoint) else { return };
        let bytes = memory_bytes(message) as u64;
        (part.messages, part.bytes) = (part.messages - 1, part.bytes - bytes);
        part.total.messages.fetch_sub(1, Ordering::AcqRel);
        part.total.bytes.fetch_sub(bytes, Ordering::AcqRel);
        if part.messages == 0 {
            self.here.remove(&publisher.endpoint);
        }
    }
}

impl Drop for RetainedByEndpoint {
    fn drop(&mut self) {
        for part in self.here.values() {
            part.total.messages.fetch_sub(part.messages, Ordering::AcqRel);
            part.total.bytes.fetch_sub(part.bytes, Ordering::AcqRel);
        }
    }
}

/// Whether (messages, bytes) that are `taken` leave room below `most` for one more of `bytes` bytes, or for one of so many in
/// place of one of `old`.
pub(crate) fn has_room(taken: (u64, u64), most: (u64, u64), bytes: usize, old: Option<usize>) -> bool {
    match old {
        None => taken.0 < most.0 && taken.1.saturating_add(bytes as u64) <= most.1,
        Some(old) if bytes <= old => true,
        Some(old) => taken.1.saturating_add((bytes - old) as u64) <= most.1.saturating_add(most.1 / REPLACEMENT_PART),
    }
}

#[cfg(test)]
mod tests {
    use super::has_room;

    #[test]
    fn a_new_message_needs_room_and_a_replacement_may_exceed_it_by_a_quarter() {
        let most = (2, 1000);
        assert!(has_room((1, 900), most, 100, None) && !has_room((1, 901), most, 100, None));
        assert!(!has_room((2, 0), most, 1, None), "too many");
        assert!(has_room((5, 5000), most, 100, Some(100)), "no larger than what it replaces");
        assert!(has_room((2, 1200), most, 150, Some(100)) && !has_room((2, 1201), most, 150, Some(100)));
    }
}
