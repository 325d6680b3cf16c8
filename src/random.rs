//! Random bytes from the crypto provider: salts, nonces, ids, jitter.

use ring::rand::{SecureRandom, SystemRandom};

/// The system gives no random bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random bytes")]
pub struct NoRandomness;

/// Fills `bytes`.
///
/// # Errors
/// See [`NoRandomness`].
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), NoRandomness> {
    SystemRandom::new().fill(bytes).map_err(|_| NoRandomness)
}

/// So many random bytes.
///
/// # Errors
/// See [`NoRandomness`].
pub(crate) fn bytes<const N: usize>() -> Result<[u8; N], NoRandomness> {
    let mut bytes = [0; N];
    fill(&mut bytes).map(|()| bytes)
}

/// A random number.
///
/// # Errors
/// See [`NoRandomness`].
pub(crate) fn number() -> Result<u64, NoRandomness> {
    bytes().map(u64::from_ne_bytes)
}
