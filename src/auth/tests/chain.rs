use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Attempt, AuthBackend, BackendAnswer, Decoy, Recheck};
use crate::auth::chain::Chain;

const PEOPLE: &str = "{passwordFile: {file: people}}";

fn fixture() -> Fixture {
    Fixture::with(&[("people", ALICE_7), ("others", &ALICE_6.replace("alice", "carol")), ("alices", ALICE_6)])
}

#[test]
fn the_first_authenticator_that_knows_the_client_decides_and_the_end_denies() {
    let fixture = fixture();
    let two = fixture.chain("{name: two, chain: [{passwordFile: {file: people}}, {passwordFile: {file: others}}]}");
    let then_anyone = fixture.chain("{name: any, chain: [{passwordFile: {file: people}}, {anonymous: {}}]}");
    let then_all =
        fixture.chain("{name: all, chain: [{passwordFile: {file: people}}, {anonymous: {withUsername: true}}]}");
    let empty = fixture.chain("{name: none, chain: []}");
    let cases = [
        (&two, user("alice", "secret"), "in as alice"),
        (&two, user("carol", "secret"), "in as carol"),
        (&two, user("carol", "wrong"), "BadCredentials"),
        (&two, user("dave", "secret"), "BadCredentials"),
        (&two, login(), "BadCredentials"),
        (&then_anyone, login(), "in as anonymous"),
        (&then_anyone, user("alice", "secret"), "in as alice"),
        // A wrong password is not the way to anonymous access.
        (&then_anyone, user("alice", "wrong"), "BadCredentials"),
        (&then_anyone, user("dave", "x"), "BadCredentials"),
        (&then_all, user("alice", "wrong"), "BadCredentials"),
        // A client cannot use a user name without a proof.
        (&then_all, user("dave", "x"), "in as anonymous"),
        (&empty, login(), "BadCredentials"),
        (&empty, user("alice", "secret"), "BadCredentials"),
        (&then_all, Login { method: Some("X".into()), ..login() }, "BadAuthenticationMethod"),
        (&two, Login { method: Some("X".into()), ..user("alice", "secret") }, "BadAuthenticationMethod"),
    ];
    for (index, (chain, login, expected)) in cases.into_iter().enumerate() {
        assert_eq!(chain.answer(&login), expected, "case {index}");
    }
}

#[test]
fn disabled_auth_admits_every_client_and_a_missing_document_none() {
    let compiler = AuthCompiler::default();
    let read = |_: &Path| Err("nothing to read".to_owned());
    let open = TestChain(compiler.compile(false, Err("default"), &BTreeMap::new(), &read).unwrap());
    let closed = TestChain(compiler.compile(true, Err("default"), &BTreeMap::new(), &read).unwrap());
    assert_eq!([open.answer(&user("x", "y")), closed.answer(&user("x", "y"))], ["in as x", "NoAuthDocument"]);
    let in_by_open = open.log_in(&user("alice", "any")).unwrap();
    assert!(open.still_valid(&in_by_open) && !closed.still_valid(&in_by_open));
    // From an open endpoint to any chain: no identity was proven.
    assert!(!fixture().chain("{chain: [{passwordFile: {file: people}}, {anonymous: {}}]}").still_valid(&in_by_open));
}

/// The recheck by a new chain of clients that an old one admitted.
#[test]
fn a_changed_chain_keeps_exactly_the_clients_that_it_would_have_admitted() {
    let chains = |links: &[&str]| format!("{{chain: [{}]}}", links.join(", "));
    let (others, alices) = ("{passwordFile: {file: others}}", "{passwordFile: {file: alices}}");
    let (anonymous, all) = ("{anonymous: {}}", "{anonymous: {withUsername: true}}");
    let (alice, dave, unnamed) = (user("alice", "secret"), user("dave", "x"), login());
    let cases: &[(&[&str], &Login, &[&str], bool)] = &[
        (&[PEOPLE], &alice, &[others, PEOPLE], true),
        (&[PEOPLE], &alice, &[anonymous, PEOPLE], true),
        (&[PEOPLE], &alice, &[others], false),
        (&[PEOPLE], &alice, &[anonymous], false),
        (&[PEOPLE], &alice, &[all], false),
        // Another file, which is asked first, has Alice too: whether it would accept her password is unknown.
        (&[PEOPLE], &alice, &[alices, PEOPLE], false),
        (&[anonymous], &unnamed, &[PEOPLE, anonymous], true),
        (&[anonymous], &unnamed, &[all], true),
        (&[anonymous], &unnamed, &[PEOPLE], false),
        (&[all], &dave, &[anonymous], false),
        (&[all], &dave, &[PEOPLE, all], true),
        // A client that was admitted anonymously with Alice's name would now need her password.
        (&[all], &alice, &[PEOPLE, all], false),
        (&[all], &unnamed, &[anonymous], true),
    ];
    for (index, (before, login, after, confirmed)) in cases.iter().enumerate() {
        let fixture = fixture();
        let principal = fixture.chain(&chains(before)).log_in(login).unwrap();
        assert_eq!(fixture.chain(&chains(after)).still_valid(&principal), *confirmed, "case {index}");
    }
}

#[test]
fn endpoints_with_the_same_document_share_one_chain() {
    let fixture = fixture();
    let auth: Arc<Auth> = Arc::new(document("{chain: [{passwordFile: {file: people}}]}"));
    let reads = std::cell::Cell::new(0);
    let read = |path: &Path| {
        reads.set(reads.get() + 1);
        Ok(Arc::from(fixture.files.get(path.to_str().unwrap()).unwrap().as_slice()))
    };
    let chains: Vec<_> =
        (0..3).map(|_| fixture.compiler.compile(true, Ok(&auth), &fixture.bans, &read).unwrap()).collect();
    assert_eq!((chains.len(), fixture.compiler.chains_in_force()), (3, 1));
    drop(chains);
    assert_eq!(fixture.compiler.chains_in_force(), 0);
}

/// A password file that does not know the user, and counts the decoys that are checked.
struct CountedFile {
    score: f64,
    checks: Arc<AtomicUsize>,
}

impl AuthBackend for CountedFile {
    fn authenticate(&self, _attempt: &Arc<Attempt>) -> BackendAnswer {
        BackendAnswer::Next { equalize: true }
    }

    fn still_valid(&self, _admission: &AdmittedBy<'_>, _principal: &Principal) -> Recheck {
        Recheck::Next
    }

    fn decoy(&self, _username: &str) -> Option<Decoy> {
        let checks = Arc::clone(&self.checks);
        let check = move |_: &Attempt| {
            checks.fetch_add(1, Ordering::SeqCst);
        };
        Some(Decoy { score: self.score, check: Box::new(check) })
    }
}

/// A known name costs one hash, whichever file it is in; so does an unknown one.
#[test]
fn an_unknown_name_costs_one_check_in_a_chain_of_files() {
    let files: Vec<_> = [0.5, 2.0, 1.0].map(|score| (score, Arc::<AtomicUsize>::default())).into();
    let backend = |(score, checks): &(f64, Arc<AtomicUsize>)| -> Box<dyn AuthBackend> {
        Box::new(CountedFile { score: *score, checks: Arc::clone(checks) })
    };
    let chain = TestChain(Arc::new(Chain::new(files.iter().map(backend).collect())));
    for _ in 0..3 {
        assert_eq!(chain.answer(&user("unknown", "wrong")), "BadCredentials");
    }
    let checks: Vec<usize> = files.iter().map(|(_, checks)| checks.load(Ordering::SeqCst)).collect();
    assert_eq!(checks, [0, 3, 0], "the one with the highest score, once for each attempt");
}
