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
use weir_mqtt::{DecodeContext, Decoded, PacketId, ProtocolVersion, QoS, Side, decode};

use crate::broker_sim::rng::Rng;
use crate::support::child::ChildGuard;
use crate::support::client::Client;
use crate::support::ports::free;
use crate::support::{stream, weir};
use crate::wire::{Ack, Packet, Properties, PropertyValue, Publish, Version, packet_type as t};

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
        Self::start_with(name, fields, documents, &[])
    }

    /// With further arguments.
    pub fn start_with(name: &str, fields: &str, documents: &str, arguments: &[&str]) -> Weir {
        let port = free();
        let weir = weir::Weir::new().with_data().with_status().with_shards(2);
        let weir = weir.with_arguments(&[&["--node-name", name, "--resync-s", "1"], arguments].concat());
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
    let directories = std::env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<PathBuf> = std::env::split_paths(&directories).collect();
    directories.push("/usr/sbin".into());
    let found = directories.into_iter().map(|directory| directory.join("mosquitto")).find(|path| path.exists());
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
                weir_mqtt::Packet::Publish(weir_mqtt::Publish {
                    qos: QoS::ExactlyOnce,
                    packet_id: Some(id),
                    payload,
                    ..
                }) => {
                    let before = self.messages.insert(id, (payload.to_vec(), false));
                    let again = before.is_some_and(|(known, released)| released && known == payload);
                    self.sent_after_release += usize::from(again);
                }
                weir_mqtt::Packet::PubRel(ack) => {
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

/// The identifier of the property Content Type.
pub const CONTENT_TYPE: u8 = 0x03;

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

/// A client of MQTT 5.0 that acknowledges what it receives.
pub struct Peer {
    client: Client,
    socket: TcpStream,
    next_id: u16,
    got: Vec<Got>,
    acknowledged: usize,
}

impl Peer {
    pub fn connect(port: u16, client_id: &str) -> Peer {
        let socket = stream::tcp(at(port));
        let client = Client::enter(socket.try_clone().unwrap(), Version::V5, client_id);
        // A listener waits as long as its test lasts.
        socket.set_read_timeout(None).unwrap();
        Peer { client, socket, next_id: 0, got: Vec::new(), acknowledged: 0 }
    }

    fn id(&mut self) -> u16 {
        self.next_id = self.next_id % 60_000 + 1;
        self.next_id
    }

    pub fn subscribe(&mut self, filter: &str) {
        let qos_2_and_retain_as_published = 2 | 8;
        let filters = vec![(filter.to_owned(), qos_2_and_retain_as_published)];
        let subscribe = Packet::Subscribe { id: self.id(), properties: Properties::new(), filters };
        self.client.send(&subscribe);
        self.await_acknowledgements(self.acknowledged + 1);
    }

    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: QoS, retain: bool) {
        self.publish_all([payload.to_vec()], topic, qos, retain, &Properties::new());
    }

    /// Publishes, and waits until all is acknowledged.
    pub fn publish_all(
        &mut self,
        payloads: impl IntoIterator<Item = Vec<u8>>,
        topic: &str,
        qos: QoS,
        retain: bool,
        properties: &Properties,
    ) {
        let mut awaited = self.acknowledged;
        for payload in payloads {
            let id = (qos != QoS::AtMostOnce).then(|| self.id());
            let (topic, properties) = (topic.to_owned(), properties.clone());
            let publish = Publish { dup: false, qos: qos as u8, retain, topic, id, properties, payload };
            self.client.send(&Packet::Publish(publish));
            awaited += usize::from(id.is_some());
        }
        self.await_acknowledgements(awaited);
    }

    fn await_acknowledgements(&mut self, count: usize) {
        while self.acknowledged < count {
            assert!(self.receive(), "the connection ended before all was acknowledged");
        }
    }

    /// Receives a packet and acknowledges it. `false`: the connection has ended.
    fn receive(&mut self) -> bool {
        let answer = match self.client.receive() {
            Some(Packet::Publish(publish)) => {
                let answer = publish.id.map(|id| (if publish.qos == 1 { t::PUBACK } else { t::PUBREC }, id));
                self.got.push(Got::from(publish));
                answer
            }
            Some(Packet::Ack(ack)) if ack.packet_type == t::PUBREL => Some((t::PUBCOMP, ack.id)),
            Some(Packet::Ack(ack)) if ack.packet_type == t::PUBREC => Some((t::PUBREL, ack.id)),
            Some(Packet::Ack(_) | Packet::SubAck { .. }) => {
                self.acknowledged += 1;
                None
            }
            Some(_) => None,
            None => return false,
        };
        if let Some((packet_type, id)) = answer {
            self.client.send(&Packet::Ack(Ack { packet_type, id, code: 0, properties: Properties::new() }));
        }
        true
    }
}

impl From<Publish> for Got {
    fn from(publish: Publish) -> Got {
        let (mut content_type, mut user) = (None, Vec::new());
        for (id, value) in publish.properties {
            match value {
                PropertyValue::String(value) if id == CONTENT_TYPE => content_type = Some(value),
                PropertyValue::Pair(name, value) => user.push((name, value)),
                _ => {}
            }
        }
        let Publish { topic, payload, retain, qos, .. } = publish;
        Got { topic, payload, retain, qos, content_type, user }
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
        let (got, stream) = (Arc::<Mutex<Vec<Got>>>::default(), peer.socket.try_clone().unwrap());
        let filled = Arc::clone(&got);
        thread::spawn(move || {
            loop {
                filled.lock().unwrap().append(&mut peer.got);
                if !peer.receive() {
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
