//! Decides the order in which connections are written, and bounds their buffered output: an answer does not wait behind a
//! large fan-out, and the memory for clients that never read is bounded for all of them together.

use std::collections::VecDeque;

use crate::EndpointLimits;
use crate::delivery::buffer_pool::Pool;
use crate::delivery::inflight::Inflight;
use crate::delivery::out_buffer::OutBuf;
use crate::delivery::queue::Queue;
use crate::ids::ConnId;
use crate::limits::{
    CONGESTED_QUEUED_BYTES, CONGESTED_QUEUED_MESSAGES, CONGESTED_WRITE_HIGH_BYTES, CONGESTED_WRITE_MAX_BYTES,
    PENDING_WRITE_HIGH_BYTES, PENDING_WRITE_MAX_BYTES, PRIORITY_DELIVERIES,
};
use crate::values::memory::ByteCount;

/// How much may wait for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WriteBounds {
    /// From here on it is behind.
    pub(crate) high_bytes: usize,
    /// From here on it gets no more, or is closed.
    pub(crate) max_bytes: usize,
}

/// How much may wait in a session's queue.
pub(crate) struct QueueBounds {
    pub(crate) messages: u32,
    pub(crate) bytes: u64,
}

/// The output of a connection and its scheduling.
#[derive(Debug, Default)]
pub(crate) struct ConnectionOutput {
    pub(crate) out: OutBuf,
    /// In the list of connections to flush; and in the bulk queue.
    scheduled: bool,
    in_bulk: bool,
    /// This connection's share of the core's buffered bytes.
    memory_bytes: usize,
}

impl ConnectionOutput {
    /// Called when its flush begins.
    pub(crate) fn begin_flush(&mut self) {
        self.scheduled = false;
    }

    /// Its turn in the bulk queue has come.
    pub(crate) fn begin_bulk_flush(&mut self) {
        self.in_bulk = false;
    }
}

/// The connections to write to, in order, and the accounts of what waits.
#[derive(Debug)]
pub(crate) struct FanoutScheduler {
    pool: Pool,
    flush: VecDeque<ConnId>,
    bulk: VecDeque<ConnId>,
    /// Deliveries whose receivers are still written to ahead of the bulk queue.
    priority_budget: usize,
    /// Bytes of all out buffers, and the threshold above which each may hold less.
    buffered_bytes: usize,
    buffered_max_bytes: usize,
    /// Bytes of all queues and windows, and the limit above which they do not grow.
    queued_bytes: ByteCount,
    queued_max_bytes: usize,
}

impl FanoutScheduler {
    pub(crate) fn new() -> Self {
        Self {
            pool: Pool::default(),
            flush: VecDeque::new(),
            bulk: VecDeque::new(),
            priority_budget: PRIORITY_DELIVERIES,
            buffered_bytes: 0,
            buffered_max_bytes: usize::MAX,
            queued_bytes: ByteCount::default(),
            queued_max_bytes: usize::MAX,
        }
    }

    /// From how many bytes on the queues grow no more.
    pub(crate) fn bound_queues(&mut self, max_bytes: usize) {
        self.queued_max_bytes = max_bytes;
    }

    /// An empty queue of a session.
    pub(crate) fn new_queue(&self) -> Queue {
        Queue::new(self.queued_bytes.clone())
    }

    /// An empty window of a session.
    pub(crate) fn new_inflight(&self) -> Inflight {
        Inflight::new(self.queued_bytes.clone())
    }

    /// Above how many bytes of all out buffers each may hold less.
    pub(crate) fn bound_buffers(&mut self, max_bytes: usize) {
        self.buffered_max_bytes = max_bytes;
    }

    /// Bytes of all queues and windows.
    pub(crate) fn queued_bytes(&self) -> usize {
        self.queued_bytes.get()
    }

    /// Bytes of all out buffers.
    pub(crate) fn buffered_bytes(&self) -> usize {
        self.buffered_bytes
    }

    /// Whether all queues together hold too much.
    #[inline]
    pub(crate) fn queues_are_full(&self) -> bool {
        self.queued_bytes.get() > self.queued_max_bytes
    }

    /// Whether all out buffers together hold too much.
    pub(crate) fn buffers_are_full(&self) -> bool {
        self.buffered_bytes > self.buffered_max_bytes
    }

    /// How much may wait in a session's queue with a message of `size` bytes: what the endpoint declares; or, where all
    /// queues together hold too much, no more than waits already.
    pub(crate) fn queue_bounds(&self, limits: &EndpointLimits, queue: &Queue, size: u64) -> QueueBounds {
        let (messages, bytes) = (limits.max_queued_messages, limits.max_queued_bytes);
        if !self.queues_are_full() {
            return QueueBounds { messages, bytes };
        }
        QueueBounds {
            messages: messages.min(queue.counted().max(CONGESTED_QUEUED_MESSAGES)),
            bytes: bytes.min(queue.bytes().max(CONGESTED_QUEUED_BYTES).max(size)),
        }
    }

    /// How much may wait for a connection, as things are.
    #[inline]
    pub(crate) fn write_bounds(&self) -> WriteBounds {
        if self.buffers_are_full() {
            WriteBounds { high_bytes: CONGESTED_WRITE_HIGH_BYTES, max_bytes: CONGESTED_WRITE_MAX_BYTES }
        } else {
            WriteBounds { high_bytes: PENDING_WRITE_HIGH_BYTES, max_bytes: PENDING_WRITE_MAX_BYTES }
        }
    }

    /// Gives an out buffer something to write into.
    #[inline]
    pub(crate) fn prepare(&mut self, outlet: &mut ConnectionOutput) {
        if outlet.out.has_no_buffer() {
            outlet.out.set_buffer(self.pool.acquire());
        }
    }

    /// Something was appended: accounts for it, and schedules the connection.
    #[inline]
    pub(crate) fn appended(&mut self, id: ConnId, outlet: &mut ConnectionOutput) {
        self.account(outlet);
        self.schedule(id, outlet);
    }

    /// Something was written to the socket: what the buffer does not need goes back to the pool.
    pub(crate) fn written(&mut self, outlet: &mut ConnectionOutput) {
        if let Some(buffer) = outlet.out.reclaim() {
            self.pool.release(buffer);
        } else {
            outlet.out.compact();
        }
        self.account(outlet);
    }

    fn account(&mut self, outlet: &mut ConnectionOutput) {
        let memory_bytes = outlet.out.memory_bytes();
        self.buffered_bytes = self.buffered_bytes + memory_bytes - outlet.memory_bytes;
        outlet.memory_bytes = memory_bytes;
    }

    /// The connection has ended.
    pub(crate) fn release(&mut self, outlet: &ConnectionOutput) {
        self.buffered_bytes -= outlet.memory_bytes;
    }

    /// Further output has priority, while it goes to few connections.
    #[inline]
    pub(crate) fn refill_priority_budget(&mut self) {
        self.priority_budget = PRIORITY_DELIVERIES;
    }

    /// Counts a message's receivers against the priority budget.
    #[inline]
    pub(crate) fn spend_priority(&mut self, receivers: usize) {
        self.priority_budget = self.priority_budget.saturating_sub(receivers);
    }

    /// Further output can wait for other connections.
    pub(crate) fn end_priority(&mut self) {
        self.priority_budget = 0;
    }

    /// A connection has something to write: now, or in its turn of the bulk queue.
    #[inline]
    pub(crate) fn schedule(&mut self, id: ConnId, outlet: &mut ConnectionOutput) {
        if outlet.scheduled {
            return;
        }
        if self.priority_budget > 0 {
            outlet.scheduled = true;
            self.flush.push_back(id);
        } else if !outlet.in_bulk {
            outlet.in_bulk = true;
            self.bulk.push_back(id);
        }
    }

    /// The next connection to flush ahead of the bulk queue.
    pub(crate) fn next_flush(&mut self) -> Option<ConnId> {
        self.flush.pop_front()
    }

    /// The next connection of the bulk queue.
    pub(crate) fn next_bulk_flush(&mut self) -> Option<ConnId> {
        self.bulk.pop_front()
    }

    pub(crate) fn bulk_len(&self) -> usize {
        self.bulk.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.flush.is_empty() && self.bulk.is_empty()
    }
}
