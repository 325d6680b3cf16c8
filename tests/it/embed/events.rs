//! The stream of events.

use std::time::{Duration, SystemTime};

use weirmq::client::{ClientError, QoS};
use weirmq::events::{Action, DisconnectCause, Event, EventFilter, EventKind, Events};
use weirmq::{Server, ServerHandle};

use super::endpoint;
use crate::support::client::{Client as Remote, disconnect};
use crate::wire::Version;

#[allow(dead_code)]
#[path = "../../../examples/event_bus.rs"]
mod event_bus;

async fn server(documents: &str) -> ServerHandle {
    Server::builder().documents([("a.yaml", documents)]).start().await.unwrap()
}

/// The next event, which comes soon.
async fn next(events: &mut Events) -> Event {
    let next = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
    next.expect("an event in time").expect("a running server")
}

/// The topics of the next events, each with its client.
async fn topics(events: &mut Events, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..count {
        let event = next(events).await;
        let client = event.client().map_or("-", |client| client.client_id.as_str());
        found.push(format!("{} {client}", event.kind()));
    }
    found
}

#[tokio::test]
async fn a_client_connects_subscribes_and_disconnects_with_its_reason() {
    let server = server(&endpoint("a")).await;
    let mut events = server.events(EventFilter::topics(["client/#", "session/#"]).unwrap());
    let before = SystemTime::now() - Duration::from_secs(1);
    let address = server.address("a").unwrap();
    let remote = tokio::task::spawn_blocking(move || {
        let mut remote = Remote::connect(address, Version::V5, "one");
        remote.subscribe("a/+", 1);
        remote.send(&disconnect(0x04).unwrap());
        remote
    });
    let created = next(&mut events).await;
    assert!(matches!(created, Event::SessionCreated { .. }), "{created:?}");
    let connected = next(&mut events).await;
    let Event::ClientConnected { at, client, protocol, session_present, .. } = &connected else {
        panic!("{connected:?}")
    };
    assert!((before..=SystemTime::now()).contains(at), "{at:?}");
    assert_eq!((client.client_id.as_str(), client.endpoint.as_str()), ("one", "a"));
    assert_eq!(client.address, Some("127.0.0.1".parse().unwrap()));
    assert_eq!((protocol.as_str(), *session_present), ("5.0", false));
    let subscribed = next(&mut events).await;
    let Event::SessionSubscribed { filter, qos, .. } = &subscribed else { panic!("{subscribed:?}") };
    assert_eq!((filter.as_str(), *qos), ("a/+", 1));
    let disconnected = next(&mut events).await;
    let Event::ClientDisconnected { cause, reason: Some(reason), .. } = &disconnected else {
        panic!("{disconnected:?}")
    };
    assert_eq!((*cause, reason.code), (DisconnectCause::Client, 0x04));
    assert_eq!(reason.name, "disconnect with will message");
    assert_eq!(topics(&mut events, 1).await, ["session/expired one"]);
    drop(remote.await.unwrap());
    let lost = tokio::task::spawn_blocking(move || drop(Remote::connect(address, Version::V3_1_1, "two")));
    assert_eq!(topics(&mut events, 2).await, ["session/created two", "client/connected two"]);
    let disconnected = next(&mut events).await;
    let Event::ClientDisconnected { cause, reason, .. } = &disconnected else { panic!("{disconnected:?}") };
    assert_eq!((*cause, reason), (DisconnectCause::ConnectionLost, &None));
    lost.await.unwrap();
    assert_eq!(events.missed(), 0);
}

#[tokio::test]
async fn a_session_is_resumed_taken_over_discarded_and_expires() {
    let server = server(&endpoint("a")).await;
    let mut events = server.events(EventFilter::topics(["client/disconnected", "session/#"]).unwrap());
    let connect = |expiry_s| server.client("one").persistent(Duration::from_secs(expiry_s)).connect();
    let (first, _messages) = connect(60).await.unwrap();
    first.subscribe("$share/g/a", QoS::AtLeastOnce).await.unwrap();
    first.unsubscribe("$share/g/a").await.unwrap();
    let made = ["session/created one", "session/subscribed one", "session/unsubscribed one"];
    assert_eq!(topics(&mut events, 3).await, made);
    let (_second, _messages) = connect(60).await.unwrap();
    assert_eq!(topics(&mut events, 1).await, ["session/taken-over one"]);
    let disconnected = next(&mut events).await;
    let Event::ClientDisconnected { cause, reason: Some(reason), .. } = &disconnected else {
        panic!("{disconnected:?}")
    };
    assert_eq!((*cause, reason.code, reason.name.as_str()), (DisconnectCause::Server, 0x8E, "session taken over"));
    assert_eq!(topics(&mut events, 1).await, ["session/resumed one"]);
    let (third, _messages) = server.client("one").connect().await.unwrap();
    let clean = ["session/taken-over one", "client/disconnected one", "session/discarded one", "session/created one"];
    assert_eq!(topics(&mut events, 4).await, clean);
    third.disconnect().await;
    assert_eq!(topics(&mut events, 2).await, ["client/disconnected one", "session/expired one"]);
    let (short, _messages) = connect(1).await.unwrap();
    short.disconnect().await;
    let ended = ["session/created one", "client/disconnected one", "session/expired one"];
    assert_eq!(topics(&mut events, 3).await, ended);
}

#[tokio::test]
async fn refusals_name_the_client_and_what_it_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("users.passwd");
    // The hash of no password that the test uses.
    let (salt, hash) = ("MTIzNDU2Nzg5MDEy", "eHh4".repeat(21));
    std::fs::write(&file, format!("alice:$7$101${salt}${hash}eA==\n")).unwrap();
    let documents = format!(
        "endpoint: {{name: open, port: 0, enableAuth: false}}\n---\n\
         endpoint: {{name: closed, port: 0, auth: users}}\n---\n\
         auth: {{name: users, chain: [{{passwordFile: {{file: {}}}}}]}}\n---\n\
         acl: {{name: default, rules: [{{permission: allow, topics: [mine]}}]}}",
        file.display()
    );
    let server = Server::builder().documents([("a.yaml", documents)]).allow_files(directory.path());
    let server = server.start().await.unwrap();
    let mut events = server.events(EventFilter::topics(["+/refused"]).unwrap());
    let closed = server.address("closed").unwrap();
    tokio::task::spawn_blocking(move || {
        let mut remote = Remote::open(closed, Version::V5);
        let mut connect =
            crate::support::client::clean_connect(Version::V5, "guest", crate::wire::Properties::default());
        (connect.username, connect.password) = (Some("eve".into()), Some(b"guess".to_vec()));
        remote.send(&crate::wire::Packet::Connect(connect));
        while remote.receive().is_some() {}
    })
    .await
    .unwrap();
    let refused = next(&mut events).await;
    let Event::AuthenticationRefused { client, reason, .. } = &refused else { panic!("{refused:?}") };
    assert_eq!((client.client_id.as_str(), client.username.as_deref()), ("guest", Some("eve")));
    assert_eq!((client.endpoint.as_str(), client.address), ("closed", Some("127.0.0.1".parse().unwrap())));
    assert_eq!((reason.code, reason.name.as_str()), (0x86, "bad user name or password"));
    assert!(!refused.to_json().contains("guess"), "no password is in an event");
    let (client, _messages) = server.client("one").endpoint("open").username("alice").connect().await.unwrap();
    assert!(matches!(client.publish("other", "1", QoS::AtLeastOnce).await, Err(ClientError::Rejected(_))));
    assert!(matches!(client.subscribe("other/#", QoS::AtMostOnce).await, Err(ClientError::Rejected(_))));
    for (expected, about) in [(Action::Publish, "other"), (Action::Subscribe, "other/#")] {
        let refused = next(&mut events).await;
        let Event::AuthorizationRefused { client, action, topic, .. } = &refused else { panic!("{refused:?}") };
        assert_eq!((*action, topic.as_str(), client.username.as_deref()), (expected, about, Some("alice")));
    }
}

#[tokio::test]
async fn a_dropped_message_names_its_receiver_topic_and_reason() {
    let document = "endpoint: {name: a, port: 0, enableAuth: false, enableAcl: false, maxQueuedMessages: 1}";
    let server = server(document).await;
    let mut events = server.events(EventFilter::kinds([EventKind::MessageDropped]));
    let (receiver, _messages) = server.client("receiver").persistent(Duration::from_secs(60)).connect().await.unwrap();
    receiver.subscribe("a/#", QoS::AtLeastOnce).await.unwrap();
    receiver.disconnect().await;
    let (publisher, _messages) = server.client("publisher").connect().await.unwrap();
    for topic in ["a/kept", "a/dropped"] {
        publisher.publish(topic, "secret", QoS::AtLeastOnce).await.unwrap();
    }
    let dropped = next(&mut events).await;
    let Event::MessageDropped { client, topic, reason, .. } = &dropped else { panic!("{dropped:?}") };
    assert_eq!((client.client_id.as_str(), topic.as_str(), reason.as_str()), ("receiver", "a/dropped", "queue_full"));
    assert!(!dropped.to_json().contains("secret"), "no payload is in an event");
}

#[tokio::test]
async fn a_stream_has_its_kinds_only_and_counts_what_a_slow_reader_missed() {
    let server = server(&endpoint("a")).await;
    let mut slow = server.events(EventFilter::all().max_events(2));
    let mut sessions = server.events(EventFilter::kinds([EventKind::SessionCreated]));
    for number in 0..3 {
        let (client, _messages) = server.client(format!("c{number}")).connect().await.unwrap();
        client.disconnect().await;
    }
    let created = ["session/created c0", "session/created c1", "session/created c2"];
    assert_eq!(topics(&mut sessions, 3).await, created);
    // Nothing waited for the reader that does not read.
    assert!(slow.missed() >= 3, "{}", slow.missed());
    assert_eq!(topics(&mut slow, 2).await, ["session/created c0", "client/connected c0"]);
    server.shutdown().await.unwrap();
    while slow.next().await.is_some() {}
    assert_eq!(sessions.next().await, None, "a stream ends with its server");
}

#[tokio::test]
async fn endpoints_and_passes_are_reported() {
    let server = server(&endpoint("a")).await;
    let mut events = server.events(EventFilter::topics(["endpoint/#", "reconcile/#"]).unwrap());
    server.apply([("a.yaml", endpoint("b"))]).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        let event = next(&mut events).await;
        match &event {
            Event::EndpointBound { endpoint, listens_at, .. } => {
                assert_eq!((endpoint.as_str(), *listens_at), ("b", server.address("b")));
            }
            Event::EndpointClosed { endpoint, .. } => assert_eq!(endpoint, "a"),
            Event::ReconcileCompleted { summary, .. } => assert!(summary.contains("1 to add"), "{summary}"),
            other => panic!("{other:?}"),
        }
        seen.push(event.kind().topic());
    }
    seen.sort_unstable();
    assert_eq!(seen, ["endpoint/bound", "endpoint/closed", "reconcile/completed"]);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let document = format!("endpoint: {{name: c, port: {port}, enableAuth: false, enableAcl: false}}");
    server.apply([("a.yaml", endpoint("b")), ("c.yaml", document)]).await.unwrap_err();
    loop {
        if let Event::EndpointRejected { endpoint, condition, message, .. } = next(&mut events).await {
            assert_eq!((endpoint.as_str(), condition.as_str()), ("c", "AddressInUse"));
            assert!(message.contains(&port.to_string()), "{message}");
            break;
        }
    }
}

/// A server with the document `events`, an endpoint that permits `monitor` to read events, and one without access lists.
const PUBLISHED: &str = "endpoint: {name: ruled, port: 0, enableAuth: false}\n---\n\
     endpoint: {name: open, port: 0, enableAuth: false, enableAcl: false}\n---\n\
     acl: {name: default, rules: [{permission: allow, clientId: monitor}, {permission: allow, topics: [a]}]}\n---\n\
     events: {topics: [client/connected, message/dropped], retainS: 60}";

#[tokio::test]
async fn events_are_messages_for_clients_that_an_access_list_permits() {
    let server = server(PUBLISHED).await;
    let ruled = server.address("ruled").unwrap();
    let mut monitor = tokio::task::spawn_blocking(move || {
        let mut monitor = Remote::connect(ruled, Version::V5, "monitor");
        monitor.subscribe("$events/client/+", 0);
        monitor
    })
    .await
    .unwrap();
    for (endpoint, client_id) in [("ruled", "other"), ("open", "monitor2")] {
        let (client, _messages) = server.client(client_id).endpoint(endpoint).connect().await.unwrap();
        for filter in ["$events/#", "$events/client/connected", "$share/g/$events/#"] {
            let refused = client.subscribe(filter, QoS::AtMostOnce).await;
            assert!(matches!(refused, Err(ClientError::Rejected(_))), "{endpoint} {filter}: {refused:?}");
        }
    }
    let (permitted, _messages) = server.client("monitor").endpoint("open").connect().await.unwrap();
    let forged = permitted.publish("$events/client/connected", "{}", QoS::AtLeastOnce).await;
    assert!(matches!(forged, Err(ClientError::Rejected(_))), "{forged:?}");
    let received = tokio::task::spawn_blocking(move || {
        let mut payloads = Vec::new();
        while let Some(crate::wire::Packet::Publish(publish)) = monitor.receive() {
            assert_eq!(publish.topic, "$events/client/connected");
            payloads.push(String::from_utf8(publish.payload).unwrap());
            if payloads.iter().any(|json| json.contains("monitor2")) {
                break;
            }
        }
        payloads
    })
    .await
    .unwrap();
    assert!(received.iter().any(|json| json.contains("\"clientId\":\"other\"")), "{received:?}");
    assert!(received.iter().all(|json| !json.contains("{}")), "{received:?}");
    // The newest one is retained.
    let (trusted, mut messages) = server.client("trusted").trusted().connect().await.unwrap();
    trusted.subscribe("$events/#", QoS::AtMostOnce).await.unwrap();
    let message = tokio::time::timeout(Duration::from_secs(30), messages.next()).await.unwrap().unwrap();
    assert_eq!((message.topic(), message.retain()), ("$events/client/connected", true));
    // Without the document, nothing is made.
    server.apply([("a.yaml", PUBLISHED.split("---\nevents:").next().unwrap())]).await.unwrap();
    let (_late, _messages) = server.client("late").endpoint("open").connect().await.unwrap();
    trusted.publish("end", "", QoS::AtMostOnce).await.unwrap();
    while let Ok(Some(message)) = tokio::time::timeout(Duration::from_millis(300), messages.next()).await {
        assert!(!message.text().unwrap().contains("\"late\""), "{:?}", message.text());
    }
}

/// The next events, each as kind, client and what is reported of the message.
async fn messages(events: &mut Events, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    for _ in 0..count {
        found.push(match next(events).await {
            Event::MessagePublished { client, topic, qos, retain, payload_bytes, .. } => {
                format!("published {} {topic} {qos} {retain} {payload_bytes}", client.client_id)
            }
            Event::MessageDelivered { client, topic, qos, retain, payload_bytes, .. } => {
                format!("delivered {} {topic} {qos} {retain} {payload_bytes}", client.client_id)
            }
            Event::MessageAcknowledged { client, topic, qos, reason, .. } => {
                format!("acknowledged {} {topic} {qos} {}", client.client_id, reason.name)
            }
            other => panic!("{other:?}"),
        });
    }
    found
}

#[tokio::test]
async fn messages_are_published_delivered_and_acknowledged() {
    let server = server(&endpoint("a")).await;
    let mut events = server.events(EventFilter::topics(["message/#"]).unwrap());
    let (subscriber, mut received) = server.client("subscriber").connect().await.unwrap();
    subscriber.subscribe("#", QoS::ExactlyOnce).await.unwrap();
    let (publisher, _messages) = server.client("publisher").connect().await.unwrap();
    for (qos, expected) in [
        (QoS::AtMostOnce, &["published publisher t 0 false 3", "delivered subscriber t 0 false 3"][..]),
        (
            QoS::AtLeastOnce,
            &[
                "published publisher t 1 false 3",
                "delivered subscriber t 1 false 3",
                "acknowledged subscriber t 1 success",
            ],
        ),
        (
            QoS::ExactlyOnce,
            &[
                "published publisher t 2 false 3",
                "delivered subscriber t 2 false 3",
                "acknowledged subscriber t 2 success",
            ],
        ),
    ] {
        publisher.publish("t", "abc", qos).await.unwrap();
        received.next().await.unwrap().ack();
        assert_eq!(messages(&mut events, expected.len()).await, expected);
    }
    assert_eq!(events.missed(), 0);
}

#[tokio::test]
async fn each_stream_has_the_messages_of_its_topics() {
    let server = server(&endpoint("a")).await;
    let filter = |topic: &str| EventFilter::topics(["message/published"]).unwrap().message_topics([topic]).unwrap();
    let (mut rooms, mut halls) = (server.events(filter("room/+")), server.events(filter("hall/+")));
    let (publisher, _messages) = server.client("publisher").connect().await.unwrap();
    for topic in ["other/1", "room/1", "hall/1", "room/2"] {
        publisher.publish(topic, "", QoS::AtLeastOnce).await.unwrap();
    }
    let published = |topic: &str| format!("published publisher {topic} 1 false 0");
    assert_eq!(messages(&mut rooms, 2).await, [published("room/1"), published("room/2")]);
    assert_eq!(messages(&mut halls, 1).await, [published("hall/1")]);
    let mut all = server.events(EventFilter::topics(["message/published"]).unwrap());
    drop(rooms);
    publisher.publish("other/1", "", QoS::AtLeastOnce).await.unwrap();
    publisher.publish("hall/2", "", QoS::AtLeastOnce).await.unwrap();
    assert_eq!(messages(&mut all, 2).await, [published("other/1"), published("hall/2")]);
    assert_eq!(messages(&mut halls, 1).await, [published("hall/2")]);
    let error = EventFilter::all().message_topics(["a/#/b"]).unwrap_err();
    assert!(error.to_string().contains("a/#/b"), "{error}");
}

#[tokio::test]
async fn a_will_is_published_and_events_about_events_are_not_made() {
    let documents = "events: {topics: [message/#]}\n---\n\
                     endpoint: {name: a, port: 0, enableAuth: false}\n---\n\
                     acl: {name: default, rules: [{permission: allow, topics: ['#', '$events/#']}]}";
    let server = server(documents).await;
    let mut events = server.events(EventFilter::topics(["message/#"]).unwrap());
    let (monitor, mut received) = server.client("monitor").connect().await.unwrap();
    monitor.subscribe("$events/#", QoS::AtMostOnce).await.unwrap();
    let address = server.address("a").unwrap();
    tokio::task::spawn_blocking(move || {
        let mut remote = Remote::open(address, Version::V5);
        let mut connect = crate::support::client::clean_connect(Version::V5, "one", crate::wire::Properties::default());
        let (topic, payload, properties) = ("gone".to_owned(), b"bye".to_vec(), crate::wire::Properties::new());
        connect.will = Some(crate::wire::Will { topic, payload, qos: 1, retain: true, properties });
        remote.send(&crate::wire::Packet::Connect(connect));
        remote.receive().unwrap();
    })
    .await
    .unwrap();
    assert_eq!(messages(&mut events, 1).await, ["published one gone 1 true 3"]);
    let message = received.next().await.unwrap();
    assert_eq!(message.topic(), "$events/message/published");
    let json: serde_json::Value = serde_json::from_str(message.text().unwrap()).unwrap();
    assert_eq!((&json["topic"], &json["payloadBytes"]), (&"gone".into(), &3.into()), "{json}");
    // The delivery of the event above made none.
    let (publisher, _messages) = server.client("publisher").connect().await.unwrap();
    publisher.publish("t", "", QoS::AtMostOnce).await.unwrap();
    assert_eq!(messages(&mut events, 1).await, ["published publisher t 0 false 0"]);
}

#[tokio::test]
async fn a_document_selects_the_topics_of_messages() {
    let document = |topics: &str| {
        format!(
            "events: {{topics: [message/published], messageTopics: [{topics}]}}\n---\n\
             endpoint: {{name: a, port: 0, enableAuth: false}}\n---\n\
             acl: {{name: default, rules: [{{permission: allow, topics: ['#', '$events/#']}}]}}"
        )
    };
    let server = server(&document("room/+")).await;
    let (client, mut received) = server.client("one").connect().await.unwrap();
    client.subscribe("$events/#", QoS::AtMostOnce).await.unwrap();
    for (topics, other, selected) in [("room/+", "hall/1", "room/1"), ("hall/+", "room/1", "hall/1")] {
        server.apply([("a.yaml", document(topics))]).await.unwrap();
        client.publish(other, "", QoS::AtLeastOnce).await.unwrap();
        client.publish(selected, "", QoS::AtLeastOnce).await.unwrap();
        let message = received.next().await.unwrap();
        assert!(message.text().unwrap().contains(&format!("\"topic\":\"{selected}\"")), "{:?}", message.text());
    }
    let Err(weirmq::ServerError::Invalid(errors)) = server.apply([("a.yaml", document("'a/#/b'"))]).await else {
        panic!("it was applied")
    };
    assert!(errors[0].contains("messageTopics"), "{errors:?}");
}

#[tokio::test]
async fn a_topic_that_names_no_kind_of_event_is_an_error_that_lists_them() {
    let documents = [("a.yaml", "events: {topics: [client/conected]}")];
    let Err(weirmq::ServerError::Invalid(errors)) = Server::builder().documents(documents).start().await else {
        panic!("it started")
    };
    assert!(errors[0].contains("client/connected") && errors[0].contains("message/dropped"), "{errors:?}");
}

/// The schema, and the validator of it.
fn schema() -> (serde_json::Value, jsonschema::Validator) {
    let text = include_str!("../../../schema/events.schema.json");
    let schema: serde_json::Value = serde_json::from_str(text).unwrap();
    let validator = jsonschema::options().with_draft(jsonschema::Draft::Draft7).build(&schema).unwrap();
    (schema, validator)
}

#[tokio::test]
async fn the_json_of_events_is_as_the_schema_describes_it() {
    let (schema, validator) = schema();
    let described: Vec<&str> =
        schema["oneOf"].as_array().unwrap().iter().map(|kind| kind["title"].as_str().unwrap()).collect();
    assert_eq!(described, EventKind::ALL.iter().map(|kind| kind.topic()).collect::<Vec<_>>());
    let page = include_str!("../../../docs/events.md");
    for kind in EventKind::ALL {
        assert!(page.contains(&format!("| `$events/{kind}` |")), "{kind}");
    }
    let document = "endpoint: {name: a, port: 0, enableAuth: false, maxQueuedMessages: 1}\n---\n\
                    acl: {name: default, rules: [{permission: allow, topics: [a]}]}";
    let server = server(document).await;
    let mut events = server.events(EventFilter::all());
    let connect = || server.client("one").persistent(Duration::from_secs(1)).connect();
    let (first, _messages) = connect().await.unwrap();
    first.subscribe("a", QoS::AtLeastOnce).await.unwrap();
    assert!(first.publish("b", "", QoS::AtLeastOnce).await.is_err());
    let (second, _messages) = connect().await.unwrap();
    second.disconnect().await;
    let (publisher, _messages) = server.client("publisher").connect().await.unwrap();
    for _ in 0..2 {
        publisher.publish("a", "", QoS::AtLeastOnce).await.unwrap();
    }
    let (third, _messages) = connect().await.unwrap();
    third.unsubscribe("a").await.unwrap();
    let (fourth, _messages) = server.client("one").connect().await.unwrap();
    fourth.disconnect().await;
    server.apply([("a.yaml", endpoint("b"))]).await.unwrap();
    server.apply([("a.yaml", format!("{}\n---\n{}", endpoint("b"), "endpoint: {name: c, port: 0}"))]).await.unwrap();
    server.shutdown().await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    while let Some(event) = events.next().await {
        let json: serde_json::Value = serde_json::from_str(&event.to_json()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&json).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{json}: {errors:?}");
        assert_eq!(json["event"], event.kind().topic());
        seen.insert(event.kind());
    }
    assert!(seen.len() >= 12, "{seen:?}");
}

#[tokio::test]
async fn the_example_of_an_event_bus_runs() {
    let lines = event_bus::run().await.unwrap();
    assert_eq!(
        lines[..3],
        ["received sensor/room1/temp 25.5", "sensor-1 connected", "sensor-1 disconnected: normal disconnection"]
    );
    assert!(lines[3].starts_with("$events/client/connected {\"event\":\"client/connected\","), "{lines:?}");
    if let Some(line) = lines.get(4) {
        assert!(line.contains("\"event\":\"client/disconnected\""), "{line}");
    }
}
