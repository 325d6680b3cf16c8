//! Topic trees and retained messages against a model, without packets around them.

use proptest::prelude::*;

use crate::hash::HashSeed;
use crate::ids::{RecordId, SessionId};
use crate::routing::retained::Retained;
use crate::routing::state::Routing;
use crate::routing::subscribers::Subscriber;
use crate::values::message::Message;
use crate::values::retained::ReadPosition;
use weir_mqtt::{Publish, PublishProperties, QoS, SubscriptionOptions, matches};

fn subscriber(session: u32, identifier: u32) -> Subscriber {
    Subscriber {
        session: SessionId(session),
        position: 0,
        identifier,
        options: SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() },
    }
}

fn level() -> impl Strategy<Value = String> {
    prop_oneof![Just("a"), Just("b"), Just("c"), Just(""), Just("$x")].prop_map(String::from)
}

fn topic() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/")).prop_filter("no name", |t| !t.is_empty())
}

fn filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 2 => Just("+".to_owned())];
    (prop::collection::vec(level, 0..4), any::<bool>())
        .prop_map(|(mut levels, hash)| {
            if hash || levels.is_empty() {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
        .prop_filter("no filter", |f| !f.is_empty())
}

fn message(topic: &str, payload: &[u8], expires_at: u64) -> Message {
    let publish = Publish {
        dup: false,
        qos: QoS::AtMostOnce,
        retain: true,
        topic,
        packet_id: None,
        properties: PublishProperties::default(),
        payload,
    };
    Message::new(topic, &publish, expires_at)
}

proptest! {
    /// Subscriptions come and go; after each step every topic finds exactly those whose filter matches it, cached or not.
    #[test]
    fn matching_agrees_with_the_filters_one_by_one(
        steps in prop::collection::vec((filter(), 0u32..50, any::<bool>()), 1..60),
        topics in prop::collection::vec(topic(), 1..8),
    ) {
        let mut routing = Routing::new(1, HashSeed::new(0));
        let namespace = routing.namespace("");
        let mut model: Vec<(String, u32)> = Vec::new();
        for (filter, session, add) in steps {
            let tree = routing.subscriptions_mut(namespace);
            if add {
                let added = tree.add(&filter, subscriber(session, session + 1));
                prop_assert_eq!(added.first, !model.iter().any(|(f, _)| *f == filter));
                if added.replaced.is_none() {
                    model.push((filter, session));
                }
            } else {
                let node = tree.find(&filter, SessionId(session));
                let index = model.iter().position(|(f, s)| *f == filter && *s == session);
                prop_assert_eq!(node.is_some(), index.is_some());
                if let (Some(node), Some(index)) = (node, index) {
                    model.swap_remove(index);
                    let removed = tree.remove(node, SessionId(session)).expect("it was found");
                    prop_assert_eq!(removed.gone, !model.iter().any(|(f, _)| *f == filter));
                }
            }
            for topic in &topics {
                let found = routing.matches(namespace, topic);
                let mut sessions: Vec<u32> = found.subscribers.iter().map(|m| m.session.0).collect();
                sessions.sort_unstable();
                let mut expected: Vec<u32> = model.iter().filter(|(f, _)| matches(f, topic)).map(|(_, s)| *s).collect();
                let copies = |session: u32| expected.iter().filter(|&&s| s == session).count();
                for matched in &found.subscribers {
                    let (first, more) = found.identifiers(matched);
                    prop_assert_eq!(usize::from(first.is_some()) + more.len(), copies(matched.session.0));
                }
                expected.sort_unstable();
                expected.dedup();
                prop_assert_eq!(sessions, expected);
            }
        }
        let tree = routing.subscriptions_mut(namespace);
        for (filter, session) in model {
            let node = tree.find(&filter, SessionId(session)).expect("it is in the model");
            tree.remove(node, SessionId(session));
        }
        prop_assert_eq!(tree.nodes(), 0, "nodes without interest are pruned");
    }

    /// A filter finds the retained messages whose topics it matches, and no others.
    #[test]
    fn retained_agrees_with_the_topics_one_by_one(
        steps in prop::collection::vec((topic(), any::<bool>(), 1u64..10), 1..40),
        filters in prop::collection::vec(filter(), 1..8),
        now in 0u64..10,
    ) {
        let mut retained = Retained::default();
        let mut model = std::collections::BTreeMap::new();
        for (topic, keep, expires_at) in steps {
            let payload: &[u8] = if keep { b"x" } else { b"" };
            retained.set(&message(&topic, payload, expires_at), RecordId::NONE);
            if keep { model.insert(topic, expires_at); } else { model.remove(&topic); }
        }
        for expire in [false, true] {
            if expire {
                retained.expire(now, |_, _| {});
                model.retain(|_, at| *at > now);
                prop_assert_eq!(retained.count(), model.len());
            }
            for filter in &filters {
                let mut found = Vec::new();
                let mut from = ReadPosition::default();
                // One topic looked at, and one found, at a time.
                while let Some(next) = retained.read((filter, &from), u64::MAX, now, &mut { 1 }, |m| {
                    found.push(m.topic().to_owned());
                    false
                }) {
                    prop_assert!(next.as_str() > from.as_str() || from == ReadPosition::default(), "it goes on");
                    from = next;
                }
                let expected: Vec<_> =
                    model.iter().filter(|(t, at)| **at > now && matches(filter, t)).map(|(t, _)| t.clone()).collect();
                prop_assert_eq!(found, expected, "{}", filter);
            }
        }
    }
}

/// A popular filter: joining and leaving cost no search, and the others stay subscribed.
#[test]
fn many_subscribers_of_one_filter_leave_in_any_order() {
    let mut routing = Routing::new(1, HashSeed::new(0));
    let namespace = routing.namespace("");
    let tree = routing.subscriptions_mut(namespace);
    for session in 0..1000 {
        tree.add("t", subscriber(session, 0));
    }
    for session in (0..1000).step_by(3).chain((0..1000).filter(|s| s % 3 != 0)) {
        let node = tree.find("t", SessionId(session)).expect("subscribed");
        assert!(tree.remove(node, SessionId(session)).is_some());
        assert!(tree.find("t", SessionId(session)).is_none());
    }
    assert_eq!(tree.nodes(), 0);
    assert!(routing.matches(namespace, "t").subscribers.is_empty());
}
