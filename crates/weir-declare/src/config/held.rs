//! Declarations that [`crate::reconcile`]'s guard keeps in force, although the source does not declare them so, or no
//! longer.

use serde::{Deserialize, Serialize};

/// Why a declaration is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// Why it is held.
    pub cause: HeldCause,
    /// A message for people, with what to do.
    pub why: String,
}

/// The causes of holding a declaration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HeldCause {
    /// An endpoint was deleted, and the deletion is not confirmed yet.
    Deletion,
    /// Every client of an endpoint would be refused, and the change is not confirmed yet.
    LockOut,
    /// The document was deleted, and a held endpoint refers to it.
    Needed,
    /// The file or directory of its document cannot be read.
    Unreadable,
}
