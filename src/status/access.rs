//! Access to the status server: a bearer token, a client certificate, either of them where both are declared, or none.
//! Certificates and token are read again when their files change; where that fails, the former ones stay in use.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hyper::StatusCode;
use hyper::header::{self, HeaderMap, HeaderValue};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

use super::connections::Activity;
use super::http::Problem;
use super::secret::Secret;

/// The access rules of the status server.
#[derive(Debug, Clone, Default)]
pub struct AccessOptions {
    pub tls: Option<TlsFiles>,
    /// The bearer token. The probes and the page's own files need none, because they reveal nothing.
    pub token: Option<Secret>,
    /// Names that a Host header may have, beside loopback and the own address; see [`super::is_host_name`].
    pub hosts: Vec<String>,
    /// Origins whose pages may read the answers in a browser; empty: only the server's own page.
    pub cors_origins: Vec<String>,
}

impl AccessOptions {
    /// Whether every host that reaches the address may read.
    pub fn is_open(&self) -> bool {
        self.token.is_none() && self.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none())
    }
}

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Authorities of client certificates. Where it is set, callers need a certificate (or the token, if one is
    /// declared).
    pub client_ca: Option<PathBuf>,
}

/// Why access cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct AccessError(String);

/// What an answer reveals, which decides who gets it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Content {
    /// Nothing about this broker but whether it is alive: probes, the page's own files.
    Public,
    /// The broker, its endpoints and its counters; no client.
    Broker,
    /// Clients, topics, payloads, or documents, which may name clients.
    Clients,
}

/// How often the files are checked for changes.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// The rules in force.
pub(super) struct Access {
    options: AccessOptions,
    tls: Option<ArcSwap<ServerConfig>>,
    /// The digest of the token: comparing digests does not reveal its length either.
    token: Option<ArcSwap<[u8; 32]>>,
}

impl Access {
    /// Reads everything that `options` names.
    pub(super) fn open(options: AccessOptions) -> Result<Self, AccessError> {
        let tls = options.tls.as_ref().map(server_config).transpose()?.map(ArcSwap::new);
        let token = options.token.as_ref().map(token_digest).transpose()?.map(ArcSwap::from_pointee);
        Ok(Self { options, tls, token })
    }

    /// The TLS configuration for the next connection; `None`: none is declared.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.tls.as_ref().map(ArcSwap::load_full)
    }

    /// Looks at the files now and then, until `stopping`.
    pub(super) async fn follow(self: Arc<Self>, mut stopping: watch::Receiver<bool>) {
        if self.tls.is_none() && self.token.is_none() {
            return;
        }
        let mut failed = None;
        loop {
            tokio::select! {
                _ = stopping.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep(RELOAD_INTERVAL) => {}
            }
            let error = self.renew().err().map(|error| error.to_string());
            if let Some(error) = error.as_ref().filter(|_| error != failed) {
                tracing::error!("status credentials reload failed: {error}; the former ones stay in use");
            }
            failed = error;
        }
    }

    fn renew(&self) -> Result<(), AccessError> {
        if let (Some(files), Some(tls)) = (&self.options.tls, &self.tls) {
            tls.store(server_config(files)?);
        }
        if let (Some(secret), Some(token)) = (&self.options.token, &self.token) {
            token.store(Arc::new(token_digest(secret)?));
        }
        Ok(())
    }

    /// Whether callers have to show anything.
    pub(super) fn is_guarded(&self) -> bool {
        self.token.is_some() || self.options.tls.as_ref().is_some_and(|files| files.client_ca.is_some())
    }

    /// Checks the caller's right to `path`, whose answer has `content`.
    pub(super) fn admit(
        &self,
        path: &str,
        content: Content,
        headers: &HeaderMap,
        caller: &Activity,
    ) -> Result<(), Problem> {
        if content == Content::Public {
            return Ok(());
        }
        if !self.is_guarded() {
            return if content == Content::Broker || caller.over_loopback { Ok(()) } else { Err(needs_guard(path)) };
        }
        if caller.is_identified() {
            return Ok(());
        }
        let certified = self.options.tls.as_ref().is_some_and(|files| files.client_ca.is_some());
        let wanted = match (&self.token, certified) {
            (Some(token), _) if knows(headers, &token.load()) => return Ok(()),
            (Some(_), true) => "a bearer token or a client certificate",
            (Some(_), false) => "a bearer token (Authorization: Bearer ...)",
            (None, _) => "a client certificate",
        };
        let mut problem = Problem::new(StatusCode::UNAUTHORIZED, format!("{path} needs {wanted}"));
        problem.challenge = self.token.is_some();
        Err(problem)
    }

    /// The origin of a page elsewhere that may read the answer.
    pub(super) fn cors(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(header::ORIGIN)?;
        self.options.cors_origins.iter().any(|known| known.as_bytes() == origin.as_bytes()).then(|| origin.clone())
    }

    /// Whether answers depend on the origin of the request.
    pub(super) fn varies(&self) -> bool {
        !self.options.cors_origins.is_empty()
    }
}

/// Where no credentials are declared, data about clients stays on this machine.
fn needs_guard(path: &str) -> Problem {
    let message = format!(
        "{path} shows clients, topics or documents, and is served to other machines only with credentials: start the \
         broker with --status-bearer-token file:PATH or --status-client-ca FILE, or ask on the broker's machine over \
         127.0.0.1"
    );
    Problem::new(StatusCode::FORBIDDEN, message)
}

fn knows(headers: &HeaderMap, token: &[u8; 32]) -> bool {
    let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let shown = shown.and_then(|value| value.split_once(' ')).filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
    shown.is_some_and(|(_, shown)| bool::from(Sha256::digest(shown.trim().as_bytes()).as_slice().ct_eq(token)))
}

fn token_digest(secret: &Secret) -> Result<[u8; 32], AccessError> {
    let token = secret.read().map_err(|error| AccessError(format!("--status-bearer-token {error}")))?;
    Ok(Sha256::digest(token.as_bytes()).into())
}

fn server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, AccessError> {
    let wrong = |path: &PathBuf, error: &dyn std::fmt::Display| AccessError(format!("{}: {error}", path.display()));
    let certificates = |path: &PathBuf| -> Result<Vec<CertificateDer<'static>>, AccessError> {
        let found = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let found = found.map_err(|error| wrong(path, &error))?;
        if found.is_empty() { Err(wrong(path, &"it contains no certificate")) } else { Ok(found) }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| AccessError(format!("TLS cannot be set up: {error}")))?;
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(ca) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(ca)? {
                roots.add(certificate).map_err(|error| wrong(ca, &error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            // Probes show no certificate; `admit` requires it for other paths.
            builder
                .with_client_cert_verifier(verifier.allow_unauthenticated().build().map_err(|error| wrong(ca, &error))?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates(&files.cert)?, key)
        .map_err(|error| AccessError(format!("{} and {}: {error}", files.cert.display(), files.key.display())))?;
    if files.client_ca.is_some() {
        // A resumed session would carry a certificate that was verified against older trust.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
