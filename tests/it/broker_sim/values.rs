//! The values that the model and the simulation exchange.

use std::rc::Rc;

use crate::node::LinkId;
use crate::wire::Version;

/// A message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
    pub expires_at: Option<u64>,
    pub publisher: String,
}

/// A subscription.
#[derive(Debug, Clone, Copy)]
pub struct Subscription {
    pub qos: u8,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: u8,
    pub identifier: Option<u32>,
}

/// A will.
#[derive(Debug, Clone)]
pub struct Will {
    pub message: Message,
    pub delay_s: u64,
    /// Counts from its publication.
    pub expiry_s: Option<u64>,
}

/// What a connection must be sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Expected {
    ConnAck {
        present: bool,
    },
    Publish {
        serial: Option<u64>,
        message: Rc<Message>,
        qos: u8,
        retain: bool,
        dup: bool,
        identifiers: Vec<u32>,
        expiry_s: Option<u64>,
    },
    /// Packet type, packet id, reason code.
    Ack(u8, u16, u8),
    SubAck(u16, Vec<u8>),
    UnsubAck(u16, Vec<u8>),
    Disconnect(u8),
    Closed,
}

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Connecting {
    pub link: LinkId,
    pub version: Version,
    pub clean: bool,
    pub expiry_s: u32,
    pub keep_alive_s: u64,
    pub receive_maximum: usize,
    pub will: Option<Will>,
}

/// Never expires.
pub const NEVER: u32 = u32::MAX;
