//! `auth`: who may connect.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FileRef, Name, Origin, SecretRef};

/// A chain of authenticators. Each allows, denies or passes on; the end of the chain denies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    #[serde(default)]
    pub name: Name,
    #[serde(skip)]
    pub origin: Origin,
    #[serde(default)]
    pub description: Option<Arc<str>>,
    pub chain: Vec<Authenticator>,
    /// How many failures one address is allowed.
    #[serde(default)]
    pub rate_limit: FailureRateLimit,
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Authenticator {
    ClientCertificate(ClientCertificate),
    PasswordFile(PasswordFile),
    Jwt(Jwt),
    Http(Box<HttpHook>),
    Scram(Scram),
    Anonymous(Anonymous),
}

impl Authenticator {
    /// Its key in the document.
    pub fn key(&self) -> &'static str {
        match self {
            Self::ClientCertificate(_) => "clientCertificate",
            Self::PasswordFile(_) => "passwordFile",
            Self::Jwt(_) => "jwt",
            Self::Http(_) => "http",
            Self::Scram(_) => "scram",
            Self::Anonymous(_) => "anonymous",
        }
    }
}

/// Allows who shows a certificate that the endpoint's `caFile` vouches for; passes on who shows none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientCertificate {
    /// Which part of the certificate becomes the username.
    pub username: CertificateUsername,
}

/// A part of a client certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateUsername {
    #[default]
    CommonName,
    /// The subject as RFC 4514 writes it.
    Subject,
    /// The first DNS name among the subject's alternative names.
    DnsName,
    /// The first e-mail address among the subject's alternative names.
    Email,
    /// The first URI among the subject's alternative names.
    Uri,
    /// The username of the CONNECT packet stays.
    Connect,
}

/// Lines of `username:hash`: Argon2id's PHC format, or mosquitto's `$6$` and `$7$`. Passes on who is not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordFile {
    pub file: FileRef,
}

/// A signed token in the password. Passes on where the password does not look like one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    pub algorithm: JwtAlgorithm,
    /// HS*: the secret; else a public key or certificate, PEM.
    #[serde(default)]
    pub key_file: Option<FileRef>,
    /// A JSON Web Key Set; the token's `kid` chooses.
    #[serde(default)]
    pub jwks_file: Option<FileRef>,
    /// The claim that becomes the username; `None`: the CONNECT's stays.
    #[serde(default)]
    pub username_claim: Option<Arc<str>>,
    /// The claim that the client id must equal; `None`: any.
    #[serde(default)]
    pub client_id_claim: Option<Arc<str>>,
    /// The claim that holds ACL rules, in force beside the endpoint's.
    #[serde(default)]
    pub acl_claim: Option<Arc<str>>,
    /// Wanted in `iss`.
    #[serde(default)]
    pub issuer: Option<Arc<str>>,
    /// Wanted in `aud`.
    #[serde(default)]
    pub audience: Option<Arc<str>>,
    /// Claims that must have these values; of a list, one element.
    #[serde(default)]
    pub required_claims: BTreeMap<Arc<str>, serde_json::Value>,
    /// How far clocks may differ, seconds.
    #[serde(default)]
    pub leeway_s: u32,
    /// Whether a token without `exp` is refused.
    #[serde(default = "default_true")]
    pub require_expiry: bool,
}

fn default_true() -> bool {
    true
}

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Asks an HTTP service. No answer in time, or any answer it does not understand, denies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHook {
    /// `http://` or `https://`.
    pub url: Arc<str>,
    #[serde(default)]
    pub method: HttpMethod,
    #[serde(default)]
    pub headers: BTreeMap<Arc<str>, HeaderValue>,
    /// What is asked, by field, with placeholders; empty: everything that is known of the client.
    #[serde(default)]
    pub fields: BTreeMap<Arc<str>, Arc<str>>,
    /// Certificate authorities; `https://` needs them.
    #[serde(default)]
    pub ca_file: Option<FileRef>,
    #[serde(default = "HttpHook::default_timeout_ms")]
    pub timeout_ms: u32,
    /// Requests under way at once.
    #[serde(default = "HttpHook::default_max_concurrent")]
    pub max_concurrent: u16,
    /// How long an answer holds for the same client id, username, password and address; 0: never.
    #[serde(default)]
    pub cache_ttl_s: u32,
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
}

impl HttpHook {
    /// Its secrets.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.headers.values().filter_map(|value| match value {
            HeaderValue::Secret(secret) => Some(secret),
            HeaderValue::Plain(_) => None,
        })
    }

    fn default_timeout_ms() -> u32 {
        1000
    }
    fn default_max_concurrent() -> u16 {
        64
    }
}

/// How the service is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HttpMethod {
    /// A JSON body.
    #[default]
    #[serde(rename = "POST")]
    Post,
    /// A query string.
    #[serde(rename = "GET")]
    Get,
}

/// A header's value: plain text, or a secret's place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderValue {
    Secret(SecretRef),
    Plain(Arc<str>),
}

/// After so many failures in a row the service is left alone for a while; meanwhile everybody is denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CircuitBreaker {
    pub failures: u16,
    pub open_s: u16,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failures: 5, open_s: 10 }
    }
}

/// Enhanced authentication of MQTT 5 with SCRAM-SHA-256. Passes on who did not ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scram {
    /// Lines of `username:SCRAM-SHA-256$iterations:salt$storedKey:serverKey`.
    pub file: FileRef,
}

/// Allows everybody who gives no username; with `withUsername` also who gives one, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Anonymous {
    /// Whether clients that give a username are admitted, too; the username is then dropped.
    pub with_username: bool,
}

/// Failed attempts of one address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FailureRateLimit {
    /// Failures within the window, after which the address is refused unheard.
    pub max_failures: u32,
    pub window_s: u32,
}

impl Default for FailureRateLimit {
    fn default() -> Self {
        Self { max_failures: 20, window_s: 60 }
    }
}
