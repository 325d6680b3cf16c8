//! Authenticators of the program that embeds the broker: what one receives and answers, and which are registered.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::api::{Attempt, AuthRefusal, AuthTask};
use super::certificate::PeerCertificate;
use weir_mqtt::ProtocolVersion;

/// Decides which clients may connect. A program registers it under a name with
/// [`ServerBuilder::authenticator`](crate::ServerBuilder::authenticator), and an auth document calls it by that name:
/// `auth: {chain: [{custom: {name: device-db}}]}`.
///
/// The broker calls it for each CONNECT that reaches its element of the chain, as a task of the tokio runtime that started
/// the server. It may wait there (for a database, say), but must not block that runtime's threads. An answer that takes
/// longer than `timeoutMs`, or a panic, rejects the client with 0x88 (server unavailable) and is logged and counted in
/// `weir_auth_custom_failures_total`; `maxConcurrent` bounds the calls at the same time.
///
/// Clients that ask for the enhanced authentication of MQTT 5.0 (AUTH packets) pass to the next element of the chain
/// without a call, unless [`Authenticator::methods`] has their method: see [`AuthChallenge`].
///
/// ```
/// use weirmq::{AuthGrant, AuthRequest, AuthResponse, Authenticator, AuthDenial};
///
/// struct Devices;
///
/// impl Authenticator for Devices {
///     async fn authenticate(&self, request: AuthRequest) -> AuthResponse {
///         match (request.username(), request.password()) {
///             (Some("meter-7"), Some(b"s3cret")) => AuthResponse::Allow(AuthGrant::new().may_publish(["meter/7/#"])),
///             (Some(_), _) => AuthResponse::Deny(AuthDenial::BadCredentials),
///             (None, _) => AuthResponse::Next,
///         }
///     }
/// }
/// ```
pub trait Authenticator: Send + Sync + 'static {
    /// The methods of enhanced authentication that it knows [MQTT 5.0 section 4.12]: it is asked about clients that use one of
    /// them, beside those that use none. The broker asks for them once, when the authenticator is registered.
    fn methods(&self) -> &'static [&'static str] {
        &[]
    }

    /// Answers one CONNECT, or the AUTH packet with which a client of one of its methods begins to authenticate again
    /// ([`AuthRequest::is_reauthentication`]). The future is dropped where its time is over or its client has disconnected.
    fn authenticate(&self, request: AuthRequest) -> impl Future<Output = AuthResponse> + Send;
}

impl<F, A> Authenticator for F
where
    F: Fn(AuthRequest) -> A + Send + Sync + 'static,
    A: Future<Output = AuthResponse> + Send,
{
    fn authenticate(&self, request: AuthRequest) -> impl Future<Output = AuthResponse> + Send {
        self(request)
    }
}

/// [`Authenticator`] as a trait object.
pub(super) trait CallAuthenticator: Send + Sync {
    fn methods(&self) -> &'static [&'static str];

    fn call(self: Arc<Self>, request: AuthRequest) -> AuthTask<AuthResponse>;
}

impl<A: Authenticator> CallAuthenticator for A {
    fn methods(&self) -> &'static [&'static str] {
        Authenticator::methods(self)
    }

    fn call(self: Arc<Self>, request: AuthRequest) -> AuthTask<AuthResponse> {
        Box::pin(async move { self.authenticate(request).await })
    }
}

/// A CONNECT, as an [`Authenticator`] receives it.
#[derive(Clone)]
pub struct AuthRequest {
    pub(super) attempt: Arc<Attempt>,
    pub(super) options: Arc<BTreeMap<Arc<str>, Value>>,
}

impl AuthRequest {
    /// The name of the endpoint that the client connects to.
    pub fn endpoint(&self) -> &str {
        &self.attempt.endpoint
    }

    /// The client id, as the client sent it or as the broker assigned it to a client that sent none.
    pub fn client_id(&self) -> &str {
        &self.attempt.client_id
    }

    /// The user name, if the client sent one.
    pub fn username(&self) -> Option<&str> {
        self.attempt.username.as_deref()
    }

    /// The password, if the client sent one.
    pub fn password(&self) -> Option<&[u8]> {
        self.attempt.password.as_deref()
    }

    /// The client's address; behind a proxy the one in the PROXY header. `None` on a Unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        self.attempt.peer
    }

    /// The version of MQTT that the client speaks.
    pub fn protocol(&self) -> ProtocolVersion {
        self.attempt.version
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        self.attempt.tls
    }

    /// The verified certificate of mutual TLS.
    pub fn certificate(&self) -> Option<&PeerCertificate> {
        self.attempt.certificate.as_ref()
    }

    /// The method of an enhanced authentication: one of [`Authenticator::methods`]. `None`: the client uses none.
    pub fn method(&self) -> Option<&str> {
        self.attempt.method.as_deref()
    }

    /// The authentication data of CONNECT, or of the AUTH packet that begins a re-authentication.
    pub fn data(&self) -> Option<&[u8]> {
        self.attempt.data.as_deref()
    }

    /// Whether the client is connected, and authenticates again. It has no password then, and must keep its user name: it is
    /// disconnected with 0x87 where it is not allowed, or allowed under another name.
    pub fn is_reauthentication(&self) -> bool {
        self.attempt.reauthentication
    }

    /// A value of `options` in the document.
    pub fn option(&self, name: &str) -> Option<&Value> {
        self.options.get(name)
    }
}

/// Without the password.
impl std::fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthRequest")
            .field("endpoint", &self.endpoint())
            .field("client_id", &self.client_id())
            .field("username", &self.username())
            .field("address", &self.address())
            .finish_non_exhaustive()
    }
}

/// The answer of an [`Authenticator`].
#[derive(Debug)]
#[non_exhaustive]
pub enum AuthResponse {
    /// Admit the client.
    Allow(AuthGrant),
    /// Reject the client.
    Deny(AuthDenial),
    /// Ask the next element of the chain; the end of the chain denies.
    Next,
    /// Send the client an AUTH packet, and decide by its answer. Only for a client with a method of enhanced authentication:
    /// others are rejected with 0x88.
    Challenge(AuthChallenge),
}

/// Data for a client that authenticates by AUTH packets, and what answers its reply: with a decision, or with a further
/// challenge.
///
/// ```
/// use weirmq::{AuthChallenge, AuthDenial, AuthGrant, AuthRequest, AuthResponse, Authenticator};
///
/// struct Puzzle;
///
/// impl Authenticator for Puzzle {
///     fn methods(&self) -> &'static [&'static str] {
///         &["PUZZLE"]
///     }
///
///     async fn authenticate(&self, request: AuthRequest) -> AuthResponse {
///         if request.method().is_none() {
///             return AuthResponse::Next;
///         }
///         AuthResponse::Challenge(AuthChallenge::new("6 * 7", async |reply| match &*reply {
///             b"42" => AuthResponse::Allow(AuthGrant::new().username("solver").data("welcome")),
///             _ => AuthResponse::Deny(AuthDenial::BadCredentials),
///         }))
///     }
/// }
/// ```
///
/// `timeoutMs` and `maxConcurrent` hold for each answer; none of it counts while the broker waits for the client. How long a
/// client may take to connect is bounded by the endpoint's `connectTimeoutMs`.
pub struct AuthChallenge {
    pub(super) data: Vec<u8>,
    pub(super) answer: Answer,
}

/// Answers the data of the client's AUTH packet.
pub(super) type Answer = Box<dyn FnOnce(Vec<u8>) -> AuthTask<AuthResponse> + Send>;

impl AuthChallenge {
    /// Sends `data`, and has `answer` decide about the data of the client's AUTH packet, which are empty where it has none. It
    /// is called as [`Authenticator::authenticate`] is; it is dropped where the client disconnects.
    pub fn new<A>(data: impl Into<Vec<u8>>, answer: impl FnOnce(Vec<u8>) -> A + Send + 'static) -> Self
    where
        A: Future<Output = AuthResponse> + Send + 'static,
    {
        Self { data: data.into(), answer: Box::new(move |reply| Box::pin(answer(reply))) }
    }
}

/// Without the data.
impl std::fmt::Debug for AuthChallenge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthChallenge").finish_non_exhaustive()
    }
}

/// Why an [`Authenticator`] rejects a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AuthDenial {
    /// CONNACK 0x86 (MQTT 3.x: 4). One answer for unknown users and wrong passwords does not reveal which users exist. It
    /// counts as a failure of `rateLimit`.
    BadCredentials,
    /// CONNACK 0x87 (MQTT 3.x: 5). It counts as a failure of `rateLimit`.
    NotAuthorized,
    /// CONNACK 0x85 (MQTT 3.x: 2): the credentials are valid for another client id.
    ClientIdNotValid,
    /// CONNACK 0x8A (MQTT 3.x: 5).
    Banned,
    /// CONNACK 0x88 (MQTT 3.x: 3): the answer is not known at present.
    Unavailable,
}

impl From<AuthDenial> for AuthRefusal {
    fn from(denial: AuthDenial) -> Self {
        match denial {
            AuthDenial::BadCredentials => Self::BadCredentials,
            AuthDenial::NotAuthorized => Self::NotAuthorized,
            AuthDenial::ClientIdNotValid => Self::ClientIdNotValid,
            AuthDenial::Banned => Self::Banned,
            AuthDenial::Unavailable => Self::Unavailable,
        }
    }
}

/// Under which identity, with which rights and until when a client is admitted.
#[derive(Debug, Clone, Default, PartialEq)]
#[must_use]
pub struct AuthGrant {
    pub(super) username: Option<Box<str>>,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
    pub(super) data: Option<Vec<u8>>,
    pub(super) expires_at: Option<SystemTime>,
}

impl AuthGrant {
    /// Admits the client under the user name that it sent, with the rights that the endpoint's access list gives it.
    pub fn new() -> Self {
        Self::default()
    }

    /// Admits it under this user name, which access lists and `${username}` refer to.
    pub fn username(mut self, username: impl Into<String>) -> Self {
        self.username = Some(username.into().into());
        self
    }

    /// Lets it publish to these topic filters, `${clientid}` and `${username}` filled in. Once this or
    /// [`AuthGrant::may_subscribe`] was called, everything else is denied; the endpoint's access list applies as well.
    pub fn may_publish<T: Into<String>>(mut self, filters: impl IntoIterator<Item = T>) -> Self {
        self.publish.get_or_insert_default().extend(filters.into_iter().map(Into::into));
        self
    }

    /// Lets it subscribe to these topic filters; see [`AuthGrant::may_publish`].
    pub fn may_subscribe<T: Into<String>>(mut self, filters: impl IntoIterator<Item = T>) -> Self {
        self.subscribe.get_or_insert_default().extend(filters.into_iter().map(Into::into));
        self
    }

    /// The authentication data of CONNACK, or of the AUTH packet that ends a re-authentication. Clients without a method of
    /// enhanced authentication do not get them.
    pub fn data(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.data = Some(data.into());
        self
    }

    /// When the credential ends: the broker disconnects the client then.
    pub fn expires_at(mut self, end: SystemTime) -> Self {
        self.expires_at = Some(end);
        self
    }

    /// The rights as in a token's claim; `None`: the authenticator gives none of its own.
    pub(super) fn rights(&self) -> Option<Value> {
        let lists = [("publish", &self.publish), ("subscribe", &self.subscribe)];
        let mut lists = lists.into_iter().filter_map(|(key, filters)| Some((key, filters.as_ref()?))).peekable();
        lists.peek()?;
        Some(lists.map(|(key, filters)| (key.to_owned(), json!(filters))).collect())
    }
}

/// A registered authenticator.
#[derive(Clone)]
pub(super) struct Registered {
    pub(super) authenticator: Arc<dyn CallAuthenticator>,
    pub(super) methods: &'static [&'static str],
}

/// The authenticators that the program has registered, by name, and the runtime that they run on.
#[derive(Clone, Default)]
pub(crate) struct Authenticators {
    by_name: BTreeMap<Arc<str>, Registered>,
    /// `None`: the server has not started.
    runtime: Option<Handle>,
}

impl Authenticators {
    /// Registers one; an earlier one of the same name is replaced.
    pub(crate) fn register(&mut self, name: Arc<str>, authenticator: impl Authenticator) {
        let authenticator: Arc<dyn CallAuthenticator> = Arc::new(authenticator);
        self.by_name.insert(name, Registered { methods: authenticator.methods(), authenticator });
    }

    /// Has them run on this runtime.
    pub(crate) fn run_on(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// The authenticator of this name, and its runtime.
    pub(super) fn get(&self, name: &str) -> Option<(Registered, Handle)> {
        Some((self.by_name.get(name)?.clone(), self.runtime.clone()?))
    }

    /// All names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(|name| &**name)
    }
}

impl std::fmt::Debug for Authenticators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}
