//! A shard's wake_timer: wakes its loop when something is due.
//!
//! A time-out given to `epoll_wait` is set and cancelled anew by the kernel for each sleep, and where messages come one
//! by one that is once a message: 4% of a shard's CPU and 5 us of the latency. A timer of its own stands across sleeps.

use std::time::Duration;

use mio::{Registry, Token};

use weir_broker::Millis;

/// Goes off as an event with the token it was made with.
pub(super) struct WakeTimer {
    timer: timer::Timer,
    /// When the timer goes off next; `Millis::MAX`: not at all.
    at: Millis,
}

impl WakeTimer {
    pub(super) fn new(registry: &Registry, token: Token) -> std::io::Result<Self> {
        Ok(Self { timer: timer::Timer::new(registry, token)?, at: Millis::MAX })
    }

    /// The poll's time-out with which the loop wakes at `at` at the latest (`Millis::MAX`: it need not).
    pub(super) fn sleep_until(&mut self, at: Millis, now: Millis) -> Option<Duration> {
        if self.at <= now {
            self.at = Millis::MAX;
        }
        let left = Duration::from_millis(at.saturating_sub(now));
        if at == Millis::MAX || (at >= self.at && !left.is_zero()) {
            // One that was set for earlier stands: it costs a wake, setting it costs one too.
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

    /// A timerfd. Watched by edges, so that it need never be read: each going off is an edge.
    pub(super) struct Timer(OwnedFd);

    impl Timer {
        pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
            let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
            Ok(Self(timer))
        }

        /// Goes off once, `after` from now (more than nothing). False: it cannot.
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

    /// No such timer here: the poll's time-outs do it.
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

    /// Turns of a loop until the clock, in milliseconds since `start`, reads `at`: how often it was woken.
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
    fn a_loop_wakes_when_something_is_due_and_again_after_that() {
        let mut poll = Poll::new().unwrap();
        let mut wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER).unwrap();
        let start = Instant::now();
        for at in [5, 6, 30, 31, 60] {
            let wakes = wakes_until(&mut wake_timer, &mut poll, start, at);
            assert!(wakes <= 3, "{wakes} wakes until {at} ms");
        }
    }

    #[test]
    fn what_is_due_earlier_than_the_timer_was_set_for_wakes_the_loop_in_time() {
        let mut poll = Poll::new().unwrap();
        let mut wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER).unwrap();
        let start = Instant::now();
        let far = 3_600_000;
        assert!(wake_timer.sleep_until(far, 0).is_none_or(|timeout| timeout >= Duration::from_secs(3_600)));
        wakes_until(&mut wake_timer, &mut poll, start, 10);
        assert!(start.elapsed() < Duration::from_secs(60));
    }

    #[test]
    fn what_is_due_now_does_not_sleep() {
        let poll = Poll::new().unwrap();
        let mut wake_timer = WakeTimer::new(poll.registry(), WAKE_TIMER).unwrap();
        assert_eq!(wake_timer.sleep_until(5, 5), Some(Duration::ZERO));
        assert_eq!(wake_timer.sleep_until(4, 5), Some(Duration::ZERO));
        assert_eq!(wake_timer.sleep_until(Millis::MAX, 5), None);
    }
}
