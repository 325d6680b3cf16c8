//! Threads for blocking authentication: password hashes. Jobs wait in a [`FairQueue`], so a flood of attempts of one source
//! or on one endpoint does not delay the clients of the others.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::threads::Threads;
use crate::auth::counts::DroppedCounters;
use crate::auth::{Busy, FairQueue, QueueLimits, SourceKey, Ticket};
use weir_broker::EndpointId;

/// The outcome of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JobFate {
    /// A worker has taken it: do the work.
    Run,
    /// The queue is full, and the job's source has most of it: no work, only the answer.
    Evicted,
}

pub(super) type Job = Box<dyn FnOnce(JobFate) + Send>;

/// A thread pool that stops when it is dropped.
pub(super) struct Workers(Arc<Pool>);

/// A job that waits or runs. Dropping it takes a waiting job out of the queue: nothing is computed for a connection that
/// is closed.
pub(super) struct QueuedJob {
    pool: Arc<Pool>,
    ticket: Ticket<EndpointId>,
}

struct Pool {
    state: Mutex<PoolState>,
    changed: Condvar,
    dropped: DroppedCounters,
}

struct PoolState {
    queue: FairQueue<EndpointId, Job>,
    stopped: bool,
}

impl Workers {
    pub(super) fn start(count: u16, threads: &Threads, dropped: DroppedCounters) -> io::Result<Self> {
        let state = PoolState { queue: FairQueue::new(QueueLimits::default(), dropped.clone()), stopped: false };
        let workers = Self(Arc::new(Pool { state: Mutex::new(state), changed: Condvar::new(), dropped }));
        for number in 0..count.max(1) {
            let pool = Arc::clone(&workers.0);
            threads.spawn(&format!("weir-worker-{number}"), move || {
                while let Some(job) = pool.next() {
                    // The client of the job gets the handshake timeout; the worker must go on for others.
                    if catch_unwind(AssertUnwindSafe(|| job(JobFate::Run))).is_err() {
                        tracing::error!("authenticator panicked");
                    }
                }
            })?;
        }
        Ok(workers)
    }

    /// Queues a job of a client at `source` that holds `bytes` of it; a thread runs it when it is its turn.
    ///
    /// # Errors
    /// The queue is full for the source or the endpoint.
    pub(super) fn submit(
        &self,
        endpoint: EndpointId,
        source: SourceKey,
        bytes: usize,
        job: Job,
    ) -> Result<QueuedJob, Busy> {
        let pushed = self.0.lock().queue.push(endpoint, source, bytes, job)?;
        self.0.changed.notify_one();
        for evicted in pushed.evicted {
            evicted(JobFate::Evicted);
        }
        Ok(QueuedJob { pool: Arc::clone(&self.0), ticket: pushed.ticket })
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.lock().stopped = true;
        self.0.changed.notify_all();
    }
}

impl Drop for QueuedJob {
    fn drop(&mut self) {
        // The job is dropped after the lock is released: it owns credentials and handles, whose drops are not known here.
        let removed = self.pool.lock().queue.remove(&self.ticket);
        if removed.is_some() {
            self.pool.dropped.connection_closed.add(1);
        }
    }
}

impl Pool {
    /// Each change under the lock is one call of the queue; one that panicked leaves at worst a job that is not run.
    fn lock(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job; `None`: the pool has stopped. The lock is held while waiting, not while a job runs.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.stopped {
                return None;
            }
            if let Some(job) = state.queue.pop() {
                return Some(job);
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn source(number: u8) -> SourceKey {
        SourceKey::new(Some(SocketAddr::from(([192, 0, 2, number], 4000))))
    }

    /// A job that reports `number` and its fate.
    fn report(to: &mpsc::Sender<(u32, JobFate)>, number: u32) -> Job {
        let to = to.clone();
        Box::new(move |fate| to.send((number, fate)).unwrap())
    }

    /// Occupies the only worker until the sender is dropped.
    fn occupy(workers: &Workers) -> mpsc::Sender<()> {
        let (release, released) = mpsc::channel::<()>();
        let (started, running) = mpsc::channel();
        let wait = Box::new(move |_| {
            started.send(()).unwrap();
            let _ = released.recv();
        });
        std::mem::forget(workers.submit(EndpointId(0), source(0), 100, wait).unwrap());
        running.recv_timeout(LONG).unwrap();
        release
    }

    #[test]
    fn a_dropped_job_is_not_run_and_another_source_does_not_wait_for_a_flood() {
        let workers = Workers::start(1, &Threads::default(), DroppedCounters::default()).unwrap();
        let release = occupy(&workers);
        let (to, fates) = mpsc::channel();
        let submit =
            |from: u8, number: u32| workers.submit(EndpointId(1), source(from), 100, report(&to, number)).unwrap();
        let mut flood: Vec<QueuedJob> = (0..1000).map(|number| submit(1, number)).collect();
        let victim = submit(2, 5000);
        flood.truncate(2);
        drop(release);
        let order: Vec<_> = (0..3).map(|_| fates.recv_timeout(LONG).unwrap()).collect();
        assert_eq!(order, [(0, JobFate::Run), (5000, JobFate::Run), (1, JobFate::Run)]);
        assert!(fates.recv_timeout(Duration::from_millis(50)).is_err(), "no dropped job runs");
        drop((flood, victim));
    }

    #[test]
    fn a_full_queue_answers_the_newest_job_of_the_longest_source() {
        let workers = Workers::start(1, &Threads::default(), DroppedCounters::default()).unwrap();
        let release = occupy(&workers);
        let (to, fates) = mpsc::channel();
        let limits = QueueLimits::default();
        let mut jobs = Vec::new();
        let mut number = 0;
        for from in 1..=4 {
            for _ in 0..limits.per_source {
                jobs.push(workers.submit(EndpointId(1), source(from), 100, report(&to, number)).unwrap());
                number += 1;
            }
        }
        assert_eq!(number as usize, limits.per_endpoint);
        assert!(workers.submit(EndpointId(1), source(1), 100, report(&to, number)).is_err());
        jobs.push(workers.submit(EndpointId(1), source(9), 100, report(&to, 9999)).unwrap());
        let (evicted, fate) = fates.recv_timeout(LONG).unwrap();
        assert_eq!((evicted % limits.per_source as u32, fate), (limits.per_source as u32 - 1, JobFate::Evicted));
        jobs.clear();
        drop(release);
        // Another endpoint has its own bound, and a worker that panics goes on.
        let panics = workers.submit(EndpointId(2), source(1), 100, Box::new(|_| panic!("on purpose"))).unwrap();
        let after = workers.submit(EndpointId(2), source(1), 100, report(&to, 1)).unwrap();
        assert_eq!(fates.recv_timeout(LONG), Ok((1, JobFate::Run)));
        drop((panics, after));
    }
}
