//! One password hash: Argon2id as PHC writes it, or what mosquitto's `mosquitto_passwd` writes.

use std::cell::RefCell;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use argon2::{Algorithm, Argon2, Block, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ring::digest::{Context, SHA512};
use ring::pbkdf2;
use subtle::ConstantTimeEq;

use crate::auth::backends::decoy::AsBytes;
use crate::random::{self, NoRandomness};

/// Bounds of what a file may ask for: one line must not take a worker's minutes or the node's memory.
const MAX_MEMORY_KIB: u32 = 1 << 20;
const MAX_PASSES: u32 = 64;
const MAX_LANES: u32 = 64;
const MAX_ITERATIONS: u32 = 10_000_000;
/// The cost that [`PasswordHash::create`] writes: 19 MiB, 2 passes, 1 lane (OWASP's advice for Argon2id).
const OWN_MEMORY_KIB: u32 = 19_456;
const OWN_PASSES: u32 = 2;
const OWN_LANES: u32 = 1;
const SALT_BYTES: usize = 16;
const HASH_BYTES: usize = 32;
const SHA512_BYTES: usize = 64;

/// Blocks (of 1 KiB) that a thread keeps for its next hash.
const BLOCKS_KEPT_MAX: usize = 32 << 10;

thread_local! {
    /// A worker's memory for hashes. Allocated anew for each, it would lie in pieces of the allocator's between smaller
    /// ones, and some ten hashes' memory would stay resident.
    static BLOCKS: RefCell<Vec<Block>> = const { RefCell::new(Vec::new()) };
}

/// A salted password hash. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct PasswordHash {
    scheme: Scheme,
    salt: Arc<[u8]>,
    hash: Arc<[u8]>,
}

/// The kind and cost of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Scheme {
    Argon2id {
        memory_kib: u32,
        passes: u32,
        lanes: u32,
    },
    /// mosquitto's `$6$`: SHA-512 over password and salt.
    SaltedSha512,
    /// mosquitto's `$7$`: PBKDF2-HMAC-SHA512.
    Pbkdf2Sha512 {
        iterations: NonZeroU32,
    },
}

/// Why a password hash cannot be used or computed. No variant holds any of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PasswordHashError {
    #[error(
        "the hash must begin with `$argon2id$v=19$`, `$7$` or `$6$` and have all its fields; `weir passwd` writes such lines"
    )]
    Form,
    #[error("the costs must read `m=KIB,t=PASSES,p=LANES`, at most {MAX_MEMORY_KIB}, {MAX_PASSES} and {MAX_LANES}")]
    Costs,
    #[error("the iterations must be 1 to {MAX_ITERATIONS}, in digits")]
    Iterations,
    #[error("the {0} is not complete base64")]
    Base64(&'static str),
    #[error("the salt is too short")]
    ShortSalt,
    #[error("the salt is empty")]
    NoSalt,
    #[error("the hash must have {wanted} bytes, it has {found}")]
    Length { wanted: usize, found: usize },
    #[error("{0}")]
    Argon2(argon2::Error),
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
}

impl PasswordHash {
    /// Parses `$argon2id$v=19$m=..,t=..,p=..$salt$hash`, `$6$salt$hash` or `$7$iterations$salt$hash`.
    ///
    /// # Errors
    /// See [`PasswordHashError`].
    pub fn parse(text: &str) -> Result<Self, PasswordHashError> {
        let fields: Vec<&str> = text.split('$').collect();
        match *fields.as_slice() {
            ["", "argon2id", "v=19", costs, salt, hash] => {
                let (memory_kib, passes, lanes) = argon2_costs(costs)?;
                let hash = decode(&STANDARD_NO_PAD, hash, "hash")?;
                if hash.len() != HASH_BYTES {
                    return Err(PasswordHashError::Length { wanted: HASH_BYTES, found: hash.len() });
                }
                let salt = decode(&STANDARD_NO_PAD, salt, "salt")?;
                if salt.len() < argon2::MIN_SALT_LEN {
                    return Err(PasswordHashError::ShortSalt);
                }
                Ok(Self { scheme: Scheme::Argon2id { memory_kib, passes, lanes }, salt, hash })
            }
            ["", "6", salt, hash] => Self::mosquitto(Scheme::SaltedSha512, salt, hash),
            ["", "7", iterations, salt, hash] => {
                let iterations = number(iterations).filter(|n| *n <= MAX_ITERATIONS).and_then(NonZeroU32::new);
                let iterations = iterations.ok_or(PasswordHashError::Iterations)?;
                Self::mosquitto(Scheme::Pbkdf2Sha512 { iterations }, salt, hash)
            }
            _ => Err(PasswordHashError::Form),
        }
    }

    fn mosquitto(scheme: Scheme, salt: &str, hash: &str) -> Result<Self, PasswordHashError> {
        let (salt, hash) = (decode(&STANDARD, salt, "salt")?, decode(&STANDARD, hash, "hash")?);
        if salt.is_empty() {
            return Err(PasswordHashError::NoSalt);
        }
        if hash.len() != SHA512_BYTES {
            return Err(PasswordHashError::Length { wanted: SHA512_BYTES, found: hash.len() });
        }
        Ok(Self { scheme, salt, hash })
    }

    /// A new Argon2id hash with a random salt.
    ///
    /// # Errors
    /// The system gives no random bytes or no memory.
    pub fn create(password: &[u8]) -> Result<Self, PasswordHashError> {
        let salt = random::bytes::<SALT_BYTES>()?;
        let scheme = Scheme::Argon2id { memory_kib: OWN_MEMORY_KIB, passes: OWN_PASSES, lanes: OWN_LANES };
        let hash = argon2id((OWN_MEMORY_KIB, OWN_PASSES, OWN_LANES), password, &salt)?;
        Ok(Self { scheme, salt: Arc::from(salt), hash: Arc::from(hash) })
    }

    pub(super) fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// A hash that costs as much as one of `scheme`. No password matches it.
    pub(super) fn decoy(scheme: Scheme) -> Self {
        let bytes = match scheme {
            Scheme::Argon2id { .. } => HASH_BYTES,
            Scheme::SaltedSha512 | Scheme::Pbkdf2Sha512 { .. } => SHA512_BYTES,
        };
        Self { scheme, salt: Arc::from([0; SALT_BYTES]), hash: vec![0; bytes].into() }
    }

    /// Whether `password` is the one. Takes the time the hash is made to take; the comparison takes the same time
    /// whatever differs. A hash that cannot be computed matches nothing.
    pub fn verify(&self, password: &[u8]) -> bool {
        match self.scheme {
            Scheme::Argon2id { memory_kib, passes, lanes } => {
                let computed = argon2id((memory_kib, passes, lanes), password, &self.salt);
                computed.is_ok_and(|computed| bool::from(computed.as_slice().ct_eq(&self.hash)))
            }
            Scheme::SaltedSha512 => {
                let mut context = Context::new(&SHA512);
                context.update(password);
                context.update(&self.salt);
                context.finish().as_ref().ct_eq(&self.hash).into()
            }
            Scheme::Pbkdf2Sha512 { iterations } => {
                pbkdf2::verify(pbkdf2::PBKDF2_HMAC_SHA512, iterations, &self.salt, password, &self.hash).is_ok()
            }
        }
    }
}

impl AsBytes for Scheme {
    fn as_bytes(&self) -> Vec<u8> {
        format!("{self:?}").into_bytes()
    }
}

fn argon2id(
    (memory_kib, passes, lanes): (u32, u32, u32),
    password: &[u8],
    salt: &[u8],
) -> Result<[u8; HASH_BYTES], PasswordHashError> {
    let params = Params::new(memory_kib, passes, lanes, Some(HASH_BYTES)).map_err(PasswordHashError::Argon2)?;
    let mut hash = [0; HASH_BYTES];
    let blocks = params.block_count();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    BLOCKS
        .with_borrow_mut(|kept| {
            kept.try_reserve_exact(blocks.saturating_sub(kept.len())).map_err(|_| argon2::Error::OutOfMemory)?;
            kept.resize(blocks.max(kept.len()), Block::default());
            let hashed = argon2.hash_password_into_with_memory(password, salt, &mut hash, &mut kept[..blocks]);
            if kept.len() > BLOCKS_KEPT_MAX {
                *kept = Vec::new();
            }
            hashed
        })
        .map_err(PasswordHashError::Argon2)?;
    Ok(hash)
}

fn argon2_costs(text: &str) -> Result<(u32, u32, u32), PasswordHashError> {
    let mut fields = text.split(',');
    let mut field = |name: &str| fields.next().and_then(|field| field.strip_prefix(name)).and_then(number);
    let costs = (field("m="), field("t="), field("p="));
    match (costs, fields.next()) {
        ((Some(memory_kib), Some(passes), Some(lanes)), None)
            if memory_kib <= MAX_MEMORY_KIB && passes <= MAX_PASSES && lanes <= MAX_LANES =>
        {
            Params::new(memory_kib, passes, lanes, Some(HASH_BYTES)).map_err(PasswordHashError::Argon2)?;
            Ok((memory_kib, passes, lanes))
        }
        _ => Err(PasswordHashError::Costs),
    }
}

fn number(text: &str) -> Option<u32> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn decode(engine: &impl Engine, text: &str, what: &'static str) -> Result<Arc<[u8]>, PasswordHashError> {
    engine.decode(text).map(Arc::from).map_err(|_| PasswordHashError::Base64(what))
}

/// As written in the file.
impl fmt::Display for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scheme {
            Scheme::Argon2id { memory_kib, passes, lanes } => {
                let (salt, hash) = (STANDARD_NO_PAD.encode(&self.salt), STANDARD_NO_PAD.encode(&self.hash));
                write!(f, "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${salt}${hash}")
            }
            Scheme::SaltedSha512 => write!(f, "$6${}${}", STANDARD.encode(&self.salt), STANDARD.encode(&self.hash)),
            Scheme::Pbkdf2Sha512 { iterations } => {
                write!(f, "$7${iterations}${}${}", STANDARD.encode(&self.salt), STANDARD.encode(&self.hash))
            }
        }
    }
}

/// The scheme only: hashes do not belong into logs.
impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PasswordHash({:?})", self.scheme)
    }
}
