//! The queue of recorded passes.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;

use super::Span;

/// Spans in the queue: some hours of passes without changes.
const QUEUE_SPANS_MAX: usize = 8192;

/// Counters of spans since the start.
#[derive(Debug, Default)]
pub struct TelemetryStats {
    pub exported: AtomicU64,
    /// Dropped: more than a pass may have.
    pub over_pass_limit: AtomicU64,
    /// Dropped: the oldest, when the queue was full.
    pub over_queue: AtomicU64,
    /// Rejected by the collector.
    pub refused: AtomicU64,
    /// Whether the last attempt failed.
    pub failing: AtomicBool,
}

impl TelemetryStats {
    /// Dropped spans by reason.
    pub fn dropped(&self) -> [(&'static str, u64); 3] {
        let read = |value: &AtomicU64| value.load(Ordering::Relaxed);
        [
            ("pass_limit", read(&self.over_pass_limit)),
            ("queue_full", read(&self.over_queue)),
            ("refused", read(&self.refused)),
        ]
    }
}

/// Recorded passes. Pushing never blocks; when the queue is full, the oldest passes are dropped.
#[derive(Debug, Default)]
pub(super) struct SpanQueue {
    waiting: Mutex<QueuedPass>,
    pub(super) woken: Notify,
    pub(super) stats: Arc<TelemetryStats>,
}

#[derive(Debug, Default)]
struct QueuedPass {
    passes: VecDeque<Vec<Span>>,
    spans: usize,
}

impl SpanQueue {
    /// Adds a pass. `left_out`: spans of it that were not recorded.
    pub(super) fn push(&self, pass: Vec<Span>, left_out: u64) {
        self.stats.over_pass_limit.fetch_add(left_out, Ordering::Relaxed);
        self.change(|waiting| {
            waiting.spans += pass.len();
            waiting.passes.push_back(pass);
        });
        self.woken.notify_one();
    }

    /// Puts a pass that could not be sent back to the front.
    pub(super) fn push_front(&self, pass: Vec<Span>) {
        self.change(|waiting| {
            waiting.spans += pass.len();
            waiting.passes.push_front(pass);
        });
    }

    /// Takes the oldest pass.
    pub(super) fn pop(&self) -> Option<Vec<Span>> {
        let mut taken = None;
        self.change(|waiting| {
            taken = waiting.passes.pop_front();
            waiting.spans -= taken.as_ref().map_or(0, Vec::len);
        });
        taken
    }

    fn change(&self, change: impl FnOnce(&mut QueuedPass)) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut waiting);
        while waiting.spans > QUEUE_SPANS_MAX
            && let Some(oldest) = waiting.passes.pop_front()
        {
            waiting.spans -= oldest.len();
            self.stats.over_queue.fetch_add(oldest.len() as u64, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(spans: usize, name: &str) -> Vec<Span> {
        let span = Span {
            trace_id: [1; 16],
            span_id: [1; 8],
            parent_id: None,
            name: name.into(),
            begin_ns: 0,
            end_ns: 0,
            attributes: Vec::new(),
            error: None,
        };
        vec![span; spans]
    }

    #[test]
    fn a_full_queue_drops_the_oldest_passes_and_counts_them() {
        let queue = SpanQueue::default();
        for name in ["a", "b", "c"] {
            queue.push(pass(QUEUE_SPANS_MAX / 2, name), 0);
        }
        assert_eq!(queue.stats.dropped()[1], ("queue_full", QUEUE_SPANS_MAX as u64 / 2));
        let oldest = queue.pop().unwrap();
        assert_eq!(oldest[0].name, "b");
        queue.push(pass(1, "d"), 0);
        queue.push_front(oldest);
        let names: Vec<String> = std::iter::from_fn(|| queue.pop()).map(|pass| pass[0].name.clone()).collect();
        assert_eq!(names, ["c", "d"], "a pass that is put back is the oldest again");
        assert_eq!(queue.pop(), None);
    }
}
