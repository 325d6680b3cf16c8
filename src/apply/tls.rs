//! `sslConfig` and its files to what a listener needs: a pair is loaded whole or not at all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig};

use super::files::Contents;
use crate::auth::validity;
use crate::config::{ClientAuth, Endpoint, FileRef, SslConfig, TlsVersion};
use crate::net::TlsPolicy;
use crate::reconcile::Timestamp;

/// Loads an endpoint's certificates and trust.
///
/// # Errors
/// Which file, and what is wrong with it.
pub(super) fn load(endpoint: &Endpoint, ssl: &SslConfig, files: &Contents) -> Result<TlsPolicy, String> {
    let loader = Loader { endpoint, files };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let default = loader.certified_key(&ssl.cert_file, &ssl.key_file, &provider)?;
    let mut by_name = BTreeMap::new();
    for sni in &ssl.sni {
        let key = loader.certified_key(&sni.cert_file, &sni.key_file, &provider)?;
        by_name.extend(sni.server_names.iter().map(|name| (name.to_ascii_lowercase(), Arc::clone(&key))));
    }
    let client_verifier = loader.client_verifier(ssl, &provider)?;
    let versions: &[_] = match ssl.min_version {
        TlsVersion::V1_2 => &[&TLS13, &TLS12],
        TlsVersion::V1_3 => &[&TLS13],
    };
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|e| format!("TLS cannot be set up: {e}"))?;
    let builder = match &client_verifier {
        Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates { default, by_name }));
    if client_verifier.is_some() {
        // A resumed session would bring back a client certificate that was judged by older trust.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    Ok(TlsPolicy { config: Arc::new(config), client_verifier })
}

/// When the first of an endpoint's own certificates stops to hold (those of its chains included). `None`: no TLS, or no
/// certificate that tells.
pub(super) fn expires_at(endpoint: &Endpoint, files: &Contents) -> Option<Timestamp> {
    let ssl = endpoint.ssl_config.as_ref()?;
    let loader = Loader { endpoint, files };
    std::iter::once(&ssl.cert_file)
        .chain(ssl.sni.iter().map(|sni| &sni.cert_file))
        .filter_map(|file| loader.certificates(file).ok())
        .flatten()
        .filter_map(|certificate| validity(&certificate).ok())
        .filter_map(|(_, end)| u64::try_from(end.unix_timestamp()).ok())
        .min()
        .map(|end_s| Timestamp::from_unix_ms(end_s * 1000))
}

struct Loader<'a> {
    endpoint: &'a Endpoint,
    files: &'a Contents,
}

impl Loader<'_> {
    fn bytes(&self, file: &FileRef) -> Result<Arc<[u8]>, String> {
        self.files.get(&self.endpoint.origin.resolve(file))
    }

    fn certified_key(
        &self,
        cert_file: &FileRef,
        key_file: &FileRef,
        provider: &rustls::crypto::CryptoProvider,
    ) -> Result<Arc<CertifiedKey>, String> {
        let chain = self.certificates(cert_file)?;
        let key = PrivateKeyDer::from_pem_slice(&self.bytes(key_file)?)
            .map_err(|e| format!("{}: no private key in PEM: {e}", key_file.0))?;
        let certified = CertifiedKey::from_der(chain, key, provider)
            .map_err(|e| format!("{} and {} do not go together: {e}", cert_file.0, key_file.0))?;
        Ok(Arc::new(certified))
    }

    fn certificates(&self, file: &FileRef) -> Result<Vec<CertificateDer<'static>>, String> {
        let certificates = CertificateDer::pem_slice_iter(&self.bytes(file)?)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("{}: not PEM: {e}", file.0))?;
        if certificates.is_empty() {
            return Err(format!("{}: no certificate in it", file.0));
        }
        Ok(certificates)
    }

    fn client_verifier(
        &self,
        ssl: &SslConfig,
        provider: &Arc<rustls::crypto::CryptoProvider>,
    ) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
        if ssl.client_auth == ClientAuth::None {
            return Ok(None);
        }
        let Some(ca_file) = &ssl.ca_file else {
            return Err("clientAuth needs a caFile: who may have issued the clients' certificates".into());
        };
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates(ca_file)? {
            roots.add(certificate).map_err(|e| format!("{}: {e}", ca_file.0))?;
        }
        let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
        if let Some(crl_file) = &ssl.crl_file {
            let lists = CertificateRevocationListDer::pem_slice_iter(&self.bytes(crl_file)?)
                .collect::<Result<Vec<_>, _>>()
                .map_err(|e| format!("{}: no revocation list in PEM: {e}", crl_file.0))?;
            builder = builder.with_crls(lists).allow_unknown_revocation_status();
        }
        if ssl.client_auth == ClientAuth::Optional {
            builder = builder.allow_unauthenticated();
        }
        builder.build().map(Some).map_err(|e| format!("{}: {e}", ca_file.0))
    }
}

/// Chooses a certificate by the server name the client asks for.
struct Certificates {
    default: Arc<CertifiedKey>,
    /// In lower case; `*.example.com` stands for one label.
    by_name: BTreeMap<String, Arc<CertifiedKey>>,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("names", &self.by_name.keys()).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            let wild = name.split_once('.').map(|(_, domain)| format!("*.{domain}"));
            self.by_name.get(&name).or_else(|| self.by_name.get(&wild?))
        });
        Some(Arc::clone(named.unwrap_or(&self.default)))
    }
}
