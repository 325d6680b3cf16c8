//! The rate at which a listener accepts connections.

use std::time::{Duration, Instant};

use weir_broker::{Millis, TokenBucket};

/// The wait at a rate of 0, which never accepts a connection: the caller asks again in an hour.
const WAIT_AT_RATE_0: Duration = Duration::from_secs(3600);

/// Admits `per_s` connections a second; the burst is one second's worth.
#[derive(Debug, Clone)]
pub(super) struct AcceptRate {
    per_s: u32,
    bucket: TokenBucket,
    /// Time 0 of the bucket.
    started: Instant,
}

impl AcceptRate {
    pub(super) fn new(per_s: u32, now: Instant) -> Self {
        Self { per_s, bucket: TokenBucket::new(u64::from(per_s), 0), started: now }
    }

    pub(super) fn per_s(&self) -> u32 {
        self.per_s
    }

    /// The wait until the next connection may be accepted; `None`: it may be accepted now.
    pub(super) fn wait(&mut self, now: Instant) -> Option<Duration> {
        if self.per_s == 0 {
            return Some(WAIT_AT_RATE_0);
        }
        let elapsed = now.saturating_duration_since(self.started).as_millis();
        self.bucket.refill(Millis::try_from(elapsed).unwrap_or(Millis::MAX));
        let wait_ms = self.bucket.wait_ms(1);
        (wait_ms > 0).then(|| Duration::from_millis(wait_ms))
    }

    /// Spends one token, for an accepted connection.
    pub(super) fn spend(&mut self) {
        self.bucket.charge(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admit(rate: &mut AcceptRate, now: Instant) -> bool {
        let admitted = rate.wait(now).is_none();
        if admitted {
            rate.spend();
        }
        admitted
    }

    #[test]
    fn admits_a_burst_then_the_rate() {
        let start = Instant::now();
        let mut rate = AcceptRate::new(10, start);
        assert_eq!((0..100).filter(|_| admit(&mut rate, start)).count(), 10);
        let wait = rate.wait(start).unwrap();
        assert!(wait <= Duration::from_millis(100) && wait > Duration::from_millis(99), "{wait:?}");
        let admitted = (1..=1000).filter(|ms| admit(&mut rate, start + Duration::from_millis(*ms))).count();
        assert!((9..=10).contains(&admitted), "{admitted}");
        // The burst is one second's worth, however long the bucket was idle.
        let later = start + Duration::from_secs(100);
        assert_eq!((0..100).filter(|_| admit(&mut rate, later)).count(), 10);
    }

    #[test]
    fn a_rate_of_one_admits_one_a_second() {
        let start = Instant::now();
        let mut rate = AcceptRate::new(1, start);
        assert!(admit(&mut rate, start));
        assert!(!admit(&mut rate, start));
        assert!(admit(&mut rate, start + Duration::from_millis(1001)));
    }

    #[test]
    fn a_rate_of_zero_admits_no_connection() {
        let start = Instant::now();
        let mut rate = AcceptRate::new(0, start);
        assert!(!admit(&mut rate, start));
        assert!(!admit(&mut rate, start + Duration::from_secs(1_000_000)));
    }
}
