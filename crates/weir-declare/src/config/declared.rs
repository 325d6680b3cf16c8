//! The valid declaration of a snapshot. Code that takes it does not validate again.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Acl, Auth, Ban, Bridge, ClusterSpec, DocumentIdentity, Endpoint, EventTopics, Kind, Name, Reconcile};

/// All valid declarations of a snapshot, and the last good declarations of held identities.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Declared {
    /// All endpoints, also those for other nodes; see [`Endpoint::matches_labels`].
    pub endpoints: BTreeMap<Name, Arc<Endpoint>>,
    /// Auth documents by name.
    pub auths: BTreeMap<Name, Arc<Auth>>,
    /// Access lists by name.
    pub acls: BTreeMap<Name, Arc<Acl>>,
    /// Bridges by name.
    pub bridges: BTreeMap<Name, Arc<Bridge>>,
    /// Bans by name.
    pub bans: BTreeMap<Name, Arc<Ban>>,
    /// Applied to `endpoints` already; kept for display.
    pub defaults: Option<Arc<Defaults>>,
    /// The options of reconciling.
    pub reconcile: Arc<Reconcile>,
    /// Which events are published.
    pub events: Option<Arc<EventTopics>>,
    /// What the nodes of a cluster have in common.
    pub cluster: Option<Arc<ClusterSpec>>,
}

impl Declared {
    /// Whether a document of `identity` is declared.
    pub fn has(&self, identity: &DocumentIdentity) -> bool {
        match identity.kind {
            Kind::Endpoint => self.endpoints.contains_key(&identity.name),
            Kind::Auth => self.auths.contains_key(&identity.name),
            Kind::Acl => self.acls.contains_key(&identity.name),
            Kind::Bridge => self.bridges.contains_key(&identity.name),
            Kind::Ban => self.bans.contains_key(&identity.name),
            Kind::Defaults => self.defaults.is_some(),
            Kind::Reconcile => !self.reconcile.origin.file.is_empty(),
            Kind::Events => self.events.is_some(),
            Kind::Cluster => self.cluster.is_some(),
        }
    }
}

/// `defaults`: fields of endpoints that do not set them.
#[derive(Debug, Clone, PartialEq)]
pub struct Defaults {
    /// Where the document is.
    pub origin: super::Origin,
    /// As written.
    pub endpoint: Map<String, Value>,
}
