//! A client inside of the process that runs the broker. It is an ordinary MQTT 5.0 client at one end of a socket pair: the
//! broker has no second path for it.

use std::collections::HashSet;
use std::num::NonZeroU16;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use weir_mqtt::{ProtocolVersion, QoS, SubscriptionOptions};

use super::connection::Connection;
use super::driver::{Driven, drive};
use super::error::ClientError;
use super::message::{Message, Publish};
use super::packets::ConnectOptions;
use crate::net::{DataPlane, InProcessError, InProcessRights};
use crate::state::SharedState;

/// Messages of QoS 1 and 2 that the broker sends before one is acknowledged.
const RECEIVE_MAXIMUM: NonZeroU16 = match NonZeroU16::new(256) {
    Some(maximum) => maximum,
    None => NonZeroU16::MIN,
};

/// Describes a client before it connects; see [`ServerHandle::client`](crate::ServerHandle::client).
#[derive(Clone)]
#[must_use]
pub struct ClientBuilder {
    plane: DataPlane,
    control: Arc<SharedState>,
    client_id: String,
    access: Access,
    session_expiry_s: Option<u32>,
    receive_maximum: NonZeroU16,
}

/// Whose rights a client has.
#[derive(Debug, Clone)]
enum Access {
    /// `endpoint` is `None`: that of the only one.
    Endpoint {
        endpoint: Option<String>,
        username: Option<Box<str>>,
    },
    Trusted,
}

impl ClientBuilder {
    pub(crate) fn new(plane: DataPlane, control: Arc<SharedState>, client_id: String) -> Self {
        let access = Access::Endpoint { endpoint: None, username: None };
        Self { plane, control, client_id, access, session_expiry_s: None, receive_maximum: RECEIVE_MAXIMUM }
    }

    /// The endpoint whose rights the client has: access list, limits, namespace. It may be left out where only one listens.
    pub fn endpoint(mut self, name: impl Into<String>) -> Self {
        let username = match self.access {
            Access::Endpoint { username, .. } => username,
            Access::Trusted => None,
        };
        self.access = Access::Endpoint { endpoint: Some(name.into()), username };
        self
    }

    /// The user name that the endpoint's access list sees.
    pub fn username(mut self, name: impl Into<Box<str>>) -> Self {
        let endpoint = match self.access {
            Access::Endpoint { endpoint, .. } => endpoint,
            Access::Trusted => None,
        };
        self.access = Access::Endpoint { endpoint, username: Some(name.into()) };
        self
    }

    /// May use every topic of the shared namespace, whatever access lists say.
    pub fn trusted(mut self) -> Self {
        self.access = Access::Trusted;
        self
    }

    /// Resumes the session of this client id, and keeps it for so long after the connection: its subscriptions, and messages
    /// of QoS 1 and 2 for it.
    pub fn persistent(mut self, expiry: Duration) -> Self {
        self.session_expiry_s = Some(u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX));
        self
    }

    /// How many messages of QoS 1 and 2 may wait for their acknowledgement; 256 unless it is set.
    pub fn receive_maximum(mut self, maximum: NonZeroU16) -> Self {
        self.receive_maximum = maximum;
        self
    }

    /// Connects. A client of the same id in the same namespace is disconnected, wherever it is.
    ///
    /// # Errors
    /// The endpoint does not listen, the broker refuses the client (a ban, for example), or the server has ended.
    pub async fn connect(self) -> Result<(Client, Messages), ClientError> {
        let rights = self.rights()?;
        let stream = self.plane.open_in_process(&rights, &self.client_id).map_err(|error| match error {
            InProcessError::NoSuchEndpoint => ClientError::Connect("its endpoint does not listen".to_owned()),
            InProcessError::SocketPair(error) => ClientError::Connect(error.to_string()),
        })?;
        let options = ConnectOptions {
            version: ProtocolVersion::V5,
            client_id: self.client_id,
            username: None,
            password: None,
            keep_alive_s: 0,
            clean_start: self.session_expiry_s.is_none(),
            session_expiry_s: self.session_expiry_s,
            receive_maximum: Some(self.receive_maximum),
            will: None,
        };
        let connection = Connection::open(Box::new(stream), &options, HashSet::new()).await?;
        let session_present = connection.session_present();
        let driven = Arc::new(Driven::new(connection));
        tokio::spawn(drive(Arc::clone(&driven)));
        let client = Client { handle: Arc::new(Handle(Arc::clone(&driven))), session_present };
        Ok((client, Messages { driven }))
    }
}

impl ClientBuilder {
    fn rights(&self) -> Result<InProcessRights, ClientError> {
        let Access::Endpoint { endpoint, username } = &self.access else { return Ok(InProcessRights::Trusted) };
        let state = self.control.load();
        let mut listening = state.endpoints.iter().filter(|(_, known)| known.live.is_some());
        let found = match endpoint {
            Some(name) => listening.find(|(known, _)| ***known == **name),
            None => listening.next().filter(|_| listening.next().is_none()),
        };
        let id = found.and_then(|(_, known)| known.id).ok_or_else(|| {
            ClientError::Connect(match endpoint {
                Some(name) => format!("no endpoint named {name:?} listens"),
                None => "not exactly one endpoint listens: name the one whose rights the client has".to_owned(),
            })
        })?;
        Ok(InProcessRights::OfEndpoint { endpoint: id, username: username.clone() })
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { client_id, access, .. } = self;
        f.debug_struct("ClientBuilder").field("client_id", client_id).field("access", access).finish_non_exhaustive()
    }
}

/// A connected client: publishes, subscribes. Clones share the connection, which ends with the last of them.
#[derive(Debug, Clone)]
pub struct Client {
    handle: Arc<Handle>,
    session_present: bool,
}

/// Ends the connection when it is dropped.
#[derive(Debug)]
struct Handle(Arc<Driven>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Client {
    /// Publishes. At QoS 0 it returns when the message is on its way; at QoS 1 and 2 when the broker has acknowledged it, as
    /// the endpoint's `durability` demands. It waits where too much is on its way already.
    ///
    /// # Errors
    /// [`ClientError::Rejected`]: the broker does not accept the message (an access list, a quota), with the reason.
    pub async fn publish(&self, topic: &str, payload: impl AsRef<[u8]>, qos: QoS) -> Result<(), ClientError> {
        self.handle.0.publish(&Publish::new(topic, payload.as_ref()).qos(qos)).await
    }

    /// As [`Client::publish`], with everything that a message may carry.
    ///
    /// # Errors
    /// As [`Client::publish`].
    pub async fn send(&self, message: &Publish<'_>) -> Result<(), ClientError> {
        self.handle.0.publish(message).await
    }

    /// Subscribes; `$share/GROUP/FILTER` is a shared subscription. Returns the QoS that was granted. [`Messages`] yields what
    /// matches, retained messages first.
    ///
    /// # Errors
    /// [`ClientError::Rejected`]: the broker does not accept the filter, with the reason.
    pub async fn subscribe(&self, filter: &str, qos: QoS) -> Result<QoS, ClientError> {
        let options = SubscriptionOptions { qos, ..SubscriptionOptions::default() };
        self.subscribe_with(filter, options).await
    }

    /// As [`Client::subscribe`], with the options of MQTT 5.0.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn subscribe_with(&self, filter: &str, options: SubscriptionOptions) -> Result<QoS, ClientError> {
        self.handle.0.subscribe(filter, options).await
    }

    /// Ends a subscription.
    ///
    /// # Errors
    /// The connection ended.
    pub async fn unsubscribe(&self, filter: &str) -> Result<(), ClientError> {
        self.handle.0.unsubscribe(filter).await
    }

    /// Whether the broker had a session of this client when it connected; see [`ClientBuilder::persistent`].
    pub fn session_present(&self) -> bool {
        self.session_present
    }

    /// Disconnects, and returns when the broker has closed the connection.
    pub async fn disconnect(self) {
        self.handle.0.close();
        self.handle.0.ended().await;
    }
}

/// The messages of a client's subscriptions, in the order in which the broker sends them. A client that does not read them is
/// a slow client: messages of QoS 0 are dropped and counted, others queue in its session within its endpoint's limits.
#[derive(Debug)]
pub struct Messages {
    driven: Arc<Driven>,
}

impl Messages {
    /// The next message; `None`: the connection has ended, and [`Messages::error`] says why.
    pub async fn next(&mut self) -> Option<Message> {
        std::future::poll_fn(|cx| self.driven.poll_message(cx)).await
    }

    /// Why the connection ended; `None`: it is open, or was closed by [`Client::disconnect`].
    pub fn error(&self) -> Option<ClientError> {
        self.driven.error()
    }
}

impl Stream for Messages {
    type Item = Message;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Message>> {
        self.driven.poll_message(cx)
    }
}
