//! One receiver's delivery of a message.

use std::sync::Arc;

use crate::ids::RecordId;
use crate::values::group::GroupKey;
use crate::values::message::Message;
use weir_mqtt::{PacketId, QoS};

/// The next packet that is expected for a sent message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::enum_variant_names, reason = "names of packets")]
pub(crate) enum Awaits {
    PubAck,
    PubRec,
    PubComp,
}

/// How one delivery differs from its message.
#[derive(Debug, Clone, Default)]
pub(crate) struct Delivery {
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    /// Subscription identifiers.
    pub(crate) identifiers: Option<Box<[u32]>>,
    /// The shared subscription it came by: it goes back there when this session ends.
    pub(crate) group: Option<Arc<GroupKey>>,
    /// Its record, where the session is durable.
    pub(crate) record: RecordId,
    /// An earlier process may have sent it already.
    pub(crate) may_be_duplicate: bool,
    /// It was there when its session was copied to, or from, another node: that copy has it, too.
    pub(crate) is_copied: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) packet_id: PacketId,
    pub(crate) awaits: Awaits,
    /// `None` where the session ends with its connection (it is never sent again), and after PUBREC.
    pub(crate) message: Option<Message>,
    pub(crate) delivery: Delivery,
    /// After a reconnect: not sent again yet, for want of room in the client's new Receive Maximum.
    pub(crate) unsent: bool,
    /// Memory of what is kept of it; 0 where nothing is.
    pub(crate) memory_bytes: u32,
}

impl Sent {
    /// One that is sent now. `sharers`: estimated number of sessions that share the bytes of the message.
    pub(crate) fn new(
        packet_id: PacketId,
        awaits: Awaits,
        message: Option<Message>,
        delivery: Delivery,
        sharers: usize,
    ) -> Self {
        let bytes = message.as_ref().map_or(0, |message| size_of::<Self>() + message.size() / sharers.max(1));
        let memory_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        Self { packet_id, awaits, message, delivery, unsent: false, memory_bytes }
    }
}
