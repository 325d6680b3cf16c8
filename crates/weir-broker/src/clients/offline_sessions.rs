//! How many sessions each endpoint keeps for offline clients: one count over all shards, so that the declared
//! bound is exact. It is looked at when a connection ends, never on the message path.

use crate::ids::EndpointId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// The counts of a node, shared by its cores.
#[derive(Debug, Clone, Default)]
pub struct OfflineSessions {
    counts: Arc<Mutex<BTreeMap<EndpointId, Arc<AtomicU32>>>>,
}

impl OfflineSessions {
    /// Sessions an endpoint keeps for offline clients.
    pub fn count(&self, endpoint: EndpointId) -> u32 {
        self.counter(endpoint).load(Ordering::Acquire)
    }

    /// Counts one in, unless that would be more than `most`.
    pub(crate) fn try_add(&self, endpoint: EndpointId, most: Option<u32>) -> bool {
        let most = most.unwrap_or(u32::MAX);
        let one_more = |count: u32| (count < most).then(|| count + 1);
        self.counter(endpoint).fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more).is_ok()
    }

    pub(crate) fn subtract(&self, endpoint: EndpointId) {
        self.counter(endpoint).fetch_sub(1, Ordering::AcqRel);
    }

    fn counter(&self, endpoint: EndpointId) -> Arc<AtomicU32> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(counts.entry(endpoint).or_default())
    }
}
