//! A chain of authenticators: each allows, denies or leaves the decision to the next, in declared order; the end of the
//! chain denies.

use std::sync::Arc;

use super::admitted_by::AdmittedBy;
use super::api::{
    Attempt, AuthBackend, AuthExchange, AuthRefusal, Authenticate, BackendAnswer, BackendExchange, Credentials,
    Decision, Grant, Recheck,
};
use weir_broker::Principal;

/// The authenticators of an auth document.
pub(super) struct Chain {
    authenticators: Arc<[Box<dyn AuthBackend>]>,
}

impl Chain {
    pub(super) fn new(authenticators: Vec<Box<dyn AuthBackend>>) -> Self {
        Self { authenticators: authenticators.into() }
    }
}

impl Authenticate for Chain {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        let run = ChainRun {
            authenticators: Arc::clone(&self.authenticators),
            attempt: Arc::new(Attempt::new(credentials)),
            index: 0,
            equalize: Vec::new(),
            on_worker: false,
        };
        let answer = run.call();
        run.resume(answer)
    }

    fn still_valid(&self, principal: &Principal, _client_id: &str) -> bool {
        let Some(admission) = AdmittedBy::parse(&principal.admitted_by) else { return false };
        let mut answers = self.authenticators.iter().map(|one| one.still_valid(&admission, principal));
        answers.find(|answer| *answer != Recheck::Next) == Some(Recheck::Valid)
    }
}

/// One attempt's way through the chain.
struct ChainRun {
    authenticators: Arc<[Box<dyn AuthBackend>]>,
    attempt: Arc<Attempt>,
    /// The authenticator that decides now.
    index: usize,
    /// The authenticators that do not know the user name: where the chain denies, a decoy of one of them is checked.
    equalize: Vec<usize>,
    on_worker: bool,
}

impl ChainRun {
    /// Calls the current authenticator.
    fn call(&self) -> BackendAnswer {
        let end = match self.attempt.method {
            // [MQTT-4.12.0-1]: no authenticator knows the method.
            Some(_) => AuthRefusal::BadAuthenticationMethod,
            None => AuthRefusal::BadCredentials,
        };
        let current = self.authenticators.get(self.index);
        current.map_or(BackendAnswer::Deny(end), |authenticator| authenticator.authenticate(&self.attempt))
    }

    /// Goes on from an authenticator's answer.
    fn resume(mut self, mut answer: BackendAnswer) -> Decision {
        loop {
            answer = match answer {
                BackendAnswer::Allow(grant) => return self.admit(grant),
                BackendAnswer::Deny(refusal) => return self.refuse(refusal),
                BackendAnswer::Next { equalize } => {
                    self.equalize.extend(equalize.then_some(self.index));
                    self.index += 1;
                    self.call()
                }
                BackendAnswer::Blocking(work) if self.on_worker => work(),
                BackendAnswer::Blocking(work) => {
                    return Decision::Blocking(Box::new(move || {
                        self.on_worker = true;
                        self.resume(work())
                    }));
                }
                BackendAnswer::Task(task) => {
                    self.on_worker = false; // the task's runtime must not block either
                    return Decision::Task(Box::pin(async move { self.resume(task.await) }));
                }
                BackendAnswer::Continue { data, exchange } => {
                    self.on_worker = false; // the client's answer is handled on the shard
                    return Decision::Continue { data, exchange: Box::new(ChainExchange { run: self, exchange }) };
                }
            }
        }
    }

    fn admit(self, grant: Grant) -> Decision {
        let offered = self.attempt.username.as_deref().filter(|offered| grant.username.as_deref() != Some(*offered));
        let admitted_by =
            offered.map_or(Arc::clone(&grant.admitted_by), |offered| format!("{} {offered}", grant.admitted_by).into());
        let principal = Principal {
            username: grant.username,
            address: self.attempt.peer.map(|peer| peer.ip()),
            admitted_by,
            claims_acl: grant.claims_acl,
            expires_at: grant.expires_at,
        };
        match (grant.data, grant.client_id) {
            (None, None) => Decision::Admit(principal),
            (data, client_id) => Decision::AdmitWith { principal, data, client_id },
        }
    }

    fn refuse(self, refusal: AuthRefusal) -> Decision {
        if self.equalize.is_empty() {
            return Decision::Refuse(refusal);
        }
        let check_decoy = move || {
            let username = self.attempt.username.as_deref().unwrap_or_default();
            let backends = self.equalize.iter().filter_map(|&index| self.authenticators.get(index));
            let decoys = backends.filter_map(|backend| backend.decoy(username));
            if let Some(decoy) = decoys.max_by(|a, b| a.score.total_cmp(&b.score)) {
                (decoy.check)(&self.attempt);
            }
            Decision::Refuse(refusal)
        };
        if self.on_worker { check_decoy() } else { Decision::Blocking(Box::new(check_decoy)) }
    }
}

struct ChainExchange {
    run: ChainRun,
    exchange: Box<dyn BackendExchange>,
}

impl AuthExchange for ChainExchange {
    fn step(self: Box<Self>, data: &[u8]) -> Decision {
        let answer = self.exchange.step(data);
        self.run.resume(answer)
    }
}
