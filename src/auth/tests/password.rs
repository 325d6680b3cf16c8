use super::*;

#[test]
fn hashes_of_mosquitto_and_weir_admit_their_users() {
    let own = format!("dora:{}\n", PasswordHash::create(b"pass word").unwrap());
    let file = format!("# people\n{ALICE_7}\n{BOB_ARGON2ID}{own}");
    let fixture = Fixture::with(&[("six", ALICE_6), ("mixed", &file)]);
    let (six, mixed) = (
        fixture.chain("{name: six, chain: [{passwordFile: {file: six}}]}"),
        fixture.chain("{name: mixed, chain: [{passwordFile: {file: mixed}}]}"),
    );
    let cases = [
        (&six, user("alice", "secret"), "in as alice"),
        (&six, user("alice", "Secret"), "BadCredentials"),
        (&six, user("alice", ""), "BadCredentials"),
        (&six, user("bob", "secret"), "BadCredentials"),
        (&six, Login { username: Some("alice".into()), ..login() }, "BadCredentials"),
        (&six, login(), "BadCredentials"),
        (&mixed, user("alice", "secret"), "in as alice"),
        (&mixed, user("alice", "secret2"), "BadCredentials"),
        (&mixed, user("bob", "password"), "in as bob"),
        (&mixed, user("bob", "passwore"), "BadCredentials"),
        (&mixed, user("dora", "pass word"), "in as dora"),
        (&mixed, user("dora", "pass"), "BadCredentials"),
    ];
    for (index, (chain, login, expected)) in cases.into_iter().enumerate() {
        assert_eq!(chain.answer(&login), expected, "case {index}");
    }
}

#[test]
fn a_password_file_with_a_bad_line_is_refused() {
    let cut = |text: &str, bytes: usize| text.get(..text.len() - bytes).unwrap().to_owned();
    let cases = [
        ("empty", String::new(), "people: it has no users"),
        ("only comments", "# a\n\n".into(), "people: it has no users"),
        ("cut in the hash", format!("{ALICE_6}{}", cut(BOB_ARGON2ID, 5)), "people:2: the hash"),
        ("cut in the salt", format!("{BOB_ARGON2ID}alice:$6$yEkq"), "people:2: the hash must begin with"),
        ("cut in the name", format!("{BOB_ARGON2ID}ali"), "people:2: the line is not `user:hash`"),
        ("nothing after the name", format!("{BOB_ARGON2ID}alice:"), "people:2: the hash must begin with"),
        ("a plain password", "carol:secret\n".into(), "people:1: the hash must begin with"),
        ("no name", format!(":{}", cut(ALICE_6, 1)), "people:1: the user name is not"),
        ("twice", format!("{ALICE_6}{ALICE_7}"), "people:2: \"alice\" is listed twice"),
        ("zero iterations", ALICE_7.replace("101", "0"), "people:1: the iterations must be"),
        ("endless iterations", ALICE_7.replace("101", "4000000000"), "people:1: the iterations must be"),
        ("a cost in memory", BOB_ARGON2ID.replace("m=256", "m=4000000"), "people:1: the costs must read"),
        ("no memory", BOB_ARGON2ID.replace("m=256", "m=0"), "people:1:"),
        ("a weaker algorithm", BOB_ARGON2ID.replace("argon2id", "argon2i"), "people:1: the hash must begin with"),
        ("a short hash", ALICE_6.replace("QA==", ""), "people:1: the hash must have 64 bytes, it has 63"),
    ];
    for (what, content, expected) in cases {
        let fixture = Fixture::with(&[("people", &content)]);
        let message =
            fixture.try_chain("{chain: [{passwordFile: {file: people}}, {anonymous: {}}]}").err().unwrap().to_string();
        assert!(message.contains(expected), "{what}: {message}");
        assert!(!message.contains("nf65EOg") && !message.contains("secret"), "{what} gives away a hash: {message}");
    }
    // Every prefix of a file: either it is refused, or it holds whole lines only.
    let whole = format!("{ALICE_7}{BOB_ARGON2ID}");
    let complete = [ALICE_7.len() - 1, ALICE_7.len(), whole.len() - 1];
    for length in (0..whole.len()).filter(|length| !complete.contains(length)) {
        assert!(PasswordFile::parse(&whole.as_bytes()[..length]).is_err(), "{length} bytes of the file were accepted");
    }
    let unreadable = Fixture::default().try_chain("{chain: [{passwordFile: {file: gone}}]}").err().unwrap().to_string();
    assert!(unreadable.contains("gone: no such file"), "{unreadable}");
}

#[test]
fn hashes_are_written_as_they_were_read() {
    for line in [ALICE_6, ALICE_7, BOB_ARGON2ID] {
        let hash = line.trim_end().split_once(':').unwrap().1;
        assert_eq!(PasswordHash::parse(hash).unwrap().to_string(), hash);
        assert!(!format!("{:?}", PasswordHash::parse(hash).unwrap()).contains(&hash[40..]));
    }
}

#[test]
fn slow_hashes_run_on_a_worker_only() {
    let fixture = Fixture::with(&[("people", BOB_ARGON2ID)]);
    let chain = fixture.chain("{chain: [{passwordFile: {file: people}}]}");
    for login in [user("bob", "password"), user("bob", "wrong"), user("carol", "password")] {
        assert!(matches!(chain.begin(&login), Decision::Blocking(_)), "{:?}", login.username);
    }
}

#[test]
fn a_changed_record_invalidates_clients_that_it_admitted() {
    let mut fixture = Fixture::with(&[("people", &format!("{ALICE_7}{BOB_ARGON2ID}"))]);
    let yaml = "{chain: [{passwordFile: {file: people}}]}";
    let chain = fixture.chain(yaml);
    let alice = chain.log_in(&user("alice", "secret")).unwrap();
    let bob = chain.log_in(&user("bob", "password")).unwrap();
    assert!(chain.still_valid(&alice) && chain.still_valid(&bob));

    // Alice has a new password (here: another hash of the same one), Bob is as he was, though on another line.
    fixture.write("people", format!("# new\n{BOB_ARGON2ID}{ALICE_6}").as_bytes());
    let chain = fixture.chain(yaml);
    assert!(!chain.still_valid(&alice) && chain.still_valid(&bob));

    fixture.write("people", ALICE_7.as_bytes());
    let chain = fixture.chain(yaml);
    assert!(chain.still_valid(&alice) && !chain.still_valid(&bob));
}
