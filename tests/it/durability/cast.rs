//! Who is there in a run, and what is judged at its end.

use std::collections::BTreeMap;

use super::actor::{Actor, Group, Role, Testament};
use super::history::History;
use crate::wire::Version;

/// The clients of a run; `window`: how many messages a member of a group may have unacknowledged.
pub fn cast(window: u32) -> Vec<Actor> {
    let publisher = |qos| Role::Publisher { qos };
    let member = |name, qos, leaves| Role::Member(Group { name, qos, window, leaves });
    let at_once = Testament { qos: 2, retain: false, delay_s: 0, expiry_s: u32::MAX };
    vec![
        Actor::new("subscriber-a", Role::Subscriber, Version::V3_1_1),
        Actor::new("subscriber-b", Role::Subscriber, Version::V5),
        Actor::new("subscriber-c", Role::Subscriber, Version::V5),
        Actor::new("once-a", publisher(2), Version::V3_1_1),
        Actor::new("once-b", publisher(2), Version::V5),
        Actor::new("least-a", publisher(1), Version::V3_1_1),
        Actor::new("least-b", publisher(1), Version::V5),
        Actor::new("retainer-a", Role::Retainer, Version::V3_1_1),
        Actor::new("retainer-b", Role::Retainer, Version::V5),
        Actor::new("changer-a", Role::Changer, Version::V3_1_1),
        Actor::new("changer-b", Role::Changer, Version::V5),
        Actor::new("testator-a", Role::Testator(at_once), Version::V3_1_1),
        Actor::new("testator-b", Role::Testator(Testament { qos: 1, ..at_once }), Version::V5),
        Actor::new("testator-c", Role::Testator(Testament { delay_s: 1, ..at_once }), Version::V5),
        Actor::new("testator-d", Role::Testator(Testament { delay_s: 10, expiry_s: 1, ..at_once }), Version::V5),
        Actor::new("testator-e", Role::Testator(Testament { qos: 1, retain: true, ..at_once }), Version::V5),
        Actor::new("testator-f", Role::Testator(Testament { qos: 0, retain: true, ..at_once }), Version::V3_1_1),
        Actor::new("member-a", member("stay", 2, false), Version::V5),
        Actor::new("member-b", member("stay", 2, false), Version::V5),
        Actor::new("member-c", member("stay", 2, false), Version::V5),
        Actor::new("member-d", member("go", 1, false), Version::V5),
        Actor::new("member-e", member("go", 1, true), Version::V5),
        Actor::new("member-f", member("go", 1, true), Version::V5),
    ]
}

/// Whether what is retained is what the retainers were told; `found` by topic.
pub fn judge_retained(actors: &[Actor], found: &BTreeMap<String, String>, history: &mut History) {
    for actor in actors.iter().filter(|actor| actor.role == Role::Retainer) {
        let state = &actor.retained;
        if state.acknowledged != state.last {
            continue; // It did not come to rest, which is a finding of its own.
        }
        let topic = format!("r/{}", actor.name);
        let expected = state.last.filter(|last| !last.is_multiple_of(2)).map(|last| last.to_string());
        if found.get(&topic) != expected.as_ref() {
            history.finding(format!("{topic} holds {:?}, not {expected:?}", found.get(&topic)));
        }
    }
    for (topic, owed, lives) in actors.iter().filter_map(Actor::retained_will) {
        let life = found.get(&topic).and_then(|life| life.parse().ok()).unwrap_or(0);
        if !(owed..=lives).contains(&life) {
            history.finding(format!("{topic} holds the will of life {life}, not of {owed} to {lives}"));
        }
    }
}
