//! `clientCertificate`: clients with a certificate that TLS has verified.

use std::sync::Arc;

use crate::auth::admitted_by::AdmittedBy;
use crate::auth::api::{Attempt, AuthBackend, AuthRefusal, BackendAnswer, Grant, Recheck};
use crate::auth::certificate::{PeerCertificate, SubjectAltName};
use crate::auth::digest::version_of;
use weir_broker::Principal;
use weir_declare::config::{CertificateUsername, ClientCertificate};

const KIND: &str = "clientCertificate";

/// Client certificates as an authenticator. A change of the endpoint's CA or CRL is checked there, not here.
pub(in crate::auth) struct CertificateBackend {
    username: CertificateUsername,
    admitted_by: Arc<str>,
}

impl CertificateBackend {
    pub(in crate::auth) fn new(declared: &ClientCertificate, predecessors: &str) -> Self {
        let version = version_of(&[format!("{:?}", declared.username).as_bytes()]);
        Self { username: declared.username, admitted_by: AdmittedBy::write(KIND, &version, predecessors) }
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

impl AuthBackend for CertificateBackend {
    fn authenticate(&self, attempt: &Arc<Attempt>) -> BackendAnswer {
        let (Some(certificate), None) = (&attempt.certificate, &attempt.method) else {
            return BackendAnswer::Next { equalize: false };
        };
        let username = self.username(certificate, attempt);
        // The certificate lacks the declared name.
        if username.is_none() && self.username != CertificateUsername::Connect {
            return BackendAnswer::Deny(AuthRefusal::BadCredentials);
        }
        BackendAnswer::Allow(Grant::new(username, Arc::clone(&self.admitted_by)))
    }

    fn still_valid(&self, admission: &AdmittedBy<'_>, _principal: &Principal) -> Recheck {
        if admission.matches(&self.admitted_by) { Recheck::Valid } else { Recheck::Next }
    }
}
