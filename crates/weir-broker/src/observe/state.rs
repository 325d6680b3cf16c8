//! The counters of a core.

use std::collections::BTreeMap;

use crate::ids::{EndpointId, EndpointIndex, SlabIndex};
use crate::observe::counters::{Dropped, EndpointCounters};
use crate::observe::errors::{InternalErrors, Site};
use crate::observe::events::{CoreEventKind, EventLog};

/// Counters of each endpoint and of internal errors, and events.
#[derive(Debug, Default)]
pub(crate) struct Observe {
    by_endpoint: BTreeMap<EndpointId, EndpointIndex>,
    counters: Vec<EndpointCounters>,
    errors: InternalErrors,
    pub(crate) events: EventLog,
}

impl Observe {
    /// The index of an endpoint's counters.
    pub(crate) fn index_of(&mut self, id: EndpointId) -> EndpointIndex {
        *self.by_endpoint.entry(id).or_insert_with(|| {
            self.counters.push(EndpointCounters::default());
            EndpointIndex((self.counters.len() - 1) as u32)
        })
    }

    /// The counters of an endpoint.
    #[inline]
    pub(crate) fn endpoint(&mut self, index: EndpointIndex) -> &mut EndpointCounters {
        &mut self.counters[index.index()]
    }

    /// Counts messages that went no further.
    pub(crate) fn count_dropped(&mut self, index: EndpointIndex, why: Dropped, count: u64) {
        self.endpoint(index).dropped[why as usize] += count;
    }

    /// Counters of the endpoints that this core has seen.
    pub(crate) fn counters(&self) -> impl Iterator<Item = (EndpointId, &EndpointCounters)> {
        self.by_endpoint.iter().map(|(&id, &index)| (id, &self.counters[index.index()]))
    }

    /// An index that must exist does not: the operation is abandoned.
    #[cold]
    #[track_caller]
    pub(crate) fn count_error(&mut self, site: Site) {
        self.errors.count_error(site);
    }

    /// Whether events of the kind are wanted.
    #[inline]
    pub(crate) fn wants(&self, kind: CoreEventKind) -> bool {
        self.events.wants(kind)
    }

    pub(crate) fn errors(&self) -> InternalErrors {
        self.errors
    }
}
