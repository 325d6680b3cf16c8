//! Where questions to others wait for their answers: hundreds of them on one thread, so that a slow service keeps no worker
//! from hashing passwords. Whoever asks bounds how many there are.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

/// Threads that look names up, at most.
const LOOKUPS_MAX: usize = 4;

pub(super) struct Inquiries(Option<Runtime>);

/// A question under way. It ends with this: who is gone is not asked about.
pub(super) struct UnderWay(AbortHandle);

impl Inquiries {
    pub(super) fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(LOOKUPS_MAX).thread_name("weir-inquiries").enable_all();
        Ok(Self(Some(builder.build()?)))
    }

    /// Lets it go on until it is done, or no longer wanted. `None`: all has ended.
    pub(super) fn submit(&self, inquiry: impl Future<Output = ()> + Send + 'static) -> Option<UnderWay> {
        Some(UnderWay(self.0.as_ref()?.spawn(inquiry).abort_handle()))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for Inquiries {
    /// Without waiting: it may be a runtime's own thread that lets go last.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
