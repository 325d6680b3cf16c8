//! Who published what is retained, and whether they still may: a kept message must not outlive its publisher's right.
//!
//! It is judged each time it is about to be given out, by the rules that hold then where it came in. So a right that
//! is taken away needs no search among what is retained, and one that is given back brings its messages back.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::HashMap;

use super::message::Message;
use super::record::{Fields, Value};
use super::session::SpaceId;
use super::{Core, EndpointId, EndpointPolicy, Millis, Principal, Subject};

/// Who published. One for all that a connection retains.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Publisher {
    pub(super) client_id: Box<str>,
    pub(super) username: Option<Box<str>>,
    pub(super) address: Option<IpAddr>,
    /// Name of the endpoint it came in by.
    pub(super) endpoint: Arc<str>,
}

impl Publisher {
    pub(super) fn new(client_id: &str, principal: &Principal, endpoint: &Arc<str>) -> Self {
        Self {
            client_id: client_id.into(),
            username: principal.username.clone(),
            address: principal.address,
            endpoint: Arc::clone(endpoint),
        }
    }

    /// Writes it into a record.
    pub(super) fn write(&self, fields: &mut Fields<'_>) {
        fields.sized(self.client_id.as_bytes()).sized(self.endpoint.as_bytes());
        write_identity(fields, self.username.as_deref(), self.address);
    }

    /// Reads what [`Publisher::write`] wrote.
    pub(super) fn read(value: &mut Value<'_>) -> Option<Self> {
        let (client_id, endpoint) = (value.text()?, value.text()?);
        let (username, address) = read_identity(value)?;
        Some(Self { client_id: client_id.into(), username, address, endpoint: endpoint.into() })
    }

    fn subject(&self) -> Subject<'_> {
        Subject { client_id: &self.client_id, username: self.username.as_deref(), address: self.address }
    }
}

/// Writes a user name and an address into a record.
pub(super) fn write_identity(fields: &mut Fields<'_>, username: Option<&str>, address: Option<IpAddr>) {
    fields.u8(u8::from(username.is_some())).sized(username.unwrap_or_default().as_bytes());
    fields.sized(address.map(|address| address.to_string()).unwrap_or_default().as_bytes());
}

/// Reads what [`write_identity`] wrote.
pub(super) fn read_identity(value: &mut Value<'_>) -> Option<(Option<Box<str>>, Option<IpAddr>)> {
    let has_username = value.u8()? != 0;
    let (username, address) = (value.text()?, value.text()?);
    let address = if address.is_empty() { None } else { Some(address.parse().ok()?) };
    Some((has_username.then(|| username.into()), address))
}

/// The rules in force on each endpoint of the node, by its name: a topic's owner judges for endpoints of which it may
/// have no connection.
#[derive(Debug, Default)]
pub(super) struct Rules {
    by_endpoint: HashMap<Arc<str>, Arc<EndpointPolicy>>,
}

impl Rules {
    /// Identifiers grow: a newer endpoint takes an older one's name, never the other way round.
    fn learn(&mut self, policy: &Arc<EndpointPolicy>) {
        if self.by_endpoint.get(&policy.name).is_none_or(|known| known.id <= policy.id) {
            self.by_endpoint.insert(Arc::clone(&policy.name), Arc::clone(policy));
        }
    }

    fn forget(&mut self, endpoint: EndpointId) {
        self.by_endpoint.retain(|_, policy| policy.id != endpoint);
    }

    /// The rules of an endpoint of the namespace, where it is there under that name.
    pub(super) fn of(&self, namespace: &str, endpoint: &str) -> Option<&Arc<EndpointPolicy>> {
        self.by_endpoint.get(endpoint).filter(|policy| *policy.namespace == *namespace)
    }

    /// Whether an endpoint grants what `may` asks. Where it is gone from the namespace (or has another name now), any other
    /// of the namespace that grants it is enough, and one that does is needed.
    pub(super) fn grant(&self, namespace: &str, endpoint: &str, may: impl Fn(&EndpointPolicy) -> bool) -> bool {
        match self.of(namespace, endpoint) {
            Some(policy) => may(policy),
            None => self.by_endpoint.values().any(|policy| *policy.namespace == *namespace && may(policy)),
        }
    }

    /// Whether who published a retained `message` still may.
    pub(super) fn permit(&self, namespace: &str, message: &Message) -> bool {
        let Some(publisher) = &message.publisher else { return true };
        self.grant(namespace, &publisher.endpoint, |policy| {
            let acl = policy.acl.as_ref();
            acl.is_none_or(|acl| acl.may_publish(publisher.subject(), message.topic(), message.qos, true))
        })
    }
}

impl Core {
    /// An endpoint is about to be served, here or on another shard: its rules are what its clients' retained messages
    /// are judged by. Changes come by [`Core::set_policy`].
    pub fn know_policy(&mut self, policy: &Arc<EndpointPolicy>, now: Millis) {
        self.now = now;
        let known = self.rules.by_endpoint.get(&policy.name).is_some_and(|known| known.id == policy.id);
        if !known {
            self.learn_policy(policy);
        }
    }

    /// An endpoint is gone for good, and gives nobody a right any more.
    pub fn forget_policy(&mut self, endpoint: EndpointId) {
        self.rules.forget(endpoint);
    }

    /// Learns an endpoint's rules. Restored sessions that have waited for them are judged by them, if that is due.
    pub(super) fn learn_policy(&mut self, policy: &Arc<EndpointPolicy>) {
        self.rules.learn(policy);
        for session in self.adopt(policy) {
            self.session_is_due(session, self.now);
        }
    }

    /// As whom a connection publishes what is retained.
    pub(super) fn publisher(&mut self, slot: u32) -> Option<Arc<Publisher>> {
        let connection = self.connections.get_mut(slot)?;
        let known = connection.rare.as_ref().and_then(|aside| aside.publisher.as_ref());
        // It may have authenticated again, as somebody else.
        if let Some(known) = known.filter(|known| known.username == connection.principal.username) {
            return Some(Arc::clone(known));
        }
        let client_id = &self.sessions.get(connection.session)?.client_id;
        let publisher = Arc::new(Publisher::new(client_id, &connection.principal, &connection.policy.name));
        connection.aside().publisher = Some(Arc::clone(&publisher));
        Some(publisher)
    }

    /// Whether a message that was retained may still be given out.
    pub(super) fn may_give_out(&self, space: SpaceId, message: &Message) -> bool {
        message.publisher.is_none() || self.rules.permit(&self.spaces[space as usize].name, message)
    }
}
