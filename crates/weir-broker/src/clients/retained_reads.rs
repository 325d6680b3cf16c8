//! Reads of retained messages after a SUBSCRIBE that are not done yet: how far each is.

use std::collections::BTreeMap;

use crate::delivery::queue::{Queue, ReadTicket};
use crate::ids::{NodeId, ShardId};
use crate::values::retained::ReadPosition;

/// A read of what one shard retains under one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetainedRead {
    pub(crate) position: ReadPosition,
    /// The number of the shard's newest retained message at the SUBSCRIBE: a later one is delivered because of the
    /// subscription.
    pub(crate) newest: u64,
    /// Of the SUBSCRIBE.
    serial: u32,
    /// The other shard was asked for a page.
    pub(crate) awaits_page: bool,
}

/// Tickets without a read that may wait beside those with one, before they are taken out of the queue.
const VOID_TICKETS_MAX: usize = 64;

impl RetainedRead {
    pub(crate) fn new(position: ReadPosition, newest: u64) -> Self {
        Self { position, newest, serial: 0, awaits_page: false }
    }
}

/// A session's reads, by the subscription's node and the shard. Each has a ticket in the session's queue; a ticket without a
/// read is void.
#[derive(Debug, Default)]
pub(crate) struct RetainedReads {
    reads: BTreeMap<(NodeId, ShardId), RetainedRead>,
    serial: u32,
    void_tickets: usize,
}

impl RetainedReads {
    /// A read begins to wait, in place of another one of the same subscription and shard. Returns its ticket.
    pub(crate) fn insert(&mut self, node: NodeId, shard: ShardId, read: RetainedRead) -> ReadTicket {
        self.serial = self.serial.wrapping_add(1);
        let serial = self.serial;
        self.void_tickets += usize::from(self.reads.insert((node, shard), RetainedRead { serial, ..read }).is_some());
        ReadTicket { node, shard, serial }
    }

    /// A read finds nothing that is newer than a number.
    pub(crate) fn bound(&mut self, node: NodeId, shard: ShardId, newest: u64) {
        if let Some(read) = self.reads.get_mut(&(node, shard)) {
            read.newest = read.newest.min(newest);
        }
    }

    /// The read of a ticket; `None`: it is void.
    pub(crate) fn get_mut(&mut self, ticket: ReadTicket) -> Option<&mut RetainedRead> {
        self.reads.get_mut(&(ticket.node, ticket.shard)).filter(|read| read.serial == ticket.serial)
    }

    fn is_current(&self, ticket: ReadTicket) -> bool {
        self.reads.get(&(ticket.node, ticket.shard)).is_some_and(|read| read.serial == ticket.serial)
    }

    /// The ticket of the read that was asked of a shard, and its position.
    pub(crate) fn asked(&self, node: NodeId, shard: ShardId) -> Option<(ReadTicket, &ReadPosition)> {
        let read = self.reads.get(&(node, shard)).filter(|read| read.awaits_page)?;
        Some((ReadTicket { node, shard, serial: read.serial }, &read.position))
    }

    /// A ticket has left the queue, and its read is done.
    pub(crate) fn end(&mut self, ticket: ReadTicket) {
        if self.is_current(ticket) {
            self.reads.remove(&(ticket.node, ticket.shard));
        } else {
            self.void_tickets = self.void_tickets.saturating_sub(1);
        }
    }

    /// A subscription has gone.
    pub(crate) fn remove_all(&mut self, node: NodeId) {
        while let Some((&at, _)) = self.reads.range((node, ShardId(0))..=(node, ShardId(u16::MAX))).next() {
            self.reads.remove(&at);
            self.void_tickets += 1;
        }
    }

    /// Whether a subscription has reads that are not done.
    pub(crate) fn has(&self, node: NodeId) -> bool {
        self.reads.range((node, ShardId(0))..=(node, ShardId(u16::MAX))).next().is_some()
    }

    /// Takes the void tickets out of the queue, where they have become many.
    pub(crate) fn tidy(&mut self, queue: &mut Queue) {
        if self.void_tickets > self.reads.len() + VOID_TICKETS_MAX {
            queue.retain_reads(|ticket| self.is_current(ticket));
            self.void_tickets = 0;
        }
    }
}
