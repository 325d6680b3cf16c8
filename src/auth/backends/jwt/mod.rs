//! `jwt`: a signed token in the password.
//!
//! The algorithm is the declared one: a token that names another is refused before any key is touched, and a key is made
//! for one algorithm only. So a public key is never taken for a shared secret, nor `none` for a signature.

mod claims;
mod key;
#[cfg(any(test, fuzzing))]
pub(in crate::auth) mod properties;
mod token;

use std::sync::Arc;

use time::OffsetDateTime;

pub use self::claims::ClaimedRules;
pub(super) use self::claims::rules;
use self::claims::{Accepted, Claims, Rejected};
pub(in crate::auth) use self::key::{KeyError, KeySet};
use self::token::Token;
use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Attempt, AuthBackend, AuthRefusal, BackendAnswer, Grant, Recheck};
use crate::auth::digest::version_of;
use crate::log_value::log_value;
use weir_broker::Principal;
use weir_declare::config::{Jwt, JwtAlgorithm};

const KIND: &str = "jwt";

/// Tokens as an authenticator.
pub(in crate::auth) struct JwtBackend {
    verifier: Arc<Verifier>,
    /// [`Principal::admitted_by`] for each key of the set.
    admitted_by: Arc<[Arc<str>]>,
}

struct Verifier {
    declared: Jwt,
    keys: KeySet,
}

impl JwtBackend {
    pub(in crate::auth) fn new(declared: &Jwt, keys: KeySet, predecessors: &str) -> Self {
        let terms = jwt_terms(declared);
        let admitted_by = keys
            .iter()
            .map(|key| AdmittedBy::write(KIND, &version_of(&[terms.as_bytes(), key.fingerprint()]), predecessors));
        let admitted_by = admitted_by.collect();
        Self { verifier: Arc::new(Verifier { declared: declared.clone(), keys }), admitted_by }
    }
}

/// The declared demands on a token, without the key files.
pub(in crate::auth) fn jwt_terms(declared: &Jwt) -> String {
    format!("{:?}", Jwt { key_file: None, jwks_file: None, ..declared.clone() })
}

impl AuthBackend for JwtBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer {
        let password = attempt.password.as_deref().filter(|_| attempt.method.is_none());
        if password.and_then(Token::parse).is_none() {
            return BackendAnswer::Next { equalize: false };
        }
        let (verifier, admitted_by, attempt) =
            (Arc::clone(&self.verifier), Arc::clone(&self.admitted_by), Arc::clone(attempt));
        let slow = !matches!(
            self.verifier.declared.algorithm,
            JwtAlgorithm::HS256 | JwtAlgorithm::HS384 | JwtAlgorithm::HS512
        );
        let verify =
            move || verifier.verify(&attempt, &admitted_by).unwrap_or(BackendAnswer::Deny(AuthRefusal::BadCredentials));
        if slow { BackendAnswer::Blocking(Box::new(verify)) } else { verify() }
    }

    fn still_valid(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Recheck {
        if self.admitted_by.iter().any(|known| admission.matches(known)) { Recheck::Valid } else { Recheck::Next }
    }
}

impl Verifier {
    /// `None`: the password is not a token that a declared key has signed.
    fn verify(&self, attempt: &Attempt, admitted_by: &[Arc<str>]) -> Option<BackendAnswer> {
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
            Err(rejected) => return Some(BackendAnswer::Deny(refusal_of(attempt, &rejected))),
        };
        let Accepted { username, client_id, claims_acl, remaining_s } = accepted;
        Some(BackendAnswer::Allow(Grant {
            client_id,
            claims_acl,
            expires_at: remaining_s.map(|seconds| attempt.now.saturating_add(seconds.saturating_mul(1000))),
            ..Grant::new(username, Arc::clone(admitted_by.get(index)?))
        }))
    }
}

/// Logs why a token with a valid signature is rejected, and selects the refusal for the client.
fn refusal_of(attempt: &Attempt, rejected: &Rejected) -> AuthRefusal {
    let (endpoint, peer, client_id) = (&*attempt.endpoint, &attempt.peer, &*log_value(&attempt.client_id));
    match rejected {
        Rejected::Claim(why) => {
            tracing::info!(endpoint, ?peer, client_id, why, "JWT rejected");
            AuthRefusal::BadCredentials
        }
        Rejected::ClientId(wanted) => {
            let wanted = &*log_value(wanted);
            tracing::info!(endpoint, ?peer, client_id, wanted, "JWT rejected: issued for another client id");
            AuthRefusal::ClientIdNotValid
        }
    }
}
