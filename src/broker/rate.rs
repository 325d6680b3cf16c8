//! Rates a client may publish at: buckets that may run into debt, and how long the debt takes.

use super::{EndpointLimits, Millis};

/// A token bucket that holds one second's worth. What does not fit is taken all the same: the client then waits.
#[derive(Debug, Clone, PartialEq)]
struct Bucket {
    per_second: u64,
    /// Thousandths of a token.
    level: i64,
    refilled_at: Millis,
}

impl Bucket {
    fn new(per_second: u64, now: Millis) -> Self {
        Self { per_second, level: (per_second * 1000) as i64, refilled_at: now }
    }

    /// Takes `amount`; answers for how many milliseconds the bucket is in debt.
    fn take(&mut self, amount: u64, now: Millis) -> Millis {
        let passed = now.saturating_sub(self.refilled_at).min(1000);
        self.refilled_at = now;
        let full = (self.per_second * 1000) as i64;
        self.level = (self.level + (passed * self.per_second) as i64).min(full) - (amount * 1000) as i64;
        if self.level >= 0 { 0 } else { (-self.level as u64).div_ceil(self.per_second.max(1)) }
    }
}

/// A client's rates.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rates {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Rates {
    /// `None` where the endpoint limits neither.
    pub(super) fn new(limits: &EndpointLimits, now: Millis) -> Option<Self> {
        let messages = limits.max_publish_rate.map(|rate| Bucket::new(u64::from(rate), now));
        let bytes = limits.max_publish_bytes_rate.map(|rate| Bucket::new(rate, now));
        (messages.is_some() || bytes.is_some()).then_some(Self { messages, bytes })
    }

    /// Counts one publish of `size` bytes; answers for how long reading has to pause.
    pub(super) fn take(&mut self, size: usize, now: Millis) -> Millis {
        let messages = self.messages.as_mut().map_or(0, |bucket| bucket.take(1, now));
        let bytes = self.bytes.as_mut().map_or(0, |bucket| bucket.take(size as u64, now));
        messages.max(bytes)
    }
}
