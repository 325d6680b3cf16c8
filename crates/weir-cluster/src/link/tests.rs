#![allow(clippy::unwrap_used, clippy::panic)]

use weir_broker::gateway::{PeerMessage, PeerPublish};
use weir_mqtt::ProtocolVersion;

use super::*;

const MAX: usize = 64 * 1024;
const A: Incarnation = 1;
const B: Incarnation = 2;

fn link(own: Incarnation, peer: Incarnation) -> PeerLink {
    PeerLink::new(LinkConfig { own, peer, max_frame: 1000, receive_limit: 4000 })
}

fn pair() -> (PeerLink, PeerLink) {
    (link(A, B), link(B, A))
}

fn interest(number: u32) -> PeerMessage<'static> {
    PeerMessage::AddInterest { namespace: number, filter: "a/b" }
}

fn publish(packet: &[u8]) -> PeerMessage<'_> {
    PeerMessage::Publish(PeerPublish { namespace: 0, version: ProtocolVersion::V5, expires_in: None, packet })
}

fn poll(link: &mut PeerLink, now: Millis) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    link.poll(now, MAX, &mut out).then_some(out)
}

fn deliver(link: &mut PeerLink, bytes: &[u8], now: Millis) -> Option<LinkEvent> {
    link.receive(&Envelope::decode(bytes).unwrap(), now)
}

/// An envelope of A for B with this part of A's stream.
fn raw(generation: u32, offset: u64, payload: &[u8]) -> Envelope<'_> {
    let acknowledgement = crate::wire::Acknowledgement::default();
    Envelope { sender: A, receiver: B, wants_ack: false, resend: false, generation, offset, acknowledgement, payload }
}

fn next_message(link: &mut PeerLink) -> Option<(u64, PeerMessage<'_>)> {
    link.next_frame().map(|(number, frame)| match frame {
        Frame::Message(message) => (number, message),
        other => panic!("{other:?}"),
    })
}

fn take_all(link: &mut PeerLink) -> Vec<u64> {
    std::iter::from_fn(|| link.next_frame().map(|(number, _)| number)).collect()
}

#[test]
fn messages_are_acknowledged_after_50_ms_or_at_once_when_asked() {
    let (mut a, mut b) = pair();
    assert_eq!((a.push(&interest(1)), a.push(&interest(2))), (1, 2));
    deliver(&mut b, &poll(&mut a, 0).unwrap(), 5);
    assert_eq!((poll(&mut b, 5), b.next_deadline()), (None, Some(55)));
    assert_eq!(take_all(&mut b), [1, 2]);
    b.acknowledge(2, 1, 10);
    assert_eq!(poll(&mut b, 54), None);
    deliver(&mut a, &poll(&mut b, 55).unwrap(), 60);
    assert_eq!((a.peer_processed(), a.peer_stored(), a.unacknowledged_bytes()), (2, 1, 0));
    assert_eq!((a.next_deadline(), b.next_deadline()), (Some(260), None));

    a.push(&interest(3));
    a.request_acknowledgement();
    deliver(&mut b, &poll(&mut a, 100).unwrap(), 105);
    take_all(&mut b);
    b.acknowledge(3, 2, 105);
    deliver(&mut a, &poll(&mut b, 105).unwrap(), 105);
    assert_eq!((a.peer_processed(), a.peer_stored()), (3, 2));
    // what is stored later is acknowledged at once as well
    b.acknowledge(3, 3, 130);
    deliver(&mut a, &poll(&mut b, 130).unwrap(), 130);
    assert_eq!(a.peer_stored(), 3);
    assert_eq!(b.next_deadline(), None);
}

#[test]
fn a_quarter_of_a_mebibyte_is_acknowledged_at_once() {
    let mut b = PeerLink::new(LinkConfig { own: B, peer: A, max_frame: 1 << 20, receive_limit: 1 << 20 });
    let bytes = [0; 65_536];
    for part in 0..4 {
        assert_eq!(poll(&mut b, 0), None);
        b.receive(&raw(1, part * 65_536, &bytes), 0);
    }
    assert!(poll(&mut b, 0).is_some());
}

#[test]
fn an_unacknowledged_tail_is_sent_again_with_backoff_from_200_to_1000_ms() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    let first = poll(&mut a, 0).unwrap();
    let mut sent = Vec::new();
    while sent.len() < 6 {
        let now = a.next_deadline().unwrap();
        let again = poll(&mut a, now).unwrap();
        assert_eq!(Envelope::decode(&again).unwrap().payload, Envelope::decode(&first).unwrap().payload);
        assert_eq!(poll(&mut a, now), None);
        sent.push(now);
    }
    assert_eq!(sent, [200, 400, 800, 1600, 2600, 3600]);
    a.push(&interest(2));
    assert_eq!(poll(&mut a, 3700), None, "a peer that does not answer gets nothing new");
    deliver(&mut b, &first, 3700);
    deliver(&mut a, &poll(&mut b, 3750).unwrap(), 3750);
    deliver(&mut b, &poll(&mut a, 3750).unwrap(), 3750);
    assert_eq!(take_all(&mut b), [1, 2]);
}

#[test]
fn a_gap_is_reported_at_once_and_sent_again_once() {
    let (mut a, mut b) = pair();
    let mut envelopes = Vec::new();
    for number in 0..4 {
        a.push(&interest(number));
        envelopes.push(poll(&mut a, 0).unwrap());
    }
    deliver(&mut b, &envelopes[0], 1);
    deliver(&mut b, &envelopes[2], 1);
    let request = poll(&mut b, 1).unwrap();
    assert!(Envelope::decode(&request).unwrap().resend);
    deliver(&mut b, &envelopes[3], 2);
    assert_eq!(poll(&mut b, 2), None, "one request per gap");
    deliver(&mut a, &request, 2);
    deliver(&mut a, &request, 2);
    deliver(&mut b, &poll(&mut a, 2).unwrap(), 2);
    assert_eq!(poll(&mut a, 2), None);
    assert_eq!(take_all(&mut b), [1, 2, 3, 4]);
    assert_eq!((a.counters().resends, b.counters().gaps), (1, 2));
}

#[test]
fn a_new_generation_begins_anew_and_older_ones_are_ignored() {
    let (mut a, mut b) = pair();
    (0..3).for_each(|number| _ = a.push(&interest(number)));
    let old = poll(&mut a, 0).unwrap();
    deliver(&mut b, &old, 0);
    assert_eq!(next_message(&mut b).unwrap().0, 1);
    b.acknowledge(1, 1, 0);
    a.reset(10);
    assert_eq!((a.pushed(), a.peer_processed(), a.unacknowledged_bytes()), (0, 0, 0));
    assert_eq!(a.push(&interest(9)), 1);
    assert_eq!(deliver(&mut b, &poll(&mut a, 10).unwrap(), 10), Some(LinkEvent::Reset));
    assert_eq!(deliver(&mut b, &old, 11), None);
    assert_eq!(next_message(&mut b), Some((1, interest(9))));
    assert_eq!(next_message(&mut b), None);
    assert_eq!(b.counters().ignored, 1);
}

#[test]
fn acknowledgements_of_an_older_generation_are_ignored() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    deliver(&mut b, &poll(&mut a, 0).unwrap(), 0);
    take_all(&mut b);
    b.acknowledge(1, 1, 0);
    let old = poll(&mut b, 50).unwrap();
    a.reset(60);
    a.push(&interest(1));
    poll(&mut a, 60).unwrap();
    deliver(&mut a, &old, 60);
    assert_eq!((a.peer_processed(), a.peer_stored()), (0, 0));
    assert!(a.buffered_bytes() > 0);
}

#[test]
fn an_answer_to_a_probe_sends_everything_behind_it_again() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    poll(&mut a, 0).unwrap();
    let mut out = Vec::new();
    (0..9).for_each(|number| _ = a.push(&interest(number)));
    while a.poll(0, Envelope::HEADER + 20, &mut out) {}
    // all of it was lost, and the probe arrives
    assert!(a.poll(200, Envelope::HEADER + 20, &mut out));
    deliver(&mut b, &out, 200);
    deliver(&mut a, &poll(&mut b, 200).unwrap(), 200);
    deliver(&mut b, &poll(&mut a, 200).unwrap(), 200);
    assert_eq!(take_all(&mut b).len(), 10);
}

#[test]
fn a_lost_acknowledgement_of_received_frames_is_asked_for() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    deliver(&mut b, &poll(&mut a, 0).unwrap(), 0);
    deliver(&mut a, &poll(&mut b, 50).unwrap(), 50);
    assert_eq!((a.buffered_bytes(), a.peer_processed()), (0, 0));
    take_all(&mut b);
    b.acknowledge(1, 1, 60);
    poll(&mut b, 110).unwrap();
    let now = a.next_deadline().unwrap();
    let question = poll(&mut a, now).unwrap();
    assert_eq!(question.len(), Envelope::HEADER);
    deliver(&mut b, &question, now);
    deliver(&mut a, &poll(&mut b, now).unwrap(), now);
    assert_eq!((now, a.peer_processed(), a.peer_stored(), a.next_deadline()), (250, 1, 1, None));
}

#[test]
fn envelopes_that_overlap_give_each_byte_once() {
    let mut stream = Vec::new();
    (0..5).for_each(|number| crate::wire::encode_frame(&interest(number), &mut stream));
    let mut b = link(B, A);
    for (from, to) in [(0, 9), (3, 7), (4, 20), (0, 20), (20, 20), (10, stream.len())] {
        b.receive(&raw(1, from as u64, &stream[from..to]), 0);
    }
    assert_eq!(take_all(&mut b), [1, 2, 3, 4, 5]);
    assert_eq!(b.counters().duplicates, 2);
}

#[test]
fn envelopes_of_other_incarnations_change_nothing() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    let bytes = poll(&mut a, 0).unwrap();
    let mut restarted = link(7, A);
    assert_eq!(deliver(&mut restarted, &bytes, 0), None);
    assert_eq!(next_message(&mut restarted), None);
    assert_eq!((restarted.next_deadline(), restarted.counters().ignored), (None, 1));
    let later = Envelope { sender: 9, ..Envelope::decode(&bytes).unwrap() };
    assert_eq!(b.receive(&later, 0), None);
    assert_eq!(next_message(&mut b), None);
}

#[test]
fn frames_of_unknown_kinds_are_skipped_and_count_as_processed() {
    let mut b = link(B, A);
    let mut stream = vec![99, 1, 0];
    crate::wire::encode_frame(&interest(1), &mut stream);
    stream.extend([98, 2, 0, 0]);
    b.receive(&raw(1, 0, &stream), 0);
    assert_eq!(next_message(&mut b), Some((2, interest(1))));
    assert_eq!(next_message(&mut b), None);
    let acknowledged = |b: &mut PeerLink, now| {
        let ack = Envelope::decode(&poll(b, now).unwrap()).unwrap().acknowledgement;
        (ack.processed, ack.stored)
    };
    assert_eq!(acknowledged(&mut b, 0), (1, 1));
    b.acknowledge(2, 1, 0);
    assert_eq!(acknowledged(&mut b, 50), (3, 1));
}

#[test]
fn a_frame_that_cannot_be_decoded_fails_the_link_until_a_new_generation() {
    for bad in [&[1, 2, 1, 9][..], &[6, 0xff, 0x7f], &[0xff; 20]] {
        let mut b = link(B, A);
        let mut stream = Vec::new();
        crate::wire::encode_frame(&interest(1), &mut stream);
        stream.extend_from_slice(bad);
        b.receive(&raw(1, 0, &stream), 0);
        assert_eq!(take_all(&mut b), [1]);
        assert!(b.failure().is_some(), "{bad:?}");
        b.receive(&raw(1, stream.len() as u64, &[5, 0]), 0);
        assert_eq!(next_message(&mut b), None);
        assert_eq!(b.receive(&raw(2, 0, &[5, 0]), 0), Some(LinkEvent::Reset));
        assert_eq!(b.failure(), None);
        assert_eq!(next_message(&mut b), Some((1, PeerMessage::SnapshotEnd { stamp: 0 })));
    }
}

#[test]
fn received_bytes_are_bounded_and_asked_for_when_there_is_room() {
    let (mut a, mut b) = pair();
    (0..20).for_each(|_| _ = a.push(&publish(&[0; 500])));
    assert!(a.unacknowledged_bytes() > 10_000);
    deliver(&mut b, &poll(&mut a, 0).unwrap(), 0);
    assert_eq!((b.untaken_bytes(), b.counters().overflows), (4000, 1));
    // what still arrives meanwhile is not a gap
    a.push(&publish(&[0; 500]));
    deliver(&mut b, &poll(&mut a, 0).unwrap(), 0);
    deliver(&mut a, &poll(&mut b, 50).unwrap(), 50);
    assert_eq!(poll(&mut a, 50), None);
    let mut taken = take_all(&mut b);
    while taken.len() < 21 {
        let request = poll(&mut b, 60).unwrap();
        assert!(Envelope::decode(&request).unwrap().resend);
        deliver(&mut a, &request, 60);
        deliver(&mut b, &poll(&mut a, 60).unwrap(), 60);
        taken.extend(take_all(&mut b));
    }
    assert_eq!(taken, (1..=21).collect::<Vec<u64>>());
}

#[test]
fn hostile_acknowledgements_and_offsets_change_nothing() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    poll(&mut a, 0).unwrap();
    let acknowledgement =
        crate::wire::Acknowledgement { generation: 1, received: u64::MAX, processed: u64::MAX, stored: u64::MAX };
    let hostile = Envelope { sender: B, receiver: A, acknowledgement, resend: true, ..raw(1, u64::MAX, b"x") };
    a.receive(&hostile, 0);
    b.receive(&raw(u32::MAX, u64::MAX, &[1; 100]), 0);
    assert_eq!((a.peer_processed(), a.peer_stored(), next_message(&mut b)), (0, 0, None));
    assert!(a.buffered_bytes() > 0);
    // Of a frame that was not sent; and of one of which a part was sent.
    let acknowledgement = crate::wire::Acknowledgement { generation: 1, received: 0, processed: 2, stored: 2 };
    let early = Envelope { sender: B, receiver: A, acknowledgement, ..raw(1, 0, b"") };
    a.push(&interest(2));
    a.receive(&early, 0);
    assert_eq!(a.peer_processed(), 0);
    assert!(a.poll(0, Envelope::HEADER + 1, &mut Vec::new()));
    a.receive(&early, 0);
    a.drop_unsent();
    assert_eq!((a.peer_processed(), a.unacknowledged_bytes()), (2, 0));
}

#[test]
fn frames_larger_than_an_envelope_are_put_together() {
    let (mut a, mut b) = pair();
    let packet: Vec<u8> = (0..900).map(|byte| byte as u8).collect();
    a.push(&publish(&packet));
    let mut out = Vec::new();
    let mut count = 0;
    while a.poll(0, Envelope::HEADER + 100, &mut out) {
        assert!(out.len() <= Envelope::HEADER + 100);
        deliver(&mut b, &out, 0);
        count += 1;
    }
    assert_eq!((count, next_message(&mut b)), (10, Some((1, publish(&packet)))));
}

#[test]
fn frames_behind_those_that_may_have_left_are_dropped() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    deliver(&mut b, &poll(&mut a, 0).unwrap(), 0);
    assert_eq!((take_all(&mut b), b.is_taken()), (vec![1], true));
    a.push(&interest(2));
    poll(&mut a, 10).unwrap();
    // The peer does not answer: only what it was sent before is sent again.
    let again = poll(&mut a, 200).unwrap();
    a.push(&interest(3));
    assert_eq!((poll(&mut a, 210), a.sent(), a.pushed()), (None, 2, 3));
    a.drop_unsent();
    assert_eq!((a.sent(), a.pushed()), (2, 2));
    deliver(&mut b, &again, 300);
    assert_eq!(take_all(&mut b), [2]);
    b.acknowledge(2, 2, 300);
    deliver(&mut a, &poll(&mut b, 400).unwrap(), 400);
    assert_eq!((poll(&mut a, 400), a.unacknowledged_bytes(), a.next_deadline()), (None, 0, None));
}

#[test]
fn what_the_peer_is_known_to_have_sent_counts_as_taken_when_all_of_it_was_taken() {
    let (mut a, mut b) = pair();
    a.push(&interest(1));
    let lost = poll(&mut a, 0).unwrap();
    a.push(&interest(2));
    deliver(&mut b, &poll(&mut a, 0).unwrap(), 0);
    assert!(!b.is_taken(), "something before it is missing");
    deliver(&mut b, &lost, 1);
    assert!(!b.is_taken());
    deliver(&mut a, &poll(&mut b, 1).unwrap(), 1);
    deliver(&mut b, &poll(&mut a, 1).unwrap(), 1);
    assert!(!b.is_taken(), "it has come");
    assert_eq!((take_all(&mut b), b.is_taken()), (vec![1, 2], true));
}
