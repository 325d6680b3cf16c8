//! What stands before every endpoint's authentication: bans, failures per address, clients that connect too often.

use std::net::IpAddr;
use std::sync::Arc;

use time::OffsetDateTime;

use super::ban::{Bans, Suspect};
use super::recent::Recent;
use super::{AuthExchange, Authenticate, Credentials, Decision, Refusal};
use weir_broker::{Millis, Principal};
use weir_declare::config::FailureRateLimit;

/// Keys each table remembers, at most twice as many: about 4 MiB.
const TABLE_KEYS: usize = 32_768;

/// What is remembered of recent attempts. One for the whole node; it outlives changes of declarations.
#[derive(Debug)]
pub(super) struct Memory {
    /// By address, IPv6 by its /64.
    failures: Recent<IpAddr>,
    /// By namespace and client id.
    connects: Recent<ClientKey>,
    /// Flapping clients that are kept out.
    kept_out: Recent<ClientKey>,
}

type ClientKey = (Arc<str>, Box<str>);

impl Default for Memory {
    fn default() -> Self {
        Self { failures: Recent::new(TABLE_KEYS), connects: Recent::new(TABLE_KEYS), kept_out: Recent::new(TABLE_KEYS) }
    }
}

/// An authenticator with the guards before it.
pub(super) struct Guard {
    pub(super) memory: Arc<Memory>,
    pub(super) bans: Bans,
    /// `None`: nothing is secret, so nothing is guessed.
    pub(super) failures: Option<FailureRateLimit>,
    pub(super) inner: Arc<dyn Authenticate>,
}

impl Authenticate for Guard {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        let visit = Visit {
            memory: Arc::clone(&self.memory),
            bans: self.bans.clone(),
            failures: self.failures.clone(),
            now: credentials.now,
            address: credentials.peer.map(|peer| peer.ip().to_canonical()),
            client: (Arc::clone(&credentials.endpoint.namespace), credentials.client_id.into()),
            uncounted: credentials.client_id_assigned || credentials.again,
            again: credentials.again,
        };
        match visit.refusal() {
            Some(refusal) => Decision::Refuse(refusal),
            None => visit.watch(self.inner.authenticate(credentials)),
        }
    }

    fn confirms(&self, principal: &Principal, client_id: &str) -> bool {
        let suspect = Suspect { client_id, username: principal.username.as_deref(), address: principal.address };
        self.bans.strikes(suspect, OffsetDateTime::now_utc()).is_none() && self.inner.confirms(principal, client_id)
    }
}

/// One client at the door.
struct Visit {
    memory: Arc<Memory>,
    bans: Bans,
    failures: Option<FailureRateLimit>,
    now: Millis,
    address: Option<IpAddr>,
    client: ClientKey,
    /// It does not count as connecting: its id is new each time, or it is connected.
    uncounted: bool,
    /// It is connected, and shows again who it is.
    again: bool,
}

impl Visit {
    /// Why the client is not heard at all. A banned user name strikes only once it is proven: before, it would tell
    /// anybody who is banned.
    fn refusal(&self) -> Option<Refusal> {
        if self.is_banned(None) || self.is_kept_out() {
            return Some(Refusal::Banned);
        }
        let (limit, source) = (self.failures.as_ref()?, source(self.address?));
        let failures = self.memory.failures.count(&source, self.now, window_ms(limit));
        (failures >= limit.max_failures).then_some(Refusal::RateExceeded)
    }

    fn is_kept_out(&self) -> bool {
        let flapping = self.bans.flapping().filter(|_| !self.uncounted);
        flapping.is_some_and(|rule| self.memory.kept_out.count(&self.client, self.now, rule.ban_ms()) > 0)
    }

    fn is_banned(&self, username: Option<&str>) -> bool {
        let suspect = Suspect { client_id: &self.client.1, username, address: self.address };
        self.bans.strikes(suspect, OffsetDateTime::now_utc()).is_some()
    }

    /// Lets what was decided pass, now or later.
    fn watch(mut self, decision: Decision) -> Decision {
        match decision {
            Decision::Admit(principal) => self.admit(principal).map_or_else(Decision::Refuse, Decision::Admit),
            Decision::AdmitWith { principal, data, client_id } => {
                if let Some(given) = &client_id {
                    self.goes_by(given);
                }
                match self.admit(principal) {
                    Ok(principal) => Decision::AdmitWith { principal, data, client_id },
                    Err(refusal) => Decision::Refuse(refusal),
                }
            }
            Decision::Refuse(refusal) => {
                self.note_failure(refusal);
                Decision::Refuse(refusal)
            }
            Decision::Pending(work) => Decision::Pending(Box::new(move || self.watch(work()))),
            Decision::Inquire(inquiry) => Decision::Inquire(Box::pin(async move { self.watch(inquiry.await) })),
            Decision::Continue { data, exchange } => {
                Decision::Continue { data, exchange: Box::new(Watched { visit: self, exchange }) }
            }
        }
    }

    /// A client without an id of its own was given one that stays the same.
    fn goes_by(&mut self, client_id: &str) {
        self.client.1 = client_id.into();
        self.uncounted = self.again;
    }

    /// Only who has proven who it is counts as connecting: else anybody could have a client kept out by its id.
    fn admit(&self, principal: Principal) -> Result<Principal, Refusal> {
        if self.is_banned(principal.username.as_deref()) || self.is_kept_out() {
            return Err(Refusal::Banned);
        }
        if let Some(rule) = self.bans.flapping().filter(|_| !self.uncounted) {
            let connects = self.memory.connects.add(self.client.clone(), self.now, rule.window_ms());
            if connects > rule.max_connects {
                self.memory.kept_out.add(self.client.clone(), self.now, rule.ban_ms());
                return Err(Refusal::Banned);
            }
        }
        Ok(principal)
    }

    fn note_failure(&self, refusal: Refusal) {
        let guessed = matches!(refusal, Refusal::BadCredentials | Refusal::NotAuthorized);
        if let (true, Some(limit), Some(address)) = (guessed, &self.failures, self.address) {
            self.memory.failures.add(source(address), self.now, window_ms(limit));
        }
    }
}

struct Watched {
    visit: Visit,
    exchange: Box<dyn AuthExchange>,
}

impl AuthExchange for Watched {
    fn step(self: Box<Self>, data: &[u8]) -> Decision {
        let decision = self.exchange.step(data);
        self.visit.watch(decision)
    }
}

fn window_ms(limit: &FailureRateLimit) -> Millis {
    Millis::from(limit.window_s) * 1000
}

/// What one party can be taken to hold: one IPv4 address, or a /64 of IPv6.
fn source(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & (u128::MAX << 64)).into()),
    }
}
