//! `custom`: calls an authenticator of the program that embeds the broker, on the program's runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use tokio::runtime::Handle;

use super::jwt;
use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Attempt, AuthBackend, AuthRefusal, AuthTask, BackendAnswer, BackendExchange, Grant, Recheck};
use crate::auth::counts::{AuthCounters, Count, CustomFailureCounters};
use crate::auth::custom::{Answer, AuthGrant, AuthRequest, AuthResponse, Registered};
use crate::auth::digest::version_of;
use crate::auth::fair_queue::Busy;
use crate::auth::request_queue::RequestQueue;
use weir_broker::Principal;
use weir_declare::config::Custom;

const KIND: &str = "custom";

/// A registered authenticator as an element of a chain.
pub(in crate::auth) struct CustomBackend {
    calls: Arc<Calls>,
}

struct Calls {
    name: Arc<str>,
    registered: Registered,
    runtime: Handle,
    options: Arc<BTreeMap<Arc<str>, Value>>,
    timeout: Duration,
    queue: RequestQueue,
    /// Attempts that were dropped because the limit of failures was reached while they waited.
    rate_limited: Count,
    failures: CustomFailureCounters,
    admitted_by: Arc<str>,
}

/// The task of a call, cancelled where nothing waits for it any more.
struct Call(tokio::task::JoinHandle<AuthResponse>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Distinguishes the declarations whose answers differ.
pub(in crate::auth) fn identity(declared: &Custom) -> String {
    let options: serde_json::Map<String, Value> =
        declared.options.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    format!("{KIND} {} {}", declared.name, Value::Object(options))
}

impl CustomBackend {
    pub(in crate::auth) fn new(
        declared: &Custom,
        (registered, runtime): (Registered, Handle),
        predecessors: &str,
        counters: &AuthCounters,
    ) -> Self {
        let version = version_of(&[identity(declared).as_bytes()]);
        Self {
            calls: Arc::new(Calls {
                name: declared.name.to_arc(),
                registered,
                runtime,
                options: Arc::new(declared.options.clone()),
                timeout: Duration::from_millis(u64::from(declared.timeout_ms)),
                queue: RequestQueue::new(declared.max_concurrent, &counters.dropped),
                rate_limited: counters.dropped.rate_limit.clone(),
                failures: counters.custom_failures.clone(),
                admitted_by: AdmittedBy::write(KIND, &version, predecessors),
            }),
        }
    }
}

impl AuthBackend for CustomBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer {
        if attempt.method.as_deref().is_some_and(|method| !self.calls.registered.methods.contains(&method)) {
            return BackendAnswer::Next { equalize: false };
        }
        let authenticator = Arc::clone(&self.calls.registered.authenticator);
        let request = AuthRequest { attempt: Arc::clone(attempt), options: Arc::clone(&self.calls.options) };
        let call = move || authenticator.call(request);
        answer_of(Arc::clone(&self.calls), Arc::clone(attempt), attempt.bytes(), call)
    }

    /// The authenticator cannot be asked again without the password: its answer holds as long as its name and its options
    /// are the same.
    fn still_valid(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Recheck {
        if admission.matches(&self.calls.admitted_by) { Recheck::Valid } else { Recheck::Next }
    }
}

/// The answer that a call of `bytes` bytes leads to.
fn answer_of(
    calls: Arc<Calls>,
    attempt: Arc<Attempt>,
    bytes: usize,
    call: impl FnOnce() -> AuthTask<AuthResponse> + Send + 'static,
) -> BackendAnswer {
    BackendAnswer::Task(Box::pin(async move {
        match calls.call(&attempt, bytes, call).await {
            Ok(AuthResponse::Allow(grant)) => calls.admit(grant, &attempt),
            Ok(AuthResponse::Deny(denial)) => BackendAnswer::Deny(denial.into()),
            Ok(AuthResponse::Next) => BackendAnswer::Next { equalize: false },
            Ok(AuthResponse::Challenge(challenge)) if attempt.method.is_some() => {
                let exchange = Box::new(CustomExchange { calls, attempt, answer: challenge.answer });
                BackendAnswer::Continue { data: challenge.data, exchange }
            }
            Ok(AuthResponse::Challenge(_)) => {
                let authenticator = &*calls.name;
                tracing::error!(authenticator, "authenticator challenged a client without a method: client denied");
                BackendAnswer::Deny(AuthRefusal::Unavailable)
            }
            Err(refusal) => BackendAnswer::Deny(refusal),
        }
    }))
}

/// A challenge that waits for the client's AUTH packet.
struct CustomExchange {
    calls: Arc<Calls>,
    attempt: Arc<Attempt>,
    answer: Answer,
}

impl BackendExchange for CustomExchange {
    fn step(self: Box<Self>, data: &[u8]) -> BackendAnswer {
        let (answer, data) = (self.answer, data.to_vec());
        answer_of(self.calls, self.attempt, data.len(), move || answer(data))
    }
}

impl Calls {
    async fn call(
        &self,
        attempt: &Arc<Attempt>,
        bytes: usize,
        call: impl FnOnce() -> AuthTask<AuthResponse> + Send + 'static,
    ) -> Result<AuthResponse, AuthRefusal> {
        let permit = self.queue.acquire(&attempt.endpoint, attempt.source, bytes).await;
        let permit = permit.map_err(|Busy| AuthRefusal::Busy)?;
        // Others may have used up the limit of failures while this one waited.
        if let Some(refusal) = attempt.start_check.as_ref().and_then(|check| check.refusal()) {
            self.rate_limited.add(1);
            return Err(refusal);
        }
        let mut call = Call(self.runtime.spawn(async move {
            // A call whose time is over may block its thread: it counts until it ends.
            let _permit = permit;
            call().await
        }));
        match tokio::time::timeout(self.timeout, &mut call.0).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_panic() => {
                self.failures.panic.add(1);
                tracing::error!(authenticator = %self.name, %error, "authenticator panicked: client denied");
                Err(AuthRefusal::Unavailable)
            }
            Ok(Err(error)) => {
                tracing::warn!(authenticator = %self.name, %error, "authenticator not called: client denied");
                Err(AuthRefusal::Unavailable)
            }
            Err(_) => {
                self.failures.timeout.add(1);
                let limit_ms = self.timeout.as_millis();
                tracing::warn!(authenticator = %self.name, limit_ms, "authenticator timed out: client denied");
                Err(AuthRefusal::Unavailable)
            }
        }
    }

    fn admit(&self, grant: AuthGrant, attempt: &Attempt) -> BackendAnswer {
        let remaining = grant.expires_at.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
        if remaining.is_some_and(|left| left.is_zero()) {
            return BackendAnswer::Deny(AuthRefusal::BadCredentials);
        }
        let rules = grant.rights().map(|rights| jwt::rules(&rights));
        if matches!(rules, Some(None)) {
            tracing::error!(authenticator = %self.name, "authenticator granted an invalid topic filter: client denied");
            return BackendAnswer::Deny(AuthRefusal::Unavailable);
        }
        let remaining_ms = remaining.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
        let username = grant.username.or_else(|| attempt.username.clone());
        BackendAnswer::Allow(Grant {
            claims_acl: rules.flatten().map(|rules| Arc::new(rules) as _),
            expires_at: remaining_ms.map(|left| attempt.now.saturating_add(left)),
            data: grant.data.filter(|_| attempt.method.is_some()),
            ..Grant::new(username, Arc::clone(&self.admitted_by))
        })
    }
}
