//! Clients that another node of the cluster has authenticated.

use std::sync::{Arc, Mutex, PoisonError};

use super::api::{Authenticate, Credentials, Decision};
use weir_broker::Principal;

/// Admits the client of one relayed connection, as the node with its socket has.
pub struct RelayedAuth {
    admission: Mutex<Option<Decision>>,
    real: Arc<dyn Authenticate>,
}

impl RelayedAuth {
    /// `data` is the final data of an enhanced authentication, `assigned_id` a client id that the other node assigned; `real`
    /// decides about re-authentications.
    pub fn new(
        principal: Principal,
        data: Option<Vec<u8>>,
        assigned_id: Option<Box<str>>,
        real: Arc<dyn Authenticate>,
    ) -> Self {
        let admission = Decision::AdmitWith { principal, data, client_id: assigned_id };
        Self { admission: Mutex::new(Some(admission)), real }
    }
}

impl Authenticate for RelayedAuth {
    fn authenticate(&self, credentials: &Credentials<'_>) -> Decision {
        let admission = self.admission.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A connection has one CONNECT; what comes after it is a re-authentication.
        admission.unwrap_or_else(|| self.real.authenticate(credentials))
    }

    fn still_valid(&self, principal: &Principal, client_id: &str) -> bool {
        self.real.still_valid(principal, client_id)
    }
}
