//! Lock-outs: changes after which an endpoint refuses all clients, because its auth or acl document does not exist any
//! more.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::effective::EffectiveEndpoint;
use crate::config::{Declared, DocumentIdentity, Endpoint, Kind, Name, SortedCursor};

/// Endpoints that a message names; it counts the others.
const NAMES_MAX: usize = 8;

/// What an endpoint refuses to all clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockOut {
    /// `enableAuth`, and no auth document.
    Connect,
    /// `enableAcl`, and no acl document.
    Topics,
}

impl LockOut {
    /// What an endpoint refuses to all clients with `to`, and does not refuse with `from`.
    pub fn between(from: &EffectiveEndpoint, to: &EffectiveEndpoint) -> Option<Self> {
        let connect = |effective: &EffectiveEndpoint| effective.endpoint.enable_auth && effective.auth.is_none();
        let topics = |effective: &EffectiveEndpoint| effective.endpoint.enable_acl && effective.acl.is_none();
        match () {
            () if connect(from) => None,
            () if connect(to) => Some(Self::Connect),
            () if topics(to) && !topics(from) => Some(Self::Topics),
            () => None,
        }
    }

    /// `every CONNECT to endpoint a will be refused`.
    pub fn message(self, name: &Name) -> String {
        match self {
            Self::Connect => format!("every CONNECT to endpoint {name} will be refused"),
            Self::Topics => format!("every topic of endpoint {name} will be refused"),
        }
    }
}

/// Documents and endpoints to hold, so that no endpoint is locked out without confirmation.
#[derive(Debug, Default)]
pub(super) struct LockOuts {
    /// Deleted documents to keep, and why.
    pub(super) documents: BTreeMap<DocumentIdentity, String>,
    /// Endpoints whose new declaration refers to a document that does not exist, and why they stay unchanged.
    pub(super) endpoints: BTreeMap<Name, String>,
}

/// Finds endpoints that had an auth (acl) document in `last` and have none in `now`, for whatever cause. Endpoints in
/// `reconcile.prune.confirm` are confirmed. An endpoint without authentication in `last` is not held: its lock-out
/// revokes a right, which applies at once.
pub(super) fn find(last: &Declared, now: &Declared) -> LockOuts {
    let mut found = LockOuts::default();
    let mut users: BTreeMap<DocumentIdentity, Vec<&Name>> = BTreeMap::new();
    let confirm = &now.reconcile.prune.confirm;
    let mut before = SortedCursor::over(&last.endpoints);
    for (name, endpoint) in now.endpoints.iter().filter(|(_, endpoint)| endpoint.enabled) {
        let Some(before) = before.get(name).filter(|before| before.enabled) else { continue };
        for kind in [Kind::Auth, Kind::Acl] {
            let (Some(had), Some(needs)) = (needed(kind, before), needed(kind, endpoint)) else { continue };
            let Some(had) = document(kind, last, had) else { continue };
            if document(kind, now, needs).is_some() || confirm.contains(name) {
                continue;
            }
            if had.as_str() == needs {
                users.entry(DocumentIdentity::new(kind, had.clone())).or_default().push(name);
            } else {
                let why = format!(
                    "its {kind} document `{needs}` does not exist: {} would be refused; name the endpoint in \
                     reconcile.prune.confirm to confirm it",
                    refused(kind)
                );
                found.endpoints.insert(name.clone(), why);
            }
        }
    }
    found.documents =
        users.into_iter().map(|(identity, users)| (identity.clone(), why_kept(&identity, &users))).collect();
    found
}

/// The name of the document of a kind that an endpoint refers to.
fn needed(kind: Kind, endpoint: &Arc<Endpoint>) -> Option<&str> {
    match kind {
        Kind::Auth => endpoint.enable_auth.then(|| endpoint.auth_name()),
        _ => endpoint.enable_acl.then(|| endpoint.acl_name()),
    }
}

fn document<'a>(kind: Kind, declared: &'a Declared, name: &str) -> Option<&'a Name> {
    match kind {
        Kind::Auth => declared.auths.get_key_value(name).map(|(name, _)| name),
        _ => declared.acls.get_key_value(name).map(|(name, _)| name),
    }
}

fn refused(kind: Kind) -> &'static str {
    if kind == Kind::Auth { "every CONNECT" } else { "every topic" }
}

fn why_kept(identity: &DocumentIdentity, users: &[&Name]) -> String {
    let shown: Vec<&str> = users.iter().take(NAMES_MAX).map(|name| name.as_str()).collect();
    let more = users.len().saturating_sub(NAMES_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let (noun, verb, them) = if users.len() == 1 { ("endpoint", "uses", "it") } else { ("endpoints", "use", "them") };
    format!(
        "{identity} was deleted, and {noun} {}{more} {verb} it: {} would be refused; name {them} in \
         reconcile.prune.confirm to confirm it",
        shown.join(", "),
        refused(identity.kind),
    )
}
