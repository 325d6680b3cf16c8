//! Interceptors that the program registers.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use weirmq::{
    DenyReason, Hook, InterceptedPublish, Interceptor, Server, ServerBuilder, ServerError, ServerHandle, Subject,
    Verdict,
};

use super::{metric, remote};
use crate::support::GUARD;
use crate::support::client::{Client, clean_connect, connect, disconnect, publish};
use crate::wire::{Ack, Packet, Properties, PropertyValue, Version, Will};

/// Decides by the topic, the filter or the client id.
struct Test;

impl Interceptor for Test {
    fn on_connect(&self, client: Subject<'_>) -> Verdict {
        match client.client_id {
            "denied" => Verdict::Deny(DenyReason::QuotaExceeded),
            "panics" => panic!("the panic of this test"),
            _ => Verdict::Allow,
        }
    }

    fn on_subscribe(&self, _: Subject<'_>, filter: &str, _: weirmq::client::QoS) -> Verdict {
        match filter {
            "denied/#" => Verdict::Deny(DenyReason::TopicInvalid),
            "panics" => panic!("the panic of this test"),
            _ => Verdict::Allow,
        }
    }

    fn on_publish(&self, client: Subject<'_>, publish: &mut InterceptedPublish<'_>) -> Verdict {
        match publish.topic() {
            "denied" => return Verdict::Deny(DenyReason::QuotaExceeded),
            "not-authorized" => return Verdict::Deny(DenyReason::NotAuthorized),
            "panics" => panic!("the panic of this test"),
            "renamed" => {
                publish.set_topic(format!("to/{}", client.client_id));
                let payload = [publish.payload(), b"!"].concat();
                publish.set_payload(payload);
                publish.push_user_property("seen", "yes");
                publish.set_content_type(Some("text/plain"));
            }
            "to-closed" => publish.set_topic("closed"),
            "to-no-topic" => publish.set_topic("a/#"),
            "to-nothing" => publish.set_topic(""),
            _ => {}
        }
        Verdict::Allow
    }
}

/// Appends its name to payloads.
struct Append(&'static str);

impl Interceptor for Append {
    fn on_publish(&self, _: Subject<'_>, publish: &mut InterceptedPublish<'_>) -> Verdict {
        let payload = [publish.payload(), self.0.as_bytes()].concat();
        publish.set_payload(payload);
        Verdict::Allow
    }
}

/// Decides about deliveries to the client `guest`, by the topic.
struct Deliveries;

impl Interceptor for Deliveries {
    fn hooks(&self) -> &'static [Hook] {
        &[Hook::Deliver]
    }

    fn on_publish(&self, _: Subject<'_>, _: &mut InterceptedPublish<'_>) -> Verdict {
        panic!("this hook was not asked for")
    }

    fn on_deliver(&self, client: Subject<'_>, delivery: &mut InterceptedPublish<'_>) -> Verdict {
        match (client.client_id, delivery.topic()) {
            ("guest", "denied") => return Verdict::Deny(DenyReason::NotAuthorized),
            ("guest", "panics") => panic!("the panic of this test"),
            ("guest", "to-no-topic") => delivery.set_topic("a/#"),
            ("guest", "renamed") => {
                delivery.set_topic(format!("for/{}", client.client_id));
                let payload = [delivery.payload(), b"!"].concat();
                delivery.set_payload(payload);
                let content_type = delivery.properties().content_type.unwrap_or("none").to_owned();
                let form = format!("{content_type} {} {}", delivery.qos() as u8, delivery.retain());
                delivery.push_user_property("form", &form);
            }
            _ => {}
        }
        Verdict::Allow
    }
}

/// Would panic, but has no hook.
struct WithoutHooks;

impl Interceptor for WithoutHooks {
    fn hooks(&self) -> &'static [Hook] {
        &[]
    }

    fn on_connect(&self, _: Subject<'_>) -> Verdict {
        panic!("this hook was not asked for")
    }

    fn on_deliver(&self, _: Subject<'_>, _: &mut InterceptedPublish<'_>) -> Verdict {
        panic!("this hook was not asked for")
    }
}

const ACL: &str =
    "acl: {name: default, rules: [{permission: deny, action: publish, topics: [closed]}, {permission: allow}]}";

fn documents(interceptors: &str) -> [(&'static str, String); 2] {
    let endpoint = format!("endpoint: {{name: a, port: 0, enableAuth: false, interceptors: [{interceptors}]}}");
    [("a.yaml", endpoint), ("acl.yaml", ACL.to_owned())]
}

fn builder() -> ServerBuilder {
    let server = Server::builder().interceptor("test", Test).interceptor("one", Append("1"));
    let server = server.interceptor("deliveries", Deliveries).interceptor("without-hooks", WithoutHooks);
    server.interceptor("two", Append("2")).status_address("127.0.0.1:0".parse().unwrap())
}

async fn server(interceptors: &str) -> (ServerHandle, SocketAddr) {
    let server = builder().documents(documents(interceptors)).start().await.unwrap();
    let address = server.address("a").unwrap();
    (server, address)
}

/// The code of PUBACK.
fn answer(client: &mut Client, topic: &str) -> u8 {
    client.send(&publish(topic, b"x", 1, Some(1)));
    match client.receive() {
        Some(Packet::Ack(ack)) => ack.code,
        other => panic!("{topic}: {other:?}"),
    }
}

/// The answer to a CONNECT.
fn admission(address: SocketAddr, version: Version, client_id: &str) -> Option<u8> {
    let mut client = Client::open(address, version);
    client.send(&connect(version, client_id, Properties::new()));
    match client.receive() {
        Some(Packet::ConnAck { code, .. }) => Some(code),
        None => None,
        other => panic!("{other:?}"),
    }
}

/// Waits until so many messages are counted: shards publish their counters from time to time.
async fn until_dropped(server: &ServerHandle, reason: &str, expected: u64) {
    let name = format!("weir_endpoint_messages_dropped_total{{endpoint=\"a\",port=\"0\",reason=\"{reason}\"}} ");
    let deadline = Instant::now() + GUARD;
    loop {
        let counted = metric(server, &name).await;
        if counted == expected.to_string() {
            return;
        }
        assert!(Instant::now() < deadline, "{reason}: {counted} are counted, not {expected}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_publish_is_denied_or_changed_before_the_access_list_is_checked() {
    let (server, address) = server("test").await;
    let codes = remote(move || {
        let mut client = Client::connect(address, Version::V5, "c");
        let topics = ["denied", "not-authorized", "to-closed", "to-no-topic", "to-nothing", "open"];
        let codes = topics.map(|topic| answer(&mut client, topic));
        // QoS 0 has no answer.
        client.send(&publish("denied", b"x", 0, None));
        (codes, answer(&mut client, "open"))
    });

    assert_eq!(codes.await, ([0x97, 0x87, 0x87, 0x83, 0x83, 0], 0));
    until_dropped(&server, "intercepted", 5).await;
}

#[tokio::test]
async fn a_changed_publish_reaches_the_subscribers_of_its_new_topic() {
    let (_server, address) = server("test").await;
    remote(move || {
        for version in [Version::V5, Version::V3_1_1] {
            let mut subscriber = Client::connect(address, version, "subscriber");
            subscriber.subscribe("#", 0);
            for (sender, qos) in [(Version::V5, 2), (Version::V5, 1), (Version::V3_1_1, 1), (Version::V5, 0)] {
                let mut client = Client::connect(address, sender, "c");
                client.send(&publish("renamed", b"x", qos, (qos > 0).then_some(7)));
                let Some(Packet::Publish(received)) = subscriber.receive() else { panic!("no PUBLISH") };
                assert_eq!((&*received.topic, &*received.payload), ("to/c", &b"x!"[..]), "{sender:?} {qos}");
                let has_properties = !received.properties.is_empty();
                assert_eq!(has_properties, sender == Version::V5 && version == Version::V5, "{received:?}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_panic_ends_that_connection_with_0x83_and_no_other() {
    let (server, address) = server("test").await;
    remote(move || {
        let mut other = Client::connect(address, Version::V5, "other");
        let mut publisher = Client::connect(address, Version::V5, "publisher");
        publisher.send(&publish("panics", b"x", 1, Some(1)));
        assert_eq!(publisher.receive(), disconnect(0x83));
        assert_eq!(publisher.receive(), None);
        let mut subscriber = Client::connect(address, Version::V5, "subscriber");
        let filters = vec![("panics".to_owned(), 0)];
        subscriber.send(&Packet::Subscribe { id: 1, properties: Properties::new(), filters });
        assert_eq!(subscriber.receive(), disconnect(0x83));
        assert_eq!(admission(address, Version::V5, "panics"), Some(0x83));
        assert_eq!(answer(&mut other, "open"), 0);
    })
    .await;
    until_dropped(&server, "interceptor_panic", 3).await;
}

#[tokio::test]
async fn a_connect_and_a_subscription_are_denied_with_the_reason() {
    let (_server, address) = server("test").await;
    remote(move || {
        assert_eq!(admission(address, Version::V5, "denied"), Some(0x97));
        assert_eq!(admission(address, Version::V3_1_1, "denied"), Some(5));
        for (version, expected) in [(Version::V5, 0x8F), (Version::V3_1_1, 0x80)] {
            let mut client = Client::connect(address, version, "c");
            let filters = ["denied/#", "$share/g/denied/#", "open"].map(|filter| (filter.to_owned(), 0)).to_vec();
            client.send(&Packet::Subscribe { id: 1, properties: Properties::new(), filters });
            let Some(Packet::SubAck { codes, .. }) = client.receive() else { panic!("no SUBACK") };
            assert_eq!(codes, [expected, expected, 0], "{version:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_will_is_shown_to_the_interceptors_when_it_is_due() {
    let (server, address) = server("test").await;
    remote(move || {
        let mut subscriber = Client::connect(address, Version::V3_1_1, "subscriber");
        subscriber.subscribe("#", 0);
        for topic in ["denied", "panics", "renamed"] {
            let mut client = Client::open(address, Version::V5);
            let mut connect = clean_connect(Version::V5, "c", Properties::new());
            let (topic, payload) = (topic.to_owned(), b"gone".to_vec());
            connect.will = Some(Will { topic, payload, qos: 1, retain: false, properties: Properties::new() });
            client.send(&Packet::Connect(connect));
            assert!(matches!(client.receive(), Some(Packet::ConnAck { code: 0, .. })));
        }
        assert_eq!(subscriber.receive(), Some(publish("to/c", b"gone!", 0, None)));
    })
    .await;
    until_dropped(&server, "intercepted", 1).await;
    until_dropped(&server, "interceptor_panic", 1).await;
}

#[tokio::test]
async fn interceptors_run_in_order_and_a_change_applies_to_open_connections() {
    let (server, address) = server("one, two").await;
    let connected = remote(move || {
        let mut client = Client::connect(address, Version::V5, "c");
        client.subscribe("t", 0);
        client
    });
    let mut client = connected.await;
    for (interceptors, expected) in [("one, two", "x12"), ("two, one", "x21"), ("two", "x2"), ("", "x")] {
        server.apply(documents(interceptors)).await.unwrap();
        client = remote(move || {
            client.send(&publish("t", b"x", 0, None));
            assert_eq!(client.receive(), Some(publish("t", expected.as_bytes(), 0, None)));
            client
        })
        .await;
    }
}

#[tokio::test]
async fn a_document_that_names_an_unregistered_interceptor_is_not_applied() {
    let Err(ServerError::NotLive(problems)) = builder().documents(documents("tset")).start().await else {
        panic!("it started")
    };
    let expected = "no interceptor is registered as `tset`; registered: deliveries, one, test, two, without-hooks";
    assert!(problems[0].contains(expected), "{problems:?}");
}

fn puback(id: u16) -> Packet {
    Packet::Ack(Ack { packet_type: 4, id, code: 0, properties: Properties::new() })
}

/// The next message, without its packet identifier, which is acknowledged: topic, payload, QoS and the property `form`.
fn next_message(client: &mut Client) -> (String, String, u8, Option<String>) {
    let Some(Packet::Publish(received)) = client.receive() else { panic!("no PUBLISH") };
    if let (1, Some(id)) = (received.qos, received.id) {
        client.send(&puback(id));
    }
    let form = received.properties.iter().find_map(|property| match property {
        (0x26, PropertyValue::Pair(name, value)) if name == "form" => Some(value.clone()),
        _ => None,
    });
    (received.topic, String::from_utf8(received.payload).unwrap(), received.qos, form)
}

#[tokio::test]
async fn a_delivery_is_denied_or_changed_for_one_receiver_only() {
    let (server, address) = server("deliveries, without-hooks").await;
    remote(move || {
        for version in [Version::V5, Version::V3_1_1] {
            let mut publisher = Client::connect(address, Version::V5, "publisher");
            let mut guest = Client::connect(address, version, "guest");
            let mut other = Client::connect(address, version, "other");
            guest.subscribe("#", 1);
            other.subscribe("#", 1);
            for qos in [0, 1] {
                for topic in ["denied", "to-no-topic", "renamed", "open"] {
                    publisher.send(&publish(topic, b"x", qos, (qos > 0).then_some(7)));
                    assert_eq!(next_message(&mut other), (topic.to_owned(), "x".to_owned(), qos, None));
                    if qos > 0 {
                        assert!(matches!(publisher.receive(), Some(Packet::Ack(ack)) if ack.code == 0));
                    }
                }
                let form = (version == Version::V5).then(|| format!("none {qos} false"));
                assert_eq!(next_message(&mut guest), ("for/guest".to_owned(), "x!".to_owned(), qos, form));
                assert_eq!(next_message(&mut guest), ("open".to_owned(), "x".to_owned(), qos, None));
            }
        }
    })
    .await;
    until_dropped(&server, "delivery_intercepted", 8).await;
}

#[tokio::test]
async fn retained_and_queued_messages_are_shown_with_their_properties_when_they_are_sent() {
    let (_server, address) = server("deliveries").await;
    remote(move || {
        let mut publisher = Client::connect(address, Version::V5, "publisher");
        let typed = |retain| {
            let Packet::Publish(mut message) = publish("renamed", b"x", 1, Some(1)) else { panic!() };
            message.retain = retain;
            message.properties.push((0x03, PropertyValue::String("text/plain".into())));
            Packet::Publish(message)
        };
        publisher.send(&typed(true));
        publisher.receive().unwrap();
        let mut guest = Client::open(address, Version::V5);
        let mut persistent = clean_connect(Version::V5, "guest", vec![(0x11, PropertyValue::Number(60))]);
        persistent.clean = false;
        guest.send(&Packet::Connect(persistent.clone()));
        guest.receive().unwrap();
        guest.subscribe("#", 1);
        let form = |retain: bool| Some(format!("text/plain 1 {retain}"));
        assert_eq!(next_message(&mut guest), ("for/guest".to_owned(), "x!".to_owned(), 1, form(true)));
        drop(guest);
        publisher.send(&typed(false));
        publisher.receive().unwrap();
        let mut guest = Client::open(address, Version::V5);
        guest.send(&Packet::Connect(persistent));
        guest.receive().unwrap();
        assert_eq!(next_message(&mut guest), ("for/guest".to_owned(), "x!".to_owned(), 1, form(false)));
    })
    .await;
}

#[tokio::test]
async fn a_panic_about_a_delivery_ends_the_receiver_with_0x83_and_no_other() {
    let (server, address) = server("deliveries").await;
    remote(move || {
        let mut publisher = Client::connect(address, Version::V5, "publisher");
        let mut guest = Client::connect(address, Version::V5, "guest");
        let mut other = Client::connect(address, Version::V5, "other");
        guest.subscribe("#", 0);
        other.subscribe("#", 0);
        assert_eq!(answer(&mut publisher, "panics"), 0);
        assert_eq!(guest.receive(), disconnect(0x83));
        assert_eq!(guest.receive(), None);
        assert_eq!(next_message(&mut other).0, "panics");
        assert_eq!(answer(&mut publisher, "open"), 0);
        assert_eq!(next_message(&mut other).0, "open");
    })
    .await;
    until_dropped(&server, "interceptor_panic", 1).await;
}

#[tokio::test]
async fn an_interceptor_of_deliveries_applies_to_open_connections_once_it_is_declared() {
    let (server, address) = server("").await;
    let mut guest = remote(move || {
        let mut guest = Client::connect(address, Version::V5, "guest");
        guest.subscribe("renamed", 0);
        guest
    })
    .await;
    for (interceptors, expected) in [("deliveries", "for/guest"), ("", "renamed")] {
        server.apply(documents(interceptors)).await.unwrap();
        guest = remote(move || {
            guest.send(&publish("renamed", b"x", 0, None));
            assert_eq!(next_message(&mut guest).0, expected);
            guest
        })
        .await;
    }
}
