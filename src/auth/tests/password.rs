use super::*;

#[test]
fn mosquittos_and_our_own_hashes_admit_whom_they_name() {
    let own = format!("dora:{}\n", PasswordHash::create(b"pass word").unwrap());
    let file = format!("# people\n{ALICE_7}\n{BOB_ARGON2ID}{own}");
    let house = House::with(&[("six", ALICE_6), ("mixed", &file)]);
    let (six, mixed) = (
        house.door("{name: six, chain: [{passwordFile: {file: six}}]}"),
        house.door("{name: mixed, chain: [{passwordFile: {file: mixed}}]}"),
    );
    let cases = [
        (&six, user("alice", "secret"), "in as alice"),
        (&six, user("alice", "Secret"), "BadCredentials"),
        (&six, user("alice", ""), "BadCredentials"),
        (&six, user("bob", "secret"), "BadCredentials"),
        (&six, Knock { username: Some("alice".into()), ..knock() }, "BadCredentials"),
        (&six, knock(), "BadCredentials"),
        (&mixed, user("alice", "secret"), "in as alice"),
        (&mixed, user("alice", "secret2"), "BadCredentials"),
        (&mixed, user("bob", "password"), "in as bob"),
        (&mixed, user("bob", "passwore"), "BadCredentials"),
        (&mixed, user("dora", "pass word"), "in as dora"),
        (&mixed, user("dora", "pass"), "BadCredentials"),
    ];
    for (index, (door, knock, expected)) in cases.into_iter().enumerate() {
        assert_eq!(door.answer(&knock), expected, "case {index}");
    }
}

#[test]
fn a_file_with_anything_wrong_in_it_is_refused_whole() {
    let cut = |text: &str, bytes: usize| text.get(..text.len() - bytes).unwrap().to_owned();
    let cases = [
        ("empty", String::new(), "people: there is no user in it"),
        ("only comments", "# a\n\n".into(), "people: there is no user in it"),
        ("cut in the hash", format!("{ALICE_6}{}", cut(BOB_ARGON2ID, 5)), "people:2: the hash"),
        ("cut in the salt", format!("{BOB_ARGON2ID}alice:$6$yEkq"), "people:2: the hash must begin with"),
        ("cut in the name", format!("{BOB_ARGON2ID}ali"), "people:2: no `user:hash`"),
        ("nothing after the name", format!("{BOB_ARGON2ID}alice:"), "people:2: the hash must begin with"),
        ("a plain password", "carol:secret\n".into(), "people:1: the hash must begin with"),
        ("no name", format!(":{}", cut(ALICE_6, 1)), "people:1: no user name"),
        ("twice", format!("{ALICE_6}{ALICE_7}"), "people:2: \"alice\" stands here a second time"),
        ("zero iterations", ALICE_7.replace("101", "0"), "people:1: the iterations must be"),
        ("endless iterations", ALICE_7.replace("101", "4000000000"), "people:1: the iterations must be"),
        ("a cost in memory", BOB_ARGON2ID.replace("m=256", "m=4000000"), "people:1: the costs must read"),
        ("no memory", BOB_ARGON2ID.replace("m=256", "m=0"), "people:1:"),
        ("a weaker algorithm", BOB_ARGON2ID.replace("argon2id", "argon2i"), "people:1: the hash must begin with"),
        ("a short hash", ALICE_6.replace("QA==", ""), "people:1: the hash must have 64 bytes, it has 63"),
    ];
    for (what, content, expected) in cases {
        let house = House::with(&[("people", &content)]);
        let message = house.try_door("{chain: [{passwordFile: {file: people}}, {anonymous: {}}]}").err().unwrap();
        assert!(message.contains(expected), "{what}: {message}");
        assert!(!message.contains("nf65EOg") && !message.contains("secret"), "{what} gives away a hash: {message}");
    }
    // Every prefix of a file: either it is refused, or it holds whole lines only.
    let whole = format!("{ALICE_7}{BOB_ARGON2ID}");
    let complete = [ALICE_7.len() - 1, ALICE_7.len(), whole.len() - 1];
    for length in (0..whole.len()).filter(|length| !complete.contains(length)) {
        assert!(PasswordFile::parse(&whole.as_bytes()[..length]).is_err(), "{length} bytes of the file were accepted");
    }
    let unreadable = House::default().try_door("{chain: [{passwordFile: {file: gone}}]}").err().unwrap();
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
fn slow_hashes_never_run_where_the_event_loop_does() {
    let house = House::with(&[("people", BOB_ARGON2ID)]);
    let door = house.door("{chain: [{passwordFile: {file: people}}]}");
    for knock in [user("bob", "password"), user("bob", "wrong"), user("stranger", "password")] {
        assert!(matches!(door.begin(&knock), Decision::Pending(_)), "{:?}", knock.username);
    }
}

#[test]
fn a_changed_record_confirms_nobody_it_admitted_before() {
    let mut house = House::with(&[("people", &format!("{ALICE_7}{BOB_ARGON2ID}"))]);
    let yaml = "{chain: [{passwordFile: {file: people}}]}";
    let door = house.door(yaml);
    let alice = door.try_knock(&user("alice", "secret")).unwrap();
    let bob = door.try_knock(&user("bob", "password")).unwrap();
    assert!(door.confirms(&alice) && door.confirms(&bob));

    // Alice has a new password (here: another hash of the same one), Bob is as he was, though on another line.
    house.write("people", format!("# new\n{BOB_ARGON2ID}{ALICE_6}").as_bytes());
    let door = house.door(yaml);
    assert!(!door.confirms(&alice) && door.confirms(&bob));

    house.write("people", ALICE_7.as_bytes());
    let door = house.door(yaml);
    assert!(door.confirms(&alice) && !door.confirms(&bob));
}
