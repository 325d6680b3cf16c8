//! Attacks that make tables and buffers large: unfinished packets, wills, client ids, topic aliases, distinct topics.

use std::io::{Result, Write};
use std::net::SocketAddr;
use std::time::Duration;

use super::client::{ATTACKER, Client, open_from, publish};
use super::run::Attack;
use super::scaled;
use crate::net::client::{connect_with, packet, string};

const CONNECTIONS: usize = 3000;
/// Bytes of each of four fields of a CONNECT packet.
const LARGE_FIELD_BYTES: usize = 60_000;
/// The fixed header of a PUBLISH with a remaining length of 4,190,064 bytes, and what is sent of it.
const LARGE_PUBLISH: [u8; 5] = [0x30, 0xF0, 0xDE, 0xFF, 0x01];
const LARGE_SENT_BYTES: usize = 200_000;
/// How long one waits for a broker that does not read.
const WRITE_TIMEOUT: Duration = Duration::from_millis(20);
/// How long they stay open.
const HOLD: Duration = Duration::from_secs(5);

/// A table, with everything else that grows meanwhile.
const TABLE_GROWTH_MAX_BYTES: usize = 64 << 20;

const SESSIONS: usize = 3000;
/// Payloads of wills: the largest that MQTT allows, and what fits into a CONNECT packet of 16 KiB.
const WILL_BYTES: [usize; 2] = [60_000, 12_000];

const CLIENT_IDS: usize = 4000;
/// Client ids: the longest that MQTT allows, and the longest that the broker admits.
const CLIENT_ID_BYTES: [usize; 2] = [65_000, 4000];

const ALIASED_TOPICS: usize = 3600;
const ALIASED_TOPIC_BYTES: usize = 60_000;
/// Enough to fill a cache of some thousand topics.
const DISTINCT_TOPICS: usize = 10_000;
const DISTINCT_TOPIC_BYTES: usize = 60_000;

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn large_lengths_before_connect() {
    Attack::new("3,000 CONNECT packets of 240 KB without their last byte").run(|target| {
        let field = || string(&"x".repeat(LARGE_FIELD_BYTES));
        // MQTT 3.1.1 with will, user name and password.
        let head = [&string("MQTT")[..], &[4, 0xC6, 0, 0]].concat();
        let mut bytes = packet(0x10, &[head, string("large"), field(), field(), field(), field()].concat());
        bytes.pop();
        let (mut open, mut refused) = (Vec::new(), 0);
        for _ in 0..scaled(CONNECTIONS) {
            let mut stream = open_from(ATTACKER, target.address("open"))?;
            stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
            refused += usize::from(stream.write_all(&bytes).is_err());
            open.push(stream);
        }
        std::thread::sleep(HOLD);
        Ok(format!("{} connections, {refused} stopped early", open.len()))
    });
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn large_lengths_after_connect() {
    Attack::new("3,000 clients that begin a PUBLISH of 4 MB, send 200 KB and nothing more").run(|target| {
        let bytes = [&LARGE_PUBLISH[..], &string("topic"), &[0], &vec![0; LARGE_SENT_BYTES]].concat();
        let (mut open, mut refused) = (Vec::new(), 0);
        for n in 0..scaled(CONNECTIONS) {
            match Client::enter(target.address("open"), &format!("large-{n}")) {
                Ok(mut client) => {
                    client.stream.set_write_timeout(Some(WRITE_TIMEOUT))?;
                    refused += usize::from(client.send(&bytes).is_err());
                    open.push(client);
                }
                Err(_) => refused += 1,
            }
        }
        std::thread::sleep(HOLD);
        Ok(format!("{} clients admitted, {refused} refused or stopped early", open.len()))
    });
}

/// CONNECT of 5.0 with an endless session and a will that is delayed for as long.
fn connect_with_will(client_id: &str, payload_bytes: usize) -> Vec<u8> {
    let (forever, head) = ([0xFF; 4], [&string("MQTT")[..], &[5, 0x06, 0, 0]].concat());
    let session_expiry = [&[5, 0x11][..], &forever].concat();
    let will_delay = [&[5, 0x18][..], &forever].concat();
    let (id, topic, payload) = (string(client_id), string("will"), string(&"x".repeat(payload_bytes)));
    packet(0x10, &[head, session_expiry, id, will_delay, topic, payload].concat())
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn long_sessions_with_large_wills() {
    Attack::new("3,000 sessions without end, with wills of 60 KB, and of 12 KB").run(|target| {
        let mut admitted = Vec::new();
        for bytes in WILL_BYTES {
            let enter = |n: &usize| {
                let connect = connect_with_will(&format!("will-{bytes}-{n}"), bytes);
                Client::enter_with(target.address("open"), &connect).is_ok()
            };
            admitted.push(format!("{} of {bytes} bytes", (0..scaled(SESSIONS)).filter(enter).count()));
        }
        Ok(format!("admitted: {}", admitted.join(", ")))
    });
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn long_client_ids_that_come_and_go() {
    Attack {
        growth_max_bytes: TABLE_GROWTH_MAX_BYTES,
        ..Attack::new("4,000 client ids of 65,000 bytes and 4,000 of 4,000 bytes, each connecting once")
    }
    .run(|target| {
        let mut admitted = Vec::new();
        for bytes in CLIENT_ID_BYTES {
            let enter = |n: &usize| {
                let id = format!("{n:0>bytes$}");
                Client::enter_with(target.address("open"), &connect_with(4, &id, &[], None)).is_ok()
            };
            admitted.push(format!("{} of {bytes} bytes", (0..scaled(CLIENT_IDS)).filter(enter).count()));
        }
        Ok(format!("admitted: {}", admitted.join(", ")))
    });
}

/// Publishes to `count` topics of so many bytes, each once.
fn publish_distinct(address: SocketAddr, count: usize, topic_bytes: usize) -> Result<()> {
    let mut publisher = Client::enter(address, "publisher")?;
    for n in 0..count {
        publisher.send(&publish(&format!("long/{n:0>topic_bytes$}"), b"x", false))?;
    }
    publisher.ping()
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn outgoing_topic_aliases_of_long_topics() {
    Attack {
        growth_max_bytes: TABLE_GROWTH_MAX_BYTES,
        ..Attack::new("3,600 topics of 60 KB to a client that allows 65,535 topic aliases")
    }
    .run(|target| {
        let aliases = connect_with(5, "aliases", &[0x22, 0xFF, 0xFF], None);
        let mut subscriber = Client::enter_with(target.address("open"), &aliases)?;
        subscriber.subscribe(&["long/#".to_owned()], 1)?;
        let reader = std::thread::spawn(move || {
            let read = subscriber.discard_for(Duration::from_secs(20));
            (subscriber, read)
        });
        publish_distinct(target.address("open"), scaled(ALIASED_TOPICS), ALIASED_TOPIC_BYTES)?;
        let (_subscriber, read) = reader.join().expect("the reader does not panic");
        Ok(format!("{} bytes received", read?))
    });
}

#[test]
#[ignore = "an attack: tests/all/attacks"]
fn publishes_to_distinct_long_topics() {
    Attack { growth_max_bytes: TABLE_GROWTH_MAX_BYTES, ..Attack::new("publishes to 10,000 distinct topics of 60 KB") }
        .run(|target| {
            let mut subscriber = Client::enter(target.address("open"), "subscriber")?;
            subscriber.subscribe(&["long/+/+".to_owned()], 1)?;
            publish_distinct(target.address("open"), scaled(DISTINCT_TOPICS), DISTINCT_TOPIC_BYTES)?;
            Ok(String::new())
        });
}
