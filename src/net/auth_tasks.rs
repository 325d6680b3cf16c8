//! Runs authentication tasks that wait for the network: hundreds of them on one thread, so a slow service does not
//! occupy the workers that hash passwords. The authenticator bounds the number of tasks.

use std::io;

use tokio::runtime::{Builder, Runtime};
use tokio::task::AbortHandle;

/// Maximum of threads for name resolution.
const LOOKUPS_MAX: usize = 4;

pub(super) struct AuthTasks(Option<Runtime>);

/// A running task. Dropping the handle cancels the task.
pub(super) struct AuthTaskHandle(AbortHandle);

impl AuthTasks {
    pub(super) fn start() -> io::Result<Self> {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).max_blocking_threads(LOOKUPS_MAX).thread_name("weir-auth-tasks").enable_all();
        Ok(Self(Some(builder.build()?)))
    }

    /// Spawns a task. `None`: the runtime has shut down.
    pub(super) fn submit(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AuthTaskHandle> {
        Some(AuthTaskHandle(self.0.as_ref()?.spawn(task).abort_handle()))
    }
}

impl Drop for AuthTaskHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Drop for AuthTasks {
    /// Does not block: the last owner may be a thread of the runtime.
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}
