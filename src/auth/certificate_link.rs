//! `clientCertificate`: who shows a certificate that TLS has verified.

use std::sync::Arc;

use super::chain::{AdmittedBy, Answer, Attempt, Confirmation, Grant, Link};
use super::digest::version_of;
use super::{PeerCertificate, Refusal, SubjectAltName};
use weir_broker::Principal;
use weir_declare::config::{CertificateUsername, ClientCertificate};

const KIND: &str = "clientCertificate";

/// Client certificates as a link of a chain. Whether a certificate is still trusted is judged with the endpoint's CA and
/// CRL, where those change.
pub(super) struct CertificateLink {
    username: CertificateUsername,
    admitted_by: Arc<str>,
}

impl CertificateLink {
    pub(super) fn new(declared: &ClientCertificate, after: &str) -> Self {
        let version = version_of(&[format!("{:?}", declared.username).as_bytes()]);
        Self { username: declared.username, admitted_by: AdmittedBy::write(KIND, &version, after) }
    }

    fn username(&self, certificate: &PeerCertificate, attempt: &Attempt) -> Option<Box<str>> {
        let alt_name = |pick: fn(&SubjectAltName) -> Option<&String>| {
            certificate.subject_alt_names.iter().find_map(pick).map(String::as_str)
        };
        let name = match self.username {
            CertificateUsername::CommonName => certificate.common_name.as_deref(),
            CertificateUsername::Subject => certificate.subject.as_deref(),
            CertificateUsername::DnsName => alt_name(|name| match name {
                SubjectAltName::Dns(name) => Some(name),
                _ => None,
            }),
            CertificateUsername::Email => alt_name(|name| match name {
                SubjectAltName::Email(name) => Some(name),
                _ => None,
            }),
            CertificateUsername::Uri => alt_name(|name| match name {
                SubjectAltName::Uri(name) => Some(name),
                _ => None,
            }),
            CertificateUsername::Connect => attempt.username.as_deref(),
        };
        name.filter(|name| !name.is_empty()).map(Box::from)
    }
}

impl Link for CertificateLink {
    fn judge(&self, attempt: &Arc<Attempt>) -> Answer {
        let (Some(certificate), None) = (&attempt.certificate, &attempt.method) else {
            return Answer::PassOn { owed: false };
        };
        let username = self.username(certificate, attempt);
        // Without the part that names it, nobody knows who this is.
        if username.is_none() && self.username != CertificateUsername::Connect {
            return Answer::Deny(Refusal::BadCredentials);
        }
        Answer::Allow(Grant::plain(username, Arc::clone(&self.admitted_by)))
    }

    fn confirms(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Confirmation {
        let own = AdmittedBy::parse(&self.admitted_by);
        let same = own == Some(AdmittedBy { offered: None, ..*admission });
        if same { Confirmation::Yes } else { Confirmation::PassesOn }
    }
}
