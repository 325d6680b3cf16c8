//! The commit logic of the writer: commits batches in order, and on a full disk cleans the log and retries. Without a
//! clock or a thread of its own.
//!
//! If a full disk has no room for a batch, not even in the reserve, later batches wait too. But batches that only
//! remove records, of keys that no waiting batch has, are written before it; otherwise nothing would free space. A
//! removal is final, and the removed record was durable. The shard gets its acknowledgement in order.

use hashbrown::HashSet;

use super::disk::Disk;
use super::log::{LogSize, RecordLog, RecordLogError};
use weir_broker::{RecordBatch, RecordKey, ShardId, StoreAck};

/// Commits the batches of the shards.
pub(super) struct Committer<D: Disk> {
    log: RecordLog<D>,
    /// Batches that are not durable, in order, and their shards.
    batches: Vec<RecordBatch>,
    shards: Vec<ShardId>,
    /// Shards that ever sent a batch, and whether the last report to them was that the disk is full.
    shards_seen: Vec<(ShardId, bool)>,
    /// Whether the first batch does not fit on the disk.
    is_stuck: bool,
    /// Whether the last cleaning failed because the disk is full.
    cannot_clean: bool,
}

/// The result of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Acknowledgements for the shards.
    pub(super) acks: Vec<(ShardId, StoreAck)>,
    /// Batches that became durable, and records written for them.
    pub(super) batches: usize,
    pub(super) records: usize,
}

/// The condition to wait for before the next round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// Until a batch arrives.
    Batches,
    /// Until a batch arrives or a time has passed: the disk is full.
    Room,
}

impl<D: Disk> Committer<D> {
    pub(super) fn new(log: RecordLog<D>) -> Self {
        Self {
            log,
            batches: Vec::new(),
            shards: Vec::new(),
            shards_seen: Vec::new(),
            is_stuck: false,
            cannot_clean: false,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_stuck || self.log.is_full()
    }

    pub(super) fn reserve_bytes(&self) -> u64 {
        self.log.reserve_bytes()
    }

    /// Whether the waiting batches do not fit on the disk.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    pub(super) fn size(&self) -> LogSize {
        self.log.size()
    }

    /// Number of batches that are not durable.
    pub(super) fn waiting(&self) -> usize {
        self.batches.len()
    }

    /// The condition to wait for before the next round.
    pub(super) fn wait(&self) -> Wait {
        let commits = !self.batches.is_empty() && !self.is_stuck;
        let cleans = self.log.wants_cleaning() && !self.cannot_clean;
        match self.is_full() {
            _ if commits || cleans => Wait::Nothing,
            true => Wait::Room,
            false => Wait::Batches,
        }
    }

    /// Adds new batches, and makes one commit, or one step of cleaning. `waited`: time has passed since the last
    /// attempt on a full disk, which may have room again.
    pub(super) fn round(&mut self, new: Vec<(ShardId, RecordBatch)>, waited: bool) -> Result<Round, RecordLogError> {
        for (shard, batch) in new {
            if !self.shards_seen.iter().any(|(known, _)| *known == shard) {
                self.shards_seen.push((shard, false));
            }
            self.shards.push(shard);
            self.batches.push(batch);
        }
        let mut round = Round::default();
        let files = self.log.size().files;
        if waited || !self.is_stuck {
            self.commit(&mut round)?;
        }
        if self.log.wants_cleaning() && (self.log.is_full() || self.batches.is_empty()) {
            self.cannot_clean = unless_full(self.log.clean())?.is_none();
        }
        let freed = self.log.size().files < files;
        if waited || freed || !self.log.is_full() {
            self.log.refill()?;
        }
        if freed && self.is_stuck {
            self.commit(&mut round)?;
        }
        self.report_full(&mut round);
        Ok(round)
    }

    /// Commits the batches that fit into one file; if the disk has no room, half as many, down to one. A stuck
    /// committer tries all batches together first: records that one batch adds and another removes need no space.
    fn commit(&mut self, round: &mut Round) -> Result<(), RecordLogError> {
        let mut count = if self.is_stuck { self.batches.len() } else { self.count_for_one_file() };
        self.is_stuck = count > 0;
        while count > 0 {
            if let Some(records) = unless_full(self.log.commit(&self.batches[..count]))? {
                round.records += records;
                round.batches += count;
                for (shard, batch) in self.shards.drain(..count).zip(self.batches.drain(..count)) {
                    round.acks.retain(|(known, _)| *known != shard);
                    round.acks.push((shard, StoreAck::UpTo(batch.number)));
                }
                self.is_stuck = false;
                return Ok(());
            }
            count /= 2;
        }
        if self.is_stuck { self.commit_removals(round) } else { Ok(()) }
    }

    /// Commits removal-only batches before the first one. Each of them is empty afterwards.
    fn commit_removals(&mut self, round: &mut Round) -> Result<(), RecordLogError> {
        let mut waiting: HashSet<RecordKey> = HashSet::new();
        let mut ahead = Vec::new();
        for (at, batch) in self.batches.iter().enumerate().filter(|(_, batch)| batch.size() > 0) {
            let is_removal = batch.records().all(|(key, value)| value.is_none() && !waiting.contains(&key));
            if is_removal {
                ahead.push(at);
            } else {
                waiting.extend(batch.records().map(|(key, _)| key));
            }
        }
        while !ahead.is_empty() {
            let removals: Vec<RecordBatch> = ahead.iter().map(|at| self.batches[*at].clone()).collect();
            if let Some(records) = unless_full(self.log.commit(&removals))? {
                round.records += records;
                for at in ahead {
                    self.batches[at] = RecordBatch::new(self.batches[at].number, Vec::new());
                }
                return Ok(());
            }
            ahead.truncate(ahead.len() / 2);
        }
        Ok(())
    }

    fn count_for_one_file(&self) -> usize {
        let mut bytes = 0;
        let fits = self.batches.iter().take_while(|batch| {
            bytes += batch.size() as u64;
            bytes <= self.log.limits().file_bytes
        });
        fits.count().max(1).min(self.batches.len())
    }

    /// Reports to each shard once when the disk becomes full, and when it has room again.
    fn report_full(&mut self, round: &mut Round) {
        let full = self.is_full();
        for (shard, reported) in self.shards_seen.iter_mut().filter(|(_, reported)| *reported != full) {
            *reported = full;
            round.acks.push((*shard, StoreAck::Full(full)));
        }
    }
}

/// `None` if the disk was full.
fn unless_full<T>(result: Result<T, RecordLogError>) -> Result<Option<T>, RecordLogError> {
    match result {
        Err(RecordLogError::Full(_)) => Ok(None),
        other => other.map(Some),
    }
}
