//! The `http` hook beside a service that takes its time: how many it is asked about at once, and who waits for whom.

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
use super::live::people;
use crate::net::tls::Authority;
use crate::support::ports;
use crate::wire::Packet;

/// Longer than a slow machine takes: what waits here waits for the test.
const PATIENCE: &str = "method: GET, timeoutMs: 60000";

/// A service that lets nobody in until it is told to.
struct SlowService {
    address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    /// Questions that have no answer yet, and the most there have been at once.
    under_way: usize,
    most: usize,
    asked: usize,
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

    fn look<T>(&self, at: impl FnOnce(&mut State) -> T) -> T {
        at(&mut self.state.0.lock().unwrap())
    }

    fn answer_all(&self) {
        self.look(|state| state.answers = true);
        self.state.1.notify_all();
    }
}

fn answer(mut stream: TcpStream, (state, changed): &(Mutex<State>, Condvar)) {
    if !read_question(&mut stream) {
        return;
    }
    let mut now = state.lock().unwrap_or_else(PoisonError::into_inner);
    now.asked += 1;
    now.under_way += 1;
    now.most = now.most.max(now.under_way);
    now = changed.wait_while(now, |state| !state.answers).unwrap();
    now.under_way -= 1;
    drop(now);
    allow(&mut stream);
}

/// Reads to the end, an empty line or a JSON object's: what the question says is all the same. `false`: it never ends.
fn read_question(stream: &mut impl Read) -> bool {
    let mut question = Vec::new();
    while !(question.starts_with(b"GET") && question.ends_with(b"\r\n\r\n") || question.ends_with(b"}")) {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(count) if count > 0 => question.extend_from_slice(&buffer[..count]),
            _ => return false,
        }
    }
    true
}

fn allow(stream: &mut impl Write) {
    let body = r#"{"result": "allow"}"#;
    // Who asked may be gone.
    let _ = write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len());
}

/// An endpoint whose people have passwords; about everybody else the service is asked.
fn broker(service: &SlowService, endpoint: &str, hook: &str) -> Broker {
    let documents = format!(
        "auth: {{name: default, chain: [{{passwordFile: {{file: people}}}}, \
         {{http: {{url: 'http://{}/', {hook}}}}}]}}\n",
        service.address
    );
    Broker::start(&format!(", enableAcl: false, {endpoint}"), &documents, &[("people", &people())])
}

/// Clients whose CONNECT is on its way.
fn knocking(broker: &Broker, count: usize) -> Vec<Client> {
    let knock = |n: usize| {
        let mut client = broker.client(&format!("device{n}")).user(&format!("device{n}"), "x");
        client.send_connect();
        client
    };
    (0..count).map(knock).collect()
}

fn all_enter(clients: Vec<Client>) {
    for mut client in clients {
        assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })));
    }
}

#[test]
fn a_slow_service_gets_concurrent_requests_and_delays_no_other_login() {
    let service = SlowService::start();
    let broker = broker(&service, "connectTimeoutMs: 600000", PATIENCE);
    let mut inside = broker.client("inside").user("alice", "secret").connected();
    let clients = knocking(&broker, 50);
    broker.until("all of them are asked about", || service.look(|state| state.under_way) == 50);
    // Who is in is served, and who is not the service's to judge gets in.
    assert!(inside.may_publish("a"));
    broker.client("another").user("bob", "secret").connected();
    assert_eq!(broker.client("wrong").user("bob", "guess").connect(), 0x86);
    service.answer_all();
    all_enter(clients);
}

#[test]
fn concurrent_requests_are_bounded_by_max_concurrent() {
    let service = SlowService::start();
    let broker = broker(&service, "connectTimeoutMs: 600000", &format!("{PATIENCE}, maxConcurrent: 8"));
    let clients = knocking(&broker, 50);
    broker.until("as many as may be are asked about", || service.look(|state| state.under_way) == 8);
    service.answer_all();
    all_enter(clients);
    assert_eq!(service.look(|state| (state.asked, state.most)), (50, 8));
}

#[test]
fn the_example_asks_its_service() {
    let (service, address) = (SlowService::start(), ports::free_address());
    service.answer_all();
    let text = example("auth/http")
        .replace("127.0.0.1:9000", &service.address.to_string())
        .replace("port: 1883", &format!("host: 127.0.0.1, port: {}", address.port()));
    let broker = Broker::serve(address, &text, &[("service.token", "Bearer x\n")]);
    // The example waits for half a second, which a busy machine may take.
    broker.until("it lets alice in", || broker.client("a").user("alice", "secret").connect() == 0);
    assert!(service.look(|state| state.asked) >= 1);
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
                    if !read_question(&mut stream) {
                        return;
                    }
                    let body = r#"{"result": "allow"}"#;
                    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
                }
                read_question(&mut stream);
            });
        }
    });
    (service, connections)
}

#[test]
fn requests_to_the_service_share_a_connection() {
    let (service, connections) = keep_alive_service(usize::MAX);
    let broker = broker(&service, "connectTimeoutMs: 600000", PATIENCE);
    for n in 0..3 {
        assert_eq!(broker.client(&format!("device{n}")).user("device", "x").connect(), 0);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[test]
fn a_connection_that_the_service_closes_costs_no_login() {
    let (service, connections) = keep_alive_service(1);
    let broker = broker(&service, "connectTimeoutMs: 600000", PATIENCE);
    for n in 0..5 {
        assert_eq!(broker.client(&format!("device{n}")).user("device", "x").connect(), 0);
    }
    assert_eq!(connections.load(Ordering::SeqCst), 5);
}

/// A service behind TLS, by `rustls`, that lets everybody in; its authority is `ca`.
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
            if read_question(&mut stream) {
                allow(&mut stream);
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    address
}

#[test]
fn a_service_behind_tls_is_asked_where_its_authority_is_trusted() {
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

/// Else a service that was slow for a while would be asked about the dead for as long again.
#[test]
fn a_disconnected_client_causes_no_request() {
    let service = SlowService::start();
    let broker = broker(&service, "connectTimeoutMs: 500", &format!("{PATIENCE}, maxConcurrent: 1"));
    // Each of them is given up before the service answers; to wait for it would take a minute each.
    broker.until("others are asked about", || {
        knocking(&broker, 1);
        service.look(|state| state.asked) >= 3
    });
    service.answer_all();
}
