//! Clients that publish faster than they may: not read for a while, or told to go.

use super::timers::Timer;
use super::{ConnId, Core, Millis, PublishOverflow};

/// How often it is looked whether a client may be read again: a changed declaration is not to wait for an old debt.
const LOOK_AGAIN_MS: Millis = 1000;

/// A publish above a rate that is not to be exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooFast;

impl Core {
    /// Counts a publish against its client's rates and the endpoint's.
    pub(super) fn take_rate(&mut self, id: ConnId, size: usize, now: Millis) -> Result<(), TooFast> {
        let Some(connection) = self.connections.get_mut(id.slot) else { return Ok(()) };
        let mut debt_ms = 0;
        let limits = &connection.policy.limits;
        let overdraw = limits.publish_overflow == PublishOverflow::Delay;
        if let Some(rates) = connection.rare.as_mut().and_then(|aside| aside.rates.as_mut()) {
            if overdraw {
                debt_ms = rates.take(size, now);
            } else if !rates.try_take(size, now) {
                return Err(TooFast);
            }
        }
        if limits.max_total_publish_rate.is_some() || limits.max_total_publish_bytes_rate.is_some() {
            let lease = &mut self.leases[connection.endpoint as usize];
            let total = self.total_rates.take(connection.policy.id, limits, lease, size, overdraw, now);
            debt_ms = debt_ms.max(total.ok_or(TooFast)?);
        }
        if debt_ms > 0 {
            let aside = connection.aside();
            let waits_already = aside.resumes_at > 0;
            aside.resumes_at = aside.resumes_at.max(now + debt_ms);
            if !waits_already {
                connection.pauses += 1;
                self.timers.push(now + debt_ms.min(LOOK_AGAIN_MS), Timer::Rate(id));
            }
        }
        Ok(())
    }

    /// A client that published too fast may be due to be read again.
    pub(super) fn look_at_rate(&mut self, id: ConnId, now: Millis) {
        let connection = self.connections.get_generation(id.slot, id.generation);
        let Some(aside) = connection.and_then(|connection| connection.rare.as_mut()) else { return };
        let left_ms = aside.resumes_at.saturating_sub(now);
        if left_ms > 0 {
            self.timers.push(now + left_ms.min(LOOK_AGAIN_MS), Timer::Rate(id));
        } else if aside.resumes_at > 0 {
            aside.resumes_at = 0;
            self.resume_here(id);
        }
    }
}
