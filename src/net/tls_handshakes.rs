//! Threads for TLS handshakes. The asymmetric cryptography of a handshake takes up to some milliseconds, in which an event
//! loop would serve no other client.
//!
//! Endpoints are served in turn, and within an endpoint the sources, so a flood from one source, or on one endpoint,
//! delays no other. The threads have a lower priority than the event loops: on a busy machine handshakes wait, not
//! messages.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use super::threads::Threads;
use crate::source_address::SourceAddress;
use weir_broker::EndpointId;

/// Maximum of queued handshakes of one source on an endpoint.
const QUEUED_PER_SOURCE_MAX: usize = 1024;
/// Maximum of queued handshakes of an endpoint; above it, the source with the longest queue loses its newest one. (Those
/// of all endpoints are pending connections, whose number the node bounds.)
const QUEUED_PER_ENDPOINT_MAX: usize = 4096;
/// Niceness of the threads, on Linux: at 10 a thread gets about a tenth of a core that an event loop keeps busy.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// The work of one step. `true`: do it; `false`: the queue has no room for it any more.
type Step = Box<dyn FnOnce(bool) + Send>;

/// A step that is queued; `None`: cancelled.
type QueuedStep = Arc<Mutex<Option<Step>>>;

/// A thread pool that stops when it is dropped.
pub(super) struct TlsHandshakes(Arc<Pool>);

/// A queued or running step. Dropping it cancels the step, unless it runs already, and frees what it holds.
pub(super) struct TlsStepHandle(QueuedStep);

impl Drop for TlsStepHandle {
    fn drop(&mut self) {
        drop(lock(&self.0).take());
    }
}

/// Every change under these locks is a single operation, so a panic leaves no partial one.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Default)]
struct Pool {
    queues: Mutex<Queues>,
    changed: Condvar,
}

#[derive(Default)]
struct Queues {
    by_endpoint: HashMap<EndpointId, SourceQueues>,
    /// Endpoints with queued steps, in the order in which they are served.
    turns: VecDeque<EndpointId>,
    stopped: bool,
}

/// The queues of an endpoint.
#[derive(Default)]
struct SourceQueues {
    by_source: HashMap<Option<SourceAddress>, VecDeque<QueuedStep>>,
    /// Sources with queued steps, in the order in which they are served.
    turns: VecDeque<Option<SourceAddress>>,
    len: usize,
}

impl Queues {
    /// Queues a step; returns the one that has no room any more.
    fn push(&mut self, endpoint: EndpointId, source: Option<SourceAddress>, step: QueuedStep) -> Option<QueuedStep> {
        let queues = self.by_endpoint.entry(endpoint).or_default();
        if queues.len == 0 {
            self.turns.push_back(endpoint);
        }
        queues.push(source, step)
    }

    /// The next step that is not cancelled.
    fn pop(&mut self) -> Option<Step> {
        loop {
            let endpoint = self.turns.pop_front()?;
            let queues = self.by_endpoint.get_mut(&endpoint)?;
            let next = queues.pop();
            if queues.len == 0 {
                self.by_endpoint.remove(&endpoint);
            } else {
                self.turns.push_back(endpoint);
            }
            if next.is_some() {
                return next;
            }
        }
    }
}

impl SourceQueues {
    /// See [`Queues::push`].
    fn push(&mut self, source: Option<SourceAddress>, step: QueuedStep) -> Option<QueuedStep> {
        let queue = self.by_source.entry(source).or_default();
        if queue.len() >= QUEUED_PER_SOURCE_MAX {
            return Some(step);
        }
        if queue.is_empty() {
            self.turns.push_back(source);
        }
        queue.push_back(step);
        self.len += 1;
        if self.len <= QUEUED_PER_ENDPOINT_MAX {
            return None;
        }
        let longest = self.by_source.iter().max_by_key(|(_, queue)| queue.len()).map(|(source, _)| *source)?;
        let queue = self.by_source.get_mut(&longest)?;
        let newest = queue.pop_back();
        self.len -= 1;
        if queue.is_empty() {
            self.by_source.remove(&longest);
            self.turns.retain(|turn| *turn != longest);
        }
        newest
    }

    /// The next step that is not cancelled.
    fn pop(&mut self) -> Option<Step> {
        loop {
            let source = self.turns.pop_front()?;
            let queue = self.by_source.get_mut(&source)?;
            let next = queue.pop_front();
            self.len -= usize::from(next.is_some());
            if queue.is_empty() {
                self.by_source.remove(&source);
            } else {
                self.turns.push_back(source);
            }
            if let Some(step) = next.and_then(|next| lock(&next).take()) {
                return Some(step);
            }
        }
    }
}

impl TlsHandshakes {
    pub(super) fn start(count: u16, threads: &Threads) -> io::Result<Self> {
        let handshakes = Self(Arc::default());
        for number in 0..count.max(1) {
            let pool = Arc::clone(&handshakes.0);
            threads.spawn(&format!("weir-tls-{number}"), move || pool.run())?;
        }
        Ok(handshakes)
    }

    /// Queues a step of a handshake of `source` (`None`: a Unix socket). The step is called on a thread of the pool, or
    /// with `false` at once, if the queue has no room for it; that may also happen to a step that was queued before.
    pub(super) fn submit(&self, endpoint: EndpointId, source: Option<SourceAddress>, step: Step) -> TlsStepHandle {
        let queued = Arc::new(Mutex::new(Some(step)));
        let without_room = lock(&self.0.queues).push(endpoint, source, Arc::clone(&queued));
        self.0.changed.notify_one();
        if let Some(step) = without_room.and_then(|step| lock(&step).take()) {
            step(false);
        }
        TlsStepHandle(queued)
    }
}

impl Drop for TlsHandshakes {
    fn drop(&mut self) {
        lock(&self.0.queues).stopped = true;
        self.0.changed.notify_all();
    }
}

impl Pool {
    fn run(&self) {
        lower_priority();
        while let Some(step) = self.next() {
            // The client of the step gets the handshake timeout; the thread must go on for others.
            if catch_unwind(AssertUnwindSafe(|| step(true))).is_err() {
                tracing::error!("TLS handshake panicked");
            }
        }
    }

    /// The next step; `None`: the pool has stopped. The lock is held while waiting, not while a step runs.
    fn next(&self) -> Option<Step> {
        let mut queues = lock(&self.queues);
        loop {
            if queues.stopped {
                return None;
            }
            if let Some(step) = queues.pop() {
                return Some(step);
            }
            queues = self.changed.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// Lowers the priority of this thread. On Linux the niceness belongs to a thread, elsewhere to the process, which keeps
/// its own.
fn lower_priority() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::warn!(%error, "priority of TLS handshake thread not lowered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> Option<SourceAddress> {
        Some(SourceAddress::new([192, 0, 2, last].into()))
    }

    type Done = Arc<Mutex<Vec<(u8, bool)>>>;

    fn step(done: &Done, name: u8) -> QueuedStep {
        let done = Arc::clone(done);
        Arc::new(Mutex::new(Some(Box::new(move |has_room| lock(&done).push((name, has_room))))))
    }

    const ENDPOINT: EndpointId = EndpointId(1);

    #[test]
    fn endpoints_and_their_sources_are_served_in_turn_and_cancelled_steps_are_skipped() {
        let (mut queues, done) = (Queues::default(), Done::default());
        for name in [1, 1, 1, 2, 3] {
            assert!(queues.push(ENDPOINT, source(name), step(&done, name)).is_none());
        }
        let cancelled = step(&done, 3);
        assert!(queues.push(ENDPOINT, source(3), Arc::clone(&cancelled)).is_none());
        drop(TlsStepHandle(cancelled));
        for _ in 0..2 {
            assert!(queues.push(EndpointId(2), source(1), step(&done, 11)).is_none());
        }
        while let Some(step) = queues.pop() {
            step(true);
        }
        let names: Vec<u8> = lock(&done).iter().map(|(name, _)| *name).collect();
        assert_eq!(names, [1, 11, 2, 11, 3, 1, 1]);
        assert!(queues.by_endpoint.is_empty() && queues.turns.is_empty());
    }

    #[test]
    fn the_queue_of_a_source_is_bounded() {
        let (mut queues, done) = (Queues::default(), Done::default());
        for _ in 0..QUEUED_PER_SOURCE_MAX {
            assert!(queues.push(ENDPOINT, source(1), step(&done, 1)).is_none());
        }
        let without_room = queues.push(ENDPOINT, source(1), step(&done, 9)).expect("no room");
        lock(&without_room).take().unwrap()(false);
        assert!(queues.push(ENDPOINT, source(2), step(&done, 2)).is_none(), "another source has room");
        assert_eq!(*lock(&done), [(9, false)]);
    }

    #[test]
    fn a_full_queue_displaces_a_step_of_the_source_with_the_most() {
        let (mut queues, done) = (Queues::default(), Done::default());
        for number in 0..QUEUED_PER_ENDPOINT_MAX {
            // The first source has 1,000, the others have 16 at most.
            let name = if number < 1000 { 0 } else { 1 + (number % 200) as u8 };
            assert!(queues.push(ENDPOINT, source(name), step(&done, name)).is_none());
        }
        let displaced = queues.push(ENDPOINT, source(255), step(&done, 255)).expect("no room");
        lock(&displaced).take().unwrap()(false);
        assert_eq!(*lock(&done), [(0, false)]);
        assert_eq!(queues.by_endpoint[&ENDPOINT].len, QUEUED_PER_ENDPOINT_MAX);
    }
}
