//! Warnings before it hurts: memory near its bound, shards that take long to come round.

use std::time::{Duration, Instant};

use crate::net::DataPlane;
use crate::status::{memory_limit_bytes, resident_bytes};

const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Shares of the memory bound, in percent: warned above the first, and again only after falling below the second.
const MEMORY_HIGH: u64 = 85;
const MEMORY_CALM: u64 = 75;
/// A shard that takes so long to answer delays everything its clients send.
const TURN_LONG: Duration = Duration::from_secs(1);

/// Looks now and then, until the data plane stops.
pub(super) async fn watch(plane: DataPlane) {
    let limit_bytes = memory_limit_bytes();
    let mut high = false;
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
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
        if plane.pulse().await.is_err() {
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
    use super::is_high;

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
