//! Placement: which shard owns a session, a topic or a shared group, and which slot of a cluster a session has. Pure
//! functions of names and numbers, so that every shard, every process and every node finds the same.

use weir_mqtt::{Connect, ProtocolVersion};

use crate::Durability;
use crate::ids::ShardId;

/// The most slots of one class of durability that a cluster may have.
pub const SLOTS_PER_CLASS_MAX: u16 = 64;
/// Client identifiers that begin so are of a node itself: its bridges. No client may choose one.
pub(crate) const OF_NODE_PREFIX: &str = "$bridge/";

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

/// A set of slots of a cluster, a bit each: those of sessions in memory are numbers below the slots per class, those of
/// sessions on disk follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Slots(pub u128);

impl Slots {
    /// No slot.
    pub const NONE: Self = Self(0);

    /// Every slot of both classes.
    pub fn all(per_class: u16) -> Self {
        (0..per_class.min(SLOTS_PER_CLASS_MAX) * 2).collect()
    }

    /// Whether the set has a slot. A number that no slot can have is in no set.
    pub fn contains(self, slot: u16) -> bool {
        1_u128.checked_shl(u32::from(slot)).is_some_and(|bit| self.0 & bit != 0)
    }

    /// Adds a slot.
    pub fn insert(&mut self, slot: u16) {
        self.0 |= 1_u128.checked_shl(u32::from(slot)).unwrap_or(0);
    }

    /// Removes a slot.
    pub fn remove(&mut self, slot: u16) {
        self.0 &= !1_u128.checked_shl(u32::from(slot)).unwrap_or(0);
    }

    /// Whether the set has no slot.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// How many slots the set has.
    pub fn len(self) -> usize {
        self.0.count_ones() as usize
    }

    /// The slots of either set.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The slots that both sets have.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// The slots of this set that the other one does not have.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// The slots, in order.
    pub fn iter(self) -> impl Iterator<Item = u16> {
        (0..u128::BITS as u16).filter(move |slot| self.contains(*slot))
    }
}

impl FromIterator<u16> for Slots {
    fn from_iter<I: IntoIterator<Item = u16>>(slots: I) -> Self {
        let mut set = Self::NONE;
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

/// What a node does with the slots of its cluster. What is in none of these is of other nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotSets {
    /// The node owns them.
    pub owned: Slots,
    /// Of `owned`: no session may begin in them, as they are to be given to another node.
    pub releasing: Slots,
    /// Of `owned`: their sessions are being copied to another node. No client is served.
    pub frozen: Slots,
    /// Not of `owned`: their sessions are copied from another node, and are kept here.
    pub importing: Slots,
    /// Another node has what was here of them: it is dropped, without the wills.
    pub moved: Slots,
}

impl SlotSets {
    /// Slots whose sessions have two copies at the moment, of which none is served.
    pub(crate) fn in_move(&self) -> Slots {
        self.frozen.union(self.importing)
    }
}

/// The slot of a client identifier among `slots`, from 0 on.
pub fn slot_of(namespace: &str, client_id: &str, slots: u16) -> u16 {
    (slot_hash([namespace.as_bytes(), client_id.as_bytes()]) % u64::from(slots.max(1))) as u16
}

/// The slot of a session, of both classes: see [`Slots`]. `durability` is that of its endpoint.
pub fn session_slot(durability: Durability, namespace: &str, client_id: &str, per_class: u16) -> u16 {
    let slot = slot_of(namespace, client_id, per_class);
    match durability {
        Durability::Memory => slot,
        Durability::Disk => slot + per_class.max(1),
    }
}

/// Whether a CONNECT has to be served by the owner of its slot: all but those whose session neither exists before nor
/// outlasts the connection. `client_id` is as sent, or as assigned.
pub fn needs_owner(connect: &Connect<'_>, client_id: &str) -> bool {
    let ends_with_connection = match connect.version {
        ProtocolVersion::V5 => connect.properties.session_expiry_s.unwrap_or(0) == 0,
        _ => true,
    };
    let is_transient = connect.clean_start && ends_with_connection;
    !is_transient && !client_id.starts_with(OF_NODE_PREFIX)
}

/// FNV-1a of the parts, each with its length, and the finalizer of splitmix64, as FNV alone does not mix its high bits. The
/// same on every platform and in every version: a change moves sessions.
pub fn slot_hash(parts: [&[u8]; 2]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for part in parts {
        let length = (part.len() as u32).to_le_bytes();
        for byte in length.iter().chain(part) {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_the_same_in_every_version() {
        let slots = [("", "a"), ("", "sensor-1"), ("tenant", "a"), ("tenan", "ta")];
        assert_eq!(slots.map(|(namespace, id)| slot_of(namespace, id, 16)), [12, 6, 6, 13]);
        assert_eq!(session_slot(Durability::Memory, "", "a", 16), 12);
        assert_eq!(session_slot(Durability::Disk, "", "a", 16), 28);
    }

    #[test]
    fn slots_spread_clients_evenly() {
        let mut counts = [0_u32; 16];
        (0..16_000).for_each(|n| counts[usize::from(slot_of("", &format!("client-{n}"), 16))] += 1);
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
        assert_eq!(slot_of("", "a", 0), 0);
    }

    #[test]
    fn set_of_slots_has_the_highest_slot_and_no_other_number() {
        let mut slots: Slots = [0, 127, 128, 500].into_iter().collect();
        assert_eq!((slots.iter().collect::<Vec<_>>(), slots.len()), (vec![0, 127], 2));
        slots.remove(0);
        assert!(slots.contains(127) && !slots.contains(0) && !slots.contains(u16::MAX));
        assert_eq!(Slots::all(64), Slots(u128::MAX));
        assert_eq!(Slots::all(8).without(Slots::all(4)).iter().collect::<Vec<_>>(), (8..16).collect::<Vec<_>>());
    }

    #[test]
    fn home_shard_is_the_same_in_every_process_and_spreads_clients() {
        let homes: Vec<u16> = (0..1000).map(|n| home_shard("", &format!("client-{n}"), 4).0).collect();
        assert!((0..4).all(|shard| homes.iter().filter(|home| **home == shard).count() > 200));
        assert_eq!(home_shard("tenant", "a", 255), home_shard("tenant", "a", 255));
    }
}
