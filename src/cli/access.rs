//! Credentials of the verbs that query brokers, from the environment, so that no secret is on a command line.
//!
//! `WEIR_STATUS_TOKEN` (`file:PATH` or `env:NAME`), `WEIR_STATUS_CA` (the authorities of the broker's certificate),
//! `WEIR_STATUS_CERT` and `WEIR_STATUS_KEY` (this caller's own).

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use hyper::header::HeaderValue;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::http_client::tls_trusting;
use crate::status::Secret;

/// The caller's credentials.
pub(super) struct Access {
    token: Option<Secret>,
    ca: Option<PathBuf>,
    own: Option<(PathBuf, PathBuf)>,
}

impl Access {
    /// Reads the environment.
    ///
    /// # Errors
    /// A reference that is malformed, or half a pair of files.
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let token = match variable("WEIR_STATUS_TOKEN") {
            None => None,
            Some(reference) => {
                let reference = reference.to_str().context("WEIR_STATUS_TOKEN is not text")?.to_owned();
                Some(reference.parse().map_err(|error| anyhow::anyhow!("WEIR_STATUS_TOKEN: {error}"))?)
            }
        };
        let own = match (variable("WEIR_STATUS_CERT"), variable("WEIR_STATUS_KEY")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            _ => bail!("WEIR_STATUS_CERT and WEIR_STATUS_KEY must be set together"),
        };
        Ok(Self { token, ca: variable("WEIR_STATUS_CA").map(Into::into), own })
    }

    /// The Authorization header.
    ///
    /// # Errors
    /// The token cannot be read, or cannot stand in a header.
    pub(super) fn authorization(&self) -> anyhow::Result<Option<HeaderValue>> {
        let Some(token) = &self.token else { return Ok(None) };
        let token = token.read().context("WEIR_STATUS_TOKEN")?;
        let mut value =
            HeaderValue::try_from(format!("Bearer {token}")).context("the token is not valid in a header")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// How `https` brokers are verified, and this caller's own certificate; `None`: no `WEIR_STATUS_CA`.
    ///
    /// # Errors
    /// A file that cannot be read, or has other content.
    pub(super) fn tls(&self) -> anyhow::Result<Option<ClientConfig>> {
        let Some(ca) = &self.ca else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).with_context(|| ca.display().to_string())?;
        }
        let builder = tls_trusting(roots)?;
        let Some((cert, key)) = &self.own else { return Ok(Some(builder.with_no_client_auth())) };
        let own = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
        Ok(Some(builder.with_client_auth_cert(certificates(cert)?, own)?))
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = || path.display().to_string();
    let found = CertificateDer::pem_file_iter(path).with_context(shown)?.collect::<Result<Vec<_>, _>>();
    found.with_context(shown)
}
