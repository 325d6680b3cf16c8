//! Every transport carries MQTT, whatever its pieces.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

use weirmq::net::{AllowedOrigins, ListenerPolicy, SocketKey, TlsSettings, Transport, WebSocketPolicy};

use super::client::Client;
use super::plane::{Plane, address, loopback, policy};
use super::tls::{Authority, settings};
use crate::support::stream::{self, Stream};

pub const TRANSPORTS: [&str; 5] = ["tcp", "unix", "tls", "ws", "wss"];

/// One listener per transport, and how clients reach it.
pub struct Everywhere {
    pub plane: Plane,
    ca: Authority,
    keys: Vec<SocketKey>,
    _directory: tempfile::TempDir,
}

impl Everywhere {
    pub fn start(shards: u16, adjust: impl Fn(&mut ListenerPolicy)) -> Everywhere {
        Self::on(Plane::start(shards), adjust)
    }

    pub fn on(plane: Plane, adjust: impl Fn(&mut ListenerPolicy)) -> Everywhere {
        let (ca, directory) = (Authority::new(), tempfile::tempdir().unwrap());
        let server = ca.issue("server", &["localhost"], 1);
        let websocket = WebSocketPolicy {
            path: "/mqtt".into(),
            allowed_origins: AllowedOrigins::SameHost,
            max_message_bytes: 64 << 20,
        };
        let listen = |(id, name): (u32, &str)| {
            let mut policy = policy(id);
            if name.starts_with("ws") {
                policy.websocket = Some(websocket.clone());
            }
            if matches!(name, "tls" | "wss") {
                let settings = TlsSettings { websocket: name == "wss", ..settings(&server) };
                policy.transport = Transport::Tls(settings.build().unwrap());
            }
            adjust(&mut policy);
            let unix = name == "unix";
            let key = if unix { SocketKey::Unix(directory.path().join("socket")) } else { loopback(0) };
            plane.listen(&key, policy)
        };
        let keys = (1..).zip(TRANSPORTS).map(listen).collect();
        Everywhere { plane, ca, keys, _directory: directory }
    }

    fn key(&self, transport: &str) -> &SocketKey {
        &self.keys[TRANSPORTS.iter().position(|name| *name == transport).unwrap()]
    }

    pub fn address(&self, transport: &str) -> SocketAddr {
        address(self.key(transport))
    }

    pub fn open(&self, transport: &str) -> Box<dyn Stream> {
        let key = self.key(transport);
        let config = || Arc::new(stream::tls_config(&self.ca.der()));
        let tcp = || stream::tcp(address(key));
        match (transport, key) {
            (_, SocketKey::Unix(path)) => Box::new(stream::unix(path)),
            ("tls", _) => Box::new(stream::tls(tcp(), &config(), "localhost")),
            ("ws", _) => Box::new(stream::websocket(tcp(), "/mqtt")),
            ("wss", _) => Box::new(stream::websocket(stream::tls(tcp(), &config(), "localhost"), "/mqtt")),
            _ => Box::new(tcp()),
        }
    }
}

fn payload(length: usize, seed: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(31) + seed) as u8).collect()
}

#[test]
fn messages_of_every_size_are_delivered_between_all_transports() {
    for shards in [1, 3] {
        let everywhere = Everywhere::start(shards, |_| {});
        for (index, transport) in TRANSPORTS.into_iter().enumerate() {
            for level in [4, 5] {
                let other = TRANSPORTS[(index + 1) % TRANSPORTS.len()];
                let topic = format!("{transport}/{level}");
                let mut subscriber = Client::enter(everywhere.open(other), level, &format!("s-{topic}"));
                subscriber.subscribe(&topic, 1);
                let mut publisher = Client::enter(everywhere.open(transport), level, &format!("p-{topic}"));
                for length in [0, 1, 100, 5_000, 65_536, 140_000, 3_000_000] {
                    let sent = payload(length, index);
                    let expected = sent.clone();
                    let topic = topic.clone();
                    let publishing = std::thread::spawn(move || {
                        publisher.publish(&topic, &sent, 1);
                        publisher
                    });
                    let (_, received) = subscriber.message();
                    assert!(received == expected, "{transport} to {other}, {length} bytes");
                    publisher = publishing.join().unwrap();
                }
            }
        }
    }
}

#[test]
fn a_flood_of_messages_is_delivered_in_order() {
    const COUNT: u32 = 20_000;
    // Published at once. Three such batches are less than the broker queues for a slow subscriber.
    const BATCH: u32 = 1_000;
    for shards in [1, 3] {
        let everywhere = Everywhere::start(shards, |_| {});
        for transport in TRANSPORTS {
            let mut subscriber = Client::enter(everywhere.open(transport), 4, &format!("s-{transport}"));
            subscriber.subscribe(transport, 1);
            let mut publisher = Client::enter(everywhere.open("tcp"), 4, &format!("p-{transport}"));
            let (taken, may_go_on) = std::sync::mpsc::channel();
            let publishing = std::thread::spawn(move || {
                for first in (0..COUNT).step_by(BATCH as usize) {
                    let mut bytes = Vec::new();
                    for number in first..first + BATCH {
                        let payload = [&number.to_be_bytes()[..], &vec![0; (number % 300) as usize]].concat();
                        bytes.extend(publisher.publish_bytes(transport, &payload, 0));
                    }
                    if first >= 3 * BATCH {
                        may_go_on.recv().unwrap();
                    }
                    publisher.send(&bytes);
                }
                publisher
            });
            for number in 0..COUNT {
                let (_, payload) = subscriber.message();
                assert_eq!(payload[..4], number.to_be_bytes(), "{transport}, {shards} shards");
                assert_eq!(payload.len(), 4 + (number % 300) as usize);
                if number % BATCH == BATCH - 1 {
                    // The publisher may have sent all of it.
                    let _ = taken.send(());
                }
            }
            publishing.join().unwrap().ping();
        }
    }
}

/// Passes everything on in single bytes.
struct Drop1(Box<dyn Stream>);

impl std::io::Read for Drop1 {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for Drop1 {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        for byte in bytes {
            self.0.write_all(std::slice::from_ref(byte))?;
            self.0.flush()?;
        }
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn packets_sent_byte_by_byte_are_understood() {
    for shards in [1, 3] {
        let everywhere = Everywhere::start(shards, |_| {});
        for transport in TRANSPORTS {
            let mut client = Client::enter(Drop1(everywhere.open(transport)), 5, &format!("c-{transport}"));
            client.subscribe("t", 1);
            client.publish("t", b"drop by drop", 0);
            assert_eq!(client.message(), ("t".into(), b"drop by drop".to_vec()), "{transport}");
            client.send(&client.publish_bytes("t", &payload(3000, 1), 0));
            assert_eq!(client.message().1, payload(3000, 1), "{transport}");
        }
    }
}

#[test]
fn a_subscriber_that_reads_late_gets_all_messages() {
    let everywhere = Everywhere::start(2, |_| {});
    for transport in TRANSPORTS {
        let mut subscriber = Client::enter(everywhere.open(transport), 4, &format!("s-{transport}"));
        subscriber.subscribe(transport, 1);
        let mut publisher = Client::enter(everywhere.open("tcp"), 4, &format!("p-{transport}"));
        // More than the socket buffers hold, as QoS 1: none of it may be lost.
        for number in 0..60 {
            publisher.publish(transport, &payload(200_000, number), 1);
        }
        for number in 0..60 {
            assert!(subscriber.message().1 == payload(200_000, number), "{transport}, message {number}");
        }
        subscriber.ping();
    }
}

/// The socket takes whatever the broker writes, so no event ever calls for more: the broker itself has to remember.
#[test]
fn retained_messages_arrive_without_another_event() {
    let plane = Plane::start(1);
    let address = plane.listen_tcp(policy(1));
    let mut publisher = Client::enter(stream::tcp(address), 4, "p");
    let topics = 30_000;
    let packets: Vec<u8> = (0..topics)
        .flat_map(|number| {
            let mut packet = publisher.publish_bytes(&format!("site/{number}"), &payload(1000, number), 0);
            packet[0] |= 1;
            packet
        })
        .collect();
    publisher.send(&packets);
    publisher.ping();
    for round in 0..10 {
        let pipe = stream::tcp(address);
        let mut fast = pipe.try_clone().unwrap();
        let mut subscriber = Client::enter(pipe, 4, &format!("s{round}"));
        subscriber.subscribe("site/#", 0);
        let mut buffer = vec![0; packets.len()];
        fast.read_exact(&mut buffer).expect("all of it");
    }
}

#[test]
fn open_listeners_are_reported_as_alive() {
    let everywhere = Everywhere::start(1, |_| {});
    let statuses = everywhere.plane.plane.listeners();
    assert_eq!(statuses.len(), TRANSPORTS.len());
    assert!(statuses.iter().all(|status| status.alive && status.error.is_none()), "{statuses:?}");
    let SocketKey::Unix(path) = &everywhere.keys[1] else { panic!("the second one is the Unix socket") };
    std::fs::remove_file(path).unwrap();
    let dead: Vec<_> = everywhere.plane.plane.listeners().into_iter().filter(|status| !status.alive).collect();
    assert_eq!(dead.len(), 1, "{dead:?}");
    assert!(dead[0].error.as_ref().unwrap().contains("was removed"), "{dead:?}");
}
