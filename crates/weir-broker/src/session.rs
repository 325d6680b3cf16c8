//! A session: what the broker keeps for a client, connected or away.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashSet;

use super::inflight::{Delivery, Inflight};
use super::journal::Durable;
use super::message::Message;
use super::record::RecordId;
use super::shared::SharedSubscription;
use super::subscribe::PendingSubscribe;
use super::subscriptions::SessionId;
use super::tree::NodeId;
use super::{EndpointPolicy, Millis, Principal};
use weir_mqtt::{PacketId, QoS};

/// Index of a namespace in its core.
pub(super) type SpaceId = u32;

/// Names a session from another shard, or after a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SessionRef {
    pub(super) id: SessionId,
    pub(super) generation: u32,
}

/// A session that never ends by itself.
pub(super) const NEVER_EXPIRES: u32 = u32::MAX;

#[derive(Debug)]
pub(super) struct Session {
    pub(super) client_id: Box<str>,
    pub(super) space: SpaceId,
    /// Slot of its connection, while it has one.
    pub(super) connection: Option<u32>,
    pub(super) expiry_s: u32,
    /// When it ends, while away.
    pub(super) ends_at: Millis,
    /// Messages it did not get, since it began.
    pub(super) dropped: u32,
    /// Counted among its endpoint's sessions of clients that are away.
    pub(super) counted_away: bool,
    /// Of the endpoint it was last connected to; also in force while away.
    pub(super) policy: Arc<EndpointPolicy>,
    /// The nodes of its filters.
    pub(super) subscriptions: Vec<NodeId>,
    pub(super) inflight: Inflight,
    pub(super) queue: Queue,
    /// Packet identifiers of QoS 2 publishes between PUBLISH and PUBREL.
    pub(super) incoming: Option<Box<HashSet<PacketId>>>,
    pub(super) will: Option<Box<PendingWill>>,
    pub(super) rare: Option<Box<Rare>>,
    /// Where it outlives the process.
    pub(super) durable: Option<Box<Durable>>,
}

/// What few sessions have.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) shared: Vec<SharedSubscription>,
    /// SUBSCRIBEs that wait for other shards, oldest first.
    pub(super) pending: VecDeque<PendingSubscribe>,
}

/// A will that has not been sent.
#[derive(Debug)]
pub(super) struct PendingWill {
    /// What names it, where the session is durable.
    pub(super) record: RecordId,
    pub(super) message: Message,
    pub(super) delay_s: u32,
    /// When it is to be sent, once its connection has gone.
    pub(super) due_at: Option<Millis>,
    /// As whom it is published; judged when it is due.
    pub(super) principal: Principal,
}

impl Session {
    /// Whether what is sent to the client must be kept for its next connection.
    pub(super) fn outlives_connection(&self) -> bool {
        self.expiry_s > 0 || self.durable.is_some()
    }

    /// Its subscriptions, shared ones included.
    pub(super) fn filters(&self) -> usize {
        self.subscriptions.len() + self.rare.as_ref().map_or(0, |rare| rare.shared.len())
    }

    pub(super) fn has_pending_subscribe(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| !rare.pending.is_empty())
    }

    /// Whether a message of `qos` has to line up behind others.
    pub(super) fn must_queue(&self, qos: QoS) -> bool {
        self.has_pending_subscribe()
            || if qos == QoS::AtMostOnce { self.queue.lined_up > 0 } else { !self.queue.waiting.is_empty() }
    }
}

/// Bytes that all queues of a core hold.
#[derive(Debug, Clone, Default)]
pub(super) struct QueuedBytes(Arc<AtomicUsize>);

impl QueuedBytes {
    pub(super) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Messages that wait for the window, the socket or the client.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Queued>,
    /// Memory that it takes, entries included; and that of all.
    held_bytes: usize,
    total: QueuedBytes,
    /// Bytes and number of those that count against the bounds.
    bytes: u64,
    counted: u32,
    /// How many a QoS 0 message must not overtake: those from a subscribe's retained messages (they are bounded by what is
    /// retained, and not counted), and other QoS 0 messages that had to line up behind them.
    lined_up: u32,
}

#[derive(Debug)]
pub(super) struct Queued {
    pub(super) message: Message,
    pub(super) delivery: Delivery,
    /// Sent in answer to a SUBSCRIBE.
    pub(super) retained: bool,
    /// How many its bytes are shared by, as far as is known: each takes its part of the memory.
    pub(super) sharers: usize,
}

impl Queued {
    fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.message.size() / self.sharers.max(1)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.forget_held();
    }
}

impl Queue {
    /// An empty one, counted in `total`.
    pub(super) fn new(total: QueuedBytes) -> Self {
        Self { waiting: VecDeque::new(), held_bytes: 0, total, bytes: 0, counted: 0, lined_up: 0 }
    }

    fn forget_held(&mut self) {
        self.total.0.fetch_sub(std::mem::take(&mut self.held_bytes), Ordering::Relaxed);
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Messages that count against the bounds.
    pub(super) fn counted(&self) -> u32 {
        self.counted
    }

    /// Bytes that count against the bounds.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.iter()
    }

    pub(super) fn front(&self) -> Option<&Queued> {
        self.waiting.front()
    }

    pub(super) fn push(&mut self, queued: Queued) {
        self.count(&queued, true);
        self.waiting.push_back(queued);
    }

    pub(super) fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        self.count(&queued, false);
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(queued)
    }

    /// Drops the oldest message that counts.
    pub(super) fn drop_oldest(&mut self) -> Option<Queued> {
        let place = self.waiting.iter().position(|queued| !queued.retained)?;
        let queued = self.waiting.remove(place)?;
        self.count(&queued, false);
        Some(queued)
    }

    /// Keeps what `keep` says; answers with what went.
    pub(super) fn retain(&mut self, mut keep: impl FnMut(&Queued) -> bool) -> Vec<Queued> {
        let mut gone = Vec::new();
        self.forget_held();
        (self.bytes, self.counted, self.lined_up) = (0, 0, 0);
        for queued in std::mem::take(&mut self.waiting) {
            if keep(&queued) { self.push(queued) } else { gone.push(queued) }
        }
        gone
    }

    pub(super) fn drain(&mut self) -> impl Iterator<Item = Queued> + use<> {
        self.forget_held();
        (self.bytes, self.counted, self.lined_up) = (0, 0, 0);
        std::mem::take(&mut self.waiting).into_iter()
    }

    fn count(&mut self, queued: &Queued, comes: bool) {
        let size = queued.message.size() as u64;
        let held_bytes = queued.held_bytes();
        if comes {
            self.held_bytes += held_bytes;
            self.total.0.fetch_add(held_bytes, Ordering::Relaxed);
        } else {
            self.held_bytes -= held_bytes;
            self.total.0.fetch_sub(held_bytes, Ordering::Relaxed);
        }
        if queued.retained || queued.delivery.qos == QoS::AtMostOnce {
            self.lined_up = if comes { self.lined_up + 1 } else { self.lined_up - 1 };
        }
        if !queued.retained {
            (self.counted, self.bytes) =
                if comes { (self.counted + 1, self.bytes + size) } else { (self.counted - 1, self.bytes - size) };
        }
    }
}
