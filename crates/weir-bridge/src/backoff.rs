//! Pauses between connection attempts.

use super::Millis;

/// Exponential backoff with jitter: the pause doubles from a minimum to a maximum, and each one is shortened at random
/// by up to a half, so that links that failed together do not reconnect together.
#[derive(Debug, Clone)]
pub struct Backoff {
    min_ms: Millis,
    max_ms: Millis,
    next_ms: Millis,
}

impl Backoff {
    /// `min_ms` is the first pause, `max_ms` the longest.
    pub fn new(min_ms: u32, max_ms: u32) -> Self {
        let min_ms = Millis::from(min_ms);
        Self { min_ms, max_ms: Millis::from(max_ms).max(min_ms), next_ms: min_ms }
    }

    /// The next pause, milliseconds. `random` is any random number.
    pub fn pause_ms(&mut self, random: u64) -> Millis {
        let whole = self.next_ms;
        self.next_ms = whole.saturating_mul(2).min(self.max_ms);
        let half = whole / 2;
        whole - random % (half + 1)
    }

    /// Resets the next pause to the minimum, after a successful attempt.
    pub fn reset(&mut self) {
        self.next_ms = self.min_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_maximum_with_jitter_of_a_half() {
        let mut longest = Backoff::new(500, 3_000);
        let pauses: Vec<_> = (0..5).map(|_| longest.pause_ms(0)).collect();
        assert_eq!(pauses, [500, 1_000, 2_000, 3_000, 3_000]);
        longest.reset();
        assert_eq!(longest.pause_ms(u64::MAX), 500 - u64::MAX % 251);
        for random in 0..1_000 {
            let pause = Backoff::new(500, 3_000).pause_ms(random);
            assert!((250..=500).contains(&pause), "{pause}");
        }
        // A minimum above the maximum cannot be declared; here the minimum applies.
        assert_eq!(Backoff::new(10, 5).pause_ms(0), 10);
    }
}
