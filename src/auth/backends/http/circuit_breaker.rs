//! A circuit breaker: after failures in a row, a service is not asked for a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct CircuitBreaker {
    failures_max: u16,
    open_for: Duration,
    state: Mutex<BreakerState>,
}

#[derive(Default)]
struct BreakerState {
    failures: u16,
    open_until: Option<Instant>,
}

impl CircuitBreaker {
    pub(super) fn new(failures_max: u16, open_for: Duration) -> Self {
        Self { failures_max: failures_max.max(1), open_for, state: Mutex::default() }
    }

    /// Whether requests fail at once now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open_until.is_some_and(|until| now < until)
    }

    /// Whether a request may be sent now. After the open time, one request tries the service; unless it is answered, the
    /// circuit stays open for the same time again.
    pub(super) fn try_pass(&self, now: Instant) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.open_until {
            Some(until) if now < until => false,
            Some(_) => {
                state.open_until = Some(now + self.open_for);
                true
            }
            None => true,
        }
    }

    /// Counts a result.
    pub(super) fn record(&self, answered: bool, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            *state = BreakerState::default();
            return;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= self.failures_max {
            state.open_until = Some(now + self.open_for);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_after_consecutive_failures_and_lets_one_request_pass_after_the_open_time() {
        let breaker = CircuitBreaker::new(3, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for answered in [false, false, true, false, false] {
            breaker.record(answered, at(0));
            assert!(breaker.try_pass(at(0)) && !breaker.is_open(at(0)));
        }
        breaker.record(false, at(0));
        assert_eq!([breaker.try_pass(at(0)), breaker.try_pass(at(9))], [false, false]);
        assert_eq!([breaker.is_open(at(9)), breaker.is_open(at(10))], [true, false]);
        // One request passes; until its result is recorded, the next does not.
        assert_eq!([breaker.try_pass(at(10)), breaker.try_pass(at(11))], [true, false]);
        breaker.record(false, at(12));
        assert_eq!([breaker.try_pass(at(21)), breaker.try_pass(at(22))], [false, true]);
        breaker.record(true, at(22));
        assert_eq!([breaker.try_pass(at(22)), breaker.try_pass(at(22))], [true, true]);
    }
}
