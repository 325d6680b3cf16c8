//! `scram`: SCRAM-SHA-256 over MQTT 5.0's enhanced authentication (RFC 5802, RFC 7677), without channel binding.
//!
//! ```text
//! CONNECT  n,,n=user,r=CNONCE            ─▶
//!          ◀─  AUTH 0x18  r=CNONCE SNONCE,s=SALT,i=ITERATIONS
//! AUTH     c=biws,r=..,p=PROOF           ─▶
//!          ◀─  CONNACK    v=SERVERSIGNATURE
//! ```

mod exchange;
mod prepare;
mod record;

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use self::exchange::{Awaiting, ClientFirst};
pub use prepare::prepared;
pub use record::ScramRecord;

use super::Refusal;
use super::chain::{AdmittedBy, Answer, Attempt, Confirmation, Dialogue, Grant, Link, SCRAM};
use super::digest::version_of;
use super::password::{RecordError, lines};
use crate::random;
use weir_broker::Principal;

/// Authentication Method.
const METHOD: &str = "SCRAM-SHA-256";
const NONCE_BYTES: usize = 18;

/// The users of a SCRAM file, by their prepared names.
pub(super) struct ScramFile {
    records: HashMap<Box<str>, (ScramRecord, Arc<str>)>,
    /// What a name that is not in the file gets: the first record's cost, and salts made of its secret.
    stand_in: ScramRecord,
}

impl ScramFile {
    /// Parses a whole file; the first bad line refuses all of it.
    pub(super) fn parse(content: &[u8], after: &str) -> Result<Self, RecordError> {
        let mut records = HashMap::new();
        let mut first = None;
        for line in lines(content)? {
            let error = |message: String| RecordError { line: Some(line.number), message };
            let record = ScramRecord::parse(line.record).map_err(error)?;
            first.get_or_insert_with(|| record.clone());
            let admitted_by = AdmittedBy::write(SCRAM, &version(&record), after);
            let user = prepared(line.user).map_err(|why| error(format!("the user name {:?}: {why}", line.user)))?;
            if records.insert(Box::from(&*user), (record, admitted_by)).is_some() {
                return Err(error(format!("{:?} stands here a second time", line.user)));
            }
        }
        let stand_in = first.ok_or_else(|| RecordError { line: None, message: "there is no user in it".into() })?;
        Ok(Self { records, stand_in })
    }
}

/// Whether a SCRAM file would be taken.
///
/// # Errors
/// The first bad line.
pub fn check_scram_file(content: &[u8]) -> Result<(), RecordError> {
    ScramFile::parse(content, "").map(|_| ())
}

fn version(record: &ScramRecord) -> String {
    version_of(&[record.to_string().as_bytes()])
}

/// A SCRAM file as a link of a chain. It decides about everybody who asks for its method.
pub(super) struct ScramLink {
    users: Arc<ScramFile>,
    after: String,
}

impl ScramLink {
    pub(super) fn new(users: ScramFile, after: &str) -> Self {
        Self { users: Arc::new(users), after: after.to_owned() }
    }
}

impl Link for ScramLink {
    fn judge(&self, attempt: &Arc<Attempt>) -> Answer {
        if attempt.method.as_deref() != Some(METHOD) {
            return Answer::PassOn { owed: false };
        }
        let begin = Box::new(Begin { users: Arc::clone(&self.users) });
        match &attempt.data {
            Some(data) => begin.step(data),
            None => Answer::Ask { data: Vec::new(), dialogue: begin },
        }
    }

    fn confirms(&self, admission: &AdmittedBy<'_>, principal: &Principal) -> Confirmation {
        if admission.kind != SCRAM {
            return Confirmation::PassesOn;
        }
        let known = principal.username.as_deref().and_then(|username| self.users.records.get(username));
        let same =
            known.is_some_and(|(record, _)| admission.version == version(record)) && admission.after == self.after;
        if same { Confirmation::Yes } else { Confirmation::No }
    }
}

/// Waits for the client's first message.
struct Begin {
    users: Arc<ScramFile>,
}

impl Dialogue for Begin {
    fn step(self: Box<Self>, data: &[u8]) -> Answer {
        let Some(first) = ClientFirst::parse(data) else { return Answer::Deny(Refusal::BadCredentials) };
        let Ok(nonce) = random::bytes::<NONCE_BYTES>() else { return Answer::Deny(Refusal::Unavailable) };
        let username = Box::from(first.username.as_str());
        let known = self.users.records.get(&username);
        let record = known.map_or_else(|| self.users.stand_in.for_stranger(&username), |(record, _)| record.clone());
        let admitted_by = known.map(|(_, admitted_by)| Arc::clone(admitted_by));
        let (data, awaiting) = exchange::challenge(&first, record, &STANDARD_NO_PAD.encode(nonce));
        Answer::Ask { data, dialogue: Box::new(Finish { username, admitted_by, awaiting }) }
    }
}

/// Waits for the client's proof.
struct Finish {
    username: Box<str>,
    /// `None`: there is no such user.
    admitted_by: Option<Arc<str>>,
    awaiting: Awaiting,
}

impl Dialogue for Finish {
    fn step(self: Box<Self>, data: &[u8]) -> Answer {
        let proven = self.awaiting.prove(data);
        match (proven, self.admitted_by) {
            (Some(signature), Some(admitted_by)) => {
                Answer::Allow(Grant { data: Some(signature), ..Grant::plain(Some(self.username), admitted_by) })
            }
            _ => Answer::Deny(Refusal::BadCredentials),
        }
    }
}
