//! Answers: the envelope, errors whose status and code agree, and headers of every answer.

use std::convert::Infallible;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub(super) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// The result of a JSON handler: the envelope's `data`, or a problem.
pub(super) type Reply = Result<Value, Problem>;

/// A refusal, as the caller reads it.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    /// What is wrong and how to correct it.
    pub(super) message: String,
    /// Data to return in spite of the problem.
    pub(super) data: Value,
    /// For 405.
    pub(super) allow: Option<&'static str>,
    /// For 401: whether a bearer token would do.
    pub(super) challenge: bool,
}

impl Problem {
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), data: Value::Null, allow: None, challenge: false }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub(super) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, message)
    }

    pub(super) fn with_data(mut self, data: Value) -> Self {
        self.data = data;
        self
    }
}

impl From<Problem> for Answer {
    fn from(problem: Problem) -> Self {
        let mut answer = Answer::envelope(problem.status, &problem.data, &problem.message);
        if let Some(allow) = problem.allow {
            answer.headers.push((header::ALLOW, HeaderValue::from_static(allow)));
        }
        if problem.challenge {
            let challenge = HeaderValue::from_static("Bearer realm=\"weir\"");
            answer.headers.push((header::WWW_AUTHENTICATE, challenge));
        }
        if problem.status == StatusCode::SERVICE_UNAVAILABLE {
            answer.headers.push((header::RETRY_AFTER, HeaderValue::from_static("5")));
        }
        answer
    }
}

/// A whole answer, before it is fitted to the method and the conditions of the request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) body: Bytes,
    /// Whether the body is state: it gets an entity tag, and `If-None-Match` is honoured.
    pub(super) tagged: bool,
}

pub(super) const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";

impl Answer {
    pub(super) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, headers: Vec::new(), body: body.into(), tagged: false }
    }

    /// `{"code":...,"data":...,"message":...}`, code and status the same number.
    pub(super) fn envelope(status: StatusCode, data: &Value, message: &str) -> Self {
        let envelope = json!({"code": status.as_u16(), "data": data, "message": message});
        let mut body = envelope.to_string();
        body.push('\n');
        Self::new(status, JSON, body)
    }

    /// A handler's reply in the envelope.
    pub(super) fn reply(reply: Reply) -> Self {
        match reply {
            Ok(data) => Self { tagged: true, ..Self::envelope(StatusCode::OK, &data, "Success") },
            Err(problem) => problem.into(),
        }
    }

    /// Fits the answer to the request: 304 where the caller has it already, no body for HEAD, the common headers.
    pub(super) fn into_response(mut self, head: bool, request: &HeaderMap) -> Response<Body> {
        if self.tagged && self.status == StatusCode::OK {
            let tag = entity_tag(&self.body);
            let unchanged = none_match(request, &tag);
            if let Ok(value) = HeaderValue::from_str(&tag) {
                self.headers.push((header::ETAG, value));
            }
            if unchanged {
                self.status = StatusCode::NOT_MODIFIED;
            }
        }
        let length = self.body.len();
        let bodiless = matches!(self.status, StatusCode::NOT_MODIFIED | StatusCode::NO_CONTENT);
        let body = if head || bodiless { Bytes::new() } else { self.body };
        let mut response = Response::new(Full::new(body).boxed_unsync());
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if !bodiless {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        common_headers(headers);
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

/// What a page of this server may do: use its own files, and connect to `sources`.
pub(super) fn content_security_policy(sources: &str) -> String {
    format!(
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src {sources}; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// On every answer. The page needs its own script, style and event stream, and nothing else from anywhere.
pub(super) fn common_headers(headers: &mut HeaderMap) {
    // no-cache: stored, but validated each time by entity tag.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    if let Ok(policy) = HeaderValue::from_str(&content_security_policy("'self'")) {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
}

fn entity_tag(body: &[u8]) -> String {
    format!("\"{}\"", HEXLOWER.encode(&Sha256::digest(body)[..12]))
}

/// `If-None-Match`, compared weakly (RFC 9110, 13.1.2).
fn none_match(request: &HeaderMap, tag: &str) -> bool {
    request.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok()).any(|value| {
        value.split(',').map(str::trim).any(|each| each == "*" || each.strip_prefix("W/").unwrap_or(each) == tag)
    })
}
