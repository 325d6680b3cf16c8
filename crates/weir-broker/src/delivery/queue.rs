//! Messages that wait for a session: for its window, its socket or its client.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::values::delivery::Delivery;
use crate::values::message::Message;
use weir_mqtt::QoS;

/// Bytes that all queues of a core hold.
#[derive(Debug, Clone, Default)]
pub(crate) struct QueuedBytes(Arc<AtomicUsize>);

impl QueuedBytes {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Messages that wait for the window, the socket or the client.
#[derive(Debug)]
pub(crate) struct Queue {
    waiting: VecDeque<Queued>,
    /// Memory that it takes, entries included; and that of all.
    memory_bytes: usize,
    total: QueuedBytes,
    /// Bytes and number of those that count against the bounds.
    bytes: u64,
    counted: u32,
    /// How many a QoS 0 message must not overtake: those from a subscribe's retained messages (they are bounded by what is
    /// retained, and not counted), and other QoS 0 messages that had to queue behind them.
    ordered: u32,
}

#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) message: Message,
    pub(crate) delivery: Delivery,
    /// Sent in answer to a SUBSCRIBE.
    pub(crate) retained: bool,
    /// Estimated number of sessions that share the bytes: each counts its part of the memory.
    pub(crate) sharers: usize,
}

impl Queued {
    fn memory_bytes(&self) -> usize {
        size_of::<Self>() + self.message.size() / self.sharers.max(1)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.uncount_memory();
    }
}

impl Queue {
    /// An empty one, counted in `total`.
    pub(crate) fn new(total: QueuedBytes) -> Self {
        Self { waiting: VecDeque::new(), memory_bytes: 0, total, bytes: 0, counted: 0, ordered: 0 }
    }

    fn uncount_memory(&mut self) {
        self.total.0.fetch_sub(std::mem::take(&mut self.memory_bytes), Ordering::Relaxed);
    }

    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether messages wait that a QoS 0 message must not overtake.
    pub(crate) fn has_ordered(&self) -> bool {
        self.ordered > 0
    }

    /// Messages that count against the bounds.
    pub(crate) fn counted(&self) -> u32 {
        self.counted
    }

    /// Bytes that count against the bounds.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.iter()
    }

    pub(crate) fn front(&self) -> Option<&Queued> {
        self.waiting.front()
    }

    pub(crate) fn push(&mut self, queued: Queued) {
        self.count(&queued, true);
        self.waiting.push_back(queued);
    }

    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let queued = self.waiting.pop_front()?;
        self.count(&queued, false);
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
        Some(queued)
    }

    /// Drops the oldest message that counts.
    pub(crate) fn drop_oldest(&mut self) -> Option<Queued> {
        let index = self.waiting.iter().position(|queued| !queued.retained)?;
        let queued = self.waiting.remove(index)?;
        self.count(&queued, false);
        Some(queued)
    }

    /// Keeps what `keep` says; returns what went.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Queued) -> bool) -> Vec<Queued> {
        let mut gone = Vec::new();
        self.uncount_memory();
        (self.bytes, self.counted, self.ordered) = (0, 0, 0);
        for queued in std::mem::take(&mut self.waiting) {
            if keep(&queued) { self.push(queued) } else { gone.push(queued) }
        }
        gone
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Queued> + use<> {
        self.uncount_memory();
        (self.bytes, self.counted, self.ordered) = (0, 0, 0);
        std::mem::take(&mut self.waiting).into_iter()
    }

    fn count(&mut self, queued: &Queued, comes: bool) {
        let size = queued.message.size() as u64;
        let memory_bytes = queued.memory_bytes();
        if comes {
            self.memory_bytes += memory_bytes;
            self.total.0.fetch_add(memory_bytes, Ordering::Relaxed);
        } else {
            self.memory_bytes -= memory_bytes;
            self.total.0.fetch_sub(memory_bytes, Ordering::Relaxed);
        }
        if queued.retained || queued.delivery.qos == QoS::AtMostOnce {
            self.ordered = if comes { self.ordered + 1 } else { self.ordered - 1 };
        }
        if !queued.retained {
            (self.counted, self.bytes) =
                if comes { (self.counted + 1, self.bytes + size) } else { (self.counted - 1, self.bytes - size) };
        }
    }
}
