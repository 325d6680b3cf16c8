//! `cluster`: what the nodes of a cluster have in common.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::Origin;

/// The settings of a cluster. There is one such document at most; without it the defaults hold.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClusterSpec {
    /// Where the document is.
    #[serde(skip)]
    pub origin: Origin,
    /// Slots of sessions of each class, 8 to 64. A cluster keeps the number with which it was founded.
    pub slots: u16,
    /// Copies that the nats-servers keep: 1, 3 or 5; `None`: as `--cluster-replicas` says.
    pub replicas: Option<u8>,
    /// What a node does that is out.
    pub isolation: Isolation,
    /// Nodes that serve no clients and own no slots, and stay members.
    pub evacuate: Vec<Arc<str>>,
    /// Nodes that take part no more.
    pub removed: Vec<Arc<str>>,
    /// After how many seconds the record of a node that is out or has left is removed; 0: never.
    pub autoclean_s: u32,
}

/// What a node does that is out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Isolation {
    /// After how many seconds it disconnects its clients.
    pub disconnect_after_s: u32,
}

impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            origin: Origin::default(),
            slots: 16,
            replicas: None,
            isolation: Isolation::default(),
            evacuate: Vec::new(),
            removed: Vec::new(),
            autoclean_s: 86_400,
        }
    }
}

impl Default for Isolation {
    fn default() -> Self {
        Self { disconnect_after_s: 10 }
    }
}

impl ClusterSpec {
    /// Whether this node is to serve no clients, and stays a member.
    pub fn evacuates(&self, node: &str) -> bool {
        self.evacuate.iter().any(|name| **name == *node)
    }

    /// Whether this node takes part no more.
    pub fn removes(&self, node: &str) -> bool {
        self.removed.iter().any(|name| **name == *node)
    }

    /// The same settings, wherever they are written.
    pub fn has_same_settings(&self, other: &Self) -> bool {
        Self { origin: Origin::default(), ..self.clone() } == Self { origin: Origin::default(), ..other.clone() }
    }
}
