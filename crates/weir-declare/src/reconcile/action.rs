//! The actions of a plan.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::effective::EffectiveEndpoint;
use super::lock_out::LockOut;
use crate::config::{BindAddress, Endpoint, FieldChange, Name};

/// The node's settings that a plan depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeSettings {
    /// `--host`.
    pub default_host: IpAddr,
    /// `--node-label`; `None`: not a particular node, so the plan covers every endpoint.
    pub labels: Option<BTreeMap<String, String>>,
}

impl NodeSettings {
    /// Whether the selector `nodes` of `endpoint` selects this node.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        self.labels.as_ref().is_none_or(|labels| endpoint.matches_labels(labels))
    }
}

/// The kind of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionKind {
    /// Bind a socket and serve it.
    Add,
    /// Change the endpoint and keep its socket.
    Update,
    /// Bind a new socket, at the same or another address.
    Rebind,
    /// Close the listener and drain its connections; the declaration stays.
    Drain,
    /// Close the listener and drain its connections; the declaration was removed.
    Remove,
    /// None: another endpoint has the address.
    Conflicted,
    /// Nothing to do.
    None,
}

impl ActionKind {
    /// The name in plans and in the history.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Update => "update",
            Self::Rebind => "rebind",
            Self::Drain => "drain",
            Self::Remove => "remove",
            Self::Conflicted => "conflicted",
            Self::None => "none",
        }
    }
}

/// The action for one endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointAction {
    /// The endpoint.
    pub name: Name,
    /// What is done.
    pub kind: ActionKind,
    /// The fields that change.
    pub changes: Vec<FieldChange>,
    /// The live address.
    pub from: Option<BindAddress>,
    /// The declared address.
    pub to: Option<BindAddress>,
    /// Which clients are disconnected.
    pub disconnects: Disconnects,
    /// What the endpoint will refuse to all clients after the action, and does not refuse now.
    pub lock_out: Option<LockOut>,
    /// Why the action waits; `None`: it is due.
    pub waits: Option<String>,
    /// A remark: which endpoint has the port, why it is drained.
    pub note: Option<String>,
    /// The endpoint to run; `None` for `Drain`, `Remove` and endpoints that do not run on this node.
    pub effective: Option<EffectiveEndpoint>,
}

impl EndpointAction {
    pub(super) fn is_due(&self) -> bool {
        self.waits.is_none() && !matches!(self.kind, ActionKind::None | ActionKind::Conflicted)
    }
}

/// The number of clients that an action disconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disconnects {
    /// None.
    #[default]
    None,
    /// So many.
    Exactly(u32),
    /// Each connection is checked during the action.
    UpTo(u32),
    /// All or some; the connections were not counted.
    Uncounted,
}

impl Disconnects {
    /// The known maximum.
    pub fn at_most(self) -> u32 {
        match self {
            Self::None | Self::Uncounted => 0,
            Self::Exactly(count) | Self::UpTo(count) => count,
        }
    }

    /// The sum for two endpoints.
    pub fn sum(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, some) | (some, Self::None) => some,
            (Self::Uncounted, _) | (_, Self::Uncounted) => Self::Uncounted,
            (Self::Exactly(a), Self::Exactly(b)) => Self::Exactly(a.saturating_add(b)),
            (a, b) => Self::UpTo(a.at_most().saturating_add(b.at_most())),
        }
    }

    /// The larger one, for two changes of one endpoint.
    pub(super) fn larger(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, some) | (some, Self::None) => some,
            (Self::Uncounted, _) | (_, Self::Uncounted) => Self::Uncounted,
            (Self::Exactly(a), Self::Exactly(b)) => Self::Exactly(a.max(b)),
            (a, b) => Self::UpTo(a.at_most().max(b.at_most())),
        }
    }
}
