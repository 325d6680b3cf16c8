//! What of a core's changes is on its way to the disk, and what waits for it.
//!
//! A *turn* is what a shard does between two takings of its records. What a client is told because of a turn (PUBACK,
//! SUBACK, a QoS 2 message) waits in its out buffer with the turn's number, and goes out when the turn is settled: its own
//! records are durable, and other shards that it sent messages to have settled theirs.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashSet};

use super::connection::Origin;
use super::link::Wait;
use super::record::{Fields, Key, RecordBatch, RecordId};
use super::{ConnId, Millis};
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
pub(super) struct Durable {
    pub(super) id: RecordId,
    /// It had a connection when an earlier process ended: what it is owed may have been sent.
    pub(super) was_connected: bool,
    /// The records of the session's subscriptions, by position.
    pub(super) subscriptions: Vec<RecordId>,
    /// QoS 2 publishes of the client between PUBLISH and PUBREL that left records.
    pub(super) received: HashSet<PacketId>,
    /// Of those, what an earlier process took: should the client send one again, the shards that had no part of it
    /// recorded take it now.
    pub(super) recovered: HashSet<PacketId>,
}

impl Durable {
    pub(super) fn new(id: RecordId, was_connected: bool) -> Self {
        Self { id, was_connected, subscriptions: Vec::new(), received: HashSet::new(), recovered: HashSet::new() }
    }
}

/// What names a QoS 2 publish of a durable session: the session, and the packet identifier.
pub(super) type Once = (RecordId, PacketId);

/// A shard's part of a publish: the sessions at home there, by how many shards the process had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) shards: u16,
    pub(super) shard: u16,
}

/// What is to be waited for, and because of what.
#[derive(Debug, Default)]
pub(super) struct Waits {
    /// How far other shards must have stored what they were sent.
    pub(super) until: Vec<Wait>,
    /// The rank of the item from another shard that is being worked off.
    pub(super) rank: Option<usize>,
}

#[derive(Debug)]
struct Turn {
    number: u64,
    /// Bytes of its records; 0: nothing for the disk.
    bytes: u64,
    /// How far other shards must have settled what they were sent.
    until: Vec<Wait>,
}

#[derive(Debug, Default)]
pub(super) struct Journal {
    /// Whether there is a store. Without one nothing is durable.
    pub(super) on: bool,
    /// Some shard has a durable session; whether this one has said so of itself.
    pub(super) somebody: bool,
    pub(super) told: bool,
    /// The disk is full.
    pub(super) full: bool,
    epoch_unix_ms: u64,
    next_id: u64,
    step: u64,
    number: u64,
    bytes: Vec<u8>,
    waits: Waits,
    turns: VecDeque<Turn>,
    /// The newest batch of records that was handed over, and the newest that is on disk.
    handed: u64,
    stored: u64,
    settled: u64,
    backlog_bytes: u64,
    /// Connections with holds, by the number they wait for.
    pub(super) holding: VecDeque<(u64, ConnId)>,
    /// Publishers that wait for the disk.
    pub(super) waiters: Vec<Origin>,
    /// Counts records.
    pub(super) recorded: u64,
    /// Counts what an acknowledgement may depend on: records, and messages for other shards.
    pub(super) dependencies: u64,
    /// Deliveries that each shared message still has.
    pub(super) shared: HashMap<RecordId, u32>,
    /// What earlier processes' shards had taken of QoS 2 publishes that were not released.
    pub(super) recovered: HashSet<(Once, Part)>,
    /// How many shards those processes had.
    pub(super) recovered_shards: Vec<u16>,
}

impl Journal {
    pub(super) fn start(&mut self, recording: Recording, shard: u16, shards: u16) {
        self.on = true;
        self.epoch_unix_ms = recording.epoch_unix_ms;
        self.next_id = recording.next_id.max(1) + u64::from(shard);
        self.step = u64::from(shards.max(1));
        self.number = 1;
    }

    /// A number for a new record.
    pub(super) fn new_id(&mut self) -> RecordId {
        let id = RecordId(self.next_id);
        self.next_id += self.step;
        id
    }

    pub(super) fn put(&mut self, key: Key, write: impl FnOnce(&mut Fields<'_>)) {
        self.recorded += 1;
        self.dependencies += 1;
        self.bytes.extend_from_slice(&key.to_bytes());
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        write(&mut Fields(&mut self.bytes));
        let length = (self.bytes.len() - at - 4) as u32;
        self.bytes[at..at + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.recorded += 1;
        self.dependencies += 1;
        super::record::append_record(&mut self.bytes, key, None);
    }

    /// Takes in records in a batch's form.
    pub(super) fn append(&mut self, records: &[u8]) {
        self.recorded += 1;
        self.bytes.extend_from_slice(records);
    }

    /// The number of the turn that has not ended.
    pub(super) fn turn(&self) -> u64 {
        self.number
    }

    /// What this turn, or the item that is being worked off, brings forth waits until another shard has come that far.
    pub(super) fn wait_for(&mut self, wait: Wait) {
        self.dependencies += 1;
        match self.waits.until.iter_mut().find(|known| (known.shard, known.rank) == (wait.shard, wait.rank)) {
            Some(known) => known.place = wait.place,
            None => self.waits.until.push(wait),
        }
    }

    /// Whether what comes now of what is being worked off can be waited for: it is of a higher rank.
    pub(super) fn may_wait_for(&self, rank: usize) -> bool {
        self.waits.rank.is_none_or(|cause| cause < rank)
    }

    /// The newest turn that is not settled; `None`: all are, and this one has nothing to wait for.
    pub(super) fn unsettled(&self) -> Option<u64> {
        if self.bytes.is_empty() && self.waits.until.is_empty() {
            self.turns.back().map(|turn| turn.number)
        } else {
            Some(self.number)
        }
    }

    /// The newest batch with records that is not on disk; 0: all are.
    pub(super) fn unstored(&self) -> u64 {
        match (self.bytes.is_empty(), self.handed > self.stored) {
            (false, _) => self.number,
            (true, true) => self.handed,
            (true, false) => 0,
        }
    }

    /// Whether a batch of records is on disk.
    pub(super) fn is_stored(&self, batch: u64) -> bool {
        batch <= self.stored
    }

    /// Puts other waits in the place of this turn's, while something is done that has a cause of its own.
    pub(super) fn swap_waits(&mut self, waits: Waits) -> Waits {
        std::mem::replace(&mut self.waits, waits)
    }

    /// Bytes that are not durable yet.
    pub(super) fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes + self.bytes.len() as u64
    }

    /// Ends the turn; answers with its records, if it has any.
    pub(super) fn end_turn(&mut self) -> Option<RecordBatch> {
        self.unsettled().filter(|number| *number == self.number)?;
        let number = self.number;
        self.number += 1;
        let bytes = std::mem::take(&mut self.bytes);
        let size = bytes.len() as u64;
        if size > 0 {
            self.handed = number;
        }
        self.backlog_bytes += size;
        self.turns.push_back(Turn { number, bytes: size, until: std::mem::take(&mut self.waits.until) });
        (size > 0).then_some(RecordBatch { number, bytes })
    }

    /// The disk has everything up to `number`.
    pub(super) fn stored(&mut self, number: u64) {
        self.stored = self.stored.max(number);
    }

    /// Finds which turns are settled, by how far each other shard has settled its link. Answers with the newest number
    /// where there is a newer one.
    pub(super) fn settle(&mut self, has_settled: impl Fn(&Wait) -> bool) -> Option<u64> {
        let before = self.settled;
        while let Some(turn) = self.turns.front() {
            let on_disk = turn.bytes == 0 || turn.number <= self.stored;
            if !on_disk || !turn.until.iter().all(&has_settled) {
                break;
            }
            self.settled = turn.number;
            self.backlog_bytes -= turn.bytes;
            self.turns.pop_front();
        }
        (self.settled > before).then_some(self.settled)
    }

    /// A time of the core by the wall clock, ms since 1970; `Millis::MAX` stays what it is.
    pub(super) fn to_unix_ms(&self, at: Millis) -> u64 {
        if at == Millis::MAX { at } else { self.epoch_unix_ms.saturating_add(at) }
    }

    /// The other way; what was before the core's time began is its beginning.
    pub(super) fn core_time(&self, at: u64) -> Millis {
        if at == u64::MAX { Millis::MAX } else { at.saturating_sub(self.epoch_unix_ms) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::record::Kind;
    use super::*;

    fn journal() -> Journal {
        let mut journal = Journal::default();
        journal.start(Recording { next_id: 10, epoch_unix_ms: 5_000 }, 1, 3);
        journal
    }

    fn record(journal: &mut Journal) {
        let id = journal.new_id();
        journal.put(Key::new(Kind::Message, id, 0), |fields| {
            fields.u8(1);
        });
    }

    #[test]
    fn numbers_are_of_one_shard_alone() {
        let mut journal = journal();
        assert_eq!([journal.new_id(), journal.new_id()], [RecordId(11), RecordId(14)]);
    }

    #[test]
    fn a_turn_settles_with_its_records_and_with_what_it_sent_away() {
        let mut journal = journal();
        assert_eq!((journal.unsettled(), journal.end_turn()), (None, None));
        let wait = |place| Wait { shard: 0, rank: 1, place };
        record(&mut journal);
        journal.wait_for(wait(70));
        assert_eq!(journal.unsettled(), Some(1));
        let batch = journal.end_turn().expect("it has a record");
        assert_eq!((batch.number, batch.records().count()), (1, 1));
        // A turn without records waits for the other shard alone, and for the turns before it.
        journal.wait_for(wait(90));
        assert_eq!((journal.end_turn(), journal.unsettled()), (None, Some(2)));
        assert_eq!(journal.settle(|wait| wait.place <= 90), None, "the first is not on disk");
        journal.stored(1);
        assert_eq!(journal.settle(|wait| wait.place <= 69), None, "the other shard has not settled");
        assert_eq!(journal.settle(|wait| wait.place <= 70), Some(1));
        assert_eq!(journal.settle(|wait| wait.place <= 90), Some(2));
        assert_eq!((journal.unsettled(), journal.backlog_bytes()), (None, 0));
    }

    #[test]
    fn times_survive_the_clock_they_were_made_by() {
        let journal = journal();
        assert_eq!(journal.to_unix_ms(7), 5_007);
        assert_eq!((journal.core_time(5_007), journal.core_time(4_000)), (7, 0));
        assert_eq!(journal.core_time(journal.to_unix_ms(Millis::MAX)), Millis::MAX);
    }
}
