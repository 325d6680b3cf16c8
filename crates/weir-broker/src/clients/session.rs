//! A session: what the broker keeps for a client, connected or offline.

use crate::values::will::PendingWill;
use std::collections::VecDeque;
use std::sync::Arc;

use crate::EndpointPolicy;
use crate::clients::pending_subscribe::PendingSubscribe;
use crate::delivery::inflight::Inflight;
use crate::delivery::queue::Queue;
use crate::durability::journal::DurableSession;
use crate::hash::IdSet;
use crate::ids::{ConnectionSlot, Millis, NamespaceId, NodeId};
use crate::routing::shared_groups::SharedSubscription;
use weir_mqtt::{PacketId, QoS};

/// A session that never ends by itself.
pub(crate) const NEVER_EXPIRES: u32 = u32::MAX;

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client_id: Box<str>,
    pub(crate) namespace: NamespaceId,
    /// Slot of its connection, while it has one.
    pub(crate) connection: Option<ConnectionSlot>,
    pub(crate) expiry_s: u32,
    /// When it ends, while offline.
    pub(crate) ends_at: Millis,
    /// Messages it did not get, since it began.
    pub(crate) dropped: u32,
    /// Counted among its endpoint's sessions of offline clients.
    pub(crate) counted_offline: bool,
    /// Of the endpoint it was last connected to; also in force while offline.
    pub(crate) policy: Arc<EndpointPolicy>,
    /// The nodes of its filters.
    pub(crate) subscriptions: Vec<NodeId>,
    pub(crate) inflight: Inflight,
    pub(crate) queue: Queue,
    /// Packet identifiers of QoS 2 publishes between PUBLISH and PUBREL.
    pub(crate) incoming: Option<Box<IdSet<PacketId>>>,
    pub(crate) will: Option<Box<PendingWill>>,
    pub(crate) cold: Option<Box<SessionCold>>,
    /// `Some` if the session is durable.
    pub(crate) durable: Option<Box<DurableSession>>,
}

/// Fields that few sessions use.
#[derive(Debug, Default)]
pub(crate) struct SessionCold {
    pub(crate) shared: Vec<SharedSubscription>,
    /// SUBSCRIBEs that wait for other shards, oldest first.
    pub(crate) pending: VecDeque<PendingSubscribe>,
}

impl Session {
    /// Whether what is sent to the client must be kept for its next connection.
    pub(crate) fn outlives_connection(&self) -> bool {
        self.expiry_s > 0 || self.durable.is_some()
    }

    /// Its subscriptions, shared ones included.
    pub(crate) fn filters(&self) -> usize {
        self.subscriptions.len() + self.cold.as_ref().map_or(0, |cold| cold.shared.len())
    }

    pub(crate) fn has_pending_subscribe(&self) -> bool {
        self.cold.as_ref().is_some_and(|cold| !cold.pending.is_empty())
    }

    /// Whether a message of `qos` has to queue behind others.
    pub(crate) fn must_queue(&self, qos: QoS) -> bool {
        self.has_pending_subscribe()
            || if qos == QoS::AtMostOnce { self.queue.has_ordered() } else { !self.queue.is_empty() }
    }
}
