//! The loop: waits for what may have changed, and has the reconciler look.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::files::ReadFiles;
use super::leave::Drained;
use super::plane::Plane;
use super::reconciler::{Next, Reconciler};
use crate::reconcile::Timestamp;
use crate::source::{SourceEvent, SourceHandle};
use crate::store::{LastKnownGoodFile, Saved};

/// Between two looks at what seems to be gone.
const LOOK_AGAIN: Duration = Duration::from_millis(250);
/// Between attempts at what failed: doubled each time, from the first to the second.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));
/// How long after a change the last known good is written: a burst of changes is written once.
const SAVE_AFTER: Duration = Duration::from_millis(500);

/// What an operator asks of the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the source now.
    ReadNow,
    /// SIGTERM: end.
    Stop,
}

/// Where what is known to be good is kept.
#[derive(Debug, Clone)]
pub struct Kept {
    pub file: LastKnownGoodFile,
    /// Names the source.
    pub source: String,
}

/// One thing that happened.
enum Event {
    Source(SourceEvent),
    SourceEnded,
    Drained(Drained),
    Signal(Signal),
    LookAgain,
    Retry,
    Save,
}

/// Runs until told to stop; the reconciler comes back, everything it started still in place.
pub async fn run<P: Plane, F: ReadFiles>(
    mut reconciler: Reconciler<P, F>,
    mut source: SourceHandle,
    mut drained: mpsc::UnboundedReceiver<Drained>,
    mut signals: mpsc::Receiver<Signal>,
    kept: Option<Kept>,
) -> Reconciler<P, F> {
    let mut timers = Timers::default();
    let mut source_is_there = true;
    loop {
        let event = tokio::select! {
            biased;
            signal = signals.recv() => Event::Signal(signal.unwrap_or(Signal::Stop)),
            event = source.events.recv(), if source_is_there => event.map_or(Event::SourceEnded, Event::Source),
            Some(ended) = drained.recv() => Event::Drained(ended),
            () = due(timers.look_again) => Event::LookAgain,
            () = due(timers.retry) => Event::Retry,
            () = due(timers.save) => Event::Save,
        };
        let now = wall_clock();
        let next = match event {
            Event::Source(SourceEvent::Read(reading)) => reconciler.read(*reading, now).await,
            Event::Source(SourceEvent::Trouble(error)) => reconciler.trouble(&error, now).await,
            Event::SourceEnded => {
                tracing::error!("nothing is read from the source any longer; restart the broker and report this");
                source_is_there = false;
                continue;
            }
            Event::Drained(ended) => {
                reconciler.drain_ended(&ended);
                continue;
            }
            Event::Signal(Signal::ReadNow) | Event::LookAgain => {
                timers.look_again = None;
                source.nudge();
                continue;
            }
            Event::Signal(Signal::Stop) => break,
            Event::Retry => reconciler.tick(now).await,
            Event::Save => {
                timers.save = None;
                save(&reconciler, kept.as_ref(), now).await;
                continue;
            }
        };
        timers.after(next, reconciler.is_draining());
        if reconciler.take_unsaved() {
            // Not put off by what comes meanwhile: a source that never rests is kept too.
            timers.save.get_or_insert(tokio::time::Instant::now() + SAVE_AFTER);
        }
    }
    if timers.save.is_some() {
        save(&reconciler, kept.as_ref(), wall_clock()).await;
    }
    reconciler
}

/// When to do what without a hint from outside.
#[derive(Debug, Default)]
struct Timers {
    look_again: Option<tokio::time::Instant>,
    retry: Option<tokio::time::Instant>,
    save: Option<tokio::time::Instant>,
    backoff: Option<Duration>,
}

impl Timers {
    fn after(&mut self, next: Next, draining: bool) {
        let now = tokio::time::Instant::now();
        self.retry = None;
        match next {
            Next::LookAgain => self.look_again = Some(now + LOOK_AGAIN),
            Next::Retry => {
                let wait = self.backoff.map_or(RETRY.0, |last| (last * 2).min(RETRY.1));
                self.backoff = Some(wait);
                self.retry = Some(now + wait);
            }
            Next::Rest => {
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

async fn save<P: Plane, F: ReadFiles>(reconciler: &Reconciler<P, F>, kept: Option<&Kept>, now: Timestamp) {
    let (Some(kept), Some((revision, previous))) = (kept, reconciler.last_known_good()) else { return };
    let saved = Saved { source: kept.source.clone(), revision, saved_at: now, previous };
    let file = kept.file.clone();
    let outcome = tokio::task::spawn_blocking(move || file.save(&saved)).await;
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, "the last known good declaration is not kept on disk"),
        Err(error) => tracing::error!(%error, "keeping the last known good declaration failed"),
    }
}

/// Now, by the wall clock.
pub fn wall_clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Sends what the process is told by signals.
pub fn signals() -> std::io::Result<mpsc::Receiver<Signal>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (tell, told) = mpsc::channel(4);
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let what = tokio::select! {
                _ = hang_up.recv() => Signal::ReadNow,
                _ = terminate.recv() => Signal::Stop,
                _ = interrupt.recv() => Signal::Stop,
            };
            if tell.send(what).await.is_err() {
                return;
            }
        }
    });
    Ok(told)
}

/// What a source is called where its last known good is kept.
pub fn source_name(kind: &str, location: &str) -> String {
    if kind == "etcd" {
        return format!("{kind} {location}");
    }
    let absolute = std::path::absolute(location).map_or_else(|_| location.to_owned(), |p| p.display().to_string());
    format!("{kind} {absolute}")
}
