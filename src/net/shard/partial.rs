//! Incomplete packets of admitted connections: their buffers grow with the received bytes, not with the declared length,
//! and those of all connections of a shard are bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Shard;
use super::table::{Connection, ConnectionKey, ConnectionState};
use crate::log_value::log_value;
use crate::net::stats::CloseReason;
use weir_broker::{ConnId, MemoryAccount, MemoryKind, Millis};
use weir_mqtt::ReasonCode;

/// Least size of a buffer, and the size from which on it counts, bytes.
const COUNTED_FROM_BYTES: usize = 4096;

/// The bytes of the counted incomplete packets of a shard, which are in the node's account, too.
#[derive(Clone, Default)]
pub(super) struct PartialBytes {
    shard: Arc<AtomicUsize>,
    node: MemoryAccount,
}

/// The beginning of an incomplete packet.
pub(super) struct Partial {
    /// The received bytes, followed by zeros to read into.
    pub(super) bytes: Vec<u8>,
    pub(super) filled: usize,
    /// The length of the whole packet, if its header is complete; otherwise 0.
    pub(super) needs: usize,
    /// When its first bytes were received.
    pub(super) begun: Millis,
    counted: Counted,
}

/// The counts of an incomplete packet.
struct Counted {
    total: PartialBytes,
    bytes: usize,
}

impl Counted {
    fn set(&mut self, bytes: usize) {
        let bytes = if bytes > COUNTED_FROM_BYTES { bytes } else { 0 };
        if bytes != self.bytes {
            self.total.shard.fetch_add(bytes.wrapping_sub(self.bytes), Ordering::Relaxed);
            self.total.node.add(MemoryKind::Handshakes, bytes);
            self.total.node.subtract(MemoryKind::Handshakes, self.bytes);
            self.bytes = bytes;
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl PartialBytes {
    pub(super) fn new(node: MemoryAccount) -> Self {
        Self { shard: Arc::default(), node }
    }

    /// Stores the beginning of a packet with its connection.
    pub(super) fn keep(&self, connection: &mut Connection, bytes: &[u8], needs: usize, begun: Millis) {
        connection.partial = (!bytes.is_empty()).then(|| Box::new(self.partial(bytes.to_vec(), needs, begun)));
    }

    fn partial(&self, bytes: Vec<u8>, needs: usize, begun: Millis) -> Partial {
        let mut counted = Counted { total: self.clone(), bytes: 0 };
        counted.set(bytes.capacity());
        Partial { filled: bytes.len(), bytes, needs, begun, counted }
    }

    fn get(&self) -> usize {
        self.shard.load(Ordering::Relaxed)
    }
}

impl Partial {
    /// Grows the buffer for the rest of the packet, but to no more than double the received bytes.
    pub(super) fn make_room(&mut self) {
        if self.filled == self.bytes.len() {
            let room = self.needs.min((self.filled * 2).max(COUNTED_FROM_BYTES));
            self.bytes.reserve_exact(room - self.filled);
            self.bytes.resize(room, 0);
            self.count();
        }
    }

    /// Call when the buffer has grown.
    pub(super) fn count(&mut self) {
        self.counted.set(self.bytes.capacity());
    }

    /// Whether it counts as a large one.
    fn is_counted(&self) -> bool {
        self.counted.bytes > 0
    }
}

impl Shard {
    /// Closes connections with large incomplete packets, those that began first, when all of them together hold too
    /// much. The one that began last may go on: one packet of the size that its endpoint allows must be possible.
    pub(super) fn bound_partials(&mut self, key: ConnectionKey) {
        let grown = self.table.get(key).and_then(|connection| connection.partial.as_deref());
        if self.partial_bytes.get() <= self.partial_max_bytes || !grown.is_some_and(Partial::is_counted) {
            return;
        }
        let counted = self.table.iter().filter_map(|(key, connection)| {
            let ConnectionState::Open(id) = connection.state else { return None };
            let partial = connection.partial.as_deref().filter(|partial| partial.is_counted())?;
            Some((partial.begun, connection.sequence, key, id))
        });
        let mut counted: Vec<(Millis, u64, ConnectionKey, ConnId)> = counted.collect();
        counted.sort_unstable_by_key(|&(begun, sequence, ..)| (begun, sequence));
        counted.pop();
        // Some room at once, so that not every read has to look for connections.
        let wanted = self.partial_max_bytes - self.partial_max_bytes / 8;
        for (_, _, key, id) in counted {
            if self.partial_bytes.get() <= wanted {
                break;
            }
            self.close_for_partial(key, id);
        }
    }

    fn close_for_partial(&mut self, key: ConnectionKey, id: ConnId) {
        let Some(connection) = self.table.get_mut(key) else { return };
        connection.partial = None;
        self.partial_bytes.node.count_refusal(MemoryKind::Handshakes);
        connection.guard.metrics().count_refused(CloseReason::PartialPackets);
        if let Some(client) = self.core.client(id) {
            let (endpoint, client_id) = (client.endpoint, log_value(client.client_id));
            tracing::warn!(
                endpoint,
                client_id = &*client_id,
                shard = self.id.0,
                "connection closed: no room for incomplete packets"
            );
        }
        self.core.disconnect(id, ReasonCode::QuotaExceeded.as_u8(), None, self.now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_buffer_grows_with_received_bytes_not_with_the_declared_length() {
        let total = PartialBytes::default();
        let mut partial = total.partial(vec![0; 10], 256 << 20, 0);
        assert_eq!(total.get(), 0, "too small to count");
        partial.make_room();
        assert_eq!(partial.bytes.len(), COUNTED_FROM_BYTES);
        partial.filled = COUNTED_FROM_BYTES - 1;
        partial.make_room();
        assert_eq!(partial.bytes.len(), COUNTED_FROM_BYTES, "there is still room");
        partial.filled = COUNTED_FROM_BYTES;
        partial.make_room();
        assert_eq!((partial.bytes.len(), total.get()), (2 * COUNTED_FROM_BYTES, 2 * COUNTED_FROM_BYTES));
        partial.needs = 2 * COUNTED_FROM_BYTES + 5;
        partial.filled = 2 * COUNTED_FROM_BYTES;
        partial.make_room();
        assert_eq!(partial.bytes.len(), 2 * COUNTED_FROM_BYTES + 5, "never past the packet's end");
        drop(partial);
        assert_eq!(total.get(), 0);
    }
}
