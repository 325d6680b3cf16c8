//! What all connections' out buffers hold together. Past a bound, who is behind gets less room: ten thousand clients that
//! never read must not cost ten thousand times what one may.

use super::Core;
use super::limits::{
    BUFFERED_MAX_BYTES, CROWDED_WRITE_HIGH_BYTES, CROWDED_WRITE_MAX_BYTES, PENDING_WRITE_HIGH_BYTES,
    PENDING_WRITE_MAX_BYTES,
};

/// How much may wait for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct WriteBounds {
    /// From here on it is behind.
    pub(super) high_bytes: usize,
    /// From here on it gets no more, or is closed.
    pub(super) max_bytes: usize,
}

impl Core {
    /// Counts what a connection's buffer holds now.
    pub(super) fn count_buffer(&mut self, slot: u32) {
        if let Some(connection) = self.connections.get_mut(slot) {
            let held_bytes = connection.out.held_bytes();
            self.buffered_bytes = self.buffered_bytes + held_bytes - connection.held_bytes;
            connection.held_bytes = held_bytes;
        }
    }

    /// How much may wait for a connection, as things are.
    pub(super) fn write_bounds(&self) -> WriteBounds {
        if self.buffered_bytes > BUFFERED_MAX_BYTES / usize::from(self.config.shards.max(1)) {
            WriteBounds { high_bytes: CROWDED_WRITE_HIGH_BYTES, max_bytes: CROWDED_WRITE_MAX_BYTES }
        } else {
            WriteBounds { high_bytes: PENDING_WRITE_HIGH_BYTES, max_bytes: PENDING_WRITE_MAX_BYTES }
        }
    }
}
