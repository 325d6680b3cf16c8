//! An invalid document affects only itself, and its last good declaration stays in force.

use std::collections::BTreeSet;

use super::*;

/// An endpoint without references.
fn endpoint(port: u16) -> String {
    format!("endpoint: {{port: {port}, enableAuth: false, enableAcl: false}}")
}

/// `name:port` of each endpoint, with `!` before held ones.
fn held(loaded: &Loaded) -> Vec<String> {
    let endpoints = loaded.declared.endpoints.iter().map(|(name, endpoint)| {
        let refusal = loaded.refusals.get(&DocumentIdentity::new(Kind::Endpoint, name.clone()));
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
fn an_invalid_document_affects_only_itself() {
    let before = first(&[("a.yaml", &endpoint(1)), ("b.yaml", &endpoint(2))]);
    assert_eq!(held(&before), ["a:1", "b:2"]);
    let after =
        then(&before, &[("a.yaml", "endpoint: {port: 99999}"), ("b.yaml", &endpoint(3)), ("c.yaml", &endpoint(4))]);
    assert_eq!(held(&after), ["!a:1", "b:3", "c:4"]);
    assert_eq!(reasons(&after), ["endpoint `a`: Invalid"]);
    // It is held over any number of passes.
    let later = then(&after, &[("a.yaml", "endpoint: {port: 99999}"), ("b.yaml", &endpoint(3))]);
    assert_eq!(held(&later), ["!a:1", "b:3"]);
    let fixed = then(&later, &[("a.yaml", &endpoint(5)), ("b.yaml", &endpoint(3))]);
    assert_eq!(held(&fixed), ["a:5", "b:3"]);
    assert!(fixed.refusals.is_empty() && fixed.is_valid());
}

#[test]
fn an_invalid_document_without_a_last_good_declaration_is_absent() {
    let loaded = first(&[("a.yaml", "endpoint: {port: 0}"), ("b.yaml", &endpoint(2))]);
    assert_eq!(held(&loaded), ["b:2"]);
    assert_eq!(loaded.refusals.values().map(|refusal| refusal.held).collect::<Vec<_>>(), [false]);
}

#[test]
fn an_unparsable_file_holds_all_its_declarations() {
    let two = format!("{}\n---\nendpoint: {{name: b, port: 2, enableAuth: false, enableAcl: false}}", endpoint(1));
    let before = first(&[("a.yaml", &two), ("c.yaml", &endpoint(3))]);
    let broken = then(&before, &[("a.yaml", "endpoint: {port: "), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&broken), ["!a:1", "!b:2", "c:3"]);
    assert_eq!(reasons(&broken), ["endpoint `a`: Unparsable", "endpoint `b`: Unparsable"]);
    // A document without a known name may be any document that is absent now.
    let nameless = format!("{}\n---\nendpoint: {{name: 5, port: 2}}", endpoint(1));
    let nameless = then(&before, &[("a.yaml", &nameless), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&nameless), ["a:1", "!b:2", "c:3"]);
    let unknown_kind = then(&before, &[("a.yaml", "endpont: {port: 1}"), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&unknown_kind), ["!a:1", "!b:2", "c:3"]);
    // An endpoint that moved to a valid file is not held.
    let moved = then(&before, &[("a.yaml", "["), ("b.yaml", &endpoint(4))]);
    assert_eq!(held(&moved), ["!a:1", "b:4"]);
    // An absent endpoint is deleted if every file can be parsed.
    assert_eq!(held(&then(&before, &[("c.yaml", &endpoint(3))])), ["c:3"]);
}

#[test]
fn an_unreadable_file_deletes_nothing() {
    let before = first(&[("a.yaml", &endpoint(1))]);
    let mut unreadable = snapshot(&[("a.yaml", "")]);
    unreadable.files[0].content = Err(ReadError { message: "permission denied".into() });
    let after = load(&unreadable, &before.last_good, &NodeContext::default());
    assert_eq!(held(&after), ["!a:1"]);
    assert_eq!(reasons(&after), ["endpoint `a`: Unreadable"]);
    assert_eq!(codes(&after), ["a.yaml:1 unreadable"]);
}

#[test]
fn an_endpoint_keeps_its_port_against_new_ones() {
    let before = first(&[("b.yaml", &endpoint(1)), ("c.yaml", &endpoint(3))]);
    // A new endpoint is refused, though its name sorts first.
    let newcomer = then(&before, &[("a.yaml", &endpoint(1)), ("b.yaml", &endpoint(1)), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&newcomer), ["b:1", "c:3"]);
    let Some(refusal) = newcomer.refusals.values().next() else { panic!("a is refused") };
    assert_eq!(refusal.reason, RefusalReason::Conflicted { holder: Name::parse("b").unwrap() });
    // It is refused also if the other endpoint is held.
    let held_holder =
        then(&before, &[("a.yaml", &endpoint(1)), ("b.yaml", "endpoint: {port: x}"), ("c.yaml", &endpoint(3))]);
    assert_eq!(held(&held_holder), ["!b:1", "c:3"]);
    // Two endpoints can swap their ports.
    let swapped = then(&before, &[("b.yaml", &endpoint(3)), ("c.yaml", &endpoint(1))]);
    assert_eq!(held(&swapped), ["b:3", "c:1"]);
    assert!(swapped.is_valid());
    // An endpoint that moves to a taken port keeps its own, so a new one for that port is refused, too.
    let chain = then(&before, &[("b.yaml", &endpoint(3)), ("c.yaml", &endpoint(3)), ("d.yaml", &endpoint(1))]);
    assert_eq!(held(&chain), ["!b:1", "c:3"]);
    // Of two new endpoints, the first by name gets the port.
    assert_eq!(held(&first(&[("z.yaml", &endpoint(1)), ("y.yaml", &endpoint(1))])), ["y:1"]);
    // A disabled endpoint reserves nothing.
    let disabled = "endpoint: {port: 1, enabled: false, enableAuth: false, enableAcl: false}";
    assert_eq!(held(&then(&before, &[("a.yaml", &endpoint(1)), ("b.yaml", disabled)])), ["a:1", "b:1"]);
}

#[test]
fn an_endpoint_that_extends_its_address_takes_nothing_from_others() {
    let on = |host: &str, more: &str| {
        format!("endpoint: {{port: 1, host: {host}, enableAuth: false, enableAcl: false{more}}}")
    };
    let before = first(&[("a.yaml", &on("127.0.0.1", "")), ("b.yaml", &on("127.0.0.2", ""))]);
    // `a` has one address and wants all of them, of which `b` has another.
    let all = on("0.0.0.0", "");
    let after = then(&before, &[("a.yaml", &all), ("b.yaml", &on("127.0.0.2", ""))]);
    assert_eq!(held(&after), ["!a:1", "b:1"]);
    // `b` can be changed.
    let changed = then(&after, &[("a.yaml", &all), ("b.yaml", &on("127.0.0.2", ", maxConnectionSize: 7"))]);
    assert_eq!(held(&changed), ["!a:1", "b:1"]);
    assert_eq!(changed.declared.endpoints["b"].max_connection_size, Some(7));
    // Once `b` is deleted, `a` gets all addresses.
    assert_eq!(held(&then(&changed, &[("a.yaml", &all)])), ["a:1"]);
}

#[test]
fn a_name_that_is_declared_twice_is_refused() {
    let before = first(&[("a.yaml", &endpoint(1))]);
    let again = "endpoint: {name: a, port: 2, enableAuth: false, enableAcl: false}";
    let after = then(&before, &[("a.yaml", &endpoint(3)), ("b.yaml", again)]);
    assert_eq!(held(&after), ["!a:1"]);
    assert_eq!(codes(&after), ["b.yaml:1 declared-twice"]);
    assert_eq!(held(&first(&[("a.yaml", &endpoint(3)), ("b.yaml", again)])), [""; 0]);
}

#[test]
fn refused_defaults_change_nothing() {
    let a = endpoint(1);
    let good = first(&[("a.yaml", &a), ("defaults.yaml", "defaults: {endpoint: {host: 10.0.0.5}}")]);
    let host = |loaded: &Loaded| {
        let endpoint = loaded.declared.endpoints.values().next();
        endpoint.map(|endpoint| endpoint.listen.bind_address([0, 0, 0, 0].into()).to_string())
    };
    assert_eq!(host(&good).as_deref(), Some("10.0.0.5:1"));
    let bad = ("defaults.yaml", "defaults: {endpoint: {host: everywhere}}");
    assert_eq!(host(&then(&good, &[("a.yaml", &a), bad])).as_deref(), Some("10.0.0.5:1"));
    // Without last good defaults the address is unknown, so the endpoint is absent.
    assert_eq!(host(&first(&[("a.yaml", &a), bad])), None);
    // An endpoint that was valid without defaults stays; a new one is refused.
    let without = first(&[("a.yaml", &a)]);
    let b = endpoint(2);
    assert_eq!(held(&then(&without, &[("a.yaml", &a), ("b.yaml", &b), bad])), ["!a:1"]);
    // Changed defaults change the endpoints that inherit them.
    let moved = then(&good, &[("a.yaml", &a), ("defaults.yaml", "defaults: {endpoint: {host: 10.0.0.6}}")]);
    assert_eq!(host(&moved).as_deref(), Some("10.0.0.6:1"));
}

#[test]
fn a_held_endpoint_holds_the_documents_that_it_refers_to() {
    let users = "auth: {name: users, chain: [{anonymous: {}}]}";
    let a = "endpoint: {port: 1, auth: users, enableAcl: false}";
    let before = first(&[("a.yaml", a), ("u.yaml", users)]);
    assert_eq!(held(&before), ["a:1"]);
    let after = then(&before, &[("a.yaml", a)]);
    assert_eq!(held(&after), ["!a:1"]);
    assert!(after.declared.auths.contains_key("users"));
    assert_eq!(reasons(&after), ["endpoint `a`: Invalid", "auth `users`: StillReferenced"]);
    // The document is refused, and its last good declaration is referred to.
    let broken = then(&before, &[("a.yaml", a), ("u.yaml", "auth: {name: users, chain: []}")]);
    assert_eq!(held(&broken), ["a:1"]);
    assert_eq!(reasons(&broken), ["auth `users`: Invalid"]);
}

#[test]
fn unchanged_files_are_not_parsed_again() {
    let files = [("a.yaml", endpoint(1)), ("b.yaml", endpoint(2))];
    let files: Vec<_> = files.iter().map(|(path, text)| (*path, text.as_str())).collect();
    let before = first(&files);
    let after = then(&before, &files);
    for (name, endpoint) in &before.declared.endpoints {
        assert!(Arc::ptr_eq(endpoint, &after.declared.endpoints[name]), "{name}");
    }
    // Diagnostics of unchanged files are reported again.
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
    for damaged in [
        r#"{}"#,
        r#"{"format":"weir/last-known-good/v2"}"#,
        &kept.replace("\"port\":2", "\"prot\":2"),
        &kept.replace("\"port\":2", "\"port\":2,\"unknown\":1"),
    ] {
        assert!(LastGood::from_json(&serde_json::from_str(damaged).unwrap()).is_err(), "{damaged}");
    }
}

/// All documents below an unreadable directory are held, whatever their kind.
#[test]
fn an_unreadable_directory_holds_all_its_declarations() {
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
    assert!(!after.declared.acls.contains_key("default"), "it is outside of the directory");
    let of = ["auth `default`", "ban `abuse`", "endpoint `team/a`"].map(|of| format!("{of}: Unreadable"));
    assert_eq!(BTreeSet::from_iter(reasons(&after)), BTreeSet::from(of));
}

/// A held declaration survives a restart, and is in no file.
#[test]
fn held_declarations_survive_a_restart() {
    let mut previous = first(&[("a.yaml", &endpoint(1)), ("b.yaml", &endpoint(2))]).last_good;
    let held = |cause| Held { cause, why: "it \"was\" deleted".into() };
    let identity = |name: &str| DocumentIdentity::new(Kind::Endpoint, Name::parse(name).unwrap());
    previous
        .set_held(&[(identity("a"), held(HeldCause::Deletion)), (identity("c"), held(HeldCause::Unreadable))].into());
    let mut kept = String::new();
    LastGoodWriter::default().write(&previous, &mut kept);
    let restored = LastGood::from_json(&serde_json::from_str(&kept).unwrap()).unwrap();
    assert_eq!(*restored.held(), [(identity("a"), held(HeldCause::Deletion))].into());
    assert_eq!(restored.paths().into_iter().collect::<Vec<_>>(), [Arc::from("b.yaml")]);
    assert!(restored.declared().endpoints.contains_key("a"));
    // A file of a version without `held`.
    let older = kept.replace(&kept[kept.find(",\"held\"").unwrap()..kept.len() - 1], "");
    assert!(LastGood::from_json(&serde_json::from_str(&older).unwrap()).unwrap().held().is_empty());
}
