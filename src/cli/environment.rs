//! The environment tier of `weir validate`: what only this machine knows.

use crate::config::{Declared, Diagnostic, NodeContext};

/// What this machine refuses of what is declared.
pub(super) fn check(_declared: &Declared, _node: &NodeContext) -> Vec<Diagnostic> {
    Vec::new()
}
