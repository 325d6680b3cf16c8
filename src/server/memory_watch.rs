//! Watches memory and shards: returns freed pages to the system, reports what was refused for want of memory, warns before
//! memory runs out and when a shard answers late.

use std::time::{Duration, Instant};

use crate::kernel::{memory_limit_bytes, resident_bytes};
use crate::net::DataPlane;
use weir_broker::{MemoryAccount, MemoryKind};

const CHECK_EVERY: Duration = Duration::from_secs(5);
/// Percent of the memory limit: a warning above the first, and another one only after use fell below the second.
const MEMORY_HIGH: u64 = 85;
const MEMORY_NORMAL: u64 = 75;
/// Checks between two reports that a kind's share of the memory is used up: a minute.
const REPORT_EVERY: u32 = 12;
/// The growth above the least use, in bytes and as a part of it, from which on the allocator is trimmed.
const TRIM_FROM_BYTES: u64 = 64 << 20;
const TRIM_FROM_PART: u64 = 4;
/// Checks between two trims at most: five minutes.
const SKIPPED_MAX: u32 = 60;
/// A shard that takes so long to answer delays all of its clients.
const SHARD_SLOW: Duration = Duration::from_secs(1);

/// When to trim the allocator: once memory that had grown stops growing, then again at doubling intervals for as long
/// as use stays high, because memory that is freed later does not show. By itself glibc keeps every page below one that
/// is still in use: after a burst of clients, most of them.
#[derive(Debug)]
struct Trim {
    /// Resident bytes at the last check, and the least of all since the start.
    last: u64,
    least: u64,
    /// Checks to skip before the next trim, and how many this interval has.
    skip: u32,
    interval: u32,
}

impl Trim {
    fn new(used: u64) -> Self {
        Self { last: used, least: used, skip: 0, interval: 0 }
    }

    fn is_due(&mut self, used: u64) -> bool {
        let is_stable = used <= self.last + self.last / 64;
        self.last = used;
        self.least = self.least.min(used);
        if used < self.least + TRIM_FROM_BYTES.max(self.least / TRIM_FROM_PART) {
            (self.skip, self.interval) = (0, 0);
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        is_stable
    }

    fn is_done(&mut self, used: u64) {
        self.last = used;
        self.interval = (self.interval * 2 + 1).min(SKIPPED_MAX);
        self.skip = self.interval;
    }
}

/// Reports what was refused because a kind of memory is used up, at most once in [`REPORT_EVERY`] checks for each kind.
#[derive(Debug, Default)]
struct Refusals {
    reported: [u64; MemoryKind::ALL.len()],
    skip: [u32; MemoryKind::ALL.len()],
}

impl Refusals {
    fn check(&mut self, memory: &MemoryAccount) {
        for kind in MemoryKind::ALL {
            let (reported, skip) = (&mut self.reported[kind as usize], &mut self.skip[kind as usize]);
            *skip = skip.saturating_sub(1);
            let refusals = memory.refusals(kind);
            if refusals == *reported || *skip > 0 {
                continue;
            }
            let (refused, used_bytes, limit_bytes) = (refusals - *reported, memory.used(kind), memory.limit(kind));
            (*reported, *skip) = (refusals, REPORT_EVERY);
            tracing::warn!(
                kind = kind.label(),
                refused,
                used_bytes,
                limit_bytes,
                "memory share exceeded: lower the limits of endpoints, or give the broker more memory (--memory)"
            );
        }
    }
}

/// Returns free pages to the system.
async fn trim_allocator() {
    #[cfg(target_env = "gnu")]
    {
        let began = Instant::now();
        // SAFETY: glibc's own call, thread-safe, without pointers; Rust's memory comes from its `malloc`. There is no
        // safe wrapper.
        #[allow(unsafe_code)]
        let trim = || unsafe { libc::malloc_trim(0) };
        let Ok(trimmed) = tokio::task::spawn_blocking(trim).await else { return };
        tracing::debug!(trimmed = trimmed == 1, took_us = began.elapsed().as_micros(), "allocator trimmed");
    }
}

/// Checks periodically until the data plane stops.
pub(super) async fn watch(plane: DataPlane) {
    let limit_bytes = memory_limit_bytes();
    let mut high = false;
    let mut trim = Trim::new(resident_bytes().unwrap_or_default());
    let mut refusals = Refusals::default();
    loop {
        tokio::time::sleep(CHECK_EVERY).await;
        refusals.check(plane.memory());
        if resident_bytes().is_some_and(|used| trim.is_due(used)) {
            trim_allocator().await;
            trim.is_done(resident_bytes().unwrap_or_default());
        }
        if let (Some(limit_bytes), Some(used_bytes)) = (limit_bytes, resident_bytes()) {
            let now_high = is_high(used_bytes, limit_bytes, high);
            if now_high && !high {
                tracing::warn!(
                    used_bytes,
                    limit_bytes,
                    "memory use is near its limit: GET /api/clients/slowest and /api/topics show the largest queues"
                );
            }
            high = now_high;
        }
        let asked = Instant::now();
        if plane.ping_shards().await.is_err() {
            return;
        }
        let took = asked.elapsed();
        if took > SHARD_SLOW {
            let took_ms = took.as_millis();
            tracing::warn!(took_ms, "shard answered late: the machine is busy, or the shard is blocked");
        }
    }
}

fn is_high(used_bytes: u64, limit_bytes: u64, was_high: bool) -> bool {
    let bound = if was_high { MEMORY_NORMAL } else { MEMORY_HIGH };
    u128::from(used_bytes) * 100 >= u128::from(limit_bytes) * u128::from(bound)
}

#[cfg(test)]
mod tests {
    use super::{Trim, is_high};

    #[test]
    fn the_allocator_is_trimmed_once_memory_stops_growing() {
        let mut trim = Trim::new(30 << 20);
        assert!(!trim.is_due(400 << 20) && trim.is_due(400 << 20), "growth before the first check");
        let mut trim = Trim::new(30 << 20);
        let mut looks = |used: &[u64]| used.iter().map(|mib| trim.is_due(mib << 20)).collect::<Vec<_>>();
        assert_eq!(looks(&[30, 40, 500, 700, 700]), [false, false, false, false, true]);
        trim.is_done(600 << 20);
        assert!(!trim.is_due(600 << 20) && trim.is_due(600 << 20), "freed since the last trim");
        trim.is_done(600 << 20);
        let mut looks = |used: &[u64]| used.iter().map(|mib| trim.is_due(mib << 20)).collect::<Vec<_>>();
        assert_eq!(looks(&[600, 600, 600, 600]), [false, false, false, true], "at doubling intervals");
        trim.is_done(50 << 20);
        assert!(!trim.is_due(50 << 20) && !trim.is_due(120 << 20) && trim.is_due(115 << 20));
    }

    #[test]
    fn high_memory_warns_once_until_use_is_normal_again() {
        let mut high = false;
        let warned: Vec<bool> = [84, 85, 80, 90, 74, 86]
            .map(|used| {
                high = is_high(used, 100, high);
                high
            })
            .to_vec();
        assert_eq!(warned, [false, true, true, true, false, true]);
    }
}
