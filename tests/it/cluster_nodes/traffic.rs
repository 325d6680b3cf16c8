//! What clients of the tests do: publish, receive, acknowledge.

use crate::support::client::Client;
use crate::wire::{Ack, Packet, Publish, packet_type};

/// Unacknowledged messages of a publisher at most.
const WINDOW: usize = 20;

/// A message to publish.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Message {
    pub topic: String,
    pub payload: Vec<u8>,
    pub qos: u8,
    pub retain: bool,
}

impl Message {
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>, qos: u8) -> Self {
        Self { topic: topic.to_owned(), payload: payload.into(), qos, retain: false }
    }

    pub fn retained(topic: &str, payload: impl Into<Vec<u8>>, qos: u8) -> Self {
        Self { retain: true, ..Self::new(topic, payload, qos) }
    }

    pub fn packet(&self, id: u16) -> Packet {
        Packet::Publish(Publish {
            dup: false,
            qos: self.qos,
            retain: self.retain,
            topic: self.topic.clone(),
            id: (self.qos > 0).then_some(id),
            properties: Vec::new(),
            payload: self.payload.clone(),
        })
    }
}

/// An acknowledgement without a reason.
pub fn ack(packet_type: u8, id: u16) -> Packet {
    Packet::Ack(Ack { packet_type, id, code: 0, properties: Vec::new() })
}

/// Publishes all messages, some of them on the way at a time, and waits for their acknowledgements.
pub fn publish_all(client: &mut Client, messages: &[Message]) {
    let mut unacknowledged = 0;
    for (number, message) in messages.iter().enumerate() {
        while unacknowledged >= WINDOW {
            unacknowledged -= usize::from(is_done(client));
        }
        client.send(&message.packet(number as u16 + 1));
        unacknowledged += usize::from(message.qos > 0);
    }
    while unacknowledged > 0 {
        unacknowledged -= usize::from(is_done(client));
    }
}

/// Takes the publisher's next packet. Returns whether it ends a publish.
fn is_done(client: &mut Client) -> bool {
    match client.receive() {
        Some(Packet::Ack(Ack { packet_type: packet_type::PUBREC, id, code, .. })) if code < 0x80 => {
            client.send(&ack(packet_type::PUBREL, id));
            false
        }
        Some(Packet::Ack(Ack { code, .. })) if code < 0x80 => true,
        other => panic!("an acknowledgement is expected: {other:?}"),
    }
}

/// Acknowledges what was received. Returns the message, where it is one.
pub fn acknowledge(client: &mut Client, packet: Packet) -> Option<Publish> {
    match packet {
        Packet::Publish(publish) => {
            match (publish.qos, publish.id) {
                (1, Some(id)) => client.send(&ack(packet_type::PUBACK, id)),
                (2, Some(id)) => client.send(&ack(packet_type::PUBREC, id)),
                _ => {}
            }
            Some(publish)
        }
        Packet::Ack(Ack { packet_type: packet_type::PUBREL, id, .. }) => {
            client.send(&ack(packet_type::PUBCOMP, id));
            None
        }
        other => panic!("a message is expected: {other:?}"),
    }
}

/// Receives and acknowledges so many messages.
pub fn collect(client: &mut Client, count: usize) -> Vec<Publish> {
    let mut received = Vec::new();
    while received.len() < count {
        let packet = client.receive().expect("the broker closes the connection");
        received.extend(acknowledge(client, packet));
    }
    received
}

/// Receives and acknowledges what the broker has for the client until it answers PINGREQ.
pub fn collect_until_ping(client: &mut Client) -> Vec<Publish> {
    client.send(&Packet::PingReq);
    let mut received = Vec::new();
    loop {
        match client.receive().expect("the broker closes the connection") {
            Packet::PingResp => return received,
            packet => received.extend(acknowledge(client, packet)),
        }
    }
}

/// The payload as a number.
pub fn number(publish: &Publish) -> usize {
    let text = std::str::from_utf8(&publish.payload).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
