//! What nodes of a cluster send each other, in order, over a node link.

use std::net::IpAddr;

use weir_mqtt::ProtocolVersion;

/// One message from a node to a peer. The wire format is that of `weir-cluster`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerMessage<'a> {
    /// From now on, the sender's number `id` means this namespace.
    Namespace { id: u32, name: &'a str },
    /// The sender has subscribers for `filter`.
    AddInterest { namespace: u32, filter: &'a str },
    /// It no longer has.
    RemoveInterest { namespace: u32, filter: &'a str },
    /// The sender has members of a shared group: how many, and how many of them are ready. No members: the group is gone.
    Group { namespace: u32, group: &'a str, filter: &'a str, members: u32, ready: u32 },
    /// A client has connected to the sender. `stamp` orders the connections of one client identifier.
    ClientConnected { namespace: u32, client_id: &'a str, stamp: u64, clean_start: bool },
    /// A connection of the sender has a will, which the receiver publishes if the sender dies. `None`: it has ended.
    ClientWill { namespace: u32, client_id: &'a str, stamp: u64, will: Option<&'a [u8]> },
    /// Another node keeps the wills of the sender's clients now.
    WillsEnd,
    /// The sender took the receiver for dead, and has published the will of that connection.
    WillPublished { namespace: u32, client_id: &'a str, stamp: u64 },
    /// The sender has applied the log of retained messages up to this sequence.
    LogApplied { sequence: u64 },
    /// Everything that the sender had interest in when the link came up has been sent. `stamp`: the newest of a connection that it
    /// knows of.
    SnapshotEnd { stamp: u64 },
    /// A message for all subscribers of the receiver, but for its shared groups.
    Publish(PeerPublish<'a>),
    /// A message for one member of a shared group.
    GroupPublish { group: &'a str, filter: &'a str, publish: PeerPublish<'a> },
}

/// A PUBLISH between nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerPublish<'a> {
    /// The sender's number of the namespace.
    pub namespace: u32,
    /// The protocol version in which `packet` is encoded.
    pub version: ProtocolVersion,
    /// Milliseconds until the message expires; `None`: it does not.
    pub expires_in: Option<u64>,
    /// The whole PUBLISH packet.
    pub packet: &'a [u8],
}

/// An entry of the log of retained messages, which every node applies in order. It has no numbers of one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetainedEntry<'a> {
    /// The incarnation of the node that appended it, and its number there.
    pub node: u64,
    pub number: u64,
    /// What that node had sent each of its peers by then: incarnation, and number of the last message. A peer that has not
    /// taken that yet waits, so that a publisher's earlier messages are not overtaken [MQTT-4.6.0-5].
    /// See [`Positions`].
    pub after: Positions<'a>,
    pub namespace: &'a str,
    /// The protocol version in which `packet` is encoded.
    pub version: ProtocolVersion,
    /// Milliseconds until the message expires, from when it was appended; `None`: it does not.
    pub expires_in: Option<u64>,
    /// `None`: the broker itself.
    pub publisher: Option<RetainedPublisher<'a>>,
    /// The whole PUBLISH packet. It may be one without RETAIN: a later message of the same publisher, which must not overtake.
    pub packet: &'a [u8],
}

/// Positions of links to peers, in bytes as they are sent: of each the peer's incarnation, the link's generation, and the
/// number of the last message, little-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Positions<'a>(pub &'a [u8]);

impl Positions<'_> {
    const BYTES: usize = 20;

    pub(super) fn put(into: &mut Vec<u8>, incarnation: u64, generation: u32, number: u64) {
        into.extend_from_slice(&incarnation.to_le_bytes());
        into.extend_from_slice(&generation.to_le_bytes());
        into.extend_from_slice(&number.to_le_bytes());
    }

    /// Generation and number of the link to a peer.
    pub fn of(&self, incarnation: u64) -> Option<(u32, u64)> {
        let mut found = self.0.chunks_exact(Self::BYTES).filter(|chunk| chunk[..8] == incarnation.to_le_bytes());
        let chunk = found.next()?;
        let generation = u32::from_le_bytes(chunk[8..12].try_into().ok()?);
        Some((generation, u64::from_le_bytes(chunk[12..].try_into().ok()?)))
    }
}

/// The publisher of a retained message: it is delivered only while this publisher may publish it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetainedPublisher<'a> {
    pub client_id: &'a str,
    pub username: Option<&'a str>,
    pub address: Option<IpAddr>,
    /// Name of the endpoint it came in by.
    pub endpoint: &'a str,
}
