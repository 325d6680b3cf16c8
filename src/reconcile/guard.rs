//! Absence is proof, trouble is not: what has to be seen before something is deleted, and how much at once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Timestamp;
use crate::config::{Acl, Auth, Declared, Identity, InOrder, Kind, Name, Origin, Prune};

/// Readings that must agree that a document is gone.
const AGREEING_READINGS: u32 = 2;
/// Where the source never comes to rest, what is absent for so long is gone as well.
const UNSETTLED_ABSENCE_MS: u64 = 10_000;
/// Up to so many endpoints, any part of them may go at once; only the last one may not.
const SMALL_SET: usize = 3;

/// Remembers what is missing, from pass to pass.
#[derive(Debug, Clone, Default)]
pub struct Guard {
    absent: BTreeMap<Identity, Absence>,
}

#[derive(Debug, Clone, Copy)]
struct Absence {
    since: Timestamp,
    readings: u32,
}

/// A reading, as far as the guard is concerned.
#[derive(Debug, Clone, Copy)]
pub struct Observed<'a> {
    /// What the reading declares, held documents included.
    pub declared: &'a Declared,
    /// What is not as the reading declares it for some trouble: it is there, whatever `declared` says.
    pub troubled: &'a BTreeSet<Identity>,
    /// Files and directories (these end in `/`) that could not be read, as shown: whatever came from there is there.
    pub unreadable: &'a BTreeSet<Arc<str>>,
    /// Whether the source was at rest.
    pub settled: bool,
    /// Whether an empty declaration is meant (`--allow-empty`).
    pub allow_empty: bool,
}

/// What the guard makes of a reading.
#[derive(Debug, Clone, PartialEq)]
pub enum Judgement {
    /// Documents are missing that were there: nothing of this reading is applied before another has been made.
    LookAgain { missing: Vec<Identity> },
    Proceed {
        /// What to apply: the reading's, and what is kept of the last one.
        declared: Declared,
        /// Endpoints that are kept although the reading does not have them, and why.
        kept: BTreeMap<Name, String>,
    },
}

impl Guard {
    /// Judges a reading against what was last applied.
    pub fn judge(&mut self, last: &Declared, observed: &Observed<'_>, now: Timestamp) -> Judgement {
        let missing = self.count_missing(last, observed, now);
        let waiting: Vec<Identity> =
            missing.iter().filter(|identity| !self.is_agreed(identity, observed.settled, now)).cloned().collect();
        if !waiting.is_empty() {
            return Judgement::LookAgain { missing: waiting };
        }
        let mut kept = BTreeMap::new();
        let mut there = InOrder::of(&observed.declared.endpoints);
        for name in last.endpoints.keys().filter(|name| there.get(name).is_none()) {
            if !missing.contains(&Identity::new(Kind::Endpoint, name.clone())) {
                kept.insert(name.clone(), "its document cannot be read".to_owned());
            }
        }
        let confirm = &observed.declared.reconcile.prune.confirm;
        let going: Vec<&Name> = missing
            .iter()
            .filter(|identity| identity.kind == Kind::Endpoint && !confirm.contains(&identity.name))
            .map(|identity| &identity.name)
            .collect();
        kept.extend(held_deletions(last, observed, &going));
        let declared = with_kept(observed.declared, last, &kept);
        Judgement::Proceed { declared, kept }
    }

    /// What was applied and is not there any longer, for no trouble that is known. Counts how often each was missed.
    fn count_missing(&mut self, last: &Declared, observed: &Observed<'_>, now: Timestamp) -> BTreeSet<Identity> {
        let missing: BTreeSet<Identity> = gone(last, observed.declared)
            .into_iter()
            .filter(|(identity, file)| {
                !observed.troubled.contains(identity) && !is_unreadable(file, observed.unreadable)
            })
            .map(|(identity, _)| identity)
            .collect();
        self.absent.retain(|identity, _| missing.contains(identity));
        for identity in &missing {
            let absence = self.absent.entry(identity.clone()).or_insert(Absence { since: now, readings: 0 });
            absence.readings += u32::from(observed.settled);
        }
        missing
    }

    fn is_agreed(&self, identity: &Identity, settled: bool, now: Timestamp) -> bool {
        self.absent.get(identity).is_some_and(|absence| {
            absence.readings >= AGREEING_READINGS || (!settled && now.since_ms(absence.since) >= UNSETTLED_ABSENCE_MS)
        })
    }
}

/// Every document of `last` that `now` does not have, with the file it came from.
fn gone<'a>(last: &'a Declared, now: &Declared) -> Vec<(Identity, &'a Arc<str>)> {
    fn of<'a, T>(
        kind: Kind,
        last: &'a BTreeMap<Name, Arc<T>>,
        now: &BTreeMap<Name, Arc<T>>,
        origin: fn(&T) -> &Origin,
        gone: &mut Vec<(Identity, &'a Arc<str>)>,
    ) {
        let mut there = InOrder::of(now);
        for (name, it) in last {
            if there.get(name).is_none() {
                gone.push((Identity::new(kind, name.clone()), &origin(it).file));
            }
        }
    }
    let mut gone = Vec::new();
    of(Kind::Endpoint, &last.endpoints, &now.endpoints, |it| &it.origin, &mut gone);
    of(Kind::Auth, &last.auths, &now.auths, |it| &it.origin, &mut gone);
    of(Kind::Acl, &last.acls, &now.acls, |it| &it.origin, &mut gone);
    of(Kind::Bridge, &last.bridges, &now.bridges, |it| &it.origin, &mut gone);
    of(Kind::Ban, &last.bans, &now.bans, |it| &it.origin, &mut gone);
    if let (Some(defaults), None) = (&last.defaults, &now.defaults) {
        gone.push((Identity::single(Kind::Defaults), &defaults.origin.file));
    }
    if !last.reconcile.origin.file.is_empty() && now.reconcile.origin.file.is_empty() {
        gone.push((Identity::single(Kind::Reconcile), &last.reconcile.origin.file));
    }
    gone
}

fn is_unreadable(file: &str, unreadable: &BTreeSet<Arc<str>>) -> bool {
    unreadable.iter().any(|shown| if shown.ends_with('/') { file.starts_with(&**shown) } else { *file == **shown })
}

/// Which of the endpoints that are `going` are kept all the same, and why.
fn held_deletions(last: &Declared, observed: &Observed<'_>, going: &[&Name]) -> BTreeMap<Name, String> {
    let keep = |names: &[&Name], why: &str| names.iter().map(|name| ((*name).clone(), why.to_owned())).collect();
    let remains = !observed.declared.endpoints.is_empty();
    if !going.is_empty() && !remains && !observed.allow_empty {
        return keep(
            going,
            "every endpoint was deleted at once; name them in reconcile.prune.confirm to confirm it, or run with \
             --allow-empty",
        );
    }
    let had = last.endpoints.len();
    let fraction = observed.declared.reconcile.prune.max_fraction;
    #[allow(clippy::cast_precision_loss)] // counts of endpoints
    let too_many = had > SMALL_SET && going.len() as f64 > fraction * had as f64;
    if too_many && (remains || !observed.allow_empty) {
        let why = format!(
            "{} of {had} endpoints were deleted at once, reconcile.prune.maxFraction allows {fraction}; name them in \
             reconcile.prune.confirm to confirm it",
            going.len()
        );
        return keep(going, &why);
    }
    let disabled: Vec<&Name> = going
        .iter()
        .copied()
        .filter(|name| last.endpoints.get(*name).is_some_and(|endpoint| endpoint.prune == Prune::Disabled))
        .collect();
    keep(&disabled, "prune: disabled; name it in reconcile.prune.confirm to delete it")
}

/// `declared`, and the endpoints that are kept, with the documents they need.
fn with_kept(declared: &Declared, last: &Declared, kept: &BTreeMap<Name, String>) -> Declared {
    let mut declared = declared.clone();
    for name in kept.keys() {
        let Some(endpoint) = last.endpoints.get(name) else { continue };
        let auth: Option<(&Name, &Arc<Auth>)> = last.auths.get_key_value(endpoint.auth_name());
        if let Some((name, auth)) = auth.filter(|_| endpoint.enable_auth) {
            declared.auths.entry(name.clone()).or_insert_with(|| Arc::clone(auth));
        }
        let acl: Option<(&Name, &Arc<Acl>)> = last.acls.get_key_value(endpoint.acl_name());
        if let Some((name, acl)) = acl.filter(|_| endpoint.enable_acl) {
            declared.acls.entry(name.clone()).or_insert_with(|| Arc::clone(acl));
        }
        for name in endpoint.bridges.iter().filter(|_| endpoint.enable_bridge) {
            if let Some(bridge) = last.bridges.get(name) {
                declared.bridges.entry(name.clone()).or_insert_with(|| Arc::clone(bridge));
            }
        }
        declared.endpoints.insert(name.clone(), Arc::clone(endpoint));
    }
    declared
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Endpoint, Reconcile};

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
        guard: Guard,
        last: Declared,
        allow_empty: bool,
        settled: bool,
        troubled: BTreeSet<Identity>,
        unreadable: BTreeSet<Arc<str>>,
    }

    impl Case {
        fn new(names: &[&str]) -> Self {
            let (troubled, unreadable) = (BTreeSet::new(), BTreeSet::new());
            Self {
                guard: Guard::default(),
                last: declared(names),
                allow_empty: false,
                settled: true,
                troubled,
                unreadable,
            }
        }

        fn judge(&mut self, declared: &Declared, at_ms: u64) -> Judgement {
            let observed = Observed {
                declared,
                troubled: &self.troubled,
                unreadable: &self.unreadable,
                settled: self.settled,
                allow_empty: self.allow_empty,
            };
            self.guard.judge(&self.last, &observed, Timestamp::from_unix_ms(at_ms))
        }

        /// Two settled looks; the names that run afterwards.
        fn after(&mut self, declared: &Declared) -> Vec<String> {
            self.judge(declared, 0);
            match self.judge(declared, 1) {
                Judgement::Proceed { declared, .. } => declared.endpoints.keys().map(ToString::to_string).collect(),
                Judgement::LookAgain { missing } => panic!("looks again for {missing:?}"),
            }
        }
    }

    #[test]
    fn a_deletion_needs_two_agreeing_readings() {
        let mut case = Case::new(&["a", "b"]);
        let (one, both) = (declared(&["a"]), declared(&["a", "b"]));
        assert!(matches!(case.judge(&one, 0), Judgement::LookAgain { .. }));
        assert!(matches!(case.judge(&both, 1), Judgement::Proceed { .. }));
        assert!(matches!(case.judge(&one, 2), Judgement::LookAgain { .. }), "it came back in between");
        assert!(matches!(case.judge(&one, 3), Judgement::Proceed { .. }));
    }

    #[test]
    fn an_unsettled_source_proves_absence_only_slowly() {
        let mut case = Case::new(&["a", "b"]);
        case.settled = false;
        let one = declared(&["a"]);
        for at_ms in [0, 1, 9_999] {
            assert!(matches!(case.judge(&one, at_ms), Judgement::LookAgain { .. }), "{at_ms}");
        }
        assert!(matches!(case.judge(&one, 10_000), Judgement::Proceed { .. }));
    }

    #[test]
    fn trouble_deletes_nothing() {
        let mut case = Case::new(&["a", "b", "c/d"]);
        case.troubled.insert(Identity::new(Kind::Endpoint, Name::parse("b").unwrap()));
        case.unreadable.insert(Arc::from("d/c/"));
        assert_eq!(case.after(&declared(&["a"])), ["a", "b", "c/d"]);
    }

    #[test]
    fn too_much_at_once_waits_to_be_confirmed() {
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
    fn what_is_not_to_be_pruned_stays_until_it_is_named() {
        assert_eq!(Case::new(&["a", "kept"]).after(&declared(&["a"])), ["a", "kept"]);
        let mut confirmed = declared(&["a"]);
        let mut reconcile = Reconcile::default();
        reconcile.prune.confirm = vec![Name::parse("kept").unwrap()];
        confirmed.reconcile = Arc::new(reconcile);
        assert_eq!(Case::new(&["a", "kept"]).after(&confirmed), ["a"]);
    }
}
