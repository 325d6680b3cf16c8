//! Events of this shard.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::Shard;
use crate::auth::AuthRefusal;
use crate::events::{Event, EventClient, EventKind, EventReason};
use weir_broker::EndpointPolicy;
use weir_mqtt::Connect;

impl Shard {
    /// Reports the core's events of this turn.
    pub(super) fn publish_events(&mut self) {
        if let Some(events) = self.core.take_events() {
            self.shared.events.publish_core(events, SystemTime::now());
        }
    }

    /// A client was refused at its CONNECT. `client_id`: that the server assigned, where it did.
    pub(super) fn report_authentication_refused(
        &self,
        endpoint: &EndpointPolicy,
        peer: Option<SocketAddr>,
        connect: Option<&Connect<'_>>,
        client_id: Option<&str>,
        refusal: AuthRefusal,
    ) {
        if !self.shared.events.wants(EventKind::AuthenticationRefused) {
            return;
        }
        let client_id = client_id.or(connect.map(|connect| connect.client_id)).unwrap_or_default();
        let client = EventClient::new(weir_broker::EventClient {
            client_id: client_id.into(),
            endpoint: Arc::clone(&endpoint.name),
            namespace: Arc::clone(&endpoint.namespace),
            username: connect.and_then(|connect| connect.username).map(Into::into),
            address: peer.map(|peer| peer.ip()),
        });
        let reason = EventReason::of_code(refusal.reason_code());
        self.shared.events.publish(&Event::AuthenticationRefused { at: SystemTime::now(), client, reason });
    }
}
