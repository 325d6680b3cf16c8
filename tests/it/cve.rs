//! Classes of holes that other brokers had, tried on the built broker. Those of the codec are in `crates/weir-mqtt/src/tests`, those of
//! authentication and permission in `auth/cve.rs`.

use crate::process::Broker;
use crate::support::client::{Client, publish};
use crate::wire::{Packet, Version};

/// What the broker's memory may grow by under any of these.
const GROWTH_MAX_BYTES: usize = 24 << 20;

/// CVE-2017-7651, CVE-2023-0809: a connection that has not authenticated claims a huge first packet; memory is to grow with
/// what arrives, not with what is claimed.
#[test]
fn a_claimed_length_before_connect_allocates_nothing() {
    let broker = Broker::start(2);
    let before = broker.resident_bytes();
    let mut clients: Vec<Client> = Vec::new();
    for first in [0x10, 0x30, 0xF0] {
        for _ in 0..100 {
            let mut client = Client::open(broker.address("default"), Version::V5);
            // 268,435,455 bytes are to follow; some do.
            let _ = client.send_raw(&[first, 0xFF, 0xFF, 0xFF, 0x7F]);
            let _ = client.send_raw(&[0; 512]);
            clients.push(client);
        }
    }
    let mut other = Client::connect(broker.address("default"), Version::V3_1_1, "other");
    other.ping();
    let grown = broker.resident_bytes().saturating_sub(before);
    assert!(grown < GROWTH_MAX_BYTES, "{grown} bytes more for {} connections", clients.len());
}

/// CVE-2023-28366: QoS 2 publishes with the same packet identifier, again and again, each of which was to be kept.
#[test]
fn a_repeated_qos_2_message_is_delivered_once() {
    let broker = Broker::start(2);
    for version in [Version::V3_1_1, Version::V5] {
        let mut subscriber = Client::connect(broker.address("default"), version, "subscriber");
        subscriber.subscribe("cve/#", 2);
        let mut publisher = Client::connect(broker.address("default"), version, "publisher");
        let before = broker.resident_bytes();
        for _ in 0..500 {
            publisher.send(&publish("cve/qos2", &[b'x'; 100_000], 2, Some(7)));
            assert!(matches!(publisher.receive(), Some(Packet::Ack(_))));
        }
        assert!(matches!(subscriber.receive(), Some(Packet::Publish(_))));
        subscriber.ping();
        let grown = broker.resident_bytes().saturating_sub(before);
        assert!(grown < GROWTH_MAX_BYTES, "{grown} bytes more");
    }
}

/// CVE-2020-13849: connections that are opened and then say nothing keep others out.
#[test]
fn a_silent_connection_is_closed() {
    let broker = Broker::start(1);
    let mut silent: Vec<Client> = (0..50).map(|_| Client::open(broker.address("default"), Version::V3_1_1)).collect();
    let mut slow = Client::open(broker.address("default"), Version::V3_1_1);
    slow.send_raw(&[0x10, 0x20, 0x00]).unwrap();
    Client::connect(broker.address("default"), Version::V3_1_1, "other").ping();
    assert_eq!(slow.receive(), None, "half a CONNECT is no connection");
    for client in &mut silent {
        assert_eq!(client.receive(), None);
    }
}
