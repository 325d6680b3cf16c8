//! A stored SCRAM record: enough to check a proof, not enough to make one.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::saslprep::{SaslprepError, saslprep};
use crate::auth::backends::decoy::AsBytes;
use crate::random::{self, NoRandomness};

const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// RFC 7677 asks for at least 4096.
const MIN_ITERATIONS: u32 = 4096;
const MAX_ITERATIONS: u32 = 10_000_000;
/// The iterations that [`ScramRecord::create`] writes. The client computes them, and devices are slow.
const OWN_ITERATIONS: u32 = 15_000;

/// `SCRAM-SHA-256$iterations:salt$storedKey:serverKey`, the form PostgreSQL stores, too.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramRecord {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; KEY_BYTES],
    pub(super) server_key: [u8; KEY_BYTES],
}

/// Why a SCRAM record cannot be used or made. No variant holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScramRecordError {
    #[error(
        "the record must read `SCRAM-SHA-256$iterations:salt$storedKey:serverKey`; `weir passwd --scram` writes such lines"
    )]
    Form,
    #[error("the iterations must be {MIN_ITERATIONS} to {MAX_ITERATIONS}")]
    Iterations,
    #[error("the {0} is not base64")]
    Base64(&'static str),
    #[error("the {0} must have {KEY_BYTES} bytes")]
    KeyLength(&'static str),
    #[error("the salt is empty")]
    NoSalt,
    #[error("SCRAM needs a password in UTF-8")]
    NotUtf8,
    #[error("the password: {0}")]
    Password(#[from] SaslprepError),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl ScramRecord {
    /// Parses a record.
    ///
    /// # Errors
    /// See [`ScramRecordError`].
    pub fn parse(text: &str) -> Result<Self, ScramRecordError> {
        let fields: Vec<&str> = text.split('$').collect();
        let [method, cost, keys] = *fields.as_slice() else { return Err(ScramRecordError::Form) };
        let ((iterations, salt), (stored_key, server_key)) = cost
            .split_once(':')
            .zip(keys.split_once(':'))
            .filter(|_| method == super::METHOD)
            .ok_or(ScramRecordError::Form)?;
        let iterations = iterations.parse().ok().filter(|n| (MIN_ITERATIONS..=MAX_ITERATIONS).contains(n));
        let iterations = iterations.and_then(NonZeroU32::new).ok_or(ScramRecordError::Iterations)?;
        let bytes = |text: &str, what: &'static str| STANDARD.decode(text).map_err(|_| ScramRecordError::Base64(what));
        let key = |text: &str, what: &'static str| {
            <[u8; KEY_BYTES]>::try_from(bytes(text, what)?).map_err(|_| ScramRecordError::KeyLength(what))
        };
        let salt = bytes(salt, "salt")?;
        if salt.is_empty() {
            return Err(ScramRecordError::NoSalt);
        }
        Ok(Self {
            iterations,
            salt,
            stored_key: key(stored_key, "stored key")?,
            server_key: key(server_key, "server key")?,
        })
    }

    /// A new record with a random salt, of the prepared password.
    ///
    /// # Errors
    /// The password cannot be prepared, or the system gives no random bytes.
    pub fn create(password: &[u8]) -> Result<Self, ScramRecordError> {
        let text = std::str::from_utf8(password).map_err(|_| ScramRecordError::NotUtf8)?;
        let password = saslprep(text)?;
        let salt = random::bytes::<SALT_BYTES>()?;
        let iterations = NonZeroU32::new(OWN_ITERATIONS).unwrap_or(NonZeroU32::MIN);
        Ok(Self::derive(password.as_bytes(), &salt, iterations))
    }

    pub(super) fn derive(password: &[u8], salt: &[u8], iterations: NonZeroU32) -> Self {
        let mut salted = [0; KEY_BYTES];
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password, &mut salted);
        let client_key = sign(&salted, b"Client Key");
        Self {
            iterations,
            salt: salt.to_vec(),
            stored_key: sha256(&client_key),
            server_key: sign(&salted, b"Server Key"),
        }
    }

    pub(super) fn cost(&self) -> ScramCost {
        ScramCost { iterations: self.iterations, salt_bytes: self.salt.len() }
    }

    /// A record for a name that has none: the same for each attempt, so that it reveals nothing. No proof matches it.
    pub(super) fn decoy(secret: &[u8], cost: ScramCost, username: &str) -> Self {
        let block = |number: usize| sign(secret, &[&number.to_be_bytes(), username.as_bytes()].concat());
        let salt: Vec<u8> = (1..).flat_map(block).take(cost.salt_bytes).collect();
        Self { iterations: cost.iterations, salt, stored_key: block(0), server_key: block(0) }
    }
}

/// The part of a record that a challenge shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct ScramCost {
    iterations: NonZeroU32,
    salt_bytes: usize,
}

impl AsBytes for ScramCost {
    fn as_bytes(&self) -> Vec<u8> {
        [self.iterations.get().to_be_bytes().as_slice(), &self.salt_bytes.to_be_bytes()].concat()
    }
}

pub(super) fn sign(key: &[u8], message: &[u8]) -> [u8; KEY_BYTES] {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), message);
    fixed(tag.as_ref())
}

pub(super) fn sha256(message: &[u8]) -> [u8; KEY_BYTES] {
    fixed(digest::digest(&digest::SHA256, message).as_ref())
}

/// SHA-256's output, as an array.
fn fixed(bytes: &[u8]) -> [u8; KEY_BYTES] {
    let mut array = [0; KEY_BYTES];
    for (to, from) in array.iter_mut().zip(bytes) {
        *to = *from;
    }
    array
}

/// As written in the file.
impl fmt::Display for ScramRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (salt, stored, server) =
            (STANDARD.encode(&self.salt), STANDARD.encode(self.stored_key), STANDARD.encode(self.server_key));
        write!(f, "{}${}:{salt}${stored}:{server}", super::METHOD, self.iterations)
    }
}

/// Keys do not belong into logs.
impl fmt::Debug for ScramRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ScramRecord({} iterations)", self.iterations)
    }
}
