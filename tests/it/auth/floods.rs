//! Floods of CONNECT from one address: clients at other addresses are authenticated meanwhile, and nothing is computed for
//! closed connections.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::pbkdf2;
use socket2::{Domain, Socket, Type};

use super::broker::Broker;
use super::client::Client;
use crate::support::client::clean_connect;
use crate::wire::{Packet, Properties, Version};

const BAD_CREDENTIALS: u8 = 0x86;
/// CONNECTs of a flood.
const FLOOD: usize = 300;

/// A line for `alice` with the password `secret`, whose check takes about 40 ms on this machine.
fn slow_user() -> String {
    let derive = |iterations: u32| {
        let mut hash = [0; 64];
        let iterations = NonZeroU32::new(iterations).unwrap();
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA512, iterations, b"sixteen of them.", b"secret", &mut hash);
        hash
    };
    let start = Instant::now();
    derive(2000);
    let of_2000 = start.elapsed().as_micros().max(1);
    let iterations = u32::try_from(2000 * 40_000 / of_2000).unwrap().clamp(1000, 5_000_000);
    let (salt, hash) = (STANDARD.encode("sixteen of them."), STANDARD.encode(derive(iterations)));
    format!("alice:$7${iterations}${salt}${hash}\n")
}

/// A connection from another loopback address than the one that clients of the tests have.
fn connect_from(source: [u8; 4], broker: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
    socket.connect(&broker.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

const ATTACKER: [u8; 4] = [127, 0, 0, 2];

/// Connections that have sent CONNECT with a wrong password. The broker may close some of them: its limits for one address
/// are other tests' matter.
fn flood(broker: SocketAddr, username: impl Fn(usize) -> String) -> Vec<TcpStream> {
    let start = |number: usize| {
        let mut connect = clean_connect(Version::V5, &format!("flood{number}"), Properties::new());
        connect.username = Some(username(number));
        connect.password = Some(b"wrong".to_vec());
        let mut stream = connect_from(ATTACKER, broker);
        let _ = stream.write_all(&Packet::Connect(connect).encode(Version::V5));
        stream
    };
    (0..FLOOD).map(start).collect()
}

/// CONNACK's code; `None`: closed without one.
fn connack_code(stream: &mut TcpStream) -> Option<u8> {
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).ok()?;
    Some(connack[3])
}

fn log_in(broker: &Broker, id: &str) {
    assert_eq!(broker.client(id).user("alice", "secret").connect(), 0);
}

/// Clients at another address log in while most attempts of the flood wait, so that no login has waited for the flood.
fn assert_logins_overtake(broker: &Broker, flood: &[TcpStream]) {
    for id in ["a", "b", "c"] {
        log_in(broker, id);
    }
    let is_checked = |stream: &&TcpStream| {
        let mut connack = [0; 4];
        stream.set_nonblocking(true).unwrap();
        stream.peek(&mut connack).is_ok() && connack[3] == BAD_CREDENTIALS
    };
    let checked = flood.iter().filter(is_checked).count();
    assert!(checked < FLOOD / 2, "{checked} of {FLOOD} attempts of the flood were checked before");
}

fn dropped(broker: &Broker, reason: &str) -> u64 {
    let name = format!("weir_auth_attempts_dropped_total{{reason=\"{reason}\"}}");
    let scraped = broker.http("/metrics");
    let line = scraped.lines().find(|line| line.starts_with(&name)).unwrap_or_else(|| panic!("{name} in {scraped}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

const UNLIMITED: &str = "rateLimit: {maxFailures: 1000000, windowS: 60}";

fn password_broker(rate_limit: &str) -> Broker {
    let documents = format!("auth: {{name: default, chain: [{{passwordFile: {{file: users}}}}], {rate_limit}}}\n");
    Broker::start(", enableAcl: false, connectTimeoutMs: 60000", &documents, &[("users", &slow_user())])
}

/// The attack: 4,000 CONNECTs with wrong passwords in 0.5 s, closed at once, kept others out for 34 s.
#[test]
fn a_flood_of_wrong_passwords_delays_no_login_from_another_address() {
    let broker = password_broker(UNLIMITED);
    let open = flood(broker.address, |number| format!("user{number}"));
    assert_logins_overtake(&broker, &open);
    drop(open);
    let closed_before = dropped(&broker, "connection_closed");
    drop(flood(broker.address, |number| format!("user{number}")));
    log_in(&broker, "d");
    broker.until("the attempts of closed connections are dropped", || {
        dropped(&broker, "connection_closed") > closed_before
    });
}

#[test]
fn a_flood_is_refused_without_a_hash_once_the_failure_limit_is_reached() {
    let broker = password_broker("rateLimit: {maxFailures: 5, windowS: 600}");
    let mut open = flood(broker.address, |_| "alice".to_owned());
    log_in(&broker, "a");
    let codes: Vec<u8> = open.iter_mut().filter_map(connack_code).collect();
    let checked = codes.iter().filter(|code| **code == BAD_CREDENTIALS).count();
    // Attempts that run when the limit is reached are checked to their end.
    assert!((5..15).contains(&checked), "{checked} of {} were checked", codes.len());
    assert!(codes.iter().all(|code| matches!(code, 0x86 | 0x9F | 0x89 | 0x97)), "{codes:02x?}");
    assert!(dropped(&broker, "rate_limit") > 0);
}

/// A service that needs 30 ms for each request, and denies.
fn slow_service() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut buffer = [0; 4096];
                    match stream.read(&mut buffer) {
                        Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
                        _ => return,
                    }
                }
                std::thread::sleep(Duration::from_millis(30));
                let is_alice = String::from_utf8_lossy(&request).contains("username=alice&");
                let result = if is_alice { "allow" } else { "deny" };
                let body = format!(r#"{{"result": "{result}"}}"#);
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                let _ = stream.write_all(format!("{head}{body}").as_bytes());
            });
        }
    });
    address
}

#[test]
fn a_flood_of_requests_to_a_service_delays_no_login_from_another_address() {
    let documents = format!(
        "auth: {{name: default, chain: [{{http: {{url: 'http://{}/', method: GET, maxConcurrent: 2, timeoutMs: 60000}}}}], \
         {UNLIMITED}}}\n",
        slow_service()
    );
    let broker = Broker::start(", enableAcl: false, connectTimeoutMs: 60000", &documents, &[]);
    let open = flood(broker.address, |number| format!("user{number}"));
    assert_logins_overtake(&broker, &open);
    drop(open);
    broker.until("the requests of closed connections are dropped", || dropped(&broker, "connection_closed") > 0);
}

/// A client may send CONNECT, messages and DISCONNECT, and close without waiting for CONNACK.
#[test]
fn messages_of_a_client_that_does_not_wait_for_connack_are_published() {
    let broker = password_broker(UNLIMITED);
    let mut reader: Client = broker.client("reader").user("alice", "secret").connected();
    assert_eq!(reader.subscribe("t"), 1);
    let mut connect = clean_connect(Version::V5, "sender", Properties::new());
    connect.username = Some("alice".to_owned());
    connect.password = Some(b"secret".to_vec());
    let mut stream = TcpStream::connect(broker.address).unwrap();
    let mut bytes = Packet::Connect(connect).encode(Version::V5);
    bytes.extend(crate::support::client::publish("t", b"1", 0, None).encode(Version::V5));
    bytes.extend(Packet::Disconnect { code: 0, properties: Properties::new() }.encode(Version::V5));
    stream.write_all(&bytes).unwrap();
    drop(stream);
    assert_eq!(reader.next_topic(), "t");
}

#[test]
fn a_long_client_id_is_shortened_in_the_log() {
    let broker = password_broker(UNLIMITED);
    let id = format!("{}{}", "device-".repeat(10), "x".repeat(10_000));
    assert_eq!(broker.client(&id).user("alice", "wrong").connect(), BAD_CREDENTIALS);
    broker.until("the refusal is logged", || broker.log().contains("authentication failed"));
    let log = broker.log();
    let line = log.lines().find(|line| line.contains("authentication failed")).unwrap();
    assert!(line.len() < 300 && line.contains("device-device-") && line.contains("...#"), "{line}");
}
