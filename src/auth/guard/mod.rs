//! Checks before every endpoint's authentication: bans, failed attempts, clients that connect too often.
//!
//! It owns the counters of recent attempts. It knows no authenticator, and decides about no credentials.

mod bans;
mod failures;
mod window_counter;

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use self::bans::BanSubject;
pub(super) use self::bans::Bans;
use self::failures::FailureLimit;
use self::window_counter::WindowCounter;
use super::api::{AuthExchange, AuthRefusal, Authenticate, Credentials, Decision, StartCheck};
use super::counts::{AuthCounters, Count};
use super::in_process::is_in_process;
use super::keyed_hash::{Fingerprint, KeyedHash};
use super::source_key::SourceKey;
use weir_broker::{Millis, Principal};
use weir_declare::config::FailureRateLimit;

/// Entries of one generation of a counter; it holds two generations, about 3 MiB.
const TABLE_ENTRIES: usize = 32_768;

/// Counters of recent attempts. One for the whole node; they outlive changes of declarations. They hold hashes of what
/// clients send, so no entry is larger than another.
#[derive(Debug)]
pub(super) struct AttemptCounters {
    keyed_hash: KeyedHash,
    /// Failures by source and user name.
    user_failures: WindowCounter<Fingerprint>,
    /// Failures by source.
    source_failures: WindowCounter<SourceKey>,
    /// By namespace and client id.
    connects: WindowCounter<Fingerprint>,
    /// Clients that are banned for flapping.
    flapping_bans: WindowCounter<Fingerprint>,
    /// Attempts that were dropped because the limit of failures was reached while they waited.
    rate_limited: Count,
}

impl AttemptCounters {
    pub(super) fn new(counters: &AuthCounters) -> Self {
        let evicted = counters.evicted.clone();
        Self {
            keyed_hash: KeyedHash::default(),
            user_failures: WindowCounter::new(TABLE_ENTRIES, evicted.user_failures),
            source_failures: WindowCounter::new(TABLE_ENTRIES, evicted.source_failures),
            connects: WindowCounter::new(TABLE_ENTRIES, evicted.connects),
            flapping_bans: WindowCounter::new(TABLE_ENTRIES, evicted.flapping_bans),
            rate_limited: counters.dropped.rate_limit.clone(),
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
    fn missing_document(&self) -> Option<&str> {
        self.inner.missing_document()
    }

    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        let failures = self.failures.as_ref().and_then(|limit| FailureLimit::new(limit, &self.counters, credentials));
        let failures = failures.map(Arc::new);
        let namespace = Arc::clone(&credentials.endpoint.namespace);
        let attempt = GuardedAttempt {
            counters: Arc::clone(&self.counters),
            bans: self.bans.clone(),
            failures: failures.clone(),
            now: credentials.now,
            address: credentials.peer.map(|peer| peer.ip().to_canonical()),
            client: self.counters.keyed_hash.hash(&[namespace.as_bytes(), credentials.client_id.as_bytes()]),
            namespace,
            client_id: credentials.client_id.into(),
            uncounted: credentials.client_id_assigned || credentials.reauthentication,
            reauthentication: credentials.reauthentication,
        };
        if let Some(refusal) = attempt.refusal() {
            return Decision::Refuse(refusal);
        }
        let start_check = failures.map(|failures| failures as Arc<dyn StartCheck>);
        let credentials = Credentials { start_check: start_check.as_ref(), ..*credentials };
        attempt.finish(self.inner.authenticate(&credentials))
    }

    fn still_valid(&self, principal: &Principal, client_id: &str) -> bool {
        let subject = BanSubject { client_id, username: principal.username.as_deref(), address: principal.address };
        self.bans.find(subject, OffsetDateTime::now_utc()).is_none()
            && (is_in_process(principal) || self.inner.still_valid(principal, client_id))
    }
}

/// One attempt that the guard has let pass to the authenticator.
struct GuardedAttempt {
    counters: Arc<AttemptCounters>,
    bans: Bans,
    /// `None`: failures are not limited, or there is no address to count by.
    failures: Option<Arc<FailureLimit>>,
    now: Millis,
    address: Option<IpAddr>,
    namespace: Arc<str>,
    client_id: Box<str>,
    /// The hash of both.
    client: Fingerprint,
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
        self.failures.as_ref()?.refusal()
    }

    fn is_flapping(&self) -> bool {
        let flapping = self.bans.flapping().filter(|_| !self.uncounted);
        flapping.is_some_and(|rule| self.counters.flapping_bans.count(&self.client, self.now, rule.ban_ms()) > 0)
    }

    fn is_banned(&self, username: Option<&str>) -> bool {
        let subject = BanSubject { client_id: &self.client_id, username, address: self.address };
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
            Decision::Blocking(work) => Decision::Blocking(Box::new(move || self.start(work))),
            Decision::Task(task) => Decision::Task(Box::pin(async move { self.finish(task.await) })),
            Decision::Continue { data, exchange } => {
                Decision::Continue { data, exchange: Box::new(GuardedExchange { attempt: self, exchange }) }
            }
        }
    }

    /// Runs slow work, unless the failures of others that waited before it have used up the limit.
    fn start(self, work: Box<dyn FnOnce() -> Decision + Send>) -> Decision {
        if let Some(refusal) = self.failures.as_ref().and_then(|failures| failures.refusal()) {
            self.counters.rate_limited.add(1);
            return Decision::Refuse(refusal);
        }
        self.finish(work())
    }

    /// The authenticator gave the client an id that stays the same.
    fn set_client_id(&mut self, client_id: &str) {
        self.client_id = client_id.into();
        self.client = self.counters.keyed_hash.hash(&[self.namespace.as_bytes(), client_id.as_bytes()]);
        self.uncounted = self.reauthentication;
    }

    /// Only an authenticated client counts as a connect: otherwise anyone could have a client banned by its id.
    fn admit(&self, principal: Principal) -> Result<Principal, AuthRefusal> {
        if self.is_banned(principal.username.as_deref()) || self.is_flapping() {
            return Err(AuthRefusal::Banned);
        }
        if let Some(rule) = self.bans.flapping().filter(|_| !self.uncounted) {
            let connects = self.counters.connects.add(self.client, self.now, rule.window_ms());
            if connects > rule.max_connects {
                self.counters.flapping_bans.add(self.client, self.now, rule.ban_ms());
                return Err(AuthRefusal::Banned);
            }
        }
        Ok(principal)
    }

    fn count_failure(&self, refusal: AuthRefusal) {
        let guessed = matches!(refusal, AuthRefusal::BadCredentials | AuthRefusal::NotAuthorized);
        if let (true, Some(failures)) = (guessed, &self.failures) {
            failures.count();
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
