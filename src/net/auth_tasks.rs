//! Runs authentication tasks that wait for the network: hundreds of them on one thread, so a slow service does not
//! occupy the workers that hash passwords. The authenticator bounds the number of tasks.

use std::io;

use tokio::task::AbortHandle;

use super::threads::{TaskThread, Threads};

/// Maximum of threads for name resolution.
const LOOKUPS_MAX: usize = 4;

pub(super) struct AuthTasks(TaskThread);

/// A running task. Dropping the handle cancels the task.
pub(super) struct AuthTaskHandle(AbortHandle);

impl AuthTasks {
    pub(super) fn start(threads: &Threads) -> io::Result<Self> {
        Ok(Self(threads.spawn_for_tasks("weir-auth-tasks", LOOKUPS_MAX)?))
    }

    pub(super) fn submit(&self, task: impl Future<Output = ()> + Send + 'static) -> AuthTaskHandle {
        AuthTaskHandle(self.0.tasks.spawn(task).abort_handle())
    }
}

impl Drop for AuthTaskHandle {
    fn drop(&mut self) {
        self.0.abort();
    }
}
