//! The events.

use std::net::{IpAddr, SocketAddr};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use weir_declare::config::EventKind;
use weir_declare::reconcile::Timestamp;

/// What happened. As JSON it is an object with `event`, the [topic](EventKind::topic) of its kind, and the members of the
/// variant in camelCase; absent values are left out. `schema/events.schema.json` describes it.
///
/// `at` is when the broker reported it: events of one turn of a shard have the same time, and events of different shards
/// may come in another order than they happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all_fields = "camelCase")]
#[non_exhaustive]
pub enum Event {
    /// See [`EventKind::ClientConnected`].
    #[serde(rename = "client/connected")]
    #[non_exhaustive]
    ClientConnected {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// `3.1`, `3.1.1` or `5.0`.
        protocol: String,
        /// Whether the client asked for a new session.
        clean_start: bool,
        /// Whether the client has found its earlier session.
        session_present: bool,
        /// Of CONNECT, seconds; 0: none.
        keep_alive_s: u16,
        /// Seconds; `None`: it does not expire.
        #[serde(skip_serializing_if = "Option::is_none")]
        session_expiry_s: Option<u32>,
    },
    /// See [`EventKind::ClientDisconnected`].
    #[serde(rename = "client/disconnected")]
    #[non_exhaustive]
    ClientDisconnected {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// Why it ended.
        cause: DisconnectCause,
        /// The client's or the server's reason; `None`: the connection was lost.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<EventReason>,
    },
    /// See [`EventKind::SessionCreated`].
    #[serde(rename = "session/created")]
    #[non_exhaustive]
    SessionCreated {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
    },
    /// See [`EventKind::SessionResumed`].
    #[serde(rename = "session/resumed")]
    #[non_exhaustive]
    SessionResumed {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
    },
    /// See [`EventKind::SessionTakenOver`]. The client is the one that had the session until then.
    #[serde(rename = "session/taken-over")]
    #[non_exhaustive]
    SessionTakenOver {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
    },
    /// See [`EventKind::SessionExpired`].
    #[serde(rename = "session/expired")]
    #[non_exhaustive]
    SessionExpired {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
    },
    /// See [`EventKind::SessionDiscarded`].
    #[serde(rename = "session/discarded")]
    #[non_exhaustive]
    SessionDiscarded {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
    },
    /// See [`EventKind::SessionSubscribed`].
    #[serde(rename = "session/subscribed")]
    #[non_exhaustive]
    SessionSubscribed {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// A shared one as `$share/group/filter`.
        filter: String,
        /// The granted QoS.
        qos: u8,
    },
    /// See [`EventKind::SessionUnsubscribed`].
    #[serde(rename = "session/unsubscribed")]
    #[non_exhaustive]
    SessionUnsubscribed {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// A shared one as `$share/group/filter`.
        filter: String,
        /// Whether the client asked for it; otherwise, the rules do not permit it any more.
        by_client: bool,
    },
    /// See [`EventKind::AuthenticationRefused`].
    #[serde(rename = "authentication/refused")]
    #[non_exhaustive]
    AuthenticationRefused {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// As the CONNECT names itself: nothing of it was confirmed.
        #[serde(flatten)]
        client: EventClient,
        /// Why.
        reason: EventReason,
    },
    /// See [`EventKind::AuthorizationRefused`].
    #[serde(rename = "authorization/refused")]
    #[non_exhaustive]
    AuthorizationRefused {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// What was denied.
        action: Action,
        /// The topic of the publish or the will, or the filter of the subscription.
        topic: String,
    },
    /// See [`EventKind::MessagePublished`]. The client is the publisher.
    #[serde(rename = "message/published")]
    #[non_exhaustive]
    MessagePublished {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// The message's topic.
        topic: String,
        /// Its QoS.
        qos: u8,
        /// Whether it is retained.
        retain: bool,
        /// Bytes of its payload.
        payload_bytes: usize,
    },
    /// See [`EventKind::MessageDelivered`]. The client is the receiver.
    #[serde(rename = "message/delivered")]
    #[non_exhaustive]
    MessageDelivered {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// The message's topic.
        topic: String,
        /// Of the delivery.
        qos: u8,
        /// Whether it is retained.
        retain: bool,
        /// Bytes of its payload.
        payload_bytes: usize,
    },
    /// See [`EventKind::MessageAcknowledged`]. The client is the receiver.
    #[serde(rename = "message/acknowledged")]
    #[non_exhaustive]
    MessageAcknowledged {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The client.
        #[serde(flatten)]
        client: EventClient,
        /// The message's topic.
        topic: String,
        /// Its QoS.
        qos: u8,
        /// Of PUBACK or PUBREC: from 0x80, the client did not accept it.
        reason: EventReason,
    },
    /// See [`EventKind::MessageDropped`]. Dropped events make no event.
    #[serde(rename = "message/dropped")]
    #[non_exhaustive]
    MessageDropped {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The receiver that did not get the message. With the reasons `not_authorized`, `no_member`, `invalid`,
        /// `store_full`, `retained_full` and `intercepted`, and for wills, the publisher. With `interceptor_panic` the client
        /// whose connection ended.
        #[serde(flatten)]
        client: EventClient,
        /// The topic.
        topic: String,
        /// As the metric `weir_messages_dropped_total` has it: `slow`, `queue_full`, `expired`, `too_large`,
        /// `not_authorized`, `revoked`, `no_member`, `invalid`, `store_full`, `retained_full`, `intercepted`,
        /// `delivery_intercepted` or `interceptor_panic`.
        reason: String,
    },
    /// See [`EventKind::EndpointBound`].
    #[serde(rename = "endpoint/bound")]
    #[non_exhaustive]
    EndpointBound {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The endpoint's name.
        endpoint: String,
        /// `None`: a Unix socket.
        #[serde(skip_serializing_if = "Option::is_none")]
        listens_at: Option<SocketAddr>,
    },
    /// See [`EventKind::EndpointClosed`].
    #[serde(rename = "endpoint/closed")]
    #[non_exhaustive]
    EndpointClosed {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The endpoint's name.
        endpoint: String,
    },
    /// See [`EventKind::EndpointRejected`].
    #[serde(rename = "endpoint/rejected")]
    #[non_exhaustive]
    EndpointRejected {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The endpoint's name.
        endpoint: String,
        /// The reason of the condition: `Invalid`, `AddressInUse`, `MissingReference` and so on.
        condition: String,
        /// What is wrong, as text.
        message: String,
    },
    /// See [`EventKind::ReconcileCompleted`].
    #[serde(rename = "reconcile/completed")]
    #[non_exhaustive]
    ReconcileCompleted {
        /// When it happened.
        #[serde(serialize_with = "timestamp")]
        at: SystemTime,
        /// The revision of the documents.
        revision: String,
        /// Whether all of it is live.
        outcome: ReconcileOutcome,
        /// `1 to add, 2 to change in place`
        summary: String,
    },
}

/// The client that an event concerns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EventClient {
    /// The client id.
    pub client_id: String,
    /// `None`: it has none, or is not connected.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// `None`: it is not connected, or not over a network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The endpoint's name.
    pub endpoint: String,
    /// The endpoint's `mountpoint`, which is the namespace of its topics and client ids; empty: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mountpoint: String,
}

/// What ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum DisconnectCause {
    /// The client sent DISCONNECT.
    Client,
    /// The broker closed the connection.
    Server,
    /// The connection was closed without DISCONNECT.
    ConnectionLost,
}

/// A reason code of MQTT 5.0, also for clients of other versions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct EventReason {
    /// The reason code.
    pub code: u8,
    /// The specification's name in lower case: `session taken over`.
    pub name: String,
}

/// What an access list refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum Action {
    /// A PUBLISH.
    Publish,
    /// A filter of a SUBSCRIBE.
    Subscribe,
    /// The will of a CONNECT.
    Will,
}

/// How a pass of the reconciler ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ReconcileOutcome {
    /// All that is declared is live.
    Applied,
    /// Applied, except for what was refused.
    AppliedWithRefusals,
    /// Nothing was applied.
    Refused,
}

fn timestamp<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX)).serialize(serializer)
}

impl Event {
    /// The kind of the event.
    pub fn kind(&self) -> EventKind {
        match self {
            Self::ClientConnected { .. } => EventKind::ClientConnected,
            Self::ClientDisconnected { .. } => EventKind::ClientDisconnected,
            Self::SessionCreated { .. } => EventKind::SessionCreated,
            Self::SessionResumed { .. } => EventKind::SessionResumed,
            Self::SessionTakenOver { .. } => EventKind::SessionTakenOver,
            Self::SessionExpired { .. } => EventKind::SessionExpired,
            Self::SessionDiscarded { .. } => EventKind::SessionDiscarded,
            Self::SessionSubscribed { .. } => EventKind::SessionSubscribed,
            Self::SessionUnsubscribed { .. } => EventKind::SessionUnsubscribed,
            Self::AuthenticationRefused { .. } => EventKind::AuthenticationRefused,
            Self::AuthorizationRefused { .. } => EventKind::AuthorizationRefused,
            Self::MessagePublished { .. } => EventKind::MessagePublished,
            Self::MessageDelivered { .. } => EventKind::MessageDelivered,
            Self::MessageAcknowledged { .. } => EventKind::MessageAcknowledged,
            Self::MessageDropped { .. } => EventKind::MessageDropped,
            Self::EndpointBound { .. } => EventKind::EndpointBound,
            Self::EndpointClosed { .. } => EventKind::EndpointClosed,
            Self::EndpointRejected { .. } => EventKind::EndpointRejected,
            Self::ReconcileCompleted { .. } => EventKind::ReconcileCompleted,
        }
    }

    /// The client that it concerns; `None`: it concerns an endpoint, or the declaration.
    pub fn client(&self) -> Option<&EventClient> {
        match self {
            Self::ClientConnected { client, .. }
            | Self::ClientDisconnected { client, .. }
            | Self::SessionCreated { client, .. }
            | Self::SessionResumed { client, .. }
            | Self::SessionTakenOver { client, .. }
            | Self::SessionExpired { client, .. }
            | Self::SessionDiscarded { client, .. }
            | Self::SessionSubscribed { client, .. }
            | Self::SessionUnsubscribed { client, .. }
            | Self::AuthenticationRefused { client, .. }
            | Self::AuthorizationRefused { client, .. }
            | Self::MessagePublished { client, .. }
            | Self::MessageDelivered { client, .. }
            | Self::MessageAcknowledged { client, .. }
            | Self::MessageDropped { client, .. } => Some(client),
            Self::EndpointBound { .. }
            | Self::EndpointClosed { .. }
            | Self::EndpointRejected { .. }
            | Self::ReconcileCompleted { .. } => None,
        }
    }

    /// The topic of the message that it is about; `None`: it is about none.
    pub fn message_topic(&self) -> Option<&str> {
        match self {
            Self::MessagePublished { topic, .. }
            | Self::MessageDelivered { topic, .. }
            | Self::MessageAcknowledged { topic, .. }
            | Self::MessageDropped { topic, .. } => Some(topic),
            _ => None,
        }
    }

    /// The event as a JSON object.
    pub fn to_json(&self) -> String {
        // Cannot fail: keys are texts, and numbers are integers.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The memory that it takes, bytes.
    pub(super) fn bytes(&self) -> usize {
        let client = self.client().map_or(0, |client| {
            let username = client.username.as_ref().map_or(0, String::len);
            client.client_id.len() + username + client.endpoint.len() + client.mountpoint.len()
        });
        let own = match self {
            Self::SessionSubscribed { filter, .. } | Self::SessionUnsubscribed { filter, .. } => filter.len(),
            Self::AuthorizationRefused { topic, .. }
            | Self::MessagePublished { topic, .. }
            | Self::MessageDelivered { topic, .. }
            | Self::MessageAcknowledged { topic, .. }
            | Self::MessageDropped { topic, .. } => topic.len(),
            Self::EndpointBound { endpoint, .. } | Self::EndpointClosed { endpoint, .. } => endpoint.len(),
            Self::EndpointRejected { endpoint, message, .. } => endpoint.len() + message.len(),
            Self::ReconcileCompleted { revision, summary, .. } => revision.len() + summary.len(),
            _ => 0,
        };
        size_of::<Self>() + client + own
    }
}
