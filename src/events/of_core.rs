//! Events of the broker core, as they are published.

use std::time::SystemTime;

use weir_broker::{CoreEvent, CoreEventDetail, CoreEventKind, Ended, RefusedAction};
use weir_declare::config::EventKind;
use weir_mqtt::{ProtocolVersion, ReasonCode};

use super::event::{Action, DisconnectCause, Event, EventClient, EventReason};

/// The kind of the core's kind.
pub(super) fn kind_of_core(kind: CoreEventKind) -> EventKind {
    match kind {
        CoreEventKind::ClientConnected => EventKind::ClientConnected,
        CoreEventKind::ClientDisconnected => EventKind::ClientDisconnected,
        CoreEventKind::SessionCreated => EventKind::SessionCreated,
        CoreEventKind::SessionResumed => EventKind::SessionResumed,
        CoreEventKind::SessionTakenOver => EventKind::SessionTakenOver,
        CoreEventKind::SessionExpired => EventKind::SessionExpired,
        CoreEventKind::SessionDiscarded => EventKind::SessionDiscarded,
        CoreEventKind::SessionSubscribed => EventKind::SessionSubscribed,
        CoreEventKind::SessionUnsubscribed => EventKind::SessionUnsubscribed,
        CoreEventKind::AuthorizationRefused => EventKind::AuthorizationRefused,
        CoreEventKind::MessagePublished => EventKind::MessagePublished,
        CoreEventKind::MessageDelivered => EventKind::MessageDelivered,
        CoreEventKind::MessageAcknowledged => EventKind::MessageAcknowledged,
        CoreEventKind::MessageDropped => EventKind::MessageDropped,
    }
}

impl EventClient {
    pub(crate) fn new(client: weir_broker::EventClient) -> Self {
        Self {
            client_id: client.client_id.into(),
            username: client.username.map(Into::into),
            address: client.address,
            endpoint: client.endpoint.as_ref().to_owned(),
            mountpoint: client.namespace.as_ref().to_owned(),
        }
    }
}

impl EventReason {
    /// A reason code by its number.
    pub(crate) fn of_code(code: u8) -> Self {
        let name = ReasonCode::try_from(code).map_or_else(|_| "unknown", ReasonCode::name);
        Self { code, name: name.to_owned() }
    }

    fn of_disconnect(code: u8) -> Self {
        // DISCONNECT has its own name for 0.
        if code == 0 { Self { code, name: "normal disconnection".to_owned() } } else { Self::of_code(code) }
    }
}

/// The version as documents write it.
fn version(version: ProtocolVersion) -> &'static str {
    match version {
        ProtocolVersion::V3_1 => "3.1",
        ProtocolVersion::V3_1_1 => "3.1.1",
        ProtocolVersion::V5 => "5.0",
    }
}

impl Event {
    /// The event that a core reported.
    pub(super) fn of_core(event: CoreEvent, at: SystemTime) -> Self {
        let client = EventClient::new(event.client);
        match event.detail {
            CoreEventDetail::ClientConnected {
                version: protocol,
                clean_start,
                session_present,
                keep_alive_s,
                session_expiry_s,
            } => Self::ClientConnected {
                at,
                client,
                protocol: version(protocol).to_owned(),
                clean_start,
                session_present,
                keep_alive_s,
                session_expiry_s: Some(session_expiry_s).filter(|&expiry_s| expiry_s != u32::MAX),
            },
            CoreEventDetail::ClientDisconnected(ended) => {
                let (cause, reason) = match ended {
                    Ended::ByClient(code) => (DisconnectCause::Client, Some(EventReason::of_disconnect(code))),
                    Ended::ByServer(code) => (DisconnectCause::Server, Some(EventReason::of_disconnect(code))),
                    Ended::Lost => (DisconnectCause::ConnectionLost, None),
                };
                Self::ClientDisconnected { at, client, cause, reason }
            }
            CoreEventDetail::SessionCreated => Self::SessionCreated { at, client },
            CoreEventDetail::SessionResumed => Self::SessionResumed { at, client },
            CoreEventDetail::SessionTakenOver => Self::SessionTakenOver { at, client },
            CoreEventDetail::SessionExpired => Self::SessionExpired { at, client },
            CoreEventDetail::SessionDiscarded => Self::SessionDiscarded { at, client },
            CoreEventDetail::SessionSubscribed { filter, qos } => {
                Self::SessionSubscribed { at, client, filter: filter.into(), qos: qos as u8 }
            }
            CoreEventDetail::SessionUnsubscribed { filter, by_client } => {
                Self::SessionUnsubscribed { at, client, filter: filter.into(), by_client }
            }
            CoreEventDetail::AuthorizationRefused { action, topic } => {
                let action = match action {
                    RefusedAction::Publish => Action::Publish,
                    RefusedAction::Subscribe => Action::Subscribe,
                    RefusedAction::Will => Action::Will,
                };
                Self::AuthorizationRefused { at, client, action, topic: topic.into() }
            }
            CoreEventDetail::MessagePublished { topic, qos, retain, payload_bytes } => {
                Self::MessagePublished { at, client, topic: topic.into(), qos: qos as u8, retain, payload_bytes }
            }
            CoreEventDetail::MessageDelivered { topic, qos, retain, payload_bytes } => {
                Self::MessageDelivered { at, client, topic: topic.into(), qos: qos as u8, retain, payload_bytes }
            }
            CoreEventDetail::MessageAcknowledged { topic, qos, code } => {
                let reason = EventReason::of_code(code);
                Self::MessageAcknowledged { at, client, topic: topic.into(), qos: qos as u8, reason }
            }
            CoreEventDetail::MessageDropped { topic, why } => {
                Self::MessageDropped { at, client, topic: topic.into(), reason: why.label().to_owned() }
            }
        }
    }
}
