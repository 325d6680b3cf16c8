//! Threads for what takes time: slow password hashes, questions to other servers. Endpoints take turns: a flood of
//! attempts on one of them does not keep the others' clients waiting.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::{io, thread};

use weir_broker::EndpointId;

/// Work of one endpoint that waits for a thread; above it the answer is "busy".
const WAITING_MAX: usize = 4096;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads that ends with its last handle.
pub(super) struct Workers(Arc<Shared>);

/// Too much waits already.
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
    /// Endpoints with work, in the order of their turns.
    turns: VecDeque<EndpointId>,
    ended: bool,
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
                    // Whose job it was runs into the handshake's deadline; the worker is needed by others.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("an authenticator has panicked");
                    }
                }
            })?;
        }
        Ok(workers)
    }

    /// Lets a thread do it, in its endpoint's turn.
    pub(super) fn submit(&self, endpoint: EndpointId, job: Job) -> Result<(), Busy> {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner).push(endpoint, job)?;
        self.0.changed.notify_one();
        Ok(())
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.queues.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    /// The next job; `None`: the pool ended. The lock is held while waiting, not while working.
    fn next(&self) -> Option<Job> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if queues.ended {
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
    fn endpoints_take_turns_and_each_has_its_own_bound() {
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
