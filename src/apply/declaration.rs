//! The accepted declaration: what is in force, what was last good, what is held or refused.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::source::SourceReading;
use crate::state::LastKnownGood;
use weir_declare::config::{
    self, DeclarationDigest, Declared, DocumentIdentity, DocumentRefusal, Endpoint, Held, HeldCause, Kind, LastGood,
    Loaded, Name, NodeContext, Snapshot,
};
use weir_declare::reconcile::{ConditionReason, DeletionGuard, DeletionGuardInput, GuardDecision, Guarded, Timestamp};

const RELEASED: &str = "hold released: it was confirmed, or declared again";

/// The accepted declaration, and the guard that decides about deletions.
pub(super) struct Declaration {
    guard: DeletionGuard,
    /// The last good documents, for the validator.
    last_good: LastGood,
    /// In force: the last accepted declaration, with the held documents of older ones.
    applied: Arc<Declared>,
    /// Whether a declaration was ever accepted.
    accepted_any: bool,
    /// The last known good declaration of an earlier run.
    restored: Option<LastKnownGood>,
    /// Whether `last_good` has changes that are not saved.
    unsaved: bool,
    /// Whether a held document is not saved yet.
    newly_held: bool,
    /// Documents that stay as they were although the source has them otherwise.
    held: BTreeMap<DocumentIdentity, Held>,
    refusals: BTreeMap<DocumentIdentity, DocumentRefusal>,
    suspended: bool,
    digest: String,
    digester: DeclarationDigest,
}

impl Declaration {
    /// Starts from the last known good declarations of an earlier run: revision, time of the save, documents.
    pub(super) fn resume(last_known_good: Option<(String, Timestamp, LastGood)>, now: Timestamp) -> Self {
        let (restored, last_good) = match last_known_good {
            None => (None, LastGood::default()),
            Some((revision, saved_at, last_good)) => {
                (Some(LastKnownGood { revision, saved_at, since: now }), last_good)
            }
        };
        let held = last_good.held().clone();
        held.iter().for_each(|(identity, held)| log_held(identity, held));
        Self {
            guard: DeletionGuard::resume(&held),
            applied: Arc::new(last_good.declared()),
            accepted_any: restored.is_some(),
            last_good,
            restored,
            unsaved: false,
            newly_held: false,
            held,
            refusals: BTreeMap::new(),
            suspended: false,
            digest: String::new(),
            digester: DeclarationDigest::default(),
        }
    }

    /// Validates a snapshot.
    pub(super) fn validate(&self, snapshot: &Snapshot, context: &NodeContext) -> Loaded {
        config::load(snapshot, &self.last_good, context)
    }

    /// Asks the guard whether the documents that are missing in a reading are deleted.
    pub(super) fn guard(
        &mut self,
        loaded: &Loaded,
        reading: &SourceReading,
        allow_empty: bool,
        now: Timestamp,
    ) -> GuardDecision {
        let refused: BTreeSet<DocumentIdentity> = loaded.refusals.keys().cloned().collect();
        let unreadable = unreadable_places(reading);
        let observed = DeletionGuardInput {
            declared: &loaded.declared,
            refused: &refused,
            unreadable: &unreadable,
            settled: reading.unsettled.is_none(),
            allow_empty,
            absence_is_deletion: reading.absence_is_deletion,
        };
        self.guard.check(&self.applied, &observed, now)
    }

    /// Whether `declared` is empty and nothing was accepted before: an empty mount is more likely than an empty
    /// declaration.
    pub(super) fn is_empty_start(&self, declared: &Declared) -> bool {
        !self.accepted_any && declared.endpoints.is_empty()
    }

    /// Records the refusals of a snapshot that is refused as a whole.
    pub(super) fn refuse(&mut self, loaded: &Loaded) {
        self.refusals.clone_from(&loaded.refusals);
    }

    /// Puts a validated declaration in force; while it is suspended, only the settings of `reconcile`.
    pub(super) fn accept(&mut self, loaded: Loaded, Guarded { declared, held }: Guarded) {
        if self.suspended != declared.reconcile.suspend {
            self.suspended = declared.reconcile.suspend;
            if self.suspended {
                tracing::warn!(
                    "reconciliation suspended: nothing is applied until `reconcile: {{suspend: true}}` is removed"
                );
            } else {
                tracing::info!("reconciliation resumed");
            }
        }
        self.refusals = loaded.refusals;
        self.set_held(held);
        if self.suspended {
            if self.applied.reconcile != declared.reconcile {
                let mut applied = (*self.applied).clone();
                applied.reconcile = declared.reconcile;
                self.applied = Arc::new(applied);
                self.last_good.copy_entry(&loaded.last_good, &DocumentIdentity::single(Kind::Reconcile));
                self.unsaved = true;
            }
            self.last_good.set_held(&self.held);
            return;
        }
        let mut last_good = loaded.last_good;
        for identity in self.held.keys() {
            last_good.copy_entry(&self.last_good, identity);
        }
        last_good.set_held(&self.held);
        self.last_good = last_good;
        self.accepted_any = true;
        if self.digest.is_empty() || !same(&self.applied, &declared) {
            self.digest = self.digester.compute(&declared);
            self.unsaved = true;
            self.applied = Arc::new(declared);
        }
    }

    /// Replaces the held documents.
    fn set_held(&mut self, held: BTreeMap<DocumentIdentity, Held>) {
        if self.held == held {
            return;
        }
        for (identity, held) in held.iter().filter(|(identity, held)| self.held.get(*identity) != Some(held)) {
            log_held(identity, held);
            self.newly_held = true;
        }
        for identity in self.held.keys().filter(|identity| !held.contains_key(*identity)) {
            match identity.kind {
                Kind::Endpoint => tracing::info!(endpoint = %identity.name, "{RELEASED}"),
                _ => tracing::info!(document = %identity, "{RELEASED}"),
            }
        }
        self.held = held;
        self.unsaved = true;
    }

    /// The last known good declaration of an earlier run, which is served from `now` on.
    pub(super) fn serve_restored(&mut self, now: Timestamp) -> Option<&LastKnownGood> {
        let restored = self.restored.as_mut()?;
        tracing::warn!(
            revision = restored.revision, saved_at = %restored.saved_at, endpoints = self.applied.endpoints.len(),
            "last known good served: the source cannot be read"
        );
        restored.since = now;
        Some(restored)
    }

    /// Whether there is a declaration to serve.
    pub(super) fn has_any(&self) -> bool {
        self.accepted_any || self.restored.is_some()
    }

    /// In force.
    pub(super) fn applied(&self) -> &Arc<Declared> {
        &self.applied
    }

    /// Over the canonical documents; empty before the first accepted declaration.
    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    pub(super) fn is_suspended(&self) -> bool {
        self.suspended
    }

    pub(super) fn refusals(&self) -> &BTreeMap<DocumentIdentity, DocumentRefusal> {
        &self.refusals
    }

    pub(super) fn held(&self) -> &BTreeMap<DocumentIdentity, Held> {
        &self.held
    }

    /// The revision of the last known good declaration of an earlier run.
    pub(super) fn restored_revision(&self) -> Option<&String> {
        self.restored.as_ref().map(|restored| &restored.revision)
    }

    /// The documents to be saved.
    pub(super) fn last_good(&self) -> &LastGood {
        &self.last_good
    }

    /// Whether the documents to be saved have changed since the last call.
    pub(super) fn take_unsaved(&mut self) -> bool {
        std::mem::take(&mut self.unsaved)
    }

    /// Whether something is newly held since the last call.
    pub(super) fn take_newly_held(&mut self) -> bool {
        std::mem::take(&mut self.newly_held)
    }

    /// Why an endpoint is not as it is declared.
    pub(super) fn held_endpoint(&self, name: &Name) -> Option<(ConditionReason, String)> {
        let held = self.held_as(Kind::Endpoint, name)?;
        let reason = match held.cause {
            HeldCause::Unreadable => ConditionReason::Unreadable,
            HeldCause::LockOut => ConditionReason::LockOutHeld,
            HeldCause::Deletion | HeldCause::Needed => ConditionReason::DeletionHeld,
        };
        Some((reason, held.why.clone()))
    }

    fn held_as(&self, kind: Kind, name: &Name) -> Option<&Held> {
        if self.held.is_empty() { None } else { self.held.get(&DocumentIdentity::new(kind, name.clone())) }
    }

    /// A deleted document that stays in force because its deletion would lock all clients out.
    pub(super) fn held_document(&self, endpoint: &Endpoint) -> Option<(ConditionReason, String)> {
        let auth = self.applied.auths.get_key_value(endpoint.auth_name()).filter(|_| endpoint.enable_auth);
        let acl = self.applied.acls.get_key_value(endpoint.acl_name()).filter(|_| endpoint.enable_acl);
        let named = [(Kind::Auth, auth.map(|(name, _)| name)), (Kind::Acl, acl.map(|(name, _)| name))];
        let mut held = named.into_iter().filter_map(|(kind, name)| self.held_as(kind, name?));
        let held = held.find(|held| held.cause == HeldCause::LockOut)?;
        Some((ConditionReason::LockOutHeld, held.why.clone()))
    }
}

/// Whether the document exists with other content; otherwise it is deleted.
pub(super) fn is_edit(identity: &DocumentIdentity, held: &Held) -> bool {
    held.cause == HeldCause::LockOut && identity.kind == Kind::Endpoint
}

/// Logs what is held and the reason.
fn log_held(identity: &DocumentIdentity, held: &Held) {
    let headline = match held.cause {
        HeldCause::Unreadable => "document unreadable",
        _ if is_edit(identity, held) => "change held",
        _ => "deletion held",
    };
    match identity.kind {
        Kind::Endpoint => tracing::warn!(endpoint = %identity.name, "{headline}: {}", held.why),
        _ => tracing::warn!(document = %identity, "{headline}: {}", held.why),
    }
}

/// Files and directories (these with a slash at their end) that could not be read, as shown.
fn unreadable_places(reading: &SourceReading) -> BTreeSet<Arc<str>> {
    let unread = reading.snapshot.files.iter().filter(|file| file.content.is_err());
    unread
        .map(
            |file| {
                if file.path.ends_with('/') { Arc::from(format!("{}/", file.shown)) } else { Arc::clone(&file.shown) }
            },
        )
        .collect()
}

/// Whether two declarations are equal, document by document; documents that were not parsed again are equal by address.
fn same(a: &Declared, b: &Declared) -> bool {
    fn equal<T: PartialEq>(a: &BTreeMap<Name, Arc<T>>, b: &BTreeMap<Name, Arc<T>>) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|((an, a), (bn, b))| an == bn && (Arc::ptr_eq(a, b) || a == b))
    }
    equal(&a.endpoints, &b.endpoints)
        && equal(&a.auths, &b.auths)
        && equal(&a.acls, &b.acls)
        && equal(&a.bridges, &b.bridges)
        && equal(&a.bans, &b.bans)
        && a.defaults == b.defaults
        && a.reconcile == b.reconcile
        && a.events == b.events
        && a.cluster == b.cluster
}
