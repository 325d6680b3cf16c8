//! Clients inside of the program.

use std::num::NonZeroU16;
use std::time::Duration;

use weirmq::client::{ClientError, Message, Messages, Publish, QoS};
use weirmq::{Server, ServerHandle};

use super::{endpoint, remote};
use crate::support::client::{Client as Remote, publish};
use crate::wire::Version;

async fn server() -> ServerHandle {
    Server::builder().documents([("a.yaml", endpoint("a"))]).start().await.unwrap()
}

/// The next message, which comes soon.
async fn next(messages: &mut Messages) -> Message {
    let next = tokio::time::timeout(Duration::from_secs(30), messages.next()).await;
    next.expect("a message in time").expect("an open connection")
}

#[tokio::test]
async fn messages_cross_between_a_client_in_the_program_and_one_outside() {
    let server = server().await;
    let address = server.address("a").unwrap();
    let (client, mut messages) = server.client("inside").connect().await.unwrap();
    assert_eq!(client.subscribe("to/inside", QoS::ExactlyOnce).await, Ok(QoS::ExactlyOnce));
    let mut outside = remote(move || {
        let mut outside = Remote::connect(address, Version::V3_1_1, "outside");
        outside.subscribe("to/outside", 0);
        outside
    })
    .await;
    for qos in [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce] {
        client.publish("to/outside", format!("{qos:?}"), qos).await.unwrap();
        let received;
        (received, outside) = remote(move || {
            let received = outside.receive();
            outside.send(&publish("to/inside", b"back", 0, None));
            (received, outside)
        })
        .await;
        assert_eq!(received, Some(publish("to/outside", format!("{qos:?}").as_bytes(), 0, None)));
        assert_eq!(next(&mut messages).await.text(), Some("back"));
        client.publish("to/inside", "self", qos).await.unwrap();
        let message = next(&mut messages).await;
        assert_eq!((message.topic(), message.text(), message.qos()), ("to/inside", Some("self"), qos));
        message.ack();
    }
    client.disconnect().await;
    assert!(messages.next().await.is_none());
    assert_eq!(messages.error(), None);
}

#[tokio::test]
async fn properties_and_the_retain_flag_arrive() {
    let server = server().await;
    let (client, mut messages) = server.client("inside").connect().await.unwrap();
    let publish = Publish::new("a/b", b"{}").qos(QoS::AtLeastOnce).retain(true).content_type("application/json");
    client.send(&publish.response_topic("r").correlation_data(b"c").user_property("k", "v")).await.unwrap();
    client.subscribe("a/#", QoS::AtMostOnce).await.unwrap();
    let message = next(&mut messages).await;
    assert!(message.retain());
    let properties = message.properties().unwrap();
    assert_eq!(properties.content_type.as_deref(), Some("application/json"));
    assert_eq!(properties.response_topic.as_deref(), Some("r"));
    assert_eq!(properties.correlation_data.as_deref(), Some(&b"c"[..]));
    assert_eq!(properties.user_properties, [("k".to_owned(), "v".to_owned())]);
}

#[tokio::test]
async fn the_access_list_of_the_endpoint_holds_unless_the_client_is_trusted() {
    let documents = "endpoint: {name: a, port: 0, enableAuth: false}\n---\n\
                     acl: {name: default, rules: [{permission: allow, topics: [\"${username}/#\"]}]}";
    let server = Server::builder().documents([("a.yaml", documents)]).start().await.unwrap();
    let (client, _messages) = server.client("inside").username("alice").connect().await.unwrap();
    assert_eq!(client.publish("alice/x", "1", QoS::AtLeastOnce).await, Ok(()));
    let Err(ClientError::Rejected(reason)) = client.publish("bob/x", "1", QoS::AtLeastOnce).await else {
        panic!("it was permitted")
    };
    assert!(reason.to_lowercase().contains("not authorized"), "{reason}");
    let refused = client.subscribe("bob/#", QoS::AtMostOnce).await;
    assert!(matches!(refused, Err(ClientError::Rejected(_))), "{refused:?}");
    let (trusted, mut messages) = server.client("trusted").trusted().connect().await.unwrap();
    trusted.subscribe("alice/#", QoS::AtMostOnce).await.unwrap();
    client.publish("alice/y", "2", QoS::AtMostOnce).await.unwrap();
    assert_eq!(next(&mut messages).await.topic(), "alice/y");
    assert_eq!(trusted.publish("bob/x", "1", QoS::AtLeastOnce).await, Ok(()));
}

#[tokio::test]
async fn a_persistent_session_keeps_unacknowledged_messages() {
    let server = server().await;
    let connect = || server.client("worker").persistent(Duration::from_secs(60)).connect();
    let (client, mut messages) = connect().await.unwrap();
    assert!(!client.session_present());
    client.subscribe("job", QoS::AtLeastOnce).await.unwrap();
    let (publisher, _) = server.client("publisher").connect().await.unwrap();
    for job in ["1", "2", "3"] {
        publisher.publish("job", job, QoS::AtLeastOnce).await.unwrap();
    }
    let (one, two) = (next(&mut messages).await, next(&mut messages).await);
    // Out of order: nothing is acknowledged before the first one is.
    two.ack();
    drop(one);
    client.disconnect().await;
    let (client, mut messages) = connect().await.unwrap();
    assert!(client.session_present());
    let mut jobs = Vec::new();
    for _ in 0..3 {
        let message = next(&mut messages).await;
        jobs.push(message.text().unwrap().to_owned());
        message.ack();
    }
    assert_eq!(jobs, ["1", "2", "3"]);
    client.disconnect().await;
}

#[tokio::test]
async fn what_the_program_does_not_acknowledge_stays_with_the_broker() {
    let server = server().await;
    let receive_maximum = NonZeroU16::new(3).unwrap();
    let (client, mut messages) = server.client("slow").receive_maximum(receive_maximum).connect().await.unwrap();
    client.subscribe("q", QoS::AtLeastOnce).await.unwrap();
    let (publisher, _) = server.client("publisher").connect().await.unwrap();
    for number in 0..20 {
        publisher.publish("q", number.to_string(), QoS::AtLeastOnce).await.unwrap();
    }
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut messages).await);
    }
    let more = tokio::time::timeout(Duration::from_millis(200), messages.next()).await;
    assert!(more.is_err(), "a fourth message came before an acknowledgement");
    held.drain(..).for_each(Message::ack);
    for number in 3..20 {
        let message = next(&mut messages).await;
        assert_eq!(message.text(), Some(&*number.to_string()));
        message.ack();
    }
}

#[tokio::test]
async fn a_reader_that_stops_holds_a_bounded_number_of_messages() {
    let server = server().await;
    let (client, mut messages) = server.client("slow").connect().await.unwrap();
    client.subscribe("flood", QoS::AtMostOnce).await.unwrap();
    let (publisher, _) = server.client("publisher").connect().await.unwrap();
    let payload = vec![b'x'; 64 << 10];
    for _ in 0..2000 {
        publisher.publish("flood", &payload, QoS::AtMostOnce).await.unwrap();
    }
    // 128 MB were sent; the broker dropped what neither the sockets nor the client took.
    publisher.publish("flood", "end", QoS::AtLeastOnce).await.unwrap();
    let mut received = 0;
    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_millis(500), messages.next()).await {
        received += 1;
    }
    assert!((1..2000).contains(&received), "{received}");
}

#[tokio::test]
async fn a_takeover_ends_the_client_with_the_reason_and_a_missing_endpoint_is_named() {
    let server = server().await;
    let (first, mut messages) = server.client("same").connect().await.unwrap();
    let (_second, _) = server.client("same").connect().await.unwrap();
    assert!(messages.next().await.is_none());
    let Some(ClientError::Disconnected(reason)) = messages.error() else { panic!("{:?}", messages.error()) };
    assert!(reason.to_lowercase().contains("taken over"), "{reason}");
    assert!(first.publish("a", "b", QoS::AtMostOnce).await.is_err());
    let error = server.client("other").endpoint("nowhere").connect().await.unwrap_err();
    assert!(error.to_string().contains("nowhere"), "{error}");
}

#[tokio::test]
async fn members_of_a_shared_group_share_the_messages_and_the_shutdown_ends_all() {
    let server = server().await;
    let mut members = Vec::new();
    for member in 0..2 {
        let (client, messages) = server.client(format!("member-{member}")).connect().await.unwrap();
        client.subscribe("$share/group/work", QoS::AtLeastOnce).await.unwrap();
        members.push((client, messages));
    }
    let (publisher, _) = server.client("publisher").connect().await.unwrap();
    for number in 0..10 {
        publisher.publish("work", number.to_string(), QoS::AtLeastOnce).await.unwrap();
    }
    let mut all = Vec::new();
    for (_, messages) in &mut members {
        while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(300), messages.next()).await {
            all.push(message.text().unwrap().parse::<u32>().unwrap());
            message.ack();
        }
    }
    all.sort_unstable();
    assert_eq!(all, (0..10).collect::<Vec<_>>());
    server.shutdown().await.unwrap();
    for (_, messages) in &mut members {
        assert!(messages.next().await.is_none());
    }
}
