//! Threads for what takes time: slow password hashes, questions to other servers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{io, thread};

/// Work that waits for a thread; above it the answer is "busy".
const WAITING_MAX: usize = 4096;

pub(super) type Job = Box<dyn FnOnce() + Send>;

/// A pool of threads that ends with its last handle.
pub(super) struct Workers(SyncSender<Job>);

/// Too much waits already.
#[derive(Debug)]
pub(super) struct Busy;

impl Workers {
    pub(super) fn start(threads: u16) -> io::Result<Self> {
        let (sender, receiver) = sync_channel(WAITING_MAX);
        let receiver = Arc::new(Mutex::new(receiver));
        for number in 0..threads.max(1) {
            let receiver = Arc::clone(&receiver);
            thread::Builder::new().name(format!("weir-worker-{number}")).spawn(move || {
                while let Some(job) = next(&receiver) {
                    // Whose job it was runs into the handshake's deadline; the worker is needed by others.
                    if catch_unwind(AssertUnwindSafe(job)).is_err() {
                        tracing::error!("an authenticator has panicked");
                    }
                }
            })?;
        }
        Ok(Self(sender))
    }

    pub(super) fn submit(&self, job: Job) -> Result<(), Busy> {
        self.0.try_send(job).map_err(|error| match error {
            TrySendError::Full(_) | TrySendError::Disconnected(_) => Busy,
        })
    }
}

/// The next job; `None`: the pool ended. The lock is held while waiting, not while working.
fn next(receiver: &Mutex<Receiver<Job>>) -> Option<Job> {
    receiver.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}
