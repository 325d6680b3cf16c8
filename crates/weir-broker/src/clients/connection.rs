//! A connection: the values of its CONNECT, and the output that waits to be written.

use std::sync::Arc;

use crate::clients::graceful_disconnect::GracefulDisconnect;
use crate::clients::rate_limit::PublishRates;
use crate::clients::reauthentication::ReauthenticationState;
use crate::delivery::fanout_scheduler::ConnectionOutput;
use crate::delivery::outgoing_aliases::OutgoingAliases;
use crate::delivery::publish_context::Receiver;
use crate::ids::{EndpointIndex, Millis, Origin, SessionId, ShardId};
use crate::values::memory::Charge;
use crate::values::publisher::PublisherIdentity;
use crate::{EndpointPolicy, Principal};
use weir_mqtt::{ProtocolVersion, QoS};

/// Bytes of a connection in other tables: its timer and its socket's state.
const CONNECTION_BYTES: usize = 256;
/// The longest topic whose permission is remembered, bytes.
const PERMITTED_TOPIC_MAX_BYTES: usize = 1024;

#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) session: SessionId,
    /// Index of its endpoint's counters.
    pub(crate) endpoint: EndpointIndex,
    pub(crate) policy: Arc<EndpointPolicy>,
    pub(crate) principal: Box<Principal>,
    pub(crate) version: ProtocolVersion,
    /// Of mosquitto's kind (3.1.1): its subscriptions have No Local and Retain As Published, which its version cannot ask for.
    pub(crate) is_bridge: bool,
    /// To be closed once its buffer is written; takes and sends nothing more.
    pub(crate) closing: bool,
    /// Another node keeps its will.
    pub(crate) is_will_kept: bool,
    /// Its endpoint has an interceptor of deliveries.
    pub(crate) intercepts_deliveries: bool,
    /// The client's Receive Maximum; 0 once it drains.
    pub(crate) receive_maximum: u16,
    /// The client's Maximum Packet Size.
    pub(crate) maximum_packet_size: u32,
    /// One and a half times the keep-alive, ms; 0: none.
    pub(crate) keep_alive_ms: u32,
    pub(crate) last_received: Millis,
    pub(crate) connected_at: Millis,
    /// Of a node of a cluster: orders the connections of one client identifier over all nodes.
    pub(crate) stamp: u64,
    /// PUBLISH packets from the client, and to it.
    pub(crate) messages_received: u64,
    pub(crate) messages_sent: u64,
    pub(crate) outlet: ConnectionOutput,
    /// How many slow receivers, links and rates hold up its reading.
    pub(crate) pauses: u16,
    /// Publishers that wait for this connection to take what was written to it.
    pub(crate) waiters: Vec<Origin>,
    /// The last topic that its rules permitted; cleared when they change. Most clients publish to one topic again and
    /// again.
    pub(crate) permitted: Option<Box<Permitted>>,
    /// Until when it counts as slow.
    pub(crate) slow_until: Millis,
    /// Bytes that it was counted with.
    pub(crate) counted_bytes: u32,
    pub(crate) cold: Option<Box<ConnectionCold>>,
}

/// A publish that was permitted.
#[derive(Debug)]
pub(crate) struct Permitted {
    topic: String,
    qos: QoS,
    retain: bool,
}

impl Connection {
    /// Whether the current rules permitted the same publish before.
    pub(crate) fn was_permitted(&self, topic: &str, qos: QoS, retain: bool) -> bool {
        self.permitted.as_ref().is_some_and(|p| p.qos == qos && p.retain == retain && p.topic == topic)
    }

    /// Caches a permission of the current rules.
    pub(crate) fn permit(&mut self, topic: &str, qos: QoS, retain: bool) {
        if topic.len() > PERMITTED_TOPIC_MAX_BYTES {
            self.permitted = None;
            return;
        }
        let permitted = self.permitted.get_or_insert_with(|| Box::new(Permitted { topic: String::new(), qos, retain }));
        permitted.topic.clear();
        permitted.topic.push_str(topic);
        (permitted.qos, permitted.retain) = (qos, retain);
    }
}

/// The last message of a topic that went over the topic's owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Transit {
    pub(crate) owner: ShardId,
    /// The hash of the topic; `None`: of any topic.
    pub(crate) topic: Option<u64>,
    /// Where it is on the link to the owner.
    pub(crate) position: u64,
}

/// Fields that few connections use.
#[derive(Debug, Default)]
pub(crate) struct ConnectionCold {
    /// Topic by incoming alias less one.
    pub(crate) incoming_aliases: Vec<Option<Box<str>>>,
    /// Of their bytes.
    pub(crate) incoming_alias_charge: Option<Charge>,
    /// `Some` if the client accepts topic aliases.
    pub(crate) outgoing_aliases: Option<Box<OutgoingAliases>>,
    pub(crate) rates: Option<PublishRates>,
    /// Until when it is not read, having published too fast; 0: it is read.
    pub(crate) resumes_at: Millis,
    /// Messages on their way over their topics' owners.
    pub(crate) via_owner: Vec<Transit>,
    /// As whom it published what is retained.
    pub(crate) publisher: Option<Arc<PublisherIdentity>>,
    /// Enhanced authentication: the method of CONNECT [MQTT-4.12.0-5].
    pub(crate) authentication_method: Option<Box<str>>,
    pub(crate) reauthentication: ReauthenticationState,
    /// It drains: it is disconnected when nothing is in flight any more.
    pub(crate) graceful_disconnect: Option<Box<GracefulDisconnect>>,
    /// Publishes that wait for room on the disk, as they came; and whether it is not read because of them.
    pub(crate) held_publishes: Vec<u8>,
    pub(crate) held_pauses: bool,
    /// The PUBLISH whose receivers are searched for.
    pub(crate) searched_publish: Option<u64>,
}

impl Connection {
    /// The properties that the encoding of a message for this connection depends on.
    #[inline]
    pub(crate) fn receiver(&mut self) -> Receiver<'_> {
        Receiver {
            version: self.version,
            maximum_packet_size: self.maximum_packet_size as usize,
            aliases: self.cold.as_mut().and_then(|cold| cold.outgoing_aliases.as_deref_mut()),
            out: &mut self.outlet.out,
        }
    }

    /// The bytes that it takes at the beginning, beside its out buffer.
    pub(crate) fn bytes(&self) -> usize {
        let name = self.principal.username.as_ref().map_or(0, |name| name.len());
        size_of::<Self>() + size_of::<Principal>() + name + CONNECTION_BYTES
    }

    pub(crate) fn cold_mut(&mut self) -> &mut ConnectionCold {
        self.cold.get_or_insert_default()
    }

    pub(crate) fn is_v5(&self) -> bool {
        self.version == ProtocolVersion::V5
    }
}
