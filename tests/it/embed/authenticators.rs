//! Authenticators that the program registers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use weirmq::{
    AuthChallenge, AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator, Server, ServerError, ServerHandle,
};

use super::{metric, remote};
use crate::support::client::{Client, clean_connect, disconnect, publish};
use crate::wire::{Packet, Properties, PropertyValue, Version};

const ENDPOINT: &str = "endpoint: {name: a, port: 0, enableAcl: false}";

fn auth(custom: &str) -> String {
    format!("auth: {{name: default, chain: [{{custom: {{name: device-db{custom}}}}}]}}")
}

async fn server(authenticator: impl Authenticator, custom: &str) -> ServerHandle {
    let server = Server::builder().authenticator("device-db", authenticator);
    let server = server.status_address("127.0.0.1:0".parse().unwrap());
    server.documents([("a.yaml", ENDPOINT.to_owned()), ("auth.yaml", auth(custom))]).start().await.unwrap()
}

/// A connection that has sent CONNECT.
fn begin(address: SocketAddr, username: &str) -> Client {
    let mut client = Client::open(address, Version::V5);
    let mut connect = clean_connect(Version::V5, username, Properties::new());
    (connect.username, connect.password) = (Some(username.to_owned()), Some(b"secret".to_vec()));
    client.send(&Packet::Connect(connect));
    client
}

/// The code of CONNACK.
fn code(client: &mut Client) -> u8 {
    match client.receive() {
        Some(Packet::ConnAck { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

async fn answer(server: &ServerHandle, username: &'static str) -> u8 {
    let address = server.address("a").unwrap();
    remote(move || code(&mut begin(address, username))).await
}

/// The failures that the metrics count.
async fn failures(server: &ServerHandle, reason: &str) -> String {
    metric(server, &format!("weir_auth_custom_failures_total{{reason=\"{reason}\"}} ")).await
}

struct Devices;

impl Authenticator for Devices {
    async fn authenticate(&self, request: AuthRequest) -> AuthResponse {
        assert_eq!(request.endpoint(), "a");
        assert_eq!(request.password(), Some(&b"secret"[..]));
        assert_eq!(request.option("table").and_then(|value| value.as_str()), Some("devices"));
        assert!(!format!("{request:?}").contains("secret"));
        tokio::task::yield_now().await;
        let hour = Duration::from_secs(3600);
        match request.username().unwrap() {
            "alice" => AuthResponse::Allow(AuthGrant::new().username("al").may_publish(["${username}/#"])),
            "ends" => AuthResponse::Allow(AuthGrant::new().expires_at(SystemTime::now() + hour)),
            "ended" => AuthResponse::Allow(AuthGrant::new().expires_at(SystemTime::now() - hour)),
            "broken" => AuthResponse::Allow(AuthGrant::new().may_publish(["a/#/b"])),
            "other-id" => AuthResponse::Deny(AuthDenial::ClientIdNotValid),
            "not-permitted" => AuthResponse::Deny(AuthDenial::NotAuthorized),
            "banned" => AuthResponse::Deny(AuthDenial::Banned),
            "wrong" => AuthResponse::Deny(AuthDenial::BadCredentials),
            "panics" => panic!("the panic of this test"),
            _ => AuthResponse::Next,
        }
    }
}

#[tokio::test]
async fn a_registered_authenticator_decides_about_each_client() {
    let server = server(Devices, ", options: {table: devices}").await;
    let cases = [
        ("alice", 0),
        ("ends", 0),
        ("ended", 0x86),
        ("broken", 0x88),
        ("other-id", 0x85),
        ("not-permitted", 0x87),
        ("banned", 0x8A),
        ("wrong", 0x86),
        ("unknown", 0x86),
    ];
    for (username, expected) in cases {
        assert_eq!(answer(&server, username).await, expected, "{username}");
    }
    let address = server.address("a").unwrap();
    let reasons = remote(move || {
        let mut client = begin(address, "alice");
        assert_eq!(code(&mut client), 0);
        ["al/x", "alice/x"].map(|topic| {
            client.send(&publish(topic, b"", 1, Some(1)));
            match client.receive() {
                Some(Packet::Ack(ack)) => ack.code,
                other => panic!("{other:?}"),
            }
        })
    });
    assert_eq!(reasons.await.map(|code| code >= 0x80), [false, true], "the rights under the granted user name");
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_panic_rejects_that_client_with_0x88_and_no_other() {
    let server = server(Devices, ", options: {table: devices}").await;
    assert_eq!(answer(&server, "panics").await, 0x88);
    assert_eq!(answer(&server, "alice").await, 0);
    assert_eq!(answer(&server, "panics").await, 0x88);
    assert_eq!(failures(&server, "panic").await, "2");
    assert_eq!(failures(&server, "timeout").await, "0");
}

#[tokio::test]
async fn a_slow_answer_delays_no_other_client() {
    let released = Arc::new(Semaphore::new(0));
    let gate = Arc::clone(&released);
    let slow = move |request: AuthRequest| {
        let gate = Arc::clone(&gate);
        async move {
            if request.username() == Some("slow") {
                gate.acquire().await.unwrap().forget();
            }
            AuthResponse::Allow(AuthGrant::new())
        }
    };
    let server = server(slow, ", timeoutMs: 60000").await;
    let address = server.address("a").unwrap();
    let mut waiting = remote(move || begin(address, "slow")).await;
    for _ in 0..3 {
        assert_eq!(answer(&server, "quick").await, 0);
    }
    released.add_permits(1);
    assert_eq!(remote(move || code(&mut waiting)).await, 0);
}

#[tokio::test]
async fn an_answer_after_the_time_limit_rejects_the_client_and_frees_its_turn() {
    let slow = async |request: AuthRequest| {
        if request.username() == Some("slow") {
            std::future::pending::<()>().await;
        }
        AuthResponse::Allow(AuthGrant::new())
    };
    let server = server(slow, ", timeoutMs: 20, maxConcurrent: 1").await;
    assert_eq!(answer(&server, "slow").await, 0x88);
    assert_eq!(answer(&server, "slow").await, 0x88);
    assert_eq!(answer(&server, "quick").await, 0);
    assert_eq!(failures(&server, "timeout").await, "2");
}

#[tokio::test]
async fn a_document_that_names_an_unregistered_authenticator_is_not_applied() {
    let allow = async |_: AuthRequest| AuthResponse::Allow(AuthGrant::new());
    let unknown = "auth: {name: default, chain: [{custom: {name: devise-db}}]}";
    let documents = [("a.yaml", ENDPOINT), ("auth.yaml", unknown)];
    let started = Server::builder().authenticator("device-db", allow).documents(documents).start().await;
    let Err(ServerError::NotLive(problems)) = started else { panic!("it started") };
    assert!(problems[0].contains("`devise-db`; registered: device-db"), "{problems:?}");

    let server = server(allow, "").await;
    let Err(ServerError::NotLive(problems)) = server.apply(documents).await else { panic!("it was applied") };
    assert!(problems[0].contains("devise-db"), "{problems:?}");
    assert_eq!(answer(&server, "any").await, 0, "the former declaration stays applied");
}

#[tokio::test]
async fn connected_clients_stay_unless_the_name_or_the_options_change() {
    let allow = async |_: AuthRequest| AuthResponse::Allow(AuthGrant::new());
    let server = server(allow, ", options: {table: devices}").await;
    let address = server.address("a").unwrap();
    let mut client = remote(move || {
        let mut client = begin(address, "stays");
        assert_eq!(code(&mut client), 0);
        client
    })
    .await;
    let apply = |custom| server.apply([("a.yaml", ENDPOINT.to_owned()), ("auth.yaml", auth(custom))]);
    apply(", options: {table: devices}, timeoutMs: 100").await.unwrap();
    client = remote(move || {
        client.send(&publish("a", b"", 1, Some(1)));
        assert!(matches!(client.receive(), Some(Packet::Ack(_))));
        client
    })
    .await;
    apply(", options: {table: others}").await.unwrap();
    assert!(matches!(remote(move || client.receive()).await, Some(Packet::Disconnect { .. })));
}

/// Asks riddles: each client has to answer two, and one to authenticate again.
struct Riddles;

impl Authenticator for Riddles {
    fn methods(&self) -> &'static [&'static str] {
        &["RIDDLE"]
    }

    async fn authenticate(&self, request: AuthRequest) -> AuthResponse {
        if request.method() != Some("RIDDLE") {
            // A challenge needs a method.
            return AuthResponse::Challenge(AuthChallenge::new("", async |_| AuthResponse::Next));
        }
        let username = request.username().unwrap_or_default().to_owned();
        assert_eq!(request.data(), Some(username.as_bytes()), "the client of this test sends its name");
        if request.is_reauthentication() {
            return AuthResponse::Challenge(AuthChallenge::new("again?", async |reply| last(&reply, "again")));
        }
        AuthResponse::Challenge(AuthChallenge::new("2 + 3", async move |reply| match &*reply {
            b"5" => AuthResponse::Challenge(AuthChallenge::new("6 * 7", async |reply| last(&reply, "welcome"))),
            b"next" => AuthResponse::Next,
            b"panic" => panic!("the panic of this test"),
            b"wait" => std::future::pending().await,
            _ => AuthResponse::Deny(AuthDenial::BadCredentials),
        }))
    }
}

fn last(reply: &[u8], data: &str) -> AuthResponse {
    match reply {
        b"42" => AuthResponse::Allow(AuthGrant::new().data(data)),
        _ => AuthResponse::Deny(AuthDenial::NotAuthorized),
    }
}

const METHOD: u8 = 0x15;
const DATA: u8 = 0x16;

fn enhanced(method: &str, data: &str) -> Properties {
    vec![(METHOD, PropertyValue::String(method.to_owned())), (DATA, PropertyValue::Binary(data.into()))]
}

fn auth_packet(code: u8, data: &str) -> Packet {
    Packet::Auth { code, properties: enhanced("RIDDLE", data) }
}

/// A connection that has sent CONNECT with a method.
fn begin_with(address: SocketAddr, method: &str) -> Client {
    let mut client = Client::open(address, Version::V5);
    let mut connect = clean_connect(Version::V5, "alice", enhanced(method, "alice"));
    connect.username = Some("alice".to_owned());
    client.send(&Packet::Connect(connect));
    client
}

#[tokio::test]
async fn a_client_is_challenged_until_it_is_admitted_and_authenticates_again() {
    let server = server(Riddles, "").await;
    let address = server.address("a").unwrap();
    remote(move || {
        let mut client = begin_with(address, "RIDDLE");
        assert_eq!(client.receive(), Some(auth_packet(0x18, "2 + 3")));
        client.send(&auth_packet(0x18, "5"));
        assert_eq!(client.receive(), Some(auth_packet(0x18, "6 * 7")));
        client.send(&auth_packet(0x18, "42"));
        let Some(Packet::ConnAck { code: 0, properties, .. }) = client.receive() else { panic!("no CONNACK") };
        for property in enhanced("RIDDLE", "welcome") {
            assert!(properties.contains(&property), "{properties:?}");
        }
        client.ping();
        client.send(&auth_packet(0x19, "alice"));
        assert_eq!(client.receive(), Some(auth_packet(0x18, "again?")));
        client.ping();
        client.send(&auth_packet(0x18, "42"));
        assert_eq!(client.receive(), Some(auth_packet(0, "again")));
        client.send(&auth_packet(0x19, "alice"));
        assert_eq!(client.receive(), Some(auth_packet(0x18, "again?")));
        client.send(&auth_packet(0x18, "41"));
        assert_eq!(client.receive(), disconnect(0x87));
    })
    .await;
}

#[tokio::test]
async fn a_wrong_answer_a_panic_and_a_timeout_reject_the_client_with_their_reason() {
    let server = server(Riddles, ", timeoutMs: 3000").await;
    let address = server.address("a").unwrap();
    for (reply, expected) in [("6", 0x86), ("next", 0x8C), ("panic", 0x88), ("wait", 0x88)] {
        let answered = remote(move || {
            let mut client = begin_with(address, "RIDDLE");
            assert_eq!(client.receive(), Some(auth_packet(0x18, "2 + 3")));
            client.send(&auth_packet(0x18, reply));
            code(&mut client)
        });
        assert_eq!(answered.await, expected, "{reply}");
    }
    assert_eq!(failures(&server, "panic").await, "1");
    assert_eq!(failures(&server, "timeout").await, "1");
    let other = remote(move || code(&mut begin_with(address, "OTHER")));
    assert_eq!(other.await, 0x8C, "no element of the chain knows the method");
    assert_eq!(answer(&server, "without-method").await, 0x88);
}

#[tokio::test]
async fn waiting_for_a_client_takes_no_call_of_the_bound() {
    let server = server(Riddles, ", maxConcurrent: 1").await;
    let address = server.address("a").unwrap();
    remote(move || {
        let mut clients: Vec<Client> = (0..3).map(|_| begin_with(address, "RIDDLE")).collect();
        for client in &mut clients {
            assert_eq!(client.receive(), Some(auth_packet(0x18, "2 + 3")));
        }
        clients[2].send(&auth_packet(0x18, "5"));
        assert_eq!(clients[2].receive(), Some(auth_packet(0x18, "6 * 7")));
    })
    .await;
}
