//! Load for rounds of faults: clients that publish and subscribe until they are ended, and remember what happened.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::traffic::{Message, ack};
use crate::support::GUARD;
use crate::support::client::connect;
use crate::wire::{Ack, Packet, Publish, Version, decode_server_packet, packet_type};

/// How long a client waits for bytes before it looks whether it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Unacknowledged messages of a publisher at most.
const WINDOW: usize = 16;

/// A connection that may break.
struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr, id: &str) -> Option<Self> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(LOOK_EVERY)).ok()?;
        stream.set_write_timeout(Some(Duration::from_secs(30))).ok()?;
        let mut connection = Self { stream, received: Vec::new() };
        connection.send(&connect(Version::V3_1_1, id, Vec::new())).ok()?;
        connection.wait_for(|packet| matches!(packet, Packet::ConnAck { code: 0, .. }))
    }

    fn wait_for(mut self, is_it: impl Fn(&Packet) -> bool) -> Option<Self> {
        let until = Instant::now() + GUARD;
        while Instant::now() < until {
            match self.receive() {
                Ok(Some(packet)) => return is_it(&packet).then_some(self),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
        None
    }

    fn send(&mut self, packet: &Packet) -> std::io::Result<()> {
        self.stream.write_all(&packet.encode(Version::V3_1_1))
    }

    /// The next packet; `None`: there is none yet.
    fn receive(&mut self) -> std::io::Result<Option<Packet>> {
        loop {
            if let Some((packet, size)) = decode_server_packet(Version::V3_1_1, &self.received).expect("a packet") {
                self.received.drain(..size);
                return Ok(Some(packet));
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// What a publisher did.
#[derive(Debug, Default)]
pub struct Published {
    /// The number of messages of each topic that were sent, and the time of the acknowledgement of each.
    pub topics: HashMap<String, Vec<Option<Instant>>>,
    /// The broker closed, or did not answer until the end.
    pub is_broken: bool,
}

/// Publishes to some topics, in turns, until it is ended, and then waits for the acknowledgements.
pub struct Publisher {
    end: Arc<AtomicBool>,
    give_up: Arc<AtomicBool>,
    thread: JoinHandle<Published>,
}

/// The topics and QoS of a publisher; `retain`: the messages are retained.
#[derive(Debug, Clone)]
pub struct Topic {
    pub name: String,
    pub qos: u8,
    pub retain: bool,
}

impl Publisher {
    pub fn start(address: SocketAddr, id: &str, topics: Vec<Topic>, pause: Duration) -> Self {
        let (end, give_up) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let (ended, gave_up, id) = (Arc::clone(&end), Arc::clone(&give_up), id.to_owned());
        let thread = std::thread::spawn(move || {
            let mut published = Published::default();
            let connection = Connection::open(address, &id);
            published.is_broken = connection.is_none_or(|connection| {
                publish(connection, &topics, pause, (&ended, &gave_up), &mut published).is_err()
            });
            published
        });
        Self { end, give_up, thread }
    }

    pub fn end(&self) {
        self.end.store(true, Ordering::SeqCst);
    }

    /// Does not wait for acknowledgements any more.
    pub fn give_up(&self) {
        self.give_up.store(true, Ordering::SeqCst);
    }

    pub fn is_done(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn finish(self) -> Published {
        self.thread.join().unwrap()
    }
}

fn publish(
    mut connection: Connection,
    topics: &[Topic],
    pause: Duration,
    (end, give_up): (&AtomicBool, &AtomicBool),
    published: &mut Published,
) -> std::io::Result<()> {
    let mut open: HashMap<u16, (String, usize)> = HashMap::new();
    let (mut turn, mut id, mut next) = (0, 0u16, Instant::now());
    loop {
        let ended = end.load(Ordering::SeqCst);
        if ended && open.is_empty() {
            return Ok(());
        }
        if give_up.load(Ordering::SeqCst) {
            return Err(ErrorKind::TimedOut.into());
        }
        if !ended && open.len() < WINDOW && Instant::now() >= next {
            next = Instant::now() + pause;
            let topic = &topics[turn % topics.len()];
            turn += 1;
            id = if id == u16::MAX { 1 } else { id + 1 };
            let numbers = published.topics.entry(topic.name.clone()).or_default();
            let message =
                Message { retain: topic.retain, ..Message::new(&topic.name, numbers.len().to_string(), topic.qos) };
            open.insert(id, (topic.name.clone(), numbers.len()));
            numbers.push(None);
            connection.send(&message.packet(id))?;
        }
        match connection.receive()? {
            Some(Packet::Ack(Ack { packet_type: packet_type::PUBREC, id, .. })) => {
                connection.send(&ack(packet_type::PUBREL, id))?;
            }
            Some(Packet::Ack(Ack { id, .. })) => {
                let (topic, number) = open.remove(&id).expect("an acknowledgement of what was sent");
                published.topics.get_mut(&topic).unwrap()[number] = Some(Instant::now());
            }
            Some(other) => panic!("{other:?}"),
            None => {}
        }
    }
}

/// What a subscriber has received: the numbers of each topic, in order.
pub type Seen = HashMap<String, Vec<usize>>;

/// Subscribes, and receives and acknowledges until it is ended.
pub struct Subscriber {
    end: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: JoinHandle<bool>,
}

impl Subscriber {
    /// Returns when the SUBACK has come.
    pub fn start(address: SocketAddr, id: &str, filter: &str) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::new()));
        let mut connection = Connection::open(address, id).expect("a subscriber is admitted");
        let filters = vec![(filter.to_owned(), 2)];
        connection.send(&Packet::Subscribe { id: 1, properties: Vec::new(), filters }).unwrap();
        let mut connection =
            connection.wait_for(|packet| matches!(packet, Packet::SubAck { .. })).expect("a subscription is granted");
        let (ended, received) = (Arc::clone(&end), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            while !ended.load(Ordering::SeqCst) {
                match connection.receive() {
                    Ok(Some(packet)) => {
                        if take(&mut connection, packet, &received).is_err() {
                            return false;
                        }
                    }
                    Ok(None) => {}
                    Err(_) => return false,
                }
            }
            true
        });
        Self { end, seen, thread }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().unwrap().clone()
    }

    /// Whether the broker has closed.
    pub fn is_broken(&self) -> bool {
        self.thread.is_finished()
    }

    pub fn finish(self) -> Seen {
        self.end.store(true, Ordering::SeqCst);
        self.thread.join().unwrap();
        self.seen.lock().unwrap().clone()
    }
}

fn take(connection: &mut Connection, packet: Packet, seen: &Mutex<Seen>) -> std::io::Result<()> {
    match packet {
        Packet::Publish(Publish { topic, payload, qos, id, .. }) => {
            let number = std::str::from_utf8(&payload).unwrap().parse().unwrap();
            seen.lock().unwrap().entry(topic).or_default().push(number);
            match (qos, id) {
                (1, Some(id)) => connection.send(&ack(packet_type::PUBACK, id)),
                (2, Some(id)) => connection.send(&ack(packet_type::PUBREC, id)),
                _ => Ok(()),
            }
        }
        Packet::Ack(Ack { packet_type: packet_type::PUBREL, id, .. }) => {
            connection.send(&ack(packet_type::PUBCOMP, id))
        }
        other => panic!("{other:?}"),
    }
}
