//! The writer: one thread that takes the batches of all shards and makes each round of them one commit.
//!
//! While one commit is on its way to the disk the next one gathers: the more publishers, the more messages share an fsync.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::committer::{Committer, Round, Wait};
use super::disk::Disk;
use super::log::{Log, LogError, LogSize};
use weir_broker::{RecordBatch, RecordSink, ShardId, StoreAck};

/// How long a full disk is left alone before the next attempt.
const FULL_WAIT: Duration = Duration::from_millis(200);
/// The least that all shards together may have under way to the disk, bytes.
const BACKLOG_BYTES_MIN: u64 = 64 << 10;

type OnAck = Box<dyn Fn(ShardId, StoreAck) + Send + Sync>;

/// What the writer has done, for the metrics. Counters only grow.
#[derive(Debug, Default)]
pub struct StoreStats {
    pub commits: AtomicU64,
    /// Records written by commits, what cleaning moved not counted.
    pub records: AtomicU64,
    /// Batches of shards' turns.
    pub batches: AtomicU64,
    /// Nanoseconds spent in commits.
    pub commit_ns: AtomicU64,
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    pub live_bytes: AtomicU64,
    pub live_records: AtomicU64,
    /// The disk is full.
    pub full: AtomicBool,
}

impl StoreStats {
    fn show(&self, size: LogSize) {
        self.files.store(size.files, Ordering::Relaxed);
        self.bytes.store(size.bytes, Ordering::Relaxed);
        self.live_bytes.store(size.live_bytes, Ordering::Relaxed);
        self.live_records.store(size.live_records, Ordering::Relaxed);
    }

    fn count(&self, round: &Round, took: Duration) {
        if round.batches > 0 {
            self.commits.fetch_add(1, Ordering::Relaxed);
            self.records.fetch_add(round.records as u64, Ordering::Relaxed);
            self.batches.fetch_add(round.batches as u64, Ordering::Relaxed);
            self.commit_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }

    fn show_full(&self, full: bool, reserve_bytes: u64) {
        match (self.full.swap(full, Ordering::Relaxed), full) {
            (false, true) => tracing::error!(
                reserve_bytes,
                "the store's disk is full: new messages are refused or wait, until the reserve is free again"
            ),
            (true, false) => tracing::warn!("the store's disk has room again"),
            _ => {}
        }
    }
}

#[derive(Default)]
struct Waiting {
    batches: Vec<(ShardId, RecordBatch)>,
    ends: bool,
}

#[derive(Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    some: Condvar,
    on_ack: Mutex<Option<OnAck>>,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(&self, shard: ShardId, ack: StoreAck) {
        if let Some(on_ack) = &*self.on_ack.lock().unwrap_or_else(PoisonError::into_inner) {
            on_ack(shard, ack);
        }
    }
}

/// The handle of the writer's thread.
pub struct Writer {
    queue: Arc<Queue>,
    stats: Arc<StoreStats>,
    backlog_bytes: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why the writer could not start.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("the thread cannot be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// Called where the log failed: what is on the disk is not known any more, and nothing can be acknowledged.
pub type OnFailure = Box<dyn FnOnce(LogError) + Send>;

impl Writer {
    /// Starts the thread, with a reserve on the disk.
    ///
    /// # Errors
    /// The reserve cannot be looked at or sized, or the system has no thread to give.
    pub fn start<D: Disk + 'static>(mut log: Log<D>, on_failure: OnFailure) -> Result<Self, WriterError>
    where
        D::File: 'static,
    {
        log.keep_reserve()?;
        let queue = Arc::new(Queue::default());
        let stats = Arc::new(StoreStats::default());
        stats.show(log.size());
        stats.show_full(log.is_full(), log.reserve_bytes());
        // The reserve has room for what is under way when the disk becomes full.
        let backlog_bytes = (log.limits().file_bytes / 2).max(BACKLOG_BYTES_MIN);
        let (theirs, shown) = (Arc::clone(&queue), Arc::clone(&stats));
        let thread = thread::Builder::new().name("weir-store".into()).spawn(move || {
            if let Err(error) = write_all(log, &theirs, &shown) {
                on_failure(error);
            }
        })?;
        Ok(Self { queue, stats, backlog_bytes, thread: Mutex::new(Some(thread)) })
    }

    /// Writes what it was given, and ends the thread.
    pub fn finish(&self) {
        self.queue.waiting().ends = true;
        self.queue.some.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's thread has panicked");
        }
    }

    /// What it has done.
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.stats)
    }
}

impl RecordSink for Writer {
    fn on_ack(&self, on_ack: OnAck) {
        *self.queue.on_ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(on_ack);
    }

    fn append(&self, from: ShardId, batch: RecordBatch) {
        self.queue.waiting().batches.push((from, batch));
        self.queue.some.notify_one();
    }

    fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Commits until the end, or until the log fails.
fn write_all<D: Disk>(log: Log<D>, queue: &Queue, stats: &StoreStats) -> Result<(), LogError> {
    let mut committer = Committer::new(log);
    // When a full disk was last tried.
    let mut tried = Instant::now();
    loop {
        let (batches, ends) = next(queue, committer.wait(), FULL_WAIT.saturating_sub(tried.elapsed()));
        let begun = Instant::now();
        let waited = ends || begun.duration_since(tried) >= FULL_WAIT;
        if waited {
            tried = begun;
        }
        let round = committer.round(batches, waited)?;
        stats.count(&round, begun.elapsed());
        stats.show(committer.size());
        stats.show_full(committer.is_full(), committer.reserve_bytes());
        round.acks.into_iter().for_each(|(shard, ack)| queue.acknowledge(shard, ack));
        if ends && (committer.waiting() == 0 || committer.is_stuck()) {
            if committer.waiting() > 0 {
                tracing::warn!(
                    "shutdown: the store's disk is full: the last records are not saved; none of them was acknowledged"
                );
            } else if committer.is_full() {
                tracing::warn!("shutdown: the store's disk is full: all records are saved");
            }
            return Ok(());
        }
    }
}

/// Takes what was handed over, once there is something; on a full disk after `room_in` at the latest.
fn next(queue: &Queue, wait: Wait, room_in: Duration) -> (Vec<(ShardId, RecordBatch)>, bool) {
    let mut waiting = queue.waiting();
    match wait {
        Wait::Nothing => {}
        Wait::Batches => {
            while waiting.batches.is_empty() && !waiting.ends {
                waiting = queue.some.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
        }
        Wait::Room if waiting.batches.is_empty() && !waiting.ends => {
            waiting = queue.some.wait_timeout(waiting, room_in).unwrap_or_else(PoisonError::into_inner).0;
        }
        Wait::Room => {}
    }
    (std::mem::take(&mut waiting.batches), waiting.ends)
}
