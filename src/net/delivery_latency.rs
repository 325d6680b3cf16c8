//! Delivery latency inside a shard, sampled per turn of the event loop, so that messages carry no timestamp.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// One turn of the event loop in this many is sampled.
pub(super) const ONE_TURN_IN: u32 = 32;

/// Histogram of the time from reading a PUBLISH to writing it to its subscribers' sockets, in turns that delivered
/// something. A message that waits for a slow subscriber, or is forwarded to another shard, is delivered by a later
/// turn and counts there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliverDurations {
    /// Sampled turns per bucket: at most each of [`DeliverDurations::BOUNDS_US`] and above the one before; the last:
    /// above all of them.
    pub counts: [u64; Self::BOUNDS_US.len() + 1],
    pub sum_ns: u64,
}

impl DeliverDurations {
    /// Upper bounds of the buckets, microseconds.
    pub const BOUNDS_US: [u64; 10] = [10, 25, 50, 100, 250, 500, 1_000, 5_000, 25_000, 100_000];
}

/// The counts of all shards.
#[derive(Debug, Default)]
pub(super) struct DeliveryLatency {
    counts: [AtomicU64; DeliverDurations::BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl DeliveryLatency {
    pub(super) fn observe(&self, duration: Duration) {
        let us = duration.as_micros();
        let bounds = DeliverDurations::BOUNDS_US;
        let index = bounds.iter().position(|&bound| us <= u128::from(bound)).unwrap_or(bounds.len());
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> DeliverDurations {
        let mut counts = [0; DeliverDurations::BOUNDS_US.len() + 1];
        for (count, counted) in counts.iter_mut().zip(&self.counts) {
            *count = counted.load(Ordering::Relaxed);
        }
        DeliverDurations { counts, sum_ns: self.sum_ns.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_counts_in_the_first_bound_that_holds_it() {
        let delivery_latency = DeliveryLatency::default();
        for us in [10, 11, 100_000, 100_001] {
            delivery_latency.observe(Duration::from_micros(us));
        }
        let read = delivery_latency.read();
        assert_eq!(read.counts, [1, 1, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
        assert_eq!(read.sum_ns, 200_022_000);
    }
}
