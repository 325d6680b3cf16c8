//! Shards whose clients publish to each other wait for each other's disks, and never in a cycle: every publish is
//! acknowledged once all is durable, whatever batches its parts shared on their ways; seeded.

use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy, Recording, StoreAck};

use crate::broker_sim::rng::Rng;
use crate::node::{LinkId, Node, policy};
use crate::wire::{Connect, Packet, PropertyValue, Publish, Version, decode_server_packet};

const PUBLISHERS: usize = 4;
const PUBLISHES: usize = 200;

pub(super) fn open(
    node: &mut Node,
    policy: &Arc<EndpointPolicy>,
    name: &str,
    receive_maximum: u32,
    filters: &[&str],
) -> LinkId {
    let link = node.open(Arc::clone(policy));
    let properties = vec![(0x11, PropertyValue::Number(1000)), (0x21, PropertyValue::Number(receive_maximum))];
    let connect = Connect {
        version: Version::V5,
        clean: false,
        keep_alive_s: 0,
        client_id: name.to_owned(),
        username: None,
        password: None,
        will: None,
        properties,
    };
    node.send(link, &Packet::Connect(connect).encode(Version::V5));
    if !filters.is_empty() {
        let filters = filters.iter().map(|filter| ((*filter).to_owned(), 1)).collect();
        node.send(link, &Packet::Subscribe { id: 1, properties: Vec::new(), filters }.encode(Version::V5));
    }
    link
}

/// Each shard's turn ends: its records become durable.
fn commit(node: &mut Node) {
    let now = node.now;
    for (shard, batch) in node.take_records() {
        node.cores[usize::from(shard.0)].on_store_ack(StoreAck::UpTo(batch.number), now);
    }
}

fn acknowledged(node: &mut Node, link: LinkId) -> usize {
    let (bytes, mut at, mut count) = (node.take_output(link), 0, 0);
    while let Some((packet, size)) = decode_server_packet(Version::V5, &bytes[at..]).expect("a packet") {
        at += size;
        count += usize::from(matches!(packet, Packet::Ack(_)));
    }
    count
}

/// Publishes that are not acknowledged in the end.
fn unacknowledged(seed: u64) -> usize {
    let mut rng = Rng::new(seed);
    let mut node = Node::new(rng.pick(&[2, 3]));
    for core in &mut node.cores {
        core.start_recording(Recording { next_id: 1, epoch_unix_ms: 0 });
    }
    let limits = EndpointLimits {
        durability: weir_broker::Durability::Disk,
        max_queued_messages: 1_000_000,
        ..EndpointLimits::default()
    };
    let policy = policy(1, limits);
    for at in 0..3 {
        open(&mut node, &policy, &format!("all {at}"), 100, &["#"]);
        // Soon busy: what the group's owner gives them while it does not know comes back.
        open(&mut node, &policy, &format!("member {at}"), 2, &["$share/a/#", "$share/b/+"]);
    }
    let publishers: Vec<LinkId> =
        (0..PUBLISHERS).map(|at| open(&mut node, &policy, &format!("publisher {at}"), 10, &[])).collect();
    for _ in 0..20 {
        node.settle();
        commit(&mut node);
    }
    for id in 0..PUBLISHES {
        let publish = Publish {
            dup: false,
            qos: 1,
            retain: rng.one_in(2),
            topic: format!("topic{}", rng.below(6)),
            id: Some(id as u16 + 1),
            properties: Vec::new(),
            payload: b"x".to_vec(),
        };
        node.send(publishers[rng.below(PUBLISHERS)], &Packet::Publish(publish).encode(Version::V5));
        while rng.one_in(2) {
            node.deliver_one(|waiting| rng.below(waiting));
        }
        if rng.one_in(3) {
            node.collect();
        }
        if rng.one_in(3) {
            commit(&mut node);
        }
    }
    for _ in 0..100 {
        node.settle();
        commit(&mut node);
    }
    let acknowledged: usize = publishers.iter().map(|&link| acknowledged(&mut node, link)).sum();
    PUBLISHES - acknowledged
}

#[test]
fn no_acknowledgement_waits_for_itself() {
    for seed in 0..40 {
        assert_eq!(unacknowledged(seed), 0, "seed {seed}");
    }
}
