use super::*;

const PEOPLE: &str = "{passwordFile: {file: people}}";

fn house() -> House {
    House::with(&[("people", ALICE_7), ("others", &ALICE_6.replace("alice", "carol")), ("alices", ALICE_6)])
}

#[test]
fn the_first_that_knows_the_client_decides_and_the_end_denies() {
    let house = house();
    let two = house.door("{name: two, chain: [{passwordFile: {file: people}}, {passwordFile: {file: others}}]}");
    let then_anyone = house.door("{name: any, chain: [{passwordFile: {file: people}}, {anonymous: {}}]}");
    let then_all =
        house.door("{name: all, chain: [{passwordFile: {file: people}}, {anonymous: {withUsername: true}}]}");
    let nobody = house.door("{name: none, chain: []}");
    let cases = [
        (&two, user("alice", "secret"), "in as alice"),
        (&two, user("carol", "secret"), "in as carol"),
        (&two, user("carol", "wrong"), "BadCredentials"),
        (&two, user("dave", "secret"), "BadCredentials"),
        (&two, knock(), "BadCredentials"),
        (&then_anyone, knock(), "in as nobody"),
        (&then_anyone, user("alice", "secret"), "in as alice"),
        // A wrong password is not the way to anonymous access.
        (&then_anyone, user("alice", "wrong"), "BadCredentials"),
        (&then_anyone, user("dave", "x"), "BadCredentials"),
        (&then_all, user("alice", "wrong"), "BadCredentials"),
        // Nobody takes a name that is not proven.
        (&then_all, user("dave", "x"), "in as nobody"),
        (&nobody, knock(), "BadCredentials"),
        (&nobody, user("alice", "secret"), "BadCredentials"),
        (&then_all, Knock { method: Some("X".into()), ..knock() }, "BadAuthenticationMethod"),
        (&two, Knock { method: Some("X".into()), ..user("alice", "secret") }, "BadAuthenticationMethod"),
    ];
    for (index, (door, knock, expected)) in cases.into_iter().enumerate() {
        assert_eq!(door.answer(&knock), expected, "case {index}");
    }
}

#[test]
fn open_is_open_and_an_absent_document_is_closed() {
    let admission = Admission::default();
    let read = |_: &Path| Err("nothing to read".to_owned());
    let open = Door(admission.authenticate(false, None, &BTreeMap::new(), &read).unwrap());
    let closed = Door(admission.authenticate(true, None, &BTreeMap::new(), &read).unwrap());
    assert_eq!([open.answer(&user("x", "y")), closed.answer(&user("x", "y"))], ["in as x", "BadCredentials"]);
    let in_by_open = open.try_knock(&user("alice", "any")).unwrap();
    assert!(open.confirms(&in_by_open) && !closed.confirms(&in_by_open));
    // From open to any chain: nothing of who they are was proven.
    assert!(!house().door("{chain: [{passwordFile: {file: people}}, {anonymous: {}}]}").confirms(&in_by_open));
}

/// What a new chain says of those whom an old one admitted.
#[test]
fn a_changed_chain_confirms_whom_it_would_have_admitted_and_nobody_else() {
    let chains = |links: &[&str]| format!("{{chain: [{}]}}", links.join(", "));
    let (others, alices) = ("{passwordFile: {file: others}}", "{passwordFile: {file: alices}}");
    let (anonymous, all) = ("{anonymous: {}}", "{anonymous: {withUsername: true}}");
    let (alice, dave, nobody) = (user("alice", "secret"), user("dave", "x"), knock());
    let cases: &[(&[&str], &Knock, &[&str], bool)] = &[
        (&[PEOPLE], &alice, &[others, PEOPLE], true),
        (&[PEOPLE], &alice, &[anonymous, PEOPLE], true),
        (&[PEOPLE], &alice, &[others], false),
        (&[PEOPLE], &alice, &[anonymous], false),
        (&[PEOPLE], &alice, &[all], false),
        // Another file knows Alice, too, and is asked first: what it would say of her password is not known.
        (&[PEOPLE], &alice, &[alices, PEOPLE], false),
        (&[anonymous], &nobody, &[PEOPLE, anonymous], true),
        (&[anonymous], &nobody, &[all], true),
        (&[anonymous], &nobody, &[PEOPLE], false),
        (&[all], &dave, &[anonymous], false),
        (&[all], &dave, &[PEOPLE, all], true),
        // Who came in as nobody under Alice's name would now be asked for her password.
        (&[all], &alice, &[PEOPLE, all], false),
        (&[all], &nobody, &[anonymous], true),
    ];
    for (index, (before, knock, after, confirmed)) in cases.iter().enumerate() {
        let house = house();
        let principal = house.door(&chains(before)).try_knock(knock).unwrap();
        assert_eq!(house.door(&chains(after)).confirms(&principal), *confirmed, "case {index}");
    }
}

#[test]
fn endpoints_that_name_the_same_document_share_what_it_compiles_to() {
    let house = house();
    let auth: Arc<Auth> = Arc::new(document("{chain: [{passwordFile: {file: people}}]}"));
    let reads = std::cell::Cell::new(0);
    let read = |path: &Path| {
        reads.set(reads.get() + 1);
        Ok(Arc::from(house.files.get(path.to_str().unwrap()).unwrap().as_slice()))
    };
    let doors: Vec<_> =
        (0..3).map(|_| house.admission.authenticate(true, Some(&auth), &house.bans, &read).unwrap()).collect();
    assert_eq!((doors.len(), house.admission.chains_in_force()), (3, 1));
    drop(doors);
    assert_eq!(house.admission.chains_in_force(), 0);
}
