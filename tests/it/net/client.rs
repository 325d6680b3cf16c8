//! An MQTT client over any byte stream. It builds packets by hand, independently of the codecs.

use std::io::ErrorKind;

use crate::support::GUARD;
use crate::support::stream::Stream;

/// A packet: its first byte and what follows the remaining length.
pub type Packet = (u8, Vec<u8>);

pub struct Client {
    stream: Box<dyn Stream>,
    v5: bool,
}

pub fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = (length % 128) as u8;
        length /= 128;
        bytes.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend_from_slice(body);
    bytes
}

pub fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// CONNECT with Clean Start and no keep-alive.
pub fn connect(level: u8, client_id: &str) -> Vec<u8> {
    connect_with(level, client_id, &[], None)
}

/// CONNECT of 5.0 with properties, or of any version with a user name and password.
pub fn connect_with(level: u8, client_id: &str, properties: &[u8], login: Option<(&str, &str)>) -> Vec<u8> {
    let mut body = string(if level == 3 { "MQIsdp" } else { "MQTT" });
    body.extend_from_slice(&[level, if login.is_some() { 0xC2 } else { 0x02 }, 0, 0]);
    if level == 5 {
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
    }
    body.extend(string(client_id));
    if let Some((username, password)) = login {
        body.extend(string(username));
        body.extend(string(password));
    }
    packet(0x10, &body)
}

impl Client {
    pub fn new(stream: impl Stream + 'static, level: u8) -> Client {
        Client { stream: Box::new(stream), v5: level == 5 }
    }

    /// Connects, and expects to be admitted.
    pub fn enter(stream: impl Stream + 'static, level: u8, client_id: &str) -> Client {
        let mut client = Client::new(stream, level);
        client.send(&connect(level, client_id));
        let (first, body) = client.receive().expect("CONNACK");
        assert_eq!((first, body[1]), (0x20, 0), "CONNACK {body:02x?}");
        client
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
        self.stream.flush().unwrap();
    }

    /// Sends bytes on a connection that the broker may have closed.
    pub fn try_send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next packet; `None`: the broker closed.
    pub fn receive(&mut self) -> Option<Packet> {
        let first = self.byte()?;
        let mut length = 0;
        for shift in (0..28).step_by(7) {
            let byte = self.byte().expect("a remaining length");
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        Some((first, body))
    }

    fn byte(&mut self) -> Option<u8> {
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => None,
            Ok(_) => Some(byte[0]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came in {GUARD:?}")
            }
            // A reset, or TLS that ended without a close_notify.
            Err(_) => None,
        }
    }

    pub fn subscribe(&mut self, filter: &str, qos: u8) {
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        self.send(&packet(0x82, &[&[0, 1], properties, &string(filter), &[qos]].concat()));
        let (first, body) = self.receive().expect("SUBACK");
        assert_eq!((first, *body.last().unwrap()), (0x90, qos), "SUBACK {body:02x?}");
    }

    pub fn publish_bytes(&self, topic: &str, payload: &[u8], qos: u8) -> Vec<u8> {
        let id: &[u8] = if qos > 0 { &[0, 7] } else { &[] };
        let properties: &[u8] = if self.v5 { &[0] } else { &[] };
        packet(0x30 | qos << 1, &[&string(topic), id, properties, payload].concat())
    }

    /// Publishes; with QoS 1 waits for the acknowledgement.
    pub fn publish(&mut self, topic: &str, payload: &[u8], qos: u8) {
        let bytes = self.publish_bytes(topic, payload, qos);
        self.send(&bytes);
        if qos == 1 {
            let (first, body) = self.receive().expect("PUBACK");
            assert_eq!((first, &body[..2]), (0x40, &[0, 7][..]));
        }
    }

    /// Receives the next message, and acknowledges it by its QoS.
    pub fn message(&mut self) -> (String, Vec<u8>) {
        let (first, body) = self.receive().expect("PUBLISH");
        assert_eq!(first & 0xF0, 0x30, "{first:02x}");
        let topic_len = usize::from(u16::from_be_bytes([body[0], body[1]]));
        let topic = String::from_utf8(body[2..2 + topic_len].to_vec()).unwrap();
        let mut at = 2 + topic_len;
        if first & 0x06 != 0 {
            self.send(&packet(0x40, &body[at..at + 2]));
            at += 2;
        }
        if self.v5 {
            assert_eq!(body[at], 0, "no properties were sent");
            at += 1;
        }
        (topic, body[at..].to_vec())
    }

    pub fn ping(&mut self) {
        self.send(&[0xC0, 0]);
        assert_eq!(self.receive(), Some((0xD0, Vec::new())));
    }
}
