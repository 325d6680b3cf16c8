//! The keys that tokens are verified with: PEM, a secret, or a JSON Web Key Set (RFC 7517).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{self, RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm};
use ring::{digest, hmac};
use rustls::pki_types::pem::{PemObject, SectionKind};
use serde_json::Value;
use x509_parser::certificate::X509Certificate;
use x509_parser::oid_registry::{
    OID_EC_P256, OID_KEY_TYPE_EC_PUBLIC_KEY, OID_NIST_EC_P384, OID_PKCS1_RSAENCRYPTION, OID_SIG_ED25519, Oid,
};
use x509_parser::prelude::FromDer;
use x509_parser::x509::SubjectPublicKeyInfo;

use weir_declare::config::JwtAlgorithm;

/// All keys of one file.
pub(in crate::auth) struct KeySet {
    keys: Vec<VerificationKey>,
    /// Whether a token must name its key, where there are several.
    named: bool,
}

/// One key, bound to the declared algorithm.
pub(super) struct VerificationKey {
    id: Option<String>,
    material: Material,
    fingerprint: Vec<u8>,
}

enum Material {
    Secret(hmac::Key),
    /// PKCS #1 for RSA, the point for elliptic curves.
    Public {
        algorithm: &'static dyn VerificationAlgorithm,
        bytes: Vec<u8>,
    },
    Rsa {
        parameters: &'static RsaParameters,
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

/// Why a key file cannot be used. No variant holds any of a key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in crate::auth) enum KeyError {
    #[error("invalid JSON at line {line}, column {column}")]
    Json { line: usize, column: usize },
    #[error("a JSON Web Key Set needs an array `keys`")]
    NoKeyArray,
    #[error("keys[{index}]: {error}")]
    Key { index: usize, error: Box<KeyError> },
    #[error("each key needs its own `kid`")]
    SameKid,
    #[error("it contains no key for {0:?}")]
    NoKeyFor(JwtAlgorithm),
    #[error("this algorithm needs a secret, not a PEM key")]
    PemForSecret,
    #[error("the secret must have at least {least} bytes, it has {found}")]
    ShortSecret { least: usize, found: usize },
    #[error("it contains no complete PEM section; write a `PUBLIC KEY` or a `CERTIFICATE`")]
    NoPem,
    #[error("more than one PEM section; for several keys write a `jwksFile`")]
    ManySections,
    #[error("it is a private key; write the public key")]
    PrivateKey,
    #[error("neither a public key for {0:?} nor a certificate")]
    OtherPem(JwtAlgorithm),
    #[error("not an X.509 certificate: {0}")]
    Certificate(String),
    #[error("it contains no public key for {0:?}")]
    NoPublicKey(JwtAlgorithm),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{0}` is not base64url")]
    NotBase64(&'static str),
    #[error("`x` and `y` must have {0} bytes")]
    Coordinates(usize),
}

/// The kind of key that an algorithm needs.
enum Family {
    Hmac(hmac::Algorithm),
    Rsa(&'static RsaParameters),
    /// The curve's name in a JWK, its OID, and the length of one coordinate.
    Curve {
        name: &'static str,
        oid: Oid<'static>,
        algorithm: &'static dyn VerificationAlgorithm,
        coordinate_bytes: usize,
    },
    Ed25519,
}

fn family(algorithm: JwtAlgorithm) -> Family {
    match algorithm {
        JwtAlgorithm::HS256 => Family::Hmac(hmac::HMAC_SHA256),
        JwtAlgorithm::HS384 => Family::Hmac(hmac::HMAC_SHA384),
        JwtAlgorithm::HS512 => Family::Hmac(hmac::HMAC_SHA512),
        JwtAlgorithm::RS256 => Family::Rsa(&signature::RSA_PKCS1_2048_8192_SHA256),
        JwtAlgorithm::RS384 => Family::Rsa(&signature::RSA_PKCS1_2048_8192_SHA384),
        JwtAlgorithm::RS512 => Family::Rsa(&signature::RSA_PKCS1_2048_8192_SHA512),
        JwtAlgorithm::PS256 => Family::Rsa(&signature::RSA_PSS_2048_8192_SHA256),
        JwtAlgorithm::PS384 => Family::Rsa(&signature::RSA_PSS_2048_8192_SHA384),
        JwtAlgorithm::PS512 => Family::Rsa(&signature::RSA_PSS_2048_8192_SHA512),
        JwtAlgorithm::ES256 => Family::Curve {
            name: "P-256",
            oid: OID_EC_P256,
            algorithm: &signature::ECDSA_P256_SHA256_FIXED,
            coordinate_bytes: 32,
        },
        JwtAlgorithm::ES384 => Family::Curve {
            name: "P-384",
            oid: OID_NIST_EC_P384,
            algorithm: &signature::ECDSA_P384_SHA384_FIXED,
            coordinate_bytes: 48,
        },
        JwtAlgorithm::EdDSA => Family::Ed25519,
    }
}

impl KeySet {
    /// A key file: for HS* the secret itself (a trailing line break does not count), else PEM with one public key, or a
    /// certificate that holds it.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub(in crate::auth) fn from_key_file(content: &[u8], algorithm: JwtAlgorithm) -> Result<Self, KeyError> {
        let material = match family(algorithm) {
            Family::Hmac(hash) => secret(content.trim_ascii_end(), hash)?,
            other => public_from_pem(content, &other, algorithm)?,
        };
        Ok(Self { keys: vec![VerificationKey::new(None, material, content)], named: false })
    }

    /// A JSON Web Key Set. Keys that are for something else are left out; at least one must remain.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub(in crate::auth) fn from_jwks(content: &[u8], algorithm: JwtAlgorithm) -> Result<Self, KeyError> {
        let set: Value = serde_json::from_slice(content)
            .map_err(|error| KeyError::Json { line: error.line(), column: error.column() })?;
        let declared = set.get("keys").and_then(Value::as_array).ok_or(KeyError::NoKeyArray)?;
        let mut keys: Vec<VerificationKey> = Vec::new();
        for (index, jwk) in declared.iter().enumerate() {
            let in_key = |error| KeyError::Key { index, error: Box::new(error) };
            let Some(material) = from_jwk(jwk, algorithm).map_err(in_key)? else { continue };
            let id = jwk.get("kid").and_then(Value::as_str).map(str::to_owned);
            if keys.iter().any(|key| key.id == id) {
                return Err(in_key(KeyError::SameKid));
            }
            keys.push(VerificationKey::new(id, material, jwk.to_string().as_bytes()));
        }
        if keys.is_empty() {
            return Err(KeyError::NoKeyFor(algorithm));
        }
        Ok(Self { keys, named: true })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &VerificationKey> {
        self.keys.iter()
    }

    /// The key that a token's `kid` means. Without one there must be no choice.
    pub(super) fn choose(&self, id: Option<&str>) -> Option<(usize, &VerificationKey)> {
        match (self.keys.as_slice(), id) {
            ([only], _) if !self.named => Some((0, only)),
            ([only], None) => Some((0, only)),
            (keys, Some(id)) => keys.iter().enumerate().find(|(_, key)| key.id.as_deref() == Some(id)),
            _ => None,
        }
    }
}

impl VerificationKey {
    fn new(id: Option<String>, material: Material, source: &[u8]) -> Self {
        Self { id, material, fingerprint: digest::digest(&digest::SHA256, source).as_ref().to_vec() }
    }

    /// Changes with the key.
    pub(super) fn fingerprint(&self) -> &[u8] {
        &self.fingerprint
    }

    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.material {
            Material::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Material::Public { algorithm, bytes } => {
                UnparsedPublicKey::new(*algorithm, bytes).verify(message, signature).is_ok()
            }
            Material::Rsa { parameters, modulus, exponent } => {
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
            }
        }
    }
}

/// RFC 7518, section 3.2: a secret has at least as many bytes as the hash.
fn secret(secret: &[u8], hash: hmac::Algorithm) -> Result<Material, KeyError> {
    let least = hash.digest_algorithm().output_len();
    if secret.starts_with(b"-----BEGIN") {
        return Err(KeyError::PemForSecret);
    }
    if secret.len() < least {
        return Err(KeyError::ShortSecret { least, found: secret.len() });
    }
    Ok(Material::Secret(hmac::Key::new(hash, secret)))
}

fn public_from_pem(content: &[u8], family: &Family, algorithm: JwtAlgorithm) -> Result<Material, KeyError> {
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(content);
    let Some(Ok((kind, der))) = sections.next() else {
        return Err(KeyError::NoPem);
    };
    if sections.next().is_some() {
        return Err(KeyError::ManySections);
    }
    let key = match kind {
        SectionKind::PublicKey => SubjectPublicKeyInfo::from_der(&der).ok().and_then(|(_, key)| public(&key, family)),
        SectionKind::Certificate => {
            let (_, certificate) =
                X509Certificate::from_der(&der).map_err(|error| KeyError::Certificate(error.to_string()))?;
            public(certificate.public_key(), family)
        }
        SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
            return Err(KeyError::PrivateKey);
        }
        _ => return Err(KeyError::OtherPem(algorithm)),
    };
    key.ok_or(KeyError::NoPublicKey(algorithm))
}

/// `None`: the key is for another algorithm.
fn public(key: &SubjectPublicKeyInfo<'_>, family: &Family) -> Option<Material> {
    let kind = &key.algorithm.algorithm;
    let curve = || key.algorithm.parameters.as_ref()?.as_oid().ok();
    let algorithm: &'static dyn VerificationAlgorithm = match family {
        Family::Rsa(parameters) if *kind == OID_PKCS1_RSAENCRYPTION => *parameters,
        Family::Curve { oid, algorithm, .. }
            if *kind == OID_KEY_TYPE_EC_PUBLIC_KEY && curve().as_ref() == Some(oid) =>
        {
            *algorithm
        }
        Family::Ed25519 if *kind == OID_SIG_ED25519 => &signature::ED25519,
        _ => return None,
    };
    let bits = &key.subject_public_key;
    (bits.unused_bits == 0).then(|| Material::Public { algorithm, bytes: bits.data.to_vec() })
}

/// `Ok(None)`: a key for something else.
fn from_jwk(jwk: &Value, algorithm: JwtAlgorithm) -> Result<Option<Material>, KeyError> {
    let word = |name: &str| jwk.get(name).and_then(Value::as_str);
    let other_use = word("use").is_some_and(|purpose| purpose != "sig");
    let other_algorithm = word("alg").is_some_and(|named| named != format!("{algorithm:?}"));
    if other_use || other_algorithm {
        return Ok(None);
    }
    let bytes = |name: &'static str| {
        let text = word(name).ok_or(KeyError::Missing(name))?;
        URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyError::NotBase64(name))
    };
    match (family(algorithm), word("kty")) {
        (Family::Hmac(hash), Some("oct")) => secret(&bytes("k")?, hash).map(Some),
        (Family::Rsa(parameters), Some("RSA")) => {
            Ok(Some(Material::Rsa { parameters, modulus: bytes("n")?, exponent: bytes("e")? }))
        }
        (Family::Curve { name, algorithm, coordinate_bytes, .. }, Some("EC")) if word("crv") == Some(name) => {
            let (x, y) = (bytes("x")?, bytes("y")?);
            if x.len() != coordinate_bytes || y.len() != coordinate_bytes {
                return Err(KeyError::Coordinates(coordinate_bytes));
            }
            // 4: an uncompressed point.
            Ok(Some(Material::Public { algorithm, bytes: [&[4], x.as_slice(), &y].concat() }))
        }
        (Family::Ed25519, Some("OKP")) if word("crv") == Some("Ed25519") => {
            Ok(Some(Material::Public { algorithm: &signature::ED25519, bytes: bytes("x")? }))
        }
        _ => Ok(None),
    }
}
