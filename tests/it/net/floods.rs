//! What clients can cost before they are authenticated, and with packets that never end.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConnection;
use rustls::pki_types::ServerName;
use socket2::{Domain, Socket, Type};
use weir_broker::{MemoryAccount, MemoryKind};
use weirmq::net::{ClientAuth, DataPlaneConfig, HandshakeLimits, Identity, ListenerPolicy, TlsSettings, rsa_key_bits};

use super::client::{Client, connect_with, string};
use super::plane::{Plane, policy};
use super::tls::{Authority, tls_policy};
use crate::programs::{is_there, succeeds};
use crate::support::{GUARD, stream};

/// A connection from 127.0.0.`last`.
pub fn tcp_from(last: u8, address: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0)).into()).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(GUARD)).unwrap();
    stream
}

pub fn is_closed_by_broker(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    match stream.read(&mut [0]) {
        Ok(n) => n == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

/// The first message of a TLS handshake.
pub fn client_hello() -> Vec<u8> {
    let config = Arc::new(stream::tls_config(&Authority::new().der()));
    let mut client = ClientConnection::new(config, ServerName::try_from("localhost").unwrap()).unwrap();
    let mut hello = Vec::new();
    client.write_tls(&mut hello).unwrap();
    hello
}

/// A certificate with an RSA key, and the key; `None`: openssl is missing, and nothing may be installed.
pub fn rsa_identity(bits: u32) -> Option<(String, String)> {
    if !is_there(Path::new("openssl")) {
        return None;
    }
    let directory = tempfile::tempdir().unwrap();
    let (certificate, key) = (directory.path().join("rsa.crt"), directory.path().join("rsa.key"));
    let mut command = Command::new("openssl");
    command.args(["req", "-x509", "-nodes", "-subj", "/CN=localhost", "-newkey", &format!("rsa:{bits}"), "-keyout"]);
    succeeds(command.arg(&key).arg("-out").arg(&certificate));
    Some((std::fs::read_to_string(certificate).unwrap(), std::fs::read_to_string(key).unwrap()))
}

#[test]
fn pending_connections_of_a_source_above_the_limit_are_refused_until_old_ones_give_way() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(ListenerPolicy { max_pending_per_address: Some(5), ..policy(1) });
        let _silent: Vec<_> = (0..5).map(|_| tcp_from(1, address)).collect();
        plane.until(1, "all accepted", |stats| stats.connections_pending == 5);
        assert_eq!(tcp_from(1, address).read(&mut [0]).unwrap_or(0), 0, "the others have just begun");
        assert_eq!(plane.stats(1).refused.pending_address_limit, 1);
        let _other = Client::enter(tcp_from(2, address), 4, "another source");
        std::thread::sleep(Duration::from_millis(1100));
        let _same = Client::enter(tcp_from(1, address), 4, "same source");
        plane.until(1, "an old one gave way", |stats| {
            stats.refused.pending_address_limit == 2 && stats.connections_pending == 4
        });
    }
}

#[test]
fn at_the_node_limit_the_source_with_the_most_pending_connections_gives_way() {
    let config = DataPlaneConfig { shards: 1, max_pending_connections: 50, ..DataPlaneConfig::default() };
    let plane = Plane::with(&config);
    let address = plane.listen_tcp(policy(1));
    let mut few: Vec<_> = (0..5).map(|_| tcp_from(2, address)).collect();
    let many: Vec<_> = (0..200).map(|_| tcp_from(1, address)).collect();
    plane.until(1, "all accepted", |stats| stats.accepted_total == 205 && stats.connections_pending == 50);
    assert!(!few.iter_mut().any(is_closed_by_broker));
    let _third = Client::enter(tcp_from(3, address), 4, "third source");
    assert!(!few.iter_mut().any(is_closed_by_broker));
    drop(many);
    plane.until(1, "the others wait", |stats| stats.connections_pending == 5);
}

#[test]
fn a_connect_above_the_limit_is_answered_with_0x95_and_allowed_where_declared() {
    let plane = Plane::start(1);
    let address = plane.listen_tcp(policy(1));
    let handshake = HandshakeLimits { max_connect_bytes: 32 << 10, ..HandshakeLimits::default() };
    let larger = plane.listen_tcp(ListenerPolicy { handshake, ..policy(2) });
    let connect = |level| connect_with(level, "c", &[], Some(("u", &"p".repeat(20_000))));
    let answer = |address, level| {
        let mut client = Client::new(stream::tcp(address), level);
        // The broker closes before it has read all of it.
        let _ = client.try_send(&connect(level));
        client.receive().map(|(_, body)| body[1])
    };
    assert_eq!([answer(address, 5), answer(address, 4)], [Some(0x95), None]);
    assert_eq!([answer(larger, 5), answer(larger, 4)], [Some(0), Some(0)]);
    plane.until(1, "both are counted", |stats| stats.refused.handshake_size == 2);
}

/// The first bytes of a PUBLISH packet of 8 MiB.
fn beginning_of_a_publish(bytes: usize) -> Vec<u8> {
    [&[0x30, 0x80, 0x80, 0x80, 0x04][..], &string("t"), &[0], &vec![b'x'; bytes - 9]].concat()
}

#[test]
fn the_oldest_large_incomplete_packets_are_closed_with_0x97_when_all_hold_too_much() {
    let limit = |kind| if kind == MemoryKind::Handshakes { 1 << 20 } else { usize::MAX };
    let memory = MemoryAccount::with_limits(limit);
    let config = DataPlaneConfig { shards: 1, memory, ..DataPlaneConfig::default() };
    let plane = Plane::with(&config);
    let address = plane.listen_tcp(policy(1));
    let mut clients: Vec<_> = (0..20).map(|n| Client::enter(stream::tcp(address), 5, &format!("c{n}"))).collect();
    clients.iter_mut().for_each(|client| client.send(&beginning_of_a_publish(100 << 10)));
    plane.until(1, "most are closed", |stats| stats.refused.partial_packets >= 12);
    assert_eq!(clients[0].receive(), Some((0xE0, vec![0x97])));
    // The newest may go on, and others publish what their endpoint allows.
    let mut last = clients.pop().unwrap();
    last.send(&vec![b'x'; (8 << 20) + 5 - (100 << 10)]);
    last.ping();
    let mut other = Client::enter(stream::tcp(address), 5, "other");
    other.publish("t", &vec![0; 512 << 10], 1);
}

#[test]
fn tls_handshakes_do_not_delay_other_endpoints() {
    const HELLOS: usize = 200;
    let Some((certificate, key)) = rsa_identity(4096) else { return };
    assert_eq!(rsa_key_bits(certificate.as_bytes()), Some(4096));
    let plane = Plane::start(1);
    let settings = TlsSettings {
        identity: Identity { chain_pem: certificate.as_bytes(), key_pem: key.as_bytes() },
        sni: Vec::new(),
        client_auth: ClientAuth::None,
        only_tls13: false,
        websocket: false,
    };
    let tls = plane.listen_tcp(tls_policy(1, &settings));
    let plain = plane.listen_tcp(policy(2));
    let mut client = Client::enter(stream::tcp(plain), 4, "c");
    let hello = client_hello();
    let mut flood: Vec<_> = (0..HELLOS).map(|_| stream::tcp(tls)).collect();
    let answered = std::thread::spawn(move || {
        for stream in &mut flood {
            stream.write_all(&hello).unwrap();
        }
        // The server's first messages; a connection that waited for too long is closed.
        flood.iter_mut().filter(|stream| (&mut &**stream).read(&mut [0]).is_ok()).count()
    });
    let mut pings = Vec::new();
    while !answered.is_finished() {
        let start = Instant::now();
        client.ping();
        pings.push(start.elapsed());
    }
    assert_eq!(answered.join().unwrap(), HELLOS);
    pings.sort_unstable();
    let median = pings[pings.len() / 2];
    assert!(median < Duration::from_millis(20), "{median:?} in {} pings", pings.len());
}
