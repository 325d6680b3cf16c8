//! The shard as driver of its core.

use super::{BULK_SLICE, Shard, ShardEvent, cpu_time};
use weir_broker::{Batch, ConnId, Core, Driver, Reauthentication, RecordBatch, Scope, ShardId, Site, drive};

/// Connections of the bulk queue that are written to between two checks of the CPU time.
const BULK_STEP: usize = 8;

impl Driver for Shard {
    fn core(&mut self) -> &mut Core {
        &mut self.core
    }

    fn scope(&mut self) -> Scope {
        match (self.scope, self.bulk_until) {
            (Scope::All, None) => Scope::AllButBulk,
            (Scope::Writes, None) => Scope::PriorityWrites,
            (scope, _) => scope,
        }
    }

    fn reauthenticate(&mut self, request: Reauthentication) {
        self.reauthenticate_client(request);
    }

    fn store(&mut self, records: RecordBatch) {
        if let Some(sink) = &self.sink {
            sink.append(self.id, records);
        }
    }

    fn send(&mut self, to: ShardId, batch: Batch) {
        let index = usize::from(to.0);
        if index == self.peers.len() {
            return self.send_to_gateway(batch);
        }
        let (Some(peer), Some(events)) = (self.peers.get(index), self.outgoing.get_mut(index)) else {
            return self.core.count_internal_error(Site::ShardOfBatch);
        };
        events.push(ShardEvent::Batch { from: self.id, batch });
        peer.send_all(events.drain(..));
    }

    fn flush(&mut self, conn: ConnId) {
        if let Some(key) = self.table.key_of(conn) {
            self.flush_connection(key);
        }
    }

    fn flush_bulk(&mut self, conn: ConnId) {
        self.flush(conn);
        self.bulk_flushes += 1;
        self.bulk_ahead = self.bulk_ahead.saturating_sub(1);
        if self.bulk_flushes.is_multiple_of(BULK_STEP) && self.bulk_until.is_some_and(|until| cpu_time() >= until) {
            self.bulk_until = None;
        }
    }

    fn close(&mut self, conn: ConnId) {
        if let Some(key) = self.table.key_of(conn) {
            self.close_connection(key);
        }
    }

    fn resume(&mut self, conn: ConnId) {
        self.resume_connection(conn);
    }
}

impl Shard {
    /// Begins a time slice of writes to the bulk queue. Writing to thousands of connections takes long, and other
    /// clients must be served in between: the rest follows in the next turns.
    pub(super) fn begin_bulk(&mut self) {
        self.unflushed_bytes = 0;
        self.bulk_flushes = 0;
        self.bulk_until = (self.core.bulk_flush_len() > 0).then(|| cpu_time() + BULK_SLICE);
    }

    /// Writes the output of connections, except those in the bulk queue, and sends batches to other shards.
    pub(super) fn flush_priority(&mut self) {
        (self.scope, self.bulk_until) = (Scope::Writes, None);
        drive(self);
    }

    /// Writes the output of connections, those in the bulk queue for a time slice, and sends batches to other shards.
    pub(super) fn flush_all(&mut self) {
        self.flush_priority();
        self.begin_bulk();
        drive(self);
    }
}
