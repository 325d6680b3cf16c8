//! The local connection of a bridge: a socket pair, one end of which a shard serves like an accepted connection.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use socket2::Socket;

use super::BridgeSettings;
use crate::auth::{AuthRefusal, Authenticate, Credentials, Decision};
use crate::net::policy::{AcceptOverflow, ChildOptions, HandshakeLimits, ListenerPolicy, Transport};
use weir_bridge::LOCAL_ID_PREFIX;
use weir_broker::{Durability, EndpointLimits, EndpointPolicy, Principal, ProtocolVersions};
use weir_mqtt::QoS;

/// Send buffer of either end, bytes.
const SOCKET_BUFFER_BYTES: usize = 512 << 10;

/// A connected socket pair: the bridge's end, for tokio, and the shard's end.
pub(super) fn pair() -> io::Result<(tokio::net::UnixStream, Socket)> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    let theirs = Socket::from(OwnedFd::from(theirs));
    let ours = Socket::from(OwnedFd::from(ours));
    for end in [&ours, &theirs] {
        end.set_send_buffer_size(SOCKET_BUFFER_BYTES)?;
    }
    Ok((tokio::net::UnixStream::from_std(OwnedFd::from(ours).into())?, theirs))
}

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
        acl: None,
        admission: None,
    };
    Arc::new(ListenerPolicy {
        endpoint: Arc::new(endpoint),
        transport: Transport::Plain,
        websocket: None,
        proxy_protocol: None,
        authenticate: Arc::new(InternalAuth),
        max_connections: None,
        max_connections_per_address: None,
        max_pending_connections: None,
        max_pending_per_address: None,
        max_connections_per_s: None,
        accept_overflow: AcceptOverflow::Delay,
        child: ChildOptions::default(),
        handshake: HandshakeLimits::default(),
    })
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
