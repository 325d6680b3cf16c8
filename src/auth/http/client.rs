//! One question over HTTP/1.1.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap};
use hyper::{Method, Request, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use weir_declare::config::HttpMethod;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where to ask.
pub(in crate::auth) struct Service {
    url: Uri,
    headers: HeaderMap,
    /// For `https`.
    tls: Option<Arc<ClientConfig>>,
}

impl Service {
    /// `roots`: for `https`, whom to trust.
    ///
    /// # Errors
    /// No TLS configuration can be made of it, as a phrase.
    pub(in crate::auth) fn new(url: Uri, headers: HeaderMap, roots: Option<RootCertStore>) -> Result<Self, String> {
        let tls = match roots {
            None => None,
            Some(roots) => {
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let builder = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .map_err(|error| error.to_string())?;
                Some(Arc::new(builder.with_root_certificates(roots).with_no_client_auth()))
            }
        };
        Ok(Self { url, headers, tls })
    }

    /// The address, for the log.
    pub(super) fn shown(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }

    /// Status and body of the answer, within `timeout`; redirections are not followed.
    pub(super) async fn ask(
        &self,
        method: HttpMethod,
        question: &Map<String, Value>,
        timeout: Duration,
    ) -> Result<(u16, Vec<u8>), String> {
        let answer = tokio::time::timeout(timeout, self.exchange(method, question)).await;
        answer.map_err(|_| format!("no answer within {} ms", timeout.as_millis()))?
    }

    async fn exchange(&self, method: HttpMethod, question: &Map<String, Value>) -> Result<(u16, Vec<u8>), String> {
        let host = self.url.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_u16().unwrap_or(if self.tls.is_some() { 443 } else { 80 });
        let stream = TcpStream::connect((host, port)).await.map_err(|error| error.to_string())?;
        let request = self.request(method, question)?;
        match &self.tls {
            None => send(stream, request).await,
            Some(config) => {
                let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
                let connector = TlsConnector::from(Arc::clone(config));
                send(connector.connect(name, stream).await.map_err(|error| error.to_string())?, request).await
            }
        }
    }

    fn request(&self, method: HttpMethod, question: &Map<String, Value>) -> Result<Request<Full<Bytes>>, String> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let (method, target, body) = match method {
            HttpMethod::Post => {
                let body = serde_json::to_vec(question).map_err(|error| error.to_string())?;
                (Method::POST, path.to_owned(), body)
            }
            HttpMethod::Get => {
                let mark = if path.contains('?') { '&' } else { '?' };
                (Method::GET, format!("{path}{mark}{}", query(question)), Vec::new())
            }
        };
        let authority = self.url.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::builder().method(method).uri(target).header(HOST, authority);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let mut request = request.body(Full::new(Bytes::from(body))).map_err(|error| error.to_string())?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }
}

async fn send<S>(stream: S, request: Request<Full<Bytes>>) -> Result<(u16, Vec<u8>), String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        Ok((status, body.map_err(|error| format!("its answer cannot be read: {error}"))?.to_bytes().to_vec()))
    };
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        // The connection is done, or failed; what was asked knows what came of it.
        _ended = connection => asked.await,
    }
}

/// `name=value&...`, percent-encoded.
fn query(question: &Map<String, Value>) -> String {
    let pair = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}={}", percent_encoded(&text))
    };
    question.iter().map(pair).collect::<Vec<_>>().join("&")
}

fn percent_encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}
