//! Wills that were dropped when they were due, and how long restored ones wait.

use std::sync::Arc;

use crate::EndpointPolicy;
use crate::ids::{Millis, NamespaceId, SessionRef};
use crate::limits::REFUSED_WILLS_REPORTED_MAX;
use crate::values::will::PendingWill;

/// A will that was dropped when it was due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedWill {
    /// Name of the endpoint that its client came in by.
    pub endpoint: Arc<str>,
    /// The client whose will it is.
    pub client_id: Box<str>,
    /// The will's topic.
    pub topic: Box<str>,
    /// Why it was rejected.
    pub why: WillRefusal,
}

/// Why a will was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WillRefusal {
    /// Its client was banned since, or the record that admitted it was deleted or changed; or no endpoint of the namespace
    /// admits it.
    NotAdmitted,
    /// Its client may not publish that any more.
    NotPermitted,
    /// Its client was disconnected because it lost its right to be connected.
    Revoked,
}

/// The will of a connection that ended while the node was out of its cluster.
#[derive(Debug)]
pub(crate) struct HeldWill {
    pub(crate) namespace: NamespaceId,
    pub(crate) client_id: Box<str>,
    pub(crate) policy: Arc<EndpointPolicy>,
    /// Of the connection.
    pub(crate) stamp: u64,
    pub(crate) session: SessionRef,
    pub(crate) due_at: Millis,
    pub(crate) will: Box<PendingWill>,
}

/// Wills of all sessions of a core.
#[derive(Debug, Default)]
pub(crate) struct Wills {
    restored_wait_until: Millis,
    refused: Vec<RefusedWill>,
    /// At most one for each connection that was there when the node went out.
    held: Vec<HeldWill>,
}

impl Wills {
    /// Until when restored wills wait for their endpoint to be declared.
    pub(crate) fn restored_wait_until(&self) -> Millis {
        self.restored_wait_until
    }

    pub(crate) fn wait_for_policies_until(&mut self, at: Millis) {
        self.restored_wait_until = at;
    }

    pub(crate) fn hold(&mut self, will: HeldWill) {
        self.held.push(will);
    }

    pub(crate) fn take_held(&mut self) -> Vec<HeldWill> {
        std::mem::take(&mut self.held)
    }

    /// `false`: there is none.
    pub(crate) fn drop_held(&mut self, namespace: NamespaceId, client_id: &str, stamp: u64) -> bool {
        let before = self.held.len();
        self.held.retain(|held| held.stamp != stamp || held.namespace != namespace || *held.client_id != *client_id);
        self.held.len() < before
    }

    /// Keeps a refused will to be reported, if there are not too many.
    pub(crate) fn report(&mut self, refused: impl FnOnce() -> RefusedWill) {
        if self.refused.len() < REFUSED_WILLS_REPORTED_MAX {
            self.refused.push(refused());
        }
    }

    pub(crate) fn take_refused(&mut self) -> Vec<RefusedWill> {
        std::mem::take(&mut self.refused)
    }
}
