//! Waits until whoever writes has finished: a pass in the middle of a checkout would see files that are only gone for a
//! moment.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::watch::Events;

/// No event for so long is quiet.
const QUIET: Duration = Duration::from_millis(200);
/// After so long a pass is made all the same, but what is absent in it proves nothing.
const PATIENCE: Duration = Duration::from_secs(2);
/// git at work (its `index.lock`) is waited for longer; a lock older than this was probably left by a git that died.
const LOCK_PATIENCE: Duration = Duration::from_secs(60);

/// Returns once nothing has happened for a while, or with what still happens.
pub(super) async fn settle(events: &Events, nudge: &Notify, lock: &impl Fn() -> Option<PathBuf>) -> Option<String> {
    let start = Instant::now();
    loop {
        let busy = tokio::select! {
            quiet = timeout(QUIET, events.happened()) => quiet.is_ok(),
            () = nudge.notified() => return still_locked(lock).or(Some("a pass was asked for amid changes".into())),
        };
        match lock() {
            Some(path) if start.elapsed() >= LOCK_PATIENCE => {
                return Some(format!(
                    "{} has been there for {} s; remove it if no git is at work: until then nothing is deleted",
                    path.display(),
                    LOCK_PATIENCE.as_secs()
                ));
            }
            Some(_) => {}
            None if !busy => return None,
            None if start.elapsed() >= PATIENCE => {
                return Some(format!("files have been changing for {} s", PATIENCE.as_secs()));
            }
            None => {}
        }
    }
}

/// What to say of a reading made while git holds its index.
pub(super) fn still_locked(lock: &impl Fn() -> Option<PathBuf>) -> Option<String> {
    lock().map(|path| format!("git is at work ({} is there)", path.display()))
}
