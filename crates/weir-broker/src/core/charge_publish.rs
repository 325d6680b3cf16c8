//! Clients that publish faster than they may: not read for a while, or disconnected.

use crate::clients::rate_limit::RateExceeded;
use crate::clients::timers::Timer;
use crate::ids::{ConnId, Millis};
use crate::observe::Site;
use crate::{Core, PublishOverflow};

/// How often it is checked whether a client may be read again: a changed declaration is not to wait for an old debt.
const RATE_CHECK_MS: Millis = 1000;

impl Core {
    /// Counts a publish against its client's rates and the endpoint's.
    pub(crate) fn charge_publish(&mut self, id: ConnId, size: usize, now: Millis) -> Result<(), RateExceeded> {
        let Some((connection, rates)) = self.clients.connection_and_rates(id.slot) else {
            self.observe.count_error(Site::ConnectionOfPacket);
            return Ok(());
        };
        let mut debt_ms = 0;
        let limits = &connection.policy.limits;
        let overdraw = limits.publish_overflow == PublishOverflow::Delay;
        if let Some(own) = connection.cold.as_mut().and_then(|cold| cold.rates.as_mut()) {
            if overdraw {
                debt_ms = own.charge(size, now);
            } else if !own.try_charge(size, now) {
                return Err(RateExceeded);
            }
        }
        if limits.max_total_publish_per_second.is_some() || limits.max_total_publish_bytes_per_second.is_some() {
            let total = rates.charge((connection.endpoint, connection.policy.id), limits, size, overdraw, now);
            debt_ms = debt_ms.max(total.ok_or(RateExceeded)?);
        }
        if debt_ms > 0 {
            let cold = connection.cold_mut();
            let waits_already = cold.resumes_at > 0;
            cold.resumes_at = cold.resumes_at.max(now + debt_ms);
            if !waits_already {
                connection.pauses += 1;
                self.clients.set_timer(now + debt_ms.min(RATE_CHECK_MS), Timer::Rate(id));
            }
        }
        Ok(())
    }

    /// A client that published too fast may be due to be read again.
    pub(crate) fn check_rate(&mut self, id: ConnId, now: Millis) {
        let connection = self.clients.open(id);
        let Some(cold) = connection.and_then(|connection| connection.cold.as_mut()) else { return };
        let left_ms = cold.resumes_at.saturating_sub(now);
        if left_ms > 0 {
            self.clients.set_timer(now + left_ms.min(RATE_CHECK_MS), Timer::Rate(id));
        } else if cold.resumes_at > 0 {
            cold.resumes_at = 0;
            self.clients.resume(id);
        }
    }
}
