//! `reconcile`: settings of the reconciler.

use serde::{Deserialize, Serialize};

use super::Origin;

/// The settings of the reconciler. There is one such document at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Reconcile {
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// While `true`, the reconciler applies nothing.
    pub suspend: bool,
    /// How much may be removed without a confirmation.
    pub prune: PruneGuard,
    /// Connections that one change may close without confirmation; `None`: any number.
    pub max_disconnects: Option<u32>,
}

/// Limits on deletions by removed documents.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PruneGuard {
    /// Fraction of the endpoints that one change may delete. More than that waits for `confirm`. Applies to more than 3
    /// endpoints, and does not count deletions that wait already.
    pub max_fraction: f64,
    /// Endpoints whose deletion is confirmed, or the deletion of the auth or acl document that they use.
    pub confirm: Vec<super::Name>,
}

impl Default for PruneGuard {
    fn default() -> Self {
        Self { max_fraction: 0.5, confirm: Vec::new() }
    }
}
