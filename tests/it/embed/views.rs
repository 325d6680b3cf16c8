//! What a program reads of its server.

use weirmq::client::QoS;
use weirmq::{Server, ServerError, topic_matches};

use super::endpoint;

#[tokio::test]
async fn retained_messages_are_set_found_and_paged_on_every_number_of_shards() {
    for shards in [1, 3] {
        let server = Server::builder().documents([("a.yaml", endpoint("a"))]).shards(shards).start().await.unwrap();
        let retained = server.retained();
        for number in 0..10 {
            retained.set(&format!("room/{number}/temp"), format!("{number}.5")).await.unwrap();
        }
        let found = retained.get("room/7/temp").await.unwrap().unwrap();
        assert_eq!((found.payload.as_ref(), found.qos), (&b"7.5"[..], QoS::AtMostOnce));
        assert_eq!(retained.get("room/7").await.unwrap(), None);
        let (mut topics, mut cursor) = (Vec::new(), None);
        loop {
            let (page, next) = retained.get_matching("room/+/temp", cursor, 3).await.unwrap();
            assert!(page.len() <= 3);
            topics.extend(page.into_iter().map(|message| message.topic));
            cursor = next;
            if cursor.is_none() {
                break;
            }
        }
        topics.sort();
        assert_eq!(topics, (0..10).map(|number| format!("room/{number}/temp")).collect::<Vec<_>>(), "{shards} shards");
        retained.set("room/7/temp", "").await.unwrap();
        assert_eq!(retained.get("room/7/temp").await.unwrap(), None);
        assert!(matches!(retained.set("room/+", "x").await, Err(ServerError::Topic { .. })));
        assert!(matches!(retained.get_matching("a/#/b", None, 1).await, Err(ServerError::Topic { .. })));
    }
}

#[tokio::test]
async fn clients_and_metrics_show_what_connected_clients_do() {
    let server = Server::builder().documents([("a.yaml", endpoint("a"))]).start().await.unwrap();
    let mut clients = Vec::new();
    for number in 0..5 {
        clients.push(server.client(format!("client-{number}")).connect().await.unwrap());
    }
    clients[0].0.subscribe("t", QoS::AtLeastOnce).await.unwrap();
    clients[1].0.publish("t", "payload", QoS::AtLeastOnce).await.unwrap();
    let first = server.clients(None, 3).await.unwrap();
    let rest = server.clients(first.last().map(|client| client.sequence), 3).await.unwrap();
    let names: Vec<&str> = first.iter().chain(&rest).map(|client| client.client_id.as_str()).collect();
    assert_eq!(names, ["client-0", "client-1", "client-2", "client-3", "client-4"]);
    clients[0].1.next().await.unwrap().ack();
    // Shards publish their counters a few times a second.
    let mut metrics = server.metrics().await.unwrap();
    while metrics.messages_sent_total == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        metrics = server.metrics().await.unwrap();
    }
    assert_eq!((metrics.connections, metrics.subscriptions, metrics.messages_received_total), (5, 1, 1));
    let text = server.prometheus().await.unwrap();
    assert!(text.contains("weir_endpoint_connections{endpoint=\"a\"") || text.contains("weir_build_info"), "{text}");
    let view = server.client("late");
    server.shutdown().await.unwrap();
    assert!(view.connect().await.is_err());
}

#[test]
fn topic_filters_match_as_mqtt_says() {
    assert!(topic_matches("sensor/+/temp", "sensor/1/temp") && topic_matches("#", "a/b"));
    assert!(!topic_matches("#", "$SYS/x") && !topic_matches("a/+", "a"));
}
