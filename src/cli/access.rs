//! How the verbs that ask brokers are let in: from the environment, so that no secret stands on a command line.
//!
//! `WEIR_STATUS_TOKEN` (`file:PATH` or `env:NAME`), `WEIR_STATUS_CA` (who may have issued the broker's certificate),
//! `WEIR_STATUS_CERT` and `WEIR_STATUS_KEY` (this caller's own).

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use hyper::header::HeaderValue;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::status::Secret;

/// What there is to show.
pub(super) struct Access {
    token: Option<Secret>,
    ca: Option<PathBuf>,
    own: Option<(PathBuf, PathBuf)>,
}

impl Access {
    /// As the environment has it.
    ///
    /// # Errors
    /// A reference that is none, or half a pair of files.
    pub(super) fn from_environment() -> anyhow::Result<Self> {
        let variable = |name: &str| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let token = match variable("WEIR_STATUS_TOKEN") {
            None => None,
            Some(reference) => {
                let reference = reference.to_str().context("WEIR_STATUS_TOKEN is no text")?.to_owned();
                Some(reference.parse().map_err(|error| anyhow::anyhow!("WEIR_STATUS_TOKEN: {error}"))?)
            }
        };
        let own = match (variable("WEIR_STATUS_CERT"), variable("WEIR_STATUS_KEY")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            _ => bail!("WEIR_STATUS_CERT and WEIR_STATUS_KEY go together"),
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
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).context("the token is no header's text")?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// TLS with the broker called `host`.
    ///
    /// # Errors
    /// A file that is not what it should be, or a broker that is not who it should be.
    pub(super) async fn secure(&self, host: &str, stream: TcpStream) -> anyhow::Result<TlsStream<TcpStream>> {
        let Some(ca) = &self.ca else {
            bail!("https needs WEIR_STATUS_CA=FILE: who may have issued the broker's certificate");
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(ca)? {
            roots.add(certificate).with_context(|| ca.display().to_string())?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let builder = builder.with_root_certificates(roots);
        let config = match &self.own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let own = PrivateKeyDer::from_pem_file(key).with_context(|| key.display().to_string())?;
                builder.with_client_auth_cert(certificates(cert)?, own)?
            }
        };
        let name =
            ServerName::try_from(host.to_owned()).with_context(|| format!("{host} is no name in certificates"))?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| explained(&error))
    }
}

/// With the next step, where openssl's habits are what stands in the way.
fn explained(error: &std::io::Error) -> anyhow::Error {
    let said = error.to_string();
    if said.contains("CaUsedAsEndEntity") {
        anyhow::anyhow!(
            "the broker shows a certificate that may issue others (as `openssl req -x509` makes them); \
             give it one made with -addext basicConstraints=critical,CA:FALSE, or issued by a CA"
        )
    } else {
        anyhow::anyhow!(said)
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let shown = || path.display().to_string();
    let found = CertificateDer::pem_file_iter(path).with_context(shown)?.collect::<Result<Vec<_>, _>>();
    found.with_context(shown)
}
