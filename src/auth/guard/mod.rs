//! Checks before every endpoint's authentication: bans, failed attempts per address, clients that connect too often.
//!
//! It owns the counters of recent attempts. It knows no authenticator, and decides about no credentials.

mod bans;
mod window_counter;

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use self::bans::BanSubject;
pub(super) use self::bans::Bans;
use self::window_counter::WindowCounter;
use super::api::{AuthExchange, AuthRefusal, Authenticate, Credentials, Decision};
use weir_broker::{Millis, Principal};
use weir_declare::config::FailureRateLimit;

/// Keys of one generation of a counter; it holds two generations, about 4 MiB.
const TABLE_KEYS: usize = 32_768;

/// Counters of recent attempts. One for the whole node; they outlive changes of declarations.
#[derive(Debug)]
pub(super) struct AttemptCounters {
    /// By address, IPv6 by its /64.
    failures: WindowCounter<IpAddr>,
    /// By namespace and client id.
    connects: WindowCounter<ClientKey>,
    /// Clients that are banned for flapping.
    flapping_bans: WindowCounter<ClientKey>,
}

type ClientKey = (Arc<str>, Box<str>);

impl Default for AttemptCounters {
    fn default() -> Self {
        Self {
            failures: WindowCounter::new(TABLE_KEYS),
            connects: WindowCounter::new(TABLE_KEYS),
            flapping_bans: WindowCounter::new(TABLE_KEYS),
        }
    }
}

/// An authenticator behind the guard.
pub(super) struct AttemptGuard {
    pub(super) counters: Arc<AttemptCounters>,
    pub(super) bans: Bans,
    /// `None`: no credentials are checked, so none are guessed.
    pub(super) failures: Option<FailureRateLimit>,
    pub(super) inner: Arc<dyn Authenticate>,
}

impl Authenticate for AttemptGuard {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        let attempt = GuardedAttempt {
            counters: Arc::clone(&self.counters),
            bans: self.bans.clone(),
            failures: self.failures.clone(),
            now: credentials.now,
            address: credentials.peer.map(|peer| peer.ip().to_canonical()),
            client: (Arc::clone(&credentials.endpoint.namespace), credentials.client_id.into()),
            uncounted: credentials.client_id_assigned || credentials.reauthentication,
            reauthentication: credentials.reauthentication,
        };
        match attempt.refusal() {
            Some(refusal) => Decision::Refuse(refusal),
            None => attempt.finish(self.inner.authenticate(credentials)),
        }
    }

    fn still_valid(&self, principal: &Principal, client_id: &str) -> bool {
        let subject = BanSubject { client_id, username: principal.username.as_deref(), address: principal.address };
        self.bans.find(subject, OffsetDateTime::now_utc()).is_none() && self.inner.still_valid(principal, client_id)
    }
}

/// One attempt that the guard has let pass to the authenticator.
struct GuardedAttempt {
    counters: Arc<AttemptCounters>,
    bans: Bans,
    failures: Option<FailureRateLimit>,
    now: Millis,
    address: Option<IpAddr>,
    client: ClientKey,
    /// It does not count as a connect: the client id is new each time, or the client is connected.
    uncounted: bool,
    /// A re-authentication: the client is connected.
    reauthentication: bool,
}

impl GuardedAttempt {
    /// Why the attempt is rejected before authentication. A banned user name is checked after it: before, the answer would
    /// reveal to anyone which names are banned.
    fn refusal(&self) -> Option<AuthRefusal> {
        if self.is_banned(None) || self.is_flapping() {
            return Some(AuthRefusal::Banned);
        }
        let (limit, source) = (self.failures.as_ref()?, source(self.address?));
        let failures = self.counters.failures.count(&source, self.now, window_ms(limit));
        (failures >= limit.max_failures).then_some(AuthRefusal::RateExceeded)
    }

    fn is_flapping(&self) -> bool {
        let flapping = self.bans.flapping().filter(|_| !self.uncounted);
        flapping.is_some_and(|rule| self.counters.flapping_bans.count(&self.client, self.now, rule.ban_ms()) > 0)
    }

    fn is_banned(&self, username: Option<&str>) -> bool {
        let subject = BanSubject { client_id: &self.client.1, username, address: self.address };
        self.bans.find(subject, OffsetDateTime::now_utc()).is_some()
    }

    /// Applies bans and counters to the authenticator's decision, now or when it is made.
    fn finish(mut self, decision: Decision) -> Decision {
        match decision {
            Decision::Admit(principal) => self.admit(principal).map_or_else(Decision::Refuse, Decision::Admit),
            Decision::AdmitWith { principal, data, client_id } => {
                if let Some(given) = &client_id {
                    self.set_client_id(given);
                }
                match self.admit(principal) {
                    Ok(principal) => Decision::AdmitWith { principal, data, client_id },
                    Err(refusal) => Decision::Refuse(refusal),
                }
            }
            Decision::Refuse(refusal) => {
                self.count_failure(refusal);
                Decision::Refuse(refusal)
            }
            Decision::Blocking(work) => Decision::Blocking(Box::new(move || self.finish(work()))),
            Decision::Task(task) => Decision::Task(Box::pin(async move { self.finish(task.await) })),
            Decision::Continue { data, exchange } => {
                Decision::Continue { data, exchange: Box::new(GuardedExchange { attempt: self, exchange }) }
            }
        }
    }

    /// The authenticator gave the client an id that stays the same.
    fn set_client_id(&mut self, client_id: &str) {
        self.client.1 = client_id.into();
        self.uncounted = self.reauthentication;
    }

    /// Only an authenticated client counts as a connect: otherwise anyone could have a client banned by its id.
    fn admit(&self, principal: Principal) -> Result<Principal, AuthRefusal> {
        if self.is_banned(principal.username.as_deref()) || self.is_flapping() {
            return Err(AuthRefusal::Banned);
        }
        if let Some(rule) = self.bans.flapping().filter(|_| !self.uncounted) {
            let connects = self.counters.connects.add(self.client.clone(), self.now, rule.window_ms());
            if connects > rule.max_connects {
                self.counters.flapping_bans.add(self.client.clone(), self.now, rule.ban_ms());
                return Err(AuthRefusal::Banned);
            }
        }
        Ok(principal)
    }

    fn count_failure(&self, refusal: AuthRefusal) {
        let guessed = matches!(refusal, AuthRefusal::BadCredentials | AuthRefusal::NotAuthorized);
        if let (true, Some(limit), Some(address)) = (guessed, &self.failures, self.address) {
            self.counters.failures.add(source(address), self.now, window_ms(limit));
        }
    }
}

struct GuardedExchange {
    attempt: GuardedAttempt,
    exchange: Box<dyn AuthExchange>,
}

impl AuthExchange for GuardedExchange {
    fn step(self: Box<Self>, data: &[u8]) -> Decision {
        let decision = self.exchange.step(data);
        self.attempt.finish(decision)
    }
}

fn window_ms(limit: &FailureRateLimit) -> Millis {
    Millis::from(limit.window_s) * 1000
}

/// What one party is assumed to hold: one IPv4 address, or a /64 of IPv6.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
    }
}
