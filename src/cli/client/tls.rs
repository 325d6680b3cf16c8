//! The configuration of TLS.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::authorities::system_authorities;
use crate::http_client::tls_trusting;

/// How the broker's certificate is verified, and this client's own.
#[derive(Debug, Clone, Default, clap::Args)]
pub(in crate::cli) struct TlsArgs {
    /// Authorities that may have issued the broker's certificate (PEM) [default: the system's]; implies TLS with -h
    #[arg(long, value_name = "FILE", help_heading = "TLS")]
    pub(super) cafile: Option<PathBuf>,
    /// This client's certificate chain (PEM)
    #[arg(long, value_name = "FILE", requires = "key", help_heading = "TLS")]
    cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "TLS")]
    key: Option<PathBuf>,
    /// Accept any certificate: the broker could be another one. For tests only
    #[arg(long, help_heading = "TLS", conflicts_with = "cafile")]
    insecure: bool,
}

impl TlsArgs {
    /// # Errors
    /// A file that cannot be read or has other content; no authorities.
    pub(super) fn config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        match &self.cafile {
            Some(path) => {
                let shown = || format!("--cafile {}", path.display());
                for certificate in certificates(path).with_context(shown)? {
                    roots.add(certificate).with_context(shown)?;
                }
            }
            None if self.insecure => {}
            None => {
                let bundle = system_authorities()
                    .context("this system has no certificate authorities; --cafile FILE names those of the broker")?;
                // A bundle may hold certificates that are too old to be used.
                roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&bundle).filter_map(Result::ok));
            }
        }
        let builder = tls_trusting(roots)?;
        let mut config = match self.cert.as_ref().zip(self.key.as_ref()) {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert).with_context(|| format!("--cert {}", cert.display()))?;
                let shown = || format!("--key {}", key.display());
                let key = PrivateKeyDer::from_pem_file(key).with_context(shown)?;
                builder.with_client_auth_cert(chain, key).with_context(shown)?
            }
        };
        if self.insecure {
            let provider = Arc::clone(config.crypto_provider());
            config.dangerous().set_certificate_verifier(Arc::new(AnyCertificate(provider)));
        }
        Ok(Arc::new(config))
    }
}

fn certificates(path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)?.collect::<Result<_, _>>()?;
    if found.is_empty() {
        bail!("no certificate in it");
    }
    Ok(found)
}

/// Accepts every certificate; signatures of the handshake are verified all the same.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
