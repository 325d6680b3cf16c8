//! Who waits for the service: so many are asked about at once, and endpoints take turns, so that a flood on one of them
//! does not keep the others' clients waiting.

use std::collections::HashMap;
use std::sync::{Arc, Mutex as StdMutex, PoisonError};

use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

/// Clients of one endpoint that wait; above it the answer is "busy".
const WAITING_MAX: usize = 4096;

pub(super) struct Queue {
    /// Questions that may go out now. Only the first of each line asks for one, and they get it in the order they asked.
    free: Semaphore,
    /// By endpoint.
    lines: StdMutex<HashMap<Arc<str>, Arc<Line>>>,
}

struct Line {
    places: Semaphore,
    head: Mutex<()>,
}

impl Queue {
    pub(super) fn new(at_once: u16) -> Self {
        Self { free: Semaphore::new(usize::from(at_once)), lines: StdMutex::default() }
    }

    /// Waits until a question may go out; it is over when what this gives is dropped. Who no longer waits leaves no trace.
    /// `None`: too many wait already.
    pub(super) async fn turn(&self, endpoint: &Arc<str>) -> Option<SemaphorePermit<'_>> {
        let line = self.line(endpoint);
        let _place = line.places.try_acquire().ok()?;
        let _head = line.head.lock().await;
        self.free.acquire().await.ok()
    }

    /// An endpoint's line. Lines in which nobody waits go when another endpoint comes.
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
    fn so_many_at_once_and_endpoints_take_turns() {
        let queue = Queue::new(2);
        let names: [Arc<str>; 2] = ["a".into(), "b".into()];
        let wait = |endpoint: usize| -> Turn<'_> { Box::pin(queue.turn(&names[endpoint])) };
        let mut turns: Vec<Turn<'_>> = [0, 0, 0, 0, 1, 1].map(wait).into();
        let mut out = Vec::new();
        for (index, turn) in turns.iter_mut().enumerate() {
            match poll(turn) {
                Poll::Ready(permit) => out.push(permit.unwrap()),
                Poll::Pending => assert!(index >= 2, "{index}"),
            }
        }
        assert_eq!(out.len(), 2);
        // One that waits goes away; nobody waits for it.
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
    fn what_waits_is_bounded_by_endpoint() {
        let queue = Queue::new(1);
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let mut turns: Vec<Turn<'_>> = (0..=WAITING_MAX).map(|_| Box::pin(queue.turn(&a)) as Turn<'_>).collect();
        let mut taken: Vec<Poll<Option<SemaphorePermit<'_>>>> = turns.iter_mut().map(poll).collect();
        taken.retain(Poll::is_ready);
        assert!(matches!(taken.as_slice(), [Poll::Ready(Some(_))]));
        let mut one_more: Turn<'_> = Box::pin(queue.turn(&a));
        assert!(matches!(poll(&mut one_more), Poll::Ready(None)));
        let mut other: Turn<'_> = Box::pin(queue.turn(&b));
        assert!(poll(&mut other).is_pending());
    }
}
