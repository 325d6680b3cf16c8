//! The writer: one thread that takes the batches of all shards and makes each round of them one commit.
//!
//! While one commit is on its way to the disk the next one gathers: the more publishers, the more messages share an fsync.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::disk::Disk;
use super::log::{Log, LogError, LogSize};
use crate::broker::{Kept, RecordBatch, RecordSink, ShardId};

/// How long a full disk is left alone before the next attempt.
const FULL_WAIT: Duration = Duration::from_millis(200);

type Told = Box<dyn Fn(ShardId, Kept) + Send + Sync>;

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
    told: Mutex<Option<Told>>,
}

impl Queue {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, shard: ShardId, kept: Kept) {
        if let Some(told) = &*self.told.lock().unwrap_or_else(PoisonError::into_inner) {
            told(shard, kept);
        }
    }
}

/// The handle of the writer's thread.
pub struct Writer {
    queue: Arc<Queue>,
    stats: Arc<StoreStats>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// Called where the log failed: what is on the disk is not known any more, and nothing can be acknowledged.
pub type OnFailure = Box<dyn FnOnce(LogError) + Send>;

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub fn start<D: Disk + 'static>(log: Log<D>, on_failure: OnFailure) -> std::io::Result<Self>
    where
        D::File: 'static,
    {
        let queue = Arc::new(Queue::default());
        let stats = Arc::new(StoreStats::default());
        stats.show(log.size());
        let (theirs, shown) = (Arc::clone(&queue), Arc::clone(&stats));
        let thread = thread::Builder::new().name("weir-store".into()).spawn(move || {
            if let Err(error) = write_all(log, &theirs, &shown) {
                on_failure(error);
            }
        })?;
        Ok(Self { queue, stats, thread: Mutex::new(Some(thread)) })
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
    fn tell(&self, told: Told) {
        *self.queue.told.lock().unwrap_or_else(PoisonError::into_inner) = Some(told);
    }

    fn keep(&self, from: ShardId, batch: RecordBatch) {
        self.queue.waiting().batches.push((from, batch));
        self.queue.some.notify_one();
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.finish();
    }
}

/// Commits until the end, or until the log fails.
fn write_all<D: Disk>(mut log: Log<D>, queue: &Queue, stats: &StoreStats) -> Result<(), LogError> {
    loop {
        let (batches, ends) = next(queue, log.wants_cleaning());
        if !batches.is_empty() || log.wants_cleaning() {
            commit(&mut log, batches, queue, stats)?;
        }
        if ends {
            return Ok(());
        }
    }
}

/// Waits for batches, unless there is cleaning to do.
fn next(queue: &Queue, cleans: bool) -> (Vec<(ShardId, RecordBatch)>, bool) {
    let mut waiting = queue.waiting();
    while waiting.batches.is_empty() && !waiting.ends && !cleans {
        waiting = queue.some.wait(waiting).unwrap_or_else(PoisonError::into_inner);
    }
    (std::mem::take(&mut waiting.batches), waiting.ends)
}

fn commit<D: Disk>(
    log: &mut Log<D>,
    batches: Vec<(ShardId, RecordBatch)>,
    queue: &Queue,
    stats: &StoreStats,
) -> Result<(), LogError> {
    let begun = Instant::now();
    let mut newest: Vec<(ShardId, u64)> = Vec::new();
    for (shard, batch) in &batches {
        match newest.iter_mut().find(|(known, _)| known == shard) {
            Some((_, number)) => *number = batch.number,
            None => newest.push((*shard, batch.number)),
        }
    }
    let batches: Vec<RecordBatch> = batches.into_iter().map(|(_, batch)| batch).collect();
    let records = log.prepare(&batches);
    write(log, queue, stats, &newest)?;
    stats.commits.fetch_add(1, Ordering::Relaxed);
    stats.records.fetch_add(records as u64, Ordering::Relaxed);
    stats.batches.fetch_add(batches.len() as u64, Ordering::Relaxed);
    stats.commit_ns.fetch_add(u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    stats.show(log.size());
    for (shard, number) in newest {
        queue.tell(shard, Kept::UpTo(number));
    }
    Ok(())
}

/// Writes, as often as the disk is full; the shards are told when that begins and when it ends.
fn write<D: Disk>(
    log: &mut Log<D>,
    queue: &Queue,
    stats: &StoreStats,
    shards: &[(ShardId, u64)],
) -> Result<(), LogError> {
    let mut told: Vec<ShardId> = Vec::new();
    loop {
        match log.write() {
            Ok(()) => break,
            Err(LogError::Full(error)) => {
                if !stats.full.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, "the store's disk is full: nothing durable is acknowledged until there is room");
                }
                // A shard may come to need the disk while it is full.
                let waiting: Vec<ShardId> = queue.waiting().batches.iter().map(|(shard, _)| *shard).collect();
                for shard in shards.iter().map(|(shard, _)| *shard).chain(waiting) {
                    if !told.contains(&shard) {
                        told.push(shard);
                        queue.tell(shard, Kept::Full(true));
                    }
                }
                if queue.waiting().ends {
                    return Err(LogError::Full(error));
                }
                thread::sleep(FULL_WAIT);
                log.drop_dead()?;
            }
            Err(error) => return Err(error),
        }
    }
    if stats.full.swap(false, Ordering::Relaxed) {
        tracing::warn!("the store's disk has room again");
    }
    told.into_iter().for_each(|shard| queue.tell(shard, Kept::Full(false)));
    Ok(())
}
