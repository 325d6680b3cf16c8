//! Wills are judged when they are due: by the rules of that moment, and as of a client that would still be admitted then.
//! What may not be sent any more is dropped, counted and told.

use std::sync::Arc;

use super::record::{Fields, Value};
use super::session::{PendingWill, SpaceId};
use super::subscriptions::SessionId;
use super::{Core, Dropped, EndpointPolicy, Millis, Principal, Subject, limits};

/// A will that was dropped when it was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWill {
    /// Name of the endpoint that its client came in by.
    pub endpoint: Arc<str>,
    pub client_id: Box<str>,
    pub topic: Box<str>,
    pub why: WillRefusal,
}

/// Why a will was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillRefusal {
    /// Its client was banned since, or the record that admitted it was deleted or changed; or nothing of the namespace
    /// admits anybody.
    NotAdmitted,
    /// Its client may not publish that any more.
    NotPermitted,
    /// Its client was thrown out.
    Revoked,
}

/// What a core knows of wills in general.
#[derive(Debug, Default)]
pub(super) struct Wills {
    /// Until when those that were restored wait for their endpoint to be declared.
    pub(super) awaited_until: Millis,
    refused: Vec<RefusedWill>,
}

impl Core {
    /// Wills that were dropped since the last call, the first [`limits::REFUSED_WILLS_TOLD_MAX`] of them.
    pub fn take_refused_wills(&mut self) -> Vec<RefusedWill> {
        std::mem::take(&mut self.wills.refused)
    }

    /// Why a will that is due may not be sent; `None`: it may.
    pub(super) fn will_refusal(
        &self,
        space: SpaceId,
        client_id: &str,
        endpoint: &str,
        will: &PendingWill,
    ) -> Option<WillRefusal> {
        let (namespace, principal, message) = (&self.spaces[space as usize].name, &will.principal, &will.message);
        let subject = Subject { client_id, username: principal.username.as_deref(), address: principal.address };
        let admits = |policy: &EndpointPolicy| {
            policy.admission.as_ref().is_none_or(|admission| admission.still_admits(client_id, principal))
        };
        let permits = |policy: &EndpointPolicy| {
            let mut acls = policy.acl.iter().chain(&principal.claims_acl);
            acls.all(|acl| acl.may_publish(subject, message.topic(), message.qos, message.retain))
        };
        if self.rules.grant(namespace, endpoint, |policy| admits(policy) && permits(policy)) {
            return None;
        }
        let admitted = self.rules.grant(namespace, endpoint, admits);
        Some(if admitted { WillRefusal::NotPermitted } else { WillRefusal::NotAdmitted })
    }

    /// Counts a will that is dropped, and notes it for the log.
    pub(super) fn refuse_will(
        &mut self,
        space: SpaceId,
        client_id: &str,
        policy: &EndpointPolicy,
        will: &PendingWill,
        why: WillRefusal,
    ) {
        let known = self.rules.of(&self.spaces[space as usize].name, &policy.name);
        let place = self.endpoint_place(known.map_or(policy.id, |known| known.id));
        self.counters[place as usize].dropped[Dropped::Revoked as usize] += 1;
        if self.wills.refused.len() < limits::REFUSED_WILLS_TOLD_MAX {
            let (endpoint, topic) = (Arc::clone(&policy.name), will.message.topic().into());
            self.wills.refused.push(RefusedWill { endpoint, client_id: client_id.into(), topic, why });
        }
    }

    /// Drops the will of a client that is thrown out.
    pub(super) fn revoke_will(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get_mut(id) else { return };
        let Some(will) = session.will.take() else { return };
        let (space, client_id, policy) = (session.space, session.client_id.clone(), Arc::clone(&session.policy));
        self.refuse_will(space, &client_id, &policy, &will, WillRefusal::Revoked);
    }
}

/// The form of a session's record that has a will; 1 had no principal.
pub(super) const WILL_FORM: u8 = 2;

/// Writes into a record as whom a will is published. Rules that a credential carried are not among it: they were asked at
/// CONNECT, and no declaration changes them.
pub(super) fn write_principal(fields: &mut Fields<'_>, principal: &Principal) {
    super::provenance::write_identity(fields, principal.username.as_deref(), principal.address);
    fields.sized(principal.admitted_by.as_bytes());
}

/// Reads what [`write_principal`] wrote in a record of that form. `None`: it is not understood.
pub(super) fn read_principal(form: u8, value: &mut Value<'_>) -> Option<Principal> {
    let ((username, address), admitted_by) = match form {
        // By whom it was admitted is not known: whoever authenticates does not confirm it.
        1 => ((None, None), ""),
        WILL_FORM => (super::provenance::read_identity(value)?, value.text()?),
        _ => return None,
    };
    Some(Principal { username, address, admitted_by: admitted_by.into(), claims_acl: None, expires_at: None })
}
