//! Progress of work that takes long: on standard error, at a terminal only, and only after two seconds.

use std::io::{self, IsTerminal};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::print::printable;

/// Work that takes less is not shown.
const SHOWN_AFTER: Duration = Duration::from_secs(2);
const REDRAWN_EVERY: Duration = Duration::from_millis(200);

/// A line that shows how far the work is. It disappears with the value.
pub(super) struct Progress {
    bar: ProgressBar,
    /// Dropped: the work is done.
    done: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Progress {
    /// `what` is done, as `importing emqx.conf`; `total` in any unit, where it is known.
    pub(super) fn start(what: impl Into<String>, total: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden())
            .with_message(printable(&what.into()).into_owned());
        let template = match total {
            Some(_) => "{spinner} {msg}  {bar:30} {percent:>3}%  {elapsed}",
            None => "{spinner} {msg}  {elapsed}",
        };
        // The template is a constant; a wrong one would leave indicatif's own.
        let bar = match ProgressStyle::with_template(template) {
            Ok(style) => bar.with_style(style.progress_chars("=> ")),
            Err(_) => bar,
        };
        let done = io::stderr().is_terminal().then(|| {
            let (sender, receiver) = mpsc::channel();
            let shown = bar.clone();
            let thread = std::thread::spawn(move || {
                if receiver.recv_timeout(SHOWN_AFTER) == Err(RecvTimeoutError::Timeout) {
                    shown.set_draw_target(ProgressDrawTarget::stderr());
                    while receiver.recv_timeout(REDRAWN_EVERY) == Err(RecvTimeoutError::Timeout) {
                        shown.tick();
                    }
                }
            });
            (sender, thread)
        });
        Self { bar, done }
    }

    /// Shows `what` while `work` runs.
    pub(super) fn during<T>(what: impl Into<String>, work: impl FnOnce() -> T) -> T {
        let _shown = Self::start(what, None);
        work()
    }

    /// So much of the total is done.
    pub(super) fn set(&self, position: u64) {
        self.bar.set_position(position);
    }

    /// Replaces the text.
    pub(super) fn say(&self, what: String) {
        self.bar.set_message(what);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, thread)) = self.done.take() {
            drop(sender);
            // A thread that panicked has drawn its last line.
            let _ended = thread.join();
        }
        self.bar.finish_and_clear();
    }
}
