//! Everybody may come in.

use std::sync::Arc;

use super::chain::{AdmittedBy, Answer, Attempt, Confirmation, Grant, Link};
use super::{Authenticate, Credentials, Decision, Refusal};
use weir_broker::Principal;
use weir_declare::config;

/// `enableAuth: false`: admits every client, as the user name it gives, unproven. Enhanced authentication is not its affair and is refused.
pub struct Anonymous {
    admitted_by: Arc<str>,
}

impl Anonymous {
    /// What [`Principal::admitted_by`] says of its clients.
    pub const ADMITTED_BY: &'static str = "unauthenticated";

    /// Admits everybody.
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

    fn confirms(&self, _principal: &Principal, _client_id: &str) -> bool {
        true
    }
}

/// The `anonymous` link of a chain.
pub(super) struct AnonymousLink {
    with_username: bool,
    admitted_by: Arc<str>,
    after: String,
}

const KIND: &str = "anonymous";

impl AnonymousLink {
    pub(super) fn new(declared: &config::Anonymous, after: &str) -> Self {
        let admitted_by = AdmittedBy::write(KIND, "1", after);
        Self { with_username: declared.with_username, admitted_by, after: after.to_owned() }
    }
}

impl Link for AnonymousLink {
    fn judge(&self, attempt: &Arc<Attempt>) -> Answer {
        if attempt.method.is_some() || (attempt.username.is_some() && !self.with_username) {
            return Answer::PassOn { owed: false };
        }
        Answer::Allow(Grant::plain(None, Arc::clone(&self.admitted_by)))
    }

    fn confirms(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Confirmation {
        let same = admission.kind == KIND && admission.after == self.after;
        if same && (self.with_username || admission.offered.is_none()) {
            Confirmation::Yes
        } else {
            Confirmation::PassesOn
        }
    }
}
