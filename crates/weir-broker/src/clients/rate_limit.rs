//! Publish rates, a client's and an endpoint's: token buckets that hold one second's worth and may run into debt. A client
//! above its rate is not read until the debt is paid, or is disconnected.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::EndpointLimits;
use crate::ids::{EndpointId, EndpointIndex, Millis, SlabIndex};
use crate::token_bucket::TokenBucket;

/// The cost of publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PublishCost {
    messages: u64,
    bytes: u64,
}

/// Messages and bytes per second: a client's, or all of an endpoint's.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PublishRates {
    messages: Option<TokenBucket>,
    bytes: Option<TokenBucket>,
}

impl PublishRates {
    /// Of one client; `None` where the endpoint limits neither.
    pub(crate) fn new(limits: &EndpointLimits, now: Millis) -> Option<Self> {
        Self::with(limits.max_publish_per_second, limits.max_publish_bytes_per_second, now)
    }

    fn with(messages: Option<u32>, bytes: Option<u64>, now: Millis) -> Option<Self> {
        let messages = messages.map(|rate| TokenBucket::new(u64::from(rate), now));
        let bytes = bytes.map(|rate| TokenBucket::new(rate, now));
        (messages.is_some() || bytes.is_some()).then_some(Self { messages, bytes })
    }

    /// Counts one publish of `size` bytes; answers for how long reading has to pause.
    pub(crate) fn charge(&mut self, size: usize, now: Millis) -> Millis {
        self.refill(now);
        self.spend(PublishCost { messages: 1, bytes: size as u64 })
    }

    /// Counts one publish of `size` bytes, if it is within the rates; `false`: it is too much.
    pub(crate) fn try_charge(&mut self, size: usize, now: Millis) -> bool {
        self.refill(now);
        let cost = PublishCost { messages: 1, bytes: size as u64 };
        let fits = self.has(cost);
        if fits {
            self.spend(cost);
        }
        fits
    }

    fn refill(&mut self, now: Millis) {
        [&mut self.messages, &mut self.bytes].into_iter().flatten().for_each(|bucket| bucket.refill(now));
    }

    fn has(&self, cost: PublishCost) -> bool {
        self.messages.as_ref().is_none_or(|bucket| bucket.has(cost.messages))
            && self.bytes.as_ref().is_none_or(|bucket| bucket.has(cost.bytes))
    }

    fn spend(&mut self, cost: PublishCost) -> Millis {
        let messages = self.messages.as_mut().map_or(0, |bucket| bucket.charge(cost.messages));
        let bytes = self.bytes.as_mut().map_or(0, |bucket| bucket.charge(cost.bytes));
        messages.max(bytes)
    }

    fn is_for(&self, messages: Option<u32>, bytes: Option<u64>) -> bool {
        let per_second = |bucket: &Option<TokenBucket>| bucket.as_ref().map(|bucket| bucket.per_second());
        per_second(&self.messages) == messages.map(u64::from) && per_second(&self.bytes) == bytes
    }
}

/// A shard's portion of an endpoint's rates: taken in advance where there is enough, so that the shards meet rarely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lease {
    left: PublishCost,
}

impl Lease {
    pub(crate) const NONE: Self = Self { left: PublishCost { messages: 0, bytes: 0 } };
}

/// Portions of a second's worth: at most one of them is unused in the lease of a shard.
const PORTIONS: u64 = 100;

/// The rates of a node's endpoints, all their clients together; shared by its cores.
#[derive(Debug, Clone, Default)]
pub struct TotalRates {
    endpoints: Arc<Mutex<BTreeMap<EndpointId, PublishRates>>>,
}

impl TotalRates {
    /// Counts one publish of `size` bytes against the endpoint's rates, by way of a shard's lease. With `overdraw`
    /// answers for how long its publisher has to pause; without, `None`: it is too much.
    pub(crate) fn charge(
        &self,
        endpoint: EndpointId,
        limits: &EndpointLimits,
        lease: &mut Lease,
        size: usize,
        overdraw: bool,
        now: Millis,
    ) -> Option<Millis> {
        let (messages, bytes) = (limits.max_total_publish_per_second, limits.max_total_publish_bytes_per_second);
        let needed = PublishCost {
            messages: u64::from(messages.is_some() && lease.left.messages == 0),
            bytes: bytes.map_or(0, |_| (size as u64).saturating_sub(lease.left.bytes)),
        };
        let mut debt_ms = 0;
        if needed.messages > 0 || needed.bytes > 0 {
            let mut endpoints = self.endpoints.lock().unwrap_or_else(PoisonError::into_inner);
            if !endpoints.get(&endpoint).is_some_and(|rates| rates.is_for(messages, bytes)) {
                endpoints.insert(endpoint, PublishRates::with(messages, bytes, now)?);
            }
            let rates = endpoints.get_mut(&endpoint)?;
            rates.refill(now);
            let portion = PublishCost {
                messages: needed.messages.max(messages.map_or(0, |rate| u64::from(rate) / PORTIONS)),
                bytes: needed.bytes.max(bytes.map_or(0, |rate| rate / PORTIONS)),
            };
            let taken = if rates.has(portion) { portion } else { needed };
            if taken == needed && !overdraw && !rates.has(needed) {
                return None;
            }
            debt_ms = rates.spend(taken);
            lease.left.messages += taken.messages;
            lease.left.bytes += taken.bytes;
        }
        lease.left.messages = lease.left.messages.saturating_sub(1);
        lease.left.bytes = lease.left.bytes.saturating_sub(size as u64);
        Some(debt_ms)
    }
}

/// A core's part in the node's rates.
#[derive(Debug, Default)]
pub(crate) struct RateLimits {
    total: TotalRates,
    /// This core's portions, by endpoint.
    leases: Vec<Lease>,
}

impl RateLimits {
    /// Counts together with the node's other cores.
    pub(crate) fn share(&mut self, total: TotalRates) {
        self.total = total;
    }

    pub(crate) fn charge(
        &mut self,
        (index, endpoint): (EndpointIndex, EndpointId),
        limits: &EndpointLimits,
        size: usize,
        overdraw: bool,
        now: Millis,
    ) -> Option<Millis> {
        if self.leases.len() <= index.index() {
            self.leases.resize(index.index() + 1, Lease::NONE);
        }
        self.total.charge(endpoint, limits, &mut self.leases[index.index()], size, overdraw, now)
    }
}

/// A publish above a rate that is not to be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RateExceeded;

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(messages: Option<u32>, bytes: Option<u64>) -> EndpointLimits {
        EndpointLimits {
            max_total_publish_per_second: messages,
            max_total_publish_bytes_per_second: bytes,
            ..EndpointLimits::default()
        }
    }

    /// Publishes as fast as it is let, on several shards, for ten seconds.
    fn published(limits: &EndpointLimits, shards: usize, size: usize) -> u64 {
        let (rates, mut leases) = (TotalRates::default(), vec![Lease::NONE; shards]);
        let mut resumes_at = vec![0; shards];
        let mut count = 0;
        for now in 0..10_000 {
            for (lease, resumes_at) in leases.iter_mut().zip(&mut resumes_at) {
                while *resumes_at <= now && count < 1_000_000 {
                    let debt_ms = rates.charge(EndpointId(1), limits, lease, size, true, now).unwrap();
                    *resumes_at = now + debt_ms;
                    count += 1;
                }
            }
        }
        count
    }

    #[test]
    fn all_shards_together_keep_an_endpoints_rates() {
        for shards in [1, 3] {
            // A second's worth at once, then ten seconds' worth; and what each shard may have taken in advance.
            let count = published(&limits(Some(1000), None), shards, 100);
            assert!((10_900..=11_100).contains(&count), "{shards}: {count}");
            let count = published(&limits(None, Some(100_000)), shards, 100);
            assert!((10_900..=11_100).contains(&count), "{shards}: {count}");
            let count = published(&limits(Some(1000), Some(50_000)), shards, 100);
            assert!((5_400..=5_600).contains(&count), "the stricter one: {shards}: {count}");
        }
    }

    #[test]
    fn without_overdraft_what_is_too_much_is_refused_and_costs_nothing() {
        let (rates, limits, mut lease) = (TotalRates::default(), limits(Some(10), None), Lease::NONE);
        let mut charge = |now| rates.charge(EndpointId(1), &limits, &mut lease, 1, false, now);
        assert_eq!((0..50).filter(|_| charge(0).is_some()).count(), 10);
        assert_eq!((0..50).filter(|_| charge(500).is_some()).count(), 5);
        assert_eq!((0..50).filter(|_| charge(60_000).is_some()).count(), 10);
    }

    #[test]
    fn a_changed_rate_holds_at_once() {
        let (rates, mut lease) = (TotalRates::default(), Lease::NONE);
        let mut charge =
            |rate, now| rates.charge(EndpointId(1), &limits(Some(rate), None), &mut lease, 1, false, now).is_some();
        assert_eq!((0..50).filter(|_| charge(10, 0)).count(), 10);
        assert_eq!((0..50).filter(|_| charge(20, 0)).count(), 20);
    }

    #[test]
    fn a_message_larger_than_a_seconds_worth_passes_a_full_bucket() {
        let limits = EndpointLimits { max_publish_bytes_per_second: Some(1000), ..EndpointLimits::default() };
        let mut rates = PublishRates::new(&limits, 0).unwrap();
        assert!(rates.try_charge(5000, 0));
        assert!(!rates.try_charge(1, 1000));
        assert!(rates.try_charge(1, 5000));
    }
}
