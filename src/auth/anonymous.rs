//! Everybody may come in.

use std::sync::Arc;

use super::{Authenticate, Credentials, Decision, Refusal};
use crate::broker::Principal;

/// Admits every client, as the user name it gives, unproven. Enhanced authentication is not its affair and is refused.
pub struct Anonymous {
    admitted_by: Arc<str>,
}

impl Anonymous {
    /// What [`Principal::admitted_by`] says of its clients.
    pub const ADMITTED_BY: &'static str = "anonymous";

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
