//! A copy of sessions, from one node to another; and the hold that comes before it.

use super::slots_tests::{ALL, Bench, Nowhere, PER_CLASS};
use super::tests::policy;
use crate::gateway::{PeerMessage, PeerSlot, SlotCopy, SlotSets, Slots};
use crate::{Durability, EndpointLimits, EndpointPolicy};
use std::sync::Arc;

const FROZEN: SlotSets =
    SlotSets { owned: ALL, releasing: Slots::NONE, frozen: ALL, importing: Slots::NONE, moved: Slots::NONE };
const IMPORTING: SlotSets =
    SlotSets { owned: Slots::NONE, releasing: Slots::NONE, frozen: Slots::NONE, importing: ALL, moved: Slots::NONE };
const OWNED: SlotSets =
    SlotSets { owned: ALL, releasing: Slots::NONE, frozen: Slots::NONE, importing: Slots::NONE, moved: Slots::NONE };
const MOVED: SlotSets =
    SlotSets { owned: Slots::NONE, releasing: Slots::NONE, frozen: Slots::NONE, importing: Slots::NONE, moved: ALL };

/// CONNECT of 5.0, session expiry 100 s, and a will to `w` with a delay of 50 s.
fn connect_v5(bench: &mut Bench, client_id: &str, has_will: bool) -> crate::ConnId {
    let will: &[u8] = if has_will { b"\x05\x18\0\0\0\x32\0\x01w\0\x04gone" } else { b"" };
    let flags = u8::from(has_will) << 2;
    let properties = [5, 0x11, 0, 0, 0, 100];
    let body =
        [&b"\0\x04MQTT\x05"[..], &[flags, 0, 0], &properties, &[0, client_id.len() as u8], client_id.as_bytes(), will]
            .concat();
    let conn = bench.admit(client_id, &[&[0x10, body.len() as u8][..], &body].concat()).expect("admitted");
    bench.run();
    conn
}

/// A node with a session in each state: one message is sent and not acknowledged, one is queued, one QoS 2 message of the client
/// is not released.
fn old_owner(durability: Durability) -> Bench {
    let mut bench = Bench::of_all(durability);
    let conn = connect_v5(&mut bench, "a", true);
    bench.core.receive(conn, &[0x82, 7, 0, 1, 0, 0, 1, b't', 1], bench.now);
    let publisher = bench.connect("p", true, false).expect("admitted");
    bench.publish(publisher, b't');
    bench.run();
    // QoS 2, to no subscriber: PUBREC is all that comes of it.
    bench.core.receive(conn, &[0x34, 7, 0, 1, b'n', 0, 5, 0, b'x'], bench.now);
    bench.run();
    bench.flush(conn);
    bench.core.connection_closed(conn, bench.now);
    bench.publish(publisher, b't');
    bench.run();
    bench
}

fn export(bench: &mut Bench) -> SlotCopy {
    bench.gateway.set_slots(PER_CLASS, FROZEN);
    bench.run();
    bench.gateway.begin_export(ALL, 1 << 20);
    bench.run();
    bench.gateway.take_export().expect("answered").expect("small")
}

fn import(bench: &mut Bench, copy: SlotCopy) -> Option<u32> {
    bench.gateway.set_slots(PER_CLASS, IMPORTING);
    bench.gateway.begin_import(ALL, copy);
    bench.run();
    bench.gateway.take_import().expect("answered")
}

#[test]
fn copied_session_has_its_messages_its_identifiers_and_what_comes_after_the_copy() {
    for durability in [Durability::Memory, Durability::Disk] {
        let mut old = old_owner(durability);
        let copy = export(&mut old);
        let copy = SlotCopy::from_bytes(&copy.to_bytes()).expect("whole");
        assert_eq!(copy.sessions(), 1);
        let mut new = Bench::of_all(durability);
        new.now += 500;
        assert_eq!(import(&mut new, copy), Some(1));
        assert!(new.connect("a", false, false).is_err(), "it is not served before the table says so");
        // What comes now reaches both copies.
        new.gateway.set_slots(PER_CLASS, OWNED);
        new.run();
        let publisher = new.connect("q", true, false).expect("admitted");
        new.publish(publisher, b't');
        new.run();
        let conn = connect_v5(&mut new, "a", false);
        let sent = new.flush(conn);
        assert_eq!(sent[..3], [0x20, sent[1], 1], "the session is present");
        let publishes = sent.windows(4).filter(|bytes| bytes[1..] == [0, 1, b't']);
        assert_eq!(publishes.count(), 3, "{durability:?}: one was sent before, one was queued, one is new: {sent:?}");
        // The QoS 2 message that the old owner took: its identifier is known, so it is not taken again.
        new.core.receive(conn, &[0x3c, 7, 0, 1, b't', 0, 5, 0, b'x'], new.now);
        new.run();
        let sent = new.flush(conn);
        assert!(sent.starts_with(&[0x50]) && !sent.windows(3).any(|bytes| bytes == [0, 1, b't']), "{sent:?}");
    }
}

#[test]
fn old_copy_goes_without_its_will_and_the_new_one_publishes_it() {
    let mut old = old_owner(Durability::Memory);
    let copy = export(&mut old);
    old.gateway.set_slots(PER_CLASS, MOVED);
    old.run();
    assert_eq!(old.sessions(), 1, "the publisher is left");
    let mut new = Bench::of_all(Durability::Memory);
    let watcher = new.connect("watcher", true, false).expect("admitted");
    new.subscribe(watcher, b'w');
    new.run();
    assert_eq!(import(&mut new, copy), Some(1));
    new.flush(watcher);
    for (sets, comes) in [(IMPORTING, false), (OWNED, true)] {
        new.now += 60_000;
        new.gateway.set_in_until(10_000_000);
        new.gateway.set_slots(PER_CLASS, sets);
        new.run();
        let sent = new.flush(watcher);
        assert_eq!(sent.windows(4).any(|bytes| bytes == b"gone"), comes, "{sent:?}");
    }
}

#[test]
fn abandoned_move_leaves_the_session_as_it_was_and_the_copy_is_dropped() {
    let mut old = old_owner(Durability::Memory);
    let copy = export(&mut old);
    old.gateway.set_slots(PER_CLASS, OWNED);
    let mut new = Bench::of_all(Durability::Memory);
    assert_eq!(import(&mut new, copy), Some(1));
    new.gateway.set_slots(PER_CLASS, MOVED);
    old.run();
    new.run();
    assert_eq!((old.sessions(), new.sessions()), (2, 0), "the publisher is left");
    let conn = connect_v5(&mut old, "a", false);
    let sent = old.flush(conn);
    assert_eq!(sent.windows(4).filter(|bytes| bytes[1..] == [0, 1, b't']).count(), 2, "{sent:?}");
}

#[test]
fn copy_that_is_larger_than_allowed_or_damaged_is_refused() {
    let mut old = old_owner(Durability::Memory);
    let copy = export(&mut old);
    old.gateway.begin_export(ALL, 10);
    old.run();
    assert_eq!(old.gateway.take_export(), Some(None));
    let mut bytes = copy.to_bytes();
    // The first record's length says that its namespace is longer than the record.
    bytes[16 + 20] = 0xff;
    let mut new = Bench::of_all(Durability::Memory);
    assert_eq!(import(&mut new, SlotCopy::from_bytes(&bytes).expect("whole")), None);
}

#[test]
fn publish_waits_while_the_node_holds_and_goes_on_afterwards() {
    for released in [true, false] {
        let mut bench = Bench::of_all(Durability::Memory);
        let subscriber = bench.connect("s", false, false).expect("admitted");
        bench.subscribe(subscriber, b't');
        let publisher = bench.connect("p", false, false).expect("admitted");
        bench.run();
        bench.flush(subscriber);
        bench.gateway.begin_hold(None, bench.now + 1000);
        bench.run();
        assert!(bench.gateway.is_held());
        let packet = [0x32, 6, 0, 1, b't', 0, 9, b'x'];
        assert_eq!(bench.core.receive(publisher, &packet, bench.now).consumed, 0);
        bench.run();
        assert!(bench.flush(subscriber).is_empty());
        if released {
            bench.gateway.release_hold();
        } else {
            bench.now += 1000; // it ends by itself
        }
        bench.run();
        assert_eq!(bench.core.receive(publisher, &packet, bench.now).consumed, packet.len());
        bench.run();
        assert!(bench.flush(subscriber).starts_with(&[0x32]));
    }
}

#[test]
fn policy_of_a_copied_session_is_the_one_that_is_declared_here() {
    let mut old = old_owner(Durability::Memory);
    let copy = export(&mut old);
    let mut new = Bench::of_all(Durability::Memory);
    let limits = EndpointLimits { max_queued_messages: 7, ..new.policy.limits.clone() };
    new.core.set_policy(Arc::new(EndpointPolicy { limits, ..policy() }), new.now);
    assert_eq!(import(&mut new, copy), Some(1));
    let mut sessions = new.core.clients.sessions();
    assert!(sessions.all(|(_, session)| session.policy.limits.max_queued_messages == 7));
}

#[test]
fn node_is_not_at_rest_before_the_wills_that_waited_for_a_hold_are_published() {
    let mut bench = Bench::of_all(Durability::Memory);
    let watcher = bench.connect("watcher", true, false).expect("admitted");
    bench.subscribe(watcher, b'w');
    let conn = bench.connect("a", true, true).expect("admitted");
    bench.run();
    bench.flush(watcher);
    assert!(bench.gateway.is_at_rest());
    bench.gateway.begin_hold(None, bench.now + 1000);
    bench.run();
    bench.core.connection_closed(conn, bench.now);
    bench.run();
    assert!(bench.flush(watcher).is_empty() && !bench.gateway.is_at_rest(), "the will waits");
    bench.gateway.release_hold();
    assert!(!bench.gateway.is_at_rest(), "the shard does not know it");
    bench.run();
    assert!(bench.flush(watcher).ends_with(b"gone") && bench.gateway.is_at_rest());
}

#[test]
fn client_that_begins_anew_while_its_session_is_copied_does_not_get_it_back() {
    let begins: [fn(&mut Bench); 3] = [
        |_| {},
        |bench| {
            bench.connect("a", true, false).expect("a clean session is served where its socket is");
        },
        |bench| {
            bench.gateway.add_peer(PeerSlot(0), 9, 1, &mut Nowhere);
            let connected = PeerMessage::ClientConnected { namespace: 0, client_id: "a", stamp: 9, clean_start: true };
            bench.gateway.take_message(PeerSlot(0), 1, &PeerMessage::Namespace { id: 0, name: "" }, bench.now);
            bench.gateway.take_message(PeerSlot(0), 2, &connected, bench.now);
            bench.gateway.remove_peer(PeerSlot(0), 0);
        },
    ];
    for (way, begin) in begins.into_iter().enumerate() {
        for is_before in [true, false] {
            let mut old = old_owner(Durability::Memory);
            let copy = export(&mut old);
            let mut new = Bench::of_all(Durability::Memory);
            let watcher = new.connect("watcher", true, false).expect("admitted");
            new.subscribe(watcher, b'w');
            new.gateway.set_slots(PER_CLASS, IMPORTING);
            new.run();
            if is_before {
                begin(&mut new);
                new.run();
            }
            import(&mut new, copy).expect("understood");
            if !is_before {
                begin(&mut new);
                new.run();
            }
            new.gateway.set_slots(PER_CLASS, OWNED);
            new.run();
            let sent = new.flush(watcher);
            assert!(!sent.ends_with(b"gone"), "the old owner has the will: {sent:?}");
            let conn = connect_v5(&mut new, "a", false);
            let is_present = new.flush(conn)[2] == 1;
            assert_eq!(is_present, way == 0, "{way} {is_before}");
        }
    }
}

#[test]
fn session_that_begins_at_the_old_owner_before_the_hold_is_taken_from_its_copy() {
    for is_held in [true, false] {
        let mut old = old_owner(Durability::Memory);
        let copy = export(&mut old);
        let mut new = Bench::of_all(Durability::Memory);
        new.gateway.set_slots(PER_CLASS, IMPORTING);
        new.gateway.add_peer(PeerSlot(0), 9, 1, &mut Nowhere);
        let connected = PeerMessage::ClientConnected { namespace: 0, client_id: "a", stamp: 9, clean_start: true };
        new.gateway.take_message(PeerSlot(0), 1, &PeerMessage::Namespace { id: 0, name: "" }, new.now);
        if is_held {
            new.gateway.take_message(PeerSlot(0), 2, &connected, new.now);
            new.run();
        }
        new.gateway.begin_hold(Some(PeerSlot(0)), new.now + 1000);
        new.run();
        if !is_held {
            new.gateway.take_message(PeerSlot(0), 2, &connected, new.now);
        }
        new.gateway.remove_peer(PeerSlot(0), 0);
        assert_eq!(import(&mut new, copy), Some(u32::from(is_held)));
    }
}
