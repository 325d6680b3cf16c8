//! A session that ends before it has released its QoS 2 publishes leaves nothing behind on the disk, though other shards
//! record their parts of them after its end.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_broker::{EndpointLimits, EndpointPolicy, RecordKey, RecordKind, Recording, StoreAck, StoredRecords};

use super::cross_shard_waits::open;
use crate::node::{Node, policy};
use crate::wire::{Packet, PropertyValue, Publish, Version};

type Disk = BTreeMap<RecordKey, Box<[u8]>>;

fn start(disk: &Disk) -> (Node, Arc<EndpointPolicy>) {
    let mut node = Node::new(3);
    let stored = StoredRecords::new(disk.iter().map(|(key, value)| (*key, value.clone())).collect());
    let (recording, now) = (Recording { next_id: stored.next_id(), epoch_unix_ms: 0 }, node.now);
    for core in &mut node.cores {
        core.start_recording(recording);
        core.restore(&stored, now).expect("its own records");
    }
    (node, policy(1, EndpointLimits { durability: weir_broker::Durability::Disk, ..EndpointLimits::default() }))
}

fn settle(node: &mut Node, disk: &mut Disk) {
    for _ in 0..10 {
        node.settle();
        let now = node.now;
        for (shard, batch) in node.take_records() {
            for (key, value) in batch.records() {
                match value {
                    Some(value) => disk.insert(key, value.into()),
                    None => disk.remove(&key),
                };
            }
            node.cores[usize::from(shard.0)].on_store_ack(StoreAck::UpTo(batch.number), now);
        }
    }
}

/// A publisher and receivers on all shards; the publisher has sent QoS 2 messages, and nothing of them has crossed yet.
fn publish(node: &mut Node, policy: &Arc<EndpointPolicy>, disk: &mut Disk) -> usize {
    for at in 0..6 {
        open(node, policy, &format!("receiver {at}"), 100, &["#"]);
    }
    let publisher = open(node, policy, "publisher", 100, &[]);
    settle(node, disk);
    for id in 1..=5 {
        let publish = Publish {
            dup: false,
            qos: 2,
            retain: false,
            topic: "topic".to_owned(),
            id: Some(id),
            properties: Vec::new(),
            payload: b"x".to_vec(),
        };
        node.send(publisher, &Packet::Publish(publish).encode(Version::V5));
    }
    publisher
}

fn received(disk: &Disk) -> usize {
    disk.keys().filter(|key| key.kind() == Some(RecordKind::Received)).count()
}

#[test]
fn a_session_that_ends_amid_a_qos_2_publish_leaves_nothing_behind() {
    let mut disk = Disk::new();
    let (mut node, policy) = start(&disk);
    let publisher = publish(&mut node, &policy, &mut disk);
    let properties = vec![(0x11, PropertyValue::Number(0))];
    node.send(publisher, &Packet::Disconnect { code: 0, properties }.encode(Version::V5));
    settle(&mut node, &mut disk);
    assert_eq!(received(&disk), 0);
}

/// What an earlier process may have left.
#[test]
fn received_identifiers_of_no_session_go_at_the_next_start() {
    let mut disk = Disk::new();
    let (mut node, policy) = start(&disk);
    publish(&mut node, &policy, &mut disk);
    settle(&mut node, &mut disk);
    assert!(received(&disk) > 5, "several shards have parts of each");
    let stored: Disk =
        disk.iter().filter(|(key, _)| key.kind() == Some(RecordKind::Received)).map(|(k, v)| (*k, v.clone())).collect();
    let (mut node, _) = start(&stored);
    settle(&mut node, &mut disk);
    assert_eq!(received(&disk), 0);
}
