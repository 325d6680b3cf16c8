//! A service that fails again and again is left alone for a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub(super) struct Breaker {
    failures_max: u16,
    open_for: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    failures: u16,
    open_until: Option<Instant>,
}

impl Breaker {
    pub(super) fn new(failures_max: u16, open_for: Duration) -> Self {
        Self { failures_max: failures_max.max(1), open_for, state: Mutex::default() }
    }

    /// Whether the service is left alone now.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).open_until.is_some_and(|until| now < until)
    }

    /// Whether a question may go out now. When the time is over, one client's question tries the service, and the others
    /// go on being refused for as long again, unless it answers.
    pub(super) fn may_ask(&self, now: Instant) -> bool {
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

    pub(super) fn note(&self, answered: bool, now: Instant) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            *state = State::default();
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
    fn it_opens_after_failures_in_a_row_and_tries_once_when_the_time_is_over() {
        let breaker = Breaker::new(3, Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        for answered in [false, false, true, false, false] {
            breaker.note(answered, at(0));
            assert!(breaker.may_ask(at(0)) && !breaker.is_open(at(0)));
        }
        breaker.note(false, at(0));
        assert_eq!([breaker.may_ask(at(0)), breaker.may_ask(at(9))], [false, false]);
        assert_eq!([breaker.is_open(at(9)), breaker.is_open(at(10))], [true, false]);
        // One goes through; until it is known how it fared, the next does not.
        assert_eq!([breaker.may_ask(at(10)), breaker.may_ask(at(11))], [true, false]);
        breaker.note(false, at(12));
        assert_eq!([breaker.may_ask(at(21)), breaker.may_ask(at(22))], [false, true]);
        breaker.note(true, at(22));
        assert_eq!([breaker.may_ask(at(22)), breaker.may_ask(at(22))], [true, true]);
    }
}
