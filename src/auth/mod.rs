//! Who may connect. (Who may publish and subscribe is [`weir_broker::Authorize`].)
//!
//! A listener's policy holds one [`Authenticate`]; a chain of them is one too. An answer that takes time is
//! [`Decision::Pending`]: the event loop runs it on its worker pool and never waits for it.

mod acl;
mod admission;
mod anonymous;
mod ban;
mod certificate;
mod certificate_link;
mod chain;
mod digest;
mod guard;
mod http;
mod jwt;
mod password;
mod recent;
mod scram;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

pub use acl::{DenyAll, Request, RuleSet, Verdict};
pub use admission::{Admission, ReadFile};
pub use anonymous::Anonymous;
pub use ban::{Bans, Suspect};
pub use certificate::{CertificateError, PeerCertificate, SubjectAltName, validity};
pub use password::{PasswordFile, PasswordHash, RecordError};
pub use scram::{ScramRecord, check_scram_file, prepared};

use weir_broker::{EndpointPolicy, Millis, Principal, StillAdmits};
use weir_mqtt::ProtocolVersion;

/// What a client shows at CONNECT, or to authenticate again.
#[derive(Clone, Copy)]
pub struct Credentials<'a> {
    /// Where it came in.
    pub endpoint: &'a EndpointPolicy,
    /// Now, on the core's clock: what [`Principal::expires_at`] counts from.
    pub now: Millis,
    pub version: ProtocolVersion,
    /// As sent, or as the server assigned it.
    pub client_id: &'a str,
    pub client_id_assigned: bool,
    pub username: Option<&'a str>,
    pub password: Option<&'a [u8]>,
    /// The client's address, the one the PROXY header names where there is one; `None` on a Unix socket.
    pub peer: Option<SocketAddr>,
    /// The verified certificate of mutual TLS.
    pub certificate: Option<&'a PeerCertificate>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// MQTT 5.0 enhanced authentication.
    pub authentication_method: Option<&'a str>,
    pub authentication_data: Option<&'a [u8]>,
    /// It is connected already, and shows again who it is.
    pub again: bool,
}

/// What an authenticator decides.
pub enum Decision {
    /// Come in.
    Admit(Principal),
    /// Come in; `data` is the last word of an enhanced authentication, for CONNACK (or AUTH); `client_id` is for a client
    /// that sent none, in place of the one the server assigned.
    AdmitWith { principal: Principal, data: Option<Vec<u8>>, client_id: Option<Box<str>> },
    /// Stay out.
    Refuse(Refusal),
    /// Not known yet: run this on a worker thread. It may take long, but must end: it holds a worker.
    Pending(Box<dyn FnOnce() -> Decision + Send>),
    /// Not known yet: somebody else is asked. It wants a tokio runtime with IO and time, and costs no thread; to drop it is
    /// to ask no more.
    Inquire(Inquiry<Decision>),
    /// Ask the client for more: an AUTH packet with `data` goes out, the answer goes to `exchange`.
    Continue { data: Vec<u8>, exchange: Box<dyn AuthExchange> },
}

/// What comes of asking somebody else.
pub type Inquiry<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One enhanced authentication under way.
pub trait AuthExchange: Send {
    /// The client's next AUTH data (empty where the packet carries none).
    fn step(self: Box<Self>, data: &[u8]) -> Decision;
}

/// Why a client stays out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Unknown, wrong, or none where some are needed. One answer for all, so that nobody learns which names exist.
    BadCredentials,
    NotAuthorized,
    /// The server that would know does not answer.
    Unavailable,
    BadAuthenticationMethod,
    Banned,
    /// Proven, but for another client id.
    ClientIdNotValid,
    /// Too many attempts.
    RateExceeded,
    /// No worker free to decide.
    Busy,
}

impl Refusal {
    /// CONNACK's reason code, 5.0.
    pub fn reason_code(self) -> u8 {
        match self {
            Refusal::ClientIdNotValid => 0x85,
            Refusal::BadCredentials => 0x86,
            Refusal::NotAuthorized => 0x87,
            Refusal::Unavailable => 0x88,
            Refusal::Busy => 0x89,
            Refusal::Banned => 0x8A,
            Refusal::BadAuthenticationMethod => 0x8C,
            Refusal::RateExceeded => 0x9F,
        }
    }

    /// DISCONNECT's reason code, where a re-authentication fails.
    pub fn disconnect_code(self) -> u8 {
        match self {
            Refusal::BadCredentials
            | Refusal::NotAuthorized
            | Refusal::Banned
            | Refusal::ClientIdNotValid
            | Refusal::BadAuthenticationMethod => 0x87,
            Refusal::Unavailable | Refusal::Busy => 0x89,
            Refusal::RateExceeded => 0x9F,
        }
    }

    /// CONNACK's return code, 3.x: 2 client id rejected, 3 server unavailable, 4 bad user name or password, 5 not
    /// authorized.
    pub fn return_code(self) -> u8 {
        match self {
            Refusal::ClientIdNotValid => 2,
            Refusal::BadCredentials => 4,
            Refusal::NotAuthorized | Refusal::BadAuthenticationMethod | Refusal::Banned => 5,
            Refusal::Unavailable | Refusal::RateExceeded | Refusal::Busy => 3,
        }
    }
}

/// Decides who may connect. Shared by all shards and called on their threads: whatever does not answer in microseconds
/// must answer [`Decision::Pending`] (a slow hash) or [`Decision::Inquire`] (a request over the network).
pub trait Authenticate: Send + Sync {
    /// Judges a CONNECT.
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision;

    /// Whether a client that was let in as `principal` would still be, as far as that can be told without its password:
    /// `false` where the record that admitted it is gone or has changed. Asked of every open connection of an endpoint
    /// whose authentication changed, and of clients that have gone when their wills are due; those it does not confirm are
    /// disconnected, and their wills dropped.
    fn confirms(&self, principal: &Principal, client_id: &str) -> bool;
}

/// An authenticator, as the core asks it of clients that have gone.
pub struct Confirms(pub Arc<dyn Authenticate>);

impl std::fmt::Debug for Confirms {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Confirms")
    }
}

impl StillAdmits for Confirms {
    fn still_admits(&self, client_id: &str, principal: &Principal) -> bool {
        self.0.confirms(principal, client_id)
    }
}

#[cfg(test)]
mod tests;
