//! Tests of the mailbox with real threads and epoll.

use std::sync::Arc;
use std::thread;
use std::time::Duration;

use mio::{Events, Poll, Token, Waker};

use super::mailbox::Mailbox;

const SENDERS: usize = 4;
const ITEMS: usize = 20_000;

#[test]
fn concurrent_senders_lose_no_event_and_no_wake_up() {
    let mut poll = Poll::new().unwrap();
    let mailbox = Arc::new(Mailbox::new(Waker::new(poll.registry(), Token(0)).unwrap()));
    let senders: Vec<_> = (0..SENDERS)
        .map(|sender| {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || (0..ITEMS).for_each(|item| mailbox.send((sender, item))))
        })
        .collect();
    let (mut events, mut mail, mut next) = (Events::with_capacity(4), Vec::new(), [0; SENDERS]);
    while next.iter().sum::<usize>() < SENDERS * ITEMS {
        if mailbox.may_sleep() {
            // A missed wake-up sleeps forever: the timeout turns it into a failure.
            poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(!events.is_empty(), "asleep with mail: {next:?}");
        }
        mailbox.awake();
        mailbox.take_all(&mut mail);
        for (sender, item) in mail.drain(..) {
            assert_eq!(item, next[sender], "in the order it was sent");
            next[sender] += 1;
        }
    }
    senders.into_iter().for_each(|sender| sender.join().unwrap());
}

#[test]
fn a_closed_mailbox_drops_queued_and_new_events() {
    let poll = Poll::new().unwrap();
    let mailbox = Mailbox::new(Waker::new(poll.registry(), Token(0)).unwrap());
    let (before, after) = (Arc::new(()), Arc::new(()));
    mailbox.send(Arc::clone(&before));
    mailbox.close();
    mailbox.send(Arc::clone(&after));
    assert_eq!((Arc::strong_count(&before), Arc::strong_count(&after)), (1, 1));
}
