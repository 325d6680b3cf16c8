//! SUBSCRIBEs that wait for other shards.

use crate::delivery::queue::Queued;
use crate::ids::RecordId;
use crate::values::delivery::Delivery;
use crate::values::message::Message;
use weir_mqtt::{PacketId, QoS};

/// A SUBSCRIBE whose SUBACK waits until every shard knows of it.
#[derive(Debug)]
pub(crate) struct PendingSubscribe {
    pub(crate) serial: u32,
    pub(crate) packet_id: PacketId,
    pub(crate) codes: Vec<u8>,
    /// Shards that have not answered.
    pub(crate) awaits: u16,
    pub(crate) reads: Vec<RetainedRead>,
}

/// Retained messages asked for: the filter, and how what it finds is delivered.
#[derive(Debug, Clone)]
pub(crate) struct RetainedRead {
    pub(crate) filter: Box<str>,
    pub(crate) qos: QoS,
    /// Subscription identifier; 0: none.
    pub(crate) identifier: u32,
    /// With No Local, whose messages are not wanted [MQTT-3.8.3-3].
    pub(crate) exclude_publisher: Option<Box<str>>,
}

impl RetainedRead {
    pub(crate) fn wants(&self, message: &Message) -> bool {
        let Some(exclude_publisher) = &self.exclude_publisher else { return true };
        message.publisher.as_ref().is_none_or(|publisher| publisher.client_id != *exclude_publisher)
    }

    pub(crate) fn queued(&self, message: &Message) -> Queued {
        let delivery = Delivery {
            qos: self.qos.min(message.qos),
            retain: true,
            identifiers: (self.identifier != 0).then(|| Box::from([self.identifier])),
            group: None,
            record: RecordId::NONE,
            may_be_duplicate: false,
        };
        // The store of retained messages has its bytes.
        Queued { message: message.clone(), delivery, retained: true, sharers: usize::MAX }
    }
}
