//! Heartbeats and envelopes between engines.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use weirmq::cluster::engine::{EngineEvent, SendError};

use super::nats::{self, Nats};
use super::node::{Node, options, runtime};
use crate::support::until;

fn is_heartbeat_of(name: &'static str) -> impl Fn(&EngineEvent) -> bool {
    move |event| matches!(event, EngineEvent::Heartbeat { node, .. } if node == name)
}

#[test]
fn heartbeats_are_acknowledged_and_seen_by_another_engine() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), [Nats::start()]);
    let mut first = Node::connect(&runtime, options("node.a", 1, &servers, 1));
    let failed: u64 = ["one", "two"].map(|text| first.heartbeat(text)).iter().sum();
    // A node that comes later sees the newest.
    let mut second = Node::connect(&runtime, options("b", 2, &servers, 1));
    let seen = second.expect("the heartbeat is seen", is_heartbeat_of("node.a"));
    let EngineEvent::Heartbeat { sequence, bytes, server_time_ms, .. } = seen else { unreachable!() };
    assert_eq!(&bytes[..], b"two");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    assert!(now.abs_diff(server_time_ms) < 600_000, "{server_time_ms} is not about {now}");
    second.heartbeat("three");
    let seen = first.expect("the other heartbeat is seen", is_heartbeat_of("b"));
    assert!(matches!(seen, EngineEvent::Heartbeat { sequence: later, .. } if later > sequence));
    second.expect("its own heartbeat is read", |event| matches!(event, EngineEvent::MembersRead { .. }));
    let counts = first.engine.counts();
    assert_eq!((counts.heartbeats_acked, counts.heartbeats_failed), (2, failed));
    first.shut_down(&runtime);
    second.shut_down(&runtime);
}

#[test]
fn a_purged_member_is_not_seen_by_engines_that_come_later() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), [Nats::start()]);
    let mut first = Node::connect(&runtime, options("a", 1, &servers, 1));
    let mut second = Node::connect(&runtime, options("b.c", 2, &servers, 1));
    for node in [&mut first, &mut second] {
        node.heartbeat("x");
    }
    first.engine.purge_member("b.c").unwrap();
    let purged = first.expect("the record is deleted", |event| matches!(event, EngineEvent::MemberPurged { .. }));
    assert_eq!(purged, EngineEvent::MemberPurged { node: "b.c".to_owned(), error: None });
    let mut third = Node::connect(&runtime, options("d", 3, &servers, 1));
    third.heartbeat("");
    third.expect("its own heartbeat is read", |event| {
        assert!(!is_heartbeat_of("b.c")(event), "the purged member is seen");
        matches!(event, EngineEvent::MembersRead { .. })
    });
}

#[test]
fn envelopes_reach_the_incarnation_that_they_are_for() {
    if !nats::is_there() {
        return;
    }
    let (runtime, mut servers) = (runtime(), [Nats::start()]);
    let first = Node::connect(&runtime, options("a", 1, &servers, 1));
    let mut second = Node::connect(&runtime, options("b", 2, &servers, 1));
    // Nothing tells that this one does not exist.
    first.engine.send(3, Bytes::from_static(b"absent")).unwrap();
    for number in 0..100_u8 {
        first.engine.send(2, Bytes::from(vec![number; 1000])).unwrap();
    }
    for number in 0..100_u8 {
        let event = second.expect("the envelope arrives", |event| matches!(event, EngineEvent::Envelope(_)));
        assert_eq!(event, EngineEvent::Envelope(Bytes::from(vec![number; 1000])));
    }
    let max = first.engine.envelope_bytes_max();
    assert_eq!(first.engine.send(2, Bytes::from(vec![0; max + 1])), Err(SendError::TooLarge { max }));
    first.engine.send(2, Bytes::from(vec![0; max])).unwrap();
    second.expect(
        "the largest envelope arrives",
        |event| matches!(event, EngineEvent::Envelope(bytes) if bytes.len() == max),
    );
    servers[0].kill();
    until("the lost connection is noticed", String::new, || {
        first.engine.send(2, Bytes::new()) == Err(SendError::Disconnected)
    });
    servers[0].run();
    until("envelopes are sent again", String::new, || {
        second.pump();
        first.engine.send(2, Bytes::from_static(b"again")).is_ok()
            && second.others.iter().any(|event| *event == EngineEvent::Envelope(Bytes::from_static(b"again")))
    });
}

/// The receiver does not read: the sender is never held up, and what does not fit is dropped and counted.
#[test]
fn envelopes_for_a_slow_receiver_are_dropped_and_counted() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), [Nats::start()]);
    let first = Node::connect(&runtime, options("a", 1, &servers, 1));
    let second = Node::connect(&runtime, options("b", 2, &servers, 1));
    let mut full = 0;
    until("a message is dropped by the receiver, and one is not taken by the sender", String::new, || {
        for _ in 0..2000 {
            match first.engine.send(2, Bytes::from(vec![0; 4096])) {
                Ok(()) => {}
                Err(SendError::Full) => full += 1,
                Err(error) => panic!("{error}"),
            }
        }
        second.engine.counts().slow_consumer_drops > 0 && full > 0
    });
    let counts = first.engine.counts();
    assert_eq!(counts.envelopes_refused, full);
    assert!(counts.envelopes_sent > 0, "{counts:?}");
}
