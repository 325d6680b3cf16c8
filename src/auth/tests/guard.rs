use super::*;

const PEOPLE: &str =
    "{chain: [{passwordFile: {file: people}}, {anonymous: {}}], rateLimit: {maxFailures: 3, windowS: 60}}";

fn from(address: &str, login: Login) -> Login {
    Login { peer: Some(SocketAddr::new(address.parse().unwrap(), 4000)), ..login }
}

#[test]
fn failed_attempts_limit_one_address_and_not_others() {
    let chain = Fixture::with(&[("people", ALICE_7)]).chain(PEOPLE);
    for _ in 0..3 {
        assert_eq!(chain.answer(&user("alice", "guess")), "BadCredentials");
    }
    let right = user("alice", "secret");
    assert_eq!(chain.answer(&right), "RateExceeded");
    assert_eq!(chain.answer(&from("192.0.2.2", right.clone())), "in as alice");
    assert_eq!(chain.answer(&from("::ffff:192.0.2.1", right.clone())), "RateExceeded");
    let later = |after_ms| Login { now: right.now + after_ms, ..right.clone() };
    assert_eq!([chain.answer(&later(59_999)), chain.answer(&later(60_000))], ["RateExceeded", "in as alice"]);
    // On a Unix socket there is no address to count by.
    assert_eq!(chain.answer(&Login { peer: None, ..right }), "in as alice");
}

#[test]
fn an_ipv6_64_counts_as_one_source() {
    let chain = Fixture::with(&[("people", ALICE_7)]).chain(PEOPLE);
    for host in 1..=3 {
        chain.answer(&from(&format!("2001:db8::{host}"), user("alice", "guess")));
    }
    assert_eq!(chain.answer(&from("2001:db8::99", user("alice", "secret"))), "RateExceeded");
    assert_eq!(chain.answer(&from("2001:db8:0:1::1", user("alice", "secret"))), "in as alice");
}

#[test]
fn failure_counters_survive_a_change_of_declaration() {
    let mut fixture = Fixture::with(&[("people", ALICE_7)]);
    let chain = fixture.chain(PEOPLE);
    for _ in 0..3 {
        chain.answer(&user("alice", "guess"));
    }
    fixture.write("people", format!("{ALICE_7}{BOB_ARGON2ID}").as_bytes());
    assert_eq!(fixture.chain(PEOPLE).answer(&user("alice", "secret")), "RateExceeded");
}

#[test]
fn bans_apply_before_and_after_authentication() {
    let mut fixture = Fixture::with(&[("people", ALICE_7)]);
    let in_before = fixture.chain(PEOPLE).log_in(&user("alice", "secret")).unwrap();
    assert!(fixture.chain(PEOPLE).still_valid(&in_before));

    fixture.ban("{entries: [{username: alice}]}");
    let chain = fixture.chain(PEOPLE);
    assert_eq!(chain.answer(&user("alice", "secret")), "Banned");
    // A client without Alice's password does not learn that she is banned.
    assert_eq!(chain.answer(&user("alice", "wrong")), "BadCredentials");
    assert!(!chain.still_valid(&in_before));

    fixture.ban("{entries: [{clientId: 'c?'}]}");
    let chain = fixture.chain(PEOPLE);
    assert_eq!(
        [chain.answer(&login()), chain.answer(&Login { client_id: "c10", ..login() })],
        ["Banned", "in as anonymous"]
    );
    assert!(!chain.still_valid(&in_before));

    fixture.ban("{entries: [{ipaddr: 192.0.2.0/24}, {clientId: 'c*', until: 2020-01-01T00:00:00Z}]}");
    let chain = fixture.chain(PEOPLE);
    assert_eq!([chain.answer(&login()), chain.answer(&from("198.51.100.1", login()))], ["Banned", "in as anonymous"]);
    assert!(!chain.still_valid(&in_before));

    fixture.bans.clear();
    assert!(fixture.chain(PEOPLE).still_valid(&in_before));
}

#[test]
fn flapping_clients_are_banned_and_failed_logins_do_not_count() {
    let mut fixture = Fixture::with(&[("people", ALICE_7)]);
    fixture.ban("{flapping: {maxConnects: 3, windowS: 10, banS: 100}}");
    let chain = fixture.chain("{chain: [{passwordFile: {file: people}}], rateLimit: {maxFailures: 100, windowS: 60}}");
    let at = |now, login: Login| Login { now, ..login };
    for _ in 0..50 {
        assert_eq!(chain.answer(&at(0, user("alice", "guess"))), "BadCredentials");
    }
    for _ in 0..3 {
        assert_eq!(chain.answer(&at(0, user("alice", "secret"))), "in as alice");
    }
    let alice = user("alice", "secret");
    assert_eq!(chain.answer(&at(9_000, alice.clone())), "Banned");
    assert_eq!(chain.answer(&at(9_000, Login { client_id: "other", ..alice.clone() })), "in as alice");
    assert_eq!(
        [chain.answer(&at(108_999, alice.clone())), chain.answer(&at(109_000, alice))],
        ["Banned", "in as alice"]
    );
}
