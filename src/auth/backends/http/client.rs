//! One request to the authentication service.

use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap};
use hyper::{Method, Request, Uri};
use rustls::RootCertStore;
use serde_json::{Map, Value};

use super::{RequestError, ServiceError};
use crate::http_client::{HttpClient, query_value, read_body, tls_trusting};
use weir_declare::config::HttpMethod;

/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The authentication service: its URL, the headers it wants, and the connections to it.
pub(in crate::auth) struct Service {
    url: Uri,
    headers: HeaderMap,
    client: HttpClient,
}

impl Service {
    /// `roots`: for `https`, which authorities to trust. `idle_max`: connections kept while they are idle.
    ///
    /// # Errors
    /// The crypto provider supports no version of TLS.
    pub(in crate::auth) fn new(
        url: Uri,
        headers: HeaderMap,
        roots: Option<RootCertStore>,
        idle_max: u16,
    ) -> Result<Self, rustls::Error> {
        let tls = roots.map(tls_trusting).transpose()?.map(|builder| builder.with_no_client_auth());
        Ok(Self { url, headers, client: HttpClient::new(tls, usize::from(idle_max))? })
    }

    /// Host and port, for the log.
    pub(super) fn authority(&self) -> &str {
        self.url.authority().map_or("", |authority| authority.as_str())
    }

    /// Status and body of the answer, within `timeout`; redirections are not followed.
    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
    ) -> Result<(u16, Bytes), ServiceError> {
        let exchange = async {
            let response = self.client.send(request).await?;
            let status = response.status().as_u16();
            Ok((status, read_body(response.into_body(), ANSWER_BYTES_MAX).await?))
        };
        tokio::time::timeout(timeout, exchange).await.map_err(|_| ServiceError::Timeout(timeout))?
    }

    /// The request with `fields`.
    ///
    /// # Errors
    /// The fields do not fit into a request.
    pub(super) fn request(
        &self,
        method: HttpMethod,
        fields: &Map<String, Value>,
    ) -> Result<Request<Full<Bytes>>, RequestError> {
        let (method, url, body) = match method {
            HttpMethod::Post => (Method::POST, self.url.clone(), serde_json::to_vec(fields)?),
            HttpMethod::Get => (Method::GET, self.with_query(&query(fields))?, Vec::new()),
        };
        let mut request = Request::builder().method(method).uri(url);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        let mut request = request.body(Full::from(body))?;
        request.headers_mut().extend(self.headers.clone());
        Ok(request)
    }

    fn with_query(&self, query: &str) -> Result<Uri, RequestError> {
        let path = self.url.path_and_query().map_or("/", |path| path.as_str());
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut parts = self.url.clone().into_parts();
        parts.path_and_query = Some(format!("{path}{separator}{query}").parse().map_err(hyper::http::Error::from)?);
        Ok(Uri::from_parts(parts).map_err(hyper::http::Error::from)?)
    }
}

/// `name=value&...`, percent-encoded.
fn query(fields: &Map<String, Value>) -> String {
    let pair = |(name, value): (&String, &Value)| {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        format!("{name}={}", query_value(&text))
    };
    fields.iter().map(pair).collect::<Vec<_>>().join("&")
}
