use super::*;

const PEOPLE: &str =
    "{chain: [{passwordFile: {file: people}}, {anonymous: {}}], rateLimit: {maxFailures: 3, windowS: 60}}";

fn from(address: &str, knock: Knock) -> Knock {
    Knock { peer: Some(SocketAddr::new(address.parse().unwrap(), 4000)), ..knock }
}

#[test]
fn an_address_that_guesses_is_not_heard_for_a_while_and_others_are() {
    let door = House::with(&[("people", ALICE_7)]).door(PEOPLE);
    for _ in 0..3 {
        assert_eq!(door.answer(&user("alice", "guess")), "BadCredentials");
    }
    let right = user("alice", "secret");
    assert_eq!(door.answer(&right), "RateExceeded");
    assert_eq!(door.answer(&from("192.0.2.2", right.clone())), "in as alice");
    assert_eq!(door.answer(&from("::ffff:192.0.2.1", right.clone())), "RateExceeded");
    let later = |after_ms| Knock { now: right.now + after_ms, ..right.clone() };
    assert_eq!([door.answer(&later(59_999)), door.answer(&later(60_000))], ["RateExceeded", "in as alice"]);
    // On a Unix socket there is no address to count by.
    assert_eq!(door.answer(&Knock { peer: None, ..right }), "in as alice");
}

#[test]
fn an_ipv6_network_counts_as_one() {
    let door = House::with(&[("people", ALICE_7)]).door(PEOPLE);
    for host in 1..=3 {
        door.answer(&from(&format!("2001:db8::{host}"), user("alice", "guess")));
    }
    assert_eq!(door.answer(&from("2001:db8::99", user("alice", "secret"))), "RateExceeded");
    assert_eq!(door.answer(&from("2001:db8:0:1::1", user("alice", "secret"))), "in as alice");
}

#[test]
fn failures_are_remembered_through_a_change_of_declaration() {
    let mut house = House::with(&[("people", ALICE_7)]);
    let door = house.door(PEOPLE);
    for _ in 0..3 {
        door.answer(&user("alice", "guess"));
    }
    house.write("people", format!("{ALICE_7}{BOB_ARGON2ID}").as_bytes());
    assert_eq!(house.door(PEOPLE).answer(&user("alice", "secret")), "RateExceeded");
}

#[test]
fn bans_hold_before_and_after_authentication() {
    let mut house = House::with(&[("people", ALICE_7)]);
    let in_before = house.door(PEOPLE).try_knock(&user("alice", "secret")).unwrap();
    assert!(house.door(PEOPLE).confirms(&in_before));

    house.ban("{entries: [{username: alice}]}");
    let door = house.door(PEOPLE);
    assert_eq!(door.answer(&user("alice", "secret")), "Banned");
    // Who cannot prove to be Alice does not learn that she is banned.
    assert_eq!(door.answer(&user("alice", "wrong")), "BadCredentials");
    assert!(!door.confirms(&in_before));

    house.ban("{entries: [{clientId: 'c?'}]}");
    let door = house.door(PEOPLE);
    assert_eq!(
        [door.answer(&knock()), door.answer(&Knock { client_id: "c10", ..knock() })],
        ["Banned", "in as nobody"]
    );
    assert!(!door.confirms(&in_before));

    house.ban("{entries: [{ipaddr: 192.0.2.0/24}, {clientId: 'c*', until: 2020-01-01T00:00:00Z}]}");
    let door = house.door(PEOPLE);
    assert_eq!([door.answer(&knock()), door.answer(&from("198.51.100.1", knock()))], ["Banned", "in as nobody"]);
    assert!(!door.confirms(&in_before));

    house.bans.clear();
    assert!(house.door(PEOPLE).confirms(&in_before));
}

#[test]
fn who_flaps_is_kept_out_and_nobody_can_have_another_kept_out() {
    let mut house = House::with(&[("people", ALICE_7)]);
    house.ban("{flapping: {maxConnects: 3, windowS: 10, banS: 100}}");
    let door = house.door("{chain: [{passwordFile: {file: people}}], rateLimit: {maxFailures: 100, windowS: 60}}");
    let at = |now, knock: Knock| Knock { now, ..knock };
    for _ in 0..50 {
        assert_eq!(door.answer(&at(0, user("alice", "guess"))), "BadCredentials");
    }
    for _ in 0..3 {
        assert_eq!(door.answer(&at(0, user("alice", "secret"))), "in as alice");
    }
    let alice = user("alice", "secret");
    assert_eq!(door.answer(&at(9_000, alice.clone())), "Banned");
    assert_eq!(door.answer(&at(9_000, Knock { client_id: "other", ..alice.clone() })), "in as alice");
    assert_eq!([door.answer(&at(108_999, alice.clone())), door.answer(&at(109_000, alice))], ["Banned", "in as alice"]);
}
