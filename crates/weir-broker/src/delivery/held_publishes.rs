//! Connections whose publishes wait for room on the disk.

use std::collections::VecDeque;

use crate::ids::ConnId;
use crate::limits::HELD_PUBLISHES_BYTES;

/// The connections that have some, in the order in which they came, and the bytes of all.
#[derive(Debug, Default)]
pub(crate) struct HeldPublishes {
    connections: VecDeque<ConnId>,
    bytes: usize,
}

impl HeldPublishes {
    /// A connection has its first.
    pub(crate) fn add_connection(&mut self, id: ConnId) {
        self.connections.push_back(id);
    }

    pub(crate) fn next_connection(&mut self) -> Option<ConnId> {
        self.connections.pop_front()
    }

    pub(crate) fn remove_connection(&mut self, id: ConnId) {
        self.connections.retain(|other| *other != id);
    }

    /// Counts bytes that are held. Returns whether all connections together hold too much.
    pub(crate) fn add_bytes(&mut self, bytes: usize) -> bool {
        self.bytes += bytes;
        self.bytes > HELD_PUBLISHES_BYTES
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn subtract_bytes(&mut self, bytes: usize) {
        self.bytes -= bytes;
    }
}
