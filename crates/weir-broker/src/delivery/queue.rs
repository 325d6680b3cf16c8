//! Messages that wait for a session: for its window, its socket or its client.

use std::collections::VecDeque;

use crate::ids::{NodeId, ShardId};
use crate::values::delivery::Delivery;
use crate::values::memory::ByteCount;
use crate::values::message::Message;
use weir_mqtt::QoS;

/// Messages that wait for the window, the socket or the client; and reads of retained messages, each in the place of those that
/// it will find.
#[derive(Debug)]
pub(crate) struct Queue {
    /// The messages that the first read has found so far; they are sent first.
    page: Option<FoundPage>,
    waiting: VecDeque<Waiting>,
    /// Reads among those that wait.
    reads: u32,
    /// Memory that it takes, entries included; and that of all.
    memory_bytes: usize,
    total: ByteCount,
    /// Bytes and number of those that count against the bounds.
    bytes: u64,
    counted: u32,
    /// How many a QoS 0 message must not overtake: those from a subscribe's retained messages (they are bounded by what is
    /// retained, and not counted), and other QoS 0 messages that had to queue behind them.
    ordered: u32,
}

/// Boxed: most queues have none, and spend 8 bytes for it.
type FoundPage = Box<VecDeque<Queued>>;

#[derive(Debug)]
enum Waiting {
    Message(Queued),
    Read(ReadTicket),
}

/// A read of what one shard retains under a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ReadTicket {
    pub(crate) node: NodeId,
    pub(crate) shard: ShardId,
    /// Of the SUBSCRIBE.
    pub(crate) serial: u32,
}

/// The next entry of a queue.
#[derive(Debug)]
pub(crate) enum Next<'a> {
    Message(&'a Queued),
    Read(ReadTicket),
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
    pub(crate) fn new(total: ByteCount) -> Self {
        Self {
            page: None,
            waiting: VecDeque::new(),
            reads: 0,
            memory_bytes: 0,
            total,
            bytes: 0,
            counted: 0,
            ordered: 0,
        }
    }

    fn uncount_memory(&mut self) {
        self.total.subtract(std::mem::take(&mut self.memory_bytes));
    }

    /// Messages.
    pub(crate) fn len(&self) -> usize {
        self.page.iter().flat_map(|page| page.iter()).count() + self.waiting.len() - self.reads as usize
    }

    /// Whether no message and no read waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.page.is_none() && self.waiting.is_empty()
    }

    /// Whether something waits that a QoS 0 message must not overtake.
    pub(crate) fn has_ordered(&self) -> bool {
        self.ordered > 0
    }

    /// How many retained and other messages wait that do not count against the bounds, and reads.
    pub(crate) fn ordered(&self) -> usize {
        self.ordered as usize
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
        let waiting = self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Message(queued) => Some(queued),
            Waiting::Read(_) => None,
        });
        self.page.iter().flat_map(|page| page.iter()).chain(waiting)
    }

    /// How messages are delivered; what their memory depends on must stay.
    pub(crate) fn deliveries_mut(&mut self) -> impl Iterator<Item = &mut Delivery> {
        let waiting = self.waiting.iter_mut().filter_map(|waiting| match waiting {
            Waiting::Message(queued) => Some(queued),
            Waiting::Read(_) => None,
        });
        let page = self.page.iter_mut().flat_map(|page| page.iter_mut());
        page.chain(waiting).map(|queued| &mut queued.delivery)
    }

    /// The messages, without those that a read which is not done has found.
    pub(crate) fn iter_settled(&self) -> impl Iterator<Item = &Queued> {
        self.waiting.iter().filter_map(|waiting| match waiting {
            Waiting::Message(queued) => Some(queued),
            Waiting::Read(_) => None,
        })
    }

    pub(crate) fn next(&self) -> Option<Next<'_>> {
        if let Some(queued) = self.page.as_ref().and_then(|page| page.front()) {
            return Some(Next::Message(queued));
        }
        Some(match self.waiting.front()? {
            Waiting::Message(queued) => Next::Message(queued),
            Waiting::Read(ticket) => Next::Read(*ticket),
        })
    }

    pub(crate) fn push(&mut self, queued: Queued) {
        self.count(&queued, true);
        self.waiting.push_back(Waiting::Message(queued));
    }

    /// A read of retained messages begins to wait.
    pub(crate) fn push_read(&mut self, ticket: ReadTicket) {
        (self.reads, self.ordered) = (self.reads + 1, self.ordered + 1);
        self.waiting.push_back(Waiting::Read(ticket));
    }

    /// Adds a message that the first read has found.
    pub(crate) fn push_found(&mut self, queued: Queued) {
        self.count(&queued, true);
        self.page.get_or_insert_default().push_back(queued);
    }

    /// Takes the first message; `None`: there is none, or a read is first.
    pub(crate) fn pop(&mut self) -> Option<Queued> {
        let queued = match self.page.as_mut().and_then(|page| page.pop_front()) {
            Some(found) => found,
            None if matches!(self.waiting.front(), Some(Waiting::Message(_))) => match self.waiting.pop_front()? {
                Waiting::Message(queued) => queued,
                Waiting::Read(_) => return None,
            },
            None => return None,
        };
        self.count(&queued, false);
        self.release();
        Some(queued)
    }

    /// The first read is done.
    pub(crate) fn end_read(&mut self) {
        if let Some(Waiting::Read(_)) = self.waiting.front() {
            self.waiting.pop_front();
            (self.reads, self.ordered) = (self.reads - 1, self.ordered - 1);
        }
        self.release();
    }

    /// Drops the reads that `keep` does not name.
    pub(crate) fn retain_reads(&mut self, keep: impl Fn(ReadTicket) -> bool) {
        let before = self.waiting.len();
        self.waiting.retain(|waiting| !matches!(waiting, Waiting::Read(ticket) if !keep(*ticket)));
        let gone = (before - self.waiting.len()) as u32;
        (self.reads, self.ordered) = (self.reads - gone, self.ordered - gone);
    }

    fn release(&mut self) {
        if self.page.as_ref().is_some_and(|page| page.is_empty()) {
            self.page = None;
        }
        if self.waiting.is_empty() {
            self.waiting = VecDeque::new();
        }
    }

    /// Drops the oldest message that counts.
    pub(crate) fn drop_oldest(&mut self) -> Option<Queued> {
        let counts = |waiting: &Waiting| matches!(waiting, Waiting::Message(queued) if !queued.retained);
        let index = self.waiting.iter().position(counts)?;
        let Waiting::Message(queued) = self.waiting.remove(index)? else { return None };
        self.count(&queued, false);
        Some(queued)
    }

    /// Keeps the reads, and the messages that `keep` names; returns the other messages.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&Queued) -> bool) -> Vec<Queued> {
        let mut gone = Vec::new();
        let (page, waiting) = self.take_all();
        for queued in page.into_iter().flat_map(|page| *page) {
            if keep(&queued) { self.push_found(queued) } else { gone.push(queued) }
        }
        for waiting in waiting {
            match waiting {
                Waiting::Message(queued) if keep(&queued) => self.push(queued),
                Waiting::Message(queued) => gone.push(queued),
                Waiting::Read(ticket) => self.push_read(ticket),
            }
        }
        gone
    }

    fn take_all(&mut self) -> (Option<FoundPage>, VecDeque<Waiting>) {
        self.uncount_memory();
        (self.bytes, self.counted, self.ordered, self.reads) = (0, 0, 0, 0);
        (std::mem::take(&mut self.page), std::mem::take(&mut self.waiting))
    }

    /// Takes all messages; the reads are dropped.
    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Queued> + use<> {
        let (page, waiting) = self.take_all();
        page.into_iter().flat_map(|page| *page).chain(waiting.into_iter().filter_map(|waiting| match waiting {
            Waiting::Message(queued) => Some(queued),
            Waiting::Read(_) => None,
        }))
    }

    fn count(&mut self, queued: &Queued, comes: bool) {
        let size = queued.message.size() as u64;
        let memory_bytes = queued.memory_bytes();
        if comes {
            self.memory_bytes += memory_bytes;
            self.total.add(memory_bytes);
        } else {
            self.memory_bytes -= memory_bytes;
            self.total.subtract(memory_bytes);
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
