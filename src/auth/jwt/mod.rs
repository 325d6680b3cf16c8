//! `jwt`: a signed token in the password.
//!
//! The algorithm is the declared one: a token that names another is refused before any key is touched, and a key is made
//! for one algorithm only. So a public key is never taken for a shared secret, nor `none` for a signature.

mod claims;
mod key;
mod token;

use std::sync::Arc;

use time::OffsetDateTime;

pub(super) use self::claims::rules;
use self::claims::{Accepted, Claims, Unfit};
pub(super) use self::key::KeySet;
use self::token::Token;
use super::Refusal;
use super::chain::{AdmittedBy, Answer, Attempt, Confirmation, Grant, Link};
use super::digest::version_of;
use weir_broker::Principal;
use weir_declare::config::{Jwt, JwtAlgorithm};

const KIND: &str = "jwt";

/// Tokens as a link of a chain.
pub(super) struct JwtLink {
    verifier: Arc<Verifier>,
    /// For each key of the set: what [`Principal::admitted_by`] says.
    admitted_by: Arc<[Arc<str>]>,
}

struct Verifier {
    declared: Jwt,
    keys: KeySet,
}

impl JwtLink {
    pub(super) fn new(declared: &Jwt, keys: KeySet, after: &str) -> Self {
        let terms = jwt_terms(declared);
        let admitted_by =
            keys.iter().map(|key| AdmittedBy::write(KIND, &version_of(&[terms.as_bytes(), key.fingerprint()]), after));
        let admitted_by = admitted_by.collect();
        Self { verifier: Arc::new(Verifier { declared: declared.clone(), keys }), admitted_by }
    }
}

/// What a token must be, without where the keys lie.
pub(super) fn jwt_terms(declared: &Jwt) -> String {
    format!("{:?}", Jwt { key_file: None, jwks_file: None, ..declared.clone() })
}

impl Link for JwtLink {
    fn judge(&self, attempt: &Arc<Attempt>) -> Answer {
        let password = attempt.password.as_deref().filter(|_| attempt.method.is_none());
        if password.and_then(Token::parse).is_none() {
            return Answer::PassOn { owed: false };
        }
        let (verifier, admitted_by, attempt) =
            (Arc::clone(&self.verifier), Arc::clone(&self.admitted_by), Arc::clone(attempt));
        let slow = !matches!(
            self.verifier.declared.algorithm,
            JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512
        );
        let judge = move || verifier.judge(&attempt, &admitted_by).unwrap_or(Answer::Deny(Refusal::BadCredentials));
        if slow { Answer::Later(Box::new(judge)) } else { judge() }
    }

    fn confirms(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Confirmation {
        let same = |known: &Arc<str>| AdmittedBy::parse(known) == Some(AdmittedBy { offered: None, ..*admission });
        if self.admitted_by.iter().any(same) { Confirmation::Yes } else { Confirmation::PassesOn }
    }
}

impl Verifier {
    /// `None`: it is no token that the declared key has signed.
    fn judge(&self, attempt: &Attempt, admitted_by: &[Arc<str>]) -> Option<Answer> {
        let token = Token::parse(attempt.password.as_deref()?)?;
        if token.algorithm != format!("{:?}", self.declared.algorithm) || token.has_critical {
            return None;
        }
        let (index, key) = self.keys.choose(token.key_id.as_deref())?;
        if !key.verifies(token.signed, &token.signature) {
            return None;
        }
        let unix_now_s = OffsetDateTime::now_utc().unix_timestamp();
        let claims = Claims::parse(&token.payload)?;
        let accepted = match claims.accept(&self.declared, attempt, unix_now_s) {
            Ok(accepted) => accepted,
            Err(unfit) => return Some(Answer::Deny(unfit_for(attempt, &unfit))),
        };
        let Accepted { username, client_id, claims_acl, remaining_s } = accepted;
        Some(Answer::Allow(Grant {
            client_id,
            claims_acl,
            expires_at: remaining_s.map(|seconds| attempt.now.saturating_add(seconds.saturating_mul(1000))),
            ..Grant::plain(username, Arc::clone(admitted_by.get(index)?))
        }))
    }
}

/// What the client is told, and the log, of a token that is signed well: nobody but its issuer can have made it.
fn unfit_for(attempt: &Attempt, unfit: &Unfit) -> Refusal {
    let (endpoint, peer, client_id) = (&*attempt.endpoint, &attempt.peer, &*attempt.client_id);
    match unfit {
        Unfit::Because(why) => {
            tracing::info!(endpoint, ?peer, client_id, why, "a token is refused");
            Refusal::BadCredentials
        }
        Unfit::ClientId(wanted) => {
            tracing::info!(
                endpoint,
                ?peer,
                client_id,
                wanted = &**wanted,
                "a token is refused: it is for another client id"
            );
            Refusal::ClientIdNotValid
        }
    }
}
