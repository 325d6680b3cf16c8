//! The local connection of a bridge: its rights and limits.

use std::sync::Arc;

use super::BridgeSettings;
use crate::auth::{AuthRefusal, Authenticate, Credentials, Decision};
use crate::net::in_process::{PermitAll, internal_policy};
use crate::net::policy::ListenerPolicy;
use weir_bridge::LOCAL_ID_PREFIX;
use weir_broker::{Durability, EndpointLimits, EndpointPolicy, Principal, ProtocolVersions};
use weir_mqtt::QoS;

/// The policy of a bridge's local session: everything is allowed, since the declaration selects what is bridged; only
/// the queue is limited.
pub(super) fn policy(settings: &BridgeSettings) -> Arc<ListenerPolicy> {
    let limits = EndpointLimits {
        // The limits of the remote broker apply.
        message_max_size: u32::MAX,
        receive_maximum: u16::MAX,
        max_inflight: u16::MAX,
        max_topic_levels: u16::MAX,
        topic_alias_maximum: 0,
        max_session_size: None,
        session_expiry_max_s: None,
        max_subscriptions: u32::MAX,
        max_retained_messages: u32::MAX,
        max_retained_bytes: u64::MAX,
        max_queued_messages: settings.queue_max_messages,
        max_queued_bytes: settings.queue_max_bytes,
        queue_overflow: settings.queue_overflow,
        maximum_qos: QoS::ExactlyOnce,
        durability: if settings.durable { Durability::Disk } else { Durability::Memory },
        ..EndpointLimits::default()
    };
    let endpoint = EndpointPolicy {
        id: settings.endpoint,
        name: format!("bridge {}", settings.name).into(),
        generation: settings.generation,
        namespace: Arc::clone(&settings.namespace),
        versions: ProtocolVersions::ALL,
        limits,
        acl: Some(Arc::new(PermitAll)),
        interceptors: None,
        admission: None,
    };
    internal_policy(Arc::new(endpoint), Arc::new(InternalAuth))
}

/// Admits the broker's own bridges. Only they hold the other end of the socket pair.
struct InternalAuth;

impl Authenticate for InternalAuth {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        if !credentials.client_id.starts_with(LOCAL_ID_PREFIX) {
            return Decision::Refuse(AuthRefusal::NotAuthorized);
        }
        Decision::Admit(Principal {
            username: None,
            address: None,
            admitted_by: "bridge".into(),
            claims_acl: None,
            expires_at: None,
        })
    }

    fn still_valid(&self, _principal: &Principal, _client_id: &str) -> bool {
        true
    }
}
