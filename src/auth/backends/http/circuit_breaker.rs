//! A circuit breaker: after failures in a row, a service is not asked for a while.
//!
//! Failures are counted for each source address, and one source counts once for all: a source whose requests make the
//! service time out closes the way for itself, and opens the circuit for all only together with others.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::auth::source_key::SourceKey;

/// Sources with failures that are remembered; beyond it all are forgotten.
const SOURCES_MAX: usize = 4096;

#[derive(Clone)]
pub(super) struct CircuitBreaker {
    failures_max: u16,
    open_for: Duration,
    state: Arc<Mutex<BreakerState>>,
}

#[derive(Default)]
struct BreakerState {
    /// The circuit of each source that failed.
    sources: HashMap<SourceKey, SourceCircuit>,
    /// Sources that failed since the last answer to any source: at most `failures_max`.
    failed: HashSet<SourceKey>,
    /// The circuit of all.
    open_until: Option<Instant>,
}

#[derive(Default)]
struct SourceCircuit {
    /// Since the last answer to this source.
    failures: u16,
    open_until: Option<Instant>,
}

/// A request that may be sent. Its result is recorded; a trial that is dropped without one, because its client has gone,
/// makes way for the trial of another source.
pub(super) struct Passage {
    breaker: CircuitBreaker,
    source: SourceKey,
    /// The one request of an open circuit whose time is over.
    trial: bool,
    recorded: bool,
}

impl CircuitBreaker {
    pub(super) fn new(failures_max: u16, open_for: Duration) -> Self {
        Self { failures_max: failures_max.max(1), open_for, state: Arc::default() }
    }

    /// Each change under the lock leaves a valid state.
    fn lock(&self) -> MutexGuard<'_, BreakerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether requests of `source` fail at once now.
    pub(super) fn is_open(&self, source: SourceKey, now: Instant) -> bool {
        let state = self.lock();
        let of_source = state.sources.get(&source).and_then(|circuit| circuit.open_until);
        [of_source, state.open_until].into_iter().flatten().any(|until| now < until)
    }

    /// A request of `source`, if it may be sent now. After the open time one request tries the service; unless it is
    /// answered, the circuit stays open for the same time again.
    pub(super) fn try_pass(&self, source: SourceKey, now: Instant) -> Option<Passage> {
        let mut guard = self.lock();
        let state = &mut *guard;
        let circuits =
            [state.sources.get_mut(&source).map(|circuit| &mut circuit.open_until), Some(&mut state.open_until)];
        let mut opened: Vec<&mut Instant> = circuits.into_iter().flatten().filter_map(Option::as_mut).collect();
        if opened.iter().any(|until| now < **until) {
            return None;
        }
        let trial = !opened.is_empty();
        opened.iter_mut().for_each(|until| **until = now + self.open_for);
        Some(Passage { breaker: self.clone(), source, trial, recorded: false })
    }

    fn record(&self, source: SourceKey, answered: bool, now: Instant) {
        let mut state = self.lock();
        if answered {
            state.sources.remove(&source);
            state.failed.clear();
            state.open_until = None;
            return;
        }
        if state.sources.len() >= SOURCES_MAX && !state.sources.contains_key(&source) {
            state.sources.clear();
        }
        let circuit = state.sources.entry(source).or_default();
        circuit.failures = circuit.failures.saturating_add(1);
        if circuit.failures >= self.failures_max {
            circuit.open_until = Some(now + self.open_for);
        }
        if state.failed.len() < usize::from(self.failures_max) {
            state.failed.insert(source);
        }
        if state.failed.len() >= usize::from(self.failures_max) {
            state.open_until = Some(now + self.open_for);
        }
    }
}

impl Passage {
    /// Records whether the service answered, whatever its answer was.
    pub(super) fn record(mut self, answered: bool, now: Instant) {
        self.recorded = true;
        self.breaker.record(self.source, answered, now);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if self.trial && !self.recorded {
            let now = Instant::now();
            let mut state = self.breaker.lock();
            if let Some(until) = &mut state.open_until {
                *until = now;
            }
            // The source had its trial: its own circuit is open for the whole time.
            if state.sources.len() < SOURCES_MAX {
                state.sources.entry(self.source).or_default().open_until = Some(now + self.breaker.open_for);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn source(number: u8) -> SourceKey {
        SourceKey::new(Some(SocketAddr::from(([192, 0, 2, number], 4000))))
    }

    /// Seconds after the start.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, seconds: u64) -> Instant {
            self.0 + Duration::from_secs(seconds)
        }
    }

    fn breaker() -> (CircuitBreaker, Clock) {
        (CircuitBreaker::new(3, Duration::from_secs(10)), Clock(Instant::now()))
    }

    #[test]
    fn opens_after_consecutive_failures_and_lets_one_request_pass_after_the_open_time() {
        let (breaker, clock) = breaker();
        let at = |seconds| clock.at(seconds);
        let one = source(1);
        for answered in [false, false, true, false, false] {
            breaker.try_pass(one, at(0)).unwrap().record(answered, at(0));
            assert!(!breaker.is_open(one, at(0)));
        }
        breaker.try_pass(one, at(0)).unwrap().record(false, at(0));
        assert_eq!([breaker.try_pass(one, at(0)).is_some(), breaker.try_pass(one, at(9)).is_some()], [false, false]);
        assert_eq!([breaker.is_open(one, at(9)), breaker.is_open(one, at(10))], [true, false]);
        // One request passes; until its result is recorded, the next does not.
        let trial = breaker.try_pass(one, at(10)).unwrap();
        assert!(breaker.try_pass(one, at(11)).is_none());
        trial.record(false, at(12));
        assert!(breaker.try_pass(one, at(21)).is_none());
        breaker.try_pass(one, at(22)).unwrap().record(true, at(22));
        let passes: Vec<_> = (0..2).map(|_| breaker.try_pass(one, at(22)).is_some()).collect();
        assert_eq!(passes, [true, true]);
    }

    /// The attack: requests of one source that always time out.
    #[test]
    fn one_source_opens_the_circuit_for_itself_only() {
        let (breaker, clock) = breaker();
        let (attacker, other) = (source(1), source(2));
        let in_flight: Vec<Passage> = (0..64).map(|_| breaker.try_pass(attacker, clock.at(0)).unwrap()).collect();
        in_flight.into_iter().for_each(|passage| passage.record(false, clock.at(1)));
        assert_eq!([breaker.is_open(attacker, clock.at(1)), breaker.is_open(other, clock.at(1))], [true, false]);
        assert!(breaker.try_pass(other, clock.at(1)).is_some());
    }

    #[test]
    fn failures_of_several_sources_open_the_circuit_for_all() {
        let (breaker, clock) = breaker();
        for number in 1..=3 {
            assert!(!breaker.is_open(source(9), clock.at(0)), "{number}");
            breaker.try_pass(source(number), clock.at(0)).unwrap().record(false, clock.at(0));
        }
        assert!(breaker.is_open(source(9), clock.at(0)));
        // A trial that its client leaves makes way for another source, and costs its own source the next one.
        let trial = breaker.try_pass(source(1), clock.at(10)).unwrap();
        assert!(breaker.try_pass(source(2), clock.at(10)).is_none());
        drop(trial);
        assert!(breaker.try_pass(source(1), clock.at(10)).is_none());
        breaker.try_pass(source(2), clock.at(10)).unwrap().record(true, clock.at(10));
        assert!(!breaker.is_open(source(9), clock.at(10)));
    }

    #[test]
    fn remembered_sources_are_bounded() {
        let (breaker, clock) = breaker();
        for number in 0..3 * SOURCES_MAX as u32 {
            let source = SourceKey::new(Some(SocketAddr::from((number.to_be_bytes(), 1))));
            breaker.record(source, false, clock.at(0));
        }
        let state = breaker.lock();
        assert!(state.sources.len() <= SOURCES_MAX && state.failed.len() <= 3);
    }
}
