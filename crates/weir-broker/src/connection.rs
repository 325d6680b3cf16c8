//! A connection, as the core sees it: what it was told in CONNECT, and what waits to be written to it.

use std::sync::Arc;

use hashbrown::HashMap;

use super::authentication::Turn;
use super::farewell::Farewell;
use super::provenance::Publisher;
use super::rate::Rates;
use super::subscriptions::SessionId;
use super::{ConnId, EndpointPolicy, Millis, OutBuf, Principal, ShardId};
use weir_mqtt::{ProtocolVersion, QoS};

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) session: SessionId,
    /// Place of its endpoint's counters.
    pub(super) endpoint: u32,
    pub(super) policy: Arc<EndpointPolicy>,
    pub(super) principal: Box<Principal>,
    pub(super) version: ProtocolVersion,
    /// Of mosquitto's kind (3.1.1): its subscriptions have No Local and Retain As Published, which its version cannot ask for.
    pub(super) is_bridge: bool,
    /// Named in the list of those with something to write; and in that of the crowd.
    pub(super) dirty: bool,
    pub(super) in_crowd: bool,
    /// To be closed once its buffer is written; takes and sends nothing more.
    pub(super) closing: bool,
    /// The client's Receive Maximum; 0 once it was asked to leave.
    pub(super) receive_maximum: u16,
    /// The client's Maximum Packet Size.
    pub(super) maximum_packet_size: u32,
    /// One and a half times the keep-alive, ms; 0: none.
    pub(super) keep_alive_ms: u32,
    pub(super) last_received: Millis,
    pub(super) connected_at: Millis,
    /// PUBLISH packets from the client, and to it.
    pub(super) messages_received: u64,
    pub(super) messages_sent: u64,
    pub(super) out: OutBuf,
    /// What of the core's buffered bytes is this connection's.
    pub(super) held_bytes: usize,
    /// How many slow receivers, links and rates hold up its reading.
    pub(super) pauses: u16,
    /// Publishers that wait for this connection to take what was written to it.
    pub(super) waiters: Vec<Origin>,
    /// What its rules permitted last; forgotten when they change. Most clients publish to one topic again and again.
    pub(super) permitted: Option<Box<Permitted>>,
    /// Until when it counts as slow.
    pub(super) slow_until: Millis,
    pub(super) rare: Option<Box<Aside>>,
}

/// A publish that was permitted.
#[derive(Debug)]
pub(super) struct Permitted {
    topic: String,
    qos: QoS,
    retain: bool,
}

impl Connection {
    /// Whether the same publish was permitted by the rules in force.
    pub(super) fn was_permitted(&self, topic: &str, qos: QoS, retain: bool) -> bool {
        self.permitted.as_ref().is_some_and(|p| p.qos == qos && p.retain == retain && p.topic == topic)
    }

    /// Remembers a permission of the rules in force.
    pub(super) fn permit(&mut self, topic: &str, qos: QoS, retain: bool) {
        let permitted = self.permitted.get_or_insert_with(|| Box::new(Permitted { topic: String::new(), qos, retain }));
        permitted.topic.clear();
        permitted.topic.push_str(topic);
        (permitted.qos, permitted.retain) = (qos, retain);
    }
}

/// What few connections have.
#[derive(Debug, Default)]
pub(super) struct Aside {
    /// Topic by incoming alias less one.
    pub(super) incoming_aliases: Vec<Option<Box<str>>>,
    pub(super) outgoing_aliases: OutgoingAliases,
    pub(super) rates: Option<Rates>,
    /// Until when it is not read, having published too fast; 0: it is read.
    pub(super) resumes_at: Millis,
    /// Messages on their way over a topic's owner: (owner, place in the link to it).
    pub(super) via_owner: Vec<(ShardId, u64)>,
    /// As whom it published what is retained.
    pub(super) publisher: Option<Arc<Publisher>>,
    /// Enhanced authentication: the method of CONNECT [MQTT-4.12.0-5].
    pub(super) authentication_method: Option<Box<str>>,
    pub(super) reauthentication: Turn,
    /// It was asked to leave, and is told so when nothing is in flight any more.
    pub(super) farewell: Option<Box<Farewell>>,
    /// Publishes that wait for room on the disk, as they came; and whether it is not read because of them.
    pub(super) held_publishes: Vec<u8>,
    pub(super) held_pauses: bool,
}

impl Connection {
    pub(super) fn aside(&mut self) -> &mut Aside {
        self.rare.get_or_insert_default()
    }

    pub(super) fn is_v5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }
}

/// Where a message came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) shard: ShardId,
    pub(super) connection: ConnId,
    /// The publisher's session, for No Local.
    pub(super) session: SessionId,
}

impl Origin {
    /// The broker itself.
    pub(super) const NOBODY: Self = Self {
        shard: ShardId(u16::MAX),
        connection: ConnId { slot: u32::MAX, generation: u32::MAX },
        session: u32::MAX,
    };
}

/// Aliases the server gave topics, first come, up to the client's Topic Alias Maximum.
#[derive(Debug, Default)]
pub(super) struct OutgoingAliases {
    pub(super) maximum: u16,
    by_topic: HashMap<Box<str>, u16>,
}

impl OutgoingAliases {
    /// The alias of `topic` and whether the client knows it already; `None` where all are given.
    pub(super) fn get(&mut self, topic: &str) -> Option<(u16, bool)> {
        if let Some(&alias) = self.by_topic.get(topic) {
            return Some((alias, true));
        }
        if self.by_topic.len() >= usize::from(self.maximum) {
            return None;
        }
        let alias = self.by_topic.len() as u16 + 1;
        self.by_topic.insert(topic.into(), alias);
        Some((alias, false))
    }
}
