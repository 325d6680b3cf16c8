//! The core's part in the node's account of memory, and what is refused where a share is used up.

use crate::clients::connection::Connection;
use crate::clients::session::SESSION_BYTES;
use crate::ids::NamespaceId;
use crate::routing::retained::{memory_bytes, memory_bytes_of};
use crate::routing::retained_totals;
use crate::values::memory::MemoryPart;
use crate::{Admission, Core, MemoryAccount, MemoryKind};

impl Core {
    /// Counts what it holds in the node's account, which all its cores share, and keeps to its limits. Never called, there
    /// are none.
    pub fn share_memory(&mut self, account: MemoryAccount) {
        let shards = usize::from(self.config.shards.max(1));
        let part = |kind: MemoryKind| account.limit(kind) / shards;
        self.scheduler.bound_queues(part(MemoryKind::Queues));
        self.scheduler.bound_buffers(part(MemoryKind::OutBuffers));
        self.routing.bound_cache(part(MemoryKind::Tables) / 4);
        self.clients.table_bytes().bound(part(MemoryKind::Tables) / 4 * 3);
        self.memory = MemoryPart::of(account);
    }

    /// Publishes what it holds; once a turn.
    pub(crate) fn publish_memory(&mut self) {
        for kind in MemoryKind::ALL {
            let bytes = self.memory_bytes(kind);
            self.memory.publish(kind, bytes);
        }
    }

    /// Bytes that it holds of a kind.
    pub(crate) fn memory_bytes(&self, kind: MemoryKind) -> usize {
        match kind {
            MemoryKind::Queues => self.scheduler.queued_bytes(),
            MemoryKind::OutBuffers => self.scheduler.buffered_bytes(),
            MemoryKind::Retained => self.routing.retained_bytes(),
            MemoryKind::Subscriptions => self.routing.subscription_bytes() + self.clients.shared_bytes(),
            MemoryKind::Sessions => self.clients.session_bytes().get(),
            MemoryKind::Tables => {
                self.routing.cache_bytes() + self.clients.table_bytes().get() + self.clients.timer_bytes()
            }
            MemoryKind::Held => self.deferred.searches.bytes() + self.held_publishes.bytes(),
            // The driver's.
            MemoryKind::Handshakes => 0,
        }
    }

    /// Whether there is room for `more` bytes of a kind.
    pub(crate) fn has_memory(&self, kind: MemoryKind, more: usize) -> bool {
        self.memory.has_room(kind, self.memory_bytes(kind), more)
    }

    /// Whether there is room for another client's session.
    pub(crate) fn has_room_for_session(&self, admission: &Admission<'_>) -> bool {
        let will = admission.connect.will.as_ref().map_or(0, |will| will.topic.len() + will.payload.len());
        let bytes = SESSION_BYTES + size_of::<Connection>() + admission.client_id.len() + will;
        self.has_memory(MemoryKind::Sessions, bytes)
    }

    /// Whether a message that came in by an endpoint, and whose topic, properties and payload have `size` bytes, may be
    /// retained: within the endpoint's limits, and within the node's memory.
    pub(crate) fn may_retain(&self, id: NamespaceId, endpoint: &str, topic: &str, size: usize) -> bool {
        let limit = self.memory.limit(MemoryKind::Retained) as u64;
        let old = self.routing.retained(id).get(topic).map(memory_bytes);
        let others = self.memory.others(MemoryKind::Retained);
        let taken = (others + self.routing.retained_bytes()) as u64;
        if !retained_totals::has_room((0, taken), (1, limit), memory_bytes_of(size), old) {
            self.memory.count_refusal(MemoryKind::Retained);
            return false;
        }
        self.routing.may_retain(id, endpoint, topic, size)
    }
}
