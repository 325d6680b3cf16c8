//! Changes of a core that are being stored, and output that waits for them.
//!
//! An *epoch* is what a shard does between two batches of records. What a client is sent because of it (PUBACK,
//! SUBACK, a QoS 2 message) waits in its out buffer with the epoch's number, and goes out when the epoch is settled: its
//! own records are durable, and other shards that it sent messages to have settled theirs.

use crate::ids::DedupKey;
use std::collections::{BTreeSet, VecDeque};

use crate::hash::{IdMap, IdSet};
use crate::ids::{ConnId, Millis, Origin, RecordId};
use crate::limits::RECORDS_HIGH_BYTES;
use crate::links::link::StorageWait;
use crate::placement::owner_shard;
use crate::values::record::{RecordBatch, RecordKey, StoreAck, ValueWriter};
use weir_mqtt::PacketId;

/// How records are made, and from what number on.
#[derive(Debug, Clone, Copy)]
pub struct Recording {
    /// No number as large was ever given to a record.
    pub next_id: u64,
    /// The wall clock, milliseconds since 1970, when the core's time was 0.
    pub epoch_unix_ms: u64,
}

/// The durable side of a session.
#[derive(Debug)]
pub(crate) struct DurableSession {
    pub(crate) id: RecordId,
    /// It had a connection when an earlier process ended: what it is owed may have been sent.
    pub(crate) was_connected: bool,
    /// The records of the session's subscriptions, by position.
    pub(crate) subscriptions: Vec<RecordId>,
    /// QoS 2 publishes of the client between PUBLISH and PUBREL that left records.
    pub(crate) received: BTreeSet<PacketId>,
    /// Of those, what an earlier process took: should the client send one again, the shards that had no part of it
    /// recorded take it now.
    pub(crate) recovered: BTreeSet<PacketId>,
}

impl DurableSession {
    pub(crate) fn new(id: RecordId, was_connected: bool) -> Self {
        Self { id, was_connected, subscriptions: Vec::new(), received: BTreeSet::new(), recovered: BTreeSet::new() }
    }
}

/// A shard's part of a publish: the sessions at home there, by how many shards the process had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct ShardPart {
    pub(crate) shards: u16,
    pub(crate) shard: u16,
}

/// The waits of an epoch, and the rank of their cause.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    /// The link positions that other shards must have stored.
    pub(crate) until: Vec<StorageWait>,
    /// The rank of the message from another shard that is being processed.
    pub(crate) rank: Option<usize>,
}

#[derive(Debug)]
struct CommitEpoch {
    number: u64,
    /// Bytes of its records; 0: nothing for the disk.
    bytes: u64,
    /// The link positions that other shards must have settled.
    until: Vec<StorageWait>,
}

/// A position of the journal; see [`CommitJournal::mark`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    recorded: u64,
    dependencies: u64,
}

#[derive(Debug, Default)]
pub(crate) struct CommitJournal {
    /// Whether there is a store. Without one nothing is durable.
    pub(super) on: bool,
    /// Whether there are other nodes, for which acknowledgements wait as for a store.
    has_peers: bool,
    /// In a cluster: until when this node is in. Later, no epoch settles.
    in_until: Option<Millis>,
    /// Some shard has a durable session; whether this one has reported its own.
    any_durable: bool,
    announced: bool,
    /// The disk is full.
    full: bool,
    pub(super) here: ShardPart,
    epoch_unix_ms: u64,
    next_id: u64,
    step: u64,
    number: u64,
    bytes: Vec<u8>,
    waits: Waits,
    epochs: VecDeque<CommitEpoch>,
    /// The newest batch of records that was handed over, and the newest that is on disk.
    handed: u64,
    stored: u64,
    settled: u64,
    backlog_bytes: u64,
    /// See [`CommitJournal::bound`].
    backlog_max_bytes: Option<u64>,
    /// Connections with gates, by the epoch they wait for.
    gated: VecDeque<(u64, ConnId)>,
    /// Publishers that wait for the disk.
    waiters: Vec<Origin>,
    /// Counts records.
    recorded: u64,
    /// Counts what an acknowledgement may depend on: records, and messages for other shards.
    dependencies: u64,
    /// Deliveries that each shared message still has.
    pub(super) shared: IdMap<RecordId, u32>,
    /// Unreleased QoS 2 publishes that shards of earlier processes had received.
    pub(super) recovered: IdSet<(DedupKey, ShardPart)>,
    /// How many shards those processes had.
    pub(super) recovered_shards: Vec<u16>,
}

impl CommitJournal {
    /// Of a shard; without a store until [`CommitJournal::start`].
    pub(crate) fn new(here: ShardPart) -> Self {
        Self { here, ..Self::default() }
    }

    pub(crate) fn start(&mut self, recording: Recording) {
        self.on = true;
        self.epoch_unix_ms = recording.epoch_unix_ms;
        self.next_id = recording.next_id.max(1) + u64::from(self.here.shard);
        self.step = u64::from(self.here.shards.max(1));
        self.number = 1;
    }

    /// Acknowledgements wait for other nodes from now on, whether there is a store or not.
    pub(crate) fn wait_for_peers(&mut self) {
        self.has_peers = true;
        self.in_until = Some(0);
        self.any_durable = true;
        self.number = self.number.max(1);
    }

    /// The node is in its cluster until that moment. Afterwards nothing is acknowledged.
    pub(crate) fn set_in_until(&mut self, until: Millis) {
        self.in_until = Some(until);
    }

    /// Whether the node is out of its cluster.
    #[inline]
    pub(crate) fn is_suspended(&self, now: Millis) -> bool {
        self.in_until.is_some_and(|until| now > until)
    }

    /// Whether there is a store. Without one nothing is durable.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        self.on
    }

    /// Whether the disk is full.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full
    }

    /// The last report of the store.
    pub(crate) fn on_store_ack(&mut self, ack: StoreAck) {
        match ack {
            StoreAck::UpTo(number) => self.stored = self.stored.max(number),
            StoreAck::Full(full) => self.full = full,
        }
    }

    /// Another shard has a durable session.
    pub(crate) fn set_remote_durable(&mut self) {
        self.any_durable = true;
    }

    /// A session here is durable. Returns whether the other shards have to learn it.
    pub(crate) fn begin_durable(&mut self) -> bool {
        self.any_durable = true;
        !std::mem::replace(&mut self.announced, true)
    }

    /// Whether a message for another shard may be recorded there, or farther on, so that this epoch waits for it. `retained_on_disk`: it
    /// is retained on disk in any case.
    pub(crate) fn depends_on_others(&self, rank: usize, retained_on_disk: bool) -> bool {
        (self.on || self.has_peers) && (self.any_durable || retained_on_disk) && self.may_wait_for(rank)
    }

    /// Whether any shard has a durable session.
    pub(crate) fn any_durable(&self) -> bool {
        self.any_durable
    }

    /// How much was recorded, and sent to other shards, so far.
    #[inline]
    pub(crate) fn mark(&self) -> Mark {
        Mark { recorded: self.recorded, dependencies: self.dependencies }
    }

    /// Whether anything was recorded since.
    pub(crate) fn has_recorded(&self, since: Mark) -> bool {
        self.recorded != since.recorded
    }

    /// Whether anything came since that an acknowledgement has to wait for.
    #[inline]
    pub(crate) fn has_dependencies(&self, since: Mark) -> bool {
        self.dependencies != since.dependencies
    }

    /// A connection's out buffer has a gate for an epoch.
    pub(crate) fn add_gated(&mut self, epoch: u64, connection: ConnId) {
        self.gated.push_back((epoch, connection));
    }

    /// The next connection with a gate that the end of epochs up to `settled` opens.
    pub(crate) fn next_ungated(&mut self, settled: u64) -> Option<ConnId> {
        let &(_, connection) = self.gated.front().filter(|(epoch, _)| *epoch <= settled)?;
        self.gated.pop_front();
        Some(connection)
    }

    /// Connections that wait for an epoch.
    pub(crate) fn gated(&self) -> Vec<ConnId> {
        self.gated.iter().map(|(_, id)| *id).collect()
    }

    /// From how many bytes of records that are not on disk on publishers that make more pause.
    pub(crate) fn bound(&mut self, bytes: u64) {
        self.backlog_max_bytes = Some(bytes);
    }

    fn backlog_max_bytes(&self) -> u64 {
        self.backlog_max_bytes.unwrap_or(RECORDS_HIGH_BYTES)
    }

    /// Whether the disk has caught up, so that publishers that wait for it go on.
    pub(crate) fn has_caught_up(&self) -> bool {
        self.backlog_bytes() <= self.backlog_max_bytes() / 2
    }

    /// Whether a publisher has to pause because records grow faster than the disk takes them; it is remembered then.
    pub(crate) fn must_pause(&mut self, origin: Origin) -> bool {
        let pauses = self.backlog_bytes() > self.backlog_max_bytes()
            && origin != Origin::BROKER
            && !self.waiters.contains(&origin);
        if pauses {
            self.waiters.push(origin);
        }
        pauses
    }

    /// Publishers that wait for the disk; they go on.
    pub(crate) fn take_waiters(&mut self) -> Vec<Origin> {
        std::mem::take(&mut self.waiters)
    }

    /// Whether an earlier process had recorded a part of a QoS 2 publish that its client sends again: the part of the shard
    /// that `names` belonged to then.
    pub(crate) fn already_processed(&self, key: Option<DedupKey>, names: &[&str]) -> bool {
        let Some(key) = key.filter(|_| !self.recovered.is_empty()) else { return false };
        self.recovered_shards.iter().any(|&shards| {
            let part = ShardPart { shards, shard: owner_shard(names, shards).0 };
            self.recovered.contains(&(key, part))
        })
    }

    /// Whether an earlier process had recorded any part of a publish.
    pub(crate) fn has_recovered(&self, key: DedupKey) -> bool {
        self.recovered.iter().any(|(known, _)| *known == key)
    }

    /// An earlier process had recorded a part of a QoS 2 publish.
    pub(crate) fn restore_received(&mut self, key: DedupKey, part: ShardPart) {
        self.recovered.insert((key, part));
        if !self.recovered_shards.contains(&part.shards) {
            self.recovered_shards.push(part.shards);
        }
    }

    /// A number for a new record.
    pub(crate) fn new_id(&mut self) -> RecordId {
        let id = RecordId(self.next_id);
        self.next_id += self.step;
        id
    }

    pub(crate) fn put(&mut self, key: RecordKey, write: impl FnOnce(&mut ValueWriter<'_>)) {
        self.recorded += 1;
        self.dependencies += 1;
        self.bytes.extend_from_slice(&key.to_bytes());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut ValueWriter(&mut self.bytes));
        let length = (self.bytes.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(crate) fn remove(&mut self, key: RecordKey) {
        self.recorded += 1;
        self.dependencies += 1;
        crate::values::record::append_record(&mut self.bytes, key, None);
    }

    /// Adds records in a batch's form.
    pub(crate) fn append(&mut self, records: &[u8]) {
        self.recorded += 1;
        self.bytes.extend_from_slice(records);
    }

    /// The number of the epoch that has not ended.
    pub(crate) fn epoch(&self) -> u64 {
        self.number
    }

    /// This epoch, or the message that is being processed, waits until another shard has come that far.
    pub(crate) fn wait_for(&mut self, wait: StorageWait) {
        self.dependencies += 1;
        match self.waits.until.iter_mut().find(|known| (known.shard, known.rank) == (wait.shard, wait.rank)) {
            Some(known) => known.position = wait.position,
            None => self.waits.until.push(wait),
        }
    }

    /// Whether what the message that is being processed causes can be waited for: it is of a higher rank.
    pub(crate) fn may_wait_for(&self, rank: usize) -> bool {
        self.waits.rank.is_none_or(|cause| cause < rank)
    }

    /// The newest epoch that is not settled; `None`: all are, and this one has nothing to wait for.
    pub(crate) fn unsettled(&self) -> Option<u64> {
        if self.bytes.is_empty() && self.waits.until.is_empty() {
            self.epochs.back().map(|epoch| epoch.number)
        } else {
            Some(self.number)
        }
    }

    /// The newest batch with records that is not on disk; 0: all are.
    pub(crate) fn unstored(&self) -> u64 {
        match (self.bytes.is_empty(), self.handed > self.stored) {
            (false, _) => self.number,
            (true, true) => self.handed,
            (true, false) => 0,
        }
    }

    /// Whether a batch of records is on disk.
    pub(crate) fn is_stored(&self, batch: u64) -> bool {
        batch <= self.stored
    }

    /// Whether an epoch is settled.
    pub(crate) fn is_settled(&self, epoch: u64) -> bool {
        self.settled >= epoch
    }

    /// Puts other waits in the place of this epoch's, while something is done that has a cause of its own.
    pub(crate) fn swap_waits(&mut self, waits: Waits) -> Waits {
        std::mem::replace(&mut self.waits, waits)
    }

    /// Bytes that are not durable yet.
    pub(crate) fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes + self.bytes.len() as u64
    }

    /// Ends the epoch; returns its records, if it has any.
    pub(crate) fn end_epoch(&mut self) -> Option<RecordBatch> {
        self.unsettled().filter(|number| *number == self.number)?;
        let number = self.number;
        self.number += 1;
        let bytes = std::mem::take(&mut self.bytes);
        let size = bytes.len() as u64;
        if size > 0 {
            self.handed = number;
        }
        self.backlog_bytes += size;
        self.epochs.push_back(CommitEpoch { number, bytes: size, until: std::mem::take(&mut self.waits.until) });
        (size > 0).then_some(RecordBatch { number, bytes })
    }

    /// Takes the records of this epoch, in a batch's form.
    pub(crate) fn take_bytes(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Finds which epochs are settled, by how far each other shard has settled its link. Returns the newest number
    /// where there is a newer one.
    pub(crate) fn settle(&mut self, now: Millis, has_settled: impl Fn(&StorageWait) -> bool) -> Option<u64> {
        let before = self.settled;
        if self.is_suspended(now) {
            return None;
        }
        while let Some(epoch) = self.epochs.front() {
            let on_disk = epoch.bytes == 0 || epoch.number <= self.stored;
            if !on_disk || !epoch.until.iter().all(&has_settled) {
                break;
            }
            self.settled = epoch.number;
            self.backlog_bytes -= epoch.bytes;
            self.epochs.pop_front();
        }
        (self.settled > before).then_some(self.settled)
    }

    /// A time of the core by the wall clock, ms since 1970; `Millis::MAX` stays what it is.
    pub(crate) fn to_unix_ms(&self, at: Millis) -> u64 {
        if at == Millis::MAX { at } else { self.epoch_unix_ms.saturating_add(at) }
    }

    /// The other way; what was before the core's time began is its beginning.
    pub(crate) fn core_time(&self, at: u64) -> Millis {
        if at == u64::MAX { Millis::MAX } else { at.saturating_sub(self.epoch_unix_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::values::record::RecordKind;

    fn journal() -> CommitJournal {
        let mut journal = CommitJournal::new(ShardPart { shards: 3, shard: 1 });
        journal.start(Recording { next_id: 10, epoch_unix_ms: 5_000 });
        journal
    }

    fn record(journal: &mut CommitJournal) {
        let id = journal.new_id();
        journal.put(RecordKey::new(RecordKind::Message, id, 0), |fields| {
            fields.u8(1);
        });
    }

    #[test]
    fn record_ids_of_two_shards_never_collide() {
        let mut journal = journal();
        assert_eq!([journal.new_id(), journal.new_id()], [RecordId(11), RecordId(14)]);
    }

    #[test]
    fn an_epoch_settles_with_its_records_and_with_what_other_shards_store() {
        let mut journal = journal();
        assert_eq!((journal.unsettled(), journal.end_epoch()), (None, None));
        let wait = |position| StorageWait { shard: 0, rank: 1, position };
        record(&mut journal);
        journal.wait_for(wait(70));
        assert_eq!(journal.unsettled(), Some(1));
        let batch = journal.end_epoch().expect("it has a record");
        assert_eq!((batch.number, batch.records().count()), (1, 1));
        // An epoch without records waits for the other shard alone, and for the epochs before it.
        journal.wait_for(wait(90));
        assert_eq!((journal.end_epoch(), journal.unsettled()), (None, Some(2)));
        assert_eq!(journal.settle(0, |wait| wait.position <= 90), None, "the first is not on disk");
        journal.on_store_ack(StoreAck::UpTo(1));
        assert_eq!(journal.settle(0, |wait| wait.position <= 69), None, "the other shard has not settled");
        assert_eq!(journal.settle(0, |wait| wait.position <= 70), Some(1));
        assert_eq!(journal.settle(0, |wait| wait.position <= 90), Some(2));
        assert_eq!((journal.unsettled(), journal.backlog_bytes()), (None, 0));
    }

    #[test]
    fn times_convert_to_unix_time_and_back() {
        let journal = journal();
        assert_eq!(journal.to_unix_ms(7), 5_007);
        assert_eq!((journal.core_time(5_007), journal.core_time(4_000)), (7, 0));
        assert_eq!(journal.core_time(journal.to_unix_ms(Millis::MAX)), Millis::MAX);
    }
}
