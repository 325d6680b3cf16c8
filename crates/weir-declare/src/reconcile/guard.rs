//! Guards against accidental deletions. A document is deleted only if several readings agree that it is absent; an
//! unreadable or invalid one never is. Large deletions and lock-outs wait for confirmation.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Timestamp, lock_out};
use crate::config::{Declared, DocumentIdentity, Held, HeldCause, Kind, Name, Origin, Prune, SortedCursor};

/// Readings that must agree that a document is absent.
const READINGS_TO_CONFIRM: u32 = 2;
/// In a source that changes all the time, a document counts as deleted after this time.
const UNSETTLED_ABSENCE_MS: u64 = 10_000;
/// `maxFraction` does not apply to a set of at most this many endpoints. The last one is guarded all the same.
const UNLIMITED_UP_TO: usize = 3;

/// The state of the guard between passes: absent documents and held deletions.
#[derive(Debug, Clone, Default)]
pub struct DeletionGuard {
    absent: BTreeMap<DocumentIdentity, Absence>,
    /// Endpoints whose deletion waits, and why. They are held until it is confirmed, or they are declared again.
    held: BTreeMap<Name, String>,
}

#[derive(Debug, Clone, Copy)]
struct Absence {
    since: Timestamp,
    readings: u32,
}

/// The input of the guard: one reading of the source.
#[derive(Debug, Clone, Copy)]
pub struct DeletionGuardInput<'a> {
    /// The declaration, including last good declarations.
    pub declared: &'a Declared,
    /// Identities that [`crate::config::load`] refused. Their documents exist, whether or not `declared` has them.
    pub refused: &'a BTreeSet<DocumentIdentity>,
    /// Unreadable files and directories (these end in `/`), as shown. All documents from there count as present.
    pub unreadable: &'a BTreeSet<Arc<str>>,
    /// Whether the source did not change during the reading.
    pub settled: bool,
    /// Whether an empty declaration is intended (`--allow-empty`).
    pub allow_empty: bool,
    /// Whether a document that is absent is certainly meant to be: the program that runs the broker has given all documents.
    pub absence_is_deletion: bool,
}

/// The guard's decision about a reading.
#[derive(Debug, Clone, PartialEq)]
pub enum GuardDecision {
    /// Documents are absent that were applied: read the source again, and apply nothing of this reading.
    ReadAgain {
        /// The documents that are missing.
        missing: Vec<DocumentIdentity>,
    },
    /// The rest may be applied.
    Proceed(Guarded),
}

/// The declaration to apply.
#[derive(Debug, Clone, PartialEq)]
pub struct Guarded {
    /// The reading's declaration, with held parts of the last applied one.
    pub declared: Declared,
    /// The held declarations, and why.
    pub held: BTreeMap<DocumentIdentity, Held>,
}

impl DeletionGuard {
    /// A guard with the held deletions of an earlier one, as after a restart.
    pub fn resume(held: &BTreeMap<DocumentIdentity, Held>) -> Self {
        let deletions =
            held.iter().filter(|(identity, held)| identity.kind == Kind::Endpoint && held.cause == HeldCause::Deletion);
        let held = deletions.map(|(identity, held)| (identity.name.clone(), held.why.clone())).collect();
        Self { absent: BTreeMap::new(), held }
    }

    /// Checks a reading against `last`, the declaration that is in force.
    pub fn check(&mut self, last: &Declared, input: &DeletionGuardInput<'_>, now: Timestamp) -> GuardDecision {
        let missing = self.count_missing(last, input, now);
        let waiting: Vec<DocumentIdentity> =
            missing.iter().filter(|identity| !self.is_confirmed(identity, input.settled, now)).cloned().collect();
        if !waiting.is_empty() && !input.absence_is_deletion {
            return GuardDecision::ReadAgain { missing: waiting };
        }
        GuardDecision::Proceed(self.decide(last, input, &missing))
    }

    /// Decides about a change from `last` to `wanted` without a second reading, for plans.
    pub fn preview(&mut self, last: &Declared, wanted: &Declared) -> Guarded {
        let input = DeletionGuardInput {
            declared: wanted,
            refused: &BTreeSet::new(),
            unreadable: &BTreeSet::new(),
            settled: true,
            allow_empty: false,
            absence_is_deletion: false,
        };
        let missing = removed_documents(last, wanted).into_iter().map(|(identity, _)| identity).collect();
        self.decide(last, &input, &missing)
    }

    /// Decides what to hold. `missing`: documents that are deleted for certain.
    fn decide(
        &mut self,
        last: &Declared,
        input: &DeletionGuardInput<'_>,
        missing: &BTreeSet<DocumentIdentity>,
    ) -> Guarded {
        self.hold_deletions(last, input, missing);
        let mut guarded = Guarded { declared: input.declared.clone(), held: BTreeMap::new() };
        let lock_outs = lock_out::find(last, input.declared);
        for (identity, why) in lock_outs.documents {
            guarded.keep_document(last, identity, HeldCause::LockOut, why);
        }
        for (name, why) in &lock_outs.endpoints {
            guarded.keep_endpoint(last, name, HeldCause::LockOut, why);
        }
        let mut declared = SortedCursor::over(&input.declared.endpoints);
        for name in last.endpoints.keys().filter(|name| declared.get(name).is_none()) {
            if !missing.contains(&DocumentIdentity::new(Kind::Endpoint, name.clone())) && !self.held.contains_key(name)
            {
                guarded.keep_endpoint(last, name, HeldCause::Unreadable, "its document cannot be read");
            }
        }
        for (name, why) in &self.held {
            guarded.keep_endpoint(last, name, HeldCause::Deletion, why);
        }
        guarded
    }

    /// Updates the held deletions. Deletions that wait already count neither as deleted nor as part of the total.
    fn hold_deletions(
        &mut self,
        last: &Declared,
        input: &DeletionGuardInput<'_>,
        missing: &BTreeSet<DocumentIdentity>,
    ) {
        if input.absence_is_deletion {
            self.held.clear();
            return;
        }
        let prune = &input.declared.reconcile.prune;
        let empty_is_meant = input.allow_empty && input.declared.endpoints.is_empty();
        let identity = |name: &Name| DocumentIdentity::new(Kind::Endpoint, name.clone());
        self.held.retain(|name, _| {
            let declared_again =
                input.declared.endpoints.contains_key(name) && !input.refused.contains(&identity(name));
            last.endpoints.contains_key(name) && !declared_again
        });
        let had = last.endpoints.len() - self.held.len();
        self.held
            .retain(|name, _| !missing.contains(&identity(name)) || !prune.confirm.contains(name) && !empty_is_meant);
        let deleted: Vec<&Name> = missing
            .iter()
            .filter(|identity| identity.kind == Kind::Endpoint)
            .map(|identity| &identity.name)
            .filter(|name| !prune.confirm.contains(name) && !self.held.contains_key(*name))
            .collect();
        let held = newly_held(last, input, &deleted, had);
        self.held.extend(held);
    }

    /// The applied documents that are absent, without those that are refused or unreadable. Counts the readings of
    /// each.
    fn count_missing(
        &mut self,
        last: &Declared,
        input: &DeletionGuardInput<'_>,
        now: Timestamp,
    ) -> BTreeSet<DocumentIdentity> {
        let missing: BTreeSet<DocumentIdentity> = removed_documents(last, input.declared)
            .into_iter()
            .filter(|(identity, file)| !input.refused.contains(identity) && !is_unreadable(file, input.unreadable))
            .map(|(identity, _)| identity)
            .collect();
        self.absent.retain(|identity, _| missing.contains(identity));
        for identity in &missing {
            let absence = self.absent.entry(identity.clone()).or_insert(Absence { since: now, readings: 0 });
            absence.readings += u32::from(input.settled);
        }
        missing
    }

    fn is_confirmed(&self, identity: &DocumentIdentity, settled: bool, now: Timestamp) -> bool {
        self.absent.get(identity).is_some_and(|absence| {
            absence.readings >= READINGS_TO_CONFIRM || (!settled && now.since_ms(absence.since) >= UNSETTLED_ABSENCE_MS)
        })
    }
}

/// Every document of `last` that `now` does not have, with its file.
fn removed_documents<'a>(last: &'a Declared, now: &Declared) -> Vec<(DocumentIdentity, &'a Arc<str>)> {
    fn collect<'a, T>(
        kind: Kind,
        last: &'a BTreeMap<Name, Arc<T>>,
        now: &BTreeMap<Name, Arc<T>>,
        origin: fn(&T) -> &Origin,
        removed: &mut Vec<(DocumentIdentity, &'a Arc<str>)>,
    ) {
        let mut there = SortedCursor::over(now);
        for (name, it) in last {
            if there.get(name).is_none() {
                removed.push((DocumentIdentity::new(kind, name.clone()), &origin(it).file));
            }
        }
    }
    let mut removed = Vec::new();
    collect(Kind::Endpoint, &last.endpoints, &now.endpoints, |it| &it.origin, &mut removed);
    collect(Kind::Auth, &last.auths, &now.auths, |it| &it.origin, &mut removed);
    collect(Kind::Acl, &last.acls, &now.acls, |it| &it.origin, &mut removed);
    collect(Kind::Bridge, &last.bridges, &now.bridges, |it| &it.origin, &mut removed);
    collect(Kind::Ban, &last.bans, &now.bans, |it| &it.origin, &mut removed);
    if let (Some(defaults), None) = (&last.defaults, &now.defaults) {
        removed.push((DocumentIdentity::single(Kind::Defaults), &defaults.origin.file));
    }
    if !last.reconcile.origin.file.is_empty() && now.reconcile.origin.file.is_empty() {
        removed.push((DocumentIdentity::single(Kind::Reconcile), &last.reconcile.origin.file));
    }
    if let (Some(events), None) = (&last.events, &now.events) {
        removed.push((DocumentIdentity::single(Kind::Events), &events.origin.file));
    }
    if let (Some(cluster), None) = (&last.cluster, &now.cluster) {
        removed.push((DocumentIdentity::single(Kind::Cluster), &cluster.origin.file));
    }
    removed
}

fn is_unreadable(file: &str, unreadable: &BTreeSet<Arc<str>>) -> bool {
    unreadable.iter().any(|shown| if shown.ends_with('/') { file.starts_with(&**shown) } else { *file == **shown })
}

/// The endpoints of `deleted` to hold, and why. `had`: the number of endpoints whose deletion did not wait already.
fn newly_held(
    last: &Declared,
    input: &DeletionGuardInput<'_>,
    deleted: &[&Name],
    had: usize,
) -> BTreeMap<Name, String> {
    let hold = |names: &[&Name], why: &str| names.iter().map(|name| ((*name).clone(), why.to_owned())).collect();
    let remains = !input.declared.endpoints.is_empty();
    if !deleted.is_empty() && !remains && !input.allow_empty {
        return hold(
            deleted,
            "every endpoint was deleted at once; name them in reconcile.prune.confirm to confirm it, declare them again, \
             or run with --allow-empty",
        );
    }
    let fraction = input.declared.reconcile.prune.max_fraction;
    #[allow(clippy::cast_precision_loss)] // counts of endpoints
    let too_many = last.endpoints.len() > UNLIMITED_UP_TO && deleted.len() as f64 > fraction * had as f64;
    if too_many && (remains || !input.allow_empty) {
        let why = format!(
            "{} of {had} endpoints were deleted at once, reconcile.prune.maxFraction allows {fraction}; name them in \
             reconcile.prune.confirm to confirm it, or declare them again",
            deleted.len()
        );
        return hold(deleted, &why);
    }
    let disabled: Vec<&Name> = deleted
        .iter()
        .copied()
        .filter(|name| last.endpoints.get(*name).is_some_and(|endpoint| endpoint.prune == Prune::Disabled))
        .collect();
    hold(&disabled, "prune: disabled; name it in reconcile.prune.confirm to delete it")
}

impl Guarded {
    /// Keeps an endpoint and the documents that it refers to.
    fn keep_endpoint(&mut self, last: &Declared, name: &Name, cause: HeldCause, why: &str) {
        let Some(endpoint) = last.endpoints.get(name) else { return };
        let auth = last.auths.get_key_value(endpoint.auth_name()).filter(|_| endpoint.enable_auth);
        let acl = last.acls.get_key_value(endpoint.acl_name()).filter(|_| endpoint.enable_acl);
        let bridges = endpoint.bridges.iter().filter(|_| endpoint.enable_bridge).map(|name| (Kind::Bridge, name));
        let referenced =
            auth.map(|(name, _)| (Kind::Auth, name)).into_iter().chain(acl.map(|(name, _)| (Kind::Acl, name)));
        for (kind, document) in referenced.chain(bridges) {
            let why = format!("endpoint `{name}` is held and refers to it");
            self.keep_document(last, DocumentIdentity::new(kind, document.clone()), HeldCause::Needed, why);
        }
        self.declared.endpoints.insert(name.clone(), Arc::clone(endpoint));
        let held = Held { cause, why: why.to_owned() };
        self.held.insert(DocumentIdentity::new(Kind::Endpoint, name.clone()), held);
    }

    /// Keeps a deleted document.
    fn keep_document(&mut self, last: &Declared, identity: DocumentIdentity, cause: HeldCause, why: String) {
        fn keep<T>(now: &mut BTreeMap<Name, Arc<T>>, last: &BTreeMap<Name, Arc<T>>, name: &Name) -> bool {
            let Some(document) = last.get(name).filter(|_| !now.contains_key(name)) else { return false };
            now.insert(name.clone(), Arc::clone(document));
            true
        }
        let (now, name) = (&mut self.declared, &identity.name);
        let kept = match identity.kind {
            Kind::Auth => keep(&mut now.auths, &last.auths, name),
            Kind::Acl => keep(&mut now.acls, &last.acls, name),
            Kind::Bridge => keep(&mut now.bridges, &last.bridges, name),
            Kind::Endpoint | Kind::Ban | Kind::Defaults | Kind::Reconcile | Kind::Events | Kind::Cluster => false,
        };
        if kept {
            self.held.insert(identity, Held { cause, why });
        }
    }
}
