//! `scram`: SCRAM-SHA-256 over MQTT 5.0's enhanced authentication (RFC 5802, RFC 7677), without channel binding.
//!
//! ```text
//! CONNECT  n,,n=user,r=CNONCE            ─▶
//!          ◀─  AUTH 0x18  r=CNONCE SNONCE,s=SALT,i=ITERATIONS
//! AUTH     c=biws,r=..,p=PROOF           ─▶
//!          ◀─  CONNACK    v=SERVERSIGNATURE
//! ```

mod exchange;
#[cfg(any(test, fuzzing))]
pub(in crate::auth) mod properties;
mod record;
mod saslprep;

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use self::exchange::{Challenge, ClientFirst};
use record::ScramCost;
pub use record::{ScramRecord, ScramRecordError};
pub use saslprep::{SaslprepError, saslprep};

use super::decoy::DecoyClasses;
use super::password::{RecordError, RecordProblem, records};
use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Attempt, AuthBackend, AuthRefusal, BackendAnswer, BackendExchange, Grant, Recheck};
use crate::auth::digest::version_of;
use crate::random;
use weir_broker::Principal;

/// The authenticator's key in an auth document.
pub(super) const KIND: &str = "scram";
/// Authentication Method.
const METHOD: &str = "SCRAM-SHA-256";
const NONCE_BYTES: usize = 18;

/// The users of a SCRAM file, by their prepared names.
pub(in crate::auth) struct ScramFile {
    records: HashMap<Box<str>, (ScramRecord, Arc<str>)>,
    /// For names that are not in the file: costs of its records, and salts derived from the secret of the first one.
    decoys: DecoyClasses<ScramCost>,
    secret: Vec<u8>,
}

impl ScramFile {
    /// Parses a whole file; the first bad line refuses all of it.
    pub(in crate::auth) fn parse(content: &[u8], predecessors: &str) -> Result<Self, RecordError> {
        let mut by_user = HashMap::new();
        let mut costs = Vec::new();
        let mut secret = Vec::new();
        for line in records(content)? {
            let error = |problem| RecordError { line: Some(line.number), problem };
            let record = ScramRecord::parse(line.record).map_err(|problem| error(problem.into()))?;
            if costs.is_empty() {
                secret = record.server_key.to_vec();
            }
            costs.push(record.cost());
            let admitted_by = AdmittedBy::write(KIND, &version(&record), predecessors);
            let unprepared = |why| error(RecordProblem::Saslprep(line.user.to_owned(), why));
            let user = saslprep(line.user).map_err(unprepared)?;
            if by_user.insert(Box::from(&*user), (record, admitted_by)).is_some() {
                return Err(error(RecordProblem::Duplicate(line.user.to_owned())));
            }
        }
        let decoys = DecoyClasses::new(&secret, costs.into_iter());
        Ok(Self { records: by_user, decoys, secret })
    }

    /// `None`: the file has no records, and was refused.
    fn decoy_for(&self, username: &str) -> Option<ScramRecord> {
        let (cost, _) = self.decoys.choose(username)?;
        Some(ScramRecord::decoy(&self.secret, *cost, username))
    }
}

/// Checks a SCRAM file.
///
/// # Errors
/// The first bad line.
pub fn check_scram_file(content: &[u8]) -> Result<(), RecordError> {
    ScramFile::parse(content, "").map(|_| ())
}

fn version(record: &ScramRecord) -> String {
    version_of(&[record.to_string().as_bytes()])
}

/// A SCRAM file as an authenticator. It decides about every client that names its method.
pub(in crate::auth) struct ScramBackend {
    users: Arc<ScramFile>,
    predecessors: String,
}

impl ScramBackend {
    pub(in crate::auth) fn new(users: ScramFile, predecessors: &str) -> Self {
        Self { users: Arc::new(users), predecessors: predecessors.to_owned() }
    }
}

impl AuthBackend for ScramBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer {
        if attempt.method.as_deref() != Some(METHOD) {
            return BackendAnswer::Next { equalize: false };
        }
        let first = Box::new(AwaitClientFirst { users: Arc::clone(&self.users) });
        match &attempt.data {
            Some(data) => first.step(data),
            None => BackendAnswer::Continue { data: Vec::new(), exchange: first },
        }
    }

    fn still_valid(&self, admission: &AdmittedBy<'_>, principal: &Principal) -> Recheck {
        if admission.kind != KIND {
            return Recheck::Next;
        }
        let known = principal.username.as_deref().and_then(|username| self.users.records.get(username));
        let same = known.is_some_and(|(record, _)| admission.version == version(record))
            && admission.predecessors == self.predecessors;
        if same { Recheck::Valid } else { Recheck::Invalid }
    }
}

/// Waits for `client-first-message`.
struct AwaitClientFirst {
    users: Arc<ScramFile>,
}

impl BackendExchange for AwaitClientFirst {
    fn step(self: Box<Self>, data: &[u8]) -> BackendAnswer {
        let Some(first) = ClientFirst::parse(data) else { return BackendAnswer::Deny(AuthRefusal::BadCredentials) };
        let Ok(nonce) = random::bytes::<NONCE_BYTES>() else { return BackendAnswer::Deny(AuthRefusal::Unavailable) };
        let username = Box::from(first.username.as_str());
        // Made for known names, too: it takes the same time.
        let decoy = self.users.decoy_for(&username);
        let known = self.users.records.get(&username);
        let admitted_by = known.map(|(_, admitted_by)| Arc::clone(admitted_by));
        let record = known.map(|(record, _)| record.clone()).or(decoy);
        let Some(record) = record else { return BackendAnswer::Deny(AuthRefusal::BadCredentials) };
        let (data, challenge) = exchange::challenge(&first, record, &STANDARD_NO_PAD.encode(nonce));
        BackendAnswer::Continue { data, exchange: Box::new(AwaitClientFinal { username, admitted_by, challenge }) }
    }
}

/// Waits for `client-final-message`.
struct AwaitClientFinal {
    username: Box<str>,
    /// `None`: there is no such user.
    admitted_by: Option<Arc<str>>,
    challenge: Challenge,
}

impl BackendExchange for AwaitClientFinal {
    fn step(self: Box<Self>, data: &[u8]) -> BackendAnswer {
        match (self.challenge.verify(data), self.admitted_by) {
            (Some(signature), Some(admitted_by)) => {
                BackendAnswer::Allow(Grant { data: Some(signature), ..Grant::new(Some(self.username), admitted_by) })
            }
            _ => BackendAnswer::Deny(AuthRefusal::BadCredentials),
        }
    }
}
