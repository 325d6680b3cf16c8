//! Asks a running broker over its status API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, header};
use serde_json::Value;

use super::access::Access;
use crate::http_client::{HttpClient, HttpError, read_body};
use weir_declare::config::{Revision, Snapshot, SourceFile};

/// How long a broker may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Whether an operand means a broker, and not a path.
pub(super) fn is_url(operand: &str) -> bool {
    operand.starts_with("http://") || operand.starts_with("https://")
}

/// The URL of a broker's status server: as given, or `http://` before `HOST:PORT`.
///
/// # Errors
/// Neither a URL nor `HOST:PORT`.
pub(super) fn status_url(text: &str) -> Result<String, String> {
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
    match text.split_once("://") {
        Some(("http" | "https", _)) => Ok(text.to_owned()),
        None if text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && is_port(port)) => {
            Ok(format!("http://{text}"))
        }
        _ => Err("the status address is HOST:PORT, http://HOST:PORT or https://HOST:PORT".to_owned()),
    }
}

/// An operand that may be a path or a broker: `HOST:PORT` becomes a URL where no file has that name.
pub(super) fn operand(text: &str) -> String {
    let is_path = text.starts_with("git:") || std::path::Path::new(text).exists();
    if is_path { text.to_owned() } else { status_url(text).unwrap_or_else(|_| text.to_owned()) }
}

/// The address in a broker's URL, where it is one and no name.
pub(super) fn address(operand: &str) -> Option<SocketAddr> {
    operand.strip_prefix("http://")?.split('/').next()?.parse().ok()
}

/// The `data` of the answers to several paths below a broker's `http://HOST:PORT`.
///
/// # Errors
/// No answer, or one that is not understood; with the address.
pub(super) fn fetch<const N: usize>(base: &str, paths: [&str; N]) -> anyhow::Result<[Value; N]> {
    runtime()?.block_on(async {
        let broker = StatusClient::new(base)?;
        let mut answers = [const { Value::Null }; N];
        for (answer, path) in answers.iter_mut().zip(paths) {
            *answer = broker.data(path).await?;
        }
        Ok(answers)
    })
}

/// Whether the answer to a path is a good one, and its text.
///
/// # Errors
/// No answer.
pub(super) fn text(base: &str, path: &str) -> anyhow::Result<(bool, String)> {
    let (good, body) = runtime()?.block_on(async { StatusClient::new(base)?.whole(path).await })?;
    Ok((good, String::from_utf8_lossy(&body).into_owned()))
}

/// The runtime of a verb that queries brokers.
///
/// # Errors
/// The system refuses a resource.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// The declaration of a broker.
///
/// # Errors
/// See [`fetch`].
pub(super) fn declared(base: &str) -> anyhow::Result<Snapshot> {
    let [documents] = fetch(base, [EXPORT])?;
    snapshot(base, &documents)
}

/// Where all documents are to be had.
pub(super) const EXPORT: &str = "/api/endpoints/export?format=json";

/// The documents of an answer from [`EXPORT`].
///
/// # Errors
/// There are none in it.
pub(super) fn snapshot(base: &str, answer: &Value) -> anyhow::Result<Snapshot> {
    let documents = answer.pointer("/documents").and_then(Value::as_array);
    let documents = documents.with_context(|| format!("{base}: not weir's answer"))?;
    let files = documents.iter().enumerate().map(|(at, document)| SourceFile {
        free_ports: false,
        path: Arc::from(format!("{at}.json")),
        shown: Arc::from(format!("{base} document {at}")),
        base: Arc::from(Path::new("")),
        content: Ok(Arc::from(document.to_string().into_bytes())),
    });
    let revision = Revision::Content { hash: String::new() };
    Ok(Snapshot { origin: Arc::from(base), revision, files: files.collect() })
}

/// Asks for `path` below `base`; the body arrives piece by piece.
///
/// # Errors
/// No broker answers there.
pub(super) async fn open(base: &str, path: &str) -> anyhow::Result<Response<Incoming>> {
    StatusClient::new(base)?.open(path).await
}

/// A broker's status API, and the connections to it.
struct StatusClient<'a> {
    base: &'a str,
    access: Access,
    client: HttpClient,
}

impl<'a> StatusClient<'a> {
    fn new(base: &'a str) -> anyhow::Result<Self> {
        let access = Access::from_environment()?;
        let tls = match base.split_once("://") {
            Some(("http", _)) => None,
            Some(("https", _)) => Some(access.tls()?.context(
                "https needs WEIR_STATUS_CA=FILE: the authorities that may have issued the broker's certificate",
            )?),
            _ => bail!("{base}: neither http:// nor https://"),
        };
        Ok(Self { base, access, client: HttpClient::new(tls, 1)? })
    }

    async fn data(&self, path: &str) -> anyhow::Result<Value> {
        let base = self.base;
        let (good, body) = self.whole(path).await?;
        let parsed: Result<Value, _> = serde_json::from_slice(&body);
        if !good {
            let said = parsed.ok().and_then(|answer| answer["message"].as_str().map(str::to_owned));
            let said = said.unwrap_or_else(|| "an error".to_owned());
            let lacks_token = said.contains("bearer token") && std::env::var_os("WEIR_STATUS_TOKEN").is_none();
            let hint = if lacks_token { "; set WEIR_STATUS_TOKEN=file:PATH" } else { "" };
            bail!("{base}{path}: {said}{hint}");
        }
        let answer = parsed.with_context(|| format!("{base}{path}: not JSON"))?;
        Ok(answer.get("data").cloned().unwrap_or(answer))
    }

    /// Whether the answer's status is a good one, and its body.
    async fn whole(&self, path: &str) -> anyhow::Result<(bool, Bytes)> {
        let shown = || format!("{}{path}", self.base);
        let answer = async {
            let response = self.open(path).await?;
            let good = response.status().is_success();
            let body = read_body(response.into_body(), ANSWER_BYTES_MAX).await.with_context(shown)?;
            Ok((good, body))
        };
        tokio::time::timeout(ANSWER_TIMEOUT, answer).await.with_context(|| format!("{}: no answer", shown()))?
    }

    async fn open(&self, path: &str) -> anyhow::Result<Response<Incoming>> {
        let url = format!("{}{path}", self.base.trim_end_matches('/'));
        let mut request = Request::get(&url);
        if let Some(authorization) = self.access.authorization()? {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let request = request.body(Full::default()).with_context(|| url.clone())?;
        self.client.send(request).await.map_err(|error| match error {
            HttpError::Connect(why) => anyhow::anyhow!(
                "{}: {why}: no broker answers there; set --status or WEIR_STATUS to its status address",
                self.base
            ),
            HttpError::Tls(why) => anyhow::anyhow!("{url}: {}", tls_hint(&why)),
            other => anyhow::anyhow!("{url}: {other}"),
        })
    }
}

/// Adds the next step where a certificate made with openssl's defaults is the cause.
fn tls_hint(why: &str) -> &str {
    if why.contains("CaUsedAsEndEntity") {
        "the broker shows a certificate that may issue others (as `openssl req -x509` makes them); \
         give it one made with -addext basicConstraints=critical,CA:FALSE, or issued by a CA"
    } else {
        why
    }
}
