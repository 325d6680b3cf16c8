//! Limits and refusals before a client is admitted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use weir_broker::{EndpointPolicy, ProtocolVersions};
use weirmq::net::{HandshakeLimits, ListenerPolicy};

use super::client::{Client, connect, connect_with, packet, string};
use super::plane::{Plane, endpoint, policy};
use super::transports::Everywhere;
use crate::support::stream;

/// Everything a broker sends until it closes.
fn last_words(mut stream: impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("the broker closes");
    bytes
}

fn short(time_ms: u32) -> impl Fn(&mut ListenerPolicy) {
    move |policy| policy.handshake = HandshakeLimits { time_ms, ..HandshakeLimits::default() }
}

#[test]
fn a_connection_that_exceeds_the_handshake_timeout_is_closed() {
    let everywhere = Everywhere::start(2, short(3000));
    // An admitted client may be idle: longer than the handshake timeout of later ones.
    let mut quiet = Client::enter(everywhere.open("tcp"), 4, "quiet");
    // The upgrade is done, the CONNECT does not come.
    let mut frames = everywhere.open("ws");
    let partial = connect(4, "never");
    let dawdlers = [
        ("tcp", &b""[..]),
        ("tcp", b"\x10"),
        ("tcp", &partial[..10]),
        ("tls", b""),
        ("tls", b"\x16\x03\x01\x02\x00"),
        ("ws", b"GET /mqtt HTTP/1.1\r\nHost: "),
        ("wss", b"\x16"),
    ]
    .map(|(transport, first_bytes)| {
        let mut stream = stream::tcp(everywhere.address(transport));
        stream.write_all(first_bytes).unwrap();
        (transport, first_bytes, stream)
    });
    for (transport, first_bytes, stream) in dawdlers {
        assert_eq!(last_words(stream), b"", "{transport} {first_bytes:?}");
    }
    assert!(matches!(frames.read(&mut [0; 16]), Ok(0) | Err(_)));
    let refused: u64 = (1..=5).map(|id| everywhere.plane.stats(id).refused.handshake_timeout).sum();
    assert_eq!(refused, 8);
    quiet.ping();
}

fn with_versions(v3_1: bool, v3_1_1: bool, v5: bool) -> ListenerPolicy {
    let versions = ProtocolVersions { v3_1, v3_1_1, v5 };
    ListenerPolicy { endpoint: Arc::new(EndpointPolicy { versions, ..endpoint(1) }), ..policy(1) }
}

fn answer(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = stream::tcp(address);
    stream.write_all(bytes).unwrap();
    last_words(stream)
}

#[test]
fn refusals_are_sent_in_the_protocol_version_of_the_client() {
    let plane = Plane::start(1);
    let only_5 = plane.listen_tcp(with_versions(false, false, true));
    let only_311 = plane.listen_tcp(with_versions(false, true, false));
    assert_eq!(answer(only_5, &connect(4, "c")), [0x20, 2, 0, 1], "unacceptable protocol version");
    assert_eq!(answer(only_5, &connect(3, "c")), [0x20, 2, 0, 1]);
    assert_eq!(answer(only_311, &connect(5, "c"))[..4], [0x20, 3, 0, 0x84]);
    assert_eq!(plane.stats(1).refused.version, 3);
    let unknown = packet(0x10, &[&string("MQTT")[..], &[9, 2, 0, 0], &string("c")].concat());
    assert_eq!(answer(only_5, &unknown), [0x20, 2, 0, 1], "an unknown version");
    assert_eq!(answer(only_5, b"GET / HTTP/1.1\r\n\r\n"), b"", "no MQTT at all");
    assert_eq!(answer(only_5, &[0xC0, 0]), b"", "PINGREQ first");
    assert_eq!(answer(only_5, &[0x10, 0xFF, 0xFF, 0xFF, 0xFF]), b"", "a remaining length that is none");
    plane.until(1, "refusals", |stats| stats.refused.protocol == 4 && stats.connections_current == 0);
}

#[test]
fn a_too_large_connect_is_refused_before_its_body_arrives() {
    let plane = Plane::start(1);
    let handshake = HandshakeLimits { max_connect_bytes: 1000, ..HandshakeLimits::default() };
    let address = plane.listen_tcp(ListenerPolicy { handshake, ..policy(1) });
    let login = ("u", "p".repeat(2000));
    let large = connect_with(5, "c", &[], Some((login.0, &login.1)));
    let words = answer(address, &large[..20]);
    assert_eq!(words.get(3).copied().unwrap_or(0x95), 0x95, "packet too large, where it is told at all");
    plane.until(1, "a refusal", |stats| stats.refused.handshake_size == 1);
    Client::enter(stream::tcp(address), 5, &"c".repeat(900));
}

#[test]
fn an_endless_tls_handshake_is_closed_at_the_byte_limit() {
    let everywhere = Everywhere::start(1, |policy| policy.handshake.max_bytes = 4096);
    let mut stream = stream::tcp(everywhere.address("tls"));
    // Handshake records of a ClientHello that claims 16 MB.
    let record = [&[0x16, 3, 1, 0x10, 0][..], &[0x01, 0xFF, 0xFF, 0xFF], &[0; 0x1000 - 4]].concat();
    let next = [&[0x16, 3, 1, 0x10, 0][..], &[0; 0x1000]].concat();
    let mut sent = stream.write_all(&record);
    for _ in 0..1000 {
        sent = sent.and_then(|()| stream.write_all(&next));
    }
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    everywhere.plane.until(3, "a refusal", |stats| stats.connections_current == 0);
    let refused = everywhere.plane.stats(3).refused;
    assert_eq!(refused.tls + refused.handshake_size, 1, "{refused:?}");
}

#[test]
fn packets_sent_with_the_connect_are_handled() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(policy(1));
        for number in 0..20 {
            let subscribe = packet(0x82, &[&[0, 1][..], &string("t"), &[0]].concat());
            let publish = packet(0x30, &[&string("t")[..], b"pipelined"].concat());
            let mut client = Client::new(stream::tcp(address), 4);
            client.send(&[connect(4, &format!("c{number}")), subscribe, publish, vec![0xC0, 0]].concat());
            assert_eq!(client.receive().unwrap(), (0x20, vec![0, 0]));
            // The SUBACK waits for every shard, and what follows it does not wait for the SUBACK.
            let mut rest: Vec<u8> = (0..3).map(|_| client.receive().unwrap().0 & 0xF0).collect();
            rest.sort_unstable();
            assert_eq!(rest, [0x30, 0x90, 0xD0]);
        }
    }
}

#[test]
fn assigned_client_ids_are_returned_and_unique() {
    let plane = Plane::start(3);
    let address = plane.listen_tcp(policy(1));
    let mut ids = std::collections::HashSet::new();
    for _ in 0..50 {
        let mut client = Client::new(stream::tcp(address), 5);
        client.send(&connect(5, ""));
        let (_, body) = client.receive().unwrap();
        assert_eq!(body[1], 0, "{body:02x?}");
        let at = body.windows(7).position(|window| window[0] == 0x12 && &window[3..] == b"weir").unwrap();
        ids.insert(body[at + 3..at + 3 + usize::from(body[at + 2])].to_vec());
        client.ping();
    }
    assert_eq!(ids.len(), 50);
    Client::enter(stream::tcp(address), 4, "");
}

#[test]
fn a_takeover_on_another_shard_closes_the_old_connection() {
    let plane = Plane::start(3);
    let address = plane.listen_tcp(policy(1));
    for number in 0..20 {
        let id = format!("client-{number}");
        let mut first = Client::enter(stream::tcp(address), 5, &id);
        let mut second = Client::enter(stream::tcp(address), 5, &id);
        assert_eq!(first.receive(), Some((0xE0, vec![0x8E])), "session taken over");
        assert_eq!(first.receive(), None);
        second.ping();
    }
}

#[test]
fn malformed_websocket_frames_close_with_their_code() {
    let everywhere = Everywhere::start(1, |_| {});
    let request = b"GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mqtt\r\n\r\n";
    let masked_text = [0x81, 0x81, 0, 0, 0, 0, b'x'];
    let unmasked = [0x82, 0x01, b'x'];
    for (frame, code) in [(&masked_text[..], 1003_u16), (&unmasked, 1002)] {
        let mut stream: TcpStream = stream::tcp(everywhere.address("ws"));
        stream.write_all(&[&request[..], frame].concat()).unwrap();
        let words = last_words(stream);
        let close = [&[0x88, 2][..], &code.to_be_bytes()].concat();
        assert!(words.ends_with(&close), "{code}: {:?}", String::from_utf8_lossy(&words));
        // And after the CONNECT.
        let mut stream = stream::tcp(everywhere.address("ws"));
        let packet = connect(4, "c");
        let data = [&[0x82, 0x80 | packet.len() as u8, 0, 0, 0, 0][..], &packet].concat();
        stream.write_all(&[&request[..], &data].concat()).unwrap();
        let mut connack = vec![0; 0];
        while !connack.ends_with(&[0x82, 4, 0x20, 2, 0, 0]) {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            connack.push(byte[0]);
        }
        stream.write_all(frame).unwrap();
        assert_eq!(last_words(stream), close, "after CONNECT: {code}");
    }
}
