//! `anonymous`: clients without credentials; and `enableAuth: false`, which admits every client.

use std::sync::Arc;

use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Answer, Attempt, Authenticate, Authenticator, Credentials, Decision, Grant, Recheck, Refusal};
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
            return Decision::Refuse(Refusal::BadAuthenticationMethod);
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
    after: String,
}

const KIND: &str = "anonymous";

impl AnonymousBackend {
    pub(in crate::auth) fn new(declared: &config::Anonymous, after: &str) -> Self {
        let admitted_by = AdmittedBy::write(KIND, "1", after);
        Self { with_username: declared.with_username, admitted_by, after: after.to_owned() }
    }
}

impl Authenticator for AnonymousBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> Answer {
        if attempt.method.is_some() || (attempt.username.is_some() && !self.with_username) {
            return Answer::Next { equalize: false };
        }
        Answer::Allow(Grant::new(None, Arc::clone(&self.admitted_by)))
    }

    fn still_valid(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Recheck {
        let same = admission.kind == KIND && admission.after == self.after;
        if same && (self.with_username || admission.offered.is_none()) { Recheck::Valid } else { Recheck::Next }
    }
}
