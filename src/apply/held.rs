//! What the guard leaves as it was: noted, told, and said in conditions.

use std::collections::BTreeMap;

use super::files::ReadFiles;
use super::plane::Plane;
use super::reconciler::Reconciler;
use weir_declare::config::{Endpoint, Held, HeldCause, Identity, Kind, Name};
use weir_declare::reconcile::Reason;

const RELEASED: &str = "hold released: it was confirmed, or declared again";

impl<P: Plane, F: ReadFiles> Reconciler<P, F> {
    /// Whether something is held since the last call that was not: to be kept before anything else is read, or a restart
    /// would judge what is left of the deletion by itself.
    pub fn take_newly_held(&mut self) -> bool {
        std::mem::take(&mut self.newly_held)
    }

    /// Takes over what is held from now on.
    pub(super) fn note_held(&mut self, held: BTreeMap<Identity, Held>) {
        if self.held == held {
            return;
        }
        for (identity, held) in held.iter().filter(|(identity, held)| self.held.get(*identity) != Some(held)) {
            tell_held(identity, held);
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

    /// Why an endpoint is not as it is declared.
    pub(super) fn held_endpoint(&self, name: &Name) -> Option<(Reason, String)> {
        let held = self.held_as(Kind::Endpoint, name)?;
        let reason = match held.cause {
            HeldCause::Unreadable => Reason::Unreadable,
            HeldCause::LockOut => Reason::LockOutHeld,
            HeldCause::Deletion | HeldCause::Needed => Reason::DeletionHeld,
        };
        Some((reason, held.why.clone()))
    }

    fn held_as(&self, kind: Kind, name: &Name) -> Option<&Held> {
        if self.held.is_empty() { None } else { self.held.get(&Identity::new(kind, name.clone())) }
    }

    /// A document that is gone, and in force because its deletion would lock everybody out.
    pub(super) fn held_document(&self, endpoint: &Endpoint) -> Option<(Reason, String)> {
        let auth = self.applied.auths.get_key_value(endpoint.auth_name()).filter(|_| endpoint.enable_auth);
        let acl = self.applied.acls.get_key_value(endpoint.acl_name()).filter(|_| endpoint.enable_acl);
        let named = [(Kind::Auth, auth.map(|(name, _)| name)), (Kind::Acl, acl.map(|(name, _)| name))];
        let mut held = named.into_iter().filter_map(|(kind, name)| self.held_as(kind, name?));
        let held = held.find(|held| held.cause == HeldCause::LockOut)?;
        Some((Reason::LockOutHeld, held.why.clone()))
    }
}

/// Whether its document is there and declares it otherwise; else the document is gone.
pub(super) fn is_edit(identity: &Identity, held: &Held) -> bool {
    held.cause == HeldCause::LockOut && identity.kind == Kind::Endpoint
}

/// Logs what is held, and why.
pub(super) fn tell_held(identity: &Identity, held: &Held) {
    let what = match held.cause {
        HeldCause::Unreadable => "document unreadable",
        _ if is_edit(identity, held) => "change held",
        _ => "deletion held",
    };
    match identity.kind {
        Kind::Endpoint => tracing::warn!(endpoint = %identity.name, "{what}: {}", held.why),
        _ => tracing::warn!(document = %identity, "{what}: {}", held.why),
    }
}
