//! A client with credentials that waits for each answer.

use std::net::SocketAddr;

use crate::support::client::{self, clean_connect};
use crate::support::stream::{self, Stream};
use crate::wire::{Connect, Packet, Properties, PropertyRow, PropertyValue, Publish, Version, Will};

/// A client of MQTT 5.0 that waits for each answer.
pub struct Client {
    client: client::Client,
    connect: Connect,
    /// Topics of messages that came while another answer was awaited.
    inbox: Vec<String>,
}

pub fn property(name: &str, value: PropertyValue) -> (u8, PropertyValue) {
    (PropertyRow::by_name(name).unwrap().id, value)
}

impl Client {
    pub fn new(address: SocketAddr, id: &str) -> Self {
        Self::over(stream::tcp(address), id)
    }

    /// Uses a connection that is open.
    pub fn over(stream: impl Stream + 'static, id: &str) -> Self {
        let client = client::Client::over(stream, Version::V5);
        Self { client, connect: clean_connect(Version::V5, id, Properties::new()), inbox: Vec::new() }
    }

    pub fn user(mut self, username: &str, password: &str) -> Self {
        self.connect.username = Some(username.to_owned());
        self.connect.password = Some(password.as_bytes().to_vec());
        self
    }

    /// Resumes its session, which outlives the connection by an hour.
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

    /// A will that is published so many seconds after the end of the connection, or with its session.
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
        match self.receive() {
            Some(Packet::ConnAck { code, .. }) => code,
            other => panic!("{other:?} for CONNACK"),
        }
    }

    /// Sends DISCONNECT, and waits until the broker has closed.
    pub fn disconnect(mut self) {
        self.send(&Packet::Disconnect { code: 0, properties: Properties::new() });
        while self.receive().is_some() {}
    }

    /// Connects, or panics.
    pub fn connected(mut self) -> Self {
        assert_eq!(self.connect(), 0, "{:?}", self.connect);
        self
    }

    /// SUBACK's code.
    pub fn subscribe(&mut self, filter: &str) -> u8 {
        self.send(&Packet::Subscribe { id: 1, properties: Properties::new(), filters: vec![(filter.to_owned(), 1)] });
        match self.receive() {
            Some(Packet::SubAck { codes, .. }) => codes[0],
            other => panic!("{other:?} for SUBACK"),
        }
    }

    /// Whether PUBACK accepts the message, with or without subscribers.
    pub fn may_publish(&mut self, topic: &str) -> bool {
        self.publish(topic, "1", false) < 0x80
    }

    /// PUBACK's code.
    pub fn publish(&mut self, topic: &str, payload: &str, retain: bool) -> u8 {
        let (topic, payload, properties) = (topic.to_owned(), payload.as_bytes().to_vec(), Properties::new());
        self.send(&Packet::Publish(Publish { dup: false, qos: 1, retain, topic, id: Some(7), properties, payload }));
        loop {
            match self.receive() {
                Some(Packet::Ack(ack)) => return ack.code,
                Some(Packet::Publish(publish)) => self.inbox.push(publish.topic),
                other => panic!("{other:?} for PUBACK"),
            }
        }
    }

    /// The topics of the messages before the answer to a ping.
    pub fn received(&mut self) -> Vec<String> {
        self.send(&Packet::PingReq);
        loop {
            match self.receive() {
                Some(Packet::PingResp) => return std::mem::take(&mut self.inbox),
                Some(Packet::Publish(publish)) => self.inbox.push(publish.topic),
                other => panic!("{other:?} for PINGRESP"),
            }
        }
    }

    /// The topic of the next packet, which must be a message.
    pub fn next_topic(&mut self) -> String {
        match self.receive() {
            Some(Packet::Publish(publish)) => publish.topic,
            other => panic!("{other:?} for PUBLISH"),
        }
    }

    /// PINGREQ and its PINGRESP, with nothing in between.
    pub fn ping(&mut self) {
        self.client.ping();
    }

    pub fn send(&mut self, packet: &Packet) {
        self.client.send(packet);
    }

    /// Sends bytes. An error is ignored: [`Client::receive`] returns `None` where the broker has closed.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.client.send_raw(bytes);
    }

    /// The next packet; `None`: the broker closed.
    pub fn receive(&mut self) -> Option<Packet> {
        self.client.receive()
    }

    /// DISCONNECT's code.
    pub fn disconnected(&mut self) -> u8 {
        match self.receive() {
            Some(Packet::Disconnect { code, .. }) => code,
            other => panic!("{other:?} for DISCONNECT"),
        }
    }
}
