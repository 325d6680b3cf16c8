//! Changes of the members, for links and logs.

use crate::Incarnation;
use crate::wire::WireVersions;

/// A change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberEvent {
    /// This node is in: it may acknowledge.
    SelfIn,
    /// This node is out: it must not acknowledge, nor accept clients.
    SelfOut,
    /// A peer is in for the first time.
    Joined {
        /// Its name.
        node: String,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Version of the wire format for the link to it.
        wire: u8,
    },
    /// A peer is in with a new incarnation. What the old one had told, and the link to it, are void.
    Restarted {
        /// Its name.
        node: String,
        /// The incarnation that ended.
        old: Incarnation,
        /// The new one.
        incarnation: Incarnation,
        /// Version of the wire format for the link to it.
        wire: u8,
    },
    /// A peer does not move.
    Out {
        /// Its name.
        node: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A peer that was out moves again, with the same incarnation.
    BackIn {
        /// Its name.
        node: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A peer shuts down: it is still in, and should own no slots.
    Leaving {
        /// Its name.
        node: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A peer has left as it announced, or its record was removed.
    Left {
        /// Its name.
        node: String,
        /// Its incarnation.
        incarnation: Incarnation,
    },
    /// A peer cannot take part.
    Refused {
        /// Its name.
        node: String,
        /// Its incarnation.
        incarnation: Incarnation,
        /// Why.
        reason: Refusal,
    },
    /// Two running processes have one name; it may be this node's.
    DuplicateName {
        /// The name.
        node: String,
        /// Both incarnations, the one that appeared first, first.
        incarnations: [Incarnation; 2],
    },
    /// One of the two has ended.
    DuplicateNameResolved {
        /// The name.
        node: String,
    },
}

/// Why a node cannot take part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No version of the wire format is common.
    #[error(
        "its wire versions are {} to {}, this node's are {} to {}: upgrade one version at a time",
        peer.min, peer.max, own.min, own.max
    )]
    WireVersions {
        /// This node's versions.
        own: WireVersions,
        /// The peer's versions.
        peer: WireVersions,
    },
    /// The cluster document names it as removed.
    #[error("the cluster document removes it")]
    Removed,
}
