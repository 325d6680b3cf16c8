//! The task that exports recorded passes.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderMap;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::post::{PostError, post};
use super::queue::{SpanQueue, TelemetryStats};
use super::{SpanRecorder, otlp};
use crate::http_client::HttpClient;

/// How long the collector may take to answer.
pub const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// Time between attempts: it doubles from the first value to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// The longest `Retry-After` of a collector that is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

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

    #[test]
    fn backoff_doubles_up_to_a_bound() {
        assert_eq!([0, 1, 2, 5, 1000].map(|failures| backoff(failures).as_secs()), [1, 2, 4, 30, 30]);
    }
}
