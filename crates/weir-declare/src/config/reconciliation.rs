//! `reconcile`: how careful the reconciler is.

use serde::{Deserialize, Serialize};

use super::Origin;

/// The settings of the reconciler. There is one such document at most.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Reconcile {
    #[serde(skip)]
    pub origin: Origin,
    /// Nothing is applied while set.
    pub suspend: bool,
    pub prune: PruneGuard,
    /// Connections that one change may close without a confirmation; `None`: any number.
    pub max_disconnects: Option<u32>,
}

/// How much a change may delete by leaving it out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct PruneGuard {
    /// Of the endpoints whose deletion does not wait already; more waits for `confirm`. Holds where there are more than 3.
    pub max_fraction: f64,
    /// Names of endpoints whose deletion is meant, or the deletion of the auth or acl document that they use.
    pub confirm: Vec<super::Name>,
}

impl Default for PruneGuard {
    fn default() -> Self {
        Self { max_fraction: 0.5, confirm: Vec::new() }
    }
}
