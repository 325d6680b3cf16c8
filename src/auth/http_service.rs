//! Compiles the service of an `http` authenticator: its URL, headers and authorities.

use hyper::header::{HeaderMap, HeaderName};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject};

use super::api::AuthBackend;
use super::backends::http::{HttpBackend, Service, UrlError, parse_url};
use super::compile::{BackendError, References};
use super::counts::AuthCounters;
use weir_declare::config::{FileRef, HeaderValue, HttpHook};

/// Why a declared service cannot be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ServiceError {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("{0:?} is not a header name")]
    HeaderName(String),
    #[error("the value of header {0} has characters that a header must not have")]
    HeaderValue(HeaderName),
    #[error("https needs a `caFile`; the system's is often /etc/ssl/certs/ca-certificates.crt")]
    NoCaFile,
    #[error("{file}: {error}")]
    Pem { file: String, error: pem::Error },
    #[error("{file}: {error}")]
    Authority { file: String, error: rustls::Error },
    #[error("{0} contains no certificate in PEM")]
    NoAuthority(String),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}

/// Compiles an `http` authenticator.
///
/// # Errors
/// A URL, header, secret or file cannot be used.
pub(super) fn build_backend(
    declared: &HttpHook,
    references: &References<'_>,
    predecessors: &str,
    counters: &AuthCounters,
) -> Result<Box<dyn AuthBackend>, BackendError> {
    let service = build_service(declared, references)?;
    Ok(Box::new(HttpBackend::new(declared, service, predecessors, &counters.dropped)))
}

fn build_service(declared: &HttpHook, references: &References<'_>) -> Result<Service, BackendError> {
    let url = parse_url(&declared.url).map_err(ServiceError::from)?;
    let mut headers = HeaderMap::new();
    for (name, value) in &declared.headers {
        let text = match value {
            HeaderValue::Plain(text) => text.to_string(),
            HeaderValue::Secret(secret) => references.secret(secret)?,
        };
        let name: HeaderName = name.parse().map_err(|_| ServiceError::HeaderName(name.to_string()))?;
        let value = text.parse().map_err(|_| ServiceError::HeaderValue(name.clone()))?;
        headers.insert(name, value);
    }
    let roots = match (url.scheme_str(), &declared.ca_file) {
        (Some("https"), Some(file)) => Some(authorities(file, references)?),
        (Some("https"), None) => return Err(ServiceError::NoCaFile.into()),
        _ => None,
    };
    Ok(Service::new(url, headers, roots, declared.max_concurrent).map_err(ServiceError::from)?)
}

fn authorities(file: &FileRef, references: &References<'_>) -> Result<RootCertStore, BackendError> {
    let (file, content) = references.file(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&content) {
        let certificate = certificate.map_err(|error| ServiceError::Pem { file: file.clone(), error })?;
        roots.add(certificate).map_err(|error| ServiceError::Authority { file: file.clone(), error })?;
    }
    if roots.is_empty() { Err(ServiceError::NoAuthority(file).into()) } else { Ok(roots) }
}
