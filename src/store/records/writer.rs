//! The writer: one thread that commits the batches of all shards, one commit per round.
//!
//! Batches that arrive during a commit form the next one: the more publishers, the more messages share an fsync (group
//! commit).

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::committer::{Committer, Round, Wait};
use super::disk::Disk;
use super::log::{LogSize, RecordLog, RecordLogError};
use weir_broker::{RecordBatch, RecordSink, ShardId, StoreAck};

/// Pause between attempts on a full disk.
const FULL_WAIT: Duration = Duration::from_millis(200);
/// Minimum of bytes that all shards together may have in progress.
const BACKLOG_BYTES_MIN: u64 = 64 << 10;

type OnAck = Box<dyn Fn(ShardId, StoreAck) + Send + Sync>;

/// Counters and gauges of the writer, for the metrics.
#[derive(Debug, Default)]
pub struct StoreStats {
    pub commits: AtomicU64,
    /// Records written by commits, without those moved by cleaning.
    pub records: AtomicU64,
    /// Batches of the shards' turns.
    pub batches: AtomicU64,
    /// Nanoseconds spent in commits.
    pub commit_ns: AtomicU64,
    pub files: AtomicU64,
    pub bytes: AtomicU64,
    pub live_bytes: AtomicU64,
    pub live_records: AtomicU64,
    /// Whether the disk is full.
    pub full: AtomicBool,
}

impl StoreStats {
    fn set_size(&self, size: LogSize) {
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

    fn set_full(&self, full: bool, reserve_bytes: u64) {
        match (self.full.swap(full, Ordering::Relaxed), full) {
            (false, true) => tracing::error!(
                reserve_bytes,
                "store disk full: new durable messages are refused or wait until there is space"
            ),
            (true, false) => tracing::warn!("store disk has space again"),
            _ => {}
        }
    }
}

#[derive(Default)]
struct PendingBatches {
    batches: Vec<(ShardId, RecordBatch)>,
    stopping: bool,
}

#[derive(Default)]
struct BatchQueue {
    pending: Mutex<PendingBatches>,
    changed: Condvar,
    on_ack: Mutex<Option<OnAck>>,
}

impl BatchQueue {
    fn pending(&self) -> MutexGuard<'_, PendingBatches> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn acknowledge(&self, shard: ShardId, ack: StoreAck) {
        if let Some(on_ack) = &*self.on_ack.lock().unwrap_or_else(PoisonError::into_inner) {
            on_ack(shard, ack);
        }
    }
}

/// Handle of the writer thread.
pub struct StoreWriter {
    queue: Arc<BatchQueue>,
    stats: Arc<StoreStats>,
    backlog_bytes: u64,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Why the writer could not start.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    #[error(transparent)]
    Log(#[from] RecordLogError),
    #[error("starting the writer thread failed: {0}")]
    Thread(#[from] std::io::Error),
}

/// Called when the log failed: the state on the disk is unknown, and nothing can be acknowledged any more.
pub type OnFailure = Box<dyn FnOnce(RecordLogError) + Send>;

impl StoreWriter {
    /// Starts the thread, with a reserve on the disk.
    ///
    /// The reserve cannot be read or resized, or the system refused a thread.
    pub fn start<D: Disk + 'static>(mut log: RecordLog<D>, on_failure: OnFailure) -> Result<Self, WriterError>
    where
        D::File: 'static,
    {
        log.enable_reserve()?;
        let queue = Arc::new(BatchQueue::default());
        let stats = Arc::new(StoreStats::default());
        stats.set_size(log.size());
        stats.set_full(log.is_full(), log.reserve_bytes());
        // The reserve has room for what is in progress when the disk becomes full.
        let backlog_bytes = (log.limits().file_bytes / 2).max(BACKLOG_BYTES_MIN);
        let (thread_queue, thread_stats) = (Arc::clone(&queue), Arc::clone(&stats));
        let thread = thread::Builder::new().name("weir-store".into()).spawn(move || {
            if let Err(error) = write_all(log, &thread_queue, &thread_stats) {
                on_failure(error);
            }
        })?;
        Ok(Self { queue, stats, backlog_bytes, thread: Mutex::new(Some(thread)) })
    }

    /// Writes all pending batches, and stops the thread.
    pub fn finish(&self) {
        self.queue.pending().stopping = true;
        self.queue.changed.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("store writer thread panicked");
        }
    }

    /// Counters and gauges of the writer.
    pub fn stats(&self) -> Arc<StoreStats> {
        Arc::clone(&self.stats)
    }
}

impl RecordSink for StoreWriter {
    fn on_ack(&self, on_ack: OnAck) {
        *self.queue.on_ack.lock().unwrap_or_else(PoisonError::into_inner) = Some(on_ack);
    }

    fn append(&self, from: ShardId, batch: RecordBatch) {
        self.queue.pending().batches.push((from, batch));
        self.queue.changed.notify_one();
    }

    fn backlog_bytes(&self) -> u64 {
        self.backlog_bytes
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Commits until shutdown, or until the log fails.
fn write_all<D: Disk>(log: RecordLog<D>, queue: &BatchQueue, stats: &StoreStats) -> Result<(), RecordLogError> {
    let mut committer = Committer::new(log);
    // When a write to a full disk was last attempted.
    let mut last_attempt = Instant::now();
    loop {
        let (batches, stopping) =
            wait_for_batches(queue, committer.wait(), FULL_WAIT.saturating_sub(last_attempt.elapsed()));
        let begun = Instant::now();
        let waited = stopping || begun.duration_since(last_attempt) >= FULL_WAIT;
        if waited {
            last_attempt = begun;
        }
        let round = committer.round(batches, waited)?;
        stats.count(&round, begun.elapsed());
        stats.set_size(committer.size());
        stats.set_full(committer.is_full(), committer.reserve_bytes());
        round.acks.into_iter().for_each(|(shard, ack)| queue.acknowledge(shard, ack));
        if stopping && (committer.waiting() == 0 || committer.is_stuck()) {
            if committer.waiting() > 0 {
                tracing::warn!(
                    "shutdown with a full store disk: the last records are not saved; none of them was acknowledged"
                );
            } else if committer.is_full() {
                tracing::warn!("shutdown with a full store disk: all records are saved");
            }
            return Ok(());
        }
    }
}

/// Waits for batches and takes them; on a full disk after `room_in` at the latest.
fn wait_for_batches(queue: &BatchQueue, wait: Wait, room_in: Duration) -> (Vec<(ShardId, RecordBatch)>, bool) {
    let mut waiting = queue.pending();
    match wait {
        Wait::Nothing => {}
        Wait::Batches => {
            while waiting.batches.is_empty() && !waiting.stopping {
                waiting = queue.changed.wait(waiting).unwrap_or_else(PoisonError::into_inner);
            }
        }
        Wait::Room if waiting.batches.is_empty() && !waiting.stopping => {
            waiting = queue.changed.wait_timeout(waiting, room_in).unwrap_or_else(PoisonError::into_inner).0;
        }
        Wait::Room => {}
    }
    (std::mem::take(&mut waiting.batches), waiting.stopping)
}
