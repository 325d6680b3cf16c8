//! A timer that wakes a shard's event loop at its next deadline.
//!
//! The kernel arms and cancels a time-out of `epoll_wait` for each sleep; when messages come one by one, that is once
//! per message: 4% of a shard's CPU and 5 us of latency. A timerfd stays armed across sleeps.

use std::time::Duration;

use mio::{Registry, Token};

use weir_broker::Millis;

/// A timer that expires as an event with a given token.
pub(super) struct WakeTimer {
    timer: timer::Timer,
    /// When the timer expires next; `Millis::MAX`: it is not armed.
    at: Millis,
}

impl WakeTimer {
    pub(super) fn new(registry: &Registry, token: Token) -> std::io::Result<Self> {
        Ok(Self { timer: timer::Timer::new(registry, token)?, at: Millis::MAX })
    }

    /// The time-out for the poll so that the loop wakes at `at` at the latest (`Millis::MAX`: no deadline).
    pub(super) fn sleep_until(&mut self, at: Millis, now: Millis) -> Option<Duration> {
        if self.at <= now {
            self.at = Millis::MAX;
        }
        let left = Duration::from_millis(at.saturating_sub(now));
        if at == Millis::MAX || (at >= self.at && !left.is_zero()) {
            // An earlier expiry stays armed: it costs one wake-up, and arming the timer costs as much.
            return None;
        }
        if left.is_zero() || !self.timer.set(left) {
            return Some(left);
        }
        self.at = at;
        None
    }
}

#[cfg(target_os = "linux")]
mod timer {
    use std::io;
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::time::Duration;

    use mio::unix::SourceFd;
    use mio::{Interest, Registry, Token};
    use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime};

    /// A timerfd. It is watched edge-triggered, so it is never read: each expiry is an edge.
    pub(super) struct Timer(OwnedFd);

    impl Timer {
        pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Self(timer))
        }

        /// Arms the timer to expire once, `after` from now (not zero). `false`: it failed.
        pub(super) fn set(&self, after: Duration) -> bool {
            let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            let Ok(it_value) = after.try_into() else { return false };
            let once = Itimerspec { it_interval: zero, it_value };
            timerfd_settime(&self.0, TimerfdTimerFlags::empty(), &once).is_ok()
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod timer {
    use std::time::Duration;

    use mio::{Registry, Token};

    /// Without timerfd the poll's time-outs are used.
    pub(super) struct Timer;

    impl Timer {
        pub(super) fn new(_registry: &Registry, _token: Token) -> std::io::Result<Self> {
            Ok(Self)
        }

        pub(super) fn set(&self, _after: Duration) -> bool {
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use mio::{Events, Poll};

    use super::*;

    const WAKE_TIMER: Token = Token(7);

    /// Runs a loop until the clock, in milliseconds since `start`, reads `at`; returns the number of wake-ups.
    fn wakes_until(wake_timer: &mut WakeTimer, poll: &mut Poll, start: Instant, at: Millis) -> usize {
        let mut events = Events::with_capacity(4);
        for wakes in 0..1000 {
            let now = start.elapsed().as_millis() as Millis;
            if now >= at {
                return wakes;
            }
            let timeout = wake_timer.sleep_until(at, now);
            poll.poll(&mut events, timeout).unwrap();
        }
        panic!("a loop that is woken a thousand times in {at} ms spins");
    }

    #[test]
    fn a_loop_wakes_at_each_deadline() {
        let mut poll = Poll::new().unwrap();
        let mut wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER).unwrap();
        let start = Instant::now();
        for at in [5, 6, 30, 31, 60] {
            let wakes = wakes_until(&mut wake_timer, &mut poll, start, at);
            assert!(wakes <= 3, "{wakes} wakes until {at} ms");
        }
    }

    #[test]
    fn a_deadline_before_the_armed_expiry_wakes_the_loop_in_time() {
        let mut poll = Poll::new().unwrap();
        let mut wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER).unwrap();
        let start = Instant::now();
        let far = 3_600_000;
        assert!(wake_timer.sleep_until(far, 0).is_none_or(|timeout| timeout >= Duration::from_secs(3_600)));
        wakes_until(&mut wake_timer, &mut poll, start, 10);
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn a_deadline_that_has_passed_does_not_sleep() {
        let poll = Poll::new().unwrap();
        let mut wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER).unwrap();
        assert_eq!(wake_timer.sleep_until(5, 5), Some(Duration::ZERO));
        assert_eq!(wake_timer.sleep_until(4, 5), Some(Duration::ZERO));
        assert_eq!(wake_timer.sleep_until(Millis::MAX, 5), None);
    }
}
