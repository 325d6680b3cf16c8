//! Asks a running broker over its status API.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::config::{Revision, Snapshot, SourceFile};

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
    if !base.starts_with("http://") {
        bail!("{base}: only http:// is spoken; the status API listens on a private address");
    }
    let base = base.trim_end_matches('/');
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut answers = [const { Value::Null }; N];
    for (answer, path) in answers.iter_mut().zip(paths) {
        *answer = runtime.block_on(get(&format!("{base}{path}")))?;
    }
    Ok(answers)
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

async fn get(url: &str) -> anyhow::Result<Value> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let uri: hyper::Uri = url.parse().with_context(|| url.to_owned())?;
    let answer = async {
        let response = client.get(uri).await.with_context(|| url.to_owned())?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("{url}: {error}"))?.to_bytes();
        if !status.is_success() {
            bail!("{url}: {status}");
        }
        let answer: Value = serde_json::from_slice(&body).with_context(|| format!("{url}: not JSON"))?;
        Ok(answer.get("data").cloned().unwrap_or(answer))
    };
    tokio::time::timeout(ANSWER_WITHIN, answer).await.with_context(|| format!("{url}: no answer"))?
}
