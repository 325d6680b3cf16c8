//! The clients of a run, and the check of retained messages at its end.

use std::collections::BTreeMap;

use super::history::History;
use super::roles::{Group, Role, WillPlan};
use super::sim_client::SimClient;
use crate::wire::Version;

/// The clients of a run; `window`: how many messages a member of a group may have unacknowledged.
pub fn client_set(window: u32) -> Vec<SimClient> {
    let publisher = |qos| Role::Publisher { qos };
    let member = |name, qos, leaves| Role::Member(Group { name, qos, window, leaves });
    let at_once = WillPlan { qos: 2, retain: false, delay_s: 0, expiry_s: u32::MAX };
    vec![
        SimClient::new("subscriber-a", Role::Subscriber, Version::V3_1_1),
        SimClient::new("subscriber-b", Role::Subscriber, Version::V5),
        SimClient::new("subscriber-c", Role::Subscriber, Version::V5),
        SimClient::new("once-a", publisher(2), Version::V3_1_1),
        SimClient::new("once-b", publisher(2), Version::V5),
        SimClient::new("least-a", publisher(1), Version::V3_1_1),
        SimClient::new("least-b", publisher(1), Version::V5),
        SimClient::new("retainer-a", Role::Retainer, Version::V3_1_1),
        SimClient::new("retainer-b", Role::Retainer, Version::V5),
        SimClient::new("resubscriber-a", Role::Resubscriber, Version::V3_1_1),
        SimClient::new("resubscriber-b", Role::Resubscriber, Version::V5),
        SimClient::new("will-client-a", Role::WillClient(at_once), Version::V3_1_1),
        SimClient::new("will-client-b", Role::WillClient(WillPlan { qos: 1, ..at_once }), Version::V5),
        SimClient::new("will-client-c", Role::WillClient(WillPlan { delay_s: 1, ..at_once }), Version::V5),
        SimClient::new(
            "will-client-d",
            Role::WillClient(WillPlan { delay_s: 10, expiry_s: 1, ..at_once }),
            Version::V5,
        ),
        SimClient::new("will-client-e", Role::WillClient(WillPlan { qos: 1, retain: true, ..at_once }), Version::V5),
        SimClient::new(
            "will-client-f",
            Role::WillClient(WillPlan { qos: 0, retain: true, ..at_once }),
            Version::V3_1_1,
        ),
        SimClient::new("member-a", member("stay", 2, false), Version::V5),
        SimClient::new("member-b", member("stay", 2, false), Version::V5),
        SimClient::new("member-c", member("stay", 2, false), Version::V5),
        SimClient::new("member-d", member("go", 1, false), Version::V5),
        SimClient::new("member-e", member("go", 1, true), Version::V5),
        SimClient::new("member-f", member("go", 1, true), Version::V5),
    ]
}

/// Whether what is retained is what the retainers got acknowledged; `found` by topic.
pub fn check_retained(clients: &[SimClient], found: &BTreeMap<String, String>, history: &mut History) {
    for client in clients.iter().filter(|client| client.role == Role::Retainer) {
        let state = &client.retained;
        if state.acknowledged != state.last {
            continue; // It did not become idle, which is a finding of its own.
        }
        let topic = format!("r/{}", client.name);
        let expected = state.last.filter(|last| !last.is_multiple_of(2)).map(|last| last.to_string());
        if found.get(&topic) != expected.as_ref() {
            history.finding(format!("{topic} holds {:?}, not {expected:?}", found.get(&topic)));
        }
    }
    for (topic, owed, newest) in clients.iter().filter_map(SimClient::retained_will) {
        let found = found.get(&topic).and_then(|number| number.parse().ok()).unwrap_or(0);
        if !(owed..=newest).contains(&found) {
            history.finding(format!("{topic} holds will {found}, not {owed} to {newest}"));
        }
    }
}
