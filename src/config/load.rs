//! A snapshot, the last good declarations and the node's context to what is declared.

use std::collections::BTreeMap;

use super::{Declared, Diagnostic, Identity, Name, NodeContext, Snapshot};

/// What the last pass left: parsed files by content, and the last good declaration of each identity. Opaque; it is
/// handed back to the next [`load`], and survives a restart as JSON.
#[derive(Debug, Clone, Default)]
pub struct Previous {}

/// What [`load`] makes of a snapshot.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    pub declared: Declared,
    /// Sorted by file and position.
    pub diagnostics: Vec<Diagnostic>,
    /// What is not as the snapshot declares it.
    pub refusals: BTreeMap<Identity, Refusal>,
    /// For the next pass.
    pub previous: Previous,
}

/// Why an identity is not as the snapshot declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub reason: RefusalReason,
    /// One line, with the position.
    pub message: String,
    /// Whether its last good declaration is in force; else there is none, and the identity is absent.
    pub held: bool,
}

/// The kinds of refusal; each is a condition's reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefusalReason {
    /// The document has errors.
    Invalid,
    /// The file could not be parsed, so what it declares is not known.
    Unparsable,
    /// The file could not be read.
    Unreadable,
    /// Another endpoint has the address.
    Conflicted { holder: Name },
    /// Gone from the snapshot, but a held declaration needs it.
    StillReferenced,
}

/// What `snapshot` declares. A bad document harms only itself: its identity stays at the last good declaration that
/// `previous` has of it. Files whose bytes did not change are not parsed again.
pub fn load(_snapshot: &Snapshot, previous: &Previous, _node: &NodeContext) -> Loaded {
    Loaded { previous: previous.clone(), ..Loaded::default() }
}
