//! [`Principal::admitted_by`]: which authenticator admitted a client, and by which version of what record.

use std::sync::Arc;

use weir_broker::Principal;

/// The parts of `kind version predecessors[ offered]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AdmittedBy<'a> {
    /// The authenticator's key in the document.
    pub(super) kind: &'a str,
    /// Of the record that admitted the client.
    pub(super) version: &'a str,
    /// Digest of the authenticators before it whose answer cannot be computed again without the password.
    pub(super) predecessors: &'a str,
    /// The user name of CONNECT, where the client was admitted under another or none.
    pub(super) offered: Option<&'a str>,
}

impl<'a> AdmittedBy<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.splitn(4, ' ');
        Some(Self { kind: parts.next()?, version: parts.next()?, predecessors: parts.next()?, offered: parts.next() })
    }

    /// The text without the offered user name.
    pub(super) fn write(kind: &str, version: &str, predecessors: &str) -> Arc<str> {
        format!("{kind} {version} {predecessors}").into()
    }

    /// Whether it names the same authenticator, record and predecessors as `text`, which [`Self::write`] has made.
    pub(super) fn matches(&self, text: &str) -> bool {
        AdmittedBy::parse(text) == Some(AdmittedBy { offered: None, ..*self })
    }

    /// The user name that the client sent, as far as known.
    pub(super) fn username(&self, principal: &'a Principal) -> Option<&'a str> {
        self.offered.or(principal.username.as_deref())
    }
}
