//! The loop: waits for events and calls the reconciler.

use std::time::Duration;

use tokio::sync::mpsc;

use super::cluster_document::ClusterRequest;
use super::draining::DrainReport;
use super::files::ReadFiles;
use super::plane::Plane;
use super::reconciler::{Next, Reconciler};
use crate::source::{SourceEvent, SourceHandle};
use crate::state::wall_clock;
use crate::store::{LastKnownGoodFile, Saved, StoreError};
use weir_declare::reconcile::Timestamp;

/// The delay before the source is read again to confirm a deletion.
const RECHECK_DELAY: Duration = Duration::from_millis(250);
/// The delay before a failed pass is repeated: doubled each time, from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// The state is saved at once after a change, but not more often than this: of a burst of changes, the first and the
/// last are saved.
const SAVE_EVERY: Duration = Duration::from_millis(500);
/// How long after a failed write it is tried again.
const SAVE_RETRY: Duration = Duration::from_secs(5);

/// A request of an operator to the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the source now.
    Reload,
    /// SIGTERM: end.
    Stop,
}

/// Where the last known good declaration is saved.
#[derive(Debug, Clone)]
pub struct LastGoodStore {
    pub file: LastKnownGoodFile,
    /// Names the source.
    pub source: String,
}

/// One thing that happened.
enum ServiceEvent {
    Source(SourceEvent),
    SourceEnded,
    DrainEnded(DrainReport),
    Cluster(ClusterRequest),
    Signal(Signal),
    Recheck,
    Retry,
    Save,
}

/// Runs until [`Signal::Stop`]; returns the reconciler with everything it started still running.
pub async fn run<P: Plane, F: ReadFiles>(
    mut reconciler: Reconciler<P, F>,
    mut source: SourceHandle,
    mut drained: mpsc::UnboundedReceiver<DrainReport>,
    mut signals: mpsc::Receiver<Signal>,
    last_good_store: Option<LastGoodStore>,
) -> Reconciler<P, F> {
    let mut timers = ServiceTimers::default();
    let mut saving = Saving::default();
    let mut source_is_there = true;
    loop {
        let event = tokio::select! {
            biased;
            signal = signals.recv() => ServiceEvent::Signal(signal.unwrap_or(Signal::Stop)),
            event = source.events.recv(), if source_is_there => event.map_or(ServiceEvent::SourceEnded, ServiceEvent::Source),
            Some(ended) = drained.recv() => ServiceEvent::DrainEnded(ended),
            request = reconciler.next_cluster_request() => ServiceEvent::Cluster(request),
            () = due(timers.recheck) => ServiceEvent::Recheck,
            () = due(timers.retry) => ServiceEvent::Retry,
            () = due(saving.due) => ServiceEvent::Save,
        };
        let now = wall_clock();
        let next = match event {
            ServiceEvent::Source(SourceEvent::Read(reading)) => reconciler.read(*reading, now).await,
            ServiceEvent::Source(SourceEvent::Failed(error)) => reconciler.source_failed(&error, now).await,
            ServiceEvent::SourceEnded => {
                tracing::error!("source task ended: changes are no longer applied; restart the broker and report this");
                source_is_there = false;
                continue;
            }
            ServiceEvent::DrainEnded(ended) => {
                reconciler.drain_ended(&ended);
                continue;
            }
            ServiceEvent::Cluster(request) => {
                reconciler.on_cluster_request(request);
                continue;
            }
            ServiceEvent::Signal(Signal::Reload) | ServiceEvent::Recheck => {
                timers.recheck = None;
                source.request_resync();
                continue;
            }
            ServiceEvent::Signal(Signal::Stop) => break,
            ServiceEvent::Retry => reconciler.tick(now).await,
            ServiceEvent::Save => {
                saving.save(&mut reconciler, last_good_store.as_ref(), now).await;
                continue;
            }
        };
        timers.after(next, reconciler.is_draining());
        let changed = reconciler.take_unsaved();
        saving.last_known_good |= changed;
        if changed || saving.failure.is_none() && reconciler.unsaved_history() > 0 {
            saving.request(tokio::time::Instant::now());
        }
        // Here, and not when nothing else is to be done: a source that never rests is saved too.
        if reconciler.take_newly_held() || saving.is_due(tokio::time::Instant::now()) {
            saving.save(&mut reconciler, last_good_store.as_ref(), now).await;
        }
    }
    if saving.due.is_some() {
        saving.save(&mut reconciler, last_good_store.as_ref(), wall_clock()).await;
        saving.report_unsaved(reconciler.unsaved_history());
    }
    reconciler
}

/// When the state is saved.
#[derive(Debug, Default)]
struct Saving {
    /// `None`: everything is written.
    due: Option<tokio::time::Instant>,
    /// The last attempt.
    last: Option<tokio::time::Instant>,
    /// The last known good declaration has to be saved; otherwise the history only.
    last_known_good: bool,
    /// Why the last attempt failed.
    failure: Option<String>,
}

impl Saving {
    /// There is something to write.
    fn request(&mut self, now: tokio::time::Instant) {
        let allowed = self.last.map_or(now, |last| now.max(last + SAVE_EVERY));
        self.due = Some(self.due.map_or(allowed, |due| due.min(allowed)));
    }

    fn is_due(&self, now: tokio::time::Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// An attempt has ended.
    fn attempted(&mut self, now: tokio::time::Instant, failure: Option<String>) {
        self.last = Some(now);
        self.due = failure.is_some().then(|| now + SAVE_RETRY);
        self.failure = failure;
    }

    async fn save<P: Plane, F: ReadFiles>(
        &mut self,
        reconciler: &mut Reconciler<P, F>,
        last_good_store: Option<&LastGoodStore>,
        now: Timestamp,
    ) {
        let mut failure = reconciler.save_history().err().map(|error| error.to_string());
        if self.last_known_good {
            match save_last_known_good(reconciler, last_good_store, now).await {
                Ok(()) => self.last_known_good = false,
                Err(error) => failure = Some(error.to_string()),
            }
        }
        match (&self.failure, &failure) {
            (None, Some(error)) => {
                tracing::error!(
                    error,
                    "state write failed: last known good or history not saved; retrying every {SAVE_RETRY:?}"
                )
            }
            (Some(_), None) => tracing::info!("state write recovered: last known good and history are saved"),
            (None, None) | (Some(_), Some(_)) => {}
        }
        self.attempted(tokio::time::Instant::now(), failure);
    }

    /// The process ends, and this is not on disk.
    fn report_unsaved(&self, unsaved_history: usize) {
        let Some(error) = &self.failure else { return };
        if self.last_known_good {
            tracing::warn!(
                error,
                "shutdown: last known good not saved: a start without the source serves the one saved before"
            );
        }
        if unsaved_history > 0 {
            tracing::warn!(error, entries = unsaved_history, "shutdown: history not saved: its last entries are lost");
        }
    }
}

/// The timers of the loop.
#[derive(Debug, Default)]
struct ServiceTimers {
    recheck: Option<tokio::time::Instant>,
    retry: Option<tokio::time::Instant>,
    backoff: Option<Duration>,
}

impl ServiceTimers {
    fn after(&mut self, next: Next, draining: bool) {
        let now = tokio::time::Instant::now();
        self.retry = None;
        match next {
            Next::Recheck => self.recheck = Some(now + RECHECK_DELAY),
            Next::Retry => {
                let wait = self.backoff.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
                self.backoff = Some(wait);
                self.retry = Some(now + wait);
            }
            Next::Wait => {
                self.backoff = None;
                // Clients that leave are only seen by looking.
                self.retry = draining.then(|| now + Duration::from_secs(1));
            }
        }
    }
}

async fn due(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Why the last known good declaration could not be saved.
#[derive(Debug, thiserror::Error)]
enum SaveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the task that writes it failed: {0}")]
    Task(tokio::task::JoinError),
}

async fn save_last_known_good<P: Plane, F: ReadFiles>(
    reconciler: &Reconciler<P, F>,
    last_good_store: Option<&LastGoodStore>,
    now: Timestamp,
) -> Result<(), SaveError> {
    let (Some(last_good_store), Some((revision, previous))) = (last_good_store, reconciler.last_known_good()) else {
        return Ok(());
    };
    let saved = Saved { source: last_good_store.source.clone(), revision, saved_at: now, previous };
    let file = last_good_store.file.clone();
    match tokio::task::spawn_blocking(move || file.save(&saved)).await {
        Ok(saved) => Ok(saved?),
        Err(error) => Err(SaveError::Task(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_change_is_saved_at_once_and_a_burst_twice_a_second() {
        let start = tokio::time::Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut saving = Saving::default();
        assert!(!saving.is_due(at(0)), "nothing has changed");
        saving.request(at(0));
        assert!(saving.is_due(at(0)), "nothing was saved before");
        saving.attempted(at(10), None);
        assert_eq!(saving.due, None);
        for change_ms in [20, 300, 509] {
            saving.request(at(change_ms));
            assert!(!saving.is_due(at(change_ms)) && saving.is_due(at(510)), "{change_ms}");
        }
        saving.attempted(at(510), None);
        saving.request(at(1_010));
        assert!(saving.is_due(at(1_010)), "the last save is old");
    }

    #[test]
    fn a_failed_save_is_repeated_without_and_with_a_change() {
        let start = tokio::time::Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut saving = Saving::default();
        saving.request(at(0));
        saving.attempted(at(0), Some("no space".into()));
        assert!(!saving.is_due(at(4_999)) && saving.is_due(at(5_000)));
        saving.request(at(100));
        assert!(!saving.is_due(at(499)) && saving.is_due(at(500)), "a change does not wait for the retry");
        saving.attempted(at(500), None);
        assert_eq!((saving.due, saving.failure), (None, None));
    }
}
