//! Bounds the concurrent requests to a service, or calls of an authenticator. Waiting requests are in a [`FairQueue`]: endpoints take turns, and the
//! source addresses of each, so that a flood of one of them does not delay the others' clients.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::auth::counts::{Count, DroppedCounters};
use crate::auth::fair_queue::{Busy, FairQueue, QueueLimits, Ticket};
use crate::auth::source_key::SourceKey;

pub(in crate::auth) struct RequestQueue {
    state: Arc<Mutex<QueueState>>,
    connection_closed: Count,
}

struct QueueState {
    /// Requests that may be sent now.
    free: usize,
    /// By endpoint: what wakes each waiting request.
    waiting: FairQueue<Arc<str>, oneshot::Sender<Permit>>,
}

/// Each change under the lock is one call of the queue, so a panic leaves no partial change.
fn lock(state: &Mutex<QueueState>) -> MutexGuard<'_, QueueState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request that may be sent. Dropping it lets the next one go.
pub(in crate::auth) struct Permit {
    state: Arc<Mutex<QueueState>>,
}

/// A request that waits. Dropping it takes it out of the queue.
struct Waiting {
    state: Arc<Mutex<QueueState>>,
    ticket: Ticket<Arc<str>>,
    connection_closed: Count,
    turn: oneshot::Receiver<Permit>,
    /// It has had its turn, or was displaced.
    ended: bool,
}

impl RequestQueue {
    pub(in crate::auth) fn new(at_once: u16, dropped: &DroppedCounters) -> Self {
        Self::with_limits(at_once, QueueLimits::default(), dropped)
    }

    fn with_limits(at_once: u16, limits: QueueLimits, dropped: &DroppedCounters) -> Self {
        let waiting = FairQueue::new(limits, dropped.clone());
        let state = QueueState { free: usize::from(at_once.max(1)), waiting };
        Self { state: Arc::new(Mutex::new(state)), connection_closed: dropped.connection_closed.clone() }
    }

    /// Waits until a request of so many bytes may be sent. Cancelling the wait leaves the queue.
    ///
    /// # Errors
    /// Too many wait already, or the queue is full and another source needed the place.
    pub(in crate::auth) async fn acquire(
        &self,
        endpoint: &Arc<str>,
        source: SourceKey,
        bytes: usize,
    ) -> Result<Permit, Busy> {
        let mut waiting = match self.enter(endpoint, source, bytes)? {
            Turn::Now(permit) => return Ok(permit),
            Turn::Later(waiting) => waiting,
        };
        let turn = (&mut waiting.turn).await;
        waiting.ended = true;
        turn.map_err(|_| Busy)
    }

    fn enter(&self, endpoint: &Arc<str>, source: SourceKey, bytes: usize) -> Result<Turn, Busy> {
        let mut state = lock(&self.state);
        if state.free > 0 {
            state.free -= 1;
            return Ok(Turn::Now(Permit { state: Arc::clone(&self.state) }));
        }
        let (wake, turn) = oneshot::channel();
        let pushed = state.waiting.push(Arc::clone(endpoint), source, bytes, wake)?;
        drop(state);
        // A displaced request is refused by dropping its sender.
        drop(pushed.evicted);
        Ok(Turn::Later(Waiting {
            state: Arc::clone(&self.state),
            ticket: pushed.ticket,
            connection_closed: self.connection_closed.clone(),
            turn,
            ended: false,
        }))
    }
}

enum Turn {
    Now(Permit),
    Later(Waiting),
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = lock(&self.state);
        let Some(next) = state.waiting.pop() else {
            state.free += 1;
            return;
        };
        drop(state);
        // A request that was cancelled at this moment returns the permit, whose drop passes it on.
        let _ = next.send(Permit { state: Arc::clone(&self.state) });
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.connection_closed.add(1);
        // A request that has left the queue has an unused permit, which is dropped with it.
        let removed = lock(&self.state).waiting.remove(&self.ticket);
        drop(removed);
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Wait<'a> = Pin<Box<dyn Future<Output = Result<Permit, Busy>> + 'a>>;

    fn poll<'a>(wait: &mut Wait<'a>) -> Poll<Result<Permit, Busy>> {
        wait.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    fn source(number: u8) -> SourceKey {
        SourceKey::new(Some(SocketAddr::from(([192, 0, 2, number], 4000))))
    }

    #[test]
    fn requests_are_bounded_and_endpoints_and_sources_take_turns() {
        let queue = RequestQueue::new(2, &DroppedCounters::default());
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        let wait = |(endpoint, from): (usize, u8)| -> Wait<'_> {
            Box::pin(queue.acquire(&names[endpoint], source(from), 100))
        };
        let requests = [(0, 1), (0, 1), (0, 1), (0, 1), (0, 1), (0, 2), (1, 1)];
        let mut waits: Vec<Wait<'_>> = requests.map(wait).into();
        let mut permits = Vec::new();
        for (index, wait) in waits.iter_mut().enumerate() {
            match poll(wait) {
                Poll::Ready(permit) => permits.push(permit.unwrap()),
                Poll::Pending => assert!(index >= 2, "{index}"),
            }
        }
        assert_eq!(permits.len(), 2);
        // A cancelled wait holds nothing.
        drop(waits.remove(2));
        let mut order = Vec::new();
        let mut waiting: Vec<(usize, Wait<'_>)> = (0..).zip(waits.drain(2..)).collect();
        while let Some(permit) = permits.pop() {
            drop(permit);
            waiting.retain_mut(|(index, wait)| match poll(wait) {
                Poll::Ready(permit) => {
                    order.push(*index);
                    permits.push(permit.unwrap());
                    false
                }
                Poll::Pending => true,
            });
            assert!(permits.len() <= 2);
        }
        // 0 and 1 are of source 1 on endpoint a, 2 is of source 2, and 3 is on endpoint b.
        assert_eq!((order, waiting.len()), (vec![0, 3, 2, 1], 0));
        assert_eq!(lock(&queue.state).free, 2);
    }

    #[test]
    fn a_wait_that_is_cancelled_after_its_turn_passes_the_permit_on() {
        let queue = RequestQueue::new(1, &DroppedCounters::default());
        let name: Arc<str> = "a".into();
        let mut waits: Vec<Wait<'_>> =
            (0..3).map(|_| Box::pin(queue.acquire(&name, source(1), 100)) as Wait<'_>).collect();
        let mut states: Vec<_> = waits.iter_mut().map(poll).collect();
        let Poll::Ready(Ok(permit)) = states.remove(0) else { panic!("no permit") };
        drop(permit);
        drop(waits.remove(1)); // it had the permit, and did not look
        let Poll::Ready(Ok(permit)) = poll(&mut waits[1]) else { panic!("the permit is lost") };
        drop(permit);
        assert_eq!(lock(&queue.state).free, 1);
    }

    #[test]
    fn waiting_requests_are_bounded_and_a_full_queue_makes_room_for_another_source() {
        let queue =
            RequestQueue::with_limits(1, QueueLimits { per_source: 3, per_endpoint: 3 }, &DroppedCounters::default());
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let wait = |endpoint, from| Box::pin(queue.acquire(endpoint, source(from), 100)) as Wait<'_>;
        let mut waits: Vec<Wait<'_>> = (0..4).map(|_| wait(&a, 1)).collect();
        let states: Vec<_> = waits.iter_mut().map(poll).collect();
        assert!(states[0].is_ready() && states[1..].iter().all(Poll::is_pending));
        assert!(matches!(poll(&mut wait(&a, 1)), Poll::Ready(Err(Busy))));
        let mut other_source = wait(&a, 2);
        assert!(poll(&mut other_source).is_pending());
        assert!(matches!(poll(&mut waits[3]), Poll::Ready(Err(Busy))), "the newest of the source with most");
        let mut other_endpoint = wait(&b, 1);
        assert!(poll(&mut other_endpoint).is_pending());
    }
}
