//! A mountpoint is a namespace: nothing in it is visible in another.

use std::net::{SocketAddr, TcpStream};

use super::broker::Broker;
use super::client::Client;
use crate::support::ports;

const NOT_AUTHORIZED: u8 = 0x87;
const SESSION_TAKEN_OVER: u8 = 0x8E;

/// Two tenants, one with two endpoints and a bridge to `hub`, an endpoint of the shared namespace.
struct Tenants {
    broker: Broker,
    red: SocketAddr,
    side: SocketAddr,
    blue: SocketAddr,
    hub: SocketAddr,
}

impl Tenants {
    fn start() -> Self {
        let [red, side, blue, hub] = [(); 4].map(|()| ports::free_address());
        let endpoint = |name: &str, address: SocketAddr, more: &str| {
            format!("endpoint: {{name: {name}, host: 127.0.0.1, port: {}{more}}}\n---\n", address.port())
        };
        let documents = [
            endpoint("red", red, ", mountpoint: red/, enableBridge: true, bridges: [out]"),
            endpoint("side", side, ", mountpoint: red/"),
            endpoint("blue", blue, ", mountpoint: blue/, acl: blue"),
            endpoint("hub", hub, ""),
            format!(
                "bridge: {{name: out, address: ['mqtt://{hub}'], out: [{{filter: 'open/#', addPrefix: bridged/, qos: 1}}]}}\n---\n"
            ),
            "auth: {name: default, chain: [{anonymous: {}}]}\n---\n".to_owned(),
            "acl: {name: default, rules: [{permission: allow, topics: ['#', '$SYS/#']}]}\n---\n".to_owned(),
            "acl: {name: blue, rules: [{permission: allow, topics: ['open/#', '$SYS/#']}]}\n".to_owned(),
        ];
        let broker = Broker::serve(red, &documents.concat(), &[]);
        for address in [side, blue, hub] {
            broker.until("all listen", || TcpStream::connect(address).is_ok());
        }
        Self { broker, red, side, blue, hub }
    }
}

fn reader(address: SocketAddr, id: &str, filter: &str) -> Client {
    let mut client = Client::new(address, id).connected();
    assert_eq!(client.subscribe(filter), 1, "{id} {filter}");
    client
}

#[test]
fn client_ids_and_sessions_stay_in_their_namespace() {
    let tenants = Tenants::start();
    let mut red = Client::new(tenants.red, "same").durable().connected();
    assert_eq!(red.subscribe("open/#"), 1);
    // The same id under another mountpoint is another client: no takeover, no session.
    let mut blue = Client::new(tenants.blue, "same").durable().connected();
    let mut hub = Client::new(tenants.hub, "same").durable().connected();
    let mut sender = Client::new(tenants.red, "sender").connected();
    assert_eq!(sender.publish("open/x", "1", false), 0);
    assert_eq!(red.received(), ["open/x"]);
    assert!(blue.received().is_empty() && hub.received().is_empty());
    // Under the same mountpoint it is the same client.
    let mut side = Client::new(tenants.side, "same").durable().connected();
    assert_eq!(red.disconnected(), SESSION_TAKEN_OVER);
    assert_eq!(sender.publish("open/y", "1", false), 0);
    assert!(side.received().contains(&"open/y".to_owned()));
    assert!(blue.received().is_empty() && hub.received().is_empty());
}

#[test]
fn messages_groups_and_wills_stay_in_their_namespace() {
    let tenants = Tenants::start();
    let mut red = reader(tenants.red, "r", "open/#");
    let mut red_worker = reader(tenants.red, "w", "$share/g/open/shared");
    let mut blue = reader(tenants.blue, "r", "open/#");
    let mut blue_worker = reader(tenants.blue, "w", "$share/g/open/shared");
    let mut hub = reader(tenants.hub, "r", "open/#");
    let mut sender = Client::new(tenants.side, "sender").retained_will("open/will").connected();
    assert_eq!([sender.publish("open/shared", "1", false), sender.publish("open/kept", "1", true)], [0, 0]);
    drop(sender);
    let mut got = Vec::new();
    tenants.broker.until("the will is sent", || {
        got.extend(red.received());
        got.iter().any(|topic| topic == "open/will")
    });
    assert_eq!(got, ["open/shared", "open/kept", "open/will"]);
    assert_eq!(red_worker.received(), ["open/shared"]);
    for other in [&mut blue, &mut blue_worker, &mut hub] {
        assert!(other.received().is_empty());
    }
    let mut kept = reader(tenants.red, "late", "open/#").received();
    kept.sort_unstable();
    assert_eq!(kept, ["open/kept", "open/will"]);
    assert!(reader(tenants.blue, "late", "open/#").received().is_empty());
    assert!(reader(tenants.hub, "late", "#").received().iter().all(|topic| topic.starts_with("bridged/")));
}

#[test]
fn rules_bridges_and_sys_topics_stay_in_their_namespace() {
    let tenants = Tenants::start();
    // Rules apply to topics without the mountpoint.
    let mut blue = Client::new(tenants.blue, "b").connected();
    assert!(blue.may_publish("open/x"));
    assert_eq!(blue.publish("blue/open/x", "1", false), NOT_AUTHORIZED);
    assert_eq!([blue.subscribe("open/+"), blue.subscribe("blue/open/+")], [1, NOT_AUTHORIZED]);
    // A bridge forwards the messages of its own tenant, with the topics that the tenant uses.
    let mut hub = reader(tenants.hub, "r", "#");
    let mut red = Client::new(tenants.red, "p").connected();
    let mut forwarded = Vec::new();
    tenants.broker.until("the bridge forwards", || {
        assert!(red.may_publish("open/red") && blue.may_publish("open/blue"));
        forwarded.extend(hub.received());
        !forwarded.is_empty()
    });
    assert!(forwarded.iter().all(|topic| topic == "bridged/open/red"), "{forwarded:?}");
    // $SYS names every endpoint, so only the shared namespace has it.
    let mut sys = reader(tenants.hub, "sys", "$SYS/#");
    tenants.broker.until("$SYS is published", || !sys.received().is_empty());
    for address in [tenants.red, tenants.blue] {
        assert!(reader(address, "sys", "$SYS/#").received().is_empty());
    }
}
