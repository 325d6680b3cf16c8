//! What the writer's thread does between two waits: it commits batches in their order, and on a full disk it cleans and
//! tries again. Without a clock or a thread of its own.
//!
//! Where a full disk has no room for a batch, not even in the reserve, the batches behind it wait, too. But those that only
//! remove records which no waiting batch knows are written before it, or nothing would ever free the space: a removal is
//! final, and what it removes was durable. It is acknowledged to its shard in its turn.

use hashbrown::HashSet;

use super::disk::Disk;
use super::log::{Log, LogError, LogSize};
use weir_broker::{Key, RecordBatch, ShardId, StoreAck};

/// Commits what shards hand over.
pub(super) struct Committer<D: Disk> {
    log: Log<D>,
    /// Handed over and not durable, in order; and by which shards.
    batches: Vec<RecordBatch>,
    shards: Vec<ShardId>,
    /// Shards that ever handed something over, and whether the last report to them was that the disk is full.
    known: Vec<(ShardId, bool)>,
    /// There is no room for the first of them.
    is_stuck: bool,
    /// The last cleaning found no room.
    cannot_clean: bool,
}

/// What came of a round.
#[derive(Debug, Default)]
pub(super) struct Round {
    /// Acknowledgements for the shards.
    pub(super) acks: Vec<(ShardId, StoreAck)>,
    /// Batches that became durable, and records that were written for them.
    pub(super) batches: usize,
    pub(super) records: usize,
}

/// What the next round waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Nothing,
    /// Until something is handed over.
    Batches,
    /// The same, or a while: the disk is full.
    Room,
}

impl<D: Disk> Committer<D> {
    pub(super) fn new(log: Log<D>) -> Self {
        Self { log, batches: Vec::new(), shards: Vec::new(), known: Vec::new(), is_stuck: false, cannot_clean: false }
    }

    pub(super) fn is_full(&self) -> bool {
        self.is_stuck || self.log.is_full()
    }

    pub(super) fn reserve_bytes(&self) -> u64 {
        self.log.reserve_bytes()
    }

    /// Whether there is no room for what waits.
    pub(super) fn is_stuck(&self) -> bool {
        self.is_stuck
    }

    pub(super) fn size(&self) -> LogSize {
        self.log.size()
    }

    /// Batches that are not durable.
    pub(super) fn waiting(&self) -> usize {
        self.batches.len()
    }

    /// What is to happen before the next round.
    pub(super) fn wait(&self) -> Wait {
        let commits = !self.batches.is_empty() && !self.is_stuck;
        let cleans = self.log.wants_cleaning() && !self.cannot_clean;
        match self.is_full() {
            _ if commits || cleans => Wait::Nothing,
            true => Wait::Room,
            false => Wait::Batches,
        }
    }

    /// Takes what was handed over, and makes one commit, or one of cleaning. `waited`: some time has passed since the
    /// last round, and the disk may have room again.
    pub(super) fn round(&mut self, new: Vec<(ShardId, RecordBatch)>, waited: bool) -> Result<Round, LogError> {
        for (shard, batch) in new {
            if !self.known.iter().any(|(known, _)| *known == shard) {
                self.known.push((shard, false));
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

    /// Commits the batches that fit into one file; where these find no room, half as many, down to one. After that all at
    /// once: what comes with one batch and goes with another needs no room.
    fn commit(&mut self, round: &mut Round) -> Result<(), LogError> {
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

    /// Commits the batches that may go before the first one. What is left of each is empty.
    fn commit_removals(&mut self, round: &mut Round) -> Result<(), LogError> {
        let mut waiting: HashSet<Key> = HashSet::new();
        let mut ahead = Vec::new();
        for (at, batch) in self.batches.iter().enumerate().filter(|(_, batch)| batch.size() > 0) {
            let may_go = batch.records().all(|(key, value)| value.is_none() && !waiting.contains(&key));
            if may_go {
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

    /// Tells each shard that the disk is full, or no longer is, once.
    fn report_full(&mut self, round: &mut Round) {
        let full = self.is_full();
        for (shard, reported) in self.known.iter_mut().filter(|(_, reported)| *reported != full) {
            *reported = full;
            round.acks.push((*shard, StoreAck::Full(full)));
        }
    }
}

/// What came of it; `None`: there was no room.
fn unless_full<T>(result: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match result {
        Err(LogError::Full(_)) => Ok(None),
        other => other.map(Some),
    }
}
