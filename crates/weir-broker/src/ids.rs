//! Identifiers. Each has a type of its own, so that the compiler tells them apart.

use weir_mqtt::PacketId;

/// Milliseconds on the driver's monotonic clock. The core never reads a clock.
pub type Millis = u64;

/// An index into a vector or a slab.
pub(crate) trait Index: Copy {
    fn from_place(place: u32) -> Self;
    fn place(self) -> usize;
}

macro_rules! indexes {
    ($($(#[$doc:meta])* $visibility:vis struct $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
            $visibility struct $name(pub u32);

            impl Index for $name {
                #[inline]
                fn from_place(place: u32) -> Self {
                    Self(place)
                }

                #[inline]
                fn place(self) -> usize {
                    self.0 as usize
                }
            }
        )*
    };
}

indexes! {
    /// A place for a connection in a core; used again when the connection has ended.
    pub struct ConnectionSlot;
    /// A session in its core; used again when the session has ended.
    pub(crate) struct SessionId;
    /// A namespace in its core. Each core numbers its own.
    pub(crate) struct NamespaceId;
    /// A shared subscription group in the core that owns it.
    pub(crate) struct GroupId;
    /// A node of a topic tree.
    pub(crate) struct NodeId;
    /// An endpoint's counters in a core.
    pub(crate) struct EndpointIndex;
}

/// A connection within one core: a slot and the slot's generation, so that a stale id never finds another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub slot: ConnectionSlot,
    pub generation: u32,
}

/// A session from another shard's view, or after a while: a stale reference never finds another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SessionRef {
    pub(crate) id: SessionId,
    pub(crate) generation: u32,
}

/// Identifies a declared endpoint for as long as the process runs; never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

impl EndpointId {
    /// Of sessions that were restored, until their endpoint is declared again; no endpoint has it.
    pub(crate) const RESTORED: Self = Self(u32::MAX);
}

/// A shard of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

impl ShardId {
    #[inline]
    pub(crate) fn place(self) -> usize {
        usize::from(self.0)
    }
}

/// The shard whose core owns the session of (namespace, client id).
pub fn home_shard(namespace: &str, client_id: &str, shards: u16) -> ShardId {
    owner_of(&[namespace, client_id], shards)
}

/// The shard that owns what `names` identify. Every shard finds the same one.
pub(crate) fn owner_of(names: &[&str], shards: u16) -> ShardId {
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

/// A number that one thing of a node's durable state has, and nothing else ever had. 0: not durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct RecordId(pub u64);

impl RecordId {
    /// The id of an object that is not durable.
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn is_some(self) -> bool {
        self.0 != 0
    }
}

/// The name of a QoS 2 publish of a durable session: the session, and the packet identifier.
pub(crate) type DedupKey = (RecordId, PacketId);

/// The origin of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) shard: ShardId,
    pub(crate) connection: ConnId,
    /// The publisher's session, for No Local.
    pub(crate) session: SessionId,
}

impl Origin {
    /// The broker itself.
    pub(crate) const BROKER: Self = Self {
        shard: ShardId(u16::MAX),
        connection: ConnId { slot: ConnectionSlot(u32::MAX), generation: u32::MAX },
        session: SessionId(u32::MAX),
    };
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
