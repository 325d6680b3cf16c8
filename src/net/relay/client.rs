//! A client whose socket this node has, and whose session another node has.

use std::net::{IpAddr, SocketAddr};

use super::boundary::PacketBoundary;
use super::ends::EndRequest;
use crate::auth::AuthRefusal;
use crate::net::drain::{ConnectionFacts, DrainRequest};
use crate::net::layers::Layers;
use crate::net::shard::{HandOver, refusal_packet};
use crate::net::stats::ConnectionGuard;
use crate::net::stream::Stream;
use weir_broker::{EndpointId, Millis, Principal};
use weir_mqtt::{Decoded, Disconnect, ProtocolVersion, decode_connect, disconnect};

/// Type of DISCONNECT.
const DISCONNECT: u8 = 14;

/// What drains ask about the client, and how far its connection is.
pub(super) struct RelayedClient {
    client_id: Box<str>,
    principal: Principal,
    peer: Option<SocketAddr>,
    version: ProtocolVersion,
    max_packet_bytes: u32,
    endpoint: EndpointId,
    /// Sequence number, counted over the process.
    sequence: u64,
    /// The generation of the policy that admitted it.
    generation: u64,
    /// Counts the connection.
    guard: ConnectionGuard,
    /// What the owner has sent.
    received: PacketBoundary,
    /// The owner was asked to end the connection by this time.
    ending: Option<(Millis, EndRequest)>,
}

/// What drains ask about a client that is handed over.
pub(super) fn facts_of(hand_over: &HandOver) -> ConnectionFacts<'_> {
    ConnectionFacts {
        client_id: &hand_over.client_id,
        principal: &hand_over.outcome.principal,
        peer: hand_over.peer,
        version: hand_over.version,
        generation: hand_over.policy.generation,
        certificates: hand_over.layers.as_ref().map(|layers| layers.peer_certificates()).unwrap_or_default(),
    }
}

impl RelayedClient {
    /// The client, and its socket.
    pub(super) fn new(hand_over: HandOver) -> (Self, Stream, Option<Box<Layers>>) {
        let max_packet_bytes = match decode_connect(&hand_over.bytes, u32::MAX) {
            Ok(Decoded::Packet { packet, .. }) => packet.properties.maximum_packet_size,
            _ => None,
        };
        let client = Self {
            client_id: hand_over.client_id,
            principal: hand_over.outcome.principal,
            peer: hand_over.peer,
            version: hand_over.version,
            max_packet_bytes: max_packet_bytes.unwrap_or(u32::MAX),
            endpoint: hand_over.policy.id,
            sequence: hand_over.sequence,
            generation: hand_over.policy.generation,
            guard: hand_over.guard,
            received: PacketBoundary::default(),
            ending: None,
        };
        (client, hand_over.stream, hand_over.layers)
    }

    /// Whether a drain disconnects it; `None`: of every endpoint.
    pub(super) fn is_selected(&self, request: Option<&DrainRequest>, layers: Option<&Layers>) -> bool {
        let facts = || ConnectionFacts {
            client_id: &self.client_id,
            principal: &self.principal,
            peer: self.peer,
            version: self.version,
            generation: self.generation,
            certificates: layers.map(|layers| layers.peer_certificates()).unwrap_or_default(),
        };
        request.is_none_or(|request| {
            request.endpoint == self.endpoint && request.selects(self.sequence, self.generation, || Some(facts()))
        })
    }

    /// Its sequence number and address, if it counts for the limits of the endpoint.
    pub(super) fn counted(&self, endpoint: EndpointId) -> Option<(u64, Option<IpAddr>)> {
        let counts = self.guard.counts_for() == Some(endpoint);
        counts.then(|| (self.sequence, self.peer.map(|peer| peer.ip())))
    }

    /// The owner has sent bytes for it.
    pub(super) fn receive(&mut self, bytes: &[u8]) {
        self.received.push(bytes);
    }

    /// The owner was asked; of two requests, the one with the earlier deadline holds. `false`: it was asked before.
    pub(super) fn end_by(&mut self, deadline: Millis, request: EndRequest) -> bool {
        let is_first = self.ending.is_none();
        if self.ending.as_ref().is_none_or(|(before, _)| deadline < *before) {
            self.ending = Some((deadline, request));
        }
        is_first
    }

    /// When the owner must have ended it.
    pub(super) fn deadline(&self) -> Option<Millis> {
        self.ending.as_ref().map(|(deadline, _)| *deadline)
    }

    /// The last packet for it where the owner has closed the connection as it was asked: CONNACK, where it has sent none.
    pub(super) fn refusal(&self) -> Vec<u8> {
        let is_due = self.ending.is_some() && self.received.is_empty();
        if is_due { refusal_packet(self.version, AuthRefusal::Unavailable) } else { Vec::new() }
    }

    /// The last packet for it where the owner does not end the connection as it was asked: CONNACK, or DISCONNECT (5.0) where
    /// that fits behind what the owner has sent.
    pub(super) fn last_packet(&self) -> Vec<u8> {
        let Some((_, request)) = &self.ending else { return Vec::new() };
        if self.received.is_empty() {
            return self.refusal();
        }
        if self.version != ProtocolVersion::V5 || matches!(self.received.last_type(), None | Some(DISCONNECT)) {
            return Vec::new();
        }
        let mut packet = Vec::new();
        // [MQTT-3.1.2-24]: what is too large for the client goes without its properties, or not at all.
        for server_reference in [Some(&*request.reference).filter(|reference| !reference.is_empty()), None] {
            packet.clear();
            let content = Disconnect { code: request.code, server_reference, ..Disconnect::default() };
            let encoded = disconnect(&mut packet, ProtocolVersion::V5, &content);
            if encoded.is_ok() && packet.len() <= self.max_packet_bytes as usize {
                return packet;
            }
        }
        Vec::new()
    }
}
