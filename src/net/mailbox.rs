//! The mailbox of an event loop: many senders, one receiver that sleeps in epoll.

use std::mem;

use super::sync::{AtomicBool, Mutex, Ordering, PoisonError, Waker};

/// A queue of events for an event loop. A sender wakes the loop only if it sleeps, so a busy loop costs no eventfd
/// write.
pub(super) struct Mailbox<T> {
    /// `None`: the loop has ended, and new events are dropped.
    mail: Mutex<Option<Vec<T>>>,
    has_mail: AtomicBool,
    sleeping: AtomicBool,
    waker: Waker,
}

impl<T> Mailbox<T> {
    /// An empty mailbox; `waker` wakes its receiver.
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

    /// Sends all items with one lock and at most one wake-up.
    pub(super) fn send_all(&self, items: impl IntoIterator<Item = T>) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &mut *mail else { return };
        open.extend(items);
        self.has_mail.store(true, Ordering::Release);
        drop(mail);
        // `sleeping` is only ever swapped. One of this swap and the receiver's swap before it sleeps comes first:
        // either this one sees `true`, or the receiver's sees the value written here, and with it `has_mail`.
        if self.sleeping.swap(false, Ordering::AcqRel)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "event loop wake-up failed");
        }
    }

    /// Called by the receiver before it sleeps; `false`: it must not sleep, since events are queued.
    pub(super) fn may_sleep(&self) -> bool {
        self.sleeping.swap(true, Ordering::AcqRel);
        let has_mail = self.has_mail.load(Ordering::Acquire);
        if has_mail {
            self.awake();
        }
        !has_mail
    }

    /// Called by the receiver after it woke up.
    pub(super) fn awake(&self) {
        // A store would hide the senders' swaps from the receiver's next swap.
        self.sleeping.swap(false, Ordering::AcqRel);
    }

    /// Moves all queued events to `into`, which must be empty. The mailbox reuses its capacity.
    pub(super) fn take_all(&self, into: &mut Vec<T>) {
        if !self.has_mail.load(Ordering::Acquire) {
            return;
        }
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &mut *mail {
            mem::swap(open, into);
        }
        self.has_mail.store(false, Ordering::Release);
    }

    /// Closes the mailbox: drops the queued events and all later ones, so that callers that wait for a reply get an
    /// error.
    pub(super) fn close(&self) {
        let mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(mail);
    }
}

/// Closes a mailbox when its thread ends. A panic loses the thread's connections and sessions for good, so the process
/// aborts, and its supervisor restarts it.
pub(super) struct CloseOnEnd<T>(pub(super) std::sync::Arc<Mailbox<T>>);

impl<T> Drop for CloseOnEnd<T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("data plane thread panicked: aborting the process");
            std::process::abort();
        }
        self.0.close();
    }
}
