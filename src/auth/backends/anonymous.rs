//! `anonymous`: clients without credentials; and `enableAuth: false`, which admits every client.

use std::sync::Arc;

use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{
    Attempt, AuthBackend, AuthRefusal, Authenticate, BackendAnswer, Credentials, Decision, Grant, Recheck,
};
use weir_broker::Principal;
use weir_declare::config;

/// `enableAuth: false`: admits every client under the user name that it sends, without a proof. It refuses enhanced
/// authentication.
pub struct Anonymous {
    admitted_by: Arc<str>,
}

impl Anonymous {
    /// [`Principal::admitted_by`] of its clients.
    pub const ADMITTED_BY: &'static str = "unauthenticated";

    /// Admits every client.
    pub fn new() -> Self {
        Self { admitted_by: Arc::from(Self::ADMITTED_BY) }
    }
}

impl Default for Anonymous {
    fn default() -> Self {
        Self::new()
    }
}

impl Authenticate for Anonymous {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        // [MQTT-4.12.0-1]: a method the server does not support.
        if credentials.authentication_method.is_some() {
            return Decision::Refuse(AuthRefusal::BadAuthenticationMethod);
        }
        Decision::Admit(Principal {
            username: credentials.username.map(Box::from),
            address: credentials.peer.map(|peer| peer.ip()),
            admitted_by: Arc::clone(&self.admitted_by),
            claims_acl: None,
            expires_at: None,
        })
    }

    fn still_valid(&self, _principal: &Principal, _client_id: &str) -> bool {
        true
    }
}

/// The `anonymous` authenticator of a chain.
pub(in crate::auth) struct AnonymousBackend {
    with_username: bool,
    admitted_by: Arc<str>,
    predecessors: String,
}

const KIND: &str = "anonymous";

impl AnonymousBackend {
    pub(in crate::auth) fn new(declared: &config::Anonymous, predecessors: &str) -> Self {
        let admitted_by = AdmittedBy::write(KIND, "1", predecessors);
        Self { with_username: declared.with_username, admitted_by, predecessors: predecessors.to_owned() }
    }
}

impl AuthBackend for AnonymousBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer {
        if attempt.method.is_some() || (attempt.username.is_some() && !self.with_username) {
            return BackendAnswer::Next { equalize: false };
        }
        BackendAnswer::Allow(Grant::new(None, Arc::clone(&self.admitted_by)))
    }

    fn still_valid(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Recheck {
        let same = admission.kind == KIND && admission.predecessors == self.predecessors;
        if same && (self.with_username || admission.offered.is_none()) { Recheck::Valid } else { Recheck::Next }
    }
}
