//! Relayed connections: a client whose session another node of the cluster has.
//!
//! The node with the socket, the *opener*, authenticates the client, and hands the connection to its relay thread. That
//! copies plain MQTT bytes to and from the *owner*, over the node link. The owner's relay thread has one end of a socket pair,
//! whose other end is an ordinary connection of the session's home shard: the core does not notice.
//!
//! Each direction has a window: bytes that the other side has not yet taken. The opener may send nothing before the owner's
//! first credit, so until then it can look for another owner.

mod admission;
mod boundary;
mod client;
mod ends;
mod openings;
mod peers;
mod pump;
mod thread;

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::oneshot;
use weir_broker::{Durability, EndpointId, Millis};

use super::drain::DrainRequest;
use super::shard::HandOver;

pub(super) use thread::{RelayHandle, RelayThread};

/// Bytes of one direction of a connection that the other side has not taken, at most.
pub(super) const WINDOW_BYTES: usize = 64 << 10;

/// The node that has a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// This node.
    Here,
    /// The peer with this incarnation.
    Peer(u64),
    /// No node, at the moment.
    Unknown,
}

/// Tells which node has a session. Asked once for each CONNECT that continues a session.
pub trait SlotLookup: Send + Sync + fmt::Debug {
    /// The slot of a session of an endpoint with that durability, and its owner.
    fn owner(&self, durability: Durability, namespace: &str, client_id: &str) -> (u16, Owner);
}

/// Takes messages to peers. Called by the relay thread: it must return at once.
pub trait RelayPort: Send + Sync + fmt::Debug {
    /// Sends a message to the peer with this incarnation, after those that were sent to it before.
    fn send(&self, peer: u64, message: RelayMessage);
}

/// What relayed connections need of a cluster.
#[derive(Debug, Clone)]
pub struct RelayConfig {
    /// Who has which session.
    pub lookup: Arc<dyn SlotLookup>,
    /// The way to the peers.
    pub port: Arc<dyn RelayPort>,
}

/// A message about a relayed connection. `relay` is the opener's number; `from_opener`: the opener has sent the message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RelayMessage {
    /// The opener asks the owner of `slot` to serve a client.
    Open { relay: u64, slot: u16, admission: Vec<u8> },
    /// Bytes of MQTT.
    Data { relay: u64, from_opener: bool, bytes: Vec<u8> },
    /// The sender has taken so many bytes.
    Credit { relay: u64, from_opener: bool, bytes: u32 },
    /// The opener asks the owner to disconnect the client with a reason code, and a server reference if it is not empty. For so
    /// long, what is in flight may be acknowledged. `revokes`: the client has lost its right to be connected.
    End { relay: u64, code: u8, within_ms: u32, revokes: bool, reference: Arc<str> },
    /// Nothing more follows.
    Close { relay: u64, from_opener: bool, reason: RelayEnd },
}

/// Why a relayed connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RelayEnd {
    /// The client, or the session, has ended the connection.
    Ended,
    /// The receiver of `Open` does not have the session.
    NotOwner,
    /// The receiver of `Open` cannot serve the client.
    Refused,
    /// The receiver of `Open` has too many relayed connections.
    Full,
}

/// What the relay thread is told.
pub(super) enum RelayEvent {
    /// A client that was authenticated, and whose session another node has.
    HandOver(Box<HandOver>),
    Message {
        peer: u64,
        message: RelayMessage,
    },
    /// Everything of the peer is lost.
    PeerLost(u64),
    /// Whether too much is on the way to the peer.
    Congested {
        peer: u64,
        congested: bool,
    },
    /// A drain of an endpoint, whose clients are counted.
    Drain {
        request: DrainRequest,
        reply: oneshot::Sender<u32>,
    },
    /// The sequence numbers and addresses of clients that count for the limits of an endpoint.
    Sequences {
        endpoint: EndpointId,
        reply: oneshot::Sender<Vec<(u64, Option<IpAddr>)>>,
    },
    /// The server begins to shut down. `closed` is answered when no client is left, or after `grace`.
    Shutdown {
        grace: Millis,
        closed: oneshot::Sender<()>,
    },
    /// Sessions may have other owners.
    SlotsChanged,
    /// The server shuts down, and its shards have closed their connections. `stopped` is answered, or dropped, when peers were sent
    /// what these had sent last.
    Stop {
        stopped: oneshot::Sender<()>,
    },
}
