use std::num::NonZeroU32;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::{digest, hmac, pbkdf2};

use super::*;

/// A client's side, written apart from the server's.
fn proof(password: &str, salt: &[u8], iterations: u32, auth_message: &str) -> String {
    let mut salted = [0; 32];
    let iterations = NonZeroU32::new(iterations).unwrap();
    pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, password.as_bytes(), &mut salted);
    let mac = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text);
    let client_key = mac(&salted, b"Client Key");
    let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
    let signature = mac(stored_key.as_ref(), auth_message.as_bytes());
    let xor: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
    STANDARD.encode(xor)
}

fn first(username: &str) -> Login {
    let data = format!("n,,n={username},r=clientnonce");
    Login { method: Some("SCRAM-SHA-256".into()), data: Some(data.into_bytes()), ..login() }
}

/// The challenge, and what goes on with it.
fn challenge(decision: Decision) -> (String, Box<dyn AuthExchange>) {
    match decision {
        Decision::Continue { data, exchange } => (String::from_utf8(data).unwrap(), exchange),
        _ => panic!("no challenge"),
    }
}

fn salt_and_iterations(challenge: &str) -> (Vec<u8>, u32) {
    let field = |name: &str| challenge.split(',').find_map(|field| field.strip_prefix(name)).unwrap().to_owned();
    (STANDARD.decode(field("s=")).unwrap(), field("i=").parse().unwrap())
}

fn authenticate(chain: &TestChain, username: &str, password: &str) -> Decision {
    let (asked, exchange) = challenge(chain.begin(&first(username)));
    let (salt, iterations) = salt_and_iterations(&asked);
    let nonce = asked.split(',').next().unwrap();
    let without_proof = format!("c=biws,{nonce}");
    let message = format!("n={username},r=clientnonce,{asked},{without_proof}");
    let proof = proof(password, &salt, iterations, &message);
    exchange.step(format!("{without_proof},p={proof}").as_bytes())
}

fn fixture() -> Fixture {
    Fixture::with(&[("keys", &format!("alice:{}\n", ScramRecord::create(b"secret").unwrap()))])
}

const SCRAM: &str = "{chain: [{scram: {file: keys}}, {anonymous: {withUsername: true}}]}";

#[test]
fn a_valid_proof_is_admitted_with_the_server_signature() {
    let chain = fixture().chain(SCRAM);
    let Decision::AdmitWith { principal, data: Some(data), .. } = authenticate(&chain, "alice", "secret") else {
        panic!("refused")
    };
    assert_eq!(principal.username.as_deref(), Some("alice"));
    assert!(data.starts_with(b"v="));
    assert!(chain.still_valid(&principal));
    // A new record, though of the same password, and a record taken out.
    assert!(!fixture().chain(SCRAM).still_valid(&principal));
    let others = Fixture::with(&[("keys", &format!("bob:{}\n", ScramRecord::create(b"x").unwrap()))]);
    assert!(!others.chain(SCRAM).still_valid(&principal));
}

#[test]
fn an_invalid_proof_is_refused_and_ends_the_chain() {
    let chain = fixture().chain(SCRAM);
    for (username, password) in [("alice", "Secret"), ("alice", ""), ("bob", "secret")] {
        assert_eq!(
            settle(authenticate(&chain, username, password)).err(),
            Some(AuthRefusal::BadCredentials),
            "{username}"
        );
    }
    let garbage = Login { data: Some(b"x".to_vec()), ..first("alice") };
    assert_eq!(chain.answer(&garbage), "BadCredentials");
    let other_method = Login { method: Some("SCRAM-SHA-1".into()), ..first("alice") };
    assert_eq!(chain.answer(&other_method), "BadAuthenticationMethod");
    assert_eq!(chain.answer(&login()), "in as anonymous");
}

#[test]
fn an_unknown_user_gets_a_stable_challenge_like_a_known_one() {
    let chain = fixture().chain(SCRAM);
    let ask = |username: &str| salt_and_iterations(&challenge(chain.begin(&first(username))).0);
    let (alice, bob) = (ask("alice"), ask("bob"));
    assert_eq!((alice.0.len(), alice.1), (bob.0.len(), bob.1));
    assert_eq!(bob, ask("bob"));
    assert_ne!(bob.0, ask("carol").0);
}

/// A file of several costs: those of unknown names are the file's, too, and a new user changes none of them.
#[test]
fn unknown_users_get_costs_and_salt_lengths_of_the_file() {
    let keys = STANDARD.encode([7; 32]);
    let line = |user: &str, iterations: u32, salt_bytes: usize| {
        format!("{user}:SCRAM-SHA-256${iterations}:{}${keys}:{keys}\n", STANDARD.encode(vec![1; salt_bytes]))
    };
    let mut file: String = (0..9).map(|n| line(&format!("old{n}"), 4096, 48)).collect();
    file.extend((0..3).map(|n| line(&format!("new{n}"), 15_000, 16)));
    let chain = Fixture::with(&[("keys", &file)]).chain(SCRAM);
    let ask = |chain: &TestChain, username: &str| salt_and_iterations(&challenge(chain.begin(&first(username))).0);
    let names: Vec<String> = (0..200).map(|n| format!("unknown{n}")).collect();
    let found: Vec<_> = names.iter().map(|name| ask(&chain, name)).collect();
    let costs: Vec<(usize, u32)> = found.iter().map(|(salt, iterations)| (salt.len(), *iterations)).collect();
    assert!(costs.iter().all(|cost| matches!(cost, (48, 4096) | (16, 15_000))), "{costs:?}");
    let old = costs.iter().filter(|cost| **cost == (48, 4096)).count();
    assert!((120..180).contains(&old), "{old} of 200, expected 150");
    assert_eq!(found, names.iter().map(|name| ask(&chain, name)).collect::<Vec<_>>());
    let more = Fixture::with(&[("keys", &(file + &line("one", 4096, 48)))]).chain(SCRAM);
    let changed = names.iter().zip(&found).filter(|(name, found)| ask(&more, name) != **found).count();
    assert!(changed < 20, "{changed} of 200 changed with one more user");
}

#[test]
fn a_connect_without_data_gets_an_empty_auth() {
    let chain = fixture().chain(SCRAM);
    let (asked, exchange) = challenge(chain.begin(&Login { data: None, ..first("alice") }));
    assert_eq!(asked, "");
    let (asked, _) = challenge(exchange.step(b"n,,n=alice,r=clientnonce"));
    assert!(asked.starts_with("r=clientnonce"));
}

/// The client prepares the typed password.
#[test]
fn names_and_passwords_are_compared_after_saslprep() {
    let stored = ScramRecord::create("p\u{2168} \u{A0}jose\u{301}".as_bytes()).unwrap();
    let fixture = Fixture::with(&[("keys", &format!("jose\u{301}:{stored}\n"))]);
    let chain = fixture.chain(SCRAM);
    for typed in ["jose\u{301}", "jos\u{E9}", "j\u{AD}os\u{E9}"] {
        let Decision::AdmitWith { principal, .. } = authenticate(&chain, typed, "pIX  jos\u{E9}") else {
            panic!("{typed:?} is refused")
        };
        assert_eq!(principal.username.as_deref(), Some("jos\u{E9}"));
        assert!(chain.still_valid(&principal));
    }
    assert_eq!(settle(authenticate(&chain, "jos\u{E9}", "pix  jos\u{E9}")).err(), Some(AuthRefusal::BadCredentials));
    assert_eq!(settle(chain.begin(&first("jos\u{E9}\u{7}"))).err(), Some(AuthRefusal::BadCredentials));
}

#[test]
fn failed_exchanges_count_as_failed_attempts() {
    let chain = fixture().chain("{chain: [{scram: {file: keys}}], rateLimit: {maxFailures: 2, windowS: 60}}");
    for _ in 0..2 {
        assert!(settle(authenticate(&chain, "alice", "guess")).is_err());
    }
    assert_eq!(chain.answer(&first("alice")), "RateExceeded");
}

#[test]
fn a_scram_file_with_a_bad_line_is_refused() {
    let good = ScramRecord::create(b"secret").unwrap().to_string();
    let cases = [
        (String::new(), "keys: it has no users"),
        (format!("alice:{good}\nbob:{}", &good[..good.len() - 2]), "keys:2: the server key is not base64"),
        (format!("alice:{}", good.replace("256$15000", "256$100")), "keys:1: the iterations must be"),
        (format!("alice:{}", good.replace("SHA-256", "SHA-1")), "keys:1: the record must read"),
        (format!("alice:{good}\nalice:{good}"), "keys:2: \"alice\" is listed twice"),
        (ALICE_7.into(), "keys:1: the record must read"),
        (format!("jose\u{301}:{good}\njos\u{E9}:{good}"), "keys:2: \"jos\u{E9}\" is listed twice"),
        (format!("a\u{1F600}:{good}"), "keys:1: the user name \"a\u{1F600}\": it holds characters that SASLprep"),
    ];
    for (content, expected) in cases {
        let message = Fixture::with(&[("keys", &content)]).try_chain(SCRAM).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(ScramRecord::parse(&good).unwrap().to_string(), good);
    for (password, expected) in [(&b"\xFF"[..], "in UTF-8"), ("p\u{7}".as_bytes(), "SASLprep"), (b"", "empty")] {
        let message = ScramRecord::create(password).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    }
}
