//! The retained log on one server.

use std::time::Duration;

use bytes::Bytes;
use weirmq::cluster::engine::{AppendError, EngineEvent, EngineOptions, RetainedAppend};

use super::nats::{self, Nats};
use super::node::{Node, append_all, check, converge, options, runtime, topic};
use crate::support::until;

fn append(token: u64, payload: Bytes) -> RetainedAppend {
    RetainedAppend { token, subject: topic(token), payload, ttl: None, again: false }
}

fn answer_to(token: u64) -> impl Fn(&EngineEvent) -> bool {
    move |event| matches!(event, EngineEvent::RetainedFailed { token: of, .. } if *of == token)
}

#[test]
fn two_engines_read_10000_appends_of_100_topics_in_the_same_order() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), [Nats::start()]);
    let mut nodes: Vec<Node> = [("a", 1), ("b", 2)]
        .map(|(name, incarnation)| Node::connect(&runtime, options(name, incarnation, &servers, 1)).over(100))
        .into();
    let began = std::time::Instant::now();
    append_all(&mut nodes, 5000, |_| {});
    eprintln!("10000 appends in {:?}: {:?}", began.elapsed(), nodes[0].engine.counts());
    converge(&mut nodes);
    check(&nodes);
    let mut later = Node::connect(&runtime, options("c", 3, &servers, 1)).over(100);
    later.until_synced();
    // Nothing is removed but by the nodes.
    assert_eq!(later.log.len(), 10_000);
    assert_eq!(later.retained(), nodes[0].retained());
    nodes.into_iter().for_each(|node| node.shut_down(&runtime));
}

#[test]
fn messages_expire_and_deletions_are_read() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), [Nats::start()]);
    let mut node = Node::connect(&runtime, options("a", 1, &servers, 1)).over(1);
    node.until_synced();
    assert_eq!(node.head, Some(0), "the log is empty");
    // Long enough for a busy machine to read the message first.
    let ttl = Some(Duration::from_secs(10));
    node.engine.append_retained(RetainedAppend { ttl, ..append(0, Bytes::from_static(b"a 0")) }).unwrap();
    until("the message is read", String::new, || {
        node.pump();
        node.log.len() == 1
    });
    node.engine.append_retained(RetainedAppend { ttl, ..append(0, Bytes::new()) }).unwrap();
    until("the deletion is read", String::new, || {
        node.pump();
        node.log.len() == 2 && node.log[1].2.is_empty()
    });
    until("the message has expired", String::new, || {
        let mut later = Node::connect(&runtime, options("b", 2, &servers, 1));
        later.until_synced();
        let is_gone = later.log.is_empty();
        later.shut_down(&runtime);
        // Its connections and readers are work for a busy machine.
        std::thread::sleep(Duration::from_millis(500));
        is_gone
    });
}

#[test]
fn a_log_that_is_full_refuses_new_topics_and_takes_replacements() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), [Nats::start()]);
    let limited = EngineOptions { retained_bytes_max: Some(256 << 10), ..options("a", 1, &servers, 1) };
    let mut node = Node::connect(&runtime, limited);
    let payload = Bytes::from(vec![b'x'; 64 << 10]);
    for token in 0..5 {
        node.engine.append_retained(append(token, payload.clone())).unwrap();
    }
    // Three fit, whichever arrive first: appends of different topics have no order.
    let refused = [0; 2].map(|_| {
        let refused = node.expect("an append is refused", |event| matches!(event, EngineEvent::RetainedFailed { .. }));
        let EngineEvent::RetainedFailed { token, retry, unknown, reason } = refused else { unreachable!() };
        assert!(retry && !unknown && reason.contains("maximum bytes exceeded"), "{reason}");
        token
    });
    let token = refused[0];
    // Until the node answers to the failure, the topic takes nothing.
    node.engine.append_retained(append(token, Bytes::from_static(b"x 1"))).unwrap();
    node.expect("the topic is refused", answer_to(token));
    // Another topic's message is replaced.
    let other = (0..5).find(|token| !refused.contains(token)).unwrap();
    node.engine.append_retained(append(other, Bytes::from_static(b"x 2"))).unwrap();
    node.engine.append_retained(RetainedAppend { again: true, ..append(token, Bytes::from_static(b"x 3")) }).unwrap();
    until("replacement and retry are read", String::new, || {
        node.pump();
        let retained = node.retained();
        let is = |of, text: &str| retained.get(&topic(of)).is_some_and(|(_, payload)| payload == text);
        is(other, "x 2") && is(token, "x 3")
    });
}

#[test]
fn a_message_that_is_too_large_fails_for_good() {
    if !nats::is_there() {
        return;
    }
    let (runtime, servers) = (runtime(), [Nats::start()]);
    let mut node = Node::connect(&runtime, options("a", 1, &servers, 1));
    let max = node.engine.envelope_bytes_max();
    node.engine.append_retained(append(1, Bytes::from(vec![0; max + 1]))).unwrap();
    let failed = node.expect("the append fails", answer_to(1));
    let EngineEvent::RetainedFailed { retry, unknown, reason, .. } = failed else { unreachable!() };
    assert!(!retry && !unknown && reason.contains("max payload"), "{reason}");
}

#[test]
fn appends_that_wait_are_bounded() {
    if !nats::is_there() {
        return;
    }
    let (runtime, mut servers) = (runtime(), [Nats::start()]);
    let mut node = Node::connect(&runtime, options("a", 1, &servers, 1));
    servers[0].kill();
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    let taken = (0..).take_while(|token| node.engine.append_retained(append(*token, payload.clone())).is_ok()).count();
    assert_eq!(taken, 64, "64 MiB wait");
    assert_eq!(node.engine.append_retained(append(0, payload)), Err(AppendError::Full));
    node.pump();
}

#[test]
fn an_engine_that_lost_its_files_is_read_from_its_beginning() {
    if !nats::is_there() {
        return;
    }
    let (runtime, mut servers) = (runtime(), [Nats::start()]);
    let mut nodes = [Node::connect(&runtime, options("a", 1, &servers, 1)).over(10)];
    append_all(&mut nodes, 50, |_| {});
    converge(&mut nodes);
    nodes[0].heartbeat("x");
    nodes[0].expect("the heartbeat is read", |event| matches!(event, EngineEvent::MembersRead { .. }));
    servers[0].wipe();
    servers[0].run();
    let reset = nodes[0].expect("the log is read anew", |event| matches!(event, EngineEvent::RetainedReset { .. }));
    assert_eq!(reset, EngineEvent::RetainedReset { last_read: 50 });
    let node = &mut nodes[0];
    node.log.clear();
    node.acked.clear();
    let failed = node.heartbeat("y");
    node.expect(
        "heartbeats are read again",
        |event| matches!(event, EngineEvent::MembersRead { sequence } if *sequence <= 1 + failed),
    );
    until("appends are acknowledged again", String::new, || {
        node.append_until(60);
        node.pump();
        node.acked.len() == 10
    });
    converge(&mut nodes);
    assert_eq!(nodes[0].log.first().map(|(sequence, ..)| *sequence), Some(1));
}

#[test]
fn a_server_that_restarts_between_appends_loses_none() {
    if !nats::is_there() {
        return;
    }
    let (runtime, mut servers) = (runtime(), [Nats::start()]);
    let mut nodes: Vec<Node> = [("a", 1), ("b", 2)]
        .map(|(name, incarnation)| Node::connect(&runtime, options(name, incarnation, &servers, 1)).over(20))
        .into();
    let mut restarted = false;
    append_all(&mut nodes, 2000, |acked| {
        if acked > 1000 && !restarted {
            restarted = true;
            servers[0].kill();
            servers[0].run();
        }
    });
    assert!(restarted);
    converge(&mut nodes);
    check(&nodes);
}
