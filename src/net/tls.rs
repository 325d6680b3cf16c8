//! An endpoint's TLS configuration, from PEM. The caller reads the files.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;

use super::policy::TlsPolicy;

/// The TLS settings of an endpoint; PEM values are contents of files.
pub struct TlsSettings<'a> {
    /// The endpoint's default certificate: for clients without SNI, or with a name that `sni` does not have.
    pub identity: Identity<'a>,
    pub sni: Vec<(Vec<Arc<str>>, Identity<'a>)>,
    pub client_auth: ClientAuth<'a>,
    /// Whether TLS 1.2 is refused.
    pub only_tls13: bool,
    /// Whether the endpoint speaks WebSocket: selects the ALPN protocol.
    pub websocket: bool,
}

/// A certificate chain, the end-entity certificate first, and its key.
#[derive(Clone, Copy)]
pub struct Identity<'a> {
    pub chain_pem: &'a [u8],
    pub key_pem: &'a [u8],
}

impl Identity<'_> {
    /// Checks that the key belongs to the certificate and can be used.
    ///
    /// See [`TlsError`].
    pub fn check(&self) -> Result<(), TlsError> {
        certified_key(*self, &default_provider()).map(|_| ())
    }
}

/// Bits of an RSA key above which there is a warning: a handshake with 4,096 bits costs five times as much.
pub const RSA_BITS_ADVISED: usize = 2048;

/// Bits of the RSA key of the first certificate; `None`: a key of another kind, or no certificate that can be parsed.
pub fn rsa_key_bits(chain_pem: &[u8]) -> Option<usize> {
    let der = CertificateDer::pem_slice_iter(chain_pem).next()?.ok()?;
    let (_, certificate) = X509Certificate::from_der(&der).ok()?;
    match certificate.public_key().parsed().ok()? {
        PublicKey::RSA(key) => Some(key.key_size()),
        _ => None,
    }
}

/// Whether clients are asked for certificates.
#[derive(Clone, Copy)]
pub enum ClientAuth<'a> {
    None,
    Asked {
        /// Whether a certificate is mandatory.
        required: bool,
        /// The CAs that may issue them.
        ca_pem: &'a [u8],
        /// Certificate revocation lists, one for each issuer in a chain. A certificate is refused if its issuer has no
        /// list, or only an expired one.
        crl_pem: Option<&'a [u8]>,
    },
}

/// The file that an error is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFile {
    Certificate,
    Key,
    ClientCa,
    ClientCrl,
}

impl fmt::Display for TlsFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Certificate => "the certificate file",
            Self::Key => "the key file",
            Self::ClientCa => "the CA file",
            Self::ClientCrl => "the CRL file",
        })
    }
}

/// Why a TLS configuration is invalid.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0} is not valid PEM: {1}")]
    Pem(TlsFile, pem::Error),
    #[error("{0} contains no PEM section of the expected kind")]
    Empty(TlsFile),
    #[error("{0}: {1}")]
    Content(TlsFile, rustls::Error),
    #[error("the key does not belong to the certificate, or cannot be used: {0}")]
    Key(rustls::Error),
    #[error("{0:?} is not a valid server name: use a DNS name, or `*.` and a DNS name")]
    ServerName(Arc<str>),
    #[error("client certificates cannot be verified: {0}")]
    Verifier(#[from] VerifierBuilderError),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

impl TlsSettings<'_> {
    /// Builds the configuration. Sessions resume by tickets whose key belongs to the configuration: a new configuration
    /// accepts no tickets of the old one, so a session never outlives the trust under which it began. With client
    /// certificates no session resumes: each connection verifies the certificate against the present revocation lists
    /// and time.
    pub fn build(&self) -> Result<TlsPolicy, TlsError> {
        let provider = Arc::new(default_provider());
        let versions = if self.only_tls13 { &[&TLS13][..] } else { &[&TLS13, &TLS12] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions)?;
        let client_verifier = client_verifier(self.client_auth, &provider)?;
        let builder = match &client_verifier {
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(self.resolver(&provider)?));
        // Clients without ALPN are served; those that offer only other protocols get an alert in the handshake.
        config.alpn_protocols = vec![if self.websocket { b"http/1.1".to_vec() } else { b"mqtt".to_vec() }];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if client_verifier.is_none() {
            config.ticketer = Ticketer::new()?;
            config.send_tls13_tickets = 1;
        } else {
            config.send_tls13_tickets = 0;
        }
        Ok(TlsPolicy { config: Arc::new(config), client_verifier })
    }

    fn resolver(&self, provider: &CryptoProvider) -> Result<Certificates, TlsError> {
        let mut by_name = HashMap::new();
        for (names, identity) in &self.sni {
            let key = Arc::new(certified_key(*identity, provider)?);
            for name in names {
                let bare = name.strip_prefix("*.").unwrap_or(name);
                if rustls::pki_types::DnsName::try_from(bare).is_err() {
                    return Err(TlsError::ServerName(Arc::clone(name)));
                }
                by_name.insert(name.to_ascii_lowercase().into(), Arc::clone(&key));
            }
        }
        Ok(Certificates { default: Arc::new(certified_key(self.identity, provider)?), by_name })
    }
}

fn certificates(pem: &[u8], file: TlsFile) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| TlsError::Pem(file, error))?;
    if found.is_empty() { Err(TlsError::Empty(file)) } else { Ok(found) }
}

fn certified_key(identity: Identity<'_>, provider: &CryptoProvider) -> Result<CertifiedKey, TlsError> {
    let chain = certificates(identity.chain_pem, TlsFile::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(identity.key_pem).map_err(|error| match error {
        pem::Error::NoItemsFound => TlsError::Empty(TlsFile::Key),
        error => TlsError::Pem(TlsFile::Key, error),
    })?;
    CertifiedKey::from_der(chain, key, provider).map_err(TlsError::Key)
}

fn client_verifier(
    client_auth: ClientAuth<'_>,
    provider: &Arc<CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let ClientAuth::Asked { required, ca_pem, crl_pem } = client_auth else { return Ok(None) };
    let mut roots = RootCertStore::empty();
    for certificate in certificates(ca_pem, TlsFile::ClientCa)? {
        roots.add(certificate).map_err(|error| TlsError::Content(TlsFile::ClientCa, error))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    if let Some(pem) = crl_pem {
        let lists: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(pem).collect();
        let lists = lists.map_err(|error| TlsError::Pem(TlsFile::ClientCrl, error))?;
        // Without any list, rustls would not check revocation at all.
        if lists.is_empty() {
            return Err(TlsError::Empty(TlsFile::ClientCrl));
        }
        builder = builder.with_crls(lists).enforce_revocation_expiration();
    }
    if !required {
        builder = builder.allow_unauthenticated();
    }
    Ok(Some(builder.build()?))
}

/// Certificates by server name.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    /// In lower case; the `*` in `*.example.com` matches one label.
    by_name: HashMap<Box<str>, Arc<CertifiedKey>>,
}

impl Certificates {
    fn find(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = name.to_ascii_lowercase();
        self.by_name.get(&*name).or_else(|| {
            let (_, parent) = name.split_once('.')?;
            self.by_name.get(&*format!("*.{parent}"))
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.find(name));
        Some(Arc::clone(found.unwrap_or(&self.default)))
    }
}
