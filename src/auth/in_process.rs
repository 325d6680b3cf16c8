//! Clients inside of the process that runs the broker: the program vouches for them.

use super::api::{Authenticate, Credentials, Decision};
use weir_broker::Principal;

/// [`Principal::admitted_by`] of clients in the process.
const IN_PROCESS: &str = "in-process";

/// Admits the client at the other end of a socket pair.
pub struct InProcessAuth {
    /// The user name for its endpoint's access list.
    pub username: Option<Box<str>>,
}

impl Authenticate for InProcessAuth {
    fn authenticate(&self, _credentials: &Credentials<'_>) -> Decision {
        Decision::Admit(Principal {
            username: self.username.clone(),
            address: None,
            admitted_by: IN_PROCESS.into(),
            claims_acl: None,
            expires_at: None,
        })
    }

    fn still_valid(&self, _principal: &Principal, _client_id: &str) -> bool {
        true
    }
}

/// Whether no change of credentials concerns the client.
pub fn is_in_process(principal: &Principal) -> bool {
    &*principal.admitted_by == IN_PROCESS
}
