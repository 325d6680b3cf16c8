//! The `http` authenticator with a slow service: concurrent requests, and which clients wait.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::broker::Broker;
use super::client::Client;
use super::examples::example;
use super::reload::people;
use crate::net::tls::Authority;
use crate::support::ports;
use crate::wire::Packet;

/// Longer than a test takes on a slow machine.
const LONG_TIMEOUT: &str = "method: GET, timeoutMs: 60000";

/// A service that answers no request before [`SlowService::answer_all`].
struct SlowService {
    address: SocketAddr,
    state: Arc<(Mutex<ServiceState>, Condvar)>,
}

#[derive(Default)]
struct ServiceState {
    /// Requests without an answer, and their maximum so far.
    pending: usize,
    pending_max: usize,
    requests: usize,
    answers: bool,
}

impl SlowService {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let service = Self { address: listener.local_addr().unwrap(), state: Arc::default() };
        let state = Arc::clone(&service.state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let state = Arc::clone(&state);
                std::thread::spawn(move || answer(stream.unwrap(), &state));
            }
        });
        service
    }

    fn with_state<T>(&self, read: impl FnOnce(&mut ServiceState) -> T) -> T {
        read(&mut self.state.0.lock().unwrap())
    }

    fn answer_all(&self) {
        self.with_state(|state| state.answers = true);
        self.state.1.notify_all();
    }
}

fn answer(mut stream: TcpStream, (state, changed): &(Mutex<ServiceState>, Condvar)) {
    if !read_request(&mut stream) {
        return;
    }
    let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
    now.requests += 1;
    now.pending += 1;
    now.pending_max = now.pending_max.max(now.pending);
    now = changed.wait_while(now, |state| !state.answers).unwrap();
    now.pending -= 1;
    drop(now);
    allow(&mut stream);
}

/// Reads a request up to its end: an empty line, or the end of a JSON object. `false`: the connection ended before.
fn read_request(stream: &mut impl Read) -> bool {
    let mut request = Vec::new();
    while !(request.starts_with(b"GET") && request.ends_with(b"\r\n\r\n") || request.ends_with(b"}")) {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => request.extend_from_slice(&buffer[..count]),
            _ => return false,
        }
    }
    true
}

fn allow(stream: &mut impl Write) {
    let body = r#"{"result": "allow"}"#;
    // The broker may have closed the connection.
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
}

/// An endpoint with a password file; the service decides about all other users.
fn broker(service: &SlowService, endpoint: &str, hook: &str) -> Broker {
    let documents = format!(
        "auth: {{name: default, chain: [{{passwordFile: {{file: people}}}}, \
         {{http: {{url: 'http://{}/', {hook}}}}}]}}\n",
        service.address
    );
    Broker::start(&format!(", enableAcl: false, {endpoint}"), &documents, &[("people", &people())])
}

/// Clients that have sent CONNECT.
fn connecting(broker: &Broker, count: usize) -> Vec<Client> {
    let start = |n: usize| {
        let mut client = broker.client(&format!("device{n}")).user(&format!("device{n}"), "x");
        client.send_connect();
        client
    };
    (0..count).map(start).collect()
}

fn assert_all_admitted(clients: Vec<Client>) {
    for mut client in clients {
        assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })));
    }
}

#[test]
fn a_slow_service_gets_concurrent_requests_and_delays_no_other_login() {
    let service = SlowService::start();
    let broker = broker(&service, "connectTimeoutMs: 600000", LONG_TIMEOUT);
    let mut connected = broker.client("connected").user("alice", "secret").connected();
    let clients = connecting(&broker, 50);
    broker.until("all requests are sent", || service.with_state(|state| state.pending) == 50);
    // Connected clients are served, and users of the password file are admitted.
    assert!(connected.may_publish("a"));
    broker.client("another").user("bob", "secret").connected();
    assert_eq!(broker.client("wrong").user("bob", "guess").connect(), 0x86);
    service.answer_all();
    assert_all_admitted(clients);
}

#[test]
fn concurrent_requests_are_bounded_by_max_concurrent() {
    let service = SlowService::start();
    let broker = broker(&service, "connectTimeoutMs: 600000", &format!("{LONG_TIMEOUT}, maxConcurrent: 8"));
    let clients = connecting(&broker, 50);
    broker.until("maxConcurrent requests are sent", || service.with_state(|state| state.pending) == 8);
    service.answer_all();
    assert_all_admitted(clients);
    assert_eq!(service.with_state(|state| (state.requests, state.pending_max)), (50, 8));
}

#[test]
fn the_example_requests_its_service() {
    let (service, address) = (SlowService::start(), ports::free_address());
    service.answer_all();
    let text = example("auth/http")
        .replace("127.0.0.1:9000", &service.address.to_string())
        .replace("port: 1883", &format!("host: 127.0.0.1, port: {}", address.port()));
    let broker = Broker::serve(address, &text, &[("service.token", "Bearer x\n")]);
    // The example waits for half a second, which is short for a busy machine.
    broker.until("alice is admitted", || broker.client("a").user("alice", "secret").connect() == 0);
    assert!(service.with_state(|state| state.requests) >= 1);
}

/// A service that keeps its connections open; each answers so many requests and closes on the next one. Returns the number
/// of its connections, too.
fn keep_alive_service(answers: usize) -> (SlowService, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let service = SlowService { address: listener.local_addr().unwrap(), state: Arc::default() };
    let connections = Arc::<AtomicUsize>::default();
    let count = Arc::clone(&connections);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
            let mut stream = stream.unwrap();
            std::thread::spawn(move || {
                for _ in 0..answers {
                    if !read_request(&mut stream) {
                        return;
                    }
                    let body = r#"{"result": "allow"}"#;
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                }
                read_request(&mut stream);
            });
        }
    });
    (service, connections)
}

#[test]
fn requests_to_the_service_share_a_connection() {
    let (service, connections) = keep_alive_service(usize::MAX);
    let broker = broker(&service, "connectTimeoutMs: 600000", LONG_TIMEOUT);
    for n in 0..3 {
        assert_eq!(broker.client(&format!("device{n}")).user("device", "x").connect(), 0);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_connection_that_the_service_closes_costs_no_login() {
    let (service, connections) = keep_alive_service(1);
    let broker = broker(&service, "connectTimeoutMs: 600000", LONG_TIMEOUT);
    for n in 0..5 {
        assert_eq!(broker.client(&format!("device{n}")).user("device", "x").connect(), 0);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 5);
}

/// A service behind TLS (`rustls`) that allows every client; its authority is `ca`.
fn secure_service(ca: &Authority) -> SocketAddr {
    let issued = ca.issue("service", &["localhost", "127.0.0.1"], 1);
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = Arc::new(builder.with_no_client_auth().with_single_cert(vec![issued.der.clone()], key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream.unwrap());
            if read_request(&mut stream) {
                allow(&mut stream);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    address
}

#[test]
fn a_service_behind_tls_needs_a_trusted_authority() {
    let (ca, other) = (Authority::new(), Authority::new());
    let address = secure_service(&ca);
    let documents = format!(
        "auth: {{name: default, chain: [{{http: {{url: 'https://{address}/', method: GET, timeoutMs: 60000, \
         caFile: ca}}}}]}}\n"
    );
    let broker = Broker::start(", enableAcl: false, connectTimeoutMs: 600000", &documents, &[("ca", &ca.pem())]);
    broker.client("a").user("alice", "x").connected();
    broker.write_until("ca", &other.pem(), "changed endpoint=main");
    assert_eq!(broker.client("a").user("alice", "x").connect(), 0x88);
}

/// Otherwise a service that was slow would get the requests of disconnected clients first.
#[test]
fn a_disconnected_client_causes_no_request() {
    let service = SlowService::start();
    let broker = broker(&service, "connectTimeoutMs: 500", &format!("{LONG_TIMEOUT}, maxConcurrent: 1"));
    // Each client is closed before the service answers; waiting for the answers would take a minute each.
    broker.until("requests for later clients are sent", || {
        connecting(&broker, 1);
        service.with_state(|state| state.requests) >= 3
    });
    service.answer_all();
}
