//! Client ids for those who ask the server to assign one.

use std::fmt::Write;

use rustls::crypto::ring::default_provider;

const ID_BYTES: usize = 16;
const POOL_IDS: usize = 64;

/// Hands out ids nobody can guess: 128 random bits each. Random bytes are fetched for many at a time.
#[derive(Default)]
pub(super) struct ClientIds {
    pool: Vec<u8>,
}

/// The system gives no random bytes.
#[derive(Debug)]
pub(super) struct NoRandomness;

impl ClientIds {
    pub(super) fn next(&mut self) -> Result<Box<str>, NoRandomness> {
        if self.pool.len() < ID_BYTES {
            self.pool.resize(ID_BYTES * POOL_IDS, 0);
            if default_provider().secure_random.fill(&mut self.pool).is_err() {
                self.pool.clear();
                return Err(NoRandomness);
            }
        }
        let mut id = String::from("weir-");
        for byte in self.pool.drain(self.pool.len() - ID_BYTES..) {
            // Writing to a String cannot fail.
            let _ = write!(id, "{byte:02x}");
        }
        Ok(id.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ() {
        let mut ids = ClientIds::default();
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| ids.next().unwrap()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(drawn.iter().all(|id| id.len() == 37 && id.starts_with("weir-")));
    }
}
