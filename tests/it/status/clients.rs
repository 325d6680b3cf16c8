//! Lists of clients, queues, retained messages and dropped messages of the built broker.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::client::get;
use super::live::Broker;
use crate::support::client::{Client, connect, publish};
use crate::wire::{Connect, Packet, Properties, Version};

/// A broker with two endpoints of its own addresses: `a`, and `b`, which queues two messages for a session.
async fn broker() -> (Broker, SocketAddr, SocketAddr) {
    let broker = Broker::start(&[]);
    let [a, b] = [crate::support::ports::free(), crate::support::ports::free()];
    let document = format!(
        "endpoint: {{name: a, port: {a}, host: 127.0.0.1, enableAuth: false, enableAcl: false}}\n---\n\
         endpoint: {{name: b, port: {b}, host: 127.0.0.1, enableAuth: false, enableAcl: false, maxQueuedMessages: 2}}\n"
    );
    broker.write("tcp.yaml", &document);
    broker.until("three endpoints are listed", || {
        broker.get("/api/endpoints/list")["endpoints"].as_object().is_some_and(|all| all.len() == 3)
    });
    (broker, SocketAddr::from(([127, 0, 0, 1], a)), SocketAddr::from(([127, 0, 0, 1], b)))
}

async fn data(broker: &Broker, path: &str) -> Value {
    let answer = get(broker.status(), path).await;
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()["data"].clone()
}

/// The ids of the clients that `query` finds, and where the next page begins.
async fn ids(broker: &Broker, query: &str) -> (Vec<String>, Value) {
    let found = data(broker, &format!("/api/clients?{query}")).await;
    let clients = found["clients"].as_array().unwrap().iter();
    (clients.map(|client| client["clientId"].as_str().unwrap().to_owned()).collect(), found["next"].clone())
}

fn acknowledged(client: &mut Client) {
    match client.receive() {
        Some(Packet::Ack(_)) => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_found_by_page_endpoint_prefix_and_address() {
    let (broker, a, b) = broker().await;
    let mut connected = Vec::new();
    for (address, id) in [(a, "sensor-1"), (b, "sensor-2"), (a, "gateway"), (a, "<b>&\"'")] {
        connected.push(Client::connect(address, Version::V5, id));
    }
    let (first, next) = ids(&broker, "limit=3").await;
    assert_eq!(first, ["sensor-1", "sensor-2", "gateway"]);
    assert_eq!(ids(&broker, &format!("limit=3&after={next}")).await, (vec!["<b>&\"'".to_owned()], Value::Null));
    for (query, expected) in [
        ("name=b", &["sensor-2"][..]),
        (&format!("port={}", a.port()), &["sensor-1", "gateway", "<b>&\"'"]),
        ("clientIdPrefix=sensor-", &["sensor-1", "sensor-2"]),
        ("clientIdPrefix=sensor-&name=a", &["sensor-1"]),
        ("clientId=%3Cb%3E%26%22%27", &["<b>&\"'"]),
        ("address=127.0.0.1&limit=10", &["sensor-1", "sensor-2", "gateway", "<b>&\"'"]),
        ("address=192.0.2.1", &[]),
    ] {
        assert_eq!(ids(&broker, query).await.0, expected, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disabled_endpoint_may_name_a_missing_document() {
    let broker = Broker::start(&[]);
    let document = format!("endpoint: {{port: {}, enabled: false}}\n", crate::support::ports::free());
    broker.write("spare.yaml", &document);
    broker.until("two endpoints are listed", || broker.get("/api/endpoints/list")["total"] == 2);
    let plan = data(&broker, "/api/plan").await;
    assert_eq!((&plan["converged"], &plan["pending"]), (&json!(true), &json!([])));
    assert_eq!(data(&broker, "/api/cluster/nodes").await["nodes"][0]["refusals"], json!({}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queued_retained_and_dropped_messages_are_shown() {
    let (broker, a, b) = broker().await;
    let Packet::Connect(first) = connect(Version::V3_1_1, "away", Properties::new()) else { unreachable!() };
    let mut away = Client::open(b, Version::V3_1_1);
    away.send(&Packet::Connect(Connect { clean: false, ..first }));
    assert!(matches!(away.receive(), Some(Packet::ConnAck { code: 0, .. })));
    away.subscribe("plant/#", 1);
    away.send(&Packet::Disconnect { code: 0, properties: Properties::new() });
    assert_eq!(away.receive(), None);

    let mut publisher = Client::connect(a, Version::V3_1_1, "publisher");
    for id in 1..=5 {
        let Packet::Publish(message) = publish("plant/temp", b"confidential", 1, Some(id)) else { unreachable!() };
        publisher.send(&Packet::Publish(crate::wire::Publish { retain: id == 5, ..message }));
        acknowledged(&mut publisher);
    }
    let slowest = data(&broker, "/api/clients/slowest").await;
    let session = &slowest["sessions"][0];
    let known = [&session["clientId"], &session["endpoint"], &session["connected"], &session["queuedMessages"]];
    assert_eq!(known.map(Value::clone), [json!("away"), json!("b"), json!(false), json!(2)], "{slowest}");
    assert_eq!(session["droppedMessages"], 3);

    let topics = data(&broker, "/api/topics?filter=plant/%23").await;
    let retained = &topics["topics"][0];
    assert_eq!((&retained["topic"], &retained["payloadBytes"]), (&json!("plant/temp"), &json!(12)), "{topics}");
    assert!(!topics.to_string().contains("confidential"));
    let level = data(&broker, "/api/topics/tree").await;
    assert!(
        level["entries"]
            .as_array()
            .unwrap()
            .contains(&json!({"level": "plant", "topic": "plant", "branch": true, "value": null}))
    );
    let level = data(&broker, "/api/topics/tree?below=plant").await;
    let value = json!({"payload": "confidential", "payloadBytes": 12, "qos": 1, "expiresInS": null});
    let entry = json!({"level": "temp", "topic": "plant/temp", "branch": false, "value": value});
    assert_eq!(level, json!({"entries": [entry], "next": null}));

    // The shards tell their counters now and then.
    let counted = || broker.get("/api/endpoints/metrics?name=b");
    broker.until("three messages are dropped", || counted()["messages"]["droppedByReason"]["queue_full"] == 3);
    assert_eq!(counted()["sessions"]["sessionsAway"], 1, "{}", counted());
    let scraped = get(broker.status(), "/metrics").await;
    let line =
        format!("weir_endpoint_messages_dropped_total{{endpoint=\"b\",port=\"{}\",reason=\"queue_full\"}} 3", b.port());
    assert!(scraped.text().contains(&line), "{line}");
}
