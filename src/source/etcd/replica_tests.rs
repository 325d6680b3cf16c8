use super::*;

const PREFIX: &str = "/weir/endpoints/";

fn replica(known: Option<PriorState>) -> Replica {
    Replica::new(PREFIX, "etcd", Path::new("files"), known)
}

fn listing(cluster_id: u64, revision: i64, keys: &[(&str, i64, &str)]) -> Listing {
    let stored = |(key, at, text): &(&str, i64, &str)| {
        (key.as_bytes().to_vec(), StoredValue::new(PREFIX, key.as_bytes(), *at, text.as_bytes()))
    };
    Listing { cluster_id, revision, keys: keys.iter().map(stored).collect() }
}

fn put(key: &str, revision: i64, text: &str) -> KeyChange {
    KeyChange { key: key.as_bytes().to_vec(), revision, value: Some(text.as_bytes().to_vec()) }
}

fn delete(key: &str, revision: i64) -> KeyChange {
    KeyChange { key: key.as_bytes().to_vec(), revision, value: None }
}

fn complete(replica: &Replica) -> SourceReading {
    match replica.view() {
        ReplicaView::Complete(reading) => *reading,
        ReplicaView::PushInProgress { error, .. } => panic!("{error}"),
    }
}

/// Each document's path, with its text or a dash where it cannot be read; and the revision.
fn seen(replica: &Replica) -> (Vec<String>, String) {
    let reading = complete(replica);
    let shown = |file: &SourceFile| match &file.content {
        Ok(bytes) => format!("{}={}", file.path, String::from_utf8_lossy(bytes)),
        Err(_) => format!("{}-", file.path),
    };
    let mut files: Vec<String> = reading.snapshot.files.iter().map(shown).collect();
    files.sort();
    (files, reading.snapshot.revision.to_string())
}

fn marker(state: PushState, keys: &[(&str, i64, &str)], pushed_at_ms: u64) -> String {
    let digest = listing(1, 1, keys).digest();
    let marker = Marker::new(state, digest, keys.len(), 10, Timestamp::from_unix_ms(pushed_at_ms));
    String::from_utf8(marker.to_bytes()).unwrap()
}

#[test]
fn listings_and_watched_changes_add_up() {
    let mut replica = replica(None);
    assert!(replica.apply_listing(listing(1, 10, &[("a", 3, "1"), ("b", 4, "2")]), false).changed);
    assert_eq!(replica.watch_from(), 11);
    assert!(!replica.apply(vec![put("a", 9, "old")]), "the listing has it already");
    assert!(replica.apply(vec![put("a", 12, "3"), delete("b", 12), put("c", 12, "4")]));
    assert_eq!(seen(&replica), (vec!["a=3".into(), "c=4".into()], "12".into()));
    let again = replica.apply_listing(listing(1, 40, &[("a", 12, "3"), ("c", 12, "4")]), false);
    assert_eq!(again, ListingOutcome { changed: false, rolled_back: false });
    let reading = complete(&replica);
    assert_eq!(reading.snapshot.revision.to_string(), "12", "nothing under the prefix changed since");
    assert_eq!(reading.store.unwrap().read_revision, 40);
    assert!(
        replica.apply_listing(listing(1, 41, &[("a", 12, "3")]), false).changed,
        "a deletion that the watch has not reported"
    );
    assert_eq!(seen(&replica), (vec!["a=3".into()], "41".into()));
}

#[test]
fn unchanged_documents_keep_their_allocation() {
    let mut replica = replica(None);
    replica.apply_listing(listing(1, 10, &[("a", 3, "1"), ("b", 4, "2")]), false);
    let before = complete(&replica).snapshot.files[0].content.clone().unwrap();
    replica.apply_listing(listing(1, 12, &[("a", 3, "1"), ("b", 12, "3")]), false);
    assert!(Arc::ptr_eq(&before, complete(&replica).snapshot.files[0].content.as_ref().unwrap()));
}

#[test]
fn keys_that_are_no_documents_are_ignored_and_listed() {
    let mut replica = replica(None);
    let mut all = listing(1, 10, &[("a", 3, "1"), (".hidden", 4, "x"), ("eu/", 5, "x"), ("blank", 6, " \n")]);
    all.keys.insert(b"\xff".to_vec(), StoredValue::new(PREFIX, b"\xff", 7, b"\x00\x01"));
    replica.apply_listing(all, false);
    assert_eq!(seen(&replica).0, ["a=1", "blank-"]);
    let aside = complete(&replica).ignored;
    assert_eq!(aside, ["/weir/endpoints/.hidden", "/weir/endpoints/eu/", "/weir/endpoints/\u{FFFD}"]);
}

#[test]
fn a_store_that_went_back_deletes_nothing() {
    let present = [("a", 3, "1"), ("b", 14, "2"), ("c", 15, "3")];
    for (case, back) in
        [("restored", listing(1, 12, &[("a", 3, "1")])), ("another one", listing(2, 900, &[("a", 3, "1")]))]
    {
        let mut replica = replica(None);
        replica.apply_listing(listing(1, 20, &present), false);
        assert!(replica.is_behind(back.cluster_id, back.revision), "{case}");
        let (cluster, at) = (back.cluster_id, back.revision);
        assert!(replica.apply_listing(back, false).rolled_back, "{case}");
        assert_eq!(seen(&replica).0, ["a=1", "b-", "c-"], "{case}");
        replica.apply(vec![put("b", at + 1, "4")]);
        assert_eq!(seen(&replica).0, ["a=1", "b=4", "c-"], "{case}: put again");
        replica.apply(vec![put("c", at + 2, "x"), delete("c", at + 3)]);
        assert_eq!(seen(&replica).0, ["a=1", "b=4"], "{case}: put and deleted");
        assert!(
            !replica.apply_listing(listing(cluster, at + 9, &[("a", 3, "1"), ("b", at + 1, "4")]), false).rolled_back
        );
    }
}

#[test]
fn a_store_behind_the_saved_state_deletes_nothing() {
    let known = PriorState {
        revision: 20,
        saved_at: Timestamp::from_unix_ms(100),
        paths: ["a", "b"].map(Arc::from).into_iter().collect(),
    };
    let mut behind = replica(Some(known.clone()));
    assert!(behind.apply_listing(listing(7, 5, &[("a", 3, "1")]), false).rolled_back);
    assert_eq!(seen(&behind).0, ["a=1", "b-"]);
    let mut ahead = replica(Some(known));
    assert!(!ahead.apply_listing(listing(7, 21, &[("a", 3, "1")]), false).rolled_back);
    assert_eq!(seen(&ahead).0, ["a=1"]);
}

#[test]
fn a_newer_push_clears_lost_documents() {
    let left = [("a", 3, "1")];
    for (pushed_at, decides) in [(50, false), (200, true)] {
        let mut replica = replica(None);
        let first = marker(PushState::Complete, &[("a", 3, "1"), ("b", 4, "2")], 100);
        replica.apply_listing(listing(1, 20, &[("a", 3, "1"), ("b", 4, "2"), (".push", 5, &first)]), false);
        let second = marker(PushState::Complete, &left, pushed_at);
        replica.apply_listing(listing(1, 9, &[("a", 3, "1"), (".push", 4, &second)]), false);
        let expected: &[&str] = if decides { &["a=1"] } else { &["a=1", "b-"] };
        assert_eq!(seen(&replica).0, expected, "pushed at {pushed_at}");
    }
}

#[test]
fn a_push_is_applied_whole_or_not_at_all() {
    let wanted = [("a", 21, "1"), ("b", 22, "2")];
    let begun = marker(PushState::Begun, &wanted, 100);
    let mut replica = replica(None);
    replica.apply_listing(listing(1, 10, &[("z", 3, "0")]), false);
    replica.apply(vec![put(".push", 20, &begun)]);
    let ReplicaView::PushInProgress { error, base } = replica.view() else { panic!("nothing is there of it yet") };
    assert_eq!((error.kind, base), (SourceErrorKind::HalfPushed, 10));
    replica.apply(vec![put("a", 21, "1"), delete("z", 21)]);
    assert!(matches!(replica.view(), ReplicaView::PushInProgress { .. }), "half of it is there");
    replica.apply(vec![put("b", 22, "2")]);
    assert_eq!(seen(&replica).0, ["a=1", "b=2"], "complete, although the writer died before it wrote the marker");
    replica.apply(vec![put("c", 23, "3")]);
    assert!(matches!(replica.view(), ReplicaView::PushInProgress { .. }), "a change before the push was ended");
    replica.apply(vec![put(".push", 24, &marker(PushState::Complete, &wanted, 100))]);
    assert_eq!(seen(&replica).0, ["a=1", "b=2", "c=3"], "a change after it is a change like any");
}

#[test]
fn the_commit_is_shown_while_the_documents_are_those_of_the_push() {
    let keys = [("a", 3, "1")];
    let mut pushed = Marker::parse(marker(PushState::Complete, &keys, 100).as_bytes()).unwrap();
    pushed.commit = Some(crate::source::Commit {
        id: "0badc0ffee".into(),
        author: "Ann <ann@example.com>".into(),
        committed_at: Timestamp::from_unix_ms(1),
        subject: "one endpoint".into(),
    });
    let text = String::from_utf8(pushed.to_bytes()).unwrap();
    let mut replica = replica(None);
    replica.apply_listing(listing(1, 10, &[("a", 3, "1"), (".push", 4, &text)]), false);
    assert_eq!(complete(&replica).commit.unwrap().id, "0badc0ffee");
    replica.apply(vec![put("a", 11, "2")]);
    assert_eq!(complete(&replica).commit, None);
    replica.apply(vec![put(".push", 12, "{}")]);
    assert!(complete(&replica).notes[0].contains("is not a push's marker"));
}

#[test]
fn a_restored_store_is_detected_by_its_past_although_its_revision_is_newer() {
    let mut replica = replica(None);
    replica.apply_listing(listing(1, 20, &[("a", 3, "1"), ("b", 14, "2")]), false);
    let now = listing(1, 30, &[("a", 3, "1")]);
    assert_eq!(replica.revision_to_verify(&now), Some(20));
    assert_eq!(
        replica.revision_to_verify(&listing(1, 30, &[("a", 29, "1"), ("b", 14, "2")])),
        None,
        "nothing is missing"
    );
    assert_eq!(replica.revision_to_verify(&listing(1, 19, &[])), None, "it is behind in any case");
    for (case, past, confirmed) in [
        ("deleted after it was read", listing(1, 20, &[("a", 3, "1"), ("b", 14, "2")]), true),
        ("it never was there", listing(1, 20, &[("a", 3, "1")]), false),
        ("it was put at another time", listing(1, 20, &[("a", 3, "1"), ("b", 9, "2")]), false),
    ] {
        assert_eq!(replica.confirms(&past), confirmed, "{case}");
    }
    assert!(replica.apply_listing(now, true).rolled_back);
    assert_eq!(seen(&replica).0, ["a=1", "b-"]);
}
