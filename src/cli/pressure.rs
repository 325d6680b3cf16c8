//! Memory: how much of it queues may take, what the allocator has too much of, a warning before it runs out. And shards
//! that take long to come round.

use std::time::{Duration, Instant};

use crate::net::DataPlane;
use crate::status::{memory_limit_bytes, resident_bytes};

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Shares of the memory bound, in percent: warned above the first, and again only after falling below the second.
const MEMORY_HIGH: u64 = 85;
const MEMORY_CALM: u64 = 75;
/// Queues may hold one part in so many of the memory there is.
const QUEUES_PART_OF_MEMORY: u64 = 4;
/// Growth since the allocator last gave back what it has, in bytes and as a part of what there was, from which on it does so
/// again.
const TRIM_FROM_BYTES: u64 = 64 << 20;
const TRIM_FROM_PART: u64 = 4;
/// Looks between two times at most: five minutes.
const PASSED_OVER_MAX: u32 = 60;
/// A shard that takes so long to answer delays everything its clients send.
const TURN_LONG: Duration = Duration::from_secs(1);

/// What all queues together may hold, where it is known how much memory there is.
pub(super) fn queued_max_bytes() -> Option<usize> {
    usize::try_from(memory_limit_bytes()? / QUEUES_PART_OF_MEMORY).ok()
}

/// When the allocator gives memory back: once what had grown grows no more, and then again and again, ever more rarely, as
/// long as there is so much: what is freed later does not show. By itself the allocator keeps what lies below anything that is
/// still in use: after a rush, most of it.
#[derive(Debug)]
struct Trim {
    /// Resident at the last look, and the least of all, the start among them.
    last: u64,
    least: u64,
    /// Looks to pass over before the next time, and how many they were this time.
    pass_over: u32,
    passed_over: u32,
}

impl Trim {
    fn new(used: u64) -> Self {
        Self { last: used, least: used, pass_over: 0, passed_over: 0 }
    }

    fn is_due(&mut self, used: u64) -> bool {
        let calm = used <= self.last + self.last / 64;
        self.last = used;
        self.least = self.least.min(used);
        if used < self.least + TRIM_FROM_BYTES.max(self.least / TRIM_FROM_PART) {
            (self.pass_over, self.passed_over) = (0, 0);
            return false;
        }
        if self.pass_over > 0 {
            self.pass_over -= 1;
            return false;
        }
        calm
    }

    fn is_done(&mut self, used: u64) {
        self.last = used;
        self.passed_over = (self.passed_over * 2 + 1).min(PASSED_OVER_MAX);
        self.pass_over = self.passed_over;
    }
}

/// Gives pages that nothing lies on back to the system.
async fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    {
        let began = Instant::now();
        // SAFETY: glibc's own call, thread-safe, without pointers; Rust's memory is what its `malloc` gave out. No safe
        // wrapper knows it.
        #[allow(unsafe_code)]
        let trim = || unsafe { libc::malloc_trim(0) };
        let Ok(gave) = tokio::task::spawn_blocking(trim).await else { return };
        tracing::debug!(gave = gave == 1, took_us = began.elapsed().as_micros(), "free memory goes back to the system");
    }
}

/// Looks now and then, until the data plane stops.
pub(super) async fn watch(plane: DataPlane) {
    let limit_bytes = memory_limit_bytes();
    let mut high = false;
    let mut trim = Trim::new(resident_bytes().unwrap_or_default());
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        if resident_bytes().is_some_and(|used| trim.is_due(used)) {
            give_back_memory().await;
            trim.is_done(resident_bytes().unwrap_or_default());
        }
        if let (Some(limit_bytes), Some(used_bytes)) = (limit_bytes, resident_bytes()) {
            let now_high = is_high(used_bytes, limit_bytes, high);
            if now_high && !high {
                tracing::warn!(
                    used_bytes,
                    limit_bytes,
                    "memory is near its bound; GET /api/clients/slowest and /api/topics show who holds it"
                );
            }
            high = now_high;
        }
        let asked = Instant::now();
        if plane.ping_shards().await.is_err() {
            return;
        }
        let took = asked.elapsed();
        if took > TURN_LONG {
            let took_ms = took.as_millis();
            tracing::warn!(took_ms, "a shard took long to come round: the machine is busy, or something blocks it");
        }
    }
}

fn is_high(used_bytes: u64, limit_bytes: u64, was_high: bool) -> bool {
    let bound = if was_high { MEMORY_CALM } else { MEMORY_HIGH };
    u128::from(used_bytes) * 100 >= u128::from(limit_bytes) * u128::from(bound)
}

#[cfg(test)]
mod tests {
    use super::{Trim, is_high};

    #[test]
    fn memory_is_given_back_once_it_grows_no_more() {
        let mut trim = Trim::new(30 << 20);
        assert!(!trim.is_due(400 << 20) && trim.is_due(400 << 20), "what came before the first look");
        let mut trim = Trim::new(30 << 20);
        let mut looks = |used: &[u64]| used.iter().map(|mib| trim.is_due(mib << 20)).collect::<Vec<_>>();
        assert_eq!(looks(&[30, 40, 500, 700, 700]), [false, false, false, false, true]);
        trim.is_done(600 << 20);
        assert!(!trim.is_due(600 << 20) && trim.is_due(600 << 20), "what was freed since");
        trim.is_done(600 << 20);
        let mut looks = |used: &[u64]| used.iter().map(|mib| trim.is_due(mib << 20)).collect::<Vec<_>>();
        assert_eq!(looks(&[600, 600, 600, 600]), [false, false, false, true], "ever more rarely");
        trim.is_done(50 << 20);
        assert!(!trim.is_due(50 << 20) && !trim.is_due(120 << 20) && trim.is_due(115 << 20));
    }

    #[test]
    fn memory_is_warned_of_once_until_it_is_calm_again() {
        let mut high = false;
        let told: Vec<bool> = [84, 85, 80, 90, 74, 86]
            .map(|used| {
                high = is_high(used, 100, high);
                high
            })
            .to_vec();
        assert_eq!(told, [false, true, true, true, false, true]);
    }
}
