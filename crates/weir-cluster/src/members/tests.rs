#![allow(clippy::unwrap_used)]

use super::*;
use crate::wire::WIRE_VERSIONS;

const OWN: Incarnation = 100;

fn config() -> MembersConfig {
    MembersConfig {
        node: "own".to_owned(),
        incarnation: OWN,
        wire: WIRE_VERSIONS,
        weir_version: "0.1.0".to_owned(),
        addresses: Vec::new(),
        has_data_dir: false,
    }
}

fn members() -> Members {
    Members::new(config(), 0)
}

pub(super) fn record(node: &str, incarnation: Incarnation, sequence: u64) -> Heartbeat {
    Heartbeat {
        node: node.to_owned(),
        incarnation,
        sequence,
        wire: WIRE_VERSIONS,
        weir_version: String::new(),
        addresses: Vec::new(),
        load: Load::default(),
        leaving: false,
        gone: false,
        evacuating: false,
        uptime_ms: 0,
        slots: None,
        report: Default::default(),
    }
}

fn events(members: &mut Members) -> Vec<MemberEvent> {
    std::iter::from_fn(|| members.next_event()).collect()
}

/// A second in which the engine works: this node's heartbeat is stored, acknowledged and read, and so are `records`.
fn second(members: &mut Members, now: Millis, records: impl IntoIterator<Item = Heartbeat>) -> Vec<MemberEvent> {
    if let Some(own) = members.next_heartbeat(now) {
        members.on_heartbeat_acked(now, now);
        members.on_heartbeat(own, now);
    }
    records.into_iter().for_each(|record| members.on_heartbeat(record, now));
    members.on_read(now);
    events(members)
}

fn joined(node: &str, incarnation: Incarnation) -> MemberEvent {
    MemberEvent::Joined { node: node.to_owned(), incarnation, wire: 1 }
}

#[test]
fn this_node_is_in_for_2_s_after_an_acknowledged_append_was_sent() {
    let mut members = members();
    assert_eq!(members.next_heartbeat(0).unwrap().sequence, 1);
    assert_eq!((members.next_heartbeat(999), members.next_deadline()), (None, 1000));
    members.on_append_acked(0, 10);
    assert!(!members.is_in(10), "only a heartbeat brings it in");
    members.on_heartbeat_acked(0, 10);
    assert_eq!(events(&mut members), [MemberEvent::SelfIn]);
    members.on_append_acked(500, 510);
    assert!(members.is_in(2500) && !members.is_in(2501));
    members.poll(2501);
    assert_eq!(events(&mut members), [MemberEvent::SelfOut]);
    members.on_append_acked(2600, 2610);
    members.on_heartbeat_acked(600, 2700);
    assert!(!members.is_in(2700), "an old heartbeat proves nothing");
    assert_eq!(members.suspects(2700)[0].reason, SuspectReason::NotAcknowledged);
    members.on_heartbeat_acked(2650, 2700);
    assert!(members.is_in(2700));
    assert_eq!(events(&mut members), [MemberEvent::SelfIn]);
}

#[test]
fn a_peer_that_does_not_move_for_3_s_is_out_and_moves_back_in() {
    let mut members = members();
    members.on_caught_up();
    assert_eq!(second(&mut members, 0, [record("n", 1, 1)]), [MemberEvent::SelfIn, joined("n", 1)]);
    assert_eq!(members.placement(0), ["n", "own"]);
    assert_eq!(second(&mut members, 1000, [record("n", 1, 1)]), [], "read again");
    assert_eq!(second(&mut members, 2000, []), []);
    assert_eq!(members.suspects(2000)[0].reason, SuspectReason::Late { ms: 2000 });
    let out = MemberEvent::Out { node: "n".into(), incarnation: 1 };
    assert_eq!(second(&mut members, 3000, []), [out]);
    assert_eq!(members.placement(3000), ["own"]);
    let back = MemberEvent::BackIn { node: "n".into(), incarnation: 1 };
    assert_eq!(second(&mut members, 4000, [record("n", 1, 2)]), [back]);
}

#[test]
fn silence_is_judged_after_all_records_of_a_read() {
    let mut members = members();
    members.on_caught_up();
    second(&mut members, 0, [record("n", 1, 1)]);
    second(&mut members, 1000, []);
    second(&mut members, 2000, []);
    assert_eq!(second(&mut members, 3000, [record("n", 1, 2)]), [], "this node's own record comes first");
}

#[test]
fn time_without_reads_or_appends_takes_no_peer_out() {
    for reads_work in [false, true] {
        let mut members = members();
        members.on_caught_up();
        second(&mut members, 0, [record("n", 1, 1)]);
        second(&mut members, 1000, [record("n", 1, 2)]);
        // an election: replicas may still answer reads
        for now in (1100..9000).step_by(100) {
            members.poll(now);
            members.next_heartbeat(now);
            if reads_work {
                members.on_read(now);
                members.on_heartbeat(record("own", OWN, 2), now); // read again
            }
        }
        assert_eq!(events(&mut members), [MemberEvent::SelfOut]);
        assert_eq!(second(&mut members, 9000, []), [MemberEvent::SelfIn]);
        assert_eq!(second(&mut members, 10_000, []), []);
        assert_eq!(second(&mut members, 11_000, []), []);
        assert_eq!(second(&mut members, 12_000, []).len(), 1, "3 s after the stream works again");
    }
}

#[test]
fn records_from_before_the_start_count_when_they_move() {
    let mut members = members();
    second(&mut members, 0, [record("dead", 1, 500), record("live", 2, 7)]);
    members.on_caught_up();
    assert!(!members.is_settled());
    assert_eq!(members.placement(0), ["own"]);
    assert_eq!(second(&mut members, 1000, [record("live", 2, 8)]), [joined("live", 2)]);
    for now in [2000, 3000] {
        assert!(!members.is_settled());
        second(&mut members, now, [record("live", 2, 7 + now / 1000)]);
    }
    assert!(members.is_settled());
    assert_eq!(members.peer("dead").unwrap().state, PeerState::Out);
    assert_eq!(second(&mut members, 4000, [record("dead", 1, 501)]), [joined("dead", 1)]);
}

#[test]
fn a_restarted_peer_has_a_new_incarnation() {
    let mut members = members();
    members.on_caught_up();
    second(&mut members, 0, [record("n", 1, 50)]);
    let restarted = MemberEvent::Restarted { node: "n".into(), old: 1, incarnation: 2, wire: 1 };
    assert_eq!(second(&mut members, 1000, [record("n", 2, 1)]), [restarted]);
    // appends of the old process that were under way
    assert_eq!(second(&mut members, 1500, [record("n", 1, 51), record("n", 1, 52)]), []);
    assert_eq!(members.peer("n").unwrap().heartbeat.incarnation, 2);
}

#[test]
fn a_leaving_peer_owns_nothing_and_leaves_without_alarm() {
    let mut members = members();
    members.on_caught_up();
    second(&mut members, 0, [record("n", 1, 1), record("m", 2, 1)]);
    let leaving = Heartbeat { leaving: true, ..record("n", 1, 2) };
    let event = MemberEvent::Leaving { node: "n".into(), incarnation: 1 };
    assert_eq!(second(&mut members, 1000, [leaving.clone(), record("m", 2, 2)]), [event]);
    assert_eq!(members.peer("n").unwrap().state, PeerState::Leaving);
    assert_eq!(members.placement(1000), ["m", "own"]);
    assert_eq!(second(&mut members, 2000, [Heartbeat { sequence: 3, ..leaving }, record("m", 2, 3)]), []);
    members.on_removed("n");
    assert_eq!(events(&mut members), [MemberEvent::Left { node: "n".into(), incarnation: 1 }]);
    assert!(members.peer("n").is_none());

    let leaving = |sequence| Heartbeat { leaving: true, ..record("m", 2, sequence) };
    second(&mut members, 3000, [leaving(4)]);
    let all: Vec<MemberEvent> = [4000, 5000, 6000].into_iter().flat_map(|now| second(&mut members, now, [])).collect();
    assert_eq!(all, [MemberEvent::Left { node: "m".into(), incarnation: 2 }]);
    assert_eq!(members.suspects(6000), []);
    assert_eq!(second(&mut members, 7000, [record("m", 3, 1)]), [joined("m", 3)]);
}

#[test]
fn a_peer_that_is_gone_has_left_at_once_and_is_not_waited_for_by_a_node_that_starts() {
    let mut members = members();
    second(&mut members, 0, [Heartbeat { leaving: true, gone: true, ..record("old", 7, 9) }]);
    members.on_caught_up();
    assert!(members.is_settled());
    assert_eq!(events(&mut members), []);
    second(&mut members, 500, [record("n", 1, 1)]);
    let leaving = Heartbeat { leaving: true, ..record("n", 1, 2) };
    second(&mut members, 1000, [leaving.clone()]);
    let left = MemberEvent::Left { node: "n".into(), incarnation: 1 };
    assert_eq!(second(&mut members, 1100, [Heartbeat { sequence: 3, gone: true, ..leaving }]), [left]);
    assert_eq!(second(&mut members, 5000, []), [MemberEvent::SelfOut, MemberEvent::SelfIn], "it was out for 2 s");
    assert_eq!(
        second(&mut members, 6000, [record("old", 8, 1), record("n", 2, 1)]),
        [joined("old", 8), joined("n", 2)]
    );
}

#[test]
fn a_node_that_leaves_says_so_at_once() {
    let mut members = members();
    second(&mut members, 0, []);
    members.set_load(Load { clients: 3, sessions: 4 });
    members.set_leaving(100);
    let heartbeat = members.next_heartbeat(100).unwrap();
    assert!(heartbeat.leaving && !heartbeat.gone && heartbeat.load.clients == 3);
    members.set_gone(200);
    assert!(members.next_heartbeat(200).is_some_and(|last| last.leaving && last.gone));
    assert!(members.is_in(100) && members.placement(100).is_empty());
}

#[test]
fn a_node_that_is_evacuated_stays_in_and_is_not_among_those_that_may_own_slots() {
    let mut members = members();
    members.on_caught_up();
    second(&mut members, 0, [record("n", 1, 1)]);
    let evacuating = |sequence| Heartbeat { evacuating: true, ..record("n", 1, sequence) };
    assert_eq!(second(&mut members, 1000, [evacuating(2)]), []);
    assert_eq!(members.peer("n").unwrap().state, PeerState::Evacuating);
    assert_eq!(members.placement(1000), ["own"]);
    members.set_evacuating(true, 1100);
    assert!(members.next_heartbeat(1100).is_some_and(|heartbeat| heartbeat.evacuating && !heartbeat.leaving));
    assert!(members.is_in(1100) && members.placement(1100).is_empty());
    members.set_evacuating(false, 1200);
    assert_eq!(second(&mut members, 2200, [record("n", 1, 3)]), []);
    assert_eq!(members.placement(2200), ["n", "own"]);
    // It is not one that leaves: when it dies, it is out.
    second(&mut members, 3200, [evacuating(4)]);
    let all: Vec<MemberEvent> = (4..9).flat_map(|s| second(&mut members, s * 1000, [])).collect();
    assert_eq!(all, [MemberEvent::Out { node: "n".into(), incarnation: 1 }]);
}

#[test]
fn a_node_that_is_removed_writes_no_heartbeats_and_is_out() {
    let mut members = members();
    second(&mut members, 0, []);
    members.set_removed(["own".to_owned()]);
    assert_eq!((members.next_heartbeat(1000), members.next_deadline()), (None, 2000));
    members.poll(2001);
    assert_eq!(events(&mut members), [MemberEvent::SelfOut]);
    members.set_removed([]);
    assert_eq!(second(&mut members, 3000, []), [MemberEvent::SelfIn]);
}

#[test]
fn during_an_upgrade_links_use_the_newest_version_that_both_nodes_have() {
    for (own, peer, wire) in [((1, 3), (1, 2), 2), ((1, 2), (2, 4), 2), ((1, 1), (1, 2), 1)] {
        let versions = |(min, max)| WireVersions { min, max };
        let mut members = Members::new(MembersConfig { wire: versions(own), ..config() }, 0);
        members.on_caught_up();
        let found = second(&mut members, 0, [Heartbeat { wire: versions(peer), ..record("n", 2, 1) }]);
        let joined = MemberEvent::Joined { node: "n".to_owned(), incarnation: 2, wire };
        assert_eq!(found, [MemberEvent::SelfIn, joined], "{own:?} and {peer:?}");
    }
}

#[test]
fn peers_that_cannot_take_part_are_refused_with_a_reason() {
    let mut members = members();
    members.on_caught_up();
    let peer = WireVersions { min: 7, max: 9 };
    let newer = Heartbeat { wire: peer, ..record("new", 1, 1) };
    let reason = Refusal::WireVersions { own: WIRE_VERSIONS, peer };
    let refused = |node: &str, incarnation, reason| MemberEvent::Refused { node: node.to_owned(), incarnation, reason };
    let found = second(&mut members, 0, [newer.clone(), record("n", 2, 1)]);
    assert_eq!(found, [MemberEvent::SelfIn, refused("new", 1, reason), joined("n", 2)]);
    assert_eq!(second(&mut members, 1000, [Heartbeat { sequence: 2, ..newer }, record("n", 2, 2)]), []);
    let text = members.suspects(1000)[0].reason.to_string();
    assert_eq!(text, "refused: its wire versions are 7 to 9, this node's are 1 to 1: upgrade one version at a time");
    members.set_removed(["n".to_owned()]);
    assert_eq!(second(&mut members, 2000, [record("n", 2, 3)]), [refused("n", 2, Refusal::Removed)]);
    assert_eq!(members.placement(2000), ["own"]);
    members.set_removed([]);
    assert_eq!(second(&mut members, 3000, [record("n", 2, 4)]), [joined("n", 2)]);
    assert_eq!(second(&mut members, 4000, [record("new", 5, 1), record("n", 2, 5)]), [joined("new", 5)]);
}

#[test]
fn two_running_nodes_with_one_name_are_found_and_the_end_of_one_too() {
    for name in ["n", "own"] {
        let first = if name == "own" { OWN } else { 1 };
        let mut members = members();
        members.on_caught_up();
        second(&mut members, 0, [record("n", 1, 1)]);
        let mut all = Vec::new();
        for now in [1000, 2000, 3000, 4000] {
            // this node writes its own heartbeats
            let of_first = (name == "n").then(|| record("n", 1, 1 + now));
            all.extend(second(&mut members, now, of_first.into_iter().chain([record(name, 9, now)])));
        }
        let duplicates: Vec<&MemberEvent> =
            all.iter().filter(|event| matches!(event, MemberEvent::DuplicateName { .. })).collect();
        let [MemberEvent::DuplicateName { node, incarnations }] = duplicates[..] else { unreachable!("{all:?}") };
        assert_eq!(node, name);
        assert!(incarnations.contains(&first) && incarnations.contains(&9));
        let suspects = members.suspects(4000);
        assert!(suspects.iter().any(|suspect| matches!(suspect.reason, SuspectReason::DuplicateName(_))));
        let later: Vec<MemberEvent> = (5..11)
            .flat_map(|s| second(&mut members, s * 1000, [record("n", if name == "n" { 9 } else { 1 }, s * 1000)]))
            .collect();
        assert!(later.contains(&MemberEvent::DuplicateNameResolved { node: name.into() }), "{later:?}");
    }
}

#[test]
fn heartbeat_of_an_older_process_that_is_stored_late_does_not_replace_the_newer_one_for_long() {
    let mut members = members();
    members.on_caught_up();
    second(&mut members, 0, [record("n", 1, 1)]);
    let restarted = |old, incarnation| MemberEvent::Restarted { node: "n".into(), old, incarnation, wire: 1 };
    assert_eq!(second(&mut members, 1000, [record("n", 3, 1)]), [restarted(1, 3)]);
    assert_eq!(second(&mut members, 2000, [record("n", 2, 1)]), [restarted(3, 2)], "it died before 3 started");
    second(&mut members, 3000, [record("n", 3, 2)]);
    second(&mut members, 4000, [record("n", 3, 3)]);
    second(&mut members, 5000, [record("n", 3, 4)]);
    assert_eq!(second(&mut members, 6000, [record("n", 3, 5)]).last(), Some(&restarted(2, 3)));
}
