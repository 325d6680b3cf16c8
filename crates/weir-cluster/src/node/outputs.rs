//! What a node asks its driver to do with the engine.

use std::collections::VecDeque;

use weir_broker::gateway::{Outside, PeerMessage, PeerPublish, PeerSlot, RetainedEntry};
use weir_mqtt::{DecodeContext, Decoded, Packet, Side, decode};

use super::peers::PeerLinks;
use crate::wire::encode_retained_entry;

/// How long the log keeps an entry that removes a retained message: by then what it removes is gone.
const REMOVAL_TTL_MS: u64 = 24 * 3600 * 1000;
/// How long it keeps one that is not retained: by then every node has read it.
const PASSING_TTL_MS: u64 = 5 * 60 * 1000;

/// An entry for the log of retained messages. Entries of a topic are stored in the order in which they are answered.
#[derive(Debug)]
pub struct Append {
    /// This node's number of the entry: see [`ClusterNode::on_append_stored`](super::ClusterNode::on_append_stored).
    pub number: u64,
    /// Of the message; with the topic it names the entry's subject.
    pub namespace: Box<str>,
    /// See `namespace`.
    pub topic: Box<str>,
    /// The bytes to store.
    pub payload: Vec<u8>,
    /// After how long the log may forget it.
    pub ttl_ms: Option<u64>,
}

/// Entries of a subject to remove from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Purge {
    /// The hash of namespace and topic.
    pub subject: [u8; 16],
    /// Those with a lower sequence.
    pub below: u64,
}

/// Whether an entry removes what its topic has retained; `None`: its message is not retained.
pub(super) fn is_removal(entry: &RetainedEntry<'_>) -> Option<bool> {
    let (_, retain, is_empty) = packet_of(entry)?;
    retain.then_some(is_empty)
}

/// Topic of an entry's packet, whether it has the RETAIN flag, and whether its payload is empty.
fn packet_of<'a>(entry: &RetainedEntry<'a>) -> Option<(&'a str, bool, bool)> {
    let context = DecodeContext { version: entry.version, max_packet_size: u32::MAX, from: Side::Client };
    match decode(entry.packet, &context) {
        Ok(Decoded::Packet { packet: Packet::Publish(publish), .. }) => {
            Some((publish.topic, publish.retain, publish.payload.is_empty()))
        }
        _ => None,
    }
}

/// The links and the log, as the gateway sees them.
pub(super) struct Ends<'a> {
    pub(super) peers: &'a mut PeerLinks,
    pub(super) appends: &'a mut VecDeque<Append>,
    pub(super) bytes: &'a mut usize,
}

/// Whether a client waits for what becomes of a message.
fn is_waited_for(message: &PeerMessage<'_>) -> bool {
    let qos = |publish: &PeerPublish<'_>| publish.packet.first().is_some_and(|first| first & 0x06 != 0);
    match message {
        PeerMessage::Publish(publish) | PeerMessage::GroupPublish { publish, .. } => qos(publish),
        PeerMessage::AddInterest { .. } | PeerMessage::Group { .. } | PeerMessage::SnapshotEnd { .. } => true,
        PeerMessage::ClientConnected { .. } => true,
        PeerMessage::Namespace { .. }
        | PeerMessage::RemoveInterest { .. }
        | PeerMessage::LogApplied { .. }
        | PeerMessage::ClientWill { .. }
        | PeerMessage::WillsEnd
        | PeerMessage::WillPublished { .. } => false,
    }
}

impl Outside for Ends<'_> {
    fn push(&mut self, peer: PeerSlot, message: &PeerMessage<'_>) -> u64 {
        let Some(link) = self.peers.link_mut(peer) else { return 0 };
        let number = link.push(message);
        if is_waited_for(message) {
            link.request_acknowledgement();
        }
        number
    }

    fn append(&mut self, entry: &RetainedEntry<'_>) {
        let (topic, retain, is_empty) = packet_of(entry).unwrap_or_default();
        let mut payload = Vec::with_capacity(entry.packet.len() + 128);
        encode_retained_entry(entry, &mut payload);
        let ttl_ms = match (retain, is_empty) {
            (true, false) => entry.expires_in,
            (true, true) => Some(REMOVAL_TTL_MS),
            (false, _) => Some(PASSING_TTL_MS),
        };
        *self.bytes += payload.len();
        let (namespace, topic) = (entry.namespace.into(), topic.into());
        self.appends.push_back(Append { number: entry.number, namespace, topic, payload, ttl_ms });
    }
}
