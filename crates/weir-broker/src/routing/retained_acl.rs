//! The publishers of retained messages, and whether they still may publish: a message must not outlive that right.
//!
//! The rules of the endpoint that a message came in by are applied each time it is about to be delivered. So a right that
//! is taken away needs no search among what is retained, and one that is given back brings its messages back.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::EndpointPolicy;
use crate::ids::EndpointId;
use crate::values::message::Message;

/// Policies of all endpoints of the node, by name; a topic's owner needs those of other shards too.
#[derive(Debug, Default)]
pub(crate) struct RetainedAcl {
    by_endpoint: BTreeMap<Arc<str>, Arc<EndpointPolicy>>,
}

impl RetainedAcl {
    /// Identifiers grow: a newer endpoint takes an older one's name, never the other way round.
    pub(crate) fn insert(&mut self, policy: &Arc<EndpointPolicy>) {
        if self.by_endpoint.get(&policy.name).is_none_or(|known| known.id <= policy.id) {
            self.by_endpoint.insert(Arc::clone(&policy.name), Arc::clone(policy));
        }
    }

    pub(crate) fn contains(&self, policy: &EndpointPolicy) -> bool {
        self.by_endpoint.get(&policy.name).is_some_and(|known| known.id == policy.id)
    }

    pub(crate) fn remove(&mut self, endpoint: EndpointId) {
        self.by_endpoint.retain(|_, policy| policy.id != endpoint);
    }

    /// The policy of an endpoint of the namespace, where it is there under that name.
    pub(crate) fn policy(&self, namespace: &str, endpoint: &str) -> Option<&Arc<EndpointPolicy>> {
        self.by_endpoint.get(endpoint).filter(|policy| *policy.namespace == *namespace)
    }

    /// Whether an endpoint grants what `may` asks. Where it is gone from the namespace (or has another name now), any other
    /// of the namespace that grants it is enough, and one that does is needed.
    pub(crate) fn grants(&self, namespace: &str, endpoint: &str, may: impl Fn(&EndpointPolicy) -> bool) -> bool {
        match self.policy(namespace, endpoint) {
            Some(policy) => may(policy),
            None => self.by_endpoint.values().any(|policy| *policy.namespace == *namespace && may(policy)),
        }
    }

    /// Whether the publisher of a retained `message` may still publish it.
    pub(crate) fn permits(&self, namespace: &str, message: &Message) -> bool {
        let Some(publisher) = &message.publisher else { return true };
        self.grants(namespace, &publisher.endpoint, |policy| {
            let acl = policy.acl.as_ref();
            acl.is_none_or(|acl| acl.may_publish(publisher.subject(), message.topic(), message.qos, true))
        })
    }
}
