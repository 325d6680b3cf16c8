//! What travels with a client to the node that has its session: as whom it was admitted, and its CONNECT.
//!
//! It is JSON, once for each connection, with a version. Fields can be added within a version: a node that does not know them
//! ignores them. A field that must not be ignored needs a new version, which a node that does not know it refuses.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use data_encoding::BASE64;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::auth::{ClaimedRules, RelayedAuth};
use crate::net::shard::HandOver;
use weir_broker::{Authorize, Millis, Principal};

/// The version that this build writes, and reads.
const VERSION: u32 = 1;

/// What every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

/// The text form. Bytes are in base64.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Admission {
    version: u32,
    pub(super) endpoint: String,
    pub(super) client_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) peer: Option<SocketAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<Box<str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    admitted_by: String,
    /// The rules that the credential carries, as the authenticator got them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rules: Option<Value>,
    /// The certificates that the node with the socket has verified, the client's own first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    certificates: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_in_ms: Option<Millis>,
    /// The client id is one that the server assigned.
    #[serde(default)]
    is_assigned: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    authentication_data: Option<String>,
    /// CONNECT, and what the client has sent after it.
    bytes: String,
}

/// Why an admission cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum AdmissionError {
    #[error("the admission has version {0}, and this node knows version {VERSION}: upgrade this node")]
    Version(u32),
    #[error("the admission is not of a form that this version knows: {0}")]
    Form(#[from] serde_json::Error),
    #[error("bytes of the admission are not base64: {0}")]
    Bytes(#[from] data_encoding::DecodeError),
    #[error("the rules of the credential have an unknown form")]
    Rules,
    #[error("the rules of the credential cannot travel")]
    RulesStay,
}

impl Admission {
    /// # Errors
    /// The credential has rules of which only the compiled form is known.
    pub(super) fn encode(hand_over: &HandOver, now: Millis) -> Result<Vec<u8>, AdmissionError> {
        let outcome = &hand_over.outcome;
        let principal = &outcome.principal;
        let certificates = hand_over.layers.as_ref().map(|layers| layers.peer_certificates()).unwrap_or_default();
        let rules = match &principal.claims_acl {
            None => None,
            Some(rules) => {
                let source = rules.source().ok_or(AdmissionError::RulesStay)?;
                Some(serde_json::from_str(source)?)
            }
        };
        Ok(serde_json::to_vec(&Self {
            version: VERSION,
            endpoint: hand_over.policy.name.to_string(),
            client_id: hand_over.client_id.to_string(),
            peer: hand_over.peer,
            username: principal.username.clone(),
            address: principal.address,
            admitted_by: principal.admitted_by.to_string(),
            rules,
            certificates: certificates.iter().map(|certificate| BASE64.encode(certificate)).collect(),
            expires_in_ms: principal.expires_at.map(|at| at.saturating_sub(now)),
            is_assigned: outcome.assigned_id.is_some(),
            authentication_data: outcome.authentication_data.as_deref().map(|data| BASE64.encode(data)),
            bytes: BASE64.encode(&hand_over.bytes),
        })?)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, AdmissionError> {
        let Versioned { version } = serde_json::from_slice(bytes)?;
        if version != VERSION {
            return Err(AdmissionError::Version(version));
        }
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The bytes that the client has sent.
    pub(super) fn sent(&self) -> Result<Vec<u8>, AdmissionError> {
        Ok(BASE64.decode(self.bytes.as_bytes())?)
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, AdmissionError> {
        let decode = |text: &String| Ok(CertificateDer::from(BASE64.decode(text.as_bytes())?));
        self.certificates.iter().map(decode).collect()
    }

    /// The authenticator of the connection at the owner; `real` is the endpoint's.
    pub(super) fn authenticator(
        &self,
        real: Arc<dyn crate::auth::Authenticate>,
        now: Millis,
    ) -> Result<RelayedAuth, AdmissionError> {
        let claims_acl = match &self.rules {
            None => None,
            Some(rules) => {
                let rules = ClaimedRules::compile(rules).ok_or(AdmissionError::Rules)?;
                Some(Arc::new(rules) as Arc<dyn Authorize>)
            }
        };
        let principal = Principal {
            username: self.username.clone(),
            address: self.address,
            admitted_by: self.admitted_by.as_str().into(),
            claims_acl,
            expires_at: self.expires_in_ms.map(|ms| now.saturating_add(ms)),
        };
        let data = self.authentication_data.as_ref().map(|data| BASE64.decode(data.as_bytes())).transpose()?;
        let assigned_id = self.is_assigned.then(|| self.client_id.as_str().into());
        Ok(RelayedAuth::new(principal, data, assigned_id, real))
    }
}
