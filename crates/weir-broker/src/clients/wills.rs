//! Wills that were dropped when they were due, and how long restored ones wait.

use std::sync::Arc;

use crate::ids::Millis;
use crate::limits::REFUSED_WILLS_REPORTED_MAX;

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

/// Wills of all sessions of a core.
#[derive(Debug, Default)]
pub(crate) struct Wills {
    restored_wait_until: Millis,
    refused: Vec<RefusedWill>,
}

impl Wills {
    /// Until when restored wills wait for their endpoint to be declared.
    pub(crate) fn restored_wait_until(&self) -> Millis {
        self.restored_wait_until
    }

    pub(crate) fn wait_for_policies_until(&mut self, at: Millis) {
        self.restored_wait_until = at;
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
