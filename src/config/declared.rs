//! What is declared, parsed and valid: after this nobody checks again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Acl, Auth, Ban, Bridge, Endpoint, Name, Reconcile};

/// All valid declarations of a snapshot, and the last good ones of those that are held.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// All of them, also those that `nodes` selects other nodes for; see [`Endpoint::is_for`].
    pub endpoints: BTreeMap<Name, Arc<Endpoint>>,
    pub auths: BTreeMap<Name, Arc<Auth>>,
    pub acls: BTreeMap<Name, Arc<Acl>>,
    pub bridges: BTreeMap<Name, Arc<Bridge>>,
    pub bans: BTreeMap<Name, Arc<Ban>>,
    /// Already applied to `endpoints`; kept to be shown.
    pub defaults: Option<Arc<Defaults>>,
    pub reconcile: Arc<Reconcile>,
}

/// `defaults`: fields for endpoints that do not give them.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    pub origin: super::Origin,
    /// As written.
    pub endpoint: Map<String, Value>,
}
