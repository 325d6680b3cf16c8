//! Wills are authorized when they are due: by the rules of that moment, and as of a client that would still be admitted
//! then. A will that may not be published any more is dropped, counted and reported.

use std::sync::Arc;

use crate::clients::wills::{RefusedWill, WillRefusal};
use crate::ids::{Millis, NamespaceId, SessionId, SessionRef};
use crate::links::outbox::{Handover, Recipients};
use crate::values::will::PendingWill;
use crate::{Core, Dropped, EndpointPolicy, MemoryKind, Subject};

impl Core {
    /// Wills that were dropped since the last call, the first [`REFUSED_WILLS_REPORTED_MAX`] of them.
    ///
    /// [`REFUSED_WILLS_REPORTED_MAX`]: crate::limits::REFUSED_WILLS_REPORTED_MAX
    pub fn take_refused_wills(&mut self) -> Vec<RefusedWill> {
        self.wills.take_refused()
    }

    /// Publishes a will that is due, if its client still may.
    pub(crate) fn send_will(
        &mut self,
        session: SessionRef,
        (namespace, client_id, policy): (NamespaceId, &str, &Arc<EndpointPolicy>),
        will: PendingWill,
        now: Millis,
    ) {
        let Some(will) = self.hold_due_will(session, (namespace, client_id, policy), will) else { return };
        let Some(will) = self.intercept_will((namespace, client_id, policy), will) else { return };
        if let Some(why) = self.will_refusal(namespace, client_id, &policy.name, &will) {
            return self.refuse_will(namespace, client_id, policy, &will, why);
        }
        let to =
            Recipients::Subscribers { namespace, client_id: client_id.into(), durable: policy.limits.is_durable() };
        let PendingWill { record, mut message, .. } = will;
        if message.expires_at != Millis::MAX {
            // The expiry counts from the moment of publication, which is now [MQTT 5.0 section 3.1.3.2.4].
            message.expires_at = now.saturating_add(message.expires_at);
        }
        let will = Handover { record, to, message };
        if !record.is_some() && self.receivers_at_once(namespace, will.message.topic()).is_none() {
            if !self.has_memory(MemoryKind::Held, will.message.size()) {
                self.memory.count_refusal(MemoryKind::Held);
                self.will_dropped_event((namespace, client_id, policy), will.message.topic(), Dropped::QueueFull);
                return self.count_dropped(policy.id, Dropped::QueueFull, 1);
            }
            self.will_published_event((namespace, client_id, policy), &will.message);
            return self.defer_will(namespace, session, will);
        }
        self.will_published_event((namespace, client_id, policy), &will.message);
        self.publish_will(&will, session.id, None);
    }

    /// Why a will that is due may not be published; `None`: it may.
    fn will_refusal(
        &self,
        namespace: NamespaceId,
        client_id: &str,
        endpoint: &str,
        will: &PendingWill,
    ) -> Option<WillRefusal> {
        let (principal, message) = (&will.principal, &will.message);
        let subject = Subject { client_id, username: principal.username.as_deref(), address: principal.address };
        let admits = |policy: &EndpointPolicy| {
            policy.admission.as_ref().is_none_or(|admission| admission.still_admits(client_id, principal))
        };
        let permits = |policy: &EndpointPolicy| {
            let mut acls = policy.acl.iter().chain(&principal.claims_acl);
            acls.all(|acl| acl.may_publish(subject, message.topic(), message.qos, message.retain))
        };
        if self.routing.grants(namespace, endpoint, |policy| admits(policy) && permits(policy)) {
            return None;
        }
        let admitted = self.routing.grants(namespace, endpoint, admits);
        Some(if admitted { WillRefusal::NotPermitted } else { WillRefusal::NotAdmitted })
    }

    /// Counts a will that is dropped, and keeps it for the log.
    fn refuse_will(
        &mut self,
        namespace: NamespaceId,
        client_id: &str,
        policy: &EndpointPolicy,
        will: &PendingWill,
        why: WillRefusal,
    ) {
        let id = self.routing.policy(namespace, &policy.name).map_or(policy.id, |current| current.id);
        let index = self.observe.index_of(id);
        self.observe.count_dropped(index, Dropped::Revoked, 1);
        self.will_dropped_event((namespace, client_id, policy), will.message.topic(), Dropped::Revoked);
        self.wills.report(|| RefusedWill {
            endpoint: Arc::clone(&policy.name),
            client_id: client_id.into(),
            topic: will.message.topic().into(),
            why,
        });
    }

    /// Drops the will of a client that lost its right to be connected.
    pub(crate) fn drop_revoked_will(&mut self, id: SessionId) {
        let Some(session) = self.clients.session_mut(id) else { return };
        let Some(will) = session.will.take() else { return };
        let (namespace, client_id, policy) =
            (session.namespace, session.client_id.clone(), Arc::clone(&session.policy));
        self.refuse_will(namespace, &client_id, &policy, &will, WillRefusal::Revoked);
    }
}
