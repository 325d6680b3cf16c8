//! `http`: asks a service who may come in. Whatever is not a clear answer keeps the client out.
//!
//! The question is a JSON object (POST) or a query string (GET) of [`Question`]'s fields. The answer is status 200 with
//! `{"result": "allow" | "deny" | "ignore"}`, and where it allows, perhaps `username`, `acl` (as in a token) and
//! `expiresAt` (seconds since 1970). 401 and 403 deny, 204 passes on.

mod breaker;
mod cache;
mod client;
mod question;
mod queue;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Uri;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use self::breaker::Breaker;
use self::cache::{Cache, CacheKey};
pub(super) use self::client::Service;
use self::question::Question;
use self::queue::Queue;
use super::chain::{AdmittedBy, Answer, Attempt, Confirmation, Grant, Link};
use super::digest::version_of;
use super::{Refusal, jwt};
use crate::http_client::HttpError;
use weir_broker::Principal;
use weir_declare::config::{HttpHook, HttpMethod};

const KIND: &str = "http";

/// The service as a link of a chain.
pub(super) struct HttpLink {
    hook: Arc<Hook>,
}

struct Hook {
    service: Service,
    method: HttpMethod,
    question: Question,
    timeout: Duration,
    queue: Queue,
    breaker: Breaker,
    cache: Cache,
    admitted_by: Arc<str>,
}

/// What the service says.
#[derive(Debug, Clone, PartialEq)]
enum Verdict {
    Allow {
        /// `None`: as it gave it.
        username: Option<String>,
        acl: Option<Value>,
        expires_at_unix_s: Option<i64>,
    },
    Deny,
    Ignore,
}

impl HttpLink {
    pub(super) fn new(declared: &HttpHook, service: Service, after: &str) -> Self {
        let version = version_of(&[declared.url.as_bytes()]);
        let breaker = &declared.circuit_breaker;
        Self {
            hook: Arc::new(Hook {
                service,
                method: declared.method,
                question: Question::new(&declared.fields),
                timeout: Duration::from_millis(u64::from(declared.timeout_ms)),
                queue: Queue::new(declared.max_concurrent),
                breaker: Breaker::new(breaker.failures, Duration::from_secs(u64::from(breaker.open_s))),
                cache: Cache::new(Duration::from_secs(u64::from(declared.cache_ttl_s))),
                admitted_by: AdmittedBy::write(KIND, &version, after),
            }),
        }
    }
}

impl Link for HttpLink {
    fn judge(&self, attempt: &Arc<Attempt>) -> Answer {
        if attempt.method.is_some() {
            return Answer::PassOn { owed: false };
        }
        let key = self.hook.cache.key(&self.hook.question.about(attempt));
        if let Some(verdict) = self.hook.cache.get(&key, Instant::now()) {
            return self.hook.answer(&verdict, attempt);
        }
        let (hook, attempt) = (Arc::clone(&self.hook), Arc::clone(attempt));
        Answer::Inquire(Box::pin(async move {
            match hook.ask(&attempt, key).await {
                Ok(verdict) => hook.answer(&verdict, &attempt),
                Err(refusal) => Answer::Deny(refusal),
            }
        }))
    }

    /// The service cannot be asked without the password: as long as it is the same one, its word stands.
    fn confirms(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Confirmation {
        let own = AdmittedBy::parse(&self.hook.admitted_by);
        if own == Some(AdmittedBy { offered: None, ..*admission }) { Confirmation::Yes } else { Confirmation::PassesOn }
    }
}

impl Hook {
    async fn ask(&self, attempt: &Attempt, key: CacheKey) -> Result<Verdict, Refusal> {
        if self.breaker.is_open(Instant::now()) {
            return Err(Refusal::Unavailable);
        }
        let turn = self.queue.turn(&attempt.endpoint).await.ok_or(Refusal::Busy)?;
        // While it waited, the same may have been asked, and the service been found out.
        if let Some(verdict) = self.cache.get(&key, Instant::now()) {
            return Ok(verdict);
        }
        if !self.breaker.may_ask(Instant::now()) {
            return Err(Refusal::Unavailable);
        }
        let answer = self.service.ask(self.method, &self.question.about(attempt), self.timeout).await;
        drop(turn);
        let verdict = answer.and_then(|(status, body)| understand(status, &body));
        self.breaker.note(verdict.is_ok(), Instant::now());
        match verdict {
            Ok(verdict) => {
                self.cache.put(key, verdict.clone(), Instant::now());
                Ok(verdict)
            }
            Err(error) => {
                tracing::warn!(service = %self.service.authority(), %error, "authentication service failed");
                Err(Refusal::Unavailable)
            }
        }
    }

    fn answer(&self, verdict: &Verdict, attempt: &Attempt) -> Answer {
        let Verdict::Allow { username, acl, expires_at_unix_s } = verdict else {
            return match verdict {
                Verdict::Ignore => Answer::PassOn { owed: false },
                _ => Answer::Deny(Refusal::BadCredentials),
            };
        };
        let remaining_s = expires_at_unix_s.map(|end| end.saturating_sub(OffsetDateTime::now_utc().unix_timestamp()));
        let rules = acl.as_ref().map(jwt::rules);
        if remaining_s.is_some_and(|left| left <= 0) || matches!(rules, Some(None)) {
            return Answer::Deny(Refusal::BadCredentials);
        }
        let username = username.as_deref().map(Box::from).or_else(|| attempt.username.clone());
        let remaining_ms = remaining_s.and_then(|left| u64::try_from(left).ok()).map(|left| left.saturating_mul(1000));
        Answer::Allow(Grant {
            claims_acl: rules.flatten().map(|rules| Arc::new(rules) as _),
            expires_at: remaining_ms.map(|left| attempt.now.saturating_add(left)),
            ..Grant::plain(username, Arc::clone(&self.admitted_by))
        })
    }
}

/// Why the service gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("no answer within {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error(transparent)]
    Http(#[from] HttpError),
    #[error("the question is not a valid request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the question cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it answers with status {0}")]
    Status(u16),
    #[error("its answer is not a JSON object")]
    NotJson,
    #[error("`{0}` in its answer must be {1}")]
    Field(&'static str, &'static str),
}

/// Reads an answer.
fn understand(status: u16, body: &[u8]) -> Result<Verdict, ServiceError> {
    match status {
        200 => {}
        204 => return Ok(Verdict::Ignore),
        401 | 403 => return Ok(Verdict::Deny),
        other => return Err(ServiceError::Status(other)),
    }
    let answer: Map<String, Value> = serde_json::from_slice(body).map_err(|_| ServiceError::NotJson)?;
    match answer.get("result").and_then(Value::as_str) {
        Some("deny") => Ok(Verdict::Deny),
        Some("ignore") => Ok(Verdict::Ignore),
        Some("allow") => {
            let username = match answer.get("username") {
                None | Some(Value::Null) => None,
                Some(Value::String(username)) if !username.is_empty() => Some(username.clone()),
                Some(_) => return Err(ServiceError::Field("username", "a string that is not empty")),
            };
            let expires_at_unix_s = match answer.get("expiresAt") {
                None | Some(Value::Null) => None,
                Some(end) => Some(end.as_i64().ok_or(ServiceError::Field("expiresAt", "a whole number"))?),
            };
            let acl = answer.get("acl").filter(|acl| !acl.is_null()).cloned();
            Ok(Verdict::Allow { username, acl, expires_at_unix_s })
        }
        _ => Err(ServiceError::Field("result", "allow, deny or ignore")),
    }
}

/// What a declared URL must be.
pub(super) fn parse_url(url: &str) -> Result<Uri, String> {
    let uri: Uri = url.parse().map_err(|_| format!("{url} is not a URL"))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|_| known).ok_or_else(|| format!("{url} is not an http or https URL"))?;
    if authority.as_str().contains('@') {
        return Err("a URL must not hold a user name or password; write `headers` with a secret".into());
    }
    Ok(uri)
}
