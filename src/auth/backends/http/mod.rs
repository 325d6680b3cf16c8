//! `http`: asks a service whether a client may connect. Any answer that is not a clear allow denies.
//!
//! The question is a JSON object (POST) or a query string (GET) of [`RequestFields`]. The answer is status 200 with
//! `{"result": "allow" | "deny" | "ignore"}`, and where it allows, perhaps `username`, `acl` (as in a token) and
//! `expiresAt` (seconds since 1970). 204 leaves the decision to the next authenticator. A status of 400 to 499 denies: the
//! service has answered about this client, and the circuit stays closed.

mod cache;
mod circuit_breaker;
mod client;
mod fields;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::Uri;
use serde_json::{Map, Value};
use time::OffsetDateTime;

use self::cache::{AnswerCache, CacheKey};
use self::circuit_breaker::CircuitBreaker;
pub(in crate::auth) use self::client::Service;
use self::fields::RequestFields;
use super::jwt;
use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Attempt, AuthBackend, AuthRefusal, BackendAnswer, Grant, Recheck};
use crate::auth::counts::{Count, DroppedCounters};
use crate::auth::digest::version_of;
use crate::auth::fair_queue::Busy;
use crate::auth::request_queue::RequestQueue;
use crate::http_client::HttpError;
use weir_broker::Principal;
use weir_declare::config::{HttpHook, HttpMethod};

const KIND: &str = "http";

/// The service as an authenticator.
pub(in crate::auth) struct HttpBackend {
    hook: Arc<Hook>,
}

struct Hook {
    service: Service,
    method: HttpMethod,
    fields: RequestFields,
    timeout: Duration,
    queue: RequestQueue,
    /// Attempts that were dropped because the limit of failures was reached while they waited.
    rate_limited: Count,
    breaker: CircuitBreaker,
    cache: AnswerCache,
    admitted_by: Arc<str>,
}

/// The service's answer.
#[derive(Debug, Clone, PartialEq)]
enum ServiceAnswer {
    Allow {
        /// `None`: the one that the client sent, if the service got it.
        username: Option<String>,
        acl: Option<Value>,
        expires_at_unix_s: Option<i64>,
    },
    Deny,
    Ignore,
}

impl HttpBackend {
    pub(in crate::auth) fn new(
        declared: &HttpHook,
        service: Service,
        predecessors: &str,
        dropped: &DroppedCounters,
    ) -> Self {
        let version = version_of(&[declared.url.as_bytes()]);
        let breaker = &declared.circuit_breaker;
        Self {
            hook: Arc::new(Hook {
                service,
                method: declared.method,
                fields: RequestFields::new(&declared.fields),
                timeout: Duration::from_millis(u64::from(declared.timeout_ms)),
                queue: RequestQueue::new(declared.max_concurrent, dropped),
                rate_limited: dropped.rate_limit.clone(),
                breaker: CircuitBreaker::new(breaker.failures, Duration::from_secs(u64::from(breaker.open_s))),
                cache: AnswerCache::new(Duration::from_secs(u64::from(declared.cache_ttl_s))),
                admitted_by: AdmittedBy::write(KIND, &version, predecessors),
            }),
        }
    }
}

impl AuthBackend for HttpBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer {
        if attempt.method.is_some() {
            return BackendAnswer::Next { equalize: false };
        }
        let key = self.hook.cache.key(&self.hook.fields.fill(attempt));
        if let Some(answer) = self.hook.cache.get(&key, Instant::now()) {
            return self.hook.decide(&answer, attempt);
        }
        let (hook, attempt) = (Arc::clone(&self.hook), Arc::clone(attempt));
        BackendAnswer::Task(Box::pin(async move {
            match hook.request(&attempt, key).await {
                Ok(answer) => hook.decide(&answer, &attempt),
                Err(refusal) => BackendAnswer::Deny(refusal),
            }
        }))
    }

    /// The service cannot be asked again without the password: its answer holds as long as the URL is the same.
    fn still_valid(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Recheck {
        if admission.matches(&self.hook.admitted_by) { Recheck::Valid } else { Recheck::Next }
    }
}

impl Hook {
    async fn request(&self, attempt: &Attempt, key: CacheKey) -> Result<ServiceAnswer, AuthRefusal> {
        if self.breaker.is_open(attempt.source, Instant::now()) {
            return Err(AuthRefusal::Unavailable);
        }
        // A client that sends what fits into no request is refused, and takes no one's turn.
        let request = self.service.request(self.method, &self.fields.fill(attempt)).map_err(|error| {
            tracing::info!(service = %self.service.authority(), %error, "authentication request impossible: client denied");
            AuthRefusal::BadCredentials
        })?;
        // The attempt, and the request that was made of it.
        let bytes = 2 * attempt.bytes();
        let permit =
            self.queue.acquire(&attempt.endpoint, attempt.source, bytes).await.map_err(|Busy| AuthRefusal::Busy)?;
        // Others may have used up the limit of failures, filled the cache or opened the circuit while this one waited.
        if let Some(refusal) = attempt.start_check.as_ref().and_then(|check| check.refusal()) {
            self.rate_limited.add(1);
            return Err(refusal);
        }
        if let Some(answer) = self.cache.get(&key, Instant::now()) {
            return Ok(answer);
        }
        let passage = self.breaker.try_pass(attempt.source, Instant::now()).ok_or(AuthRefusal::Unavailable)?;
        let answer = self.service.send(request, self.timeout).await;
        drop(permit);
        let answer = answer.and_then(|(status, body)| parse(status, &body));
        passage.record(!answer.as_ref().is_err_and(ServiceError::is_outage), Instant::now());
        match answer {
            Ok(answer) => {
                self.cache.put(key, answer.clone(), Instant::now());
                Ok(answer)
            }
            Err(error @ ServiceError::Denied(_)) => {
                tracing::warn!(service = %self.service.authority(), %error, "authentication service denied a client");
                Err(AuthRefusal::BadCredentials)
            }
            Err(error) => {
                tracing::warn!(service = %self.service.authority(), %error, "authentication service failed");
                Err(AuthRefusal::Unavailable)
            }
        }
    }

    fn decide(&self, answer: &ServiceAnswer, attempt: &Attempt) -> BackendAnswer {
        let ServiceAnswer::Allow { username, acl, expires_at_unix_s } = answer else {
            return match answer {
                ServiceAnswer::Ignore => BackendAnswer::Next { equalize: false },
                _ => BackendAnswer::Deny(AuthRefusal::BadCredentials),
            };
        };
        let remaining_s = expires_at_unix_s.map(|end| end.saturating_sub(OffsetDateTime::now_utc().unix_timestamp()));
        let rules = acl.as_ref().map(jwt::rules);
        if remaining_s.is_some_and(|left| left <= 0) || matches!(rules, Some(None)) {
            return BackendAnswer::Deny(AuthRefusal::BadCredentials);
        }
        let username = username.as_deref().map(Box::from).or_else(|| {
            // A user name that the service did not get is not confirmed by its answer.
            attempt.username.clone().filter(|_| self.fields.have_username())
        });
        let remaining_ms = remaining_s.and_then(|left| u64::try_from(left).ok()).map(|left| left.saturating_mul(1000));
        BackendAnswer::Allow(Grant {
            claims_acl: rules.flatten().map(|rules| Arc::new(rules) as _),
            expires_at: remaining_ms.map(|left| attempt.now.saturating_add(left)),
            ..Grant::new(username, Arc::clone(&self.admitted_by))
        })
    }
}

/// Why the service gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
enum ServiceError {
    #[error("timed out after {} ms", .0.as_millis())]
    Timeout(Duration),
    #[error(transparent)]
    Http(#[from] HttpError),
    /// About this client: the same request would be answered in the same way.
    #[error("status {0}")]
    Denied(u16),
    #[error("unexpected status {0}")]
    Status(u16),
    #[error("the answer is not a JSON object")]
    NotJson,
    #[error("`{0}` in the answer must be {1}")]
    Field(&'static str, &'static str),
}

impl ServiceError {
    /// Whether the service is down, rather than in trouble with one request.
    fn is_outage(&self) -> bool {
        match self {
            Self::Timeout(_) | Self::Http(_) => true,
            Self::Status(status) => *status >= 500,
            Self::Denied(_) | Self::NotJson | Self::Field(..) => false,
        }
    }
}

/// Why a client's fields make no request.
#[derive(Debug, thiserror::Error)]
enum RequestError {
    #[error("the fields are not valid in a request: {0}")]
    Request(#[from] hyper::http::Error),
    #[error("the fields cannot be encoded as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Parses an answer.
fn parse(status: u16, body: &[u8]) -> Result<ServiceAnswer, ServiceError> {
    match status {
        200 => {}
        204 => return Ok(ServiceAnswer::Ignore),
        401 | 403 => return Ok(ServiceAnswer::Deny),
        // A request that timed out or exceeded the limit is no statement about the client.
        400..500 if !matches!(status, 408 | 429) => return Err(ServiceError::Denied(status)),
        other => return Err(ServiceError::Status(other)),
    }
    let answer: Map<String, Value> = serde_json::from_slice(body).map_err(|_| ServiceError::NotJson)?;
    match answer.get("result").and_then(Value::as_str) {
        Some("deny") => Ok(ServiceAnswer::Deny),
        Some("ignore") => Ok(ServiceAnswer::Ignore),
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
            Ok(ServiceAnswer::Allow { username, acl, expires_at_unix_s })
        }
        _ => Err(ServiceError::Field("result", "allow, deny or ignore")),
    }
}

/// Why a declared URL cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::auth) enum UrlError {
    #[error("{0} is not a URL")]
    Malformed(String),
    #[error("{0} is not an http or https URL")]
    Scheme(String),
    #[error("a URL must not hold a user name or password; write `headers` with a secret")]
    Credentials,
}

/// Parses a declared URL.
pub(in crate::auth) fn parse_url(url: &str) -> Result<Uri, UrlError> {
    let uri: Uri = url.parse().map_err(|_| UrlError::Malformed(url.to_owned()))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let authority = uri.authority().filter(|_| known).ok_or_else(|| UrlError::Scheme(url.to_owned()))?;
    if authority.as_str().contains('@') {
        return Err(UrlError::Credentials);
    }
    Ok(uri)
}
