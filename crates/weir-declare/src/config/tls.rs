//! `sslConfig`: an endpoint's TLS.

use std::sync::Arc;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::FileRef;

/// TLS of an endpoint. Files are PEM.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SslConfig {
    /// Certificate chain, the server's own first.
    pub cert_file: FileRef,
    /// The private key.
    pub key_file: FileRef,
    /// Further certificates, by server name (SNI).
    #[serde(default)]
    pub sni: Vec<SniCertificate>,
    /// Certificate authorities of client certificates.
    #[serde(default)]
    pub ca_file: Option<FileRef>,
    /// Revoked client certificates.
    #[serde(default)]
    pub crl_file: Option<FileRef>,
    /// Whether clients need a certificate.
    #[serde(default)]
    pub client_auth: ClientAuth,
    /// The oldest version of TLS that is accepted.
    #[serde(default)]
    pub min_version: TlsVersion,
}

/// A certificate for a set of server names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SniCertificate {
    /// DNS names; `*.example.com` stands for one label.
    pub server_names: Vec<Arc<str>>,
    /// The certificate, and those between it and the authority.
    pub cert_file: FileRef,
    /// The private key.
    pub key_file: FileRef,
}

/// Whether the endpoint asks clients for certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ClientAuth {
    /// No certificate is asked for.
    #[default]
    None,
    /// It asks; a certificate that a client sends must be valid.
    Optional,
    /// Clients without a valid certificate are rejected.
    Required,
}

/// The minimum version.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// TLS 1.2.
    #[default]
    V1_2,
    /// TLS 1.3.
    V1_3,
}

impl Serialize for TlsVersion {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}

impl<'de> Deserialize<'de> for TlsVersion {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = serde_json::Value::deserialize(deserializer)?;
        // YAML reads an unquoted 1.2 as a number.
        match version.as_str().map_or_else(|| version.to_string(), str::to_owned).as_str() {
            "1.2" => Ok(Self::V1_2),
            "1.3" => Ok(Self::V1_3),
            other => Err(D::Error::custom(format!("no TLS version {other}"))),
        }
    }
}

/// In FluxMQ, `sslConfig: {}` means no TLS.
pub(super) fn empty_is_none<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SslConfig>, D::Error> {
    match serde_json::Value::deserialize(deserializer)? {
        serde_json::Value::Object(fields) if fields.is_empty() => Ok(None),
        value => serde_json::from_value(value).map(Some).map_err(D::Error::custom),
    }
}
