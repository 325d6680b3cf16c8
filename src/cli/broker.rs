//! Asks a running broker over its status API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, Uri, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::access::Access;
use weir_declare::config::{Revision, Snapshot, SourceFile};

/// How long a broker may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// Whether an operand means a broker, and not a path.
pub(super) fn is_url(operand: &str) -> bool {
    operand.starts_with("http://") || operand.starts_with("https://")
}

/// The address in a broker's URL, where it is one and no name.
pub(super) fn address(operand: &str) -> Option<SocketAddr> {
    operand.strip_prefix("http://")?.split('/').next()?.parse().ok()
}

/// The `data` of the answers to several paths below a broker's `http://HOST:PORT`.
///
/// # Errors
/// No answer, or one that is not understood; with the address.
pub(super) fn ask<const N: usize>(base: &str, paths: [&str; N]) -> anyhow::Result<[Value; N]> {
    let runtime = runtime()?;
    let mut answers = [const { Value::Null }; N];
    for (answer, path) in answers.iter_mut().zip(paths) {
        *answer = runtime.block_on(get(base, path))?;
    }
    Ok(answers)
}

/// Whether the answer to a path is a good one, and its text.
///
/// # Errors
/// No answer.
pub(super) fn text(base: &str, path: &str) -> anyhow::Result<(bool, String)> {
    let (good, body) = runtime()?.block_on(whole(base, path))?;
    Ok((good, String::from_utf8_lossy(&body).into_owned()))
}

/// What a verb that asks brokers runs on.
///
/// # Errors
/// The system does not give what it needs.
pub(super) fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}

/// What a broker has declared.
///
/// # Errors
/// See [`ask`].
pub(super) fn declared(base: &str) -> anyhow::Result<Snapshot> {
    let [documents] = ask(base, [EXPORT])?;
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
        path: Arc::from(format!("{at}.json")),
        shown: Arc::from(format!("{base} document {at}")),
        base: Arc::from(Path::new("")),
        content: Ok(Arc::from(document.to_string().into_bytes())),
    });
    let revision = Revision::Content { hash: String::new() };
    Ok(Snapshot { origin: Arc::from(base), revision, files: files.collect() })
}

async fn get(base: &str, path: &str) -> anyhow::Result<Value> {
    let (good, body) = whole(base, path).await?;
    let parsed: Result<Value, _> = serde_json::from_slice(&body);
    if !good {
        let said = parsed.ok().and_then(|answer| answer["message"].as_str().map(str::to_owned));
        let said = said.unwrap_or_else(|| "an error".to_owned());
        let lacks_token = said.contains("bearer token") && std::env::var_os("WEIR_STATUS_TOKEN").is_none();
        let hint = if lacks_token { "; WEIR_STATUS_TOKEN=file:PATH says where it is" } else { "" };
        bail!("{base}{path}: {said}{hint}");
    }
    let answer = parsed.with_context(|| format!("{base}{path}: not JSON"))?;
    Ok(answer.get("data").cloned().unwrap_or(answer))
}

/// Whether the answer's status is a good one, and its body.
async fn whole(base: &str, path: &str) -> anyhow::Result<(bool, Bytes)> {
    let answer = async {
        let response = open(base, path).await?;
        let good = response.status().is_success();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{base}{path}: {error}"))?.to_bytes();
        Ok((good, body))
    };
    tokio::time::timeout(ANSWER_WITHIN, answer).await.with_context(|| format!("{base}{path}: no answer"))?
}

/// Asks for `path` below `base`; the body comes as it comes.
///
/// # Errors
/// No broker there, or none that lets us in.
pub(super) async fn open(base: &str, path: &str) -> anyhow::Result<Response<Incoming>> {
    let url = format!("{}{path}", base.trim_end_matches('/'));
    let uri: Uri = url.parse().with_context(|| url.clone())?;
    let secure = match uri.scheme_str() {
        Some("http") => false,
        Some("https") => true,
        _ => bail!("{base}: neither http:// nor https://"),
    };
    let host = uri.host().with_context(|| format!("{base}: no host"))?.trim_matches(['[', ']']).to_owned();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let access = Access::from_environment()?;
    let target = uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::get(target).header(header::HOST, format!("{host}:{port}"));
    if let Some(authorization) = access.authorization()? {
        request = request.header(header::AUTHORIZATION, authorization);
    }
    let request = request.body(Empty::new())?;
    let stream = TcpStream::connect((host.as_str(), port)).await.map_err(|error| {
        anyhow::anyhow!(
            "{base}: {error}: no broker's status listens there; --status or WEIR_STATUS says where one does"
        )
    })?;
    let response = if secure {
        exchange(access.secure(&host, stream).await.with_context(|| url.clone())?, request).await
    } else {
        exchange(stream, request).await
    };
    response.with_context(|| url)
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> anyhow::Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // Its failure is the request's, too.
    tokio::spawn(async move { drop(connection.await) });
    Ok(sender.send_request(request).await?)
}
