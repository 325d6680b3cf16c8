//! One shard's core.

use std::sync::Arc;

use super::{EndpointId, EndpointPolicy, Millis, OutBuf, Principal};
use crate::mqtt::Connect;

/// A connection within one core: a slot and the slot's generation, so that a stale id is never somebody else's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnId {
    pub slot: u32,
    pub generation: u32,
}

/// A shard of this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// The shard whose core owns the session of (namespace, client id).
pub fn home_shard(namespace: &str, client_id: &str, shards: u16) -> ShardId {
    let _ = (namespace, client_id, shards);
    ShardId(0)
}

/// A client that may come in: its CONNECT is decoded, its credentials were accepted, this is its home shard.
pub struct Admission<'a> {
    pub policy: Arc<EndpointPolicy>,
    pub connect: &'a Connect<'a>,
    /// As sent, or as assigned.
    pub client_id: &'a str,
    /// Whether the server assigned it (5.0: told in CONNACK).
    pub assigned: bool,
    pub principal: Principal,
    /// The last AUTH data of an enhanced authentication, for CONNACK.
    pub authentication_data: Option<&'a [u8]>,
}

/// What came of feeding bytes to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes of whole packets taken; the rest is a partial packet, to be kept and fed again with what follows.
    pub consumed: usize,
    /// The whole length of the partial packet that follows, where its header is complete: what to have room for.
    pub needs: Option<usize>,
    pub then: Then,
}

/// What the driver does next with the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// Read on.
    Continue,
    /// Read no more until [`Core::take_resumed`] names it: a receiver of its messages is slow, or its rate is used up.
    Pause,
    /// Write what waits in its [`OutBuf`], then close. The core has already forgotten the connection's session side.
    Close,
}

/// Work for another shard, in order; made by [`Core::take_batch`], taken by [`Core::deliver_batch`] over there.
#[derive(Debug, Default)]
pub struct Batch {}

/// Why a connection ended, seen from the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The peer closed, or the network failed.
    PeerClosed,
    /// The socket could not be written to.
    WriteFailed,
    /// The driver ends it: drain, shutdown.
    Server,
}

/// How the core is set up.
pub struct CoreConfig {
    pub shard: ShardId,
    pub shards: u16,
}

/// One shard's broker.
pub struct Core {}

#[allow(unused_variables, clippy::needless_pass_by_value)]
impl Core {
    pub fn new(config: CoreConfig) -> Core {
        Core {}
    }

    /// Takes an admitted client in: takeover, session, will, CONNACK (in its out buffer). The driver keeps its socket
    /// under `ConnId::slot`. A refused one (`Err`: bytes of the CONNACK to write before the close) leaves nothing behind.
    pub fn admit(&mut self, admission: Admission<'_>, now: Millis) -> Result<ConnId, Vec<u8>> {
        Err(Vec::new())
    }

    /// Feeds bytes that were read from `conn`. Decodes and handles every whole packet in them.
    pub fn receive(&mut self, conn: ConnId, bytes: &[u8], now: Millis) -> Received {
        Received { consumed: 0, needs: None, then: Then::Close }
    }

    /// The socket is gone (or the driver ends the connection): will, session expiry. Frees the slot.
    pub fn ended(&mut self, conn: ConnId, why: Ended, now: Millis) {}

    /// Asks a client to leave: 5.0 gets DISCONNECT with `code` (and reference); then its out buffer is to be flushed and
    /// the connection closed: it is named by [`Core::take_closing`].
    pub fn disconnect(&mut self, conn: ConnId, code: u8, server_reference: Option<&str>, now: Millis) {}

    /// Out buffer of a connection; the driver writes from it and advances it, then tells [`Core::written`].
    pub fn out(&mut self, conn: ConnId) -> Option<&mut OutBuf> {
        None
    }

    /// The driver wrote from the out buffer: lets paused publishers and queued messages move on.
    pub fn written(&mut self, conn: ConnId, now: Millis) {}

    /// Connections with something to write since the last call (each once).
    pub fn take_dirty(&mut self, into: &mut Vec<ConnId>) {}

    /// Connections that may be read again.
    pub fn take_resumed(&mut self, into: &mut Vec<ConnId>) {}

    /// Connections the core wants closed once their out buffer is flushed (takeover, keep-alive, breach, drain).
    pub fn take_closing(&mut self, into: &mut Vec<ConnId>) {}

    /// What waits for another shard, if anything.
    pub fn take_batch(&mut self, to: ShardId) -> Option<Batch> {
        None
    }

    /// Takes another shard's batch.
    pub fn deliver_batch(&mut self, from: ShardId, batch: Batch, now: Millis) {}

    /// Whatever is due: keep-alives, wills, expiries, pauses' deadlines.
    pub fn tick(&mut self, now: Millis) {}

    /// When [`Core::tick`] is next needed.
    pub fn next_deadline(&self) -> Option<Millis> {
        None
    }

    /// A new policy for an endpoint's open connections (law 7 of the design): limits change live, subscriptions the new
    /// rules refuse are removed, queued messages they forbid are dropped.
    pub fn set_policy(&mut self, policy: Arc<EndpointPolicy>, now: Millis) {}

    /// Every connection of an endpoint, for draining and listing.
    pub fn connections(&self, endpoint: EndpointId) -> Vec<ConnId> {
        Vec::new()
    }
}
