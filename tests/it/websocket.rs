//! The statements about WebSocket, held over a client of our own: RFC 6455 by hand.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::process::Broker;
use crate::support::client;
use crate::wire::{Packet, Publish, Version, decode_server_packet};

const BINARY: u8 = 2;
const TEXT: u8 = 1;
const CLOSE: u8 = 8;

struct WebSocket {
    stream: TcpStream,
    received: Vec<u8>,
    /// What binary frames held.
    packets: Vec<u8>,
}

/// Asks for the upgrade; answers with the response's head.
fn upgrade(broker: &Broker, protocols: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(broker.address("websocket")).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout above zero");
    let request = format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{protocols}\r\n"
    );
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && matches!(stream.read(&mut byte), Ok(1)) {
        head.push(byte[0]);
    }
    (stream, String::from_utf8(head).expect("a head of text"))
}

impl WebSocket {
    fn open(broker: &Broker) -> WebSocket {
        let (stream, head) = upgrade(broker, "Sec-WebSocket-Protocol: mqtt\r\n");
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        // The example of RFC 6455, section 1.3.
        assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        WebSocket { stream, received: Vec::new(), packets: Vec::new() }
    }

    /// Sends one frame, masked as a client must.
    fn send(&mut self, opcode: u8, payload: &[u8]) {
        let mask = [0x5A, 0x01, 0xFF, 0x00];
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            short @ 0..126 => frame.push(0x80 | short as u8),
            long => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&u16::try_from(long).expect("a short test").to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        // The broker may have closed already.
        let _ = self.stream.write_all(&frame);
    }

    /// The next frame's opcode and payload; `None`: closed. A server's frames are never masked (RFC 6455, section 5.1).
    fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            if let [first, second, rest @ ..] = &self.received[..] {
                assert_eq!(second & 0x80, 0, "a masked frame from the server");
                assert_eq!(first & 0x70, 0, "reserved bits");
                let (start, length) = match second & 0x7F {
                    126 if rest.len() >= 2 => (4, usize::from(u16::from_be_bytes([rest[0], rest[1]]))),
                    126 => (usize::MAX, 0),
                    127 => panic!("a frame larger than any packet of this test"),
                    short => (2, usize::from(short)),
                };
                if let Some(payload) = self.received.get(start..start.saturating_add(length)) {
                    let frame = (first & 0x0F, payload.to_vec());
                    self.received.drain(..start + length);
                    return Some(frame);
                }
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The next packet out of binary frames; `None`: closed.
    fn packet(&mut self) -> Option<Packet> {
        loop {
            if let Some((packet, size)) = decode_server_packet(Version::V5, &self.packets).expect("a packet") {
                self.packets.drain(..size);
                return Some(packet);
            }
            match self.frame()? {
                (BINARY, payload) => self.packets.extend_from_slice(&payload),
                (CLOSE, _) => return None,
                (opcode, payload) => panic!("opcode {opcode}: {payload:02x?}"),
            }
        }
    }
}

fn connect(client_id: &str) -> Vec<u8> {
    client::connect(Version::V5, client_id, Vec::new()).encode(Version::V5)
}

#[test]
fn websocket_text_frame_closes_the_connection() {
    let broker = Broker::start(1);
    let mut before = WebSocket::open(&broker);
    before.send(TEXT, &connect("text"));
    assert_eq!(before.packet(), None, "a CONNECT in a text frame");
    let mut after = WebSocket::open(&broker);
    after.send(BINARY, &connect("text"));
    assert!(matches!(after.packet(), Some(Packet::ConnAck { code: 0, .. })));
    after.send(TEXT, &Packet::PingReq.encode(Version::V5));
    assert!(matches!(after.packet(), None | Some(Packet::Disconnect { .. })), "a PINGREQ in a text frame");
    assert_eq!(after.packet(), None);
}

#[test]
fn websocket_frames_need_not_hold_whole_packets() {
    let broker = Broker::start(1);
    let mut client = WebSocket::open(&broker);
    for byte in connect("frames") {
        client.send(BINARY, &[byte]);
    }
    assert!(matches!(client.packet(), Some(Packet::ConnAck { code: 0, .. })));
    let filters = vec![("frames".to_owned(), 0)];
    let mut bytes = Packet::Subscribe { id: 1, properties: Vec::new(), filters }.encode(Version::V5);
    let publish = |payload: &[u8]| {
        Packet::Publish(Publish {
            dup: false,
            qos: 0,
            retain: false,
            topic: "frames".to_owned(),
            id: None,
            properties: Vec::new(),
            payload: payload.to_vec(),
        })
    };
    bytes.extend(publish(b"one").encode(Version::V5));
    bytes.extend(publish(&[b'x'; 1000]).encode(Version::V5));
    bytes.extend(Packet::PingReq.encode(Version::V5));
    // Two frames: the boundary is amid the large message. An empty frame between them is none of its bytes.
    let (first, second) = bytes.split_at(60);
    client.send(BINARY, first);
    client.send(BINARY, &[]);
    client.send(BINARY, second);
    let received: Vec<Packet> = std::iter::from_fn(|| client.packet()).take(4).collect();
    assert!(received.iter().any(|packet| matches!(packet, Packet::SubAck { id: 1, .. })), "{received:?}");
    assert!(received.contains(&publish(b"one")) && received.contains(&publish(&[b'x'; 1000])), "{received:?}");
    assert!(received.contains(&Packet::PingResp), "{received:?}");
}

/// Without it a browser tells of a connection that was lost (RFC 6455, section 7.1.5).
#[test]
fn websocket_disconnect_is_answered_with_a_close_frame() {
    let broker = Broker::start(1);
    let mut client = WebSocket::open(&broker);
    client.send(BINARY, &connect("goodbye"));
    assert!(matches!(client.packet(), Some(Packet::ConnAck { code: 0, .. })));
    client.send(BINARY, &[0xE0, 0]);
    assert_eq!(client.frame(), Some((CLOSE, vec![0x03, 0xE8])));
    assert_eq!(client.frame(), None);
}

#[test]
fn websocket_subprotocol_is_mqtt() {
    let broker = Broker::start(1);
    let selected = |head: &str| {
        let prefix = "sec-websocket-protocol: ";
        let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with(prefix));
        line.map(|line| line[prefix.len()..].to_owned())
    };
    for offered in ["mqtt", "mqttv3.1, mqtt", "mqtt, other"] {
        let (_, head) = upgrade(&broker, &format!("Sec-WebSocket-Protocol: {offered}\r\n"));
        assert!(head.starts_with("HTTP/1.1 101 "), "{offered}: {head}");
        assert_eq!(selected(&head).as_deref(), Some("mqtt"), "{offered}");
    }
    let (_, head) = upgrade(&broker, "Sec-WebSocket-Protocol: chat\r\n");
    assert_eq!(selected(&head), None, "what was not offered is not selected: {head}");
}
