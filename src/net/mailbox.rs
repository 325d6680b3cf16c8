//! A thread's mailbox: many senders, one receiver that sleeps in epoll.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{io, mem};

use mio::{Registry, Token, Waker};

/// Mail for an event loop. A sender wakes the loop only where it sleeps, so a busy loop costs no eventfd write.
pub(super) struct Mailbox<T> {
    /// `None`: the loop has ended, and what is sent is dropped.
    mail: Mutex<Option<Vec<T>>>,
    has_mail: AtomicBool,
    sleeping: AtomicBool,
    waker: Waker,
}

impl<T> Mailbox<T> {
    pub(super) fn new(registry: &Registry, token: Token) -> io::Result<Self> {
        Ok(Self {
            mail: Mutex::new(Some(Vec::new())),
            has_mail: AtomicBool::new(false),
            sleeping: AtomicBool::new(false),
            waker: Waker::new(registry, token)?,
        })
    }

    pub(super) fn send(&self, item: T) {
        self.send_all(std::iter::once(item));
    }

    /// Sends all with one lock and at most one wake.
    pub(super) fn send_all(&self, items: impl IntoIterator<Item = T>) {
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(open) = &mut *mail else { return };
        open.extend(items);
        self.has_mail.store(true, Ordering::SeqCst);
        drop(mail);
        // SeqCst on both flags: either this sees `sleeping`, or the receiver sees `has_mail` before it sleeps.
        if self.sleeping.swap(false, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            tracing::error!(%error, "an event loop could not be woken");
        }
    }

    /// The receiver is about to sleep. False: it must not, there is mail.
    pub(super) fn may_sleep(&self) -> bool {
        self.sleeping.store(true, Ordering::SeqCst);
        if self.has_mail.load(Ordering::SeqCst) {
            self.sleeping.store(false, Ordering::SeqCst);
            return false;
        }
        true
    }

    /// The receiver is up again.
    pub(super) fn awake(&self) {
        self.sleeping.store(false, Ordering::SeqCst);
    }

    /// Takes everything that waits; `into` must be empty and gets its capacity back next time.
    pub(super) fn take(&self, into: &mut Vec<T>) {
        if !self.has_mail.load(Ordering::SeqCst) {
            return;
        }
        let mut mail = self.mail.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = &mut *mail {
            mem::swap(open, into);
        }
        self.has_mail.store(false, Ordering::SeqCst);
    }

    /// The loop ends: drops what waits and all that is sent from now on, so that who waits for an answer learns of it.
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::thread;
    use std::time::Duration;

    use mio::{Events, Poll};

    use super::*;

    const SENDERS: usize = 4;
    const ITEMS: usize = 20_000;

    #[test]
    fn nothing_is_lost_and_no_wake_is_missed() {
        let mut poll = Poll::new().unwrap();
        let mailbox = Arc::new(Mailbox::new(poll.registry(), Token(0)).unwrap());
        let senders: Vec<_> = (0..SENDERS)
            .map(|sender| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || (0..ITEMS).for_each(|item| mailbox.send((sender, item))))
            })
            .collect();
        let (mut events, mut mail, mut next) = (Events::with_capacity(4), Vec::new(), [0; SENDERS]);
        while next.iter().sum::<usize>() < SENDERS * ITEMS {
            if mailbox.may_sleep() {
                // A missed wake sleeps for good: the guard turns it into a failure.
                poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
                assert!(!events.is_empty(), "asleep with mail: {next:?}");
            }
            mailbox.awake();
            mailbox.take(&mut mail);
            for (sender, item) in mail.drain(..) {
                assert_eq!(item, next[sender], "in the order it was sent");
                next[sender] += 1;
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
    }

    #[test]
    fn a_closed_mailbox_drops_what_it_is_sent() {
        let poll = Poll::new().unwrap();
        let mailbox = Mailbox::new(poll.registry(), Token(0)).unwrap();
        let (before, after) = (Arc::new(()), Arc::new(()));
        mailbox.send(Arc::clone(&before));
        mailbox.close();
        mailbox.send(Arc::clone(&after));
        assert_eq!((Arc::strong_count(&before), Arc::strong_count(&after)), (1, 1));
    }
}
