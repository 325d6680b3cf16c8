//! The peers of a bridge: brokers as processes, clients, and a connection that can be interrupted.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::Value;
use tempfile::TempDir;
use weir_mqtt::{
    Connect, ConnectProperties, DecodeContext, Decoded, Packet, PacketId, ProtocolVersion, Publish, PublishProperties,
    QoS, ReasonCode, Side, Subscribe, UserProperties, decode, encode, puback, pubcomp, pubrec, pubrel,
};

use crate::broker_sim::rng::Rng;
use crate::support::child::ChildGuard;
use crate::support::ports::free;
use crate::support::weir;

/// Waits until a condition holds. The brokers print their logs themselves where a test fails.
pub fn until(what: &str, condition: impl FnMut() -> bool) {
    crate::support::until(what, String::new, condition);
}

fn at(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// The broker with one endpoint and a status server.
pub struct Weir {
    weir: weir::Weir,
    pub port: u16,
}

/// An endpoint that is open to all, unless `fields` say otherwise.
fn endpoint(port: u16, fields: &str) -> String {
    let auth = if fields.contains("enableAuth") { "" } else { ", enableAuth: false" };
    format!("endpoint: {{port: {port}, host: 127.0.0.1, enableAcl: false{auth}{fields}}}\n")
}

impl Weir {
    /// Starts with one endpoint, open to all, with further `fields`, and further `documents`.
    pub fn start(name: &str, fields: &str, documents: &str) -> Weir {
        let port = free();
        let weir = weir::Weir::new().with_data().with_status().with_shards(2);
        let weir = weir.with_arguments(&["--node-name", name, "--resync-s", "1"]);
        let weir = weir.with_file("mqtt.yaml", &endpoint(port, fields)).with_file("more.yaml", documents);
        let mut broker = Weir { weir, port };
        broker.weir.run_until_accepting(&[at(port)]);
        broker
    }

    /// kill -9, and a start.
    pub fn crash(&mut self) {
        self.weir.kill();
        self.weir.run_until_accepting(&[at(self.port)]);
    }

    pub fn endpoint(&self, fields: &str) {
        self.write("mqtt.yaml", &endpoint(self.port, fields));
    }

    pub fn path(&self, file: &str) -> PathBuf {
        self.endpoints().join(file)
    }

    /// The entry of a bridge in `/api/bridges`; `Null`: there is none.
    pub fn bridge(&self, name: &str) -> Value {
        let bridges = self.get("/api/bridges")["bridges"].as_array().cloned().unwrap_or_default();
        bridges.into_iter().find(|bridge| bridge["name"] == name).unwrap_or_default()
    }

    pub fn is_connected(&self, name: &str) -> bool {
        self.bridge(name)["link"]["connected"] == true
    }
}

impl Deref for Weir {
    type Target = weir::Weir;

    fn deref(&self) -> &weir::Weir {
        &self.weir
    }
}

/// The path of a program; `None`: it is not installed, and must not be.
pub fn mosquitto() -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&places).collect();
    places.push("/usr/sbin".into());
    let found = places.into_iter().map(|place| place.join("mosquitto")).find(|path| path.exists());
    if found.is_none() {
        let offline = std::env::var_os("WEIR_TEST_OFFLINE").is_some();
        assert!(offline, "mosquitto is missing: tests/run installs it");
        eprintln!("SKIPPED: mosquitto is missing, and WEIR_TEST_OFFLINE is set");
    }
    found
}

/// mosquitto, which keeps everything in memory.
pub struct Mosquitto {
    _process: ChildGuard,
    _directory: TempDir,
    pub port: u16,
}

impl Mosquitto {
    pub fn start(program: &Path, more: &str) -> Mosquitto {
        let (directory, port) = (tempfile::tempdir().unwrap(), free());
        let conf = directory.path().join("mosquitto.conf");
        let limits = "max_queued_messages 0\nmax_queued_bytes 0\npersistence false\nset_tcp_nodelay true\n";
        let text = format!("{limits}listener {port} 127.0.0.1\nallow_anonymous true\n{more}");
        fs::write(&conf, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(&conf).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = ChildGuard::spawn(&mut command);
        until("mosquitto listens", || TcpStream::connect(at(port)).is_ok());
        Mosquitto { _process: process, _directory: directory, port }
    }
}

/// What the far broker does with QoS 2, seen on the wire. mosquitto 2.0.11 sends a message again after its PUBREL where a
/// link is cut twice in a row: no receiver can know such a message from a new one.
#[derive(Default)]
struct Releases {
    version: Option<ProtocolVersion>,
    /// By identifier: the message, and whether it was released.
    messages: HashMap<PacketId, (Vec<u8>, bool)>,
    sent_after_release: usize,
}

impl Releases {
    /// Parses bytes of one connection of the remote broker; returns the incomplete rest.
    fn watch(&mut self, bytes: &mut Vec<u8>) {
        let Some(version) = self.version else { return };
        let context = DecodeContext { version, max_packet_size: u32::MAX, from: Side::Server };
        let mut consumed = 0;
        while let Ok(Decoded::Packet { packet, len }) = decode(&bytes[consumed..], &context) {
            consumed += len;
            match packet {
                Packet::Publish(Publish { qos: QoS::ExactlyOnce, packet_id: Some(id), payload, .. }) => {
                    let before = self.messages.insert(id, (payload.to_vec(), false));
                    let again = before.is_some_and(|(known, released)| released && known == payload);
                    self.sent_after_release += usize::from(again);
                }
                Packet::PubRel(ack) => {
                    self.messages.entry(ack.packet_id).and_modify(|(_, released)| *released = true);
                }
                _ => {}
            }
        }
        bytes.drain(..consumed);
    }
}

/// A wire between a bridge and its broker that breaks after so many bytes, again and again.
pub struct Wire {
    pub port: u16,
    broken: Arc<AtomicUsize>,
    whole: Arc<AtomicBool>,
    releases: Arc<Mutex<Releases>>,
}

impl Wire {
    /// Every connection breaks after `1..most` bytes of both directions together, until [`Wire::mend`].
    pub fn new(to: u16, seed: u64, most: usize) -> Wire {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let wire = Wire { port, broken: Arc::default(), whole: Arc::default(), releases: Arc::default() };
        let (broken, whole) = (Arc::clone(&wire.broken), Arc::clone(&wire.whole));
        let releases = Arc::clone(&wire.releases);
        thread::spawn(move || {
            let mut rng = Rng::new(seed);
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(at(to)) else { continue };
                let budget = if whole.load(Ordering::SeqCst) { usize::MAX } else { 1 + rng.below(most) };
                carry(&near, &far, budget, &broken, &releases);
            }
        });
        wire
    }

    /// Looks for messages that the far broker sends again after it has released them, from now on.
    pub fn watch(&self, version: ProtocolVersion) {
        self.releases.lock().unwrap().version = Some(version);
    }

    /// How many there were.
    pub fn sent_after_release(&self) -> usize {
        self.releases.lock().unwrap().sent_after_release
    }

    pub fn broken(&self) -> usize {
        self.broken.load(Ordering::SeqCst)
    }

    /// Connections from now on are whole.
    pub fn mend(&self) {
        self.whole.store(true, Ordering::SeqCst);
    }
}

/// Two threads that carry one connection until the budget is used up.
fn carry(near: &TcpStream, far: &TcpStream, budget: usize, broken: &Arc<AtomicUsize>, releases: &Arc<Mutex<Releases>>) {
    let left = Arc::new(Mutex::new(budget));
    let counted = Arc::new(AtomicBool::new(false));
    for (from, to, watched) in [(near, far, None), (far, near, Some(releases))] {
        let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
        let (left, counted, broken) = (Arc::clone(&left), Arc::clone(&counted), Arc::clone(broken));
        let watched = watched.map(Arc::clone);
        thread::spawn(move || {
            let (mut buffer, mut seen) = (vec![0; 16 << 10], Vec::new());
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let mut left = left.lock().unwrap();
                let part = count.min(*left);
                *left = if *left == usize::MAX { usize::MAX } else { *left - part };
                let spent = *left == 0;
                if let Some(watched) = &watched {
                    seen.extend_from_slice(&buffer[..part]);
                    watched.lock().unwrap().watch(&mut seen);
                }
                if to.write_all(&buffer[..part]).is_err() || spent {
                    if spent && !counted.swap(true, Ordering::SeqCst) {
                        broken.fetch_add(1, Ordering::SeqCst);
                    }
                    break;
                }
            }
            // Whichever ends first ends both.
            let _ = from.shutdown(Shutdown::Both);
            let _ = to.shutdown(Shutdown::Both);
        });
    }
}

const V5: ProtocolVersion = ProtocolVersion::V5;

/// A message as a client got it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub topic: String,
    pub payload: Vec<u8>,
    pub retain: bool,
    pub qos: u8,
    pub content_type: Option<String>,
    pub user: Vec<(String, String)>,
}

/// A client of MQTT 5.
pub struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
    next_id: u16,
    got: Vec<Got>,
    acknowledged: usize,
}

impl Peer {
    pub fn connect(port: u16, client_id: &str) -> Peer {
        let stream = TcpStream::connect(at(port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut peer = Peer { stream, received: Vec::new(), next_id: 0, got: Vec::new(), acknowledged: 0 };
        let connect = Connect {
            version: V5,
            bridge: false,
            clean_start: true,
            keep_alive_s: 0,
            client_id,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        };
        peer.send(&Packet::Connect(Box::new(connect)));
        peer.hear_one(); // CONNACK
        peer
    }

    fn send(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        encode(packet, V5, &mut bytes).unwrap();
        self.stream.write_all(&bytes).unwrap();
    }

    fn id(&mut self) -> PacketId {
        self.next_id = self.next_id % 60_000 + 1;
        PacketId::new(self.next_id).unwrap()
    }

    pub fn subscribe(&mut self, filter: &str) {
        let mut raw = u16::try_from(filter.len()).unwrap().to_be_bytes().to_vec();
        raw.extend_from_slice(filter.as_bytes());
        raw.push(2 | 8); // QoS 2, Retain As Published
        let (packet_id, user_properties) = (self.id(), UserProperties::default());
        let subscribe =
            Subscribe { packet_id, subscription_identifier: None, user_properties, raw_filters: &raw, count: 1 };
        let before = self.acknowledged;
        self.send(&Packet::Subscribe(subscribe));
        while self.acknowledged == before {
            self.hear_one();
        }
    }

    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS, retain: bool) {
        self.publish_all([payload.to_vec()], topic, qos, retain, PublishProperties::default());
    }

    /// Publishes, and waits until all is acknowledged.
    pub fn publish_all(
        &mut self,
        payloads: impl IntoIterator<Item = Vec<u8>>,
        topic: &str,
        qos: QoS,
        retain: bool,
        properties: PublishProperties<'_>,
    ) {
        let mut awaited = self.acknowledged;
        for payload in payloads {
            let packet_id = (qos != QoS::AtMostOnce).then(|| self.id());
            let properties = properties.clone();
            let publish = Publish { dup: false, qos, retain, topic, packet_id, properties, payload: &payload };
            self.send(&Packet::Publish(publish));
            awaited += usize::from(packet_id.is_some());
        }
        while self.acknowledged < awaited {
            self.hear_one();
        }
    }

    /// Takes the next bytes, and acknowledges messages in them. Ends with the connection: then `false`.
    fn hear_one(&mut self) -> bool {
        let mut buffer = [0; 64 << 10];
        match self.stream.read(&mut buffer) {
            Ok(count @ 1..) => self.received.extend_from_slice(&buffer[..count]),
            _ => return false,
        }
        let context = DecodeContext { version: V5, max_packet_size: u32::MAX, from: Side::Server };
        let (mut consumed, mut answer) = (0, Vec::new());
        while let Decoded::Packet { packet, len } = decode(&self.received[consumed..], &context).unwrap() {
            consumed += len;
            match packet {
                Packet::Publish(publish) => {
                    match (publish.qos, publish.packet_id) {
                        (QoS::AtLeastOnce, Some(id)) => puback(&mut answer, V5, id, ReasonCode::Success),
                        (QoS::ExactlyOnce, Some(id)) => pubrec(&mut answer, V5, id, ReasonCode::Success),
                        _ => {}
                    }
                    let user = UserProperties { raw: publish.properties.raw };
                    self.got.push(Got {
                        topic: publish.topic.to_owned(),
                        payload: publish.payload.to_vec(),
                        retain: publish.retain,
                        qos: publish.qos as u8,
                        content_type: publish.properties.content_type.map(str::to_owned),
                        user: user.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
                    });
                }
                Packet::PubRel(ack) => pubcomp(&mut answer, V5, ack.packet_id, ReasonCode::Success),
                Packet::PubRec(ack) => pubrel(&mut answer, V5, ack.packet_id, ReasonCode::Success),
                Packet::PubAck(_) | Packet::PubComp(_) | Packet::SubAck(_) => self.acknowledged += 1,
                Packet::ConnAck(ack) => assert_eq!(ack.code, 0),
                _ => {}
            }
        }
        self.received.drain(..consumed);
        self.stream.write_all(&answer).is_ok()
    }
}

/// A client that listens on a thread of its own.
pub struct Listener {
    got: Arc<Mutex<Vec<Got>>>,
    stream: TcpStream,
}

impl Listener {
    pub fn new(port: u16, client_id: &str, filter: &str) -> Listener {
        let mut peer = Peer::connect(port, client_id);
        peer.subscribe(filter);
        let (got, stream) = (Arc::<Mutex<Vec<Got>>>::default(), peer.stream.try_clone().unwrap());
        let filled = Arc::clone(&got);
        thread::spawn(move || {
            loop {
                filled.lock().unwrap().append(&mut peer.got);
                if !peer.hear_one() {
                    return;
                }
            }
        });
        Listener { got, stream }
    }

    pub fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.got.lock().unwrap().len()
    }

    /// Waits for a message with this payload.
    pub fn wait_for(&self, payload: &[u8]) -> Got {
        let mut found = None;
        until(&format!("{:?} comes", String::from_utf8_lossy(payload)), || {
            found = self.got().into_iter().find(|got| got.payload == payload);
            found.is_some()
        });
        found.unwrap()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
