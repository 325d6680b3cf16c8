//! One request to the collector.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER, USER_AGENT};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Why spans did not arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// It may be better later; the collector may have said how long to wait.
    Later { why: String, after: Option<Duration> },
    /// The same spans would be refused again.
    Refused(String),
}

impl Failure {
    fn later(why: impl ToString) -> Self {
        Self::Later { why: why.to_string(), after: None }
    }
}

/// Sends `body`; tells how many of its spans the collector did not want.
pub(super) async fn post(
    url: &Uri,
    headers: &HeaderMap,
    tls: Option<&Arc<ClientConfig>>,
    body: Vec<u8>,
) -> Result<u64, Failure> {
    let refused = |why: &dyn ToString| Failure::Refused(why.to_string());
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
    let target = url.path_and_query().map_or("/", |path| path.as_str());
    let authority = url.authority().map_or("", |authority| authority.as_str());
    let mut request = Request::post(target)
        .header(HOST, authority)
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| refused(&error))?;
    request.headers_mut().extend(headers.clone());
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(Failure::later)?;
    match tls {
        None => exchange(stream, request).await,
        Some(config) => {
            let name = ServerName::try_from(host).map_err(|error| refused(&error))?;
            let connector = TlsConnector::from(Arc::clone(config));
            exchange(connector.connect(name, stream).await.map_err(Failure::later)?, request).await
        }
    }
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<u64, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(Failure::later)?;
    // Its failure is the request's, too.
    let connection = tokio::spawn(async move { drop(connection.await) });
    let response = sender.send_request(request).await.map_err(Failure::later);
    let outcome = match response {
        Err(failure) => Err(failure),
        Ok(response) => {
            let (head, body) = response.into_parts();
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            judge(head.status.as_u16(), &head.headers, &body)
        }
    };
    connection.abort();
    outcome
}

/// As OTLP/HTTP has it: these four statuses may be tried again, other bad ones may not.
fn judge(status: u16, headers: &HeaderMap, body: &[u8]) -> Result<u64, Failure> {
    match status {
        200..=299 => Ok(rejected(body)),
        429 | 502 | 503 | 504 => {
            let after =
                headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
            Err(Failure::Later { why: format!("it answers {status}"), after: after.map(Duration::from_secs) })
        }
        _ => {
            let said = String::from_utf8_lossy(&body[..body.len().min(200)]);
            Err(Failure::Refused(format!("it answers {status}: {}", said.escape_debug())))
        }
    }
}

/// Of an answer that is a good one, `partialSuccess.rejectedSpans`: a string, as 64-bit numbers are.
fn rejected(body: &[u8]) -> u64 {
    let answer: Value = serde_json::from_slice(body).unwrap_or_default();
    let count = &answer["partialSuccess"]["rejectedSpans"];
    count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_to_try_again() {
        let mut wait = HeaderMap::new();
        wait.insert(RETRY_AFTER, "7".parse().unwrap());
        let none = HeaderMap::new();
        let later = |why: &str, after| Err(Failure::Later { why: why.into(), after });
        let partial = br#"{"partialSuccess": {"rejectedSpans": "3", "errorMessage": "too old"}}"#;
        for (status, headers, body, expected) in [
            (200, &none, &b"{}"[..], Ok(0)),
            (200, &none, b"", Ok(0)),
            (200, &none, partial, Ok(3)),
            (429, &wait, b"", later("it answers 429", Some(Duration::from_secs(7)))),
            (503, &none, b"", later("it answers 503", None)),
            (400, &none, b"no\n", Err(Failure::Refused("it answers 400: no\\n".into()))),
            (404, &none, b"", Err(Failure::Refused("it answers 404: ".into()))),
            (301, &none, b"", Err(Failure::Refused("it answers 301: ".into()))),
        ] {
            assert_eq!(judge(status, headers, body), expected, "{status}");
        }
    }
}
