//! Counters of authentications that were dropped, and of full tables, over the whole process.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter of the process.
#[derive(Debug)]
pub(crate) struct Count(AtomicU64);

impl Count {
    const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }
}

/// Attempts that were dropped before a password was hashed or a service was asked.
pub(crate) mod dropped {
    use super::Count;

    /// Its source has too many waiting attempts.
    pub(crate) static SOURCE_BUSY: Count = Count::new();
    /// Its endpoint has too many waiting attempts.
    pub(crate) static ENDPOINT_BUSY: Count = Count::new();
    /// Its connection was closed while it waited.
    pub(crate) static CONNECTION_CLOSED: Count = Count::new();
    /// Its source or user reached the limit of failures while it waited.
    pub(crate) static RATE_LIMIT: Count = Count::new();
}

/// Entries that full tables gave up while they still counted.
pub(crate) mod evicted {
    use super::Count;

    /// Failures by source and user name.
    pub(crate) static USER_FAILURES: Count = Count::new();
    /// Failures by source.
    pub(crate) static SOURCE_FAILURES: Count = Count::new();
    /// Connects by client id.
    pub(crate) static CONNECTS: Count = Count::new();
    /// Clients banned for flapping.
    pub(crate) static FLAPPING_BANS: Count = Count::new();
}

const DROPPED: [(&str, &Count); 4] = [
    ("source_busy", &dropped::SOURCE_BUSY),
    ("endpoint_busy", &dropped::ENDPOINT_BUSY),
    ("connection_closed", &dropped::CONNECTION_CLOSED),
    ("rate_limit", &dropped::RATE_LIMIT),
];

const EVICTED: [(&str, &Count); 4] = [
    ("user_failures", &evicted::USER_FAILURES),
    ("source_failures", &evicted::SOURCE_FAILURES),
    ("connects", &evicted::CONNECTS),
    ("flapping_bans", &evicted::FLAPPING_BANS),
];

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthCounts {
    /// Authentications that were dropped before a password was hashed or a service was asked, by reason.
    pub dropped: [(&'static str, u64); 4],
    /// Entries that full tables of recent attempts gave up while they still counted, by table.
    pub evicted: [(&'static str, u64); 4],
}

impl AuthCounts {
    /// The counters of this process.
    pub fn read() -> Self {
        let read = |(name, count): (&'static str, &Count)| (name, count.0.load(Ordering::Relaxed));
        Self { dropped: DROPPED.map(read), evicted: EVICTED.map(read) }
    }
}

/// All zero.
impl Default for AuthCounts {
    fn default() -> Self {
        Self { dropped: DROPPED.map(|(name, _)| (name, 0)), evicted: EVICTED.map(|(name, _)| (name, 0)) }
    }
}
