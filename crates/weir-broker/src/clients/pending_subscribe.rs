//! SUBSCRIBEs that wait for other shards.

use weir_mqtt::PacketId;

use crate::ids::NodeId;

/// A SUBSCRIBE whose SUBACK waits until every shard knows of it.
#[derive(Debug)]
pub(crate) struct PendingSubscribe {
    pub(crate) serial: u32,
    pub(crate) packet_id: PacketId,
    pub(crate) codes: Vec<u8>,
    /// Shards that have not answered.
    pub(crate) awaits: u16,
    /// The subscriptions whose retained messages the other shards were asked for, in that order.
    pub(crate) reads: Vec<NodeId>,
}
