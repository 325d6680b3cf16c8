//! Endpoint policies: their registration, and what a change means for open connections.

use std::sync::Arc;

use crate::ids::{ConnectionSlot, EndpointId, Millis};
use crate::values::publisher::PublisherIdentity;
use crate::{Core, EndpointPolicy};

impl Core {
    /// An endpoint is about to be served, here or on another shard: its rules are what its clients' retained messages
    /// are checked against. Changes come by [`Core::set_policy`].
    pub fn register_policy(&mut self, policy: &Arc<EndpointPolicy>, now: Millis) {
        self.now = now;
        if !self.routing.knows_policy(policy) {
            self.learn_policy(policy);
        }
    }

    /// Learns an endpoint's rules. Restored wills that have waited for them, and are due, are authorized by them.
    fn learn_policy(&mut self, policy: &Arc<EndpointPolicy>) {
        self.routing.learn_policy(policy);
        if !self.journal.is_on() {
            return;
        }
        for session in self.clients.adopt_restored(policy) {
            self.session_is_due(session, self.now);
        }
    }

    /// An endpoint is removed: its rules grant no right any more.
    pub fn unregister_policy(&mut self, endpoint: EndpointId) {
        self.routing.forget_policy(endpoint);
    }

    /// As whom a connection publishes what is retained.
    pub(crate) fn publisher(&mut self, slot: ConnectionSlot) -> Option<Arc<PublisherIdentity>> {
        let (connection, session) = self.clients.connection_and_session(slot)?;
        let known = connection.cold.as_ref().and_then(|cold| cold.publisher.as_ref());
        // It may have authenticated again with another identity.
        if let Some(known) = known.filter(|known| known.username == connection.principal.username) {
            return Some(Arc::clone(known));
        }
        let client_id = &session?.client_id;
        let publisher = Arc::new(PublisherIdentity::new(client_id, &connection.principal, &connection.policy.name));
        connection.cold_mut().publisher = Some(Arc::clone(&publisher));
        Some(publisher)
    }

    /// A new policy for an endpoint's open connections: limits change live, subscriptions the new
    /// rules refuse are removed, queued messages they forbid are dropped; what the endpoint's clients had retained is
    /// given out as far as they may still publish it.
    pub fn set_policy(&mut self, policy: Arc<EndpointPolicy>, now: Millis) {
        self.now = now;
        self.learn_policy(&policy);
        for id in self.connections(policy.id) {
            let Some(connection) = self.clients.connection_mut(id.slot) else { continue };
            connection.policy = Arc::clone(&policy);
            connection.intercepts_deliveries = policy.intercepts_deliveries();
            connection.permitted = None;
            let rates = crate::clients::rate_limit::PublishRates::new(&policy.limits, now);
            if rates.is_some() || connection.cold.is_some() {
                let cold = connection.cold_mut();
                cold.rates = rates;
                // Ends a pause that the previous rates imposed.
                cold.resumes_at = cold.resumes_at.min(now);
            }
            let session = connection.session;
            if let Some(session) = self.clients.session_mut(session) {
                session.policy = Arc::clone(&policy);
            }
            self.reauthorize_session(session);
            self.drain_queue(session, now);
        }
    }
}
