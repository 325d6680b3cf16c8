use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::wire::{
    Connect, Packet, Properties, PropertyRow, PropertyValue, Publish, Version, Will, decode_server_packet,
};

const GUARD: Duration = Duration::from_secs(60);

/// A client of MQTT 5.0 that waits for each answer.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    connect: Connect,
    /// Topics of messages that came while something else was waited for.
    inbox: Vec<String>,
}

/// What a connection comes to.
#[derive(Debug, PartialEq)]
pub enum Heard {
    Packet(Packet),
    Closed,
}

pub fn property(name: &str, value: PropertyValue) -> (u8, PropertyValue) {
    (PropertyRow::by_name(name).unwrap().id, value)
}

impl Client {
    pub fn new(address: SocketAddr, id: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(GUARD)).unwrap();
        let connect = Connect {
            version: Version::V5,
            clean: true,
            keep_alive_s: 0,
            client_id: id.to_owned(),
            username: None,
            password: None,
            will: None,
            properties: Properties::new(),
        };
        Self { stream, buffer: Vec::new(), connect, inbox: Vec::new() }
    }

    pub fn user(mut self, username: &str, password: &str) -> Self {
        self.connect.username = Some(username.to_owned());
        self.connect.password = Some(password.as_bytes().to_vec());
        self
    }

    /// Keeps its session for as long as the test runs, and takes up what is there.
    pub fn durable(mut self) -> Self {
        self.connect.clean = false;
        self.connect.properties.push(property("session_expiry_interval", PropertyValue::Number(3600)));
        self
    }

    pub fn will(mut self, topic: &str) -> Self {
        let (topic, payload) = (topic.to_owned(), b"will".to_vec());
        self.connect.will = Some(Will { topic, payload, qos: 0, retain: false, properties: Properties::new() });
        self
    }

    /// A will that is sent so long after the connection's end, unless its session ends before.
    pub fn delayed_will(self, topic: &str, delay_s: u32) -> Self {
        let mut client = self.will(topic);
        if let Some(will) = &mut client.connect.will {
            will.properties.push(property("will_delay_interval", PropertyValue::Number(delay_s)));
        }
        client
    }

    pub fn retained_will(self, topic: &str) -> Self {
        let mut client = self.will(topic);
        if let Some(will) = &mut client.connect.will {
            will.retain = true;
        }
        client
    }

    pub fn with(mut self, name: &str, value: PropertyValue) -> Self {
        self.connect.properties.push(property(name, value));
        self
    }

    pub fn send_connect(&mut self) {
        let connect = Packet::Connect(self.connect.clone());
        self.send(&connect);
    }

    /// CONNACK's code.
    pub fn connect(&mut self) -> u8 {
        self.send_connect();
        match self.hear() {
            Heard::Packet(Packet::ConnAck { code, .. }) => code,
            other => panic!("{other:?} for CONNACK"),
        }
    }

    /// Says goodbye, and waits until the broker has closed.
    pub fn leave(mut self) {
        self.send(&Packet::Disconnect { code: 0, properties: Properties::new() });
        while self.hear() != Heard::Closed {}
    }

    /// Connects, or panics.
    pub fn connected(mut self) -> Self {
        assert_eq!(self.connect(), 0, "{:?}", self.connect);
        self
    }

    /// SUBACK's code.
    pub fn subscribe(&mut self, filter: &str) -> u8 {
        self.send(&Packet::Subscribe { id: 1, properties: Properties::new(), filters: vec![(filter.to_owned(), 1)] });
        match self.hear() {
            Heard::Packet(Packet::SubAck { codes, .. }) => codes[0],
            other => panic!("{other:?} for SUBACK"),
        }
    }

    /// Whether PUBACK accepts the message, be there a subscriber or not.
    pub fn may_publish(&mut self, topic: &str) -> bool {
        self.publish(topic, "1", false) < 0x80
    }

    /// PUBACK's code.
    pub fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> u8 {
        let publish = Publish {
            dup: false,
            qos: 1,
            retain,
            topic: topic.to_owned(),
            id: Some(7),
            properties: Properties::new(),
            payload: payload.as_bytes().to_vec(),
        };
        self.send(&Packet::Publish(publish));
        loop {
            match self.hear() {
                Heard::Packet(Packet::Ack(ack)) => return ack.code,
                Heard::Packet(Packet::Publish(publish)) => self.inbox.push(publish.topic),
                other => panic!("{other:?} for PUBACK"),
            }
        }
    }

    /// The topics of messages that come before the answer to a ping.
    pub fn received(&mut self) -> Vec<String> {
        self.send(&Packet::PingReq);
        loop {
            match self.hear() {
                Heard::Packet(Packet::PingResp) => return std::mem::take(&mut self.inbox),
                Heard::Packet(Packet::Publish(publish)) => self.inbox.push(publish.topic),
                other => panic!("{other:?} for PINGRESP"),
            }
        }
    }

    pub fn send(&mut self, packet: &Packet) {
        self.send_bytes(&packet.encode(Version::V5));
    }

    /// A broker that has closed already is heard, not written to.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next packet, or the end.
    pub fn hear(&mut self) -> Heard {
        loop {
            if let Some((packet, used)) = decode_server_packet(Version::V5, &self.buffer).unwrap() {
                self.buffer.drain(..used);
                return Heard::Packet(packet);
            }
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Heard::Closed,
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    panic!("nothing comes from the broker")
                }
                Err(_) => return Heard::Closed,
            }
        }
    }

    /// DISCONNECT's code, once it comes.
    pub fn disconnected(&mut self) -> u8 {
        match self.hear() {
            Heard::Packet(Packet::Disconnect { code, .. }) => code,
            other => panic!("{other:?} for DISCONNECT"),
        }
    }
}
