//! The shards' mailbox under loom: every interleaving of two senders and a receiver, with up to three
//! preemptions, in every order that the memory model allows.

use loom::sync::Arc;
use loom::thread;

/// What the mailbox is built of, as loom has it.
mod sync {
    pub(super) use loom::sync::Mutex;
    pub(super) use loom::sync::atomic::{AtomicBool, Ordering};
    pub(super) use std::sync::PoisonError;

    use loom::sync::Notify;

    /// Stands in for epoll and its eventfd: a wake is kept until the receiver waits.
    pub(super) struct Waker(pub(super) loom::sync::Arc<Notify>);

    impl Waker {
        pub(super) fn wake(&self) -> std::io::Result<()> {
            self.0.notify();
            Ok(())
        }
    }
}

#[allow(dead_code, reason = "the model needs a part of it")]
#[path = "../../src/net/mailbox.rs"]
mod mailbox;

use mailbox::Mailbox;

#[test]
fn a_receiver_that_sleeps_is_woken_and_mail_keeps_its_order() {
    // Every interleaving with at most three preemptions of a thread: all of them would take hours.
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(3);
    model.check(|| {
        let notify = Arc::new(loom::sync::Notify::new());
        let mailbox = Arc::new(Mailbox::new(sync::Waker(Arc::clone(&notify))));
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let mailbox = Arc::clone(&mailbox);
                thread::spawn(move || mailbox.send(sender))
            })
            .collect();
        let (mut mail, mut received) = (Vec::new(), Vec::new());
        while received.len() < 2 {
            if mailbox.may_sleep() {
                // A missed wake would be a deadlock, which loom reports.
                notify.wait();
            }
            mailbox.awake();
            mailbox.take_all(&mut mail);
            received.append(&mut mail);
        }
        senders.into_iter().for_each(|sender| sender.join().expect("a sender ends"));
        received.sort_unstable();
        assert_eq!(received, [0, 1]);
    });
}
