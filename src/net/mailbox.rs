//! A thread's mailbox: many senders, one receiver that sleeps in epoll.

use std::mem;

use super::sync::{AtomicBool, Mutex, Ordering, PoisonError, Waker};

/// Mail for an event loop. A sender wakes the loop only where it sleeps, so a busy loop costs no eventfd write.
pub(super) struct Mailbox<T> {
    /// `None`: the loop has ended, and what is sent is dropped.
    mail: Mutex<Option<Vec<T>>>,
    has_mail: AtomicBool,
    sleeping: AtomicBool,
    waker: Waker,
}

impl<T> Mailbox<T> {
    /// An empty mailbox whose receiver `waker` wakes.
    pub(super) fn new(waker: Waker) -> Self {
        Self {
            mail: Mutex::new(Some(Vec::new())),
            has_mail: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker,
        }
    }

    pub(super) fn send(&self, item: T) {
        self.send_all(std::iter::once(item));
    }

    /// Sends all with one lock and at most one wake.
    pub(super) fn send_all(&self, items: impl IntoIterator<Item = T>) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &mut *mail else { return };
        open.extend(items);
        self.has_mail.store(true, Ordering::Release);
        drop(mail);
        // `sleeping` is only ever swapped. Of this swap and the receiver's before it sleeps one comes first: either this one
        // sees `true`, or the receiver's sees what this one wrote, and with it `has_mail`.
        if self.sleeping.swap(false, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "an event loop could not be woken");
        }
    }

    /// The receiver is about to sleep. False: it must not, there is mail.
    pub(super) fn may_sleep(&self) -> bool {
        self.sleeping.swap(true, Ordering::AcqRel);
        let has_mail = self.has_mail.load(Ordering::Acquire);
        if has_mail {
            self.awake();
        }
        !has_mail
    }

    /// The receiver is up again.
    pub(super) fn awake(&self) {
        // A store would hide the senders' swaps from the next one of the receiver.
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// Takes everything that waits; `into` must be empty and gets its capacity back next time.
    pub(super) fn take(&self, into: &mut Vec<T>) {
        if !self.has_mail.load(Ordering::Acquire) {
            return;
        }
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &mut *mail {
            mem::swap(open, into);
        }
        self.has_mail.store(false, Ordering::Release);
    }

    /// The loop ends: drops what waits and all that is sent from now on, so that whoever waits for an answer gets an error.
    pub(super) fn close(&self) {
        let mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(mail);
    }
}

/// Closes a mailbox when its thread ends. A thread that panics takes connections and sessions with it that nothing can
/// bring back: the process ends, for its supervisor to start it anew, rather than to go on without them.
pub(super) struct CloseOnEnd<T>(pub(super) std::sync::Arc<Mailbox<T>>);

impl<T> Drop for CloseOnEnd<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a thread of the data plane has panicked; the process ends");
            std::process::abort();
        }
        self.0.close();
    }
}
