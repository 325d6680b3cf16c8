//! Counters of authentications that were dropped, and of full tables, of one server.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A counter; clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Count(Arc<AtomicU64>);

impl Count {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The counters of a server; clones count together.
#[derive(Debug, Clone, Default)]
pub struct AuthCounters {
    pub(crate) dropped: DroppedCounters,
    pub(crate) evicted: EvictedCounters,
    pub(crate) custom_failures: CustomFailureCounters,
}

/// Calls of authenticators of the program that failed.
#[derive(Debug, Clone, Default)]
pub(crate) struct CustomFailureCounters {
    /// The authenticator panicked.
    pub(crate) panic: Count,
    /// The authenticator did not answer in time.
    pub(crate) timeout: Count,
}

/// Attempts that were dropped before a password was hashed or a service was asked.
#[derive(Debug, Clone, Default)]
pub(crate) struct DroppedCounters {
    /// Its source has too many waiting attempts.
    pub(crate) source_busy: Count,
    /// Its endpoint has too many waiting attempts.
    pub(crate) endpoint_busy: Count,
    /// Its connection was closed while it waited.
    pub(crate) connection_closed: Count,
    /// Its source or user reached the limit of failures while it waited.
    pub(crate) rate_limit: Count,
}

/// Entries that full tables gave up while they still counted.
#[derive(Debug, Clone, Default)]
pub(crate) struct EvictedCounters {
    /// Failures by source and user name.
    pub(crate) user_failures: Count,
    /// Failures by source.
    pub(crate) source_failures: Count,
    /// Connects by client id.
    pub(crate) connects: Count,
    /// Clients banned for flapping.
    pub(crate) flapping_bans: Count,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AuthCounts {
    /// Authentications that were dropped before a password was hashed or a service was asked, by reason.
    pub dropped: [(&'static str, u64); 4],
    /// Entries that full tables of recent attempts gave up while they still counted, by table.
    pub evicted: [(&'static str, u64); 4],
    /// Calls of authenticators of the program that failed, by reason.
    pub custom_failures: [(&'static str, u64); 2],
}

impl AuthCounters {
    /// The counters now.
    pub fn read(&self) -> AuthCounts {
        let Self { dropped, evicted, custom_failures } = self;
        AuthCounts {
            dropped: [
                ("source_busy", dropped.source_busy.read()),
                ("endpoint_busy", dropped.endpoint_busy.read()),
                ("connection_closed", dropped.connection_closed.read()),
                ("rate_limit", dropped.rate_limit.read()),
            ],
            evicted: [
                ("user_failures", evicted.user_failures.read()),
                ("source_failures", evicted.source_failures.read()),
                ("connects", evicted.connects.read()),
                ("flapping_bans", evicted.flapping_bans.read()),
            ],
            custom_failures: [("panic", custom_failures.panic.read()), ("timeout", custom_failures.timeout.read())],
        }
    }
}

/// All zero.
impl Default for AuthCounts {
    fn default() -> Self {
        AuthCounters::default().read()
    }
}
