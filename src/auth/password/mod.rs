//! `passwordFile`: user names and password hashes.

mod file;
mod hash;

use std::sync::Arc;

pub(super) use file::lines;
pub use file::{PasswordFile, RecordError};
pub use hash::PasswordHash;

use super::chain::{AdmittedBy, Answer, Attempt, Confirmation, Grant, Link};
use super::digest::version_of;
use super::{Refusal, chain};
use weir_broker::Principal;

/// A password file as a link of a chain.
pub(super) struct PasswordLink {
    records: PasswordFile,
    /// For each user, in the file's order: what [`Principal::admitted_by`] says.
    admitted_by: Vec<Arc<str>>,
    after: String,
}

const KIND: &str = "passwordFile";

impl PasswordLink {
    pub(super) fn new(records: PasswordFile, after: &str) -> Self {
        let admitted_by = records.iter().map(|(_, hash)| AdmittedBy::write(KIND, &version(hash), after)).collect();
        Self { records, admitted_by, after: after.to_owned() }
    }
}

fn version(hash: &PasswordHash) -> String {
    version_of(&[hash.to_string().as_bytes()])
}

impl Link for PasswordLink {
    fn judge(&self, attempt: &Arc<Attempt>) -> Answer {
        let (Some(username), None) = (attempt.username.as_deref(), &attempt.method) else {
            return Answer::PassOn { owed: false };
        };
        let Some((index, hash)) = self.records.find(username) else { return Answer::PassOn { owed: true } };
        let Some(admitted_by) = self.admitted_by.get(index).map(Arc::clone) else {
            return Answer::Deny(Refusal::BadCredentials);
        };
        let (hash, attempt) = (hash.clone(), Arc::clone(attempt));
        Answer::Later(Box::new(move || {
            let matches = hash.verify(attempt.password.as_deref().unwrap_or_default());
            if !matches || attempt.password.is_none() {
                return Answer::Deny(Refusal::BadCredentials);
            }
            Answer::Allow(Grant::plain(attempt.username.clone(), admitted_by))
        }))
    }

    fn confirms(&self, admission: &AdmittedBy<'_>, principal: &Principal) -> Confirmation {
        // An enhanced authentication passes by password files.
        let username = admission.username(principal).filter(|_| admission.kind != chain::SCRAM);
        let Some((_, hash)) = username.and_then(|username| self.records.find(username)) else {
            return Confirmation::PassesOn;
        };
        let same = admission.kind == KIND && admission.version == version(hash) && admission.after == self.after;
        if same { Confirmation::Yes } else { Confirmation::No }
    }

    fn spend(&self, attempt: &Attempt) {
        let username = attempt.username.as_deref().unwrap_or_default();
        let password = attempt.password.as_deref().unwrap_or_default();
        // Which answer comes is all the same: the name is in no record.
        let _ = self.records.stand_in_for(username).is_some_and(|hash| hash.verify(password));
    }
}
