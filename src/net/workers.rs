//! Threads for blocking authentication: password hashes. Endpoints are served in turn, so that a flood of attempts on
//! one endpoint does not delay the clients of the others.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::{io, thread};

use weir_broker::EndpointId;

/// Maximum of queued jobs of one endpoint; above it the answer is [`Busy`].
const WAITING_MAX: usize = 4096;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A thread pool that stops when it is dropped.
pub(super) struct Workers(Arc<Shared>);

/// The endpoint's queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Busy;

#[derive(Default)]
struct Shared {
    queues: Mutex<Queues>,
    changed: Condvar,
}

#[derive(Default)]
struct Queues {
    waiting: HashMap<EndpointId, VecDeque<Job>>,
    /// Endpoints with queued jobs, in the order in which they are served.
    turns: VecDeque<EndpointId>,
    stopped: bool,
}

impl Queues {
    fn push(&mut self, endpoint: EndpointId, job: Job) -> Result<(), Busy> {
        let queue = self.waiting.entry(endpoint).or_default();
        if queue.len() >= WAITING_MAX {
            return Err(Busy);
        }
        if queue.is_empty() {
            self.turns.push_back(endpoint);
        }
        queue.push_back(job);
        Ok(())
    }

    fn pop(&mut self) -> Option<Job> {
        let endpoint = self.turns.pop_front()?;
        let queue = self.waiting.get_mut(&endpoint)?;
        let job = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&endpoint);
        } else {
            self.turns.push_back(endpoint);
        }
        job
    }
}

impl Workers {
    pub(super) fn start(threads: u16) -> io::Result<Self> {
        let workers = Self(Arc::default());
        for number in 0..threads.max(1) {
            let shared = Arc::clone(&workers.0);
            thread::Builder::new().name(format!("weir-worker-{number}")).spawn(move || {
                while let Some(job) = shared.next() {
                    // The client of the job gets the handshake timeout; the worker must go on for others.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("authenticator panicked");
                    }
                }
            })?;
        }
        Ok(workers)
    }

    /// Queues a job; a thread runs it when its endpoint is served.
    pub(super) fn submit(&self, endpoint: EndpointId, job: Job) -> Result<(), Busy> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner).push(endpoint, job)?;
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// The next job; `None`: the pool has stopped. The lock is held while waiting, not while a job runs.
    fn next(&self) -> Option<Job> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if queues.stopped {
                return None;
            }
            if let Some(job) = queues.pop() {
                return Some(job);
            }
            queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_served_in_turn_and_each_queue_has_its_bound() {
        let mut queues = Queues::default();
        let done: Arc<Mutex<Vec<u32>>> = Arc::default();
        let mut push = |endpoint: u32| {
            let done = Arc::clone(&done);
            queues.push(EndpointId(endpoint), Box::new(move || done.lock().unwrap().push(endpoint)))
        };
        for _ in 0..WAITING_MAX {
            push(1).unwrap();
        }
        assert_eq!(push(1), Err(Busy));
        for endpoint in [2, 2, 3] {
            push(endpoint).unwrap();
        }
        for _ in 0..8 {
            queues.pop().unwrap()();
        }
        assert_eq!(*done.lock().unwrap(), [1, 2, 3, 1, 2, 1, 1, 1]);
        while let Some(job) = queues.pop() {
            job();
        }
        assert_eq!(done.lock().unwrap().len(), WAITING_MAX + 3);
        assert!(queues.waiting.is_empty() && queues.turns.is_empty());
    }
}
