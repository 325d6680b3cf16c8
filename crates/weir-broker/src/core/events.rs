//! The core's events: made only where their kind is wanted.

use std::sync::Arc;

use crate::delivery::publish_context::PublishContext;
use crate::ids::{ConnectionSlot, NamespaceId, SessionId};
use crate::observe::events::{
    CoreEventDetail, CoreEventKind, CoreEvents, Ended, EventClient, EventLog, EventMask, RefusedAction,
};
use crate::values::delivery::Delivery;
use crate::values::message::Message;
use crate::values::publisher::PublisherIdentity;
use crate::{Admission, Core, Dropped, EndpointPolicy};
use weir_mqtt::{Connect, Publish, QoS};

/// The first level of the topics that events are published to, and of those that only the broker writes.
const EVENTS_LEVEL: &str = "$events";
const RESERVED_LEVELS: [&str; 2] = ["$SYS", EVENTS_LEVEL];

fn first_level(topic: &str) -> &str {
    topic.split('/').next().unwrap_or_default()
}

/// Whether only the broker may publish to a topic.
pub(crate) fn is_reserved(topic: &str) -> bool {
    topic.starts_with('$') && topic.contains('/') && RESERVED_LEVELS.contains(&first_level(topic))
}

/// Whether a topic, or a filter, is of events. A filter that begins with a wildcard matches none of them [MQTT-4.7.2-1].
pub(crate) fn is_of_events(topic: &str) -> bool {
    topic.starts_with('$') && first_level(topic) == EVENTS_LEVEL
}

impl Core {
    /// Makes events of the kinds that `mask` has, from now on. They are taken with [`Core::take_events`].
    pub fn share_events(&mut self, mask: EventMask) {
        self.observe.events = EventLog::of(mask);
    }

    /// The events since the last call; `None`: none. The driver takes them at the end of each turn.
    pub fn take_events(&mut self) -> Option<CoreEvents> {
        self.observe.events.take()
    }

    /// An event of a session, and of its connection while it has one.
    pub(crate) fn session_event(
        &mut self,
        kind: CoreEventKind,
        id: SessionId,
        detail: impl FnOnce() -> CoreEventDetail,
    ) {
        if self.observe.wants(kind) {
            self.push_session_event(id, detail());
        }
    }

    #[cold]
    fn push_session_event(&mut self, id: SessionId, detail: CoreEventDetail) {
        let Some(session) = self.clients.session(id) else { return };
        let connection = session.connection.and_then(|slot| self.clients.connection(slot));
        let client = EventClient {
            client_id: session.client_id.clone(),
            endpoint: Arc::clone(&session.policy.name),
            namespace: Arc::clone(self.routing.name(session.namespace)),
            username: connection.and_then(|connection| connection.principal.username.clone()),
            address: connection.and_then(|connection| connection.principal.address),
        };
        self.observe.events.push(client, detail);
    }

    /// An event of a connection's session.
    pub(crate) fn connection_event(
        &mut self,
        kind: CoreEventKind,
        slot: ConnectionSlot,
        detail: impl FnOnce() -> CoreEventDetail,
    ) {
        if self.observe.wants(kind)
            && let Some(id) = self.clients.connection(slot).map(|connection| connection.session)
        {
            self.push_session_event(id, detail());
        }
    }

    /// A client was admitted: its session began or resumed, and it is connected.
    pub(crate) fn connected_event(&mut self, id: SessionId, connect: &Connect<'_>, expiry_s: u32, present: bool) {
        let (kind, detail) = if present {
            (CoreEventKind::SessionResumed, CoreEventDetail::SessionResumed)
        } else {
            (CoreEventKind::SessionCreated, CoreEventDetail::SessionCreated)
        };
        self.session_event(kind, id, || detail);
        self.session_event(CoreEventKind::ClientConnected, id, || CoreEventDetail::ClientConnected {
            version: connect.version,
            clean_start: connect.clean_start,
            session_present: present,
            keep_alive_s: connect.keep_alive_s,
            session_expiry_s: expiry_s,
        });
    }

    pub(crate) fn disconnected_event(&mut self, id: SessionId, ended: Ended) {
        self.session_event(CoreEventKind::ClientDisconnected, id, || CoreEventDetail::ClientDisconnected(ended));
    }

    pub(crate) fn subscribed_event(&mut self, id: SessionId, filter: &str, qos: QoS) {
        let detail = || CoreEventDetail::SessionSubscribed { filter: filter.into(), qos };
        self.session_event(CoreEventKind::SessionSubscribed, id, detail);
    }

    pub(crate) fn unsubscribed_event(&mut self, id: SessionId, filter: &str, by_client: bool) {
        let detail = || CoreEventDetail::SessionUnsubscribed { filter: filter.into(), by_client };
        self.session_event(CoreEventKind::SessionUnsubscribed, id, detail);
    }

    /// The rules refused the will of a CONNECT.
    pub(crate) fn will_refused_event(&mut self, admission: &Admission<'_>) {
        if !self.observe.wants(CoreEventKind::AuthorizationRefused) {
            return;
        }
        let topic = admission.connect.will.as_ref().map(|will| will.topic).unwrap_or_default();
        let client = EventClient {
            client_id: admission.client_id.into(),
            endpoint: Arc::clone(&admission.policy.name),
            namespace: Arc::clone(&admission.policy.namespace),
            username: admission.principal.username.clone(),
            address: admission.principal.address,
        };
        let detail = CoreEventDetail::AuthorizationRefused { action: RefusedAction::Will, topic: topic.into() };
        self.observe.events.push(client, detail);
    }

    /// Whether an event of a message is wanted. Events are messages, too, and make none: they would not end.
    #[inline]
    pub(crate) fn wants_message(&mut self, kind: CoreEventKind, topic: &str) -> bool {
        self.observe.wants(kind) && self.observe.events.wants_topic(topic) && !is_of_events(topic)
    }

    /// A PUBLISH of a client was accepted.
    #[inline]
    pub(crate) fn published_event(&mut self, id: SessionId, topic: &str, publish: &Publish<'_>) {
        if self.wants_message(CoreEventKind::MessagePublished, topic) {
            let Publish { qos, retain, payload, .. } = *publish;
            let payload_bytes = payload.len();
            let detail = CoreEventDetail::MessagePublished { topic: topic.into(), qos, retain, payload_bytes };
            self.push_session_event(id, detail);
        }
    }

    /// A will was published.
    pub(crate) fn will_published_event(
        &mut self,
        (namespace, client_id, policy): (NamespaceId, &str, &EndpointPolicy),
        message: &Message,
    ) {
        if self.wants_message(CoreEventKind::MessagePublished, message.topic()) {
            let detail = CoreEventDetail::MessagePublished {
                topic: message.topic().into(),
                qos: message.qos,
                retain: message.retain,
                payload_bytes: message.payload().len(),
            };
            self.push_event_of_offline((namespace, client_id, policy), detail);
        }
    }

    /// A message was sent to a connection.
    #[inline]
    pub(crate) fn delivered_event(&mut self, slot: ConnectionSlot, context: &PublishContext<'_>, delivery: &Delivery) {
        if self.wants_message(CoreEventKind::MessageDelivered, context.topic)
            && let Some(id) = self.clients.connection(slot).map(|connection| connection.session)
        {
            let (topic, payload_bytes) = (context.topic.into(), context.publish.payload.len());
            let (qos, retain) = (delivery.qos, delivery.retain);
            self.push_session_event(id, CoreEventDetail::MessageDelivered { topic, qos, retain, payload_bytes });
        }
    }

    /// A message was acknowledged by its receiver; `message`: what is kept of it.
    #[inline]
    pub(crate) fn acknowledged_event(&mut self, id: SessionId, message: Option<&Message>, qos: QoS, code: u8) {
        if let Some(message) = message
            && self.wants_message(CoreEventKind::MessageAcknowledged, message.topic())
        {
            let topic = message.topic().into();
            self.push_session_event(id, CoreEventDetail::MessageAcknowledged { topic, qos, code });
        }
    }

    /// A session, or the client of a connection, did not get a message. Events that are dropped make none: they would not end.
    pub(crate) fn dropped_event(&mut self, id: SessionId, topic: &str, why: Dropped) {
        if !is_of_events(topic) {
            let detail = || CoreEventDetail::MessageDropped { topic: topic.into(), why };
            self.session_event(CoreEventKind::MessageDropped, id, detail);
        }
    }

    /// A will was dropped.
    pub(crate) fn will_dropped_event(
        &mut self,
        (namespace, client_id, policy): (NamespaceId, &str, &EndpointPolicy),
        topic: &str,
        why: Dropped,
    ) {
        if self.observe.wants(CoreEventKind::MessageDropped) {
            let detail = CoreEventDetail::MessageDropped { topic: topic.into(), why };
            self.push_event_of_offline((namespace, client_id, policy), detail);
        }
    }

    #[cold]
    fn push_event_of_offline(
        &mut self,
        (namespace, client_id, policy): (NamespaceId, &str, &EndpointPolicy),
        detail: CoreEventDetail,
    ) {
        let client = EventClient {
            client_id: client_id.into(),
            endpoint: Arc::clone(&policy.name),
            namespace: Arc::clone(self.routing.name(namespace)),
            username: None,
            address: None,
        };
        self.observe.events.push(client, detail);
    }

    /// A message was not retained.
    pub(crate) fn not_retained_event(&mut self, namespace: NamespaceId, publisher: &PublisherIdentity, topic: &str) {
        if self.observe.wants(CoreEventKind::MessageDropped) {
            let client = EventClient {
                client_id: publisher.client_id.as_ref().into(),
                endpoint: Arc::clone(&publisher.endpoint),
                namespace: Arc::clone(self.routing.name(namespace)),
                username: publisher.username.as_deref().map(Into::into),
                address: publisher.address,
            };
            let detail = CoreEventDetail::MessageDropped { topic: topic.into(), why: Dropped::RetainedFull };
            self.observe.events.push(client, detail);
        }
    }
}
