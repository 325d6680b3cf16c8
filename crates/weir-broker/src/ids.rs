//! Identifiers. Each has its own type, so that the compiler distinguishes them.

use weir_mqtt::PacketId;

/// Milliseconds on the driver's monotonic clock. The core never reads a clock.
pub type Millis = u64;

/// An index into a vector or a [`Slab`](crate::Slab).
pub trait SlabIndex: Copy {
    /// The index of the number `index`.
    fn from_index(index: u32) -> Self;
    /// Its number.
    fn index(self) -> usize;
}

impl SlabIndex for u32 {
    #[inline]
    fn from_index(index: u32) -> Self {
        index
    }

    #[inline]
    fn index(self) -> usize {
        self as usize
    }
}

macro_rules! indexes {
    ($($(#[$doc:meta])* $visibility:vis struct $name:ident;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
            $visibility struct $name(pub u32);

            impl SlabIndex for $name {
                #[inline]
                fn from_index(index: u32) -> Self {
                    Self(index)
                }

                #[inline]
                fn index(self) -> usize {
                    self.0 as usize
                }
            }
        )*
    };
}

indexes! {
    /// A connection's slot in a core; used again when the connection has ended.
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
    /// The slot in the table of connections.
    pub slot: ConnectionSlot,
    /// Distinguishes the connections that had this slot.
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

/// Another node of the cluster, by its slot on this node. A slot is used again when its peer is out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerSlot(pub u16);

impl ShardId {
    #[inline]
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }
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
    /// Whether the publisher has the session `id` of shard `shard`.
    pub(crate) fn is_session(&self, shard: ShardId, id: SessionId) -> bool {
        self.session == id && self.shard == shard
    }

    /// The broker itself.
    pub(crate) const BROKER: Self = Self {
        shard: ShardId(u16::MAX),
        connection: ConnId { slot: ConnectionSlot(u32::MAX), generation: u32::MAX },
        session: SessionId(u32::MAX),
    };
}
