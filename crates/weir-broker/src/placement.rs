//! Placement: which shard owns a session, a topic or a shared group. A pure function of names and the number of shards,
//! so that every shard and every process finds the same one.

use crate::ids::ShardId;

/// The shard whose core owns the session of (namespace, client id).
pub fn home_shard(namespace: &str, client_id: &str, shards: u16) -> ShardId {
    owner_shard(&[namespace, client_id], shards)
}

/// The shard that owns what `names` identify. Every shard finds the same one.
pub(crate) fn owner_shard(names: &[&str], shards: u16) -> ShardId {
    let hash = stable_hash(names);
    // The low bits of FNV depend on the low bits of the input alone.
    let mixed = hash ^ (hash >> 32);
    ShardId((mixed % u64::from(shards.max(1))) as u16)
}

/// FNV-1a, which has no seed: the same in every shard and process.
pub(crate) fn stable_hash(names: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for name in names {
        // 0xff is no byte of UTF-8: it separates one name from the next.
        for byte in name.bytes().chain(std::iter::once(0xff)) {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_shard_is_the_same_in_every_process_and_spreads_clients() {
        let homes: Vec<u16> = (0..1000).map(|n| home_shard("", &format!("client-{n}"), 4).0).collect();
        assert!((0..4).all(|shard| homes.iter().filter(|home| **home == shard).count() > 200));
        assert_eq!(home_shard("tenant", "a", 255), home_shard("tenant", "a", 255));
    }
}
