//! What stays in force although the source does not declare it so, or no longer: held by [`crate::reconcile`]'s guard.

use serde::{Deserialize, Serialize};

/// Why a declaration stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    pub cause: HeldCause,
    /// In words, with what to do.
    pub why: String,
}

/// The kinds of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeldCause {
    /// An endpoint was deleted, and that waits to be confirmed.
    Deletion,
    /// Every client of an endpoint would be refused, and that waits to be confirmed.
    LockOut,
    /// It is gone, and an endpoint that is held needs it.
    Needed,
    /// The place of its document cannot be read.
    Unreadable,
}
