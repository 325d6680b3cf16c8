#![allow(clippy::unwrap_used)]

use super::tests::{A, B, Cluster, data};
use super::{ClusterNode, RelayEvent};
use crate::wire::Envelope;

fn frame(from: u64, bytes: &[u8]) -> String {
    format!("{from} {:?}", RelayEvent::Frame(data(1, bytes)))
}

/// Whether both nodes get what the other one sends, and each is confirmed at the other.
fn assert_linked(cluster: &mut Cluster) {
    for (at, peer) in [(0, B), (1, A)] {
        cluster.relays(1 - at);
        assert!(cluster.nodes[at].send_relay(peer, &data(1, b"new")), "node {at} has no link");
    }
    cluster.pass(500);
    assert_eq!((cluster.relays(1), cluster.relays(0)), (vec![frame(A, b"new")], vec![frame(B, b"new")]));
    assert!(cluster.nodes.iter().all(ClusterNode::is_ready));
}

#[test]
fn peer_that_was_removed_and_is_a_member_again_has_a_link() {
    let mut cluster = Cluster::new();
    assert!(cluster.nodes[0].send_relay(B, &data(1, b"old")) && cluster.nodes[1].send_relay(A, &data(1, b"old")));
    cluster.pass(100);
    // The document of one node only names it: the other one goes on with its end of the link.
    cluster.nodes[0].members_mut().set_removed(["b".to_owned()]);
    cluster.pass(5000);
    assert!(!cluster.nodes[0].send_relay(B, &data(1, b"x")));
    cluster.nodes[0].members_mut().set_removed([]);
    cluster.pass(3000);
    assert_linked(&mut cluster);
}

#[test]
fn peer_whose_record_was_removed_and_that_comes_back_has_a_link() {
    let mut cluster = Cluster::new();
    cluster.silent = Some(1);
    cluster.pass(5000);
    cluster.nodes[0].members_mut().on_removed("b");
    cluster.pass(1000);
    cluster.silent = None;
    cluster.pass(3000);
    assert_linked(&mut cluster);
}

#[test]
fn link_with_a_frame_that_cannot_be_decoded_begins_anew_and_says_so() {
    let mut cluster = Cluster::new();
    let now = cluster.now;
    assert!(cluster.nodes[0].send_relay(B, &data(1, b"lost")));
    let mut bytes = Vec::new();
    assert_eq!(cluster.nodes[0].next_envelope(1000, &mut bytes, now), Some(B));
    let sent = Envelope::decode(&bytes).unwrap();
    // A frame that is longer than frames may be.
    let mut payload = vec![0; sent.payload.len()];
    payload[..3].copy_from_slice(&[6, 0xff, 0x7f]);
    let mut damaged = Vec::new();
    Envelope { payload: &payload, ..sent }.encode(&mut damaged);
    cluster.nodes[1].on_envelope(&damaged, now);
    cluster.pass(1000);
    let failure = cluster.nodes[1].next_link_failure().unwrap();
    assert_eq!((failure.peer, cluster.nodes[1].next_link_failure()), (A, None));
    cluster.relays(0);
    assert_linked(&mut cluster);
}

#[test]
fn generations_that_are_far_apart_meet_again() {
    let mut cluster = Cluster::new();
    cluster.is_cut = true;
    // One node takes the other one for out several times, and no envelope arrives meanwhile.
    for _ in 0..3 {
        cluster.silent = Some(1);
        cluster.pass(4000);
        cluster.silent = None;
        cluster.pass(1500);
    }
    cluster.is_cut = false;
    cluster.pass(3000);
    assert_linked(&mut cluster);
}
