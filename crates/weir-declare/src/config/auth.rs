//! `auth`: which clients may connect.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{FileRef, Name, Origin, SecretRef};

/// A chain of authenticators. Each one allows, denies, or passes to the next; the end of the chain denies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Auth {
    /// The document's name.
    #[serde(default)]
    pub name: Name,
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// Free text for people.
    #[serde(default)]
    pub description: Option<Arc<str>>,
    /// The authenticators, in the order in which they are asked.
    pub chain: Vec<Authenticator>,
    /// Limits of failed attempts.
    #[serde(default)]
    pub rate_limit: FailureRateLimit,
}

/// One authenticator of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Authenticator {
    /// The client's certificate.
    ClientCertificate(ClientCertificate),
    /// Names and password hashes in a file.
    PasswordFile(PasswordFile),
    /// A token in the password.
    Jwt(Jwt),
    /// A service, asked over HTTP.
    Http(Box<HttpHook>),
    /// SCRAM, by the enhanced authentication of MQTT 5.0.
    Scram(Scram),
    /// An authenticator of the program that embeds the broker.
    Custom(Custom),
    /// Clients without credentials.
    Anonymous(Anonymous),
}

impl Authenticator {
    /// The authenticator's key in the document.
    pub fn key(&self) -> &'static str {
        match self {
            Self::ClientCertificate(_) => "clientCertificate",
            Self::PasswordFile(_) => "passwordFile",
            Self::Jwt(_) => "jwt",
            Self::Http(_) => "http",
            Self::Scram(_) => "scram",
            Self::Custom(_) => "custom",
            Self::Anonymous(_) => "anonymous",
        }
    }
}

/// Allows clients with a certificate that the endpoint's `caFile` has issued; passes clients without one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientCertificate {
    /// The part of the certificate that becomes the username.
    pub username: CertificateUsername,
}

/// A part of a client certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum CertificateUsername {
    /// The common name of the subject.
    #[default]
    CommonName,
    /// The subject in the form of RFC 4514.
    Subject,
    /// The first DNS name among the subject's alternative names.
    DnsName,
    /// The first e-mail address among the subject's alternative names.
    Email,
    /// The first URI among the subject's alternative names.
    Uri,
    /// The username of the CONNECT packet.
    Connect,
}

/// Lines of `username:hash`: Argon2id's PHC format, or mosquitto's `$6$` and `$7$`. Passes clients that are not in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PasswordFile {
    /// The file of names and hashes.
    pub file: FileRef,
}

/// A signed token in the password. Passes clients whose password does not look like a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Jwt {
    /// The algorithm that tokens are signed with.
    pub algorithm: JwtAlgorithm,
    /// HS*: the secret; otherwise a public key or certificate, PEM.
    #[serde(default)]
    pub key_file: Option<FileRef>,
    /// A JSON Web Key Set; the token's `kid` selects the key.
    #[serde(default)]
    pub jwks_file: Option<FileRef>,
    /// The claim that becomes the username; `None`: the username of the CONNECT packet.
    #[serde(default)]
    pub username_claim: Option<Arc<str>>,
    /// The claim that the client id must equal; `None`: any client id.
    #[serde(default)]
    pub client_id_claim: Option<Arc<str>>,
    /// The claim with ACL rules, which apply beside the endpoint's.
    #[serde(default)]
    pub acl_claim: Option<Arc<str>>,
    /// Required value of `iss`.
    #[serde(default)]
    pub issuer: Option<Arc<str>>,
    /// Required value of `aud`.
    #[serde(default)]
    pub audience: Option<Arc<str>>,
    /// Required values of claims. A claim that is a list must contain the value.
    #[serde(default)]
    pub required_claims: BTreeMap<Arc<str>, serde_json::Value>,
    /// Allowed clock difference, seconds.
    #[serde(default)]
    pub leeway_s: u32,
    /// Whether a token without `exp` is refused.
    #[serde(default = "default_true")]
    pub require_expiry: bool,
}

fn default_true() -> bool {
    true
}

/// The signature algorithm of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    /// HMAC with SHA-256.
    HS256,
    /// HMAC with SHA-384.
    HS384,
    /// HMAC with SHA-512.
    HS512,
    /// RSA, PKCS#1 v1.5, with SHA-256.
    RS256,
    /// RSA, PKCS#1 v1.5, with SHA-384.
    RS384,
    /// RSA, PKCS#1 v1.5, with SHA-512.
    RS512,
    /// RSA-PSS with SHA-256.
    PS256,
    /// RSA-PSS with SHA-384.
    PS384,
    /// RSA-PSS with SHA-512.
    PS512,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// ECDSA with P-384 and SHA-384.
    ES384,
    /// Ed25519.
    EdDSA,
}

/// Asks an HTTP service. Denies if the service does not answer in time, or not as specified.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HttpHook {
    /// `http://` or `https://`.
    pub url: Arc<str>,
    /// The method of the requests.
    #[serde(default)]
    pub method: HttpMethod,
    /// Headers of each request.
    #[serde(default)]
    pub headers: BTreeMap<Arc<str>, HeaderValue>,
    /// The fields of the request, with placeholders; empty: everything known about the client.
    #[serde(default)]
    pub fields: BTreeMap<Arc<str>, Arc<str>>,
    /// Certificate authorities, required for `https://`.
    #[serde(default)]
    pub ca_file: Option<FileRef>,
    /// How long an answer may take, milliseconds.
    #[serde(default = "HttpHook::default_timeout_ms")]
    pub timeout_ms: u32,
    /// Concurrent requests.
    #[serde(default = "HttpHook::default_max_concurrent")]
    pub max_concurrent: u16,
    /// How long an answer is cached for the same client id, username, password and address; 0: not cached.
    #[serde(default)]
    pub cache_ttl_s: u32,
    /// When the service is not asked any more.
    #[serde(default)]
    pub circuit_breaker: CircuitBreaker,
}

impl HttpHook {
    /// The secrets in the headers.
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

/// The method of the request.
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

/// A header's value: plain text, or a reference to a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum HeaderValue {
    /// In a file or a variable.
    Secret(SecretRef),
    /// In the document.
    Plain(Arc<str>),
}

/// After `failures` consecutive failures the service is not asked for `openS` seconds; meanwhile all clients are
/// denied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CircuitBreaker {
    /// Failures in a row that open the circuit.
    pub failures: u16,
    /// How long it stays open, seconds.
    pub open_s: u16,
}

impl Default for CircuitBreaker {
    fn default() -> Self {
        Self { failures: 5, open_s: 10 }
    }
}

/// Enhanced authentication of MQTT 5 with SCRAM-SHA-256. Passes clients that did not ask for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scram {
    /// Lines of `username:SCRAM-SHA-256$iterations:salt$storedKey:serverKey`.
    pub file: FileRef,
}

/// Calls an authenticator of the program that embeds the broker. Denies if it does not answer in time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Custom {
    /// The name that the program has registered it under.
    pub name: Name,
    /// Time for one answer, milliseconds.
    #[serde(default = "Custom::default_timeout_ms")]
    pub timeout_ms: u32,
    /// Concurrent calls.
    #[serde(default = "Custom::default_max_concurrent")]
    pub max_concurrent: u16,
    /// Values for the authenticator. The broker does not interpret them.
    #[serde(default)]
    pub options: BTreeMap<Arc<str>, serde_json::Value>,
}

impl Custom {
    fn default_timeout_ms() -> u32 {
        5000
    }
    fn default_max_concurrent() -> u16 {
        100
    }
}

/// Allows all clients without a username; with `withUsername`, also clients with one, unchecked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Anonymous {
    /// Whether clients with a username are allowed, too. The username is discarded.
    pub with_username: bool,
}

/// Limits of failed attempts within a window, after which further ones are refused without a check. IPv6 addresses count
/// by their /64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct FailureRateLimit {
    /// Failures of one user name from one address. Clients without a user name count by their client id.
    pub max_failures: u32,
    /// Failures of all users from one address; at least `max_failures`.
    pub max_failures_per_address: u32,
    /// The time in which failures are counted, seconds.
    pub window_s: u32,
}

impl Default for FailureRateLimit {
    fn default() -> Self {
        Self { max_failures: 20, max_failures_per_address: 200, window_s: 60 }
    }
}

impl FailureRateLimit {
    /// The limit of an address: a larger one of each user applies to it, too.
    pub fn max_of_address(&self) -> u32 {
        self.max_failures_per_address.max(self.max_failures)
    }
}
