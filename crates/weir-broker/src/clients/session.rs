//! A session: what the broker keeps for a client, connected or offline.

use crate::values::will::PendingWill;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use crate::clients::pending_subscribe::PendingSubscribe;
use crate::clients::retained_reads::RetainedReads;
use crate::delivery::inflight::Inflight;
use crate::delivery::queue::Queue;
use crate::durability::journal::DurableSession;
use crate::hash::IdSet;
use crate::ids::{ConnectionSlot, EndpointId, Millis, NamespaceId, NodeId, ShardId};
use crate::routing::shared_groups::SharedSubscription;
use crate::values::group::{GroupKey, Readiness};
use crate::{Durability, EndpointPolicy};
use weir_mqtt::{PacketId, QoS};

/// A session that never expires.
pub(crate) const NEVER_EXPIRES: u32 = u32::MAX;

/// Bytes of a session, and of its entries in other tables: by client identifier, its timers.
pub(crate) const SESSION_BYTES: usize = size_of::<Session>() + 96;
/// Bytes of the packet identifier of a QoS 2 publish that is not released.
pub(crate) const INCOMING_ID_BYTES: usize = 8;

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
    /// Of the endpoint it was last connected to; also applies while the client is offline.
    pub(crate) policy: Arc<EndpointPolicy>,
    /// The nodes of its filters.
    pub(crate) subscriptions: Vec<NodeId>,
    pub(crate) inflight: Inflight,
    pub(crate) queue: Queue,
    /// Packet identifiers of QoS 2 publishes between PUBLISH and PUBREL.
    pub(crate) incoming: Option<Box<IdSet<PacketId>>>,
    pub(crate) will: Option<Box<PendingWill>>,
    pub(crate) cold: Option<Box<SessionCold>>,
    /// It has ended, and its subscriptions are being removed: it gets nothing more.
    pub(crate) ending: bool,
    /// The class of its slot in a cluster; `None`: it lives where its connection is, and ends with it.
    pub(crate) slot_class: Option<Durability>,
    /// The stamp of its last connection. Of a session of another process or node: the newest that was known here.
    pub(crate) stamp: u64,
    /// `Some` if the session is durable.
    pub(crate) durable: Option<Box<DurableSession>>,
}

/// Fields that few sessions use.
#[derive(Debug, Default)]
pub(crate) struct SessionCold {
    pub(crate) shared: BTreeMap<Arc<GroupKey>, SharedSubscription>,
    /// Other shards that own some of its groups, with their number; and the readiness that was reported to them.
    pub(crate) remote_groups: BTreeMap<ShardId, u32>,
    pub(crate) reported: Option<Readiness>,
    /// SUBSCRIBEs that wait for other shards, oldest first.
    pub(crate) pending: VecDeque<PendingSubscribe>,
    pub(crate) reads: RetainedReads,
    /// Its queue is to be drained further: see [`crate::core::deferred::Deferred`].
    pub(crate) drain_deferred: bool,
}

impl SessionCold {
    /// The session has left a group of another shard.
    pub(crate) fn forget_owner(&mut self, owner: ShardId) {
        if let Some(groups) = self.remote_groups.get_mut(&owner) {
            *groups -= 1;
            if *groups == 0 {
                self.remote_groups.remove(&owner);
            }
        }
    }
}

impl Session {
    /// Whether what is sent to the client must be kept for its next connection.
    pub(crate) fn outlives_connection(&self) -> bool {
        self.expiry_s > 0 || self.durable.is_some()
    }

    /// The bytes that it takes, beside its subscriptions, its will, its queue and its window.
    pub(crate) fn bytes(&self) -> usize {
        let incoming = self.incoming.as_ref().map_or(0, |incoming| incoming.len() * INCOMING_ID_BYTES);
        let durable = if self.durable.is_some() { size_of::<DurableSession>() } else { 0 };
        SESSION_BYTES + self.client_id.len() + incoming + durable
    }

    /// Its subscriptions, shared ones included.
    pub(crate) fn filters(&self) -> usize {
        self.subscriptions.len() + self.cold.as_ref().map_or(0, |cold| cold.shared.len())
    }

    /// It becomes a member of a group. `here`: its shard.
    pub(crate) fn add_group(&mut self, key: &Arc<GroupKey>, shared: SharedSubscription, here: ShardId) {
        let (cold, owner) = (self.cold.get_or_insert_default(), shared.owner);
        if cold.shared.insert(Arc::clone(key), shared).is_none() && owner != here {
            *cold.remote_groups.entry(owner).or_default() += 1;
        }
    }

    /// It is no longer a member of a group; returns its side of it.
    pub(crate) fn remove_group(&mut self, key: &GroupKey) -> Option<(Arc<GroupKey>, SharedSubscription)> {
        let cold = self.cold.as_mut()?;
        let (key, shared) = cold.shared.remove_entry(key)?;
        cold.forget_owner(shared.owner);
        Some((key, shared))
    }

    /// Whether a timer at `at` concerns it, while it is offline.
    pub(crate) fn is_due_at(&self, at: Millis) -> bool {
        let will = self.will.as_ref();
        self.ends_at == at || will.is_some_and(|will| will.due_at == Some(at) || self.policy.id == EndpointId::RESTORED)
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
