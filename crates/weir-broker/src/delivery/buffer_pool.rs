//! Output buffers for reuse: what a burst grew is used again, up to a bound.

use crate::limits::POOLED_BYTES_MAX;

#[derive(Debug, Default)]
pub(crate) struct Pool {
    buffers: Vec<Vec<u8>>,
    /// Their capacities together.
    bytes: usize,
}

impl Pool {
    /// A buffer without content; the one given back last, whose memory is the warmest.
    pub(crate) fn acquire(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        buffer
    }

    /// Keeps a buffer if there is room for it.
    pub(crate) fn release(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= POOLED_BYTES_MAX {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}
