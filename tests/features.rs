//! A build without features serves what it has, and says what it has not. `tests/features` runs this.
#![cfg(not(any(feature = "bridge", feature = "http", feature = "websocket")))]

use weirmq::client::QoS;
use weirmq::{Server, ServerError};

const MQTT: &str = "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false}";

#[tokio::test]
async fn an_embedded_broker_needs_no_feature() {
    let server = Server::builder().documents([("mqtt.yaml", MQTT)]).start().await.unwrap();
    let (client, mut messages) = server.client("billing").connect().await.unwrap();
    client.subscribe("sensor/+/temp", QoS::AtLeastOnce).await.unwrap();
    client.publish("sensor/room1/temp", "25.5", QoS::AtLeastOnce).await.unwrap();
    let message = messages.next().await.unwrap();
    assert_eq!(message.text(), Some("25.5"));
    message.ack();
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_document_that_needs_a_missing_feature_is_not_applied_and_the_error_names_the_feature() {
    let cases: [(&[(&str, &str)], &str); 3] = [
        (
            &[("ws.yaml", "endpoint: {name: ws, port: 0, useWebsocket: true, enableAuth: false, enableAcl: false}")],
            "this build has no WebSocket (feature `websocket`)",
        ),
        (
            &[
                ("mqtt.yaml", "endpoint: {name: mqtt, port: 0, enableAcl: false}"),
                ("auth.yaml", "auth: {name: default, chain: [{http: {url: 'http://127.0.0.1:9'}}]}"),
            ],
            "this build has no `http` authenticator (feature `http`)",
        ),
        (
            &[
                (
                    "mqtt.yaml",
                    "endpoint: {name: mqtt, port: 0, enableAuth: false, enableAcl: false, enableBridge: true, bridges: [cloud]}",
                ),
                ("cloud.yaml", "bridge: {name: cloud, address: ['mqtt://127.0.0.1:9'], out: [{filter: '#'}]}"),
            ],
            "bridge cloud: this build has no bridges (feature `bridge`)",
        ),
    ];
    for (documents, expected) in cases {
        let started = Server::builder().documents(documents.iter().copied()).start().await;
        let Err(ServerError::NotLive(problems)) = started else { panic!("{documents:?}") };
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
    }
}
