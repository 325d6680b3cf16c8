//! The declarations under `examples/auth` do what their comments say.

use std::fs;
use std::path::Path;

use weirmq::auth::ScramRecord;

use super::broker::Broker;
use super::client::property;
use super::methods::{hs256, scram};
use super::reload::people;
use crate::support::ports;
use crate::support::weir;
use crate::wire::{Packet, PropertyValue};

pub fn example(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name).join("endpoint.yaml");
    fs::read_to_string(path).unwrap()
}

/// Runs an example on a free port in place of its own.
pub fn run(name: &str, files: &[(&str, &str)]) -> Broker {
    let address = ports::free_address();
    let on_port = |port: u16| (format!("port: {port}"), format!("port: {}", address.port()));
    let text = [1883, 8883, 8084].map(on_port).iter().fold(example(name), |text, (old, new)| text.replace(old, new));
    Broker::serve(address, &text, files)
}

#[test]
fn every_example_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let within = |name: &str| fs::read_dir(root.join(name)).unwrap().map(|entry| entry.unwrap().path());
    for path in within("auth").chain(within("transports")).chain([root.join("limits"), root.join("endpoints.d")]) {
        let run = weir::command().args(["validate", "--strict"]).arg(&path).output().unwrap();
        assert!(run.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&run.stdout));
    }
}

#[test]
fn a_password_file_admits_its_users_to_their_own_topics() {
    let broker = run("auth/password-file", &[("users.passwd", &people())]);
    let mut alice = broker.client("a").user("alice", "secret").connected();
    assert_eq!([alice.subscribe("devices/alice/#"), alice.subscribe("devices/bob/#")], [1, 0x87]);
    assert_eq!(broker.client("a").user("alice", "wrong").connect(), 0x86);
}

#[test]
fn a_token_is_bound_to_its_client_id_and_rules() {
    let secret = "0123456789abcdef0123456789abcdef";
    let broker = run("auth/jwt", &[("jwt.secret", secret)]);
    let claims = r#"{"sub":"alice","client_id":"c1","aud":"weir","exp":4102444800,"acl":{"publish":["up/#"]}}"#;
    let mut alice = broker.client("c1").user("", &hs256(secret, claims)).connected();
    assert_eq!([alice.may_publish("up/1"), alice.may_publish("down/1")], [true, false]);
    assert_eq!(alice.subscribe("up/#"), 0x87);
    // A client with another id is refused, and the log has the right one.
    assert_eq!(broker.client("c2").user("", &hs256(secret, claims)).connect(), 0x85);
    broker.until("the log says why", || {
        let log = broker.log();
        let line = log.lines().find(|line| line.contains("issued for another client id"));
        line.is_some_and(|line| line.contains("client_id=\"c2\"") && line.contains("wanted=\"c1\""))
    });
}

/// A client without an id gets the one of its token: CONNACK names it, its session is resumed, and it takes over an older
/// connection.
#[test]
fn a_token_gives_the_client_id() {
    let secret = "0123456789abcdef0123456789abcdef";
    let broker = run("auth/jwt", &[("jwt.secret", secret)]);
    let token = |id: &str| {
        let claims =
            format!(r##"{{"sub":"alice","client_id":"{id}","aud":"weir","exp":4102444800,"acl":{{"all":["#"]}}}}"##);
        hs256(secret, &claims)
    };
    let connect = |client: super::client::Client| {
        let mut client = client.user("", &token("c1"));
        client.send_connect();
        let Some(Packet::ConnAck { session_present, code: 0, properties }) = client.receive() else {
            panic!("refused")
        };
        let assigned = properties.contains(&property("assigned_client_identifier", PropertyValue::String("c1".into())));
        (client, session_present, assigned)
    };
    let (mut named, present, assigned) = connect(broker.client("c1").durable());
    assert_eq!((present, assigned), (false, false));
    assert_eq!(named.subscribe("a"), 1);
    drop(named);
    let (nameless, present, assigned) = connect(broker.client("").durable());
    assert_eq!((present, assigned), (true, true));
    drop(nameless);
    assert!(broker.client("sender").user("", &token("sender")).connected().may_publish("a"));
    let (mut nameless, present, assigned) = connect(broker.client("").durable());
    assert_eq!((present, assigned), (true, true));
    assert_eq!(nameless.received(), ["a"]);
    let (_newer, present, assigned) = connect(broker.client("c1"));
    assert_eq!((present, assigned), (false, false), "clean start: the session is gone");
    assert_eq!(nameless.disconnected(), 0x8E, "session taken over");
    // No token gives access to the session of a bridge.
    assert_eq!(broker.client("").user("", &token("$bridge/x")).connect(), 0x85);
}

#[test]
fn scram_and_the_password_file_after_it_admit_their_users() {
    let keys = format!("alice:{}\n", ScramRecord::create(b"secret").unwrap());
    let broker = run("auth/scram", &[("users.scram", &keys), ("users.passwd", &people())]);
    let (_alice, answer) = scram(&broker, "alice", "secret");
    assert!(matches!(answer, Packet::ConnAck { code: 0, .. }), "{answer:?}");
    broker.client("b").user("bob", "secret").connected();
}

#[test]
fn banned_and_flapping_clients_are_refused() {
    let broker = run("auth/bans", &[]);
    broker.client("good").connected();
    assert_eq!(broker.client("bot-9").connect(), 0x8A);
    let connects = (0..16).map(|_| broker.client("flapping").connect());
    assert_eq!(connects.filter(|code| *code == 0).count(), 15);
    assert_eq!(broker.client("flapping").connect(), 0x8A);
    broker.client("another").connected();
}

#[test]
fn clients_are_refused_while_the_http_service_is_down() {
    let text = |port: u16| example("auth/http").replace("127.0.0.1:9000", &format!("127.0.0.1:{port}"));
    let (address, closed) = (ports::free_address(), ports::free_address());
    let text = text(closed.port()).replace("port: 1883", &format!("host: 127.0.0.1, port: {}", address.port()));
    let broker = Broker::serve(address, &text, &[("service.token", "Bearer x\n")]);
    assert_eq!(broker.client("c").user("alice", "secret").connect(), 0x88);
}

#[test]
fn tenants_see_nothing_of_each_other() {
    let (red, blue) = (ports::free_address(), ports::free_address());
    let text = example("auth/tenants")
        .replace("port: 1883", &format!("host: 127.0.0.1, port: {}", red.port()))
        .replace("port: 1884", &format!("host: 127.0.0.1, port: {}", blue.port()));
    let alice: String = people().lines().take(1).map(|line| format!("{line}\n")).collect();
    let bob: String = people().lines().skip(1).map(|line| format!("{line}\n")).collect();
    let broker = Broker::serve(red, &text, &[("red.passwd", &alice), ("blue.passwd", &bob)]);
    let client = |address, id: &str| super::client::Client::new(address, id);
    let mut alice = client(red, "same").user("alice", "secret").connected();
    let mut bob = client(blue, "same").user("bob", "secret").connected();
    assert_eq!([alice.subscribe("#"), bob.subscribe("#")], [1, 1]);
    assert_eq!([alice.publish("x", "1", true), bob.publish("y", "1", true)], [0, 0]);
    assert_eq!([alice.received(), bob.received()], [["x"], ["y"]]);
    assert_eq!(client(red, "b").user("bob", "secret").connect(), 0x86);
    drop(broker);
}
