//! What a plan does with an endpoint.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::effective::EffectiveEndpoint;
use super::lock_out::LockOut;
use crate::config::{BindAddress, Endpoint, FieldChange, Name};

/// What a node is, as far as a plan depends on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// `--host`.
    pub default_host: IpAddr,
    /// `--node-label`; `None`: no node in particular, every endpoint counts.
    pub labels: Option<BTreeMap<String, String>>,
}

impl Node {
    /// Whether `nodes` selects it.
    pub fn holds(&self, endpoint: &Endpoint) -> bool {
        self.labels.as_ref().is_none_or(|labels| endpoint.matches_labels(labels))
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionKind {
    /// Bind and serve.
    Add,
    /// The socket stays.
    Update,
    /// A socket is bound anew, here or elsewhere.
    Rebind,
    /// Closed and drained; the declaration stays.
    Drain,
    /// Closed and drained; the declaration is gone.
    Remove,
    /// Another endpoint has the address.
    Conflicted,
    /// Nothing.
    None,
}

impl ActionKind {
    /// As plans and the history write it.
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

/// What to do with one endpoint.
#[derive(Debug, Clone, PartialEq)]
pub struct Action {
    pub name: Name,
    pub kind: ActionKind,
    pub changes: Vec<FieldChange>,
    /// Where it listens now.
    pub from: Option<BindAddress>,
    /// Where it is to listen.
    pub to: Option<BindAddress>,
    pub disconnects: Disconnects,
    /// What the endpoint refuses to everybody afterwards, and did not before.
    pub lock_out: Option<LockOut>,
    /// `Some`: not to be done yet, and why.
    pub waits: Option<String>,
    /// What else there is to say: who holds the port, why it is drained.
    pub note: Option<String>,
    /// What is to run; `None` for `Drain`, `Remove` and endpoints that do not run here.
    pub effective: Option<EffectiveEndpoint>,
}

impl Action {
    pub(super) fn is_due(&self) -> bool {
        self.waits.is_none() && !matches!(self.kind, ActionKind::None | ActionKind::Conflicted)
    }
}

/// How many clients an action disconnects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Disconnects {
    #[default]
    None,
    Exactly(u32),
    /// Each is judged when it comes to it.
    UpTo(u32),
    /// All, or some; nobody counted them.
    Uncounted,
}

impl Disconnects {
    /// The most it can be, as far as is known.
    pub fn at_most(self) -> u32 {
        match self {
            Self::None | Self::Uncounted => 0,
            Self::Exactly(count) | Self::UpTo(count) => count,
        }
    }

    /// Of two endpoints together.
    pub fn sum(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, some) | (some, Self::None) => some,
            (Self::Uncounted, _) | (_, Self::Uncounted) => Self::Uncounted,
            (Self::Exactly(a), Self::Exactly(b)) => Self::Exactly(a.saturating_add(b)),
            (a, b) => Self::UpTo(a.at_most().saturating_add(b.at_most())),
        }
    }

    /// Of two changes of one endpoint.
    pub(super) fn larger(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, some) | (some, Self::None) => some,
            (Self::Uncounted, _) | (_, Self::Uncounted) => Self::Uncounted,
            (Self::Exactly(a), Self::Exactly(b)) => Self::Exactly(a.max(b)),
            (a, b) => Self::UpTo(a.at_most().max(b.at_most())),
        }
    }
}
