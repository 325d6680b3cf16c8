//! A chain of authenticators: each allows, denies or passes on, in declared order; the end of the chain denies.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{AuthExchange, Authenticate, Credentials, Decision, Inquiry, PeerCertificate, Refusal};
use weir_broker::{Authorize, Millis, Principal};
use weir_mqtt::ProtocolVersion;

/// What a client shows at CONNECT, owned: it may have to wait for a worker thread.
pub(super) struct Attempt {
    pub(super) endpoint: Arc<str>,
    pub(super) now: Millis,
    pub(super) version: ProtocolVersion,
    pub(super) client_id: Box<str>,
    /// The server chose it, for the client sent none.
    pub(super) client_id_assigned: bool,
    pub(super) username: Option<Box<str>>,
    pub(super) password: Option<Box<[u8]>>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) certificate: Option<PeerCertificate>,
    pub(super) tls: bool,
    pub(super) method: Option<Box<str>>,
    pub(super) data: Option<Box<[u8]>>,
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
            certificate: credentials.certificate.cloned(),
            tls: credentials.tls,
            method: credentials.authentication_method.map(Box::from),
            data: credentials.authentication_data.map(Box::from),
        }
    }
}

/// What one link of the chain says.
pub(super) enum Answer {
    Allow(Grant),
    Deny(Refusal),
    /// Not mine. `owed`: should the client be refused in the end, [`Link::spend`] the time a known name would have cost.
    PassOn {
        owed: bool,
    },
    /// Ask again on a worker thread.
    Later(Box<dyn FnOnce() -> Answer + Send>),
    /// Somebody else is asked, as [`Decision::Inquire`].
    Inquire(Inquiry<Answer>),
    /// Ask the client for more.
    Ask {
        data: Vec<u8>,
        dialogue: Box<dyn Dialogue>,
    },
}

/// An enhanced authentication under way, within one link.
pub(super) trait Dialogue: Send {
    fn step(self: Box<Self>, data: &[u8]) -> Answer;
}

/// As whom a link lets a client in.
pub(super) struct Grant {
    pub(super) username: Option<Box<str>>,
    /// For a client that sent none.
    pub(super) client_id: Option<Box<str>>,
    /// [`Principal::admitted_by`], as [`AdmittedBy`] writes it, without what the client offered.
    pub(super) admitted_by: Arc<str>,
    pub(super) claims_acl: Option<Arc<dyn Authorize>>,
    pub(super) expires_at: Option<Millis>,
    /// For CONNACK.
    pub(super) data: Option<Vec<u8>>,
}

impl Grant {
    /// Without anything that most ways in do not know.
    pub(super) fn plain(username: Option<Box<str>>, admitted_by: Arc<str>) -> Self {
        Self { username, client_id: None, admitted_by, claims_acl: None, expires_at: None, data: None }
    }
}

/// What a link says of a client that is in already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Confirmation {
    Yes,
    No,
    PassesOn,
}

/// One authenticator of a chain.
pub(super) trait Link: Send + Sync {
    fn judge(&self, attempt: &Arc<Attempt>) -> Answer;

    /// As [`Authenticate::confirms`]; `admission` says how it was admitted.
    fn confirms(&self, admission: &AdmittedBy<'_>, principal: &Principal) -> Confirmation;

    /// Costs as much time as a wrong password. Called on a worker thread.
    fn spend(&self, _attempt: &Attempt) {}
}

/// [`Principal::admitted_by`] in parts: `kind version after[ offered]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AdmittedBy<'a> {
    /// The link's key in the document.
    pub(super) kind: &'a str,
    /// Of the record that admitted it.
    pub(super) version: &'a str,
    /// Digest of the links that passed it on and whose answer cannot be known again without the password.
    pub(super) after: &'a str,
    /// The user name of CONNECT, where the client was admitted under another or none.
    pub(super) offered: Option<&'a str>,
}

impl<'a> AdmittedBy<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(Self { kind: parts.next()?, version: parts.next()?, after: parts.next()?, offered: parts.next() })
    }

    /// The text without what the client offered.
    pub(super) fn write(kind: &str, version: &str, after: &str) -> Arc<str> {
        format!("{kind} {version} {after}").into()
    }

    /// The user name the client gave, as far as known.
    pub(super) fn username(&self, principal: &'a Principal) -> Option<&'a str> {
        self.offered.or(principal.username.as_deref())
    }
}

/// The key of the link that takes enhanced authentication.
pub(super) const SCRAM: &str = "scram";

/// The links of an auth document.
pub(super) struct Chain {
    links: Arc<[Box<dyn Link>]>,
}

impl Chain {
    pub(super) fn new(links: Vec<Box<dyn Link>>) -> Self {
        Self { links: links.into() }
    }
}

impl Authenticate for Chain {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        let attempt = Arc::new(Attempt::new(credentials));
        let walk = Walk { links: Arc::clone(&self.links), attempt, index: 0, owed: Vec::new(), on_worker: false };
        let first = walk.ask();
        walk.go_on(first)
    }

    fn confirms(&self, principal: &Principal, _client_id: &str) -> bool {
        let Some(admission) = AdmittedBy::parse(&principal.admitted_by) else { return false };
        let decisive = self.links.iter().map(|link| link.confirms(&admission, principal));
        decisive.into_iter().find(|answer| *answer != Confirmation::PassesOn) == Some(Confirmation::Yes)
    }
}

/// One client's way through the chain.
struct Walk {
    links: Arc<[Box<dyn Link>]>,
    attempt: Arc<Attempt>,
    index: usize,
    /// Links that passed the client on and want time spent before it is refused.
    owed: Vec<usize>,
    on_worker: bool,
}

impl Walk {
    fn ask(&self) -> Answer {
        let end = match self.attempt.method {
            // [MQTT-4.12.0-1]: no link knows the method.
            Some(_) => Refusal::BadAuthenticationMethod,
            None => Refusal::BadCredentials,
        };
        self.links.get(self.index).map_or(Answer::Deny(end), |link| link.judge(&self.attempt))
    }

    fn go_on(mut self, mut answer: Answer) -> Decision {
        loop {
            answer = match answer {
                Answer::Allow(grant) => return self.admit(grant),
                Answer::Deny(refusal) => return self.refuse(refusal),
                Answer::PassOn { owed } => {
                    self.owed.extend(owed.then_some(self.index));
                    self.index += 1;
                    self.ask()
                }
                Answer::Later(work) if self.on_worker => work(),
                Answer::Later(work) => {
                    return Decision::Pending(Box::new(move || {
                        self.on_worker = true;
                        self.go_on(work())
                    }));
                }
                Answer::Inquire(inquiry) => {
                    self.on_worker = false; // nor is where the answer comes in one
                    return Decision::Inquire(Box::pin(async move { self.go_on(inquiry.await) }));
                }
                Answer::Ask { data, dialogue } => {
                    self.on_worker = false; // the client's answer comes in on the shard
                    return Decision::Continue { data, exchange: Box::new(WalkExchange { walk: self, dialogue }) };
                }
            }
        }
    }

    fn admit(self, grant: Grant) -> Decision {
        let offered = self.attempt.username.as_deref().filter(|offered| grant.username.as_deref() != Some(*offered));
        let admitted_by =
            offered.map_or(Arc::clone(&grant.admitted_by), |offered| format!("{} {offered}", grant.admitted_by).into());
        let principal = Principal {
            username: grant.username,
            address: self.attempt.peer.map(|peer| peer.ip()),
            admitted_by,
            claims_acl: grant.claims_acl,
            expires_at: grant.expires_at,
        };
        match (grant.data, grant.client_id) {
            (None, None) => Decision::Admit(principal),
            (data, client_id) => Decision::AdmitWith { principal, data, client_id },
        }
    }

    fn refuse(self, refusal: Refusal) -> Decision {
        if self.owed.is_empty() {
            return Decision::Refuse(refusal);
        }
        let spend = move || {
            for link in self.owed.iter().filter_map(|&index| self.links.get(index)) {
                link.spend(&self.attempt);
            }
            Decision::Refuse(refusal)
        };
        if self.on_worker { spend() } else { Decision::Pending(Box::new(spend)) }
    }
}

struct WalkExchange {
    walk: Walk,
    dialogue: Box<dyn Dialogue>,
}

impl AuthExchange for WalkExchange {
    fn step(self: Box<Self>, data: &[u8]) -> Decision {
        let answer = self.dialogue.step(data);
        self.walk.go_on(answer)
    }
}
