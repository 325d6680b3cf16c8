//! `passwordFile`: user names and password hashes.

mod file;
mod hash;

use std::sync::Arc;

pub(super) use file::records;
pub use file::{PasswordFile, RecordError, RecordProblem};
pub use hash::{PasswordHash, PasswordHashError};

use super::scram;
use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Attempt, AuthBackend, AuthRefusal, BackendAnswer, Decoy, Grant, Recheck};
use crate::auth::digest::version_of;
use weir_broker::Principal;

/// A password file as an authenticator.
pub(in crate::auth) struct PasswordBackend {
    records: PasswordFile,
    /// [`Principal::admitted_by`] of each user, in the file's order.
    admitted_by: Vec<Arc<str>>,
    predecessors: String,
}

const KIND: &str = "passwordFile";

impl PasswordBackend {
    pub(in crate::auth) fn new(records: PasswordFile, predecessors: &str) -> Self {
        let admitted_by =
            records.iter().map(|(_, hash)| AdmittedBy::write(KIND, &version(hash), predecessors)).collect();
        Self { records, admitted_by, predecessors: predecessors.to_owned() }
    }
}

fn version(hash: &PasswordHash) -> String {
    version_of(&[hash.to_string().as_bytes()])
}

impl AuthBackend for PasswordBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer {
        let (Some(username), None) = (attempt.username.as_deref(), &attempt.method) else {
            return BackendAnswer::Next { equalize: false };
        };
        let Some((index, hash)) = self.records.find(username) else { return BackendAnswer::Next { equalize: true } };
        let Some(admitted_by) = self.admitted_by.get(index).map(Arc::clone) else {
            return BackendAnswer::Deny(AuthRefusal::BadCredentials);
        };
        let (hash, attempt) = (hash.clone(), Arc::clone(attempt));
        BackendAnswer::Blocking(Box::new(move || {
            let matches = hash.verify(attempt.password.as_deref().unwrap_or_default());
            if !matches || attempt.password.is_none() {
                return BackendAnswer::Deny(AuthRefusal::BadCredentials);
            }
            BackendAnswer::Allow(Grant::new(attempt.username.clone(), admitted_by))
        }))
    }

    fn still_valid(&self, admission: &AdmittedBy<'_>, principal: &Principal) -> Recheck {
        // Password files do not take part in enhanced authentication.
        let username = admission.username(principal).filter(|_| admission.kind != scram::KIND);
        let Some((_, hash)) = username.and_then(|username| self.records.find(username)) else {
            return Recheck::Next;
        };
        let same =
            admission.kind == KIND && admission.version == version(hash) && admission.predecessors == self.predecessors;
        if same { Recheck::Valid } else { Recheck::Invalid }
    }

    fn decoy(&self, username: &str) -> Option<Decoy> {
        let (hash, score) = self.records.decoy_for(username)?;
        // The result does not matter: the file has no such user.
        let check = move |attempt: &Attempt| {
            let _matches = hash.verify(attempt.password.as_deref().unwrap_or_default());
        };
        Some(Decoy { score, check: Box::new(check) })
    }
}
