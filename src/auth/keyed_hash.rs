//! Keyed hashes of values that clients choose: tables hold these instead of the values, so an entry has a fixed size, and
//! no client can choose values that collide.

use ring::hmac;
use ring::rand::SystemRandom;

/// A hash of client-chosen values under a secret of this process.
pub(super) type Fingerprint = [u8; 16];

/// The secret of the tables.
#[derive(Debug, Clone)]
pub(super) struct KeyedHash(hmac::Key);

impl Default for KeyedHash {
    fn default() -> Self {
        let random = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        // Without random bytes nothing else works either: no client id, no TLS, no salt.
        Self(random.unwrap_or_else(|_| hmac::Key::new(hmac::HMAC_SHA256, b"no random bytes")))
    }
}

impl KeyedHash {
    /// The hash of `parts`, in their order. Each part is preceded by its length.
    pub(super) fn hash(&self, parts: &[&[u8]]) -> Fingerprint {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut fingerprint = Fingerprint::default();
        for (to, from) in fingerprint.iter_mut().zip(context.sign().as_ref()) {
            *to = *from;
        }
        fingerprint
    }
}
