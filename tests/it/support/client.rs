//! A blocking MQTT client over any byte stream: it checks all that it receives and sends anything.

use std::io::ErrorKind;
use std::net::SocketAddr;

use super::GUARD;
use super::stream::{self, Stream};
use crate::wire::{Connect, Observer, Packet, Properties, Publish, Version, decode_server_packet};

/// A connection to a broker.
pub struct Client {
    stream: Box<dyn Stream>,
    version: Version,
    observer: Observer,
    received: Vec<u8>,
}

impl Client {
    /// Uses a connection that is open, and sends nothing.
    pub fn over(stream: impl Stream + 'static, version: Version) -> Client {
        Client { stream: Box::new(stream), version, observer: Observer::new(version), received: Vec::new() }
    }

    /// Opens a TCP connection and sends nothing.
    pub fn open(address: SocketAddr, version: Version) -> Client {
        Client::over(stream::tcp(address), version)
    }

    /// Opens a TCP connection and is admitted with a clean start.
    pub fn connect(address: SocketAddr, version: Version, client_id: &str) -> Client {
        Client::enter(stream::tcp(address), version, client_id)
    }

    /// Is admitted with a clean start over a connection that is open.
    pub fn enter(stream: impl Stream + 'static, version: Version, client_id: &str) -> Client {
        let mut client = Client::over(stream, version);
        client.send(&connect(version, client_id, Properties::new()));
        match client.receive() {
            Some(Packet::ConnAck { code: 0, .. }) => client,
            other => panic!("{client_id} was not admitted: {other:?}"),
        }
    }

    /// Sends a packet.
    pub fn send(&mut self, packet: &Packet) {
        self.observer.sent(packet);
        // A broker that refuses a packet may close before all of it is sent.
        let _ = self.write(&packet.encode(self.version));
    }

    /// Sends bytes, whatever they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.observer.sent_raw();
        self.write(bytes)
    }

    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next packet; `None`: the broker closed.
    pub fn receive(&mut self) -> Option<Packet> {
        loop {
            if let Some((mut packet, size)) = decode_server_packet(self.version, &self.received).expect("a packet") {
                self.received.drain(..size);
                self.observer.received(&mut packet, size).expect("what a server may send");
                return Some(packet);
            }
            let mut buffer = [0; 65_536];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("the broker sends nothing for {GUARD:?}");
                }
                // A reset, or TLS that ended without a close_notify.
                Err(_) => return None,
            }
        }
    }

    /// Subscribes to one filter and waits for the SUBACK.
    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let filters = vec![(filter.to_owned(), qos)];
        self.send(&Packet::Subscribe { id: 1, properties: Properties::new(), filters });
        match self.receive() {
            Some(Packet::SubAck { codes, .. }) if codes == [qos] => {}
            other => panic!("{filter} was not granted: {other:?}"),
        }
    }

    /// PINGREQ and its PINGRESP, with nothing in between.
    pub fn ping(&mut self) {
        self.send(&Packet::PingReq);
        assert_eq!(self.receive(), Some(Packet::PingResp));
    }
}

/// A CONNECT with a clean start and no keep-alive.
pub fn connect(version: Version, client_id: &str, properties: Properties) -> Packet {
    Packet::Connect(clean_connect(version, client_id, properties))
}

/// The fields of [`connect`], to be changed.
pub fn clean_connect(version: Version, client_id: &str, properties: Properties) -> Connect {
    Connect {
        version,
        clean: true,
        keep_alive_s: 0,
        client_id: client_id.to_owned(),
        username: None,
        password: None,
        will: None,
        properties,
    }
}

/// A PUBLISH without properties.
pub fn publish(topic: &str, payload: &[u8], qos: u8, id: Option<u16>) -> Packet {
    let (topic, payload) = (topic.to_owned(), payload.to_vec());
    Packet::Publish(Publish { dup: false, qos, retain: false, topic, id, properties: Properties::new(), payload })
}

/// A DISCONNECT with `code` and without properties, as [`Client::receive`] returns it.
pub fn disconnect(code: u8) -> Option<Packet> {
    Some(Packet::Disconnect { code, properties: Properties::new() })
}
