//! Connections of clients inside of this process: one end of a socket pair, which a shard serves like an accepted
//! connection.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use socket2::Socket;

use super::plane::DataPlane;
use super::policy::{AcceptOverflow, ChildOptions, HandshakeLimits, ListenerPolicy, Transport};
use crate::auth::{Authenticate, InProcessAuth};
use weir_broker::{Authorize, Durability, EndpointId, EndpointLimits, EndpointPolicy, ProtocolVersions, Subject};
use weir_mqtt::QoS;

/// Send buffer of either end, bytes.
const SOCKET_BUFFER_BYTES: usize = 512 << 10;

/// The endpoint of trusted clients. Declared endpoints have ids from 1 on.
const TRUSTED: EndpointId = EndpointId(0);

/// A connected socket pair: the client's end, for tokio, and the shard's end.
pub(in crate::net) fn socket_pair() -> io::Result<(tokio::net::UnixStream, Socket)> {
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

/// The policy of connections within the process.
pub(in crate::net) fn internal_policy(
    endpoint: Arc<EndpointPolicy>,
    authenticate: Arc<dyn Authenticate>,
) -> Arc<ListenerPolicy> {
    Arc::new(ListenerPolicy {
        endpoint,
        transport: Transport::Plain,
        websocket: None,
        proxy_protocol: None,
        authenticate,
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

/// The access list of clients whose rights nothing restricts: they may read events, too.
#[derive(Debug)]
pub(in crate::net) struct PermitAll;

impl Authorize for PermitAll {
    fn may_publish(&self, _: Subject<'_>, _: &str, _: QoS, _: bool) -> bool {
        true
    }

    fn may_subscribe(&self, _: Subject<'_>, _: &str, _: QoS) -> bool {
        true
    }

    fn may_receive(&self, _: Subject<'_>, _: &str) -> bool {
        true
    }
}

/// Which rights a client in the process has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InProcessRights {
    /// Those of an endpoint's clients with this user name: its access list, its limits, its namespace.
    OfEndpoint { endpoint: EndpointId, username: Option<Box<str>> },
    /// Every topic of the shared namespace, without limits of publish rates.
    Trusted,
}

/// The endpoint of a client does not listen.
#[derive(Debug, thiserror::Error)]
pub enum InProcessError {
    #[error("the endpoint does not listen")]
    NoSuchEndpoint,
    #[error("socket pair failed: {0}")]
    SocketPair(#[from] io::Error),
}

impl DataPlane {
    /// Opens a connection for a client in this process, which sends CONNECT with `client_id` over it.
    ///
    /// # Errors
    /// See [`InProcessError`].
    pub fn open_in_process(
        &self,
        rights: &InProcessRights,
        client_id: &str,
    ) -> Result<tokio::net::UnixStream, InProcessError> {
        let (endpoint, username) = match rights {
            InProcessRights::OfEndpoint { endpoint, username } => {
                let policy = self.policy(*endpoint).ok_or(InProcessError::NoSuchEndpoint)?;
                (policy, username.clone())
            }
            InProcessRights::Trusted => (Arc::new(self.trusted_policy()), None),
        };
        let (ours, theirs) = socket_pair()?;
        self.open_internal(theirs, internal_policy(endpoint, Arc::new(InProcessAuth { username })), client_id);
        Ok(ours)
    }

    fn trusted_policy(&self) -> EndpointPolicy {
        let limits = EndpointLimits {
            message_max_size: u32::MAX,
            max_topic_levels: u16::MAX,
            session_expiry_max_s: None,
            durability: if self.is_durable() { Durability::Disk } else { Durability::Memory },
            ..EndpointLimits::default()
        };
        EndpointPolicy {
            id: TRUSTED,
            name: "in-process".into(),
            generation: 1,
            namespace: "".into(),
            versions: ProtocolVersions::ALL,
            limits,
            acl: Some(Arc::new(PermitAll)),
            interceptors: None,
            admission: None,
        }
    }
}
