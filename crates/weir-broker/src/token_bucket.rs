//! The token bucket of every rate: of publishes in the core, of accepted connections in the server.

use crate::ids::Millis;

/// A bucket that holds one second's worth of tokens, fills at a rate, and may run into debt.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBucket {
    per_second: u64,
    /// Thousandths of a token.
    level: i64,
    refilled_at: Millis,
}

impl TokenBucket {
    /// A full bucket.
    pub fn new(per_second: u64, now: Millis) -> Self {
        Self { per_second, level: (per_second * 1000) as i64, refilled_at: now }
    }

    /// Its rate.
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Adds what the time since the last refill brings.
    pub fn refill(&mut self, now: Millis) {
        let gained = now.saturating_sub(self.refilled_at).saturating_mul(self.per_second);
        self.refilled_at = self.refilled_at.max(now);
        let gained = i64::try_from(gained).unwrap_or(i64::MAX);
        self.level = self.level.saturating_add(gained).min((self.per_second * 1000) as i64);
    }

    /// Whether `amount` is there, or as much as there can ever be.
    pub fn has(&self, amount: u64) -> bool {
        self.missing(amount) == 0
    }

    /// Milliseconds until [`TokenBucket::has`] holds for `amount`; 0: it holds now.
    pub fn wait_ms(&self, amount: u64) -> Millis {
        self.missing(amount).div_ceil(self.per_second.max(1))
    }

    /// Takes `amount`, even if it is not there; returns for how many milliseconds the bucket is in debt.
    pub fn charge(&mut self, amount: u64) -> Millis {
        self.level -= (amount * 1000) as i64;
        if self.level >= 0 { 0 } else { self.level.unsigned_abs().div_ceil(self.per_second.max(1)) }
    }

    /// Thousandths of a token.
    fn missing(&self, amount: u64) -> u64 {
        let wanted = (amount.min(self.per_second) * 1000) as i64;
        u64::try_from(wanted - self.level).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wait_ms_is_the_time_until_the_amount_is_there() {
        let mut bucket = TokenBucket::new(10, 0);
        assert_eq!((bucket.charge(10), bucket.wait_ms(1)), (0, 100));
        bucket.refill(99);
        assert_eq!((bucket.has(1), bucket.wait_ms(1)), (false, 1));
        bucket.refill(100);
        assert_eq!((bucket.has(1), bucket.wait_ms(1)), (true, 0));
        assert_eq!(bucket.charge(2), 100, "a debt of one token");
    }
}
