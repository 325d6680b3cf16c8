//! The queue of recorded passes, and the task that exports them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderMap;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::post::{PostError, post};
use super::{Span, SpanRecorder, otlp};
use crate::http_client::HttpClient;

/// How long the collector may take to answer.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between attempts: it doubles from the first value to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The longest `Retry-After` of a collector that is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Spans in the queue: some hours of passes without changes.
const QUEUE_SPANS_MAX: usize = 8192;

/// The collector of the traces, and the identity of this process.
#[derive(Debug, Clone)]
pub struct ExporterOptions {
    /// The whole URL, with `/v1/traces`.
    pub url: Uri,
    /// Headers of each request: the collector's credentials.
    pub headers: HeaderMap,
    /// Verifies the collector of an `https` URL.
    pub client: HttpClient,
    /// Resource attributes: `service.name` and others.
    pub resource: Vec<(String, String)>,
}

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
    woken: Notify,
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
    fn push_front(&self, pass: Vec<Span>) {
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

/// Sends the recorded passes, from a task of its own.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<SpanQueue>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Starts the task on the current runtime.
    pub fn start(options: ExporterOptions) -> Self {
        let queue = Arc::<SpanQueue>::default();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(send_all(Arc::clone(&queue), options, stopped));
        Self { queue, stop, task }
    }

    /// Creates a tracer that records into this exporter.
    pub fn tracer(&self) -> SpanRecorder {
        SpanRecorder::new(Arc::clone(&self.queue))
    }

    /// The counters.
    pub fn stats(&self) -> Arc<TelemetryStats> {
        Arc::clone(&self.queue.stats)
    }

    /// Sends the queued passes, for at most `within`, and stops.
    pub async fn finish(mut self, within: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            tracing::warn!("trace export incomplete: the collector did not take the traces of the last passes");
            self.task.abort();
        }
    }
}

async fn send_all(queue: Arc<SpanQueue>, options: ExporterOptions, mut stop: watch::Receiver<bool>) {
    let mut failures: u32 = 0;
    loop {
        let Some(pass) = queue.pop() else {
            if *stop.borrow() {
                return;
            }
            tokio::select! {
                () = queue.woken.notified() => {}
                _ = stop.wait_for(|stop| *stop) => {}
            }
            continue;
        };
        let count = pass.len() as u64;
        let body = otlp::traces(&options.resource, &pass).to_string().into_bytes();
        let sent = post(&options.client, &options.url, &options.headers, body);
        let outcome = tokio::time::timeout(EXPORT_TIMEOUT, sent).await.unwrap_or_else(|_| {
            Err(PostError::Retry { why: format!("no answer in {} s", EXPORT_TIMEOUT.as_secs()), after: None })
        });
        queue.stats.failing.store(outcome.is_err(), Ordering::Relaxed);
        match outcome {
            Ok(rejected) => {
                if failures > 0 {
                    tracing::info!(collector = %options.url, "trace export works again");
                }
                failures = 0;
                queue.stats.refused.fetch_add(rejected.min(count), Ordering::Relaxed);
                queue.stats.exported.fetch_add(count.saturating_sub(rejected), Ordering::Relaxed);
            }
            Err(PostError::Rejected(why)) => {
                warn_once(failures, &options.url, &why);
                failures = failures.saturating_add(1);
                queue.stats.refused.fetch_add(count, Ordering::Relaxed);
            }
            Err(PostError::Retry { why, after }) => {
                warn_once(failures, &options.url, &why);
                queue.push_front(pass);
                if *stop.borrow() {
                    tracing::warn!("trace export incomplete: the collector did not take the traces of the last passes");
                    return;
                }
                let wait = after.unwrap_or_else(|| backoff(failures)).min(RETRY_AFTER_MAX);
                failures = failures.saturating_add(1);
                // Stopping interrupts the wait for one last attempt.
                let _stopped = tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await;
            }
        }
    }
}

fn warn_once(failures: u32, url: &Uri, why: &str) {
    if failures == 0 {
        tracing::warn!(
            collector = %url,
            "trace export failed: {why}; reconciling continues, and the weir_telemetry_... metrics count the spans"
        );
    }
}

fn backoff(failures: u32) -> Duration {
    (BACKOFF.0 * 2_u32.saturating_pow(failures.min(10))).min(BACKOFF.1)
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

    #[test]
    fn backoff_doubles_up_to_a_bound() {
        assert_eq!([0, 1, 2, 5, 1000].map(|failures| backoff(failures).as_secs()), [1, 2, 4, 30, 30]);
    }
}
