use super::*;

const PEOPLE: &str =
    "{chain: [{passwordFile: {file: people}}, {anonymous: {}}], rateLimit: {maxFailures: 3, windowS: 60}}";

fn from(address: &str, login: Login) -> Login {
    Login { peer: Some(SocketAddr::new(address.parse().unwrap(), 4000)), ..login }
}

#[test]
fn failures_limit_one_user_at_one_address_and_not_others() {
    let fixture = Fixture::with(&[("people", &format!("{ALICE_7}{BOB_ARGON2ID}"))]);
    let chain = fixture.chain(PEOPLE);
    for _ in 0..3 {
        assert_eq!(chain.answer(&user("alice", "guess")), "BadCredentials");
    }
    let right = user("alice", "secret");
    assert_eq!(chain.answer(&right), "RateExceeded");
    assert_eq!(chain.answer(&Login { client_id: "another", ..right.clone() }), "RateExceeded");
    assert_eq!(chain.answer(&user("bob", "password")), "in as bob", "another device at the same address");
    assert_eq!(chain.answer(&from("192.0.2.2", right.clone())), "in as alice");
    assert_eq!(chain.answer(&from("::ffff:192.0.2.1", right.clone())), "RateExceeded");
    let later = |after_ms| Login { now: right.now + after_ms, ..right.clone() };
    assert_eq!([chain.answer(&later(59_999)), chain.answer(&later(60_000))], ["RateExceeded", "in as alice"]);
    // On a Unix socket there is no address to count by.
    assert_eq!(chain.answer(&Login { peer: None, ..right }), "in as alice");
}

#[test]
fn failures_of_many_users_limit_their_address() {
    let chain = Fixture::with(&[("people", ALICE_7)]).chain(
        "{chain: [{passwordFile: {file: people}}, {anonymous: {}}], \
         rateLimit: {maxFailures: 3, maxFailuresPerAddress: 10, windowS: 60}}",
    );
    for number in 0..10 {
        assert_eq!(chain.answer(&user(&format!("user{number}"), "guess")), "BadCredentials");
    }
    assert_eq!(chain.answer(&user("alice", "secret")), "RateExceeded");
    assert_eq!(chain.answer(&login()), "RateExceeded");
    assert_eq!(chain.answer(&from("192.0.2.2", user("alice", "secret"))), "in as alice");
    // The limit of an address is at least that of a user.
    let chain = Fixture::with(&[("people", ALICE_7)])
        .chain("{chain: [{passwordFile: {file: people}}], rateLimit: {maxFailures: 5, maxFailuresPerAddress: 1}}");
    let answers: Vec<_> = (0..6).map(|_| chain.answer(&user("alice", "guess"))).collect();
    assert_eq!((answers[4].as_str(), answers[5].as_str()), ("BadCredentials", "RateExceeded"));
}

/// A device without a user name counts by its client id.
#[test]
fn failures_without_a_user_name_limit_one_client_id() {
    let chain = Fixture::with(&[("people", ALICE_7)])
        .chain("{chain: [{passwordFile: {file: people}}], rateLimit: {maxFailures: 2, windowS: 60}}");
    let answers = [login(), login(), login(), Login { client_id: "c2", ..login() }].map(|login| chain.answer(&login));
    assert_eq!(answers, ["BadCredentials", "BadCredentials", "RateExceeded", "BadCredentials"]);
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

/// The attack: a flood of attempts that all begin before the first of them has failed.
#[test]
fn the_limit_is_checked_again_when_a_waiting_attempt_begins() {
    let chain = Fixture::with(&[("people", ALICE_7)]).chain(PEOPLE);
    let waiting: Vec<Decision> = (0..10).map(|_| chain.begin(&user("alice", "guess"))).collect();
    assert!(waiting.iter().all(|decision| matches!(decision, Decision::Blocking(_))));
    let ended: Vec<_> = waiting.into_iter().map(|decision| settle(decision).err()).collect();
    let (checked, refused) = ended.split_at(3);
    assert!(checked.iter().all(|refusal| *refusal == Some(AuthRefusal::BadCredentials)), "{ended:?}");
    assert!(refused.iter().all(|refusal| *refusal == Some(AuthRefusal::RateExceeded)), "{ended:?}");
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
