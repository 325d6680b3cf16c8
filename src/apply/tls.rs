//! Loads the files of `sslConfig` into a listener's TLS policy. A certificate and its key are loaded together or not at
//! all.

use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::files::{CompileError, FileContents};
use crate::auth::validity;
use crate::net::{ClientAuth, Identity, RSA_BITS_ADVISED, TlsError, TlsFile, TlsPolicy, TlsSettings, rsa_key_bits};
use weir_declare::config::{self, Endpoint, FileRef, SslConfig, TlsVersion};
use weir_declare::reconcile::Timestamp;

/// Loads an endpoint's certificates and trust.
///
/// # Errors
/// Which file, and what is wrong with it.
pub(super) fn load(endpoint: &Endpoint, ssl: &SslConfig, files: &FileContents) -> Result<TlsPolicy, CompileError> {
    let read = |file: &FileRef| files.get(&endpoint.origin.resolve(file));
    let own = Pair::read(&ssl.cert_file, &ssl.key_file, &read)?;
    let named: Vec<Pair<'_>> =
        ssl.sni.iter().map(|sni| Pair::read(&sni.cert_file, &sni.key_file, &read)).collect::<Result<_, _>>()?;
    for pair in std::iter::once(&own).chain(&named) {
        if let Some(bits) = rsa_key_bits(&pair.chain_pem).filter(|bits| *bits > RSA_BITS_ADVISED) {
            let (endpoint, file) = (&endpoint.name, &*pair.cert_file.0);
            tracing::warn!(%endpoint, file, bits, "RSA key is large: TLS handshakes take long");
        }
    }
    let trust = match (ssl.client_auth, &ssl.ca_file) {
        (config::ClientAuth::None, _) => None,
        (_, None) => {
            return Err(CompileError::content(
                "clientAuth needs a caFile: the authorities of the clients' certificates",
            ));
        }
        (_, Some(ca_file)) => Some((read(ca_file)?, ssl.crl_file.as_ref().map(read).transpose()?)),
    };
    let client_auth = match &trust {
        None => ClientAuth::None,
        Some((ca_pem, crl_pem)) => ClientAuth::Asked {
            required: ssl.client_auth == config::ClientAuth::Required,
            ca_pem,
            crl_pem: crl_pem.as_deref(),
        },
    };
    let names = ssl.sni.iter().map(|sni| sni.server_names.clone());
    let settings = TlsSettings {
        identity: own.identity(),
        sni: names.zip(named.iter().map(Pair::identity)).collect(),
        client_auth,
        only_tls13: ssl.min_version == TlsVersion::V1_3,
        websocket: endpoint.use_websocket,
    };
    settings.build().map_err(|error| CompileError::Content(describe(&error, ssl)))
}

/// When the first of an endpoint's own certificates expires, those of its chains included. `None`: no TLS, or no
/// certificate that can be parsed.
pub(super) fn expires_at(endpoint: &Endpoint, files: &FileContents) -> Option<Timestamp> {
    let ssl = endpoint.ssl_config.as_ref()?;
    let mut ends = Vec::new();
    for file in std::iter::once(&ssl.cert_file).chain(ssl.sni.iter().map(|sni| &sni.cert_file)) {
        let Ok(pem) = files.get(&endpoint.origin.resolve(file)) else { continue };
        let certificates = CertificateDer::pem_slice_iter(&pem).flatten();
        ends.extend(certificates.filter_map(|certificate| validity(&certificate).ok()).map(|(_, end)| end));
    }
    let first = ends.into_iter().filter_map(|end| u64::try_from(end.unix_timestamp()).ok()).min();
    first.map(|end_s| Timestamp::from_unix_ms(end_s * 1000))
}

/// A certificate and its key, as read.
struct Pair<'a> {
    cert_file: &'a FileRef,
    key_file: &'a FileRef,
    chain_pem: Arc<[u8]>,
    key_pem: Arc<[u8]>,
}

impl<'a> Pair<'a> {
    fn read(
        cert_file: &'a FileRef,
        key_file: &'a FileRef,
        read: &impl Fn(&FileRef) -> Result<Arc<[u8]>, CompileError>,
    ) -> Result<Self, CompileError> {
        let pair = Self { cert_file, key_file, chain_pem: read(cert_file)?, key_pem: read(key_file)? };
        pair.identity().check().map_err(|error| CompileError::Content(pair.describe(&error)))?;
        Ok(pair)
    }

    fn identity(&self) -> Identity<'_> {
        Identity { chain_pem: &self.chain_pem, key_pem: &self.key_pem }
    }

    fn describe(&self, error: &TlsError) -> String {
        let (cert, key) = (&self.cert_file.0, &self.key_file.0);
        match error {
            TlsError::Empty(TlsFile::Certificate) => format!("{cert}: it contains no certificate"),
            TlsError::Pem(TlsFile::Certificate, error) => format!("{cert}: not PEM: {error}"),
            TlsError::Empty(_) => format!("{key}: it contains no private key in PEM"),
            TlsError::Pem(_, error) => format!("{key}: no private key in PEM: {error}"),
            TlsError::Key(error) => format!("{cert} and {key} do not match: {error}"),
            other => format!("{cert}, {key}: {other}"),
        }
    }
}

/// Describes an error of anything but the certificates and keys, which are checked before.
fn describe(error: &TlsError, ssl: &SslConfig) -> String {
    let at_fault = match error {
        TlsError::Pem(file, _) | TlsError::Empty(file) | TlsError::Content(file, _) => match file {
            TlsFile::ClientCa => ssl.ca_file.as_ref(),
            TlsFile::ClientCrl => ssl.crl_file.as_ref(),
            TlsFile::Certificate | TlsFile::Key => None,
        },
        _ => None,
    };
    at_fault.map_or_else(|| error.to_string(), |file| format!("{}: {error}", file.0))
}
