//! What is kept of a SCRAM user: enough to check a proof, not enough to make one.

use std::fmt;
use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::prepare::prepared;
use crate::random;

const KEY_BYTES: usize = 32;
const SALT_BYTES: usize = 16;
/// RFC 7677 asks for at least 4096.
const MIN_ITERATIONS: u32 = 4096;
const MAX_ITERATIONS: u32 = 10_000_000;
/// What we write. The client pays them, and devices are slow.
const OWN_ITERATIONS: u32 = 15_000;

/// `SCRAM-SHA-256$iterations:salt$storedKey:serverKey`, the form PostgreSQL stores, too.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramRecord {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: [u8; KEY_BYTES],
    pub(super) server_key: [u8; KEY_BYTES],
}

impl ScramRecord {
    /// Parses a record.
    ///
    /// # Errors
    /// What is wrong with it, as a phrase that does not repeat it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let form = || {
            "the record must read `SCRAM-SHA-256$iterations:salt$storedKey:serverKey`; \
                       `weir passwd --scram` writes such lines"
                .to_owned()
        };
        let fields: Vec<&str> = text.split('$').collect();
        let [method, cost, keys] = *fields.as_slice() else { return Err(form()) };
        let ((iterations, salt), (stored_key, server_key)) =
            cost.split_once(':').zip(keys.split_once(':')).filter(|_| method == super::METHOD).ok_or_else(form)?;
        let iterations = iterations.parse().ok().filter(|n| (MIN_ITERATIONS..=MAX_ITERATIONS).contains(n));
        let iterations = iterations
            .and_then(NonZeroU32::new)
            .ok_or_else(|| format!("the iterations must be {MIN_ITERATIONS} to {MAX_ITERATIONS}"))?;
        let bytes = |text: &str, what: &str| STANDARD.decode(text).map_err(|_| format!("the {what} is not base64"));
        let key = |text: &str, what: &str| {
            let key = bytes(text, what)?;
            <[u8; KEY_BYTES]>::try_from(key).map_err(|_| format!("the {what} must have {KEY_BYTES} bytes"))
        };
        let salt = bytes(salt, "salt")?;
        if salt.is_empty() {
            return Err("the salt is empty".into());
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
    /// The password cannot be prepared, or the system gives no randomness.
    pub fn create(password: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(password).map_err(|_| "SCRAM wants a password in UTF-8".to_owned())?;
        let password = prepared(text).map_err(|why| format!("the password: {why}"))?;
        let salt = random::bytes::<SALT_BYTES>().map_err(|error| error.to_string())?;
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

    /// What a name without a record is asked with: the same each time, so that nobody can tell. Nothing satisfies it.
    pub(super) fn for_stranger(&self, username: &str) -> Self {
        let digest = sign(&self.server_key, &[b"stranger ", username.as_bytes()].concat());
        let salt = digest.get(..self.salt.len().min(KEY_BYTES)).unwrap_or(&digest).to_vec();
        Self { iterations: self.iterations, salt, stored_key: digest, server_key: digest }
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

/// As it stands in the file.
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
