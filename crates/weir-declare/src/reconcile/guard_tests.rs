//! Which deletions the guard holds, and until when.

use std::collections::BTreeSet;
use std::sync::Arc;

use proptest::prelude::*;

use super::guard::{DeletionGuard, DeletionGuardInput, GuardDecision, Guarded};
use super::timestamp::Timestamp;
use crate::config::{Declared, DocumentIdentity, Endpoint, Kind, Name, Prune, Reconcile};

fn declared(names: &[&str]) -> Declared {
    let mut declared = Declared::default();
    for name in names {
        let name = Name::parse(name).unwrap();
        let mut endpoint = Endpoint::default();
        endpoint.name = name.clone();
        endpoint.origin.file = Arc::from(format!("d/{name}.yaml"));
        if name.as_str().starts_with("kept") {
            endpoint.prune = Prune::Disabled;
        }
        declared.endpoints.insert(name, Arc::new(endpoint));
    }
    declared
}

struct Case {
    guard: DeletionGuard,
    last: Declared,
    allow_empty: bool,
    settled: bool,
    refused: BTreeSet<DocumentIdentity>,
    unreadable: BTreeSet<Arc<str>>,
}

impl Case {
    fn new(names: &[&str]) -> Self {
        let (refused, unreadable) = (BTreeSet::new(), BTreeSet::new());
        Self {
            guard: DeletionGuard::default(),
            last: declared(names),
            allow_empty: false,
            settled: true,
            refused,
            unreadable,
        }
    }

    fn check(&mut self, declared: &Declared, at_ms: u64) -> GuardDecision {
        let observed = DeletionGuardInput {
            declared,
            refused: &self.refused,
            unreadable: &self.unreadable,
            settled: self.settled,
            allow_empty: self.allow_empty,
            absence_is_deletion: false,
        };
        self.guard.check(&self.last, &observed, Timestamp::from_unix_ms(at_ms))
    }

    /// Checks two settled readings, and returns the names of the endpoints to run.
    fn after(&mut self, declared: &Declared) -> Vec<String> {
        self.check(declared, 0);
        match self.check(declared, 1) {
            GuardDecision::Proceed(Guarded { declared, .. }) => {
                declared.endpoints.keys().map(ToString::to_string).collect()
            }
            GuardDecision::ReadAgain { missing } => panic!("reads again for {missing:?}"),
        }
    }
}

#[test]
fn a_deletion_needs_two_agreeing_readings() {
    let mut case = Case::new(&["a", "b"]);
    let (one, both) = (declared(&["a"]), declared(&["a", "b"]));
    assert!(matches!(case.check(&one, 0), GuardDecision::ReadAgain { .. }));
    assert!(matches!(case.check(&both, 1), GuardDecision::Proceed(_)));
    assert!(matches!(case.check(&one, 2), GuardDecision::ReadAgain { .. }), "it came back in between");
    assert!(matches!(case.check(&one, 3), GuardDecision::Proceed(_)));
}

#[test]
fn an_unsettled_source_confirms_absence_after_ten_seconds() {
    let mut case = Case::new(&["a", "b"]);
    case.settled = false;
    let one = declared(&["a"]);
    for at_ms in [0, 1, 9_999] {
        assert!(matches!(case.check(&one, at_ms), GuardDecision::ReadAgain { .. }), "{at_ms}");
    }
    assert!(matches!(case.check(&one, 10_000), GuardDecision::Proceed(_)));
}

#[test]
fn refused_and_unreadable_documents_are_not_deleted() {
    let mut case = Case::new(&["a", "b", "c/d"]);
    case.refused.insert(DocumentIdentity::new(Kind::Endpoint, Name::parse("b").unwrap()));
    case.unreadable.insert(Arc::from("d/c/"));
    assert_eq!(case.after(&declared(&["a"])), ["a", "b", "c/d"]);
}

#[test]
fn a_large_deletion_waits_for_confirmation() {
    let four = ["a", "b", "c", "d"];
    assert_eq!(Case::new(&four).after(&declared(&["a", "b"])), ["a", "b"], "half may go");
    assert_eq!(Case::new(&four).after(&declared(&["a"])), four, "more than half may not");
    assert_eq!(Case::new(&["a", "b", "c"]).after(&declared(&["a"])), ["a"], "of three, two may go");
    assert_eq!(Case::new(&["a"]).after(&declared(&[])), ["a"], "the last one may not");
    assert_eq!(Case::new(&["a"]).after(&declared(&["b"])), ["b"], "a rename is not the last one");
    let mut confirmed = declared(&["a"]);
    let mut reconcile = Reconcile::default();
    reconcile.prune.confirm = ["b", "c"].map(|name| Name::parse(name).unwrap()).to_vec();
    confirmed.reconcile = Arc::new(reconcile);
    assert_eq!(Case::new(&four).after(&confirmed), ["a"], "what is not confirmed is within the bound");
    let mut empty = Case::new(&four);
    empty.allow_empty = true;
    assert!(empty.after(&declared(&[])).is_empty());
}

#[test]
fn an_endpoint_with_prune_disabled_stays_until_it_is_confirmed() {
    assert_eq!(Case::new(&["a", "kept"]).after(&declared(&["a"])), ["a", "kept"]);
    let mut confirmed = declared(&["a"]);
    let mut reconcile = Reconcile::default();
    reconcile.prune.confirm = vec![Name::parse("kept").unwrap()];
    confirmed.reconcile = Arc::new(reconcile);
    assert_eq!(Case::new(&["a", "kept"]).after(&confirmed), ["a"]);
}

fn named(name: &str) -> DocumentIdentity {
    DocumentIdentity::new(Kind::Endpoint, Name::parse(name).unwrap())
}

fn confirming(declared: &Declared, names: &[&str]) -> Declared {
    let mut reconcile = Reconcile::default();
    reconcile.prune.confirm = names.iter().map(|name| Name::parse(name).unwrap()).collect();
    Declared { reconcile: Arc::new(reconcile), ..declared.clone() }
}

/// A guard and the declaration in force.
struct Course {
    guard: DeletionGuard,
    last: Declared,
    refused: BTreeSet<DocumentIdentity>,
    at_ms: u64,
}

impl Course {
    fn new(names: &[&str]) -> Self {
        Self { guard: DeletionGuard::default(), last: declared(names), refused: BTreeSet::new(), at_ms: 0 }
    }

    /// Reads until the guard proceeds, and applies the result; returns the names of the endpoints that run.
    fn apply(&mut self, declared: &Declared) -> Vec<String> {
        loop {
            self.at_ms += 1;
            let observed = DeletionGuardInput {
                declared,
                refused: &self.refused,
                unreadable: &BTreeSet::new(),
                settled: true,
                allow_empty: false,
                absence_is_deletion: false,
            };
            match self.guard.check(&self.last, &observed, Timestamp::from_unix_ms(self.at_ms)) {
                GuardDecision::ReadAgain { .. } => {}
                GuardDecision::Proceed(guarded) => {
                    self.last = guarded.declared;
                    return self.last.endpoints.keys().map(ToString::to_string).collect();
                }
            }
        }
    }
}

#[test]
fn a_held_deletion_waits_while_others_are_declared_again() {
    let all = ["a", "b", "c", "d", "e", "f", "g"];
    for first in [0, 2] {
        let mut course = Course::new(&all);
        assert_eq!(course.apply(&declared(&all[..first])), all);
        for back in first..=all.len() {
            assert_eq!(course.apply(&declared(&all[..back])), all, "{back} of seven are back");
        }
        // An endpoint that was declared again can be deleted.
        assert_eq!(course.apply(&declared(&all[..6])), all[..6]);
    }
    // Of three endpoints two may be deleted at once, but not held ones.
    let mut course = Course::new(&all[..3]);
    assert_eq!(course.apply(&declared(&[])), all[..3]);
    assert_eq!(course.apply(&declared(&["a"])), all[..3]);
    assert_eq!(course.apply(&confirming(&declared(&["a"]), &["b"])), ["a", "c"], "only what is named is confirmed");
}

#[test]
fn a_held_endpoint_counts_neither_as_deleted_nor_as_present() {
    let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
    let mut course = Course::new(&all);
    assert_eq!(course.apply(&declared(&all[..4])), all, "six of ten are held");
    assert_eq!(course.apply(&declared(&["a"])), all, "three of the four that are left are too many");
    let mut course = Course::new(&all);
    course.apply(&declared(&all[..4]));
    assert_eq!(course.apply(&declared(&["a", "b", "c"])).len(), 9, "one of four is not");
    assert_eq!(course.apply(&declared(&[])).len(), 9, "and the last ones are");
}

#[test]
fn a_document_with_errors_does_not_release_a_held_deletion() {
    let all = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let mut course = Course::new(&all);
    assert_eq!(course.apply(&declared(&["a", "b", "c"])), all);
    course.refused.insert(named("h"));
    assert_eq!(course.apply(&declared(&["a", "b", "c", "h"])), all, "refused, its last good declaration is in force");
    course.refused.clear();
    assert_eq!(course.apply(&declared(&["a", "b", "c"])), all);
}

#[test]
fn held_deletions_survive_a_restart() {
    let all = ["a", "b", "c", "d", "e"];
    let mut course = Course::new(&all);
    let observed = declared(&["a"]);
    let held = course.guard.preview(&course.last, &observed).held;
    assert_eq!(held.len(), 4);
    for held in [held, Default::default()] {
        let mut restarted = Course { guard: DeletionGuard::resume(&held), ..Course::new(&all) };
        let kept = restarted.apply(&declared(&["a", "b", "c"])) == all;
        assert_eq!(kept, !held.is_empty(), "two of five would be within the bound");
    }
}

/// One change of a declaration.
#[derive(Debug, Clone)]
enum Edit {
    DeleteMany(u16),
    Put(usize),
    Delete(usize),
    /// Declares it with an error.
    Spoil(usize),
    Confirm(usize),
    Restart,
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let at = 0_usize..9;
    let edit = prop_oneof![
        2 => any::<u16>().prop_map(Edit::DeleteMany),
        5 => at.clone().prop_map(Edit::Put),
        3 => at.clone().prop_map(Edit::Delete),
        1 => at.clone().prop_map(Edit::Spoil),
        1 => at.prop_map(Edit::Confirm),
        1 => Just(Edit::Restart),
    ];
    proptest::collection::vec(edit, 1..40)
}

proptest! {
    /// A held endpoint stays until it is confirmed or declared again.
    #[test]
    fn a_held_endpoint_stays_whatever_else_is_edited(edits in edits()) {
        let all = ["a", "b", "c", "d", "e", "f", "g", "h", "i"];
        let mut course = Course::new(&all);
        let mut there: BTreeSet<&str> = all.into_iter().collect();
        for edit in edits {
            let before = there.clone();
            let running: BTreeSet<String> = course.last.endpoints.keys().map(ToString::to_string).collect();
            let (mut confirmed, mut alone) = (None, None);
            course.refused.clear();
            match edit {
                Edit::DeleteMany(mask) => there.retain(|name| mask >> all.iter().position(|n| n == name).unwrap() & 1 == 0),
                Edit::Put(at) => drop(there.insert(all[at])),
                Edit::Delete(at) => alone = there.take(all[at]),
                Edit::Spoil(at) if running.contains(all[at]) => drop(course.refused.insert(named(all[at]))),
                Edit::Spoil(_) => {}
                Edit::Confirm(at) => confirmed = Some(all[at]),
                Edit::Restart => course.guard = {
                    let names: Vec<&str> = there.iter().copied().collect();
                    let held = course.guard.clone().preview(&course.last, &declared(&names)).held;
                    DeletionGuard::resume(&held)
                },
            }
            let names: Vec<&str> = there.iter().copied().collect();
            let mut wanted = confirming(&declared(&names), confirmed.as_slice());
            for identity in &course.refused {
                // An invalid document leaves the last good declaration in force.
                let name = identity.name.clone();
                wanted.endpoints.entry(name.clone()).or_insert_with(|| Arc::clone(&course.last.endpoints[&name]));
            }
            let runs: BTreeSet<String> = course.apply(&wanted).into_iter().collect();
            for name in all {
                let held = running.contains(name) && !before.contains(name) && !there.contains(name);
                if there.contains(name) || held && confirmed != Some(name) {
                    prop_assert!(runs.contains(name), "{name} is gone");
                }
                if !there.contains(name) && !running.contains(name) {
                    prop_assert!(!runs.contains(name), "{name} came from nowhere");
                }
            }
            if let Some(name) = confirmed.filter(|name| !there.contains(name)) {
                prop_assert!(!runs.contains(name), "{name} is confirmed and stays");
            }
            if let Some(name) = alone.filter(|_| before.len() > 3) {
                prop_assert!(!runs.contains(name), "{name} alone is not too many of {}", before.len());
            }
        }
    }
}
