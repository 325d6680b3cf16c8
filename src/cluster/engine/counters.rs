//! What the engine's client counts, for metrics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counters of one engine. They only grow.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub(super) $name: Counter,)* }

        /// The values of all counters at one moment.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct EngineCounts { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            pub(super) fn read(&self) -> EngineCounts {
                EngineCounts { $($name: self.$name.get(),)* }
            }
        }
    };
}

counters! {
    envelopes_sent,
    envelope_bytes_sent,
    /// Envelopes that were not sent, because the client's buffer was full or there was no connection.
    envelopes_refused,
    envelopes_received,
    envelope_bytes_received,
    /// Messages that the client dropped because this node read too slowly. Links send them again.
    slow_consumer_drops,
    heartbeats_acked,
    heartbeats_failed,
    /// From sending to the acknowledgement, in microseconds.
    heartbeat_us_sum,
    retained_acked,
    retained_bytes_acked,
    retained_failed,
    /// Attempts to store that were made again.
    retained_retries,
    /// From sending to the acknowledgement, with all attempts, in microseconds.
    retained_us_sum,
    retained_read,
    retained_bytes_read,
    /// Slot tables that were not stored: another node was first, or the engine did not answer.
    slots_writes_failed,
    /// Times that reading a stream began, the first time of each stream included.
    readers_opened,
    /// Connections that were made, the first of each client included.
    connections,
    disconnections,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn one(&self) {
        self.add(1);
    }

    pub(super) fn micros(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
