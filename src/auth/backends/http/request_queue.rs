//! Bounds the concurrent requests to the service. Endpoints take turns, so that a flood on one of them does not delay the
//! others' clients.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

/// Clients of one endpoint that wait; more are refused as [`AuthRefusal::Busy`](crate::auth::AuthRefusal::Busy).
const WAITING_MAX: usize = 4096;

pub(super) struct RequestQueue {
    /// Requests that may be sent now. Only the head of each line waits for one; they are served first come, first served.
    permits: Semaphore,
    /// By endpoint.
    lines: StdMutex<HashMap<Arc<str>, Arc<Line>>>,
}

struct Line {
    places: Semaphore,
    head: Mutex<()>,
}

impl RequestQueue {
    pub(super) fn new(at_once: u16) -> Self {
        Self { permits: Semaphore::new(usize::from(at_once)), lines: StdMutex::default() }
    }

    /// Waits until a request may be sent; it ends when the permit is dropped. Cancelling the wait leaves the line.
    /// `None`: too many wait already.
    pub(super) async fn acquire(&self, endpoint: &Arc<str>) -> Option<SemaphorePermit<'_>> {
        let line = self.line(endpoint);
        let _place = line.places.try_acquire().ok()?;
        let _head = line.head.lock().await;
        self.permits.acquire().await.ok()
    }

    /// An endpoint's line. A new endpoint's first request removes empty lines.
    fn line(&self, endpoint: &Arc<str>) -> Arc<Line> {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get(endpoint) {
            return Arc::clone(line);
        }
        lines.retain(|_, line| Arc::strong_count(line) > 1);
        let line = Arc::new(Line { places: Semaphore::new(WAITING_MAX), head: Mutex::new(()) });
        lines.insert(Arc::clone(endpoint), Arc::clone(&line));
        line
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    type Turn<'a> = Pin<Box<dyn Future<Output = Option<SemaphorePermit<'a>>> + 'a>>;

    fn poll<'a>(turn: &mut Turn<'a>) -> Poll<Option<SemaphorePermit<'a>>> {
        turn.as_mut().poll(&mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn requests_are_bounded_and_endpoints_take_turns() {
        let queue = RequestQueue::new(2);
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        let wait = |endpoint: usize| -> Turn<'_> { Box::pin(queue.acquire(&names[endpoint])) };
        let mut turns: Vec<Turn<'_>> = [0, 0, 0, 0, 1, 1].map(wait).into();
        let mut out = Vec::new();
        for (index, turn) in turns.iter_mut().enumerate() {
            match poll(turn) {
                Poll::Ready(permit) => out.push(permit.unwrap()),
                Poll::Pending => assert!(index >= 2, "{index}"),
            }
        }
        assert_eq!(out.len(), 2);
        // A cancelled wait holds nothing.
        drop(turns.remove(2));
        let mut order = Vec::new();
        let mut waiting: Vec<(usize, Turn<'_>)> = (0..).zip(turns.drain(2..)).collect();
        while let Some(permit) = out.pop() {
            drop(permit);
            waiting.retain_mut(|(index, turn)| match poll(turn) {
                Poll::Ready(permit) => {
                    order.push(*index);
                    out.push(permit.unwrap());
                    false
                }
                Poll::Pending => true,
            });
            assert!(out.len() <= 2);
        }
        // 0 is the last of endpoint a, 1 and 2 are of b.
        assert_eq!((order.len(), waiting.len()), (3, 0), "{order:?}");
        assert!(order.iter().position(|index| *index == 1) < order.iter().position(|index| *index == 2), "{order:?}");
    }

    #[test]
    fn waiting_requests_are_bounded_by_endpoint() {
        let queue = RequestQueue::new(1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut turns: Vec<Turn<'_>> = (0..=WAITING_MAX).map(|_| Box::pin(queue.acquire(&a)) as Turn<'_>).collect();
        let mut taken: Vec<Poll<Option<SemaphorePermit<'_>>>> = turns.iter_mut().map(poll).collect();
        taken.retain(Poll::is_ready);
        assert!(matches!(taken.as_slice(), [Poll::Ready(Some(_))]));
        let mut one_more: Turn<'_> = Box::pin(queue.acquire(&a));
        assert!(matches!(poll(&mut one_more), Poll::Ready(None)));
        let mut other: Turn<'_> = Box::pin(queue.acquire(&b));
        assert!(poll(&mut other).is_pending());
    }
}
