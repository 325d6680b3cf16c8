//! Permission to subscribe, checked at SUBSCRIBE and again after a change of the access lists.

use std::sync::Arc;

use super::events::is_of_events;
use crate::ids::{SessionId, SessionRef};
use crate::observe::Site;
use crate::observe::events::CoreEventKind;
use crate::routing::shared_groups::SharedSubscription;
use crate::values::group::GroupKey;
use crate::{Authorize, Core, Subject};
use weir_mqtt::QoS;

/// Whether all access lists permit a subscription. Events name other clients: without an access list, none may be read.
pub(super) fn permit_subscription<'a>(
    acls: impl Iterator<Item = &'a Arc<dyn Authorize>>,
    subject: Subject<'_>,
    filter: &str,
    qos: QoS,
) -> bool {
    let mut acls = acls.peekable();
    (acls.peek().is_some() || !is_of_events(filter)) && acls.all(|acl| acl.may_subscribe(subject, filter, qos))
}

impl Core {
    /// Drops what the session was refused since, or may not receive any more; see [`Core::set_policy`]. Its will is judged
    /// when it is due.
    pub(crate) fn reauthorize_session(&mut self, id: SessionId) {
        let Some(session) = self.clients.session(id) else { return };
        let Some(slot) = session.connection else { return };
        let Some(connection) = self.clients.connection(slot) else {
            return self.observe.count_error(Site::ConnectionOfSession);
        };
        let acls = [connection.policy.acl.clone(), connection.principal.claims_acl.clone()];
        let acls: Vec<_> = acls.into_iter().flatten().collect();
        let namespace = session.namespace;
        if acls.is_empty() && !self.reads_events(id) {
            return;
        }
        let Some(session) = self.clients.session(id) else { return };
        let client_id = session.client_id.clone();
        let principal = connection.principal.clone();
        let address = principal.address;
        let subject = Subject { client_id: &client_id, username: principal.username.as_deref(), address };
        for node in session.subscriptions.clone() {
            let Some((filter, subscriber)) = self.routing.subscriptions_mut(namespace).get(node, id) else {
                self.observe.count_error(Site::SubscriptionOfSession);
                continue;
            };
            if !permit_subscription(acls.iter(), subject, &filter, subscriber.options.qos) {
                self.unsubscribe_node(id, namespace, node);
                self.unsubscribed_event(id, &filter, false);
            }
        }
        let Some(session) = self.clients.session_mut(id) else { return };
        let refused = |(key, shared): &(&Arc<GroupKey>, &SharedSubscription)| {
            !permit_subscription(acls.iter(), subject, &key.filter, shared.qos)
        };
        let shared = session.cold.iter().flat_map(|cold| &cold.shared);
        let refused: Vec<Arc<GroupKey>> = shared.filter(refused).map(|(key, _)| Arc::clone(key)).collect();
        let left: Vec<_> = refused.iter().filter_map(|key| session.remove_group(key)).collect();
        let may_receive = |topic: &str| {
            (!acls.is_empty() || !is_of_events(topic)) && acls.iter().all(|acl| acl.may_receive(subject, topic))
        };
        let dropped = session.queue.retain(|q| may_receive(q.message.topic()));
        let durable_id = session.durable.as_ref().map(|durable| durable.id);
        self.forget_queued(durable_id, &dropped);
        let generation = self.clients.session_ref(id).generation;
        for (key, shared) in &left {
            self.leave_group(key, shared, SessionRef { id, generation });
            if self.observe.wants(CoreEventKind::SessionUnsubscribed) {
                self.unsubscribed_event(id, &format!("$share/{}/{}", key.group, key.filter), false);
            }
        }
        dropped.iter().for_each(|q| self.drop_message(slot, q.message.topic(), crate::Dropped::Revoked));
    }

    /// Whether a session has subscribed to events.
    fn reads_events(&self, id: SessionId) -> bool {
        let Some(session) = self.clients.session(id) else { return false };
        let subscriptions = self.routing.subscriptions(session.namespace);
        let mut shared = session.cold.iter().flat_map(|cold| cold.shared.keys());
        session.subscriptions.iter().any(|&node| is_of_events(&subscriptions.filter(node)))
            || shared.any(|key| is_of_events(&key.filter))
    }
}
