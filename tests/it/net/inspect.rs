//! Queries of the data plane: gauges, backlogs, retained messages, traces.

use std::collections::BTreeSet;

use weir_broker::{EndpointId, EndpointPolicy};
use weir_mqtt::ProtocolVersion;
use weirmq::auth::DenyAll;
use weirmq::net::{ListenerPolicy, RetainedCursor, RetainedFilter, TraceFilter, Traced};

use super::client::{Client, connect_with, packet, string};
use super::plane::{Plane, endpoint, policy};
use crate::support::stream;
use crate::support::until;

/// Retained, QoS 1.
fn retain(client: &mut Client, topic: &str, payload: &[u8]) {
    client.send(&packet(0x33, &[&string(topic)[..], &[0, 9], payload].concat()));
    assert_eq!(client.receive().map(|(first, _)| first), Some(0x40));
}

#[test]
fn retained_messages_are_listed_page_by_page() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let shared = plane.listen_tcp(policy(1));
        let tenant = EndpointPolicy { namespace: "eu".into(), ..endpoint(2) };
        let tenant = plane.listen_tcp(ListenerPolicy { endpoint: tenant.into(), ..policy(2) });
        let mut client = Client::enter(stream::tcp(shared), 4, "a");
        let topics: BTreeSet<String> = (0..50).map(|n| format!("sensor/{n}/temp")).collect();
        topics.iter().for_each(|topic| retain(&mut client, topic, b"25.5"));
        retain(&mut client, "other", b"1");
        retain(&mut Client::enter(stream::tcp(tenant), 4, "b"), "sensor/0/temp", b"7");

        let (mut cursor, mut found) = (RetainedCursor::default(), Vec::new());
        let filter = RetainedFilter { namespace: Some(String::new()), filter: Some("sensor/+/temp".to_owned()) };
        loop {
            let (page, next) = plane.wait(plane.plane.retained(filter.clone(), cursor, 7)).unwrap();
            assert!(page.len() <= 7);
            assert!(page.iter().all(|each| each.payload_bytes == 4 && each.expires_in_ms.is_none()));
            found.extend(page.into_iter().map(|each| each.topic));
            match next {
                Some(next) => cursor = next,
                None => break,
            }
        }
        assert_eq!((found.len(), found.into_iter().collect::<BTreeSet<_>>()), (50, topics));
        let all = plane.plane.retained(RetainedFilter::default(), RetainedCursor::default(), 1000);
        assert_eq!(plane.wait(all).unwrap().0.len(), 52);
    }
}

#[test]
fn gauges_are_reported_by_endpoint_and_backlogs_largest_first() {
    let plane = Plane::start(2);
    let address = plane.listen_tcp(policy(1));
    // Two sessions that outlive their connections.
    for (id, filter) in [("away", "t/#"), ("less", "t/0")] {
        let mut client = Client::new(stream::tcp(address), 5);
        // Session Expiry Interval
        client.send(&connect_with(5, id, &[0x11, 0, 0, 0x0E, 0x10], None));
        assert_eq!(client.receive().map(|(_, body)| body[1]), Some(0));
        client.subscribe(filter, 1);
    }
    plane.until(1, "they leave", |stats| stats.connections_current == 0);
    let mut publisher = Client::enter(stream::tcp(address), 4, "publisher");
    (0..10).for_each(|n| publisher.publish(&format!("t/{n}"), b"payload", 1));

    // What another shard is to queue may come there after the publisher's acknowledgement.
    let gauges = || plane.wait(plane.plane.gauges()).unwrap();
    until("the messages are queued", || format!("{:?}", gauges()), || gauges().queued >= 11);
    let worst = plane.wait(plane.plane.backlogs(10)).unwrap();
    let told: Vec<_> = worst.iter().map(|each| (each.client_id.as_str(), each.queued, each.connected)).collect();
    assert_eq!(told, [("away", 10, false), ("less", 1, false)]);
    assert_eq!(plane.wait(plane.plane.backlogs(1)).unwrap().len(), 1);
    let gauges = plane.wait(plane.plane.gauges()).unwrap();
    let held = gauges.endpoints[&EndpointId(1)];
    assert_eq!((held.sessions, held.offline, held.subscriptions, held.queued), (3, 2, 2, 11));
    assert_eq!((gauges.sessions, gauges.subscriptions, gauges.queued), (3, 2, 11));
    plane.wait(plane.plane.ping_shards()).unwrap();
}

#[test]
fn acl_refusals_are_counted() {
    let plane = Plane::start(1);
    let closed = EndpointPolicy { acl: Some(std::sync::Arc::new(DenyAll)), ..endpoint(1) };
    let address = plane.listen_tcp(ListenerPolicy { endpoint: closed.into(), ..policy(1) });
    let mut client = Client::enter(stream::tcp(address), 4, "a");
    client.publish("a", b"1", 1);
    client.send(&packet(0x82, &[&[0, 1][..], &string("a"), &[0]].concat()));
    assert_eq!(client.receive(), Some((0x90, vec![0, 1, 0x80])));
    plane.until(1, "both are counted", |stats| stats.broker.authorization_failures == 2);
}

#[test]
fn a_trace_has_whole_packets_of_one_client_only() {
    for shards in [1, 3] {
        let plane = Plane::start(shards);
        let address = plane.listen_tcp(policy(1));
        let mut early = Client::enter(stream::tcp(address), 4, "early");
        let mut other = Client::enter(stream::tcp(address), 4, "other");
        let trace = |id: &str| TraceFilter { client_id: id.to_owned(), endpoint: Some(EndpointId(1)) };
        let mut steps = plane.wait(plane.plane.trace(trace("early"))).unwrap();
        let mut later = plane.wait(plane.plane.trace(trace("late"))).unwrap();
        early.subscribe("t", 0);
        other.publish("t", b"25.5", 0);
        other.publish("elsewhere", b"1", 0);
        assert_eq!(early.message(), ("t".to_owned(), b"25.5".to_vec()));
        drop(early);

        let mut next = || plane.wait(steps.next()).expect("a step").what;
        assert!(matches!(next(), Traced::Connected { version: ProtocolVersion::V3_1_1, .. }));
        let subscribe = packet(0x82, &[&[0, 1][..], &string("t"), &[0]].concat());
        assert_eq!(next(), Traced::Received { version: ProtocolVersion::V3_1_1, bytes: subscribe });
        assert_eq!(next(), Traced::Sent { version: ProtocolVersion::V3_1_1, bytes: vec![0x90, 3, 0, 1, 0] });
        let publish = packet(0x30, &[&string("t")[..], b"25.5"].concat());
        assert_eq!(next(), Traced::Sent { version: ProtocolVersion::V3_1_1, bytes: publish });
        assert_eq!(next(), Traced::Ended);

        let late = Client::enter(stream::tcp(address), 5, "late");
        let mut next = || plane.wait(later.next()).expect("a step").what;
        assert!(matches!(next(), Traced::Connected { version: ProtocolVersion::V5, .. }));
        assert!(matches!(next(), Traced::Sent { bytes, .. } if bytes[0] == 0x20));
        drop(late);
        assert_eq!(next(), Traced::Ended);
    }
}
