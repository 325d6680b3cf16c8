//! One export request.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Uri};
use serde_json::Value;

use crate::http_client::{HttpClient, read_body};

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why an export request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum PostError {
    /// Try again later; `after`: the collector's `Retry-After`.
    Retry { why: String, after: Option<Duration> },
    /// Another attempt would fail, too.
    Rejected(String),
}

/// Sends `body`; returns how many of its spans the collector rejected.
pub(super) async fn post(client: &HttpClient, url: &Uri, headers: &HeaderMap, body: Vec<u8>) -> Result<u64, PostError> {
    let mut request = Request::post(url)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| PostError::Rejected(error.to_string()))?;
    request.headers_mut().extend(headers.clone());
    let response = client.send(request).await;
    let response = response.map_err(|error| PostError::Retry { why: error.to_string(), after: None })?;
    let (head, body) = response.into_parts();
    // A body that cannot be read does not change the meaning of the status.
    let body = read_body(body, ANSWER_BYTES_MAX).await.unwrap_or_default();
    classify(head.status.as_u16(), &head.headers, &body)
}

/// Classifies an answer as OTLP/HTTP specifies: these four statuses are retried, other errors are not.
fn classify(status: u16, headers: &HeaderMap, body: &[u8]) -> Result<u64, PostError> {
    match status {
        200..=299 => Ok(rejected(body)),
        429 | 502 | 503 | 504 => {
            let after =
                headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
            Err(PostError::Retry { why: format!("it answers {status}"), after: after.map(Duration::from_secs) })
        }
        _ => {
            let text = String::from_utf8_lossy(&body[..body.len().min(200)]);
            Err(PostError::Rejected(format!("it answers {status}: {}", text.escape_debug())))
        }
    }
}

/// In a successful answer, `partialSuccess.rejectedSpans`: a string, as 64-bit numbers are.
fn rejected(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_classified_as_success_retry_or_rejection() {
        let mut wait = HeaderMap::new();
        wait.insert(RETRY_AFTER, "7".parse().unwrap());
        let none = HeaderMap::new();
        let later = |why: &str, after| Err(PostError::Retry { why: why.into(), after });
        let partial = br#"{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}"#;
        for (status, headers, body, expected) in [
            (200, &none, &b"{}"[..], Ok(0)),
            (200, &none, b"", Ok(0)),
            (200, &none, partial, Ok(3)),
            (429, &wait, b"", later("it answers 429", Some(Duration::from_secs(7)))),
            (503, &none, b"", later("it answers 503", None)),
            (400, &none, b"no\n", Err(PostError::Rejected("it answers 400: no\\n".into()))),
            (404, &none, b"", Err(PostError::Rejected("it answers 404: ".into()))),
            (301, &none, b"", Err(PostError::Rejected("it answers 301: ".into()))),
        ] {
            assert_eq!(classify(status, headers, body), expected, "{status}");
        }
    }
}
