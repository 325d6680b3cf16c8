//! Client ids for clients that ask the server to assign one.

use data_encoding::HEXLOWER;

use crate::random::{self, NoRandomness};

const ID_BYTES: usize = 16;
const POOL_IDS: usize = 64;

/// Generates unguessable client ids of 128 random bits. Random bytes are fetched for many ids at a time.
#[derive(Default)]
pub(super) struct ClientIds {
    pool: Vec<u8>,
}

impl ClientIds {
    pub(super) fn next(&mut self) -> Result<Box<str>, NoRandomness> {
        if self.pool.len() < ID_BYTES {
            self.pool.resize(ID_BYTES * POOL_IDS, 0);
            if let Err(error) = random::fill(&mut self.pool) {
                self.pool.clear();
                return Err(error);
            }
        }
        let bytes = self.pool.split_off(self.pool.len() - ID_BYTES);
        Ok(format!("weir-{}", HEXLOWER.encode(&bytes)).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assigned_client_ids_are_unique() {
        let mut ids = ClientIds::default();
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| ids.next().unwrap()).collect();
        assert_eq!(drawn.len(), 1000);
        assert!(drawn.iter().all(|id| id.len() == 37 && id.starts_with("weir-")));
    }
}
