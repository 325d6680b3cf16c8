//! The queue of passes, and the task that empties it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderMap;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::post::{Failure, post};
use super::{Span, Tracer, otlp};
use crate::http_client::HttpClient;

/// How long the collector may take to answer.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between attempts: doubled each time, from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// What a collector may ask us to wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// Spans that wait: some hours of passes that change nothing.
const QUEUE_SPANS_MAX: usize = 8192;

/// Where to send traces, and as whom.
#[derive(Debug, Clone)]
pub struct ExporterOptions {
    /// All of it, `/v1/traces` too.
    pub url: Uri,
    /// What the collector wants to see: its credentials.
    pub headers: HeaderMap,
    /// Verifies the collector of an `https` URL.
    pub client: HttpClient,
    /// `service.name` and whatever else tells this process from others.
    pub resource: Vec<(String, String)>,
}

/// What became of the spans; counted since the start.
#[derive(Debug, Default)]
pub struct TelemetryStats {
    pub exported: AtomicU64,
    /// Beyond what is kept of one pass.
    pub over_pass_limit: AtomicU64,
    /// The oldest, because the collector was away for too long.
    pub over_queue: AtomicU64,
    /// The collector did not want them.
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

/// Passes that wait to be sent; whoever puts one in never waits, and the oldest give way.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    woken: Notify,
    pub(super) stats: Arc<TelemetryStats>,
}

#[derive(Debug, Default)]
struct Waiting {
    passes: VecDeque<Vec<Span>>,
    spans: usize,
}

impl Queue {
    /// Puts a pass at the end. `left_out`: spans of it that were not taken down.
    pub(super) fn put(&self, pass: Vec<Span>, left_out: u64) {
        self.stats.over_pass_limit.fetch_add(left_out, Ordering::Relaxed);
        self.change(|waiting| {
            waiting.spans += pass.len();
            waiting.passes.push_back(pass);
        });
        self.woken.notify_one();
    }

    /// Puts back what could not be sent.
    fn put_back(&self, pass: Vec<Span>) {
        self.change(|waiting| {
            waiting.spans += pass.len();
            waiting.passes.push_front(pass);
        });
    }

    /// The oldest pass.
    pub(super) fn take(&self) -> Option<Vec<Span>> {
        let mut taken = None;
        self.change(|waiting| {
            taken = waiting.passes.pop_front();
            waiting.spans -= taken.as_ref().map_or(0, Vec::len);
        });
        taken
    }

    fn change(&self, change: impl FnOnce(&mut Waiting)) {
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

/// Sends what tracers take down, from a task of its own.
#[derive(Debug)]
pub struct Exporter {
    queue: Arc<Queue>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Exporter {
    /// Begins; on the runtime that this is called on.
    pub fn start(options: ExporterOptions) -> Self {
        let queue = Arc::<Queue>::default();
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(send_all(Arc::clone(&queue), options, stopped));
        Self { queue, stop, task }
    }

    /// What takes passes down for it.
    pub fn tracer(&self) -> Tracer {
        Tracer::new(Arc::clone(&self.queue))
    }

    /// What became of the spans.
    pub fn stats(&self) -> Arc<TelemetryStats> {
        Arc::clone(&self.queue.stats)
    }

    /// Sends what still waits, for at most `within`.
    pub async fn finish(mut self, within: Duration) {
        self.stop.send_replace(true);
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            tracing::warn!("traces of the last passes were not taken by the OpenTelemetry collector");
            self.task.abort();
        }
    }
}

async fn send_all(queue: Arc<Queue>, options: ExporterOptions, mut stop: watch::Receiver<bool>) {
    let mut failures: u32 = 0;
    loop {
        let Some(pass) = queue.take() else {
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
            Err(Failure::Later { why: format!("no answer in {} s", EXPORT_TIMEOUT.as_secs()), after: None })
        });
        queue.stats.failing.store(outcome.is_err(), Ordering::Relaxed);
        match outcome {
            Ok(rejected) => {
                if failures > 0 {
                    tracing::info!(collector = %options.url, "the OpenTelemetry collector takes traces again");
                }
                failures = 0;
                queue.stats.refused.fetch_add(rejected.min(count), Ordering::Relaxed);
                queue.stats.exported.fetch_add(count.saturating_sub(rejected), Ordering::Relaxed);
            }
            Err(Failure::Refused(why)) => {
                warn_once(failures, &options.url, &why);
                failures = failures.saturating_add(1);
                queue.stats.refused.fetch_add(count, Ordering::Relaxed);
            }
            Err(Failure::Later { why, after }) => {
                warn_once(failures, &options.url, &why);
                queue.put_back(pass);
                if *stop.borrow() {
                    tracing::warn!("traces of the last passes were not taken by the OpenTelemetry collector");
                    return;
                }
                let wait = after.unwrap_or_else(|| backoff(failures)).min(RETRY_AFTER_MAX);
                failures = failures.saturating_add(1);
                // One last attempt is made when the broker stops.
                let _stopped = tokio::time::timeout(wait, stop.wait_for(|stop| *stop)).await;
            }
        }
    }
}

fn warn_once(failures: u32, url: &Uri, why: &str) {
    if failures == 0 {
        tracing::warn!(
            collector = %url,
            "the OpenTelemetry collector does not take traces: {why}; passes go on without, weir_telemetry_... counts"
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
    fn the_oldest_passes_give_way_and_are_counted() {
        let queue = Queue::default();
        for name in ["a", "b", "c"] {
            queue.put(pass(QUEUE_SPANS_MAX / 2, name), 0);
        }
        assert_eq!(queue.stats.dropped()[1], ("queue_full", QUEUE_SPANS_MAX as u64 / 2));
        let oldest = queue.take().unwrap();
        assert_eq!(oldest[0].name, "b");
        queue.put(pass(1, "d"), 0);
        queue.put_back(oldest);
        let names: Vec<String> = std::iter::from_fn(|| queue.take()).map(|pass| pass[0].name.clone()).collect();
        assert_eq!(names, ["c", "d"], "what is put back is the oldest again");
        assert_eq!(queue.take(), None);
    }

    #[test]
    fn attempts_grow_rarer_up_to_a_bound() {
        assert_eq!([0, 1, 2, 5, 1000].map(|failures| backoff(failures).as_secs()), [1, 2, 4, 30, 30]);
    }
}
