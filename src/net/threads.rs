//! The threads of one data plane, which end with it and can be joined.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::{io, mem};

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// The started threads; clones refer to the same ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Threads(Arc<Mutex<Vec<JoinHandle<()>>>>);

/// A thread that runs tasks of tokio. Dropping this ends it, and cancels its tasks.
#[derive(Debug)]
pub(super) struct TaskThread {
    pub(super) tasks: Handle,
    _running: oneshot::Sender<()>,
}

impl Threads {
    /// Starts a thread.
    ///
    /// # Errors
    /// The system refused it.
    pub(super) fn spawn(&self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run)?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(thread);
        Ok(())
    }

    /// Starts a thread for tasks, with at most `blocking` threads for name resolution.
    ///
    /// # Errors
    /// The system refused it.
    pub(super) fn spawn_for_tasks(&self, name: &str, blocking: usize) -> io::Result<TaskThread> {
        let runtime =
            Builder::new_current_thread().max_blocking_threads(blocking).thread_name(name).enable_all().build()?;
        let tasks = runtime.handle().clone();
        let (running, ended) = oneshot::channel::<()>();
        self.spawn(name, move || {
            // An error: the sender was dropped, as intended.
            let _ended = runtime.block_on(ended);
            // A name resolution may take long, and cannot be cancelled.
            runtime.shutdown_background();
        })?;
        Ok(TaskThread { tasks, _running: running })
    }

    /// Waits until all threads have ended. Must not be called on one of them.
    pub(super) fn join(&self) {
        let threads = mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            let name = thread.thread().name().unwrap_or_default().to_owned();
            if thread.join().is_err() {
                tracing::error!(thread = name, "thread panicked");
            }
        }
    }
}
