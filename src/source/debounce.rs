//! Waits until writers have finished: a reading in the middle of a checkout would miss files that are only absent for a
//! moment.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::time::timeout;

use super::watch::WatchEvents;

/// No event for so long is quiet.
const DEBOUNCE: Duration = Duration::from_millis(200);
/// A reading is made after so long in any case; a file that is absent in it is not deleted.
const DEBOUNCE_MAX: Duration = Duration::from_secs(2);
/// git at work (its `index.lock`) is waited for longer; a lock older than this was probably left by a git that died.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(60);

/// Returns once there were no events for [`DEBOUNCE`], or with the reason why it did not wait longer.
pub(super) async fn wait_until_settled(
    events: &WatchEvents,
    resync_requested: &Notify,
    lock: &impl Fn() -> Option<PathBuf>,
) -> Option<String> {
    let start = Instant::now();
    loop {
        let busy = tokio::select! {
            quiet = timeout(DEBOUNCE, events.happened()) => quiet.is_ok(),
            () = resync_requested.notified() => return index_locked(lock).or(Some("a read was requested while files changed; they are read again".into())),
        };
        match lock() {
            Some(path) if start.elapsed() >= LOCK_WAIT_MAX => {
                return Some(format!(
                    "{} has existed for {} s; remove it if no git is running: until then nothing is deleted",
                    path.display(),
                    LOCK_WAIT_MAX.as_secs()
                ));
            }
            Some(_) => {}
            None if !busy => return None,
            None if start.elapsed() >= DEBOUNCE_MAX => {
                return Some(format!("files have been changing for {} s", DEBOUNCE_MAX.as_secs()));
            }
            None => {}
        }
    }
}

/// The note for a reading made while git has locked its index.
pub(super) fn index_locked(lock: &impl Fn() -> Option<PathBuf>) -> Option<String> {
    lock().map(|path| format!("git is running ({} exists)", path.display()))
}
