//! Law 2: a bad document harms only itself, and stays at its last good declaration.

use std::collections::BTreeSet;

use super::*;

/// An endpoint that needs nothing else.
fn endpoint(port: u16) -> String {
    format!("endpoint: {{port: {port}, enableAuth: false, enableAcl: false}}")
}

/// `name:port` of each endpoint; `!` before those that are held.
fn held(loaded: &Loaded) -> Vec<String> {
    let endpoints = loaded.declared.endpoints.iter().map(|(name, endpoint)| {
        let refusal = loaded.refusals.get(&Identity::new(Kind::Endpoint, name.clone()));
        let mark = if refusal.is_some_and(|refusal| refusal.held) { "!" } else { "" };
        format!("{mark}{name}:{}", endpoint.listen.port().unwrap_or_default())
    });
    endpoints.collect()
}

/// The refusals' reasons: `endpoint `a`: Invalid`.
fn reasons(loaded: &Loaded) -> Vec<String> {
    loaded.refusals.iter().map(|(identity, refusal)| format!("{identity}: {:?}", refusal.reason)).collect()
}

#[test]
fn a_bad_document_harms_only_itself() {
    let before = first(&[("a.yaml", &endpoint(1)), ("b.yaml", &endpoint(2))]);
    assert_eq!(held(&before), ["a:1", "b:2"]);
    let after =
        then(&before, &[("a.yaml", "endpoint: {port: 99999}"), ("b.yaml", &endpoint(3)), ("c.yaml", &endpoint(4))]);
    assert_eq!(held(&after), ["!a:1", "b:3", "c:4"]);
    assert_eq!(reasons(&after), ["endpoint `a`: Invalid"]);
    // And again: held over any number of passes.
    let later = then(&after, &[("a.yaml", "endpoint: {port: 99999}"), ("b.yaml", &endpoint(3))]);
    assert_eq!(held(&later), ["!a:1", "b:3"]);
    let mended = then(&later, &[("a.yaml", &endpoint(5)), ("b.yaml", &endpoint(3))]);
    assert_eq!(held(&mended), ["a:5", "b:3"]);
    assert!(mended.refusals.is_empty() && mended.is_valid());
}

#[test]
fn what_was_never_good_is_absent() {
    let loaded = first(&[("a.yaml", "endpoint: {port: 0}"), ("b.yaml", &endpoint(2))]);
    assert_eq!(held(&loaded), ["b:2"]);
    assert_eq!(loaded.refusals.values().map(|refusal| refusal.held).collect::<Vec<_>>(), [false]);
}

#[test]
fn a_file_that_cannot_be_parsed_holds_all_that_was_seen_in_it() {
    let two = format!("{}\n---\nendpoint: {{name: b, port: 2, enableAuth: false, enableAcl: false}}", endpoint(1));
    let before = first(&[("a.yaml", &two), ("c.yaml", &endpoint(3))]);
    let broken = then(&before, &[("a.yaml", "endpoint: {port: "), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&broken), ["!a:1", "!b:2", "c:3"]);
    assert_eq!(reasons(&broken), ["endpoint `a`: Unparsable", "endpoint `b`: Unparsable"]);
    // A document whose name cannot be told may be any that was there and now is not.
    let nameless = format!("{}\n---\nendpoint: {{name: 5, port: 2}}", endpoint(1));
    let nameless = then(&before, &[("a.yaml", &nameless), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&nameless), ["a:1", "!b:2", "c:3"]);
    let unknown_kind = then(&before, &[("a.yaml", "endpont: {port: 1}"), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&unknown_kind), ["!a:1", "!b:2", "c:3"]);
    // Moved into a file that can be parsed, it is not held.
    let moved = then(&before, &[("a.yaml", "["), ("b.yaml", &endpoint(4))]);
    assert_eq!(held(&moved), ["!a:1", "b:4"]);
    // Absent, with nothing in doubt, is gone.
    assert_eq!(held(&then(&before, &[("c.yaml", &endpoint(3))])), ["c:3"]);
}

#[test]
fn an_unreadable_file_is_never_a_deletion() {
    let before = first(&[("a.yaml", &endpoint(1))]);
    let mut unreadable = snapshot(&[("a.yaml", "")]);
    unreadable.files[0].content = Err(ReadError { message: "permission denied".into() });
    let after = load(&unreadable, &before.last_good, &NodeContext::default());
    assert_eq!(held(&after), ["!a:1"]);
    assert_eq!(reasons(&after), ["endpoint `a`: Unreadable"]);
    assert_eq!(codes(&after), ["a.yaml:1 unreadable"]);
}

#[test]
fn ports_belong_to_who_has_them() {
    let before = first(&[("b.yaml", &endpoint(1)), ("c.yaml", &endpoint(3))]);
    // A newcomer gives way, though its name comes first.
    let newcomer = then(&before, &[("a.yaml", &endpoint(1)), ("b.yaml", &endpoint(1)), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&newcomer), ["b:1", "c:3"]);
    let Some(refusal) = newcomer.refusals.values().next() else { panic!("a is refused") };
    assert_eq!(refusal.reason, RefusalReason::Conflicted { holder: Name::parse("b").unwrap() });
    // So it does where the holder is itself held.
    let held_holder =
        then(&before, &[("a.yaml", &endpoint(1)), ("b.yaml", "endpoint: {port: x}"), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&held_holder), ["!b:1", "c:3"]);
    // Two that swap do not clash.
    let swapped = then(&before, &[("b.yaml", &endpoint(3)), ("c.yaml", &endpoint(1))]);
    assert_eq!(held(&swapped), ["b:3", "c:1"]);
    assert!(swapped.is_valid());
    // Who moves onto a taken port stays where it was, and whoever wanted that, too, is refused in turn.
    let chain = then(&before, &[("b.yaml", &endpoint(3)), ("c.yaml", &endpoint(3)), ("d.yaml", &endpoint(1))]);
    assert_eq!(held(&chain), ["!b:1", "c:3"]);
    // Nobody was there before: the first by name has it.
    assert_eq!(held(&first(&[("z.yaml", &endpoint(1)), ("y.yaml", &endpoint(1))])), ["y:1"]);
    // A disabled endpoint reserves nothing.
    let disabled = "endpoint: {port: 1, enabled: false, enableAuth: false, enableAcl: false}";
    assert_eq!(held(&then(&before, &[("a.yaml", &endpoint(1)), ("b.yaml", disabled)])), ["a:1", "b:1"]);
}

#[test]
fn who_wants_more_than_it_has_takes_nothing_from_others() {
    let on = |host: &str, more: &str| {
        format!("endpoint: {{port: 1, host: {host}, enableAuth: false, enableAcl: false{more}}}")
    };
    let before = first(&[("a.yaml", &on("127.0.0.1", "")), ("b.yaml", &on("127.0.0.2", ""))]);
    // All addresses, of which it has one: `b` has another, and did nothing.
    let greedy = on("0.0.0.0", "");
    let after = then(&before, &[("a.yaml", &greedy), ("b.yaml", &on("127.0.0.2", ""))]);
    assert_eq!(held(&after), ["!a:1", "b:1"]);
    // And `b` may be changed where it is.
    let changed = then(&after, &[("a.yaml", &greedy), ("b.yaml", &on("127.0.0.2", ", maxConnectionSize: 7"))]);
    assert_eq!(held(&changed), ["!a:1", "b:1"]);
    assert_eq!(changed.declared.endpoints["b"].max_connection_size, Some(7));
    // Once it is out of the way, `a` has them.
    assert_eq!(held(&then(&changed, &[("a.yaml", &greedy)])), ["a:1"]);
}

#[test]
fn a_name_declared_twice_is_declared_by_none() {
    let before = first(&[("a.yaml", &endpoint(1))]);
    let again = "endpoint: {name: a, port: 2, enableAuth: false, enableAcl: false}";
    let after = then(&before, &[("a.yaml", &endpoint(3)), ("b.yaml", again)]);
    assert_eq!(held(&after), ["!a:1"]);
    assert_eq!(codes(&after), ["b.yaml:1 declared-twice"]);
    assert_eq!(held(&first(&[("a.yaml", &endpoint(3)), ("b.yaml", again)])), [""; 0]);
}

#[test]
fn defaults_that_are_refused_change_nothing() {
    let a = endpoint(1);
    let good = first(&[("a.yaml", &a), ("defaults.yaml", "defaults: {endpoint: {host: 10.0.0.5}}")]);
    let host = |loaded: &Loaded| {
        let endpoint = loaded.declared.endpoints.values().next();
        endpoint.map(|endpoint| endpoint.listen.bind_address([0, 0, 0, 0].into()).to_string())
    };
    assert_eq!(host(&good).as_deref(), Some("10.0.0.5:1"));
    let bad = ("defaults.yaml", "defaults: {endpoint: {host: everywhere}}");
    assert_eq!(host(&then(&good, &[("a.yaml", &a), bad])).as_deref(), Some("10.0.0.5:1"));
    // Nobody knows where the endpoint would listen: not at all.
    assert_eq!(host(&first(&[("a.yaml", &a), bad])), None);
    // It was good without them: it stays, and a newcomer waits.
    let without = first(&[("a.yaml", &a)]);
    let b = endpoint(2);
    assert_eq!(held(&then(&without, &[("a.yaml", &a), ("b.yaml", &b), bad])), ["!a:1"]);
    // Changed defaults change what inherits them.
    let moved = then(&good, &[("a.yaml", &a), ("defaults.yaml", "defaults: {endpoint: {host: 10.0.0.6}}")]);
    assert_eq!(host(&moved).as_deref(), Some("10.0.0.6:1"));
}

#[test]
fn references_hold_what_a_held_endpoint_needs() {
    let users = "auth: {name: users, chain: [{anonymous: {}}]}";
    let a = "endpoint: {port: 1, auth: users, enableAcl: false}";
    let before = first(&[("a.yaml", a), ("u.yaml", users)]);
    assert_eq!(held(&before), ["a:1"]);
    let after = then(&before, &[("a.yaml", a)]);
    assert_eq!(held(&after), ["!a:1"]);
    assert!(after.declared.auths.contains_key("users"));
    assert_eq!(reasons(&after), ["endpoint `a`: Invalid", "auth `users`: StillReferenced"]);
    // Refused, but its last good declaration is there to refer to.
    let broken = then(&before, &[("a.yaml", a), ("u.yaml", "auth: {name: users, chain: []}")]);
    assert_eq!(held(&broken), ["a:1"]);
    assert_eq!(reasons(&broken), ["auth `users`: Invalid"]);
}

#[test]
fn what_did_not_change_is_not_made_again() {
    let files = [("a.yaml", endpoint(1)), ("b.yaml", endpoint(2))];
    let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let before = first(&files);
    let after = then(&before, &files);
    for (name, endpoint) in &before.declared.endpoints {
        assert!(Arc::ptr_eq(endpoint, &after.declared.endpoints[name]), "{name}");
    }
    // Diagnostics of a file that did not change are told again.
    let warned = first(&[("w.yaml", "endpoint: {port: 1}")]);
    assert_eq!(codes(&then(&warned, &[("w.yaml", "endpoint: {port: 1}")])), codes(&warned));
    assert_eq!(codes(&warned), ["w.yaml:1 no-acl", "w.yaml:1 no-auth"]);
}

#[test]
fn the_last_good_declarations_survive_a_restart() {
    let everything = include_str!("../../../../../tests/golden/validate/every-field/in/a.yaml");
    let before =
        first(&[("a.yaml", everything), ("d.yaml", "defaults: {endpoint: {path: /x}}"), ("b.yaml", &endpoint(2))]);
    assert_eq!(codes(&before), [""; 0]);
    let mut kept = String::new();
    LastGoodWriter::default().write(&before.last_good, &mut kept);
    let previous = LastGood::from_json(&serde_json::from_str(&kept).unwrap()).unwrap();
    let restarted = Loaded { last_good: previous, ..Loaded::default() };
    let after = then(&restarted, &[("a.yaml", "{"), ("b.yaml", "{"), ("d.yaml", "{")]);
    assert_eq!(after.declared, before.declared);
    assert_eq!(held(&after), ["!b:2", "!everything:8443"]);
    assert_eq!(declaration_digest(&after.declared), declaration_digest(&before.declared));
    for damaged in [r#"{}"#, r#"{"format":"weir/last-known-good/v2"}"#, &kept.replace("\"port\":2", "\"prot\":2")] {
        assert!(LastGood::from_json(&serde_json::from_str(damaged).unwrap()).is_err(), "{damaged}");
    }
}

/// A directory that cannot be read: all that was seen below it is there, of every kind.
#[test]
fn an_unreadable_directory_holds_all_that_was_seen_in_it() {
    let users = "auth: {name: default, chain: [{anonymous: {}}]}";
    let ban = "ban: {name: abuse, entries: [{username: x}]}";
    let others = "acl: {name: default, rules: []}";
    let files = [("team/a.yaml", &*endpoint(1)), ("team/u.yaml", users), ("team/b.yaml", ban), ("teams.yaml", others)];
    let before = first(&files);
    let mut files = snapshot(&[("team/", ""), ("c.yaml", &endpoint(2))]);
    files.files[0].content = Err(ReadError { message: "permission denied".into() });
    let after = load(&files, &before.last_good, &NodeContext::default());
    assert_eq!(held(&after), ["c:2", "!team/a:1"]);
    assert!(after.declared.auths.contains_key("default") && after.declared.bans.contains_key("abuse"));
    assert!(!after.declared.acls.contains_key("default"), "it was beside the directory");
    let of = ["auth `default`", "ban `abuse`", "endpoint `team/a`"].map(|of| format!("{of}: Unreadable"));
    assert_eq!(BTreeSet::from_iter(reasons(&after)), BTreeSet::from(of));
}

/// What is held although its document is gone survives a restart, and stands in no file.
#[test]
fn what_is_held_survives_a_restart() {
    let mut previous = first(&[("a.yaml", &endpoint(1)), ("b.yaml", &endpoint(2))]).last_good;
    let held = |cause| Held { cause, why: "it \"was\" deleted".into() };
    let identity = |name: &str| Identity::new(Kind::Endpoint, Name::parse(name).unwrap());
    previous
        .set_held(&[(identity("a"), held(HeldCause::Deletion)), (identity("c"), held(HeldCause::Unreadable))].into());
    let mut kept = String::new();
    LastGoodWriter::default().write(&previous, &mut kept);
    let restored = LastGood::from_json(&serde_json::from_str(&kept).unwrap()).unwrap();
    assert_eq!(*restored.held(), [(identity("a"), held(HeldCause::Deletion))].into());
    assert_eq!(restored.paths().into_iter().collect::<Vec<_>>(), [Arc::from("b.yaml")]);
    assert!(restored.declared().endpoints.contains_key("a"));
    // One of a version that kept none.
    let older = kept.replace(&kept[kept.find(",\"held\"").unwrap()..kept.len() - 1], "");
    assert!(LastGood::from_json(&serde_json::from_str(&older).unwrap()).unwrap().held().is_empty());
}
