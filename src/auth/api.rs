//! Input and output of an authenticator.
//!
//! [`Authenticate`] is what a listener asks; a chain implements it. `AuthBackend` is one element of a chain.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use super::admitted_by::AdmittedBy;
use super::certificate::PeerCertificate;
use super::source_key::SourceKey;
use weir_broker::{Authorize, EndpointPolicy, Millis, Principal, StillAdmits};
use weir_mqtt::ProtocolVersion;

/// The credentials of a CONNECT, or of a re-authentication.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// The endpoint that the client connects to.
    pub endpoint: &'a EndpointPolicy,
    /// Now, on the core's clock: what [`Principal::expires_at`] counts from.
    pub now: Millis,
    pub version: ProtocolVersion,
    /// As sent, or as the server assigned it.
    pub client_id: &'a str,
    pub client_id_assigned: bool,
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    /// The client's address; behind a proxy, the one in the PROXY header. `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The verified certificate of mutual TLS.
    pub certificate: Option<&'a PeerCertificate>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// MQTT 5.0 enhanced authentication.
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    /// A re-authentication: the client is connected.
    pub reauthentication: bool,
    /// `None` from a listener. The guard sets it for work that waits elsewhere than in the workers' queue.
    pub(crate) start_check: Option<&'a Arc<dyn StartCheck>>,
}

/// Asked once more when slow work for an attempt begins: limits may have been used up while it waited.
pub(crate) trait StartCheck: Send + Sync {
    /// Why the work is not done any more.
    fn refusal(&self) -> Option<AuthRefusal>;
}

/// The answer to [`Credentials`].
pub enum Decision {
    /// Accept the client.
    Admit(Principal),
    /// Accept the client. `data` is the final data of an enhanced authentication, for CONNACK (or AUTH); `client_id`
    /// replaces the id that the server assigned to a client that sent none.
    AdmitWith { principal: Principal, data: Option<Vec<u8>>, client_id: Option<Box<str>> },
    /// Reject the client.
    Refuse(AuthRefusal),
    /// Not decided: run this on a worker thread. It may take long, but must end: it occupies a worker.
    Blocking(Box<dyn FnOnce() -> Decision + Send>),
    /// Not decided: run this on a tokio runtime with IO and time. It occupies no thread; dropping it cancels it.
    Task(AuthTask<Decision>),
    /// Send the client an AUTH packet with `data`; its answer goes to `exchange`.
    Continue { data: Vec<u8>, exchange: Box<dyn AuthExchange> },
}

/// Authentication that waits for the network.
pub type AuthTask<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// An enhanced authentication that waits for the client.
pub trait AuthExchange: Send {
    /// Takes the client's next AUTH data (empty where the packet has none).
    fn step(self: Box<Self>, data: &[u8]) -> Decision;
}

/// Why a client is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthRefusal {
    /// Unknown user, wrong password, or no credentials. One value for all, so that it does not reveal which names exist.
    BadCredentials,
    NotAuthorized,
    /// The authentication service does not answer.
    Unavailable,
    BadAuthenticationMethod,
    Banned,
    /// The credentials are valid, but for another client id.
    ClientIdNotValid,
    /// Too many attempts.
    RateExceeded,
    /// No worker is free.
    Busy,
    /// The endpoint names an auth document that does not exist.
    NoAuthDocument,
}

impl AuthRefusal {
    /// CONNACK's reason code, 5.0.
    pub fn reason_code(self) -> u8 {
        match self {
            AuthRefusal::ClientIdNotValid => 0x85,
            AuthRefusal::BadCredentials => 0x86,
            AuthRefusal::NotAuthorized => 0x87,
            AuthRefusal::Unavailable | AuthRefusal::NoAuthDocument => 0x88,
            AuthRefusal::Busy => 0x89,
            AuthRefusal::Banned => 0x8A,
            AuthRefusal::BadAuthenticationMethod => 0x8C,
            AuthRefusal::RateExceeded => 0x9F,
        }
    }

    /// DISCONNECT's reason code, where a re-authentication fails.
    pub fn disconnect_code(self) -> u8 {
        match self {
            AuthRefusal::BadCredentials
            | AuthRefusal::NotAuthorized
            | AuthRefusal::Banned
            | AuthRefusal::ClientIdNotValid
            | AuthRefusal::BadAuthenticationMethod => 0x87,
            AuthRefusal::Unavailable | AuthRefusal::NoAuthDocument | AuthRefusal::Busy => 0x89,
            AuthRefusal::RateExceeded => 0x9F,
        }
    }

    /// CONNACK's return code, 3.x: 2 client id rejected, 3 server unavailable, 4 bad user name or password, 5 not
    /// authorized.
    pub fn return_code(self) -> u8 {
        match self {
            AuthRefusal::ClientIdNotValid => 2,
            AuthRefusal::BadCredentials => 4,
            AuthRefusal::NotAuthorized | AuthRefusal::BadAuthenticationMethod | AuthRefusal::Banned => 5,
            AuthRefusal::Unavailable | AuthRefusal::NoAuthDocument | AuthRefusal::RateExceeded | AuthRefusal::Busy => 3,
        }
    }
}

/// Decides which clients may connect. Shared by all shards and called on their threads: an implementation that needs more
/// than microseconds returns [`Decision::Blocking`] (a slow hash) or [`Decision::Task`] (a request over the network).
pub trait Authenticate: Send + Sync {
    /// The name of the auth document that is missing, so that every client is refused.
    fn missing_document(&self) -> Option<&str> {
        None
    }

    /// Decides about a CONNECT or a re-authentication.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision;

    /// Whether a client that was admitted as `principal` would still be admitted, as far as that can be known without its
    /// password: `false` where the record that admitted it was removed or changed. Called for every open connection of an
    /// endpoint whose authentication changed, and for disconnected clients when their wills are due; connections that are no
    /// longer valid are closed, and such wills are dropped.
    fn still_valid(&self, principal: &Principal, client_id: &str) -> bool;
}

/// One element of a chain.
pub(super) trait AuthBackend: Send + Sync {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer;

    /// As [`Authenticate::still_valid`]; `admission` is how the client was admitted.
    fn still_valid(&self, admission: &AdmittedBy<'_>, principal: &Principal) -> Recheck;

    /// Work that takes as long for an unknown user name as a wrong password does for a known one.
    fn decoy(&self, _username: &str) -> Option<Decoy> {
        None
    }
}

/// The stand-in for an unknown user. Of those of several backends, the chain runs the one with the highest score: a name
/// that one of them knows costs one check, too.
pub(super) struct Decoy {
    pub(super) score: f64,
    /// Runs on a worker thread.
    pub(super) check: Box<dyn FnOnce(&Attempt) + Send>,
}

/// The answer of one authenticator.
pub(super) enum BackendAnswer {
    Allow(Grant),
    Deny(AuthRefusal),
    /// Not decided here: ask the next authenticator. Where the chain denies in the end and `equalize` is set,
    /// [`AuthBackend::decoy`] is run, so that the time does not reveal that the name is unknown.
    Next {
        equalize: bool,
    },
    /// As [`Decision::Blocking`].
    Blocking(Box<dyn FnOnce() -> BackendAnswer + Send>),
    /// As [`Decision::Task`].
    Task(AuthTask<BackendAnswer>),
    /// As [`Decision::Continue`].
    Continue {
        data: Vec<u8>,
        exchange: Box<dyn BackendExchange>,
    },
}

/// As [`AuthExchange`], for one authenticator.
pub(super) trait BackendExchange: Send {
    fn step(self: Box<Self>, data: &[u8]) -> BackendAnswer;
}

/// Under which identity an authenticator admits a client.
pub(super) struct Grant {
    pub(super) username: Option<Box<str>>,
    /// For a client that sent none.
    pub(super) client_id: Option<Box<str>>,
    /// [`Principal::admitted_by`] without the offered user name.
    pub(super) admitted_by: Arc<str>,
    pub(super) claims_acl: Option<Arc<dyn Authorize>>,
    pub(super) expires_at: Option<Millis>,
    /// For CONNACK.
    pub(super) data: Option<Vec<u8>>,
}

impl Grant {
    /// A user name and nothing else.
    pub(super) fn new(username: Option<Box<str>>, admitted_by: Arc<str>) -> Self {
        Self { username, client_id: None, admitted_by, claims_acl: None, expires_at: None, data: None }
    }
}

/// An authenticator's answer about a connected client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recheck {
    Valid,
    Invalid,
    /// Ask the next authenticator.
    Next,
}

/// [`Credentials`], owned: they may have to wait for a worker thread.
pub(super) struct Attempt {
    pub(super) endpoint: Arc<str>,
    pub(super) now: Millis,
    pub(super) version: ProtocolVersion,
    pub(super) client_id: Box<str>,
    pub(super) client_id_assigned: bool,
    pub(super) username: Option<Box<str>>,
    pub(super) password: Option<Box<[u8]>>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) source: SourceKey,
    pub(super) certificate: Option<PeerCertificate>,
    pub(super) tls: bool,
    /// The authentication method and data of an enhanced authentication.
    pub(super) method: Option<Box<str>>,
    pub(super) data: Option<Box<[u8]>>,
    pub(super) reauthentication: bool,
    pub(super) start_check: Option<Arc<dyn StartCheck>>,
}

impl Attempt {
    pub(super) fn new(credentials: &Credentials<'_>) -> Self {
        Self {
            endpoint: Arc::clone(&credentials.endpoint.name),
            now: credentials.now,
            version: credentials.version,
            client_id: credentials.client_id.into(),
            client_id_assigned: credentials.client_id_assigned,
            username: credentials.username.map(Box::from),
            password: credentials.password.map(Box::from),
            peer: credentials.peer,
            source: SourceKey::new(credentials.peer),
            certificate: credentials.certificate.cloned(),
            tls: credentials.tls,
            method: credentials.authentication_method.map(Box::from),
            data: credentials.authentication_data.map(Box::from),
            reauthentication: credentials.reauthentication,
            start_check: credentials.start_check.map(Arc::clone),
        }
    }

    /// Bytes that the client chose.
    pub(super) fn bytes(&self) -> usize {
        let texts = [Some(&self.client_id), self.username.as_ref(), self.method.as_ref()];
        let data = [&self.password, &self.data];
        let of_texts: usize = texts.into_iter().flatten().map(|text| text.len()).sum();
        of_texts + data.into_iter().flatten().map(|bytes| bytes.len()).sum::<usize>()
    }
}

/// An [`Authenticate`] as the core asks it about clients that are no longer connected.
pub struct AdmissionCheck(pub Arc<dyn Authenticate>);

impl std::fmt::Debug for AdmissionCheck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AdmissionCheck")
    }
}

impl StillAdmits for AdmissionCheck {
    fn still_admits(&self, client_id: &str, principal: &Principal) -> bool {
        self.0.still_valid(principal, client_id)
    }
}
