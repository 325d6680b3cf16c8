//! Authenticators that the program registers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Semaphore;
use weirmq::{AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator, Server, ServerError, ServerHandle};

use super::{metric, remote};
use crate::support::client::{Client, clean_connect, publish};
use crate::wire::{Packet, Properties, Version};

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
